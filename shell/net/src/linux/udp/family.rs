//! One socket: how it is opened, and its policy on errors.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::syscalls::{MESSAGES, Message, has_option, receive_messages, send_pieces, set_option};
use crate::batch::Sent;
use crate::config::{Finding, UdpConfig};
use crate::counters::{LiveUdpCounters, add};
use crate::error::Error;

/// Errors in a row before a socket counts as empty.
const MAX_RECEIVE_ERRORS: usize = 16;

#[derive(Debug)]
pub(super) struct FamilySocket {
    pub(super) socket: AsyncFd<Socket>,
    pub(super) ipv6: bool,
    pub(super) segmentation: AtomicBool,
    /// Whether the last send found the buffer full.
    pub(super) blocked: AtomicBool,
}

#[derive(Clone, Copy)]
pub(super) enum Discovery {
    /// Routers may fragment; forged ICMP can't shrink what the kernel believes of IPv4.
    Data,
    /// Nobody fragments, and the kernel's own idea of the path's MTU doesn't count.
    Probe,
}

impl Discovery {
    pub(super) fn set(self, socket: &Socket, ipv6: bool) -> io::Result<()> {
        let (level, name, value) = match (ipv6, self) {
            (false, Self::Data) => {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
            }
            (false, Self::Probe) => {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
            }
            (true, Self::Data) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
            }
            (true, Self::Probe) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            }
        };
        set_option(socket, level, name, value)
    }
}

impl FamilySocket {
    pub(super) fn bind(
        config: &UdpConfig,
        ipv6: bool,
        port: u16,
        findings: &mut Vec<Finding>,
    ) -> Result<Self, Error> {
        let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(Error::NoAddressFamily)?;
        let ip = if ipv6 {
            socket.set_only_v6(true).map_err(|error| Error::os("open an IPv6 socket", error))?;
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        socket
            .bind(&SockAddr::from(SocketAddr::from((ip, port))))
            .map_err(|error| bind_refused(error, port))?;
        socket.set_nonblocking(true).map_err(|error| Error::os("open a socket", error))?;
        if let Some(mark) = config.mark
            && socket.set_mark(mark).is_err()
        {
            findings.push(Finding::NoMark);
        }
        let (receive, send) = set_buffers(&socket, config.buffer, config.buffer);
        let granted = receive.min(send);
        if granted < config.buffer {
            findings.push(Finding::SmallBuffers { granted });
        }
        if config.offload {
            // Without it each receive gives one datagram.
            let _ = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        let segmentation = config.offload && has_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT);
        // SAFETY: a `Socket` keeps one descriptor open until it is dropped, by the `AsyncFd`.
        let socket = unsafe { AsyncFd::register(socket) }
            .map_err(|error| Error::os("watch a socket", error.into()))?;
        let family = Self {
            socket,
            ipv6,
            segmentation: AtomicBool::new(segmentation),
            blocked: AtomicBool::new(false),
        };
        family
            .set_discovery(Discovery::Data)
            .map_err(|error| Error::os("set a socket's fragmentation", error))?;
        Ok(family)
    }

    pub(super) async fn readable(family: Option<&Self>) -> io::Result<()> {
        match family {
            Some(family) => family.socket.readable().await.map(|mut ready| ready.retain_ready()),
            None => std::future::pending().await,
        }
    }

    pub(super) fn set_blocked(&self) -> Sent {
        self.blocked.store(true, Ordering::Relaxed);
        Sent::Blocked
    }

    pub(super) fn set_discovery(&self, discovery: Discovery) -> io::Result<()> {
        discovery.set(self.socket.get_ref(), self.ipv6)
    }

    /// One system call. Before the runtime has polled the socket, readiness isn't known: then the
    /// call itself is the question.
    pub(super) fn send(
        &self,
        remote: SocketAddr,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        self.send_pieces(remote, &[IoSlice::new(bytes)], segment)
    }

    /// The same for what the pieces are together.
    pub(super) fn send_pieces(
        &self,
        remote: SocketAddr,
        pieces: &[IoSlice<'_>],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let mut asked = false;
        let result = self.socket.try_io(Interest::WRITABLE, |socket| {
            asked = true;
            send_pieces(socket, remote.into(), pieces, segment)
        });
        if asked {
            result
        } else {
            send_pieces(self.socket.get_ref(), remote.into(), pieces, segment)
        }
    }

    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        counters: &LiveUdpCounters,
    ) -> Option<[Option<Message>; MESSAGES]> {
        for _ in 0..MAX_RECEIVE_ERRORS {
            match self.socket.try_io(Interest::READABLE, |socket| receive_messages(socket, buffer))
            {
                Ok(messages) => {
                    for message in messages.iter().flatten() {
                        add(&counters.receives, 1);
                        add(
                            &counters.segments_received,
                            message.len.div_ceil(message.stride.max(1)),
                        );
                    }
                    return Some(messages);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => {
                    add(&counters.receive_errors, 1);
                    tracing::trace!(%error, "a receive failed");
                }
            }
        }
        None
    }
}

pub(super) fn bind_refused(error: io::Error, port: u16) -> Error {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => Error::PortInUse { port },
        Some(libc::EACCES) => Error::PortPrivileged { port },
        Some(libc::EADDRNOTAVAIL) => Error::NoAddressFamily(error),
        _ => Error::os("bind the UDP port", error),
    }
}

/// Asks for buffers of these sizes; returns what the system granted, to receive and to send.
pub(super) fn set_buffers(socket: &Socket, receive: usize, send: usize) -> (usize, usize) {
    let int = |size: usize| libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, int(receive)).is_err() {
        let _ = socket.set_recv_buffer_size(receive);
    }
    if set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, int(send)).is_err() {
        let _ = socket.set_send_buffer_size(send);
    }
    // The kernel doubles what is asked for, for its own bookkeeping (socket(7)).
    let granted = |size: io::Result<usize>| size.unwrap_or(0) / 2;
    (granted(socket.recv_buffer_size()), granted(socket.send_buffer_size()))
}
