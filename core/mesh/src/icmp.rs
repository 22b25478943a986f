//! ICMP errors for the own host, so that applications learn at once what can't be reached.
//!
//! They are written as if the destination itself, or a router there, had sent them: a source that
//! the own kernel routes to the mesh's interface. One that claimed to be the own host would be
//! dropped there as a martian. Never about multicast or broadcast, ICMP errors, or any but the
//! first fragment (RFC 1122 §3.2.2, RFC 4443 §2.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ip::{self, Header, IPV6_HEADER};
use crate::probe::budget::Rate;

/// How many errors are written at once, and per second after (RFC 4443 §2.4 f).
pub(crate) const LIMIT: Rate = Rate { burst: 50, per_second: 20 };

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The most that is quoted of the offending packet: RFC 1812 §4.3.2.3 and RFC 4443 §2.4 c.
const QUOTE_V4: usize = 576 - 28;
const QUOTE_V6: usize = 1280 - 48;

/// What went wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The destination can't be reached, or doesn't exist.
    Unreachable,
    /// The policy forbids it.
    Prohibited,
    /// The packet is too long: this many bytes would pass.
    TooBig(u16),
}

/// Writes the error about `packet`, if there may be one.
pub(crate) fn error(packet: &[u8], problem: Problem) -> Option<Vec<u8>> {
    let header = ip::parse(packet)?;
    if header.later_fragment || is_icmp_error(packet, &header) {
        return None;
    }
    match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Some(error_v4(packet, source, destination, problem))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Some(error_v6(packet, source, destination, problem))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

fn is_icmp_error(packet: &[u8], header: &Header) -> bool {
    let kind = packet.get(header.len).copied();
    match header.protocol {
        ICMP => matches!(kind, None | Some(3 | 4 | 5 | 11 | 12)),
        ICMPV6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    }
}

fn error_v4(packet: &[u8], to: Ipv4Addr, from: Ipv4Addr, problem: Problem) -> Vec<u8> {
    let quote = &packet[..packet.len().min(QUOTE_V4)];
    let (kind, code, rest) = match problem {
        Problem::Unreachable => (3, 1, 0),
        Problem::Prohibited => (3, 13, 0),
        Problem::TooBig(mtu) => (3, 4, u32::from(mtu)),
    };
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend_from_slice(&rest.to_be_bytes());
    icmp.extend_from_slice(quote);
    let sum = ip::checksum(&icmp, 0);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());

    let total = (20 + icmp.len()) as u16;
    let mut packet = vec![0x45, 0xC0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, ICMP, 0, 0]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let sum = ip::checksum(&packet, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&icmp);
    packet
}

fn error_v6(packet: &[u8], to: Ipv6Addr, from: Ipv6Addr, problem: Problem) -> Vec<u8> {
    let quote = &packet[..packet.len().min(QUOTE_V6)];
    let (kind, code, rest) = match problem {
        Problem::Unreachable => (1, 3, 0),
        Problem::Prohibited => (1, 1, 0),
        Problem::TooBig(mtu) => (2, 0, u32::from(mtu)),
    };
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend_from_slice(&rest.to_be_bytes());
    icmp.extend_from_slice(quote);
    let len = icmp.len() as u16;

    let mut packet = Vec::with_capacity(IPV6_HEADER + icmp.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&[ICMPV6, 64]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let pseudo = ones_sum(&packet[8..40]) + u32::from(len) + u32::from(ICMPV6);
    let sum = ip::checksum(&icmp, pseudo);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&icmp);
    packet
}

fn ones_sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet =
            vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn an_ipv4_error_goes_back_to_the_source_with_valid_checksums_and_a_quote() {
        let packet = v4(17, &[7; 1000]);
        let error = error(&packet, Problem::TooBig(1280)).unwrap();
        let header = ip::parse(&error).unwrap();
        assert_eq!(header.destination, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(header.source, "10.0.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(ip::checksum(&error[..20], 0), 0);
        assert_eq!(ip::checksum(&error[20..], 0), 0);
        assert_eq!(&error[20..28][..2], &[3, 4]);
        assert_eq!(u16::from_be_bytes([error[26], error[27]]), 1280);
        assert_eq!(error.len(), 576);
        assert_eq!(&error[28..], &packet[..548]);
    }

    #[test]
    fn an_ipv6_error_has_a_valid_checksum() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        packet.extend_from_slice(&[1; 16]);
        packet.extend_from_slice(&[2; 16]);
        packet.extend_from_slice(&[3; 8]);
        let error = error(&packet, Problem::Unreachable).unwrap();
        assert_eq!(&error[8..24], &[2; 16]);
        assert_eq!(&error[24..40], &[1; 16]);
        let pseudo = ones_sum(&error[8..40]) + (error.len() - 40) as u32 + u32::from(ICMPV6);
        assert_eq!(ip::checksum(&error[40..], pseudo), 0);
        assert_eq!(&error[40..42], &[1, 3]);
        assert_eq!(&error[48..], &packet[..]);
    }

    #[test]
    fn errors_and_later_fragments_get_no_error() {
        assert!(error(&v4(ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]), Problem::Unreachable).is_none());
        assert!(error(&v4(ICMP, &[8, 0, 0, 0, 0, 0, 0, 0]), Problem::Unreachable).is_some());
        let mut fragment = v4(17, &[0; 8]);
        fragment[7] = 10;
        assert!(error(&fragment, Problem::Unreachable).is_none());
    }
}
