//! Just enough of IP, TCP and UDP to split and coalesce; anything odd is left alone.

use crate::checksum::Sum;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const UDP_HEADER: usize = 8;

pub(crate) const TCP_SEQ: usize = 4;
pub(crate) const TCP_FLAGS: usize = 13;
pub(crate) const TCP_CHECKSUM: usize = 16;
pub(crate) const UDP_LENGTH: usize = 4;
pub(crate) const UDP_CHECKSUM: usize = 6;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// Which IP a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// By the first four bits.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 if packet.len() >= 20 => Some(Self::V4),
            6 if packet.len() >= 40 => Some(Self::V6),
            _ => None,
        }
    }

    /// Source and destination address, next to each other in both headers.
    pub(crate) fn addresses(self, packet: &[u8]) -> &[u8] {
        match self {
            Self::V4 => &packet[12..20],
            Self::V6 => &packet[8..40],
        }
    }
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The pseudo-header's sum without its length (RFC 9293 §3.1, RFC 8200 §8.1).
pub(crate) fn pseudo_header(family: Family, packet: &[u8], protocol: u8) -> Sum {
    Sum::of(family.addresses(packet)) + Sum::of_u16(u16::from(protocol))
}

/// A whole TCP or UDP packet that may be joined with its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Joinable {
    pub(crate) family: Family,
    pub(crate) protocol: u8,
    /// Where the TCP or UDP header begins.
    pub(crate) transport: usize,
    /// Where the payload begins.
    pub(crate) payload: usize,
}

impl Joinable {
    /// `None` for what must be passed on as it is: other protocols, fragments, options in IPv4,
    /// extension headers in IPv6, lengths that disagree, no payload, UDP without a checksum, TCP
    /// flags other than ACK, PSH, FIN, ECE and CWR.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let family = Family::of(packet)?;
        let (transport, protocol, ip_len) = match family {
            Family::V4 => {
                // No options; neither a fragment nor the reserved bit.
                if packet[0] != 0x45 || packet[6] & 0xbf != 0 || packet[7] != 0 {
                    return None;
                }
                (20, packet[9], usize::from(be16(packet, 2)))
            }
            Family::V6 => (40, packet[6], 40 + usize::from(be16(packet, 4))),
        };
        if ip_len != packet.len() {
            return None;
        }
        let payload = match protocol {
            TCP => {
                if packet.len() < transport + 20 {
                    return None;
                }
                let header = usize::from(packet[transport + 12] >> 4) * 4;
                let flags = packet[transport + TCP_FLAGS];
                if header < 20 || flags & ACK == 0 || flags & !(ACK | PSH | FIN | ECE | CWR) != 0 {
                    return None;
                }
                transport + header
            }
            UDP => {
                if packet.len() < transport + UDP_HEADER
                    || usize::from(be16(packet, transport + UDP_LENGTH)) != packet.len() - transport
                    || be16(packet, transport + UDP_CHECKSUM) == 0
                {
                    return None;
                }
                transport + UDP_HEADER
            }
            _ => return None,
        };
        (payload < packet.len()).then_some(Self { family, protocol, transport, payload })
    }

    /// Whether the checksums of the packet hold, IPv4's header and the transport's.
    pub(crate) fn checksums_hold(&self, packet: &[u8]) -> bool {
        let len = (packet.len() - self.transport) as u16;
        let transport = pseudo_header(self.family, packet, self.protocol)
            + Sum::of_u16(len)
            + Sum::of(&packet[self.transport..]);
        transport.fold() == 0xffff
            && (self.family == Family::V6 || Sum::of(&packet[..20]).fold() == 0xffff)
    }
}
