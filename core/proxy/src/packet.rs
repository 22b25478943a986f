//! IPv4 packets as far as they are looked at and made here; TCP's segments are the connections' own.

use std::net::SocketAddrV4;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket,
    UdpPacket, UdpRepr,
};

use crate::flow::{Protocol, Tuple};

/// Every path of a tunnel carries packets of this size (RFC 8200 §5).
pub(crate) const MTU: usize = 1280;

/// The hop limit of what is sent: Linux's default, too.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Octets of UDP's header (RFC 768).
const UDP_HEADER: usize = 8;

/// What can be asked of a packet.
#[derive(Debug)]
pub(crate) struct Parsed<'a> {
    pub(crate) tuple: Tuple,
    pub(crate) content: Content<'a>,
}

/// Its inside.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    /// A TCP segment: whether it asks for a connection, or ends one at once.
    Segment { is_syn: bool, is_reset: bool },
    /// A UDP datagram.
    Datagram(&'a [u8]),
}

/// Reads a packet; `None`: it is no whole TCP or UDP packet over IPv4, or damaged.
pub(crate) fn parse(packet: &[u8]) -> Option<Parsed<'_>> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    let is_fragment = ip.more_frags() || ip.frag_offset() != 0;
    if ip.version() != 4 || is_fragment || !ip.verify_checksum() {
        return None;
    }
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    let tuple = |protocol, source, destination| Tuple {
        protocol,
        peer: SocketAddrV4::new(from, source),
        local: SocketAddrV4::new(to, destination),
    };
    // The payload outlives the view of its packet.
    let payload = packet.get(usize::from(ip.header_len())..usize::from(ip.total_len()))?;
    if ip.next_header() == IpProtocol::Tcp {
        let segment = TcpPacket::new_checked(payload).ok()?;
        let tuple = tuple(Protocol::Tcp, segment.src_port(), segment.dst_port());
        let is_reset = segment.rst();
        let is_syn = segment.syn() && !segment.ack() && !is_reset;
        let content = Content::Segment { is_syn, is_reset };
        return has_ports(&tuple).then_some(Parsed { tuple, content });
    }
    if ip.next_header() != IpProtocol::Udp {
        return None;
    }
    let datagram = UdpPacket::new_checked(payload).ok()?;
    let tuple = tuple(Protocol::Udp, datagram.src_port(), datagram.dst_port());
    let is_whole = datagram.verify_checksum(&from.into(), &to.into());
    let content = payload.get(UDP_HEADER..usize::from(datagram.len()))?;
    (is_whole && has_ports(&tuple)).then_some(Parsed { tuple, content: Content::Datagram(content) })
}

fn has_ports(tuple: &Tuple) -> bool {
    tuple.peer.port() != 0 && tuple.local.port() != 0
}

/// A datagram to the peer, in as many packets as it takes (RFC 791 §3.2); none, if it is longer than a
/// datagram can be. `ident` tells its fragments from those of others.
pub(crate) fn datagram(tuple: &Tuple, payload: &[u8], ident: u16) -> Vec<Vec<u8>> {
    let Some(whole) = unfragmented(tuple, payload) else { return Vec::new() };
    if whole.len() <= MTU {
        return vec![whole];
    }
    let (head, inside) = whole.split_at(smoltcp::wire::IPV4_HEADER_LEN);
    let room = (MTU - head.len()) & !7;
    let count = inside.len().div_ceil(room);
    let pieces = inside.chunks(room).enumerate();
    let packets = pieces.map(|(index, piece)| {
        let mut packet = [head, piece].concat();
        let length = packet.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
        ip.set_total_len(length);
        ip.set_ident(ident);
        ip.set_dont_frag(false);
        ip.set_more_frags(index + 1 < count);
        ip.set_frag_offset((index * room) as u16);
        ip.fill_checksum();
        packet
    });
    packets.collect()
}

fn unfragmented(tuple: &Tuple, payload: &[u8]) -> Option<Vec<u8>> {
    let udp = UdpRepr { src_port: tuple.local.port(), dst_port: tuple.peer.port() };
    let length = UDP_HEADER + payload.len();
    u16::try_from(length + smoltcp::wire::IPV4_HEADER_LEN).ok()?;
    let ip = header(tuple, IpProtocol::Udp, length);
    let mut packet = vec![0; ip.buffer_len() + length];
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &checksums);
    let mut inside = UdpPacket::new_unchecked(packet.get_mut(ip.buffer_len()..)?);
    let (source, destination) = (ip.src_addr.into(), ip.dst_addr.into());
    let copy = |room: &mut [u8]| room.copy_from_slice(payload);
    udp.emit(&mut inside, &source, &destination, payload.len(), copy, &checksums);
    Some(packet)
}

/// Tells the peer of a UDP flow that nobody is there (RFC 792, code 3 of type 3).
pub(crate) fn unreachable(tuple: &Tuple) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    // As the peer sent it, but for the length and checksum, by which nobody is known.
    let mut quoted = [0; UDP_HEADER];
    let mut inside = UdpPacket::new_unchecked(&mut quoted[..]);
    inside.set_src_port(tuple.peer.port());
    inside.set_dst_port(tuple.local.port());
    inside.set_len(UDP_HEADER as u16);
    let answer = header(tuple, IpProtocol::Icmp, 0);
    let asked = Ipv4Repr {
        src_addr: answer.dst_addr,
        dst_addr: answer.src_addr,
        next_header: IpProtocol::Udp,
        payload_len: quoted.len(),
        hop_limit: HOP_LIMIT,
    };
    let message = Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::PortUnreachable,
        header: asked,
        data: &quoted,
    };
    let ip = Ipv4Repr { payload_len: message.buffer_len(), ..answer };
    let mut packet = vec![0; ip.buffer_len() + ip.payload_len];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
    let (_, inside) = packet.split_at_mut(ip.buffer_len());
    message.emit(&mut Icmpv4Packet::new_unchecked(inside), &checksums);
    packet
}

/// The header of a packet to the peer.
fn header(tuple: &Tuple, next_header: IpProtocol, payload_len: usize) -> Ipv4Repr {
    Ipv4Repr {
        src_addr: *tuple.local.ip(),
        dst_addr: *tuple.peer.ip(),
        next_header,
        payload_len,
        hop_limit: HOP_LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple() -> Tuple {
        Tuple {
            protocol: Protocol::Udp,
            peer: "100.80.0.5:40000".parse().unwrap(),
            local: "100.80.0.1:8080".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_made_can_be_read() {
        let packet = unfragmented(&tuple(), b"hello").unwrap();
        let parsed = parse(&packet).unwrap();
        assert_eq!((parsed.tuple.peer, parsed.tuple.local), (tuple().local, tuple().peer));
        assert!(matches!(parsed.content, Content::Datagram(b"hello")));
    }

    #[test]
    fn damaged_cut_and_fragmented_packets_are_none() {
        let packet = unfragmented(&tuple(), b"hello").unwrap();
        for len in 0..packet.len() {
            assert!(parse(&packet[..len]).is_none(), "{len}");
        }
        for byte in 0..packet.len() {
            let mut damaged = packet.clone();
            damaged[byte] ^= 0x40;
            assert!(parse(&damaged).is_none(), "{byte}");
        }
    }

    #[test]
    fn a_long_datagram_goes_in_fragments_that_make_it_whole() {
        let payload: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
        let mut whole: Vec<u8> = Vec::new();
        let packets = datagram(&tuple(), &payload, 7);
        assert_eq!(packets.len(), 3);
        for (index, packet) in packets.iter().enumerate() {
            assert!(packet.len() <= MTU);
            let ip = Ipv4Packet::new_checked(&packet[..]).unwrap();
            assert!(ip.verify_checksum() && ip.ident() == 7);
            assert_eq!(usize::from(ip.frag_offset()), whole.len());
            assert_eq!(ip.more_frags(), index < 2);
            whole.extend(ip.payload());
        }
        assert_eq!(whole[8..], payload);
        assert!(datagram(&tuple(), &vec![0; 65_508], 8).is_empty());
    }

    #[test]
    fn an_unreachable_port_quotes_what_was_sent() {
        let packet = unreachable(&tuple());
        let ip = Ipv4Packet::new_checked(&packet[..]).unwrap();
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        let message = Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).unwrap();
        let Icmpv4Repr::DstUnreachable { reason, header, data } = message else {
            panic!("{message:?}");
        };
        assert_eq!(reason, Icmpv4DstUnreachable::PortUnreachable);
        assert_eq!(header.src_addr, *tuple().peer.ip());
        assert_eq!(data[..4], [0x9c, 0x40, 0x1f, 0x90]);
    }
}
