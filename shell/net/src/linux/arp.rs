//! ARP (RFC 826) by a packet socket: asking who has an address, and hearing who says so unasked.
//!
//! ```text
//! hardware u16 = 1 · protocol u16 = 0x0800 · 6 · 4 · operation u16 (1 request, 2 reply)
//! sender's card 6 · sender's address 4 · target's card 6 · target's address 4
//! ```

use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::Error;

const LEN: usize = 28;
const REQUEST: u16 = 1;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Somebody said that he has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The address.
    pub ip: Ipv4Addr,
    /// His card's.
    pub mac: [u8; 6],
}

/// A socket for ARP on one Ethernet interface.
#[derive(Debug)]
pub struct ArpSocket {
    socket: AsyncFd<Socket>,
    interface: u32,
    mac: [u8; 6],
}

impl ArpSocket {
    /// Opens one on the interface of that number, whose card has the address `mac`.
    ///
    /// Must be called within a tokio runtime, on a thread in the interface's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::NoPrivilege`] without `CAP_NET_RAW`; there is no such interface.
    pub fn open(interface: u32, mac: [u8; 6]) -> Result<Self, Error> {
        Self::try_open(interface, mac).map_err(|error| Error::os("listen to ARP", error))
    }

    fn try_open(interface: u32, mac: [u8; 6]) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from((libc::ETH_P_ARP as u16).to_be()));
        // Datagram: the kernel writes the Ethernet header.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind(&link_address(interface, BROADCAST, libc::ETH_P_ARP))?;
        // SAFETY: the socket is a descriptor that lives as long as what owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, interface, mac })
    }

    /// Asks all who has `target`, in the name of `own` (unspecified: a probe, RFC 5227, which leaves
    /// no trace in the others' tables).
    ///
    /// # Errors
    ///
    /// The interface is down, or its queue is full ([`io::ErrorKind::WouldBlock`]).
    pub fn ask(&self, own: Ipv4Addr, target: Ipv4Addr) -> io::Result<()> {
        let mut packet = Vec::with_capacity(LEN);
        for word in [1, libc::ETH_P_IP as u16, 0x0604, REQUEST] {
            packet.extend(word.to_be_bytes());
        }
        packet.extend(self.mac);
        packet.extend(own.octets());
        packet.extend([0; 6]);
        packet.extend(target.octets());
        let everybody = link_address(self.interface, BROADCAST, libc::ETH_P_ARP);
        self.socket.get_ref().send_to(&packet, &everybody).map(drop)
    }

    /// Waits until somebody says that he has an address, be it an answer, a question, or an
    /// announcement.
    ///
    /// # Errors
    ///
    /// The interface went down or away.
    pub async fn hear(&self) -> io::Result<Heard> {
        loop {
            let mut buffer = [0; LEN];
            let read =
                self.socket.async_io(Interest::READABLE, |mut socket| socket.read(&mut buffer));
            let len = read.await?;
            if let Some(heard) = parse(&buffer[..len]) {
                return Ok(heard);
            }
        }
    }
}

impl AsRawFd for ArpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Who speaks; nobody in a probe, which has no sender's address.
fn parse(packet: &[u8]) -> Option<Heard> {
    let (header, rest) = packet.split_at_checked(6)?;
    if header != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac: [u8; 6] = rest.get(2..8)?.try_into().ok()?;
    let ip = Ipv4Addr::from(<[u8; 4]>::try_from(rest.get(8..12)?).ok()?);
    let is_one = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
    let is_card = mac != [0; 6] && mac[0] & 1 == 0;
    (is_one && is_card).then_some(Heard { ip, mac })
}

/// The address of a card on an interface, for packets of an Ethernet protocol (`ETH_P_…`).
pub(super) fn link_address(interface: u32, mac: [u8; 6], protocol: libc::c_int) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough and aligned for every socket address, and zeroes are one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = i32::try_from(interface).unwrap_or(0);
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac);
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an initialised `sockaddr_ll` of that length.
    unsafe { SockAddr::new(storage, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_speaks_is_heard_but_probes_and_garbage_are_not() {
        let mut packet = [0; LEN];
        packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
        packet[8..14].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        packet[14..18].copy_from_slice(&[192, 168, 1, 9]);
        let heard = Heard { ip: [192, 168, 1, 9].into(), mac: [2, 0, 0, 0, 0, 9] };
        assert_eq!(parse(&packet), Some(heard));
        for len in 0..18 {
            assert_eq!(parse(&packet[..len]), None);
        }
        for (at, byte) in [(1, 6), (3, 6), (4, 8), (8, 3), (14, 224)] {
            let mut other = packet;
            other[at] = byte;
            assert_eq!(parse(&other), None, "{at}");
        }
        packet[14..18].fill(0);
        assert_eq!(parse(&packet), None);
    }
}
