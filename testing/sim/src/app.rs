//! The smallest of applications: ping, a paced stream whose longest gap is measured, and a transfer
//! that is acknowledged and repeated as TCP does it.
//!
//! All are UDP packets between mesh addresses, built here byte by byte, because what goes into a
//! node and comes out of it are whole IP packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The UDP port on which every node answers pings.
pub const ECHO_PORT: u16 = 7;

/// The UDP port of the paced stream.
pub const STREAM_PORT: u16 = 9;

/// The UDP port of the acknowledged transfer.
pub const TRANSFER_PORT: u16 = 10;

/// A UDP packet between two mesh addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Whence.
    pub src: IpAddr,
    /// Whither.
    pub dst: IpAddr,
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// All that it says: which message of its kind it is.
    pub id: u64,
}

impl Datagram {
    /// The answer to it.
    pub fn reply(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            id: self.id,
        }
    }

    /// The IP packet, padded to at least `len` bytes.
    ///
    /// # Panics
    /// When the two addresses are of different families.
    pub fn packet(&self, len: usize) -> Vec<u8> {
        let ip_header = if self.src.is_ipv4() { 20 } else { 40 };
        let total = len.max(ip_header + 8 + 8);
        let mut packet = vec![0; total];
        let udp_len = u16::try_from(total - ip_header).expect("a packet fits in 64 KiB");
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = u16::try_from(total).expect("a packet fits in 64 KiB");
                packet[0] = 0x45;
                packet[2..4].copy_from_slice(&total.to_be_bytes());
                packet[8] = 64;
                packet[9] = 17;
                packet[12..16].copy_from_slice(&src.octets());
                packet[16..20].copy_from_slice(&dst.octets());
                let checksum = header_checksum(&packet[..20]);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&udp_len.to_be_bytes());
                packet[6] = 17;
                packet[7] = 64;
                packet[8..24].copy_from_slice(&src.octets());
                packet[24..40].copy_from_slice(&dst.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                panic!("a packet has one family")
            }
        }
        let udp = &mut packet[ip_header..];
        udp[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        udp[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        udp[8..16].copy_from_slice(&self.id.to_be_bytes());
        packet
    }

    /// Reads what [`Self::packet`] wrote; `None` for anything else, e.g. ICMP.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (src, dst, protocol, udp) = match packet.first()? >> 4 {
            4 => {
                let (header, udp) = packet.split_first_chunk::<20>()?;
                let ip = |at: usize| {
                    Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).ok()?)))
                };
                (ip(12)?, ip(16)?, header[9], udp)
            }
            6 => {
                let (header, udp) = packet.split_first_chunk::<40>()?;
                let ip = |at: usize| {
                    Some(IpAddr::V6(Ipv6Addr::from(
                        <[u8; 16]>::try_from(&header[at..at + 16]).ok()?,
                    )))
                };
                (ip(8)?, ip(24)?, header[6], udp)
            }
            _ => return None,
        };
        if protocol != 17 {
            return None;
        }
        let port = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk()?));
        let id = u64::from_be_bytes(*udp.get(8..)?.first_chunk()?);
        Some(Self { src, dst, src_port: port(0)?, dst_port: port(2)?, id })
    }
}

fn header_checksum(header: &[u8]) -> u16 {
    let words =
        header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !u16::try_from((folded & 0xFFFF) + (folded >> 16)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_back() {
        for (src, dst) in [("100.90.0.1", "100.90.0.2"), ("fd00::1", "fd00::2")] {
            let datagram = Datagram {
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                src_port: 1000,
                dst_port: ECHO_PORT,
                id: 0x0102_0304_0506_0708,
            };
            for len in [0, 100, 1280] {
                let packet = datagram.packet(len);
                assert_eq!(Datagram::parse(&packet), Some(datagram));
                assert!(packet.len() >= len);
                if datagram.src.is_ipv4() {
                    assert_eq!(header_checksum(&packet[..20]), 0);
                }
            }
            assert_eq!(Datagram::parse(&datagram.packet(0)[..30]), None);
        }
    }
}
