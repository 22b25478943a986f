//! Super-packets: what the kernel gives instead of many packets of one flow, and what it takes.
//!
//! A read from the TUN gives one IP packet of up to 64 KiB and how to cut it (`struct
//! virtio_net_hdr`): every `gso_size` bytes of payload become a packet of their own, under a copy
//! of the headers in which lengths, identification, sequence number, flags and checksums are
//! adjusted. [`SuperPacket::write_segment`] does that straight into the place where the segment
//! will be sealed.

use crate::checksum::Sum;
use crate::packet::{
    CWR, FIN, Family, PSH, TCP, TCP_CHECKSUM, TCP_FLAGS, TCP_SEQ, UDP, UDP_CHECKSUM, UDP_HEADER,
    UDP_LENGTH, be16, be32, pseudo_header,
};

/// Work that was left undone on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmentation {
    /// Nothing: a packet as it goes on the wire.
    Complete,
    /// A packet whose transport checksum covers the pseudo-header alone as yet.
    Checksum {
        /// Where the checksummed part begins.
        start: usize,
        /// The checksum's offset in that part.
        offset: usize,
    },
    /// TCP to be cut (TSO).
    Tcp {
        /// Where the TCP header begins.
        start: usize,
        /// Payload bytes of each segment but the last.
        size: usize,
    },
    /// UDP to be cut (USO).
    Udp {
        /// Where the UDP header begins.
        start: usize,
        /// Payload bytes of each segment but the last.
        size: usize,
    },
}

/// A packet as the system handed it over, possibly standing for many.
#[derive(Debug, Clone, Copy)]
pub struct SuperPacket<'a> {
    bytes: &'a [u8],
    cut: Cut,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    Complete,
    Checksum { start: usize, offset: usize },
    Segments(Template),
}

/// What is the same in all segments, computed once.
#[derive(Debug, Clone, Copy)]
struct Template {
    family: Family,
    protocol: u8,
    transport: usize,
    headers: usize,
    size: usize,
    segments: usize,
    /// IPv4 header without total length, identification and checksum.
    ip_sum: Sum,
    /// Pseudo-header and transport header without lengths, sequence number, flags and checksum.
    transport_sum: Sum,
}

impl<'a> SuperPacket<'a> {
    /// Takes a packet that is complete.
    pub fn complete(bytes: &'a [u8]) -> Self {
        Self { bytes, cut: Cut::Complete }
    }

    /// Takes a packet with work left to do; `None` where the headers don't allow it.
    pub fn new(bytes: &'a [u8], segmentation: Segmentation) -> Option<Self> {
        let cut = match segmentation {
            Segmentation::Complete => Cut::Complete,
            Segmentation::Checksum { start, offset } => {
                if start.checked_add(offset)?.checked_add(2)? > bytes.len() {
                    return None;
                }
                Cut::Checksum { start, offset }
            }
            Segmentation::Tcp { start, size } => {
                Cut::Segments(Template::new(bytes, TCP, start, size)?)
            }
            Segmentation::Udp { start, size } => {
                Cut::Segments(Template::new(bytes, UDP, start, size)?)
            }
        };
        Some(Self { bytes, cut })
    }

    /// The packet, beginning with its IP header. Lengths and checksums of a super-packet are those
    /// of the whole; addresses, ports and protocol are every segment's.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many packets it stands for, at least 1.
    pub fn segments(&self) -> usize {
        match self.cut {
            Cut::Complete | Cut::Checksum { .. } => 1,
            Cut::Segments(template) => template.segments,
        }
    }

    /// Length of segment `index` in bytes, IP header included.
    ///
    /// All but the last have the length of the first.
    pub fn segment_len(&self, index: usize) -> usize {
        match self.cut {
            Cut::Complete | Cut::Checksum { .. } => self.bytes.len(),
            Cut::Segments(template) => {
                let payload = self.bytes.len() - template.headers;
                let begin = index * template.size;
                template.headers + template.size.min(payload - begin)
            }
        }
    }

    /// Writes segment `index` as it goes on the wire to the front of `out`; returns its length.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`segments`](Self::segments) or `out` is shorter than
    /// [`segment_len`](Self::segment_len).
    pub fn write_segment(&self, index: usize, out: &mut [u8]) -> usize {
        let len = self.segment_len(index);
        let out = &mut out[..len];
        match self.cut {
            Cut::Complete => out.copy_from_slice(self.bytes),
            Cut::Checksum { start, offset } => {
                out.copy_from_slice(self.bytes);
                // The field holds the pseudo-header's sum and takes part in the sum.
                let sum = Sum::of(&out[start..]);
                let is_udp = offset == UDP_CHECKSUM;
                let field = if is_udp { sum.udp_field() } else { sum.field() };
                out[start + offset..start + offset + 2].copy_from_slice(&field);
            }
            Cut::Segments(template) => template.write(self.bytes, index, out),
        }
        len
    }

    /// Calls `each` with every segment as it goes on the wire, written to `scratch`.
    pub fn for_each_segment(&self, scratch: &mut Vec<u8>, mut each: impl FnMut(&mut [u8])) {
        scratch.resize(self.segment_len(0), 0);
        for index in 0..self.segments() {
            let len = self.write_segment(index, scratch);
            each(&mut scratch[..len]);
        }
    }
}

impl Template {
    fn new(bytes: &[u8], protocol: u8, transport: usize, size: usize) -> Option<Self> {
        let family = Family::of(bytes)?;
        let ip_header = match family {
            Family::V4 => usize::from(bytes[0] & 0xf) * 4,
            Family::V6 => 40,
        };
        let least = if protocol == TCP { 20 } else { UDP_HEADER };
        if size == 0 || transport < ip_header || ip_header < 20 || bytes.len() < transport + least {
            return None;
        }
        let header = match protocol {
            TCP => usize::from(bytes[transport + 12] >> 4) * 4,
            _ => UDP_HEADER,
        };
        let headers = transport + header;
        if header < least || bytes.len() <= headers {
            return None;
        }
        let segments = (bytes.len() - headers).div_ceil(size);
        let ip_sum = match family {
            Family::V4 => {
                Sum::of(&bytes[..2]) + Sum::of(&bytes[6..10]) + Sum::of(&bytes[12..ip_header])
            }
            Family::V6 => Sum::default(),
        };
        let pseudo = pseudo_header(family, bytes, protocol);
        let at = &bytes[transport..headers];
        let transport_sum = match protocol {
            TCP => {
                pseudo
                    + Sum::of(&at[..4])
                    + Sum::of(&at[8..12])
                    + Sum::of(&at[14..16])
                    + Sum::of(&at[18..])
            }
            _ => pseudo + Sum::of(&at[..4]),
        };
        Some(Self { family, protocol, transport, headers, size, segments, ip_sum, transport_sum })
    }

    fn write(&self, bytes: &[u8], index: usize, out: &mut [u8]) {
        let begin = self.headers + index * self.size;
        let payload = out.len() - self.headers;
        out[..self.headers].copy_from_slice(&bytes[..self.headers]);
        out[self.headers..].copy_from_slice(&bytes[begin..begin + payload]);
        let payload_sum = Sum::of(&out[self.headers..]);
        self.write_ip(index, out);
        let len = (out.len() - self.transport) as u16;
        let sum = self.transport_sum + Sum::of_u16(len) + payload_sum;
        let header = &mut out[self.transport..];
        if self.protocol == TCP {
            let seq = be32(header, TCP_SEQ).wrapping_add((index * self.size) as u32);
            header[TCP_SEQ..TCP_SEQ + 4].copy_from_slice(&seq.to_be_bytes());
            if index + 1 < self.segments {
                header[TCP_FLAGS] &= !(FIN | PSH);
            }
            if index > 0 {
                header[TCP_FLAGS] &= !CWR;
            }
            let sum = sum + Sum::of_u32(seq) + Sum::of(&header[12..14]);
            header[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&sum.field());
        } else {
            header[UDP_LENGTH..UDP_LENGTH + 2].copy_from_slice(&len.to_be_bytes());
            let sum = sum + Sum::of_u16(len);
            header[UDP_CHECKSUM..UDP_CHECKSUM + 2].copy_from_slice(&sum.udp_field());
        }
    }

    fn write_ip(&self, index: usize, out: &mut [u8]) {
        match self.family {
            Family::V4 => {
                let len = out.len() as u16;
                let id = be16(out, 4).wrapping_add(index as u16);
                out[2..4].copy_from_slice(&len.to_be_bytes());
                out[4..6].copy_from_slice(&id.to_be_bytes());
                let sum = self.ip_sum + Sum::of_u16(len) + Sum::of_u16(id);
                out[10..12].copy_from_slice(&sum.field());
            }
            Family::V6 => {
                let len = (out.len() - 40) as u16;
                out[4..6].copy_from_slice(&len.to_be_bytes());
            }
        }
    }
}
