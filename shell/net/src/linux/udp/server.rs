//! One socket of a server: runs of datagrams in and out, from the same buffer, without a runtime.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::slice::ChunksMut;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::UdpReceiver;
use super::family::{Discovery, bind_refused, set_buffers};
use super::syscalls::{
    Destination, MESSAGE_BYTES, MESSAGES, Message, has_option, receive_messages, send_message,
    send_pieces, set_option, tell_local_address,
};
use crate::batch::{MAX_BATCH_BYTES, MAX_BATCH_SEGMENTS};
use crate::config::ServerSocketConfig;
use crate::counters::{LiveUdpCounters, UdpCounters, add};
use crate::error::Error;

/// A UDP socket of a server, non-blocking: wait with poll(2) on its descriptor.
#[derive(Debug)]
pub struct ServerSocket {
    socket: Socket,
    address: SocketAddr,
    /// Bytes of the kernel's buffers, to receive and to send.
    buffers: (usize, usize),
    segmentation: AtomicBool,
    counters: LiveUdpCounters,
}

impl AsFd for ServerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Datagrams from one source, one after the other: all of one length but for the last, which may be
/// shorter.
#[derive(Debug)]
pub struct Run<'b> {
    /// Where they came from.
    pub remote: SocketAddr,
    /// Which of the host's addresses they came to, where the socket is bound to all of them: the
    /// [`Destination::source`] of an answer.
    pub local: Option<IpAddr>,
    /// The datagrams; none at all is one empty datagram.
    pub bytes: &'b mut [u8],
    /// Length of each but the last; at least 1.
    pub stride: usize,
}

impl Run<'_> {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.stride).max(1)
    }
}

/// What one [`ServerSocket::try_recv`] gave.
#[derive(Debug)]
pub struct Runs<'b> {
    places: ChunksMut<'b, u8>,
    messages: [Option<Message>; MESSAGES],
    next: usize,
}

impl Runs<'_> {
    /// Whether the call filled all its places, so that more may be waiting.
    pub fn is_full(&self) -> bool {
        self.messages[MESSAGES - 1].is_some()
    }
}

impl<'b> Iterator for Runs<'b> {
    type Item = Run<'b>;

    fn next(&mut self) -> Option<Run<'b>> {
        let message = (*self.messages.get(self.next)?)?;
        let place = self.places.next()?;
        self.next += 1;
        let bytes = &mut place[..message.len];
        Some(Run { remote: message.remote, local: message.local, bytes, stride: message.stride })
    }
}

impl ServerSocket {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`Error::PortInUse`], [`Error::PortPrivileged`], [`Error::NoAddressFamily`] (also for an
    /// address that isn't this host's), or what else the system says.
    pub fn bind(config: &ServerSocketConfig) -> Result<Self, Error> {
        let ipv6 = config.address.is_ipv6();
        let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(Error::NoAddressFamily)?;
        let refused = |error| Error::os("open a UDP socket", error);
        if ipv6 {
            socket.set_only_v6(true).map_err(refused)?;
        }
        if config.shared {
            socket.set_reuse_port(true).map_err(refused)?;
        }
        let port = config.address.port();
        socket.bind(&SockAddr::from(config.address)).map_err(|error| bind_refused(error, port))?;
        socket.set_nonblocking(true).map_err(refused)?;
        let buffers = set_buffers(&socket, config.receive_buffer, config.send_buffer);
        if config.offload {
            // Without it each message is one datagram.
            let _ = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        if config.address.ip().is_unspecified() {
            tell_local_address(&socket, ipv6).map_err(refused)?;
        }
        let segmentation = config.offload && has_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT);
        Discovery::Data.set(&socket, ipv6).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self {
            address: address.as_socket().unwrap_or(config.address),
            socket,
            buffers,
            segmentation: AtomicBool::new(segmentation),
            counters: LiveUdpCounters::default(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the system granted for the buffers, in bytes: to receive and to send.
    pub fn buffers(&self) -> (usize, usize) {
        self.buffers
    }

    /// What went through so far.
    pub fn counters(&self) -> UdpCounters {
        self.counters.read()
    }

    /// Receives what is there, up to 8 runs.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing. Others are counted and mean
    /// nothing for what comes next: ask again.
    pub fn try_recv<'b>(&self, receiver: &'b mut UdpReceiver) -> io::Result<Runs<'b>> {
        match receive_messages(&self.socket, &mut receiver.buffer) {
            Ok(messages) => {
                for message in messages.iter().flatten() {
                    add(&self.counters.receives, 1);
                    let datagrams = message.len.div_ceil(message.stride.max(1)).max(1);
                    add(&self.counters.segments_received, datagrams);
                }
                let places = receiver.buffer.chunks_mut(MESSAGE_BYTES);
                Ok(Runs { places, messages, next: 0 })
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    add(&self.counters.receive_errors, 1);
                }
                Err(error)
            }
        }
    }

    /// Sends a run, with segmentation offload where there is one. What the system doesn't take is
    /// lost and counted: a relay keeps no queues.
    pub fn send_run(&self, to: impl Into<Destination>, run: &[u8], stride: usize) {
        let (to, stride) = (to.into(), stride.max(1));
        let batch = (MAX_BATCH_BYTES / stride).clamp(1, MAX_BATCH_SEGMENTS) * stride;
        if run.len() <= stride {
            return self.count(1, send_message(&self.socket, to, run, None));
        }
        for batch in run.chunks(batch) {
            let datagrams = batch.len().div_ceil(stride);
            if datagrams > 1 && self.segmentation.load(Ordering::Relaxed) {
                let result = send_message(&self.socket, to, batch, Some(stride));
                if !self.must_be_sent_one_by_one(&result) {
                    self.count(datagrams, result);
                    continue;
                }
            }
            for datagram in batch.chunks(stride) {
                self.count(1, send_message(&self.socket, to, datagram, None));
            }
        }
    }

    /// Sends datagrams of one length, but for the last, which may be shorter; each piece is one of
    /// them, so that headers between them stay behind without a copy. At most 64 and 65,507 bytes.
    pub fn send_pieces(&self, to: impl Into<Destination>, pieces: &[IoSlice<'_>]) {
        let to = to.into();
        let [first, _, ..] = pieces else {
            if let Some(datagram) = pieces.first() {
                self.count(1, send_message(&self.socket, to, datagram, None));
            }
            return;
        };
        if self.segmentation.load(Ordering::Relaxed) {
            let result = send_pieces(&self.socket, to, pieces, Some(first.len()));
            if !self.must_be_sent_one_by_one(&result) {
                return self.count(pieces.len(), result);
            }
        }
        for datagram in pieces {
            self.count(1, send_message(&self.socket, to, datagram, None));
        }
    }

    /// Sends datagrams of one length, but for the last, which may be shorter; `each` parts one after
    /// the other are one of them, such as a header, data, and padding. At most 64 datagrams of
    /// 65,507 bytes together.
    pub fn send_parts(&self, to: impl Into<Destination>, parts: &[IoSlice<'_>], each: usize) {
        let (to, each) = (to.into(), each.max(1));
        let datagrams = parts.len().div_ceil(each);
        if datagrams > 1 && self.segmentation.load(Ordering::Relaxed) {
            let stride = parts[..each].iter().map(|part| part.len()).sum();
            let result = send_pieces(&self.socket, to, parts, Some(stride));
            if !self.must_be_sent_one_by_one(&result) {
                return self.count(datagrams, result);
            }
        }
        for datagram in parts.chunks(each) {
            self.count(1, send_pieces(&self.socket, to, datagram, None));
        }
    }

    /// Sends one datagram that is lost rather than fragmented.
    pub fn send_unfragmented(&self, to: impl Into<Destination>, datagram: &[u8]) {
        let (to, ipv6) = (to.into(), self.address.is_ipv6());
        let result = Discovery::Probe
            .set(&self.socket, ipv6)
            .and_then(|()| send_message(&self.socket, to, datagram, None));
        let restored = Discovery::Data.set(&self.socket, ipv6);
        self.count(1, result.and(restored));
    }

    fn must_be_sent_one_by_one(&self, result: &io::Result<()>) -> bool {
        let error = result.as_ref().err().and_then(io::Error::raw_os_error);
        match error {
            // The interface can't checksum, so it can't segment either.
            Some(libc::EIO) => self.segmentation.store(false, Ordering::Relaxed),
            // Too long for the route's MTU: one by one they may be fragmented.
            Some(libc::EINVAL | libc::EMSGSIZE) => {}
            Some(_) | None => return false,
        }
        add(&self.counters.fallbacks, 1);
        true
    }

    fn count(&self, datagrams: usize, result: io::Result<()>) {
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
}
