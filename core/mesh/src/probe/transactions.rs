//! Probes that wait for their answer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use warren_turn::TransactionId;

use crate::PeerHandle;
use crate::path::Path;
use crate::random::Seeded;

/// How long an answer may take: beyond any RTT worth having.
const LIFETIME: Duration = Duration::from_secs(3);

/// The most probes that wait at a time; the oldest is forgotten.
const MAX_PENDING: usize = 16_384;

/// What a probe was sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To find or confirm a path.
    Path,
    /// The same along a relayed path, asking the peer to try direct ones too.
    Aside,
    /// To see whether the path carries IP packets of this length.
    Mtu(u16),
}

/// A probe that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) peer: PeerHandle,
    pub(crate) path: Path,
    pub(crate) sent: Instant,
    pub(crate) purpose: Purpose,
}

/// All probes that wait, by transaction id. All live equally long, so they expire in order.
#[derive(Debug)]
pub(crate) struct Transactions {
    pending_by_id: HashMap<TransactionId, Pending, Seeded>,
    order: VecDeque<(Instant, TransactionId)>,
}

impl Transactions {
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self { pending_by_id: HashMap::with_hasher(hasher), order: VecDeque::new() }
    }

    pub(crate) fn insert(&mut self, id: TransactionId, pending: Pending) {
        self.expire(pending.sent);
        if self.order.len() >= MAX_PENDING
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.pending_by_id.remove(&oldest);
        }
        self.order.push_back((pending.sent, id));
        self.pending_by_id.insert(id, pending);
    }

    pub(crate) fn get(&self, id: TransactionId) -> Option<&Pending> {
        self.pending_by_id.get(&id)
    }

    pub(crate) fn remove(&mut self, id: TransactionId) {
        self.pending_by_id.remove(&id);
    }

    /// Forgets what has waited too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((sent, id)) = self.order.front().copied() {
            if now.saturating_duration_since(sent) < LIFETIME {
                return;
            }
            self.order.pop_front();
            self.pending_by_id.remove(&id);
        }
    }
}
