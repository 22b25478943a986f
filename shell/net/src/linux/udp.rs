//! UDP in batches: `UDP_SEGMENT` out, `UDP_GRO` and `recvmmsg` in (udp(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::slice::ChunksMut;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{check, check_len};
use crate::batch::{BatchSink, SendBatch, Sent};
use crate::config::{Finding, UdpConfig};
use crate::counters::{LiveUdpCounters, UdpCounters, add};
use crate::error::Error;

/// Messages taken by one system call.
const MESSAGES: usize = 8;
/// Room for one message: a run of datagrams of up to 64 KiB.
const MESSAGE_BYTES: usize = 65_536;
/// Errors in a row before a socket counts as empty.
const MAX_RECEIVE_ERRORS: usize = 16;
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

#[derive(Debug)]
struct FamilySocket {
    socket: AsyncFd<Socket>,
    ipv6: bool,
    segmentation: AtomicBool,
    /// Whether the last send found the buffer full.
    blocked: AtomicBool,
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

#[derive(Debug, Clone, Copy)]
struct Message {
    remote: SocketAddr,
    len: usize,
    stride: usize,
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

#[derive(Clone, Copy)]
enum Discovery {
    /// Routers may fragment; forged ICMP can't shrink what the kernel believes of IPv4.
    Data,
    /// Nobody fragments, and the kernel's own idea of the path's MTU doesn't count.
    Probe,
}

impl FamilySocket {
    fn bind(
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
        let granted = set_buffers(&socket, config.buffer);
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

    async fn readable(family: Option<&Self>) -> io::Result<()> {
        match family {
            Some(family) => family.socket.readable().await.map(|mut ready| ready.retain_ready()),
            None => std::future::pending().await,
        }
    }

    fn set_blocked(&self) -> Sent {
        self.blocked.store(true, Ordering::Relaxed);
        Sent::Blocked
    }

    fn set_discovery(&self, discovery: Discovery) -> io::Result<()> {
        let (level, name, value) = match (self.ipv6, discovery) {
            (false, Discovery::Data) => {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
            }
            (false, Discovery::Probe) => {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
            }
            (true, Discovery::Data) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
            }
            (true, Discovery::Probe) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            }
        };
        set_option(self.socket.get_ref(), level, name, value)
    }

    /// One system call. Before the runtime has polled the socket, readiness isn't known: then the
    /// call itself is the question.
    fn send(&self, remote: SocketAddr, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
        let mut asked = false;
        let result = self.socket.try_io(Interest::WRITABLE, |socket| {
            asked = true;
            send_message(socket, remote, bytes, segment)
        });
        if asked { result } else { send_message(self.socket.get_ref(), remote, bytes, segment) }
    }

    fn receive(
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

fn bind_refused(error: io::Error, port: u16) -> Error {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => Error::PortInUse { port },
        Some(libc::EACCES) => Error::PortPrivileged { port },
        Some(libc::EADDRNOTAVAIL) => Error::NoAddressFamily(error),
        _ => Error::os("bind the UDP port", error),
    }
}

/// Returns what the system granted to the smaller of both.
fn set_buffers(socket: &Socket, wanted: usize) -> usize {
    let value = libc::c_int::try_from(wanted).unwrap_or(libc::c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value).is_err() {
        let _ = socket.set_recv_buffer_size(wanted);
    }
    if set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value).is_err() {
        let _ = socket.set_send_buffer_size(wanted);
    }
    let granted = |size: io::Result<usize>| size.unwrap_or(0) / 2;
    // The kernel doubles what is asked for, for its own bookkeeping (socket(7)).
    granted(socket.recv_buffer_size()).min(granted(socket.send_buffer_size()))
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option is an int, passed with its size.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

fn has_option(socket: &Socket, level: libc::c_int, name: libc::c_int) -> bool {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is an int, and `len` says how large its place is.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &mut len)
    })
    .is_ok()
}

/// Space for one control message of up to 8 bytes, aligned as `cmsghdr` is.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

fn send_message(
    socket: &Socket,
    remote: SocketAddr,
    bytes: &[u8],
    segment: Option<usize>,
) -> io::Result<()> {
    let address = SockAddr::from(remote);
    let mut piece =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    message.msg_iov = &mut piece;
    message.msg_iovlen = 1;
    if let Some(size) = segment {
        message.msg_control = (&raw mut control).cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as _;
        // SAFETY: `msg_control` points to aligned, zeroed space of `msg_controllen` (24) bytes, so
        // the first header and its two bytes of data lie within it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(size as u16);
        }
    }
    loop {
        // SAFETY: address, pieces and control live until the call returns; it only reads them.
        match check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

fn receive_messages(socket: &Socket, buffer: &mut [u8]) -> io::Result<[Option<Message>; MESSAGES]> {
    // SAFETY: all zeros is a valid value of each of these C structs.
    let (mut names, mut pieces, mut headers): (
        [libc::sockaddr_in6; MESSAGES],
        [libc::iovec; MESSAGES],
        [libc::mmsghdr; MESSAGES],
    ) = unsafe { std::mem::zeroed() };
    let mut controls = [Control([0; 64]); MESSAGES];
    for (i, place) in buffer.chunks_exact_mut(MESSAGE_BYTES).take(MESSAGES).enumerate() {
        pieces[i] = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
        let header = &mut headers[i].msg_hdr;
        header.msg_name = (&raw mut names[i]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_iov = &raw mut pieces[i];
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut controls[i]).cast();
        header.msg_controllen = size_of::<Control>() as _;
    }
    // SAFETY: every header points to places of the stated sizes that outlive the call and don't
    // overlap.
    let count = check(unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            MESSAGES as libc::c_uint,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    })?;
    let mut messages = [None; MESSAGES];
    for (i, header) in headers.iter().take(count as usize).enumerate() {
        let len = header.msg_len as usize;
        // An empty datagram has no stride; it still takes its turn.
        let stride = segment_size(&header.msg_hdr).unwrap_or(len).max(1);
        // SAFETY: `names[i]` is a whole `sockaddr_in6`, whose family says what the kernel wrote;
        // a `sockaddr_in` is shorter.
        let remote = unsafe { address(&raw const names[i]) };
        messages[i] = Some(Message { remote, len, stride });
    }
    Ok(messages)
}

/// The `UDP_GRO` control message: length of each datagram in a run.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled `msg_control` with well-formed messages of `msg_controllen` bytes.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_UDP && (*message).cmsg_type == libc::UDP_GRO {
                let size = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok().filter(|&size| size > 0);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// # Safety
///
/// `name` points to a `sockaddr_in` or `sockaddr_in6` in space for the longer one.
unsafe fn address(name: *const libc::sockaddr_in6) -> SocketAddr {
    // SAFETY: by the caller's promise.
    let v6 = unsafe { name.read() };
    if i32::from(v6.sin6_family) == libc::AF_INET {
        // SAFETY: the family says that it is one.
        let v4 = unsafe { name.cast::<libc::sockaddr_in>().read() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        return SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)));
    }
    let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
    SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id))
}
