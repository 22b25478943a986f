//! Without the broker: holes towards every peer of the map are kept open.
//!
//! Each node probes the peers of its cached map on all their endpoints each 20 s. A NAT keeps a
//! hole open for longer than that, so that the holes of both sides overlap, and a device that starts
//! cold or roams is heard where it knocks. The peers are taken in lots, spread over the 20 s.
//!
//! A peer that needs a relay can't say so any more. So each side stands by, bound to the other, at
//! the relay that both compute from the map; and where no STUN server answers, the relays tell the
//! own address.

use std::ops::Bound;
use std::time::{Duration, Instant};

use super::Mesh;
use crate::path::Path;
use crate::probe::transactions::Purpose;
use crate::timers::Timer;
use crate::{BrokerState, PeerHandle};

/// Every peer has its turn once in this time (protocols.md §4).
const ROUND: Duration = Duration::from_secs(20);

/// The most peers that are reached through relays, or waited for there, while others are added.
const MAX_STANDING_BY: usize = 64;

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
        self.stand_by(handle, now);
        let targets: Vec<Path> = match self.peers.get(handle) {
            Some(peer) => peer.candidates.iter().map(|(path, _)| path).collect(),
            None => return,
        };
        for target in targets {
            self.send_probe(handle, target, Purpose::Path, now);
        }
    }

    /// Waits for a peer that needs a relay at the one that both sides choose.
    fn stand_by(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        let needs_relay = self.is_relay_only(peer) || self.hopeless(peer, now).is_some();
        if peer.online
            && needs_relay
            && self.relays.users() < MAX_STANDING_BY
            && let Some(relay) = self.choose_relay(handle, now)
            && self.relays.is_virtual(relay)
            && !peer.relaying.used.contains(&relay)
        {
            // The choice may have changed: both sides come to the same, in the end.
            self.leave_relays(handle, now);
            self.use_relay(handle, relay, now);
        }
    }

    /// The broker is back, and can call a peer to a relay when one is wanted.
    pub(super) fn stand_down(&mut self, now: Instant) {
        for handle in self.peers.handles() {
            let Some(peer) = self.peers.get(handle) else { continue };
            if !peer.relaying.used.is_empty() && peer.path.is_none() && peer.seek.is_none() {
                self.leave_relays(handle, now);
            }
        }
    }

    /// Asks the relays for the own address as long as the broker and all STUN servers are away.
    pub(super) fn choose_stun(&mut self, now: Instant) {
        let Some(netmap) = &self.netmap else { return };
        let mut servers = netmap.stun.clone();
        let blind = self.outside.nat().udp == Some(false) || self.stun_by_relays;
        self.stun_by_relays = self.broker == Some(BrokerState::Lost) && blind;
        if self.stun_by_relays {
            servers.extend(netmap.relays.iter().flat_map(|relay| &relay.udp));
        }
        self.outside.set_servers(&servers, now);
    }
}
