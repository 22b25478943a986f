//! Without the broker: holes towards every peer of the map are kept open.
//!
//! Each node probes the peers of its cached map on all their endpoints each 20 s. A NAT keeps a
//! hole open for longer than that, so that the holes of both sides overlap, and a device that starts
//! cold or roams is heard where it knocks. The peers are taken in lots, spread over the 20 s.

use std::ops::Bound;
use std::time::{Duration, Instant};

use super::Mesh;
use crate::path::Path;
use crate::probe::transactions::Purpose;
use crate::timers::Timer;
use crate::{BrokerState, PeerHandle};

/// Every peer has its turn once in this time (protocols.md §4).
const ROUND: Duration = Duration::from_secs(20);

/// How many peers are probed at a time.
const LOT: usize = 32;

impl Mesh {
    /// Knocks at the next lot of peers, if the broker is lost.
    pub(super) fn cold_round(&mut self, now: Instant) {
        if self.broker != Some(BrokerState::Lost) {
            return;
        }
        let from = self.cold_cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let lot: Vec<_> = self.peers.ids_from(from).take(LOT).collect();
        self.cold_cursor = if lot.len() < LOT { None } else { lot.last().map(|(id, _)| *id) };
        for (_, handle) in lot {
            self.knock(handle, now);
        }
        let lots = u32::try_from(self.peers.len() / LOT + 1).unwrap_or(u32::MAX);
        self.timers.set(Timer::Cold, now + ROUND / lots);
    }

    /// Probes every endpoint of a peer once. One with a path, or a search, has its own probes.
    fn knock(&mut self, handle: PeerHandle, now: Instant) {
        if self.peers.get(handle).is_none_or(|peer| peer.path.is_some() || peer.seek.is_some()) {
            return;
        }
        self.publish_candidates(handle, now);
        let targets: Vec<Path> = match self.peers.get(handle) {
            Some(peer) => peer.candidates.iter().map(|(path, _)| path).collect(),
            None => return,
        };
        for target in targets {
            self.send_probe(handle, target, Purpose::Path, now);
        }
    }
}
