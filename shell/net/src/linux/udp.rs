//! UDP in batches: `UDP_SEGMENT` out, `UDP_GRO` and `recvmmsg` in (udp(7)).

mod family;
mod server;
mod syscalls;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::slice::ChunksMut;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt;

use crate::batch::{BatchSink, SendBatch, Sent};
use crate::config::{Finding, UdpConfig};
use crate::counters::{LiveUdpCounters, UdpCounters, add};
use crate::error::Error;
use family::{Discovery, FamilySocket};
pub use server::{Run, Runs, ServerSocket};
pub use syscalls::Destination;
use syscalls::{MESSAGE_BYTES, MESSAGES, Message};

const PORT_TRIES: usize = 128;
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// The sockets of a node: one per address family, on one port.
#[derive(Debug)]
pub struct UdpSockets {
    ipv4: Option<FamilySocket>,
    ipv6: Option<FamilySocket>,
    port: u16,
    findings: Vec<Finding>,
    /// Whether IPv6 comes first at the next receive.
    ipv6_first: AtomicBool,
    counters: LiveUdpCounters,
}

/// Room for what one [`UdpSockets::try_recv`] gives.
#[derive(Debug)]
pub struct UdpReceiver {
    buffer: Box<[u8]>,
}

impl Default for UdpReceiver {
    fn default() -> Self {
        Self::new()
    }
}

impl UdpReceiver {
    /// Reserves 512 KiB, of which only what is used becomes resident.
    pub fn new() -> Self {
        Self { buffer: vec![0; MESSAGES * MESSAGE_BYTES].into_boxed_slice() }
    }
}

/// Received datagrams, with where each came from, in the order of their arrival per socket.
#[derive(Debug)]
pub struct Received<'b> {
    places: ChunksMut<'b, u8>,
    messages: [Option<Message>; MESSAGES],
    next: usize,
    current: Option<(SocketAddr, ChunksMut<'b, u8>)>,
}

impl<'b> Iterator for Received<'b> {
    type Item = (SocketAddr, &'b mut [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((remote, datagrams)) = &mut self.current
                && let Some(datagram) = datagrams.next()
            {
                return Some((*remote, datagram));
            }
            let message = (*self.messages.get(self.next)?)?;
            let place = self.places.next()?;
            self.next += 1;
            self.current =
                Some((message.remote, place[..message.len].chunks_mut(message.stride.max(1))));
        }
    }
}

impl UdpSockets {
    /// Opens the sockets; a system without one of the families gets the other alone.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::PortInUse`], [`Error::PortPrivileged`], [`Error::NoFreePort`],
    /// [`Error::NoAddressFamily`], or what else the system says.
    pub fn bind(config: &UdpConfig) -> Result<Self, Error> {
        let Some(port) = config.port else {
            let mut rng = rand::rng();
            for _ in 0..PORT_TRIES {
                match Self::bind_port(config, rng.random_range(DYNAMIC_PORTS)) {
                    Err(Error::PortInUse { .. }) => {}
                    result => return result,
                }
            }
            return Err(Error::NoFreePort);
        };
        Self::bind_port(config, port)
    }

    fn bind_port(config: &UdpConfig, port: u16) -> Result<Self, Error> {
        let mut findings = Vec::new();
        let ipv4 = FamilySocket::bind(config, false, port, &mut findings);
        let ipv6 = FamilySocket::bind(config, true, port, &mut findings);
        let (ipv4, ipv6) = match (ipv4, ipv6) {
            (Err(Error::NoAddressFamily(error)), Err(Error::NoAddressFamily(_))) => {
                return Err(Error::NoAddressFamily(error));
            }
            (Err(Error::NoAddressFamily(_)), ipv6) => (None, Some(ipv6?)),
            (ipv4, Err(Error::NoAddressFamily(_))) => (Some(ipv4?), None),
            (ipv4, ipv6) => (Some(ipv4?), Some(ipv6?)),
        };
        findings.sort();
        findings.dedup();
        Ok(Self {
            ipv4,
            ipv6,
            port,
            findings,
            ipv6_first: AtomicBool::new(false),
            counters: LiveUdpCounters::default(),
        })
    }

    /// The port, the same in both families.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether there is a socket for IPv4.
    pub fn has_ipv4(&self) -> bool {
        self.ipv4.is_some()
    }

    /// Whether there is a socket for IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.ipv6.is_some()
    }

    /// What the system didn't grant.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What went through so far.
    pub fn counters(&self) -> UdpCounters {
        self.counters.read()
    }

    /// Waits until there may be something to receive.
    ///
    /// # Errors
    ///
    /// Only when the runtime shuts down.
    pub async fn readable(&self) -> io::Result<()> {
        tokio::select! {
            ready = FamilySocket::readable(self.ipv4.as_ref()) => ready,
            ready = FamilySocket::readable(self.ipv6.as_ref()) => ready,
        }
    }

    /// Waits until a socket whose buffer was full takes more; at once when none was.
    ///
    /// # Errors
    ///
    /// Only when the runtime shuts down.
    pub async fn writable(&self) -> io::Result<()> {
        for family in [&self.ipv4, &self.ipv6].into_iter().flatten() {
            if family.blocked.load(Ordering::Relaxed) {
                family.socket.writable().await?.retain_ready();
                family.blocked.store(false, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Receives what is there, up to 8 runs of datagrams of one of the families.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing; no other.
    pub fn try_recv<'b>(&self, receiver: &'b mut UdpReceiver) -> io::Result<Received<'b>> {
        let ipv6_first = !self.ipv6_first.load(Ordering::Relaxed);
        self.ipv6_first.store(ipv6_first, Ordering::Relaxed);
        let order = if ipv6_first { [&self.ipv6, &self.ipv4] } else { [&self.ipv4, &self.ipv6] };
        for family in order.into_iter().flatten() {
            if let Some(messages) = family.receive(&mut receiver.buffer, &self.counters) {
                return Ok(Received {
                    places: receiver.buffer.chunks_mut(MESSAGE_BYTES),
                    messages,
                    next: 0,
                    current: None,
                });
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Sends one datagram, without waiting; `dont_fragment` makes it an MTU probe that is lost
    /// rather than cut (RFC 8899).
    ///
    /// # Errors
    ///
    /// What the system says: no route, a firewall's refusal, too long for the interface
    /// (`EMSGSIZE`), a full buffer. None is worth ending a loop for.
    pub fn try_send(
        &self,
        remote: SocketAddr,
        datagram: &[u8],
        dont_fragment: bool,
    ) -> io::Result<()> {
        let family = self.family(remote).ok_or(io::ErrorKind::NetworkUnreachable)?;
        if dont_fragment {
            family.set_discovery(Discovery::Probe)?;
        }
        let result = family.send(remote, datagram, None);
        if dont_fragment {
            family.set_discovery(Discovery::Data)?;
        }
        match &result {
            Ok(()) => {
                add(&self.counters.sends, 1);
                add(&self.counters.segments_sent, 1);
            }
            Err(_) => add(&self.counters.send_errors, 1),
        }
        result
    }

    /// Sends datagrams of one length, but for the last, which may be shorter; each piece is one of
    /// them. They may lie anywhere, so that what was received is forwarded from where it lies. At
    /// most 64 and 65,507 bytes; what the system doesn't take is lost and counted.
    pub fn send_pieces(&self, remote: SocketAddr, pieces: &[IoSlice<'_>]) {
        let Some(first) = pieces.first() else { return };
        let Some(family) = self.family(remote) else {
            return add(&self.counters.send_errors, pieces.len());
        };
        if pieces.len() > 1 && family.segmentation.load(Ordering::Relaxed) {
            let result = family.send_pieces(remote, pieces, Some(first.len()));
            match result.as_ref().err().and_then(io::Error::raw_os_error) {
                Some(libc::EIO) => family.segmentation.store(false, Ordering::Relaxed),
                Some(libc::EINVAL | libc::EMSGSIZE) => {}
                Some(_) | None => return self.count_sent(pieces.len(), result),
            }
            add(&self.counters.fallbacks, 1);
        }
        for piece in pieces {
            self.count_sent(1, family.send(remote, piece, None));
        }
    }

    fn count_sent(&self, datagrams: usize, result: io::Result<()>) {
        match result {
            Ok(()) => {
                add(&self.counters.sends, 1);
                add(&self.counters.segments_sent, datagrams);
            }
            Err(error) => {
                add(&self.counters.send_errors, datagrams);
                tracing::trace!(%error, datagrams, "datagrams weren't sent");
            }
        }
    }

    fn family(&self, remote: SocketAddr) -> Option<&FamilySocket> {
        if remote.is_ipv4() { self.ipv4.as_ref() } else { self.ipv6.as_ref() }
    }
}

impl BatchSink for UdpSockets {
    fn try_send_batch(&self, batch: &mut SendBatch) -> Sent {
        let Some(family) = self.family(batch.remote()) else {
            add(&self.counters.send_errors, batch.unsent_segments());
            return Sent::Done;
        };
        let segments = batch.unsent_segments();
        if segments > 1 && family.segmentation.load(Ordering::Relaxed) {
            let Err(error) = family.send(batch.remote(), batch.unsent(), Some(batch.stride()))
            else {
                add(&self.counters.sends, 1);
                add(&self.counters.segments_sent, segments);
                return Sent::Done;
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return family.set_blocked(),
                // The interface can't checksum, so it can't segment either.
                Some(libc::EIO) => family.segmentation.store(false, Ordering::Relaxed),
                // Too long for the route's MTU: one by one they may be fragmented.
                Some(libc::EINVAL | libc::EMSGSIZE) => {}
                _ => {
                    add(&self.counters.send_errors, segments);
                    tracing::trace!(%error, segments, "a batch wasn't sent");
                    return Sent::Done;
                }
            }
            add(&self.counters.fallbacks, 1);
        }
        self.send_one_by_one(family, batch)
    }
}

impl UdpSockets {
    fn send_one_by_one(&self, family: &FamilySocket, batch: &mut SendBatch) -> Sent {
        while batch.unsent_segments() > 0 {
            let len = batch.stride().min(batch.unsent().len());
            match family.send(batch.remote(), &batch.unsent()[..len], None) {
                Ok(()) => {
                    add(&self.counters.sends, 1);
                    add(&self.counters.segments_sent, 1);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return family.set_blocked();
                }
                Err(error) => {
                    add(&self.counters.send_errors, 1);
                    tracing::trace!(%error, "a datagram wasn't sent");
                }
            }
            batch.advance();
        }
        Sent::Done
    }
}
