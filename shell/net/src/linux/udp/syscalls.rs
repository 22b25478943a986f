//! sendmsg(2) and recvmmsg(2) with the control messages of udp(7).

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use socket2::{SockAddr, Socket};

use crate::linux::{check, check_len};

/// Messages taken by one system call.
pub(super) const MESSAGES: usize = 8;
/// Room for one message: a run of datagrams of up to 64 KiB.
pub(super) const MESSAGE_BYTES: usize = 65_536;
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) remote: SocketAddr,
    /// The own address that it came to, where the socket was asked to tell.
    pub(super) local: Option<IpAddr>,
    pub(super) len: usize,
    pub(super) stride: usize,
}

pub(super) fn set_option(
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

pub(super) fn has_option(socket: &Socket, level: libc::c_int, name: libc::c_int) -> bool {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is an int, and `len` says how large its place is.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &mut len)
    })
    .is_ok()
}

/// Has a socket tell the own address that each message came to.
pub(super) fn tell_local_address(socket: &Socket, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// Where a message goes, and from which of the addresses of a socket that is bound to all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Where to.
    pub remote: SocketAddr,
    /// From where, of the same family; `None` leaves it to the system.
    pub source: Option<IpAddr>,
}

impl From<SocketAddr> for Destination {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, source: None }
    }
}

/// Space for the control messages of one message, a segment's size (24 bytes) and an own address (at
/// most 40), aligned as `cmsghdr` is.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

impl Control {
    /// Appends a control message to the `used` bytes that there are, and returns how many it makes.
    fn push<T: Copy>(
        &mut self,
        used: usize,
        level: libc::c_int,
        kind: libc::c_int,
        value: T,
    ) -> usize {
        let value_len = size_of::<T>() as u32;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, len) =
            unsafe { (libc::CMSG_SPACE(value_len) as usize, libc::CMSG_LEN(value_len)) };
        let place = &mut self.0[used..used + space];
        // SAFETY: `place` has room for a header and the value (the slice was checked), and starts
        // aligned: the array is, and CMSG_SPACE gives multiples of its alignment. The header tells
        // CMSG_DATA nothing but its own address.
        unsafe {
            let header = place.as_mut_ptr().cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        used + space
    }

    fn push_source(&mut self, used: usize, source: IpAddr) -> usize {
        match source {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(used, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: 0,
                };
                self.push(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }
}

pub(super) fn send_message(
    socket: &Socket,
    to: Destination,
    bytes: &[u8],
    segment: Option<usize>,
) -> io::Result<()> {
    send_pieces(socket, to, &[IoSlice::new(bytes)], segment)
}

/// Sends what the pieces are together.
pub(super) fn send_pieces(
    socket: &Socket,
    to: Destination,
    pieces: &[IoSlice<'_>],
    segment: Option<usize>,
) -> io::Result<()> {
    let address = SockAddr::from(to.remote);
    let mut control = Control([0; 64]);
    let mut used = 0;
    if let Some(size) = segment {
        used = control.push(used, libc::SOL_UDP, libc::UDP_SEGMENT, size as u16);
    }
    if let Some(source) = to.source {
        used = control.push_source(used, source);
    }
    // SAFETY: all zeros is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    // An `IoSlice` is an `iovec` (its documentation says so), and the call only reads them.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len() as _;
    if used > 0 {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = used as _;
    }
    loop {
        // SAFETY: address, pieces and control live until the call returns; it only reads them.
        match check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

pub(super) fn receive_messages(
    socket: &Socket,
    buffer: &mut [u8],
) -> io::Result<[Option<Message>; MESSAGES]> {
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
        let (segment, local) = told(&header.msg_hdr);
        // An empty datagram has no stride; it still takes its turn.
        let stride = segment.unwrap_or(len).max(1);
        // SAFETY: `names[i]` is a whole `sockaddr_in6`, whose family says what the kernel wrote;
        // a `sockaddr_in` is shorter.
        let remote = unsafe { address(&raw const names[i]) };
        messages[i] = Some(Message { remote, local, len, stride });
    }
    Ok(messages)
}

/// What the control messages say: the length of each datagram in a run (`UDP_GRO`), and the own
/// address that they came to (`IP_PKTINFO`, `IPV6_PKTINFO`).
fn told(header: &libc::msghdr) -> (Option<usize>, Option<IpAddr>) {
    let (mut segment, mut local) = (None, None);
    // SAFETY: the kernel filled `msg_control` with well-formed messages of `msg_controllen` bytes,
    // each with the value that its level and type stand for.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<libc::c_int>().read_unaligned();
                    segment = usize::try_from(size).ok().filter(|&size| size > 0);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    let ip = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                    local = Some(IpAddr::V4(ip));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    local = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    (segment, local)
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
