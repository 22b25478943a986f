use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use warren_net::{Runs, ServerSocket, UdpReceiver};
use warren_turn::server::{Listener, RelayedPort};

use super::hub::{Hub, State, Token};

/// Batches taken from one socket before the others have their turn.
const BATCHES: usize = 16;

/// The longest sleep: what connections have changed may be due sooner than was known.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The thread that forwards; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    waker: Option<UnixStream>,
}

impl Worker {
    pub(super) fn start(hub: Arc<Hub>) -> anyhow::Result<Self> {
        Self::spawn(hub, forward)
    }

    pub(super) fn spawn(
        hub: Arc<Hub>,
        run: impl FnOnce(&Hub) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (waker, woken) = UnixStream::pair().context("can't make a pipe")?;
        hub.poller.add(&woken, Token::End.encode()).context("can't watch a pipe")?;
        let thread = std::thread::Builder::new()
            .name("turn".to_owned())
            .spawn(move || {
                let _end = End(&hub);
                run(&hub);
                drop(woken);
            })
            .context("can't start a thread")?;
        Ok(Self { thread: Some(thread), waker: Some(waker) })
    }
}

/// Says that the thread has ended, in whatever way.
struct End<'a>(&'a Hub);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end_forwarding();
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

fn forward(hub: &Hub) {
    let mut receiver = UdpReceiver::new();
    let mut ready = Vec::new();
    loop {
        let timeout = hub.with(sleep);
        if let Err(error) = hub.poller.wait(&mut ready, timeout) {
            return tracing::error!(%error, "waiting for sockets failed, forwarding ends");
        }
        for token in &ready {
            match Token::decode(*token) {
                Token::Listener(listener) => from_clients(hub, listener, &mut receiver),
                Token::Port(port) => from_peers(hub, port, &mut receiver),
                Token::End => return,
            }
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

fn from_clients(hub: &Hub, listener: Listener, receiver: &mut UdpReceiver) {
    let Some(socket) = hub.listener(listener) else { return };
    receive(socket, receiver, |runs| {
        hub.with(|state, now| {
            for mut run in runs {
                state.handle_client_run(listener, &mut run, now);
            }
        });
    });
}

/// Takes one batch: whoever has more is ready again, and one lock does for it all.
fn from_peers(hub: &Hub, port: RelayedPort, receiver: &mut UdpReceiver) {
    hub.with(|state, now| {
        // It may have been closed since it was named.
        let Some(socket) = state.port(port) else { return };
        let Ok(runs) = socket.try_recv(receiver) else { return };
        for run in runs {
            state.handle_peer_run(port, &run, now);
        }
    });
}

fn receive(socket: &ServerSocket, receiver: &mut UdpReceiver, mut take: impl FnMut(Runs<'_>)) {
    for _ in 0..BATCHES {
        match socket.try_recv(receiver) {
            Ok(runs) => {
                let is_full = runs.is_full();
                take(runs);
                if !is_full {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}
