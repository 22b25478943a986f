use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use warren_net::{Run, ServerSocket, UdpReceiver};
use warren_turn::server::{Listener, RelayedPort};

use super::forward::Planned;
use super::hub::{Hub, Lane, State, Token};

/// Batches taken from one socket before the others have their turn.
const BATCHES: usize = 16;

/// The longest sleep: what connections have changed may be due sooner than was known.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// A thread that forwards; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    waker: Option<UnixStream>,
}

impl Worker {
    /// Serves lane `number` of the hub; the first one keeps the time for all.
    pub(super) fn start(hub: Arc<Hub>, number: usize) -> anyhow::Result<Self> {
        let (waker, woken) = UnixStream::pair().context("can't make a pipe")?;
        hub.lanes[number].poller.add(&woken, Token::End.encode()).context("can't watch a pipe")?;
        let thread = std::thread::Builder::new()
            .name(format!("turn-{number}"))
            .spawn(move || {
                Forwarder {
                    hub: &hub,
                    lane: &hub.lanes[number],
                    keeps_time: number == 0,
                    plan: Vec::new(),
                }
                .run();
                drop(woken);
            })
            .context("can't start a thread")?;
        Ok(Self { thread: Some(thread), waker: Some(waker) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.waker.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the forwarding thread panicked");
        }
    }
}

struct Forwarder<'h> {
    hub: &'h Hub,
    lane: &'h Lane,
    keeps_time: bool,
    plan: Vec<Planned>,
}

impl Forwarder<'_> {
    fn run(mut self) {
        let mut receiver = UdpReceiver::new();
        let mut ready = Vec::new();
        loop {
            let timeout = if self.keeps_time { self.hub.with(sleep) } else { LONGEST_SLEEP };
            if let Err(error) = self.lane.poller.wait(&mut ready, timeout) {
                return tracing::error!(%error, "waiting for sockets failed, forwarding ends");
            }
            for token in &ready {
                match Token::decode(*token) {
                    Token::Listener(socket) => self.from_clients(socket, &mut receiver),
                    Token::Port(port) => self.from_peers(port, &mut receiver),
                    Token::End => return,
                }
            }
        }
    }

    fn from_clients(&mut self, number: Listener, receiver: &mut UdpReceiver) {
        let lane = self.lane;
        let Some(socket) = lane.sockets.get(usize::from(number.0)) else { return };
        receive(socket, receiver, |mut runs| {
            self.hub.with(|state, now| {
                for run in runs.iter_mut().enumerate() {
                    state.handle_client_run(number, run, now, &mut self.plan);
                }
            });
            self.send(&mut runs);
        });
    }

    fn from_peers(&mut self, port: RelayedPort, receiver: &mut UdpReceiver) {
        // It may have been closed since it was named.
        let Some(socket) = self.hub.with(|state, _| state.port(port)) else { return };
        receive(&socket, receiver, |mut runs| {
            self.hub.with(|state, now| {
                for run in runs.iter().enumerate() {
                    state.handle_peer_run(port, run, now, &mut self.plan);
                }
            });
            self.send(&mut runs);
        });
    }

    fn send(&mut self, runs: &mut [Run<'_>]) {
        for planned in self.plan.drain(..) {
            planned.send(runs, &self.lane.sockets);
        }
    }
}

fn sleep(state: &mut State, now: Instant) -> Duration {
    let due = state.server.poll_timeout();
    if due.is_some_and(|(at, _)| at <= now) {
        state.server.handle_timeout(now);
    }
    let next = state.server.poll_timeout();
    next.map_or(LONGEST_SLEEP, |(at, _)| at.saturating_duration_since(now).min(LONGEST_SLEEP))
}

fn receive(socket: &ServerSocket, receiver: &mut UdpReceiver, mut take: impl FnMut(Vec<Run<'_>>)) {
    for _ in 0..BATCHES {
        match socket.try_recv(receiver) {
            Ok(runs) => {
                let is_full = runs.is_full();
                take(runs.collect());
                if !is_full {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}
