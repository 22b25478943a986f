//! What the filter reads of a packet: protocol, ports, and what kind of message it is.
//!
//! IPv6 extension headers are walked ([`MAX_HEADERS`] of them); a packet whose transport header isn't
//! whole in its first fragment is no packet for the filter (RFC 1858, RFC 7112), nor is a later
//! fragment that would lie over a TCP header (RFC 3128).

use std::net::IpAddr;

use crate::ip::{self, Header, TCP};

pub(crate) const UDP: u8 = 17;
/// ICMP's number in IPv4; ICMPv6 is given the same, so that a flow has one.
pub(crate) const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The most extension headers of a packet.
const MAX_HEADERS: usize = 8;

/// A packet, as the filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) protocol: u8,
    /// The source's port; of an echo, its identifier.
    pub(crate) source: u16,
    /// The destination's port; of an echo, its identifier.
    pub(crate) destination: u16,
    pub(crate) kind: Kind,
    /// Of a fragment: what it has in common with the others.
    pub(crate) fragment: Option<u32>,
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP: the flags of RFC 9293 §3.1.
    Tcp(u8),
    EchoRequest,
    EchoReply,
    /// An ICMP error; the packet that it is about begins at this offset.
    Error(usize),
    /// Anything else: its protocol and ports say all.
    Plain,
    /// A fragment without a transport header.
    LaterFragment,
}

/// Where a packet's transport header is.
struct Place {
    protocol: u8,
    at: usize,
    fragment: Option<u32>,
    /// The fragment's offset in bytes.
    offset: usize,
}

/// Reads a packet; `None` for one that can't be judged.
pub(crate) fn read(packet: &[u8], header: &Header) -> Option<Transport> {
    let place = match header.source {
        IpAddr::V4(_) => place_v4(packet, header),
        IpAddr::V6(_) => place_v6(packet)?,
    };
    let protocol = if place.protocol == ICMPV6 { ICMP } else { place.protocol };
    let whole = Transport {
        protocol,
        source: 0,
        destination: 0,
        kind: Kind::Plain,
        fragment: place.fragment,
    };
    if place.offset > 0 {
        let over_header = protocol == TCP && place.offset < 20;
        return (!over_header).then_some(Transport { kind: Kind::LaterFragment, ..whole });
    }
    let rest = packet.get(place.at..)?;
    let word = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    match protocol {
        TCP => {
            let kind = Kind::Tcp(*rest.get(13)?);
            rest.get(19)?;
            Some(Transport { source: word(0)?, destination: word(2)?, kind, ..whole })
        }
        UDP => {
            rest.get(7)?;
            Some(Transport { source: word(0)?, destination: word(2)?, ..whole })
        }
        ICMP => {
            rest.get(7)?;
            let kind = icmp_kind(place.protocol, rest[0], place.at + 8);
            let id = match kind {
                Kind::EchoRequest | Kind::EchoReply => word(4)?,
                Kind::Error(_) | Kind::Plain | Kind::Tcp(_) | Kind::LaterFragment => 0,
            };
            Some(Transport { source: id, destination: id, kind, ..whole })
        }
        _ => Some(whole),
    }
}

/// Reads the packet that an ICMP error quotes: as much of it as there must be (RFC 792, RFC 4443).
pub(crate) fn read_quote(quote: &[u8]) -> Option<(Header, Transport)> {
    let header = ip::parse(quote)?;
    let place = match header.source {
        IpAddr::V4(_) => place_v4(quote, &header),
        IpAddr::V6(_) => place_v6(quote)?,
    };
    let rest = quote.get(place.at..).filter(|_| place.offset == 0)?;
    let word = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let protocol = if place.protocol == ICMPV6 { ICMP } else { place.protocol };
    let (source, destination) = match protocol {
        TCP | UDP => (word(0)?, word(2)?),
        ICMP => (word(4)?, word(4)?),
        _ => (0, 0),
    };
    let kind = Kind::Plain;
    Some((header, Transport { protocol, source, destination, kind, fragment: None }))
}

fn icmp_kind(protocol: u8, kind: u8, quote: usize) -> Kind {
    match (protocol, kind) {
        (ICMP, 8) | (ICMPV6, 128) => Kind::EchoRequest,
        (ICMP, 0) | (ICMPV6, 129) => Kind::EchoReply,
        // Unreachable, time exceeded, parameter problem; and too big.
        (ICMP, 3 | 11 | 12) | (ICMPV6, 1..=4) => Kind::Error(quote),
        _ => Kind::Plain,
    }
}

fn place_v4(packet: &[u8], header: &Header) -> Place {
    let bits = u16::from_be_bytes([packet[6], packet[7]]);
    let offset = usize::from(bits & 0x1FFF) * 8;
    let is_fragment = bits & 0x3FFF != 0;
    let id = u16::from_be_bytes([packet[4], packet[5]]);
    let fragment = is_fragment.then(|| u32::from(id));
    Place { protocol: header.protocol, at: header.len, fragment, offset }
}

fn place_v6(packet: &[u8]) -> Option<Place> {
    let mut place = Place { protocol: packet[6], at: ip::IPV6_HEADER, fragment: None, offset: 0 };
    for _ in 0..MAX_HEADERS {
        let len = match place.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                (usize::from(*packet.get(place.at + 1)?) + 1) * 8
            }
            AUTHENTICATION => (usize::from(*packet.get(place.at + 1)?) + 2) * 4,
            FRAGMENT => {
                let header = packet.get(place.at..place.at + 8)?;
                let bits = u16::from_be_bytes([header[2], header[3]]);
                place.offset = usize::from(bits & 0xFFF8);
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                place.fragment = (bits & 0xFFF9 != 0).then_some(id);
                8
            }
            _ => return Some(place),
        };
        place.protocol = *packet.get(place.at)?;
        place.at += len;
        if place.offset > 0 {
            return Some(place);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let [high, low] = fragment.to_be_bytes();
        let mut packet =
            vec![0x45, 0, 0, 0, 0, 7, high, low, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend_from_slice(payload);
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend_from_slice(&[1; 32]);
        packet.extend_from_slice(payload);
        packet
    }

    fn read_all(packet: &[u8]) -> Option<Transport> {
        read(packet, &ip::parse(packet)?)
    }

    const PORTS: [u8; 8] = [0x12, 0x34, 0, 53, 0, 8, 0, 0];

    #[test]
    fn ports_are_found_behind_extension_headers() {
        let plain = read_all(&v4(UDP, 0, &PORTS)).unwrap();
        assert_eq!((plain.protocol, plain.source, plain.destination), (UDP, 0x1234, 53));
        let mut behind = vec![DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 1, 4, 0, 0, 0, 0];
        behind.extend_from_slice(&PORTS);
        assert_eq!(read_all(&v6(HOP_BY_HOP, &behind)), Some(plain));
        let chain: Vec<u8> = [HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0].repeat(20);
        assert_eq!(read_all(&v6(HOP_BY_HOP, &chain)), None, "too many headers");
    }

    #[test]
    fn fragments_are_known_by_their_number_and_tiny_ones_are_nothing() {
        let first = read_all(&v4(UDP, 0x2000, &PORTS)).unwrap();
        assert_eq!((first.fragment, first.destination), (Some(7), 53));
        let later = read_all(&v4(UDP, 3, &[9; 8])).unwrap();
        assert_eq!((later.fragment, later.kind), (Some(7), Kind::LaterFragment));
        assert_eq!(read_all(&v4(UDP, 0x2000, &PORTS[..4])), None, "its ports, and no more");
        assert_eq!(read_all(&v4(TCP, 0x2000, &[0; 16])), None, "a TCP header in two pieces");
        assert_eq!(read_all(&v4(TCP, 1, &[0; 16])), None, "flags written over");
        let mut fragment = vec![UDP, 0, 0, 1, 0, 0, 0, 9];
        fragment.extend_from_slice(&PORTS);
        let first = read_all(&v6(FRAGMENT, &fragment)).unwrap();
        assert_eq!((first.fragment, first.destination), (Some(9), 53));
    }

    #[test]
    fn icmp_says_what_it_is_about() {
        let echo = read_all(&v4(ICMP, 0, &[8, 0, 0, 0, 0, 5, 0, 1])).unwrap();
        assert_eq!((echo.kind, echo.destination), (Kind::EchoRequest, 5));
        let quoted = v4(UDP, 0, &PORTS);
        let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
        error.extend_from_slice(&quoted);
        let packet = v4(ICMP, 0, &error);
        let Some(Transport { kind: Kind::Error(at), .. }) = read_all(&packet) else { panic!() };
        let (_, about) = read_quote(&packet[at..]).unwrap();
        assert_eq!((about.protocol, about.destination), (UDP, 53));
    }
}
