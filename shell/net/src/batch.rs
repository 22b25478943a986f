//! Outgoing datagrams, sealed where they will be sent from.
//!
//! A [`SendBatch`] is one contiguous buffer of datagrams to one destination: all of one length (the
//! stride) but for the last, which may be shorter. That is what the kernel's UDP segmentation
//! offload takes in a single call.
//!
//! ```text
//! |<-------- stride -------->|<-------- stride -------->|<- shorter ->|
//! | headroom | packet | tail | headroom | packet | tail | head | … |
//! ```

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use crate::split::SuperPacket;

/// The most bytes in one batch: the largest UDP payload over IPv4.
pub const MAX_BATCH_BYTES: usize = 65_507;
/// The most datagrams in one batch: the kernel's `UDP_MAX_SEGMENTS`.
pub const MAX_BATCH_SEGMENTS: usize = 64;

const MAX_WAITING: usize = 32;
const MAX_SPARE: usize = 4;

/// How a packet lies in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLayout {
    /// Bytes before the packet.
    pub headroom: usize,
    /// Bytes after the packet and its padding.
    pub tailroom: usize,
    /// The packet is padded to a multiple of this; 1 for none.
    pub align: usize,
    /// Padding doesn't go beyond this packet length.
    pub mtu: usize,
}

impl SlotLayout {
    /// Length of the slot of a packet of `packet_len` bytes.
    pub fn slot_len(&self, packet_len: usize) -> usize {
        let padded = packet_len.next_multiple_of(self.align.max(1)).min(self.mtu.max(packet_len));
        self.headroom + padded + self.tailroom
    }
}

/// Datagrams to one destination in one buffer.
#[derive(Debug)]
pub struct SendBatch {
    buffer: Box<[u8]>,
    remote: SocketAddr,
    len: usize,
    stride: usize,
    segments: usize,
    closed: bool,
    /// Bytes that the system has taken already.
    sent: usize,
}

impl SendBatch {
    fn new() -> Self {
        Self {
            buffer: vec![0; MAX_BATCH_BYTES].into_boxed_slice(),
            remote: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            len: 0,
            stride: 0,
            segments: 0,
            closed: false,
            sent: 0,
        }
    }

    /// Where it goes.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Length of every datagram but the last, in bytes.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The bytes that are still to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.buffer[self.sent..self.len]
    }

    /// How many datagrams are still to be sent.
    pub fn unsent_segments(&self) -> usize {
        if self.stride == 0 { 0 } else { (self.len - self.sent).div_ceil(self.stride) }
    }

    /// Notes that the system took the first of the unsent datagrams.
    pub(crate) fn advance(&mut self) {
        self.sent = (self.sent + self.stride).min(self.len);
    }

    fn clear(&mut self) {
        self.len = 0;
        self.stride = 0;
        self.segments = 0;
        self.closed = false;
        self.sent = 0;
    }

    fn accepts(&self, remote: SocketAddr, slot_len: usize) -> bool {
        self.segments == 0
            || (!self.closed
                && self.remote == remote
                && slot_len <= self.stride
                && self.segments < MAX_BATCH_SEGMENTS
                && self.len + slot_len <= MAX_BATCH_BYTES)
    }

    /// Fills the next slot; `fill` says how long the datagram became, 0 for none.
    fn append(
        &mut self,
        remote: SocketAddr,
        slot_len: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let slot = &mut self.buffer[self.len..self.len + slot_len];
        let datagram_len = fill(slot).min(slot_len);
        if datagram_len == 0 {
            return;
        }
        if self.segments == 0 {
            self.remote = remote;
            self.stride = datagram_len;
        }
        self.closed = datagram_len < self.stride;
        self.segments += 1;
        self.len += datagram_len;
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The system took it, or refused it for good (counted).
    Done,
    /// The system's buffer is full: try again once it is writable.
    Blocked,
}

/// Where batches go: [`UdpSockets`](crate::UdpSockets).
pub trait BatchSink {
    /// Sends what is unsent of `batch`, without waiting.
    fn try_send_batch(&self, batch: &mut SendBatch) -> Sent;
}

/// The way out of the data path: splits super-packets, has each segment sealed in its final place,
/// and sends.
#[derive(Debug)]
pub struct Outgoing {
    current: SendBatch,
    waiting: VecDeque<SendBatch>,
    spare: Vec<SendBatch>,
    dropped: u64,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self::new()
    }
}

impl Outgoing {
    /// Has nothing to send.
    pub fn new() -> Self {
        Self { current: SendBatch::new(), waiting: VecDeque::new(), spare: Vec::new(), dropped: 0 }
    }

    /// Writes each segment of `packet` into a slot, at `layout.headroom`, and calls
    /// `seal(slot, packet_len)` on it, which returns the datagram's length (0 drops the segment).
    ///
    /// The slot has exactly [`SlotLayout::slot_len`] bytes; those after the packet are not zeroed.
    /// Batches go out as they fill up; [`flush`](Self::flush) sends the rest.
    pub fn push(
        &mut self,
        sink: &impl BatchSink,
        packet: &SuperPacket<'_>,
        remote: SocketAddr,
        layout: SlotLayout,
        mut seal: impl FnMut(&mut [u8], usize) -> usize,
    ) {
        for index in 0..packet.segments() {
            let slot_len = layout.slot_len(packet.segment_len(index));
            if slot_len > MAX_BATCH_BYTES {
                self.dropped += 1;
                continue;
            }
            if !self.current.accepts(remote, slot_len) {
                self.dispatch(sink);
            }
            self.current.append(remote, slot_len, |slot| {
                let packet_len = packet.write_segment(index, &mut slot[layout.headroom..]);
                seal(slot, packet_len)
            });
        }
    }

    /// Sends everything that was pushed; what the system can't take yet stays, in order.
    pub fn flush(&mut self, sink: &impl BatchSink) {
        while let Some(batch) = self.waiting.front_mut() {
            if sink.try_send_batch(batch) == Sent::Blocked {
                break;
            }
            let batch = self.waiting.pop_front().expect("front exists");
            self.recycle(batch);
        }
        self.dispatch(sink);
    }

    /// Whether the system's buffer was full: wait until the socket is writable, then
    /// [`flush`](Self::flush), before more is pushed.
    pub fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Datagrams lost because the caller pushed on although blocked, or because a packet had no
    /// room in a datagram.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn dispatch(&mut self, sink: &impl BatchSink) {
        if self.current.segments == 0 {
            return;
        }
        if self.waiting.is_empty() && sink.try_send_batch(&mut self.current) == Sent::Done {
            self.current.clear();
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.dropped += self.current.unsent_segments() as u64;
            self.current.clear();
            return;
        }
        let fresh = self.spare.pop().unwrap_or_else(SendBatch::new);
        self.waiting.push_back(std::mem::replace(&mut self.current, fresh));
    }

    fn recycle(&mut self, mut batch: SendBatch) {
        if self.spare.len() < MAX_SPARE {
            batch.clear();
            self.spare.push(batch);
        }
    }
}
