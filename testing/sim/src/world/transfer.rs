//! A transfer with TCP's patience: one segment under way, acknowledged by the other end, repeated
//! after a retransmission timeout that doubles (RFC 6298: at least 200 ms as on Linux, at most 60 s).
//! What a user sees of a dead path is the longest time without progress.

use std::time::{Duration, Instant};

use super::{Happening, NodeId, World};
use crate::app::{Datagram, TRANSFER_PORT};

const MIN_RTO: Duration = Duration::from_millis(200);
const MAX_RTO: Duration = Duration::from_secs(60);

/// The port of the end that sends.
pub(super) const SENDER_PORT: u16 = TRANSFER_PORT + 1000;

/// A transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferId(usize);

#[derive(Debug)]
pub(super) struct Transfer {
    from: NodeId,
    to: NodeId,
    interval: Duration,
    ends: Instant,
    /// Counts what is scheduled, so that a timeout which was overtaken does nothing.
    turn: u64,
    rto: Duration,
    srtt: Option<Duration>,
    sent_at: Instant,
    repeated: bool,
    acknowledged: u64,
    retransmissions: u64,
    progress: Instant,
    stall: Duration,
}

/// What became of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferReport {
    /// Segments that were acknowledged.
    pub acknowledged: u64,
    /// Segments that were sent again.
    pub retransmissions: u64,
    /// The longest time without progress.
    pub stall: Duration,
}

impl World {
    /// Begins a transfer: a segment each `interval`, if the one before is acknowledged.
    pub fn transfer(
        &mut self,
        from: NodeId,
        to: NodeId,
        interval: Duration,
        duration: Duration,
    ) -> TransferId {
        let id = self.transfers.len();
        self.transfers.push(Transfer {
            from,
            to,
            interval,
            ends: self.now + duration,
            turn: 0,
            rto: Duration::from_secs(1),
            srtt: None,
            sent_at: self.now,
            repeated: false,
            acknowledged: 0,
            retransmissions: 0,
            progress: self.now,
            stall: Duration::ZERO,
        });
        self.send_segment(id);
        TransferId(id)
    }

    /// What became of a transfer so far.
    pub fn transfer_report(&self, transfer: TransferId) -> TransferReport {
        let Transfer { acknowledged, retransmissions, stall, progress, ends, .. } =
            self.transfers[transfer.0];
        let open = self.now.min(ends).saturating_duration_since(progress);
        TransferReport { acknowledged, retransmissions, stall: stall.max(open) }
    }

    /// Forgets the stalls so far.
    pub fn reset_stall(&mut self, transfer: TransferId) {
        self.transfers[transfer.0].stall = Duration::ZERO;
    }

    fn send_segment(&mut self, id: usize) {
        let now = self.now;
        let transfer = &mut self.transfers[id];
        transfer.turn += 1;
        transfer.sent_at = now;
        let (from, to, turn, rto) = (transfer.from, transfer.to, transfer.turn, transfer.rto);
        let datagram = Datagram {
            src: self.mesh_ip(from),
            dst: self.mesh_ip(to),
            src_port: SENDER_PORT,
            dst_port: TRANSFER_PORT,
            id: id as u64,
        };
        self.at(now + rto, Happening::Transfer(id, turn));
        let _ = self.inject(from, &datagram.packet(1000));
    }

    pub(super) fn transfer_due(&mut self, id: usize, turn: u64) {
        let now = self.now;
        let transfer = &mut self.transfers[id];
        if transfer.turn != turn || now >= transfer.ends {
            return;
        }
        // Due without an acknowledgement: the segment is lost. Due with one: the next segment.
        let lost = transfer.progress < transfer.sent_at || transfer.acknowledged == 0;
        if lost {
            transfer.retransmissions += 1;
            transfer.repeated = true;
            transfer.rto = (transfer.rto * 2).min(MAX_RTO);
        } else {
            transfer.repeated = false;
        }
        self.send_segment(id);
    }

    pub(super) fn transfer_delivered(
        &mut self,
        node: NodeId,
        id: usize,
        datagram: Datagram,
        len: usize,
    ) {
        assert_eq!(self.transfers[id].to, node, "a transfer went astray");
        let _ = self.inject(node, &datagram.reply().packet(len.min(80)));
    }

    pub(super) fn transfer_acknowledged(&mut self, node: NodeId, id: usize) {
        let now = self.now;
        let transfer = &mut self.transfers[id];
        assert_eq!(transfer.from, node, "an acknowledgement went astray");
        if transfer.progress >= transfer.sent_at && transfer.acknowledged > 0 {
            return; // a duplicate
        }
        if !transfer.repeated {
            let rtt = now - transfer.sent_at;
            let srtt = transfer.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8);
            transfer.srtt = Some(srtt);
        }
        transfer.rto = (transfer.srtt.unwrap_or(MIN_RTO) * 2).max(MIN_RTO);
        transfer.acknowledged += 1;
        transfer.stall = transfer.stall.max(now - transfer.progress);
        transfer.progress = now;
        transfer.turn += 1;
        let (turn, next) = (transfer.turn, now + transfer.interval);
        self.at(next, Happening::Transfer(id, turn));
    }
}
