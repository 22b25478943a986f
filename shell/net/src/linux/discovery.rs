//! IPv6 neighbour discovery (RFC 4861) and echo (RFC 4443) by a packet socket: asking who has an address,
//! calling all on a link, and hearing who says that he is there.
//!
//! ```text
//! IPv6 header 40: version 4 bits = 6 · … · next header at 6 = 58 · hop limit at 7 · source at 8 · destination at 24
//! type u8 · code u8 · checksum u16 · then of an echo: identifier u16 · sequence u16
//!                                    of a solicitation (135) or advertisement (136): flags u32 ·
//!                                    target 16 · options: type u8 · length u8 in eights · …
//! ```

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use socket2::{Domain, SockAddr, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::arp::link_address;
use crate::checksum::checksum;
use crate::error::Error;

const HEADER: usize = 40;
const ICMPV6: u8 = 58;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// What neighbour discovery has to come with: nothing that a router has passed has it (RFC 4861 §7.1).
const UNROUTED: u8 = 255;
/// Options that say a card: the sender's, the target's.
const SOURCE_CARD: u8 = 1;
const TARGET_CARD: u8 = 2;
/// The identifier of our echoes.
const MARK: [u8; 2] = [0x57, 0x52];
/// As much of a packet as is looked at.
const LEN: usize = 128;

/// Somebody said that he has an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeardIpv6 {
    /// The address.
    pub ip: Ipv6Addr,
    /// His card's: the frame's own, whatever the packet says.
    pub mac: [u8; 6],
}

/// A socket for IPv6 neighbour discovery on one Ethernet interface.
#[derive(Debug)]
pub struct DiscoverySocket {
    socket: AsyncFd<Socket>,
    interface: u32,
    mac: [u8; 6],
}

impl DiscoverySocket {
    /// Opens one on the interface of that number, whose card has the address `mac`.
    ///
    /// Must be called within a tokio runtime, on a thread in the interface's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::NoPrivilege`] without `CAP_NET_RAW`; there is no such interface.
    pub fn open(interface: u32, mac: [u8; 6]) -> Result<Self, Error> {
        Self::try_open(interface, mac)
            .map_err(|error| Error::os("listen to neighbour discovery", error))
    }

    fn try_open(interface: u32, mac: [u8; 6]) -> io::Result<Self> {
        // Of no protocol yet: nothing comes before the filter is in force.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter())?;
        socket.bind(&link_address(interface, [0xff; 6], libc::ETH_P_IPV6))?;
        // SAFETY: the socket is a descriptor that lives as long as what owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, interface, mac })
    }

    /// Calls all on the link, in the name of `own`: whoever answers pings answers from an address of the
    /// same kind.
    ///
    /// # Errors
    ///
    /// The interface is down, or its queue is full ([`io::ErrorKind::WouldBlock`]).
    pub fn call(&self, own: Ipv6Addr) -> io::Result<()> {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let body = [&MARK[..], &[0, 1]].concat();
        self.send(own, all_nodes, ECHO_REQUEST, &body)
    }

    /// Asks who has `target`, in the name of `own`.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn ask(&self, own: Ipv6Addr, target: Ipv6Addr) -> io::Result<()> {
        let last = target.octets();
        // The solicited-node address (RFC 4291 §2.7.1).
        let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
        group[13..].copy_from_slice(&last[13..]);
        let body = [&[0; 4][..], &last, &[SOURCE_CARD, 1], &self.mac].concat();
        self.send(own, group.into(), SOLICITATION, &body)
    }

    fn send(&self, own: Ipv6Addr, group: Ipv6Addr, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((body.len() as u16 + 4).to_be_bytes());
        packet.extend([ICMPV6, UNROUTED]);
        packet.extend(own.octets());
        packet.extend(group.octets());
        packet.extend([kind, 0, 0, 0]);
        packet.extend(body);
        // Over the addresses, the length and the protocol, too (RFC 8200 §8.1).
        let pseudo = [&packet[8..HEADER], &[0, 0], &packet[4..6], &[0, 0, 0, ICMPV6]].concat();
        let sum = checksum(&[&pseudo, &packet[HEADER..]].concat());
        packet[HEADER + 2..HEADER + 4].copy_from_slice(&sum);
        let mut mac = [0x33; 6];
        mac[2..].copy_from_slice(&group.octets()[12..]);
        let to = link_address(self.interface, mac, libc::ETH_P_IPV6);
        self.socket.get_ref().send_to(&packet, &to).map(drop)
    }

    /// Waits until somebody says that he has an address, by an answer to [`Self::call`] or
    /// [`Self::ask`], or because he asks or announces himself.
    ///
    /// # Errors
    ///
    /// The interface went down or away.
    pub async fn hear(&self) -> io::Result<HeardIpv6> {
        loop {
            let (packet, len, mac) = self.socket.async_io(Interest::READABLE, receive).await?;
            if mac != self.mac
                && let Some(ip) = parse(&packet[..len], mac)
            {
                return Ok(HeardIpv6 { ip, mac });
            }
        }
    }
}

/// The beginning of a packet, how much of it there is, and the card that its frame is from.
fn receive(socket: &Socket) -> io::Result<([u8; LEN], usize, [u8; 6])> {
    let mut buffer = [MaybeUninit::new(0); LEN];
    let (len, from) = socket.recv_from(&mut buffer)?;
    // SAFETY: each byte was initialised above.
    let packet = buffer.map(|byte| unsafe { byte.assume_init() });
    Ok((packet, len, card_of(from)))
}

fn card_of(from: SockAddr) -> [u8; 6] {
    let mut storage = from.as_storage();
    // SAFETY: the storage is large enough and aligned for every socket address, and any bytes are one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    let mut mac = [0; 6];
    if address.sll_halen == 6 {
        mac.copy_from_slice(&address.sll_addr[..6]);
    }
    mac
}

/// Lets nothing in but echo replies, solicitations and advertisements: the kernel throws the rest of the
/// link's traffic away. (`ldb`, `jeq` and `ret` of the classic filter machine.)
fn filter() -> [SockFilter; 8] {
    let load = |at| SockFilter::new(0x30, 0, 0, at);
    let equal = |value: u8, yes, no| SockFilter::new(0x15, yes, no, value.into());
    let give = |len| SockFilter::new(0x06, 0, 0, len);
    [
        load(6),
        equal(ICMPV6, 0, 5),
        load(HEADER as u32),
        equal(ECHO_REPLY, 2, 0),
        equal(SOLICITATION, 1, 0),
        equal(ADVERTISEMENT, 0, 1),
        give(LEN as u32),
        give(0),
    ]
}

/// The address that the sender, whose frame is from `mac`, says to have.
fn parse(packet: &[u8], mac: [u8; 6]) -> Option<Ipv6Addr> {
    let (header, icmp) = packet.split_at_checked(HEADER)?;
    if header[0] >> 4 != 6 || header[6] != ICMPV6 {
        return None;
    }
    let source = address(header.get(8..24)?)?;
    let is_discovery = header[7] == UNROUTED && icmp.get(1) == Some(&0);
    let says = |option| card(icmp.get(24..).unwrap_or_default(), option).is_none_or(|it| it == mac);
    let ip = match *icmp.first()? {
        ECHO_REPLY if icmp.get(4..6)? == MARK => source,
        SOLICITATION if is_discovery && icmp.len() >= 24 && says(SOURCE_CARD) => source,
        ADVERTISEMENT if is_discovery && says(TARGET_CARD) => address(icmp.get(8..24)?)?,
        _ => return None,
    };
    let is_one = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
    let is_card = mac != [0; 6] && mac[0] & 1 == 0;
    (is_one && is_card).then_some(ip)
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

/// The card that an option of that kind says.
fn card(mut options: &[u8], kind: u8) -> Option<[u8; 6]> {
    while let [found, eights, ..] = options {
        let (option, rest) = options.split_at_checked(usize::from(*eights) * 8)?;
        if *found == kind {
            return option.get(2..8)?.try_into().ok();
        }
        if option.is_empty() {
            return None;
        }
        options = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x3c, 0, 0, 0, 0, 9];

    fn packet(hops: u8, source: Ipv6Addr, icmp: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        (packet[0], packet[6], packet[7]) = (0x60, ICMPV6, hops);
        packet[8..24].copy_from_slice(&source.octets());
        packet.extend(icmp);
        packet
    }

    #[test]
    fn whoever_answers_or_announces_himself_is_heard_and_nobody_else() {
        let ip: Ipv6Addr = "fe80::9".parse().unwrap();
        let echo = packet(64, ip, &[ECHO_REPLY, 0, 0, 0, MARK[0], MARK[1], 0, 1]);
        assert_eq!(parse(&echo, MAC), Some(ip));
        let others = packet(64, ip, &[ECHO_REPLY, 0, 0, 0, 1, 2, 0, 1]);
        assert_eq!(parse(&others, MAC), None, "an answer to somebody else");

        let target: Ipv6Addr = "fd00::9".parse().unwrap();
        let told = |kind, option, card: [u8; 6]| {
            [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[option, 1], &card].concat()
        };
        let advertisement = told(ADVERTISEMENT, TARGET_CARD, MAC);
        assert_eq!(parse(&packet(255, ip, &advertisement), MAC), Some(target));
        assert_eq!(parse(&packet(255, ip, &advertisement[..24]), MAC), Some(target));
        assert_eq!(parse(&packet(254, ip, &advertisement), MAC), None, "it came through a router");
        let lie = told(ADVERTISEMENT, TARGET_CARD, [2; 6]);
        assert_eq!(parse(&packet(255, ip, &lie), MAC), None, "in the name of another card");

        let question = told(SOLICITATION, SOURCE_CARD, MAC);
        assert_eq!(parse(&packet(255, ip, &question), MAC), Some(ip), "who asks is there");
        let nobody = Ipv6Addr::UNSPECIFIED;
        assert_eq!(parse(&packet(255, nobody, &question), MAC), None, "he may not keep it");
        for (source, mac) in
            [("ff02::1", MAC), ("::1", MAC), ("fe80::9", [0; 6]), ("fe80::9", [1; 6])]
        {
            let echo = packet(64, source.parse().unwrap(), &echo[HEADER..]);
            assert_eq!(parse(&echo, mac), None, "{source} {mac:?}");
        }
    }

    #[test]
    fn whatever_is_cut_or_garbled_is_borne() {
        let option =
            [&[ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0][..], &[0xfd; 16], &[9, 0, 1, 1]].concat();
        let whole = packet(255, "fe80::9".parse().unwrap(), &option);
        for len in 0..=whole.len() {
            let _ = parse(&whole[..len], MAC);
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] = !other[at];
            let _ = parse(&other, MAC);
        }
    }
}
