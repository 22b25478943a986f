//! Joins received packets into super-packets for the TUN, without copying a payload.
//!
//! Packets of one flow that follow one another (TCP by sequence number, UDP of equal size) are
//! written together: one copy of the headers, then the payloads gathered from where they lie. The
//! rules are those of the kernel's own receive offload, so that cutting the result gives back the
//! same packets: everything in the headers but length, identification, sequence number and
//! checksum is equal; a shorter payload, FIN or PSH ends a group; CWR may only begin one. Checksums
//! of what is joined are verified before, since the joined packet says that they needn't be.
//! Everything else is written alone. Order within a flow is kept.

use std::io::IoSlice;

use crate::checksum::Sum;
use crate::packet::{
    CWR, FIN, Family, Joinable, PSH, TCP, TCP_CHECKSUM, TCP_FLAGS, TCP_SEQ, UDP, UDP_CHECKSUM,
    UDP_LENGTH, be16, be32, pseudo_header,
};

/// Groups that are looked through for a packet's flow; older ones take no more packets.
const WINDOW: usize = 16;
/// The kernel's `UDP_MAX_SEGMENTS`.
const MAX_UDP_SEGMENTS: usize = 64;
const MAX_IP_LEN: usize = 65_535;
const MAX_HEADERS: usize = 40 + 60;

/// What a joined packet consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Whether it is IPv6.
    pub ipv6: bool,
    /// Whether it is UDP rather than TCP.
    pub udp: bool,
    /// Whether its first segment carries CWR.
    pub cwr: bool,
    /// Where the transport header begins.
    pub transport: usize,
    /// Length of all headers.
    pub headers: usize,
    /// Payload bytes of each segment but the last.
    pub size: usize,
}

/// The bytes that a system wants before a packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preamble {
    bytes: [u8; 16],
    len: usize,
}

impl Preamble {
    /// Takes up to 16 bytes.
    ///
    /// # Panics
    ///
    /// When there are more.
    pub fn new(bytes: &[u8]) -> Self {
        let mut preamble = Self { bytes: [0; 16], len: bytes.len() };
        preamble.bytes[..bytes.len()].copy_from_slice(bytes);
        preamble
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Where packets for the host go: [`Tun`](crate::Tun).
pub trait PacketSink {
    /// Whether joined packets of this kind are understood.
    fn joins(&self, udp: bool) -> bool;
    /// What stands before the packet; `None` for one that is written as it is.
    fn preamble(&self, joined: Option<&Joined>) -> Preamble;
    /// Writes one packet, gathered from `buffers`, that stands for `segments`. Errors are counted.
    fn write(&self, buffers: &[IoSlice<'_>], segments: usize);
}

/// Reusable storage for [`TunWrites`].
#[derive(Debug, Default)]
pub struct Coalescer {
    groups: Vec<Group<'static>>,
    spare: Vec<Vec<IoSlice<'static>>>,
}

impl Coalescer {
    /// Has nothing to write.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a round of writes to `sink`, of packets that stay where they are until its end.
    pub fn begin<'s, 'b, S: PacketSink>(&'s mut self, sink: &'s S) -> TunWrites<'s, 'b, S> {
        let groups = std::mem::take(&mut self.groups);
        TunWrites { sink, groups, coalescer: self }
    }
}

/// A round of writes to the TUN; ends with [`flush`](Self::flush), or when dropped.
#[derive(Debug)]
pub struct TunWrites<'s, 'b, S: PacketSink> {
    sink: &'s S,
    groups: Vec<Group<'b>>,
    coalescer: &'s mut Coalescer,
}

#[derive(Debug)]
struct Group<'b> {
    first: &'b [u8],
    shape: Option<Joinable>,
    /// Whether further packets may join.
    open: bool,
    verified: bool,
    /// TCP flags of all packets together.
    flags: u8,
    len: usize,
    segments: usize,
    /// Two places for preamble and headers, then the payloads; empty for a packet alone.
    pieces: Vec<IoSlice<'b>>,
}

impl<'b, S: PacketSink> TunWrites<'_, 'b, S> {
    /// Takes one whole IP packet.
    pub fn push(&mut self, packet: &'b [u8]) {
        let window = self.groups.len().saturating_sub(WINDOW);
        let recent = &mut self.groups[window..];
        let Some(shape) = Joinable::parse(packet) else {
            close_between_same_hosts(recent, packet);
            self.groups.push(Group::alone(packet));
            return;
        };
        if !self.sink.joins(shape.protocol == UDP) {
            self.groups.push(Group::alone(packet));
            return;
        }
        let same_flow =
            recent.iter_mut().rev().find(|group| group.open && group.is_flow_of(packet, &shape));
        if let Some(group) = same_flow {
            if group.try_join(packet, &shape, &mut self.coalescer.spare) {
                return;
            }
            group.open = false;
        }
        self.groups.push(Group::first(packet, shape));
    }

    /// Writes everything that was pushed.
    pub fn flush(self) {
        drop(self);
    }

    fn write_all(&mut self) {
        for group in &mut self.groups {
            if group.segments == 1 {
                let preamble = self.sink.preamble(None);
                self.sink.write(&[IoSlice::new(preamble.as_slice()), IoSlice::new(group.first)], 1);
            } else {
                let pieces = std::mem::take(&mut group.pieces);
                self.coalescer.spare.push(group.write_joined(self.sink, pieces));
            }
        }
    }
}

impl<S: PacketSink> Drop for TunWrites<'_, '_, S> {
    fn drop(&mut self) {
        self.write_all();
        // The same allocation under another lifetime: no element survives `clear`.
        let mut groups = std::mem::take(&mut self.groups);
        groups.clear();
        self.coalescer.groups = groups.into_iter().map(|_| unreachable!()).collect();
    }
}

impl<'b> Group<'b> {
    fn alone(packet: &'b [u8]) -> Self {
        Self {
            first: packet,
            shape: None,
            open: false,
            verified: false,
            flags: 0,
            len: packet.len(),
            segments: 1,
            pieces: Vec::new(),
        }
    }

    fn first(packet: &'b [u8], shape: Joinable) -> Self {
        let flags = if shape.protocol == TCP { packet[shape.transport + TCP_FLAGS] } else { 0 };
        Self { shape: Some(shape), open: flags & (FIN | PSH) == 0, flags, ..Self::alone(packet) }
    }

    fn is_flow_of(&self, packet: &[u8], shape: &Joinable) -> bool {
        let Some(own) = &self.shape else { return false };
        own.family == shape.family
            && own.protocol == shape.protocol
            && own.family.addresses(self.first) == shape.family.addresses(packet)
            && self.first[own.transport..own.transport + 4]
                == packet[shape.transport..shape.transport + 4]
    }

    /// Whether the packet is now part of this group. When not, the flow goes on in another one.
    fn try_join(
        &mut self,
        packet: &'b [u8],
        shape: &Joinable,
        spare: &mut Vec<Vec<IoSlice<'static>>>,
    ) -> bool {
        let Some(own) = self.shape else { return false };
        let size = self.first.len() - own.payload;
        let payload = packet.len() - shape.payload;
        let full = self.len + payload > MAX_IP_LEN
            || (own.protocol == UDP && self.segments >= MAX_UDP_SEGMENTS);
        if own != *shape || payload > size || full || !self.continues(packet, shape) {
            return false;
        }
        if !self.verified {
            self.verified = own.checksums_hold(self.first);
        }
        if !self.verified || !shape.checksums_hold(packet) {
            return false;
        }
        if self.segments == 1 {
            self.pieces = spare.pop().unwrap_or_default();
            self.pieces.extend([IoSlice::new(&[]), IoSlice::new(&[])]);
            self.pieces.push(IoSlice::new(&self.first[own.payload..]));
        }
        self.pieces.push(IoSlice::new(&packet[shape.payload..]));
        self.len += payload;
        self.segments += 1;
        if shape.protocol == TCP {
            self.flags |= packet[shape.transport + TCP_FLAGS];
        }
        self.open = payload == size && self.flags & (FIN | PSH) == 0;
        true
    }

    /// Whether the headers are those of the next segment after this group.
    fn continues(&self, packet: &[u8], shape: &Joinable) -> bool {
        let first = self.first;
        let ip = match shape.family {
            Family::V4 => {
                let dont_fragment = packet[6] & 0x40 != 0;
                let next_id = be16(first, 4).wrapping_add(self.segments as u16);
                packet[1] == first[1]
                    && packet[6] == first[6]
                    && packet[8] == first[8]
                    // Identification means nothing where fragmentation is forbidden (RFC 6864 §4).
                    && (dont_fragment || be16(packet, 4) == next_id)
            }
            Family::V6 => packet[..4] == first[..4] && packet[7] == first[7],
        };
        if !ip || shape.protocol == UDP {
            return ip;
        }
        let (old, new) = (&first[shape.transport..shape.payload], &packet[shape.transport..]);
        let carried = (self.len - shape.payload) as u32;
        let (old_flags, new_flags) = (old[TCP_FLAGS], new[TCP_FLAGS]);
        be32(new, TCP_SEQ) == be32(old, TCP_SEQ).wrapping_add(carried)
            && new[8..13] == old[8..13]
            && new_flags & CWR == 0
            && (old_flags ^ new_flags) & !(CWR | FIN | PSH) == 0
            && new[14..16] == old[14..16]
            && new[18..old.len()] == old[18..]
    }

    fn write_joined<S: PacketSink>(
        &self,
        sink: &S,
        pieces: Vec<IoSlice<'b>>,
    ) -> Vec<IoSlice<'static>> {
        let Some(shape) = self.shape else { return Vec::new() };
        let mut headers = [0; MAX_HEADERS];
        let headers = &mut headers[..shape.payload];
        headers.copy_from_slice(&self.first[..shape.payload]);
        self.adjust(&shape, headers);
        let joined = Joined {
            ipv6: shape.family == Family::V6,
            udp: shape.protocol == UDP,
            cwr: self.flags & CWR != 0,
            transport: shape.transport,
            headers: shape.payload,
            size: self.first.len() - shape.payload,
        };
        let preamble = sink.preamble(Some(&joined));
        let mut pieces: Vec<IoSlice<'_>> = pieces;
        pieces[0] = IoSlice::new(preamble.as_slice());
        pieces[1] = IoSlice::new(headers);
        sink.write(&pieces, self.segments);
        pieces.clear();
        // The same allocation under another lifetime.
        pieces.into_iter().map(|_| unreachable!()).collect()
    }

    /// Makes the first packet's headers those of the whole; the transport checksum covers the
    /// pseudo-header alone, the system does the rest if anybody looks.
    fn adjust(&self, shape: &Joinable, headers: &mut [u8]) {
        match shape.family {
            Family::V4 => {
                headers[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                headers[10..12].fill(0);
                let field = Sum::of(&headers[..20]).field();
                headers[10..12].copy_from_slice(&field);
            }
            Family::V6 => {
                headers[4..6].copy_from_slice(&((self.len - 40) as u16).to_be_bytes());
            }
        }
        let len = (self.len - shape.transport) as u16;
        let pseudo = pseudo_header(shape.family, headers, shape.protocol) + Sum::of_u16(len);
        let transport = &mut headers[shape.transport..];
        let checksum = if shape.protocol == TCP {
            transport[TCP_FLAGS] = self.flags;
            TCP_CHECKSUM
        } else {
            transport[UDP_LENGTH..UDP_LENGTH + 2].copy_from_slice(&len.to_be_bytes());
            UDP_CHECKSUM
        };
        transport[checksum..checksum + 2].copy_from_slice(&pseudo.fold().to_ne_bytes());
    }
}

/// Keeps a packet that can't be joined (a fragment, a bare ACK) behind what came before it.
fn close_between_same_hosts(groups: &mut [Group<'_>], packet: &[u8]) {
    let Some(family) = Family::of(packet) else { return };
    for group in groups {
        let same = group.shape.is_some_and(|shape| {
            shape.family == family && family.addresses(group.first) == family.addresses(packet)
        });
        if same {
            group.open = false;
        }
    }
}
