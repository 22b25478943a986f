//! Packets that wait for a tunnel: bounded for each peer and in all, the oldest gives way.

use std::collections::{BTreeMap, VecDeque};

use crate::{PeerHandle, QUEUE_PER_PEER};

/// The most packets that wait for all peers together.
const MAX_PACKETS: usize = 4096;

/// The most bytes that wait for all peers together.
const MAX_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct Queues {
    packets_by_peer: BTreeMap<PeerHandle, VecDeque<(u64, Vec<u8>)>>,
    /// Who waits the longest: peers by the serial number of each packet.
    peer_by_serial: BTreeMap<u64, PeerHandle>,
    serial: u64,
    bytes: usize,
}

impl Queues {
    /// Adds a packet; returns how many others had to go.
    pub(crate) fn push(&mut self, peer: PeerHandle, packet: &[u8]) -> u64 {
        let mut dropped = 0;
        let full = self.packets_by_peer.get(&peer).is_some_and(|q| q.len() >= QUEUE_PER_PEER);
        if full && self.pop(peer).is_some() {
            dropped += 1;
        }
        self.serial += 1;
        self.peer_by_serial.insert(self.serial, peer);
        self.bytes += packet.len();
        self.packets_by_peer.entry(peer).or_default().push_back((self.serial, packet.to_vec()));
        while self.bytes > MAX_BYTES || self.peer_by_serial.len() > MAX_PACKETS {
            let Some((_, oldest)) = self.peer_by_serial.first_key_value() else { break };
            let oldest = *oldest;
            self.pop(oldest);
            dropped += 1;
        }
        dropped
    }

    /// Takes a peer's oldest packet.
    pub(crate) fn pop(&mut self, peer: PeerHandle) -> Option<Vec<u8>> {
        let queue = self.packets_by_peer.get_mut(&peer)?;
        let popped = queue.pop_front();
        if queue.is_empty() {
            self.packets_by_peer.remove(&peer);
        }
        let (serial, packet) = popped?;
        self.peer_by_serial.remove(&serial);
        self.bytes -= packet.len();
        Some(packet)
    }

    pub(crate) fn is_waiting(&self, peer: PeerHandle) -> bool {
        self.packets_by_peer.contains_key(&peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerHandle = PeerHandle(1);
    const B: PeerHandle = PeerHandle(2);

    #[test]
    fn packets_come_out_in_order_and_the_oldest_gives_way() {
        let mut queues = Queues::default();
        let dropped: u64 = (0..QUEUE_PER_PEER as u8 + 2).map(|i| queues.push(A, &[i])).sum();
        assert_eq!(dropped, 2);
        assert_eq!(queues.pop(A), Some(vec![2]));
        assert_eq!(queues.pop(A), Some(vec![3]));
        assert_eq!(queues.pop(B), None);
    }

    #[test]
    fn all_queues_together_are_bounded_in_bytes_and_packets() {
        let mut queues = Queues::default();
        let big = vec![0; 60_000];
        for peer in 0..1000 {
            for _ in 0..10 {
                queues.push(PeerHandle(peer), &big);
            }
            assert!(queues.bytes <= MAX_BYTES);
        }
        for peer in 0..1000 {
            for _ in 0..10 {
                queues.push(PeerHandle(peer), &[0]);
            }
            assert!(queues.peer_by_serial.len() <= MAX_PACKETS);
        }
        for peer in 0..1000 {
            while queues.pop(PeerHandle(peer)).is_some() {}
        }
        assert_eq!((queues.bytes, queues.packets_by_peer.len()), (0, 0));
        assert!(queues.peer_by_serial.is_empty());
    }
}
