//! When to stop: SIGTERM or SIGINT.

use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal as listen};

/// Resolves at the first SIGTERM or SIGINT.
///
/// # Errors
/// If the handlers can't be installed.
pub(crate) fn signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = listen(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = listen(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
