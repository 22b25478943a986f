//! sendmsg(2) and recvmmsg(2) with the control messages of udp(7).

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
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

/// Space for one control message of up to 8 bytes, aligned as `cmsghdr` is.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

pub(super) fn send_message(
    socket: &Socket,
    remote: SocketAddr,
    bytes: &[u8],
    segment: Option<usize>,
) -> io::Result<()> {
    send_pieces(socket, remote, &[IoSlice::new(bytes)], segment)
}

/// Sends what the pieces are together.
pub(super) fn send_pieces(
    socket: &Socket,
    remote: SocketAddr,
    pieces: &[IoSlice<'_>],
    segment: Option<usize>,
) -> io::Result<()> {
    let address = SockAddr::from(remote);
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    // An `IoSlice` is an `iovec` (its documentation says so), and the call only reads them.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len() as _;
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
