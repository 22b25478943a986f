use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use warren_net::{Run, ServerSocket, UdpReceiver};
use warren_pair::{ClientSocket, Kind, Part, Verdict};

use super::{Shared, events, log};

/// Batches taken from one socket before the other has its turn.
const BATCHES: usize = 16;

/// A thread that forwards; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    waker: Option<UnixStream>,
}

impl Worker {
    pub(super) fn start(
        number: usize,
        sockets: Vec<Arc<ServerSocket>>,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        let (waker, woken) = UnixStream::pair().context("can't make a pipe")?;
        let forwarder = Forwarder { sockets, shared, parts: Vec::new() };
        let thread = std::thread::Builder::new()
            .name(format!("pair-{number}"))
            .spawn(move || forwarder.run(&woken))
            .context("can't start a thread")?;
        Ok(Self { thread: Some(thread), waker: Some(waker) })
    }
}

impl Worker {
    /// Whether the thread is gone although nobody has ended it.
    pub(super) fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.waker.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker panicked");
        }
    }
}

struct Forwarder {
    sockets: Vec<Arc<ServerSocket>>,
    shared: Arc<Shared>,
    parts: Vec<Placed>,
}

/// A part of the batch's run number `run`, and what becomes of it.
struct Placed {
    run: usize,
    part: Part,
    verdict: Option<Verdict>,
}

impl Forwarder {
    fn run(mut self, woken: &UnixStream) {
        let mut receiver = UdpReceiver::new();
        let sockets = self.sockets.clone();
        loop {
            let mut ready: Vec<PollFd<'_>> = sockets
                .iter()
                .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .chain([PollFd::new(woken.as_fd(), PollFlags::POLLIN)])
                .collect();
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return tracing::error!(%error, "poll failed, a worker ends"),
            }
            if ready.last().is_some_and(|woken| woken.any().unwrap_or(true)) {
                return;
            }
            for (socket, ready) in sockets.iter().zip(&ready) {
                if ready.any().unwrap_or(true) {
                    self.receive(socket, &mut receiver);
                }
            }
        }
    }

    fn receive(&mut self, socket: &ServerSocket, receiver: &mut UdpReceiver) {
        for _ in 0..BATCHES {
            match socket.try_recv(receiver) {
                Ok(runs) => {
                    let is_full = runs.is_full();
                    let runs: Vec<Run<'_>> = runs.collect();
                    self.forward(&runs);
                    if !is_full {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => tracing::trace!(%error, "a receive failed"),
            }
        }
    }

    fn forward(&mut self, runs: &[Run<'_>]) {
        self.parts.clear();
        for (number, run) in runs.iter().enumerate() {
            for part in self.shared.authenticator.parts(run.bytes, run.stride) {
                self.parts.push(Placed { run: number, part, verdict: None });
            }
        }
        let is_handshake = |placed: &Placed| matches!(placed.part.kind, Kind::Handshake(_));
        let any_handshake = self.parts.iter().any(is_handshake);
        let now = Instant::now();
        let mut relay = self.shared.relay();
        for placed in &mut self.parts {
            let from = ClientSocket::new(runs[placed.run].remote);
            placed.verdict = Some(relay.handle_part(from, &placed.part, now));
        }
        let events = if any_handshake { events(&mut relay) } else { Vec::new() };
        drop(relay);
        for placed in &self.parts {
            let Some(Verdict::Forward(to)) = placed.verdict else { continue };
            let (to, run) = (to.address(), &runs[placed.run]);
            if let Some(socket) = self.socket_for(to) {
                socket.send_run(to, &run.bytes[placed.part.range.clone()], run.stride);
            }
        }
        log(&events);
    }

    fn socket_for(&self, to: SocketAddr) -> Option<&ServerSocket> {
        let socket = |socket: &&Arc<ServerSocket>| socket.address().is_ipv4() == to.is_ipv4();
        self.sockets.iter().find(socket).map(Arc::as_ref)
    }
}
