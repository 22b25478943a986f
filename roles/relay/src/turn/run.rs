//! The TURN server as a process: whom it obeys, what it looks after, how it ends.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use warren_net::NetworkWatch;
use warren_proto::Pin;

use super::link::{BrokerConfig, Link};
use super::{Settings, Turn, TurnConfig, interface_addresses};
use crate::Stop;

/// How often the end of a drain is looked for.
const DRAIN_CHECK: Duration = Duration::from_millis(200);

/// How often it is noted what goes on, for the broker, and which addresses the host has.
const LOOK_AROUND: Duration = Duration::from_secs(20);

/// Who says whom a TURN server serves.
#[derive(Debug)]
pub enum Master {
    /// Its configuration. Settings that come here count from then on.
    Nobody(Receiver<Settings>),
    /// A broker; the settings of the configuration are empty.
    Broker(Box<BrokerConfig>),
}

/// Runs a TURN server until `stops` says so, or has no sender any more.
///
/// # Errors
///
/// As [`Turn::start`]; its forwarding thread has ended; or the broker wants no more of it.
pub async fn run(
    mut config: TurnConfig,
    master: Master,
    stops: Receiver<Stop>,
) -> anyhow::Result<()> {
    // Before the first datagram is answered: what the host has is nobody's peer.
    let own = interface_addresses();
    if !own.is_empty() {
        config.server.own = own;
    }
    let mut turn = Turn::start(&config).await?;
    if matches!(master, Master::Broker(_)) {
        turn.set_serving(false);
    }
    turn.serve_metrics(&config)?;
    for address in turn.udp_addresses() {
        tracing::info!(%address, "TURN over UDP");
    }
    obey(&turn, &config, master, stops).await
}

async fn obey(
    turn: &Turn,
    config: &TurnConfig,
    master: Master,
    mut stops: Receiver<Stop>,
) -> anyhow::Result<()> {
    let (mut settings, mut link) = match master {
        Master::Nobody(settings) => (Some(settings), None),
        Master::Broker(broker) => (None, Some(Link::new(*broker, config))),
    };
    let mut draining_until: Option<tokio::time::Instant> = None;
    let mut checks = tokio::time::interval(DRAIN_CHECK);
    let mut looks = tokio::time::interval(LOOK_AROUND);
    let mut network = NetworkWatch::start()
        .inspect_err(|error| tracing::debug!(%error, "the host's addresses are only looked at"))
        .ok();
    let mut pin = turn.pin();
    let mut failed = std::pin::pin!(turn.failed());
    loop {
        tokio::select! {
            told = stops.recv() => match told.unwrap_or(Stop::Now) {
                Stop::Now => {
                    tracing::info!("the TURN server ends");
                    break;
                }
                Stop::Drain if draining_until.is_none() => {
                    drain(turn, link.as_mut());
                    draining_until = Some(tokio::time::Instant::now() + config.drain_timeout);
                }
                Stop::Drain => {}
            },
            Some(settings) = next_settings(&mut settings) => turn.set_settings(settings),
            news = next_news(&mut link) => match (news, &mut link) {
                (Some(news), Some(link)) => link.take(news, turn, Instant::now())?,
                (None, _) | (_, None) => bail!("the broker wants no more of this relay"),
            },
            pin = next_pin(&mut pin) => {
                if let Some(link) = &mut link {
                    link.set_pin(pin);
                }
            }
            () = changed(&mut network) => look_at_addresses(turn),
            _ = looks.tick() => {
                look_at_addresses(turn);
                if let Some(link) = &mut link {
                    link.look_around(turn, Instant::now());
                }
            }
            // Its clients would wait in vain; who supervises the process starts it again.
            () = &mut failed => bail!("the forwarding thread has ended"),
            _ = checks.tick(), if draining_until.is_some() => {
                let allocations = turn.gauges().allocations;
                let is_late = draining_until.is_some_and(|until| until.elapsed() > Duration::ZERO);
                if allocations == 0 || is_late {
                    tracing::info!(allocations, "drained, the TURN server ends");
                    break;
                }
            }
        }
    }
    if let Some(link) = &mut link {
        link.farewell().await;
    }
    Ok(())
}

fn drain(turn: &Turn, link: Option<&mut Link>) {
    turn.drain();
    if let Some(link) = link {
        link.drain();
    }
    let allocations = turn.gauges().allocations;
    tracing::info!(allocations, "draining: nothing new, ends with the last one");
}

/// What the host has got since is no peer, either.
fn look_at_addresses(turn: &Turn) {
    let own = interface_addresses();
    // A host has one at least; none means that it couldn't be asked.
    if !own.is_empty() {
        turn.set_own(&own);
    }
}

async fn changed(network: &mut Option<NetworkWatch>) {
    match network {
        Some(network) => drop(network.changed().await),
        None => std::future::pending().await,
    }
}

async fn next_settings(settings: &mut Option<Receiver<Settings>>) -> Option<Settings> {
    match settings {
        Some(settings) => settings.recv().await,
        None => None,
    }
}

async fn next_news(link: &mut Option<Link>) -> Option<warren_control::RelayNews> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn next_pin(pin: &mut Option<watch::Receiver<Pin>>) -> Pin {
    if let Some(pin) = pin
        && pin.changed().await.is_ok()
    {
        return *pin.borrow_and_update();
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::ServerConfig;
    use super::super::hub::Hub;
    use super::super::worker::Worker;
    use super::*;

    fn config() -> TurnConfig {
        TurnConfig {
            udp: vec![([127, 0, 0, 1], 0).into()],
            tcp: Vec::new(),
            tls: None,
            server: ServerConfig::private(Settings::default()),
            metrics: None,
            mint: None,
            drain_timeout: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn when_the_forwarding_thread_is_gone_the_server_says_so_and_ends() {
        let hub = Hub::new(&config(), Instant::now(), Duration::ZERO).unwrap();
        let hub = std::sync::Arc::new(hub);
        let worker = Worker::spawn(hub.clone(), |_| panic!("a test wants it")).unwrap();
        let turn = Turn::of(hub, worker);
        let (_stop, stops) = mpsc::channel(1);
        let (_tell, told) = mpsc::channel(1);
        let config = config();
        let ended = obey(&turn, &config, Master::Nobody(told), stops);
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
        assert!(ended.unwrap_err().to_string().contains("forwarding thread"));
        assert!(!turn.hub.is_ready());
    }
}
