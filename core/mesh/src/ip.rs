//! The few fields of an IP header that routing needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP's protocol number.
pub(crate) const TCP: u8 = 6;

/// Bytes of an IPv6 header.
pub(crate) const IPV6_HEADER: usize = 40;

/// What is read of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol after the IP header (IPv6: the first next header).
    pub(crate) protocol: u8,
    /// The length of the IP header.
    pub(crate) len: usize,
    /// Not the first fragment of a packet, so without a transport header.
    pub(crate) later_fragment: bool,
}

/// Reads a header; `None` when it is no IP packet, or shorter than its header.
pub(crate) fn parse(packet: &[u8]) -> Option<Header> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<Header> {
    let header = packet.first_chunk::<20>()?;
    let len = usize::from(header[0] & 0xF) * 4;
    if len < 20 || packet.len() < len {
        return None;
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    Some(Header {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol: header[9],
        len,
        later_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x1FFF != 0,
    })
}

fn parse_v6(packet: &[u8]) -> Option<Header> {
    let header = packet.first_chunk::<IPV6_HEADER>()?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    Some(Header {
        source: address(8),
        destination: address(24),
        protocol: header[6],
        len: IPV6_HEADER,
        later_fragment: false,
    })
}

/// Lowers the MSS option of a TCP SYN so that its answers fit packets of `mtu` bytes; anything else
/// is left alone. The checksum is adjusted (RFC 1624).
pub(crate) fn clamp_mss(packet: &mut [u8], header: &Header, mtu: u16) {
    const SYN: u8 = 0x02;
    const MSS: u8 = 2;
    if header.protocol != TCP || header.later_fragment {
        return;
    }
    let Some(tcp) = packet.get_mut(header.len..).filter(|tcp| tcp.len() >= 20) else { return };
    if tcp[13] & SYN == 0 {
        return;
    }
    let data_offset = usize::from(tcp[12] >> 4) * 4;
    let limit = mtu.saturating_sub(if header.source.is_ipv4() { 40 } else { 60 });
    let mut at = 20;
    while at + 4 <= data_offset.min(tcp.len()) {
        match (tcp[at], usize::from(tcp[at + 1])) {
            (0, _) => return,
            (1, _) => at += 1,
            (MSS, 4) => {
                let old = u16::from_be_bytes([tcp[at + 2], tcp[at + 3]]);
                if old > limit {
                    replace_word(tcp, at + 2, limit);
                }
                return;
            }
            (_, len) if len >= 2 => at += len,
            _ => return,
        }
    }
}

/// Replaces 16 bits of a TCP segment and adjusts its checksum, wherever they are aligned.
fn replace_word(tcp: &mut [u8], at: usize, new: u16) {
    let old = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    tcp[at..at + 2].copy_from_slice(&new.to_be_bytes());
    let (old, new) =
        if at.is_multiple_of(2) { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
    let checksum = u16::from_be_bytes([tcp[16], tcp[17]]);
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
}

/// The internet checksum (RFC 1071) over `bytes`, with a sum carried in.
pub(crate) fn checksum(bytes: &[u8], carried: u32) -> u16 {
    let mut sum = carried;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u32::from(*last) << 8;
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let mut tcp = vec![0; 20];
        tcp[12] = ((20 + options.len()) / 4 * 16) as u8;
        tcp[13] = 2;
        tcp.extend_from_slice(options);
        let sum = checksum(&tcp, 0);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(&tcp);
        packet
    }

    fn mss(packet: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([packet[at], packet[at + 1]])
    }

    #[test]
    fn a_large_mss_is_lowered_and_the_checksum_still_holds() {
        for (options, at) in [(&[2, 4, 5, 0xB4][..], 42), (&[1, 2, 4, 5, 0xB4, 0, 0, 0], 43)] {
            let mut packet = syn(options);
            let header = parse(&packet).unwrap();
            clamp_mss(&mut packet, &header, 1280);
            assert_eq!(mss(&packet, at), 1240);
            assert_eq!(checksum(&packet[20..], 0), 0);
        }
    }

    #[test]
    fn a_small_mss_and_a_segment_without_syn_stay() {
        let mut packet = syn(&[2, 4, 2, 0]);
        let before = packet.clone();
        let header = parse(&packet).unwrap();
        clamp_mss(&mut packet, &header, 1280);
        assert_eq!(packet, before);

        let mut packet = syn(&[2, 4, 5, 0xB4]);
        packet[33] = 0x10;
        let before = packet.clone();
        clamp_mss(&mut packet, &header, 1280);
        assert_eq!(packet, before);
    }

    #[test]
    fn broken_options_neither_panic_nor_loop() {
        for options in
            [&[2, 0, 0, 0][..], &[3, 0, 0, 0], &[3, 1, 0, 0], &[1, 1, 1, 2], &[9, 200, 0, 0]]
        {
            let mut packet = syn(options);
            let header = parse(&packet).unwrap();
            clamp_mss(&mut packet, &header, 1280);
        }
    }

    #[test]
    fn what_is_no_ip_packet_has_no_header() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0x45; 19]), None);
        assert_eq!(parse(&[0x4F; 20]), None);
        assert_eq!(parse(&[0x60; 39]), None);
        assert_eq!(parse(&[0x50; 60]), None);
    }
}
