//! The pair relay as a process.
//!
//! Each worker is a thread with a socket of its own for each family, all on one port: the kernel
//! gives each client to one worker. The state machine is shared behind a lock that is taken once
//! for each batch of runs, for a look-up per run; MACs are checked before it, packets sent after it.

mod probe;
mod worker;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{bail, ensure};
use tokio::sync::mpsc::Receiver;
use tokio::time::MissedTickBehavior;
use warren_net::{ServerSocket, ServerSocketConfig, UdpCounters};
use warren_pair::{Event, Relay};

use crate::metrics::{self, Page, Watched};
use crate::{Stop, listen};
pub use probe::{ProbeConfig, ProbeReport, probe};
pub use warren_pair::{Authenticator, Config as Limits, Key, KeyError, WELL_KNOWN_KEY};
use worker::Worker;

/// What a pair relay is told.
#[derive(Debug, Clone)]
pub struct PairRelayConfig {
    /// Where it listens, at most one address of each family, all with the same port.
    pub listen: Vec<SocketAddr>,
    /// Magic and key.
    pub authenticator: Authenticator,
    /// Limits and timers.
    pub relay: Limits,
    /// Kernel buffer to receive, of each socket, in bytes.
    pub receive_buffer: usize,
    /// Kernel buffer to send, of each socket, in bytes.
    pub send_buffer: usize,
    /// How many threads forward; at least one.
    pub workers: usize,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
}

/// What workers and the thread that watches over them share.
#[derive(Debug)]
struct Shared {
    authenticator: Authenticator,
    relay: Mutex<Relay>,
    sockets: Vec<Arc<ServerSocket>>,
}

impl Shared {
    /// Nothing that holds the lock leaves the state half changed when it panics: it is used on.
    fn relay(&self) -> MutexGuard<'_, Relay> {
        self.relay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a pair relay until `stops` says so, or has no sender any more.
///
/// # Errors
///
/// If it can't listen, or a thread can't be started.
pub async fn run(config: PairRelayConfig, mut stops: Receiver<Stop>) -> anyhow::Result<()> {
    let start = Instant::now();
    let sockets = bind(&config)?;
    let shared = Arc::new(Shared {
        authenticator: config.authenticator.clone(),
        relay: Mutex::new(Relay::new(config.relay, rand::random(), start, unix_time())),
        sockets: sockets.iter().flatten().cloned().collect(),
    });
    let served = match config.metrics {
        Some(address) => Some(metrics::listen(address, Arc::clone(&shared))?),
        None => None,
    };
    let served = served.map(tokio::spawn);
    let workers = sockets
        .into_iter()
        .enumerate()
        .map(|(number, sockets)| Worker::start(number, sockets, Arc::clone(&shared)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for address in shared.sockets.iter().map(|socket| socket.address()).take(config.listen.len()) {
        tracing::info!(%address, workers = workers.len(), "the pair relay listens");
    }
    let outcome = watch_over(&shared, &workers, start, config.relay, &mut stops).await;
    if let Some(served) = served {
        served.abort();
    }
    // A worker ends when it is dropped.
    drop(workers);
    outcome
}

/// Sweeps, and waits for the end.
async fn watch_over(
    shared: &Shared,
    workers: &[Worker],
    start: Instant,
    limits: Limits,
    stops: &mut Receiver<Stop>,
) -> anyhow::Result<()> {
    let interval = limits.sweep_interval;
    let mut sweeps = tokio::time::interval_at((start + interval).into(), interval);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = sweeps.tick() => {
                let (now, unix) = (Instant::now(), unix_time());
                let mut relay = shared.relay();
                relay.handle_clock(now, unix);
                if relay.poll_timeout().is_some_and(|(at, _)| at <= now) {
                    relay.handle_timeout(now);
                }
                // Its clients would wait in vain; who supervises the process starts it again.
                ensure!(!workers.iter().any(Worker::has_failed), "a worker thread has ended");
            }
            told = stops.recv() => match told.unwrap_or(Stop::Now) {
                Stop::Now => {
                    tracing::info!("the pair relay ends");
                    return Ok(());
                }
                Stop::Drain => {
                    let mut relay = shared.relay();
                    relay.handle_drain();
                    let pairs = relay.pairs();
                    drop(relay);
                    tracing::info!(pairs, "draining: no new pairs, ends with the last one");
                }
            }
        }
        let events: Vec<Event> = events(&mut shared.relay());
        log(&events);
        if events.contains(&Event::Drained) {
            tracing::info!("the last pair has ended, so does the pair relay");
            return Ok(());
        }
    }
}

fn events(relay: &mut Relay) -> Vec<Event> {
    std::iter::from_fn(|| relay.poll_event()).collect()
}

fn log(events: &[Event]) {
    for event in events {
        match event {
            Event::Waits { guid, client } => {
                tracing::debug!(?guid, client = %client.address(), "a client waits");
            }
            Event::Paired { guid, clients: [first, second] } => {
                let (first, second) = (first.address(), second.address());
                tracing::debug!(?guid, %first, %second, "paired");
            }
            Event::Rebound { guid, from, to } => {
                let (from, to) = (from.address(), to.address());
                tracing::debug!(?guid, %from, %to, "a client is back from another address");
            }
            Event::Ended { guid, datagrams, bytes } => {
                tracing::debug!(?guid, datagrams, bytes, "a pair has ended");
            }
            Event::Waited { guid } => tracing::debug!(?guid, "a client waited in vain"),
            Event::Drained => tracing::debug!("drained"),
        }
    }
}

/// Opens a socket for each worker and family.
fn bind(config: &PairRelayConfig) -> anyhow::Result<Vec<Vec<Arc<ServerSocket>>>> {
    let families = config.listen.iter().map(SocketAddr::is_ipv4);
    if config.listen.is_empty() || families.clone().filter(|&ipv4| ipv4).count() > 1 {
        bail!("a pair relay listens at one address of each family, at most");
    }
    if families.filter(|&ipv4| !ipv4).count() > 1 {
        bail!("a pair relay listens at one address of each family, at most");
    }
    let workers = config.workers.max(1);
    let mut bound = vec![Vec::new(); workers];
    let mut port = config.listen.first().map_or(0, SocketAddr::port);
    for address in &config.listen {
        let address = SocketAddr::new(address.ip(), port);
        // A shared port is shared with any program of this user: look first whether it is free.
        let alone = open(config, address, false)?;
        port = alone.address().port();
        if workers == 1 {
            bound[0].push(Arc::new(alone));
            continue;
        }
        drop(alone);
        for sockets in &mut bound {
            let address = SocketAddr::new(address.ip(), port);
            sockets.push(Arc::new(open(config, address, true)?));
        }
    }
    if let Some(socket) = bound[0].first() {
        warn_of_small_buffers(config, socket.buffers());
    }
    Ok(bound)
}

fn open(
    config: &PairRelayConfig,
    address: SocketAddr,
    shared: bool,
) -> anyhow::Result<ServerSocket> {
    let socket = ServerSocketConfig {
        shared,
        receive_buffer: config.receive_buffer,
        send_buffer: config.send_buffer,
        ..ServerSocketConfig::new(address)
    };
    listen::udp(&socket, "--port")
}

fn warn_of_small_buffers(config: &PairRelayConfig, (receive, send): (usize, usize)) {
    let (wanted_receive, wanted_send) = (config.receive_buffer, config.send_buffer);
    if receive < wanted_receive || send < wanted_send {
        tracing::warn!(
            receive,
            send,
            "the system grants smaller socket buffers than asked for, so bursts may be lost: \
             `sysctl net.core.rmem_max={wanted_receive} net.core.wmem_max={wanted_send}` allows \
             more, or run with CAP_NET_ADMIN"
        );
    }
}

/// Time since the Unix epoch; 0 where the clock stands before it.
fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl Watched for Shared {
    fn metrics(&self, page: &mut Page) {
        let relay = self.relay();
        let (pairs, waiting, counters) = (relay.pairs(), relay.waiting(), *relay.counters());
        drop(relay);
        page.gauge("warren_pair_pairs", "Complete pairs.", pairs);
        page.gauge("warren_pair_waiting", "Clients that wait for their partner.", waiting);
        for (name, help, value) in [
            ("datagrams_forwarded_total", "Datagrams given to a partner.", counters.forwarded),
            ("bytes_forwarded_total", "Their bytes.", counters.forwarded_bytes),
            ("handshakes_total", "Genuine handshakes.", counters.handshakes),
            ("paired_total", "Pairs completed.", counters.paired),
            ("rebound_total", "Clients back from another address.", counters.rebound),
            ("ended_total", "Pairs ended after idleness.", counters.ended),
            ("waited_total", "Clients that waited in vain.", counters.waited),
        ] {
            page.counter(&format!("warren_pair_{name}"), help, value);
        }
        let drops = counters.drops().map(|(reason, count)| (reason.name(), count));
        page.counters("warren_pair_dropped_total", "Datagrams dropped.", "reason", drops);
        let sockets = || self.sockets.iter().map(|socket| socket.counters());
        let sum = |of: fn(UdpCounters) -> u64| -> u64 { sockets().map(of).sum() };
        for (name, help, value) in [
            ("receives_total", "Runs of datagrams received.", sum(|all| all.receives)),
            ("datagrams_received_total", "Datagrams in these.", sum(|all| all.segments_received)),
            ("sends_total", "System calls that sent.", sum(|all| all.sends)),
            ("datagrams_sent_total", "Datagrams in these.", sum(|all| all.segments_sent)),
            ("send_errors_total", "Datagrams the system didn't take.", sum(|all| all.send_errors)),
            ("receive_errors_total", "Errors while receiving.", sum(|all| all.receive_errors)),
        ] {
            page.counter(&format!("warren_pair_socket_{name}"), help, value);
        }
    }

    fn is_ready(&self) -> bool {
        !self.relay().is_draining()
    }
}
