//! The standalone relays.

pub(crate) mod control;
#[cfg(feature = "broker")]
mod embedded;
pub(crate) mod pair;
pub(crate) mod turn;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use warren_relay::Stop;

#[cfg(feature = "broker")]
pub(crate) use embedded::Embedded;

/// SIGTERM drains, SIGINT ends.
fn stops() -> anyhow::Result<mpsc::Receiver<Stop>> {
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    let (tell, told) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                _ = terminate.recv() => Stop::Drain,
                _ = interrupt.recv() => Stop::Now,
            };
            if tell.send(stop).await.is_err() {
                return;
            }
        }
    });
    Ok(told)
}
