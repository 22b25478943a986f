//! Pairs without a direct path: when a relay is due, which, and what goes on beside it.
//!
//! A search for a direct path gets a head start; only when that is over without an answer is a
//! relay touched, by both sides at about the same time, because the word of the initiator names it.
//! Where both NATs map per destination, where UDP is blocked, or where it was learned before that
//! there is no direct path, there is no head start. The search goes on beside the relayed path, ever
//! more seldom; after it, direct paths are tried now and then (`retest`).

use std::time::{Duration, Instant};

use warren_proto::RelayChoice;
use warren_turn::virtual_relayed;

use super::Mesh;
use crate::candidates::canonical;
use crate::path::{Path, Via};
use crate::peer::{Peer, Wish, is_recent};
use crate::probe::transactions::Purpose;
use crate::relay::choice::Pair;
use crate::timers::{PeerTimer, Timer};
use crate::{BrokerState, PeerHandle, RelayHandle};

/// The least head start of direct paths (protocols.md §4).
const HEAD_START: Duration = Duration::from_millis(750);

/// The same where the NATs leave no hope, but the peer might be on the same link.
const NEAR_START: Duration = Duration::from_millis(150);

/// [`HEAD_START`] in round trips to the broker.
const HEAD_START_ROUND_TRIPS: u32 = 3;

/// How often direct paths are tried beside a relayed one with traffic (protocols.md §4).
pub(super) const RETEST: Duration = Duration::from_secs(25);

/// What the peer has named counts for so long.
const NAMED: Duration = Duration::from_secs(30);

/// A relay through which a pair's path died is passed over for so long, if there is another.
const AVOID: Duration = Duration::from_secs(30);

/// How long a channel is kept after the pair has become direct: what is under way arrives.
const LINGER: Duration = Duration::from_secs(60);

/// The most relays at which one peer is bound at a time.
const MAX_USED: usize = 3;

impl Mesh {
    /// A path is sought, and probing began at `since`: sees to it that a relay is used when the
    /// head start of direct paths is over.
    pub(super) fn plan_relay(
        &mut self,
        handle: PeerHandle,
        wish: Wish,
        since: Instant,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get(handle) else { return };
        if self.relays.is_empty() || peer.live_path().is_some() {
            return;
        }
        let verdict = self.hopeless(peer, now);
        let hopeless = self.is_relay_only(peer) || verdict.is_some();
        let near = self.seems_near(peer);
        if let (Some(reason), Some(peer)) = (verdict, self.peers.get_mut(handle)) {
            peer.relaying.reason = Some(reason);
        }
        let wait = match (hopeless, near) {
            (true, false) => Duration::ZERO,
            (true, true) => self.head_start(wish, NEAR_START),
            (false, _) => self.head_start(wish, HEAD_START),
        };
        if since + wait <= now {
            self.begin_relaying(handle, now);
        } else {
            self.timers.set_if_earlier(Timer::Peer(handle, PeerTimer::Relay), since + wait);
        }
    }

    fn head_start(&self, wish: Wish, least: Duration) -> Duration {
        let rtt = match self.broker {
            Some(BrokerState::Connected { rtt }) => rtt,
            Some(BrokerState::Lost) | None => Duration::ZERO,
        };
        let whole =
            if least == HEAD_START { least.max(rtt * HEAD_START_ROUND_TRIPS) } else { least };
        match wish {
            Wish::Ours => whole,
            // The word of the initiator took about that long.
            Wish::Theirs => whole.saturating_sub(rtt),
        }
    }

    /// No direct path has answered in time, or the relay in use has failed: uses the relay that was
    /// chosen here, and the one that the peer has named.
    pub(super) fn begin_relaying(&mut self, handle: PeerHandle, now: Instant) {
        self.timers.clear(Timer::Peer(handle, PeerTimer::Relay));
        let Some(peer) = self.peers.get(handle) else { return };
        if peer.live_path().is_some() || peer.seek.is_none() {
            return;
        }
        let is_ours = peer.seek.is_some_and(|seek| seek.wish == Wish::Ours);
        let told = peer.relaying.told;
        let named = peer.relaying.named.filter(|(_, at)| is_recent(Some(*at), NAMED, now));
        if let Some((relay, _)) = named {
            if let Some(entry) = self.relays.get_mut(relay) {
                entry.forgive(now);
            }
            self.use_relay(handle, relay, now);
        }
        let chosen = self.choose_relay(handle, now);
        match chosen {
            Some(relay) => self.use_relay(handle, relay, now),
            None => self.ask_silent_relays(now),
        }
        if is_ours && chosen.is_some() && chosen != told {
            self.signal(handle, now);
        }
    }

    /// A relay answers that didn't, here or at a peer: who is or was sought in vain for want of one
    /// gets it.
    pub(super) fn relay_found(&mut self, now: Instant) {
        for handle in self.peers.active() {
            self.relay_found_for(handle, now);
        }
    }

    /// The same for one peer.
    pub(super) fn relay_found_for(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        let sought = peer.seek.is_some();
        let failed = peer.failure.is_some() && is_recent(peer.wanted, super::seek::WISH, now);
        let has_none = peer.live_path().is_none() && peer.relaying.used.is_empty();
        let head_start = self.timers.is_set(Timer::Peer(handle, PeerTimer::Relay));
        // Most peers of a map are idle: for them nothing is chosen.
        let wants_one = (sought || failed) && has_none && !head_start;
        if !wants_one || self.choose_relay(handle, now).is_none() {
            return;
        }
        if sought {
            self.begin_relaying(handle, now);
        } else {
            self.seek(handle, Wish::Ours, now);
        }
    }

    pub(super) fn choose_relay(&self, handle: PeerHandle, now: Instant) -> Option<RelayHandle> {
        let peer = self.peers.get(handle)?;
        let pair = Pair {
            this: self.netmap.as_ref()?.this.id,
            peer: peer.id,
            theirs: &peer.relaying.reach,
            avoid: peer
                .relaying
                .avoid
                .filter(|(_, at)| is_recent(Some(*at), AVOID, now))
                .map(|(relay, _)| relay),
            udp_blocked: self.is_udp_blocked(now),
        };
        self.relays.choose(pair, now)
    }

    /// What the peer is told of relays along with the own endpoints.
    pub(super) fn choice_to_tell(
        &mut self,
        handle: PeerHandle,
        now: Instant,
    ) -> Option<RelayChoice> {
        let relay = self.choose_relay(handle, now)?;
        let peer = self.peers.get_mut(handle)?;
        peer.relaying.told = Some(relay);
        let entry = self.relays.get(relay)?;
        let relayed = match (&entry.allocation, entry.info.virtual_addresses) {
            (Some(allocation), false) => allocation.relayed(),
            (Some(_) | None, true) | (None, false) => None,
        };
        Some(RelayChoice { relay: entry.info.id, relayed })
    }

    /// The peer has named a relay.
    pub(super) fn take_choice(
        &mut self,
        handle: PeerHandle,
        choice: Option<RelayChoice>,
        now: Instant,
    ) {
        let Some(choice) = choice else { return };
        let Some(relay) = self.relays.by_id(choice.relay) else { return };
        let relayed = choice
            .relayed
            .map(|relayed| Path { remote: canonical(relayed), via: Via::PeersRelay })
            .filter(|path| self.is_usable(*path) && self.outside.has_family(path.remote));
        let is_virtual = self.relays.is_virtual(relay);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.relaying.named = Some((relay, now));
        if let (Some(path), false) = (relayed, is_virtual) {
            if peer.relaying.relayed_there != Some(path.remote) && peer.in_use() != Some(path) {
                let in_use = peer.in_use();
                let is_old = |old: Path| old.via == Via::PeersRelay && Some(old) != in_use;
                peer.candidates.remove_relayed(is_old);
            }
            peer.relaying.relayed_there = Some(path.remote);
            peer.candidates.add_relayed(path, now);
            if peer.live_path().is_none() {
                self.send_probe(handle, path, Purpose::Path, now);
            }
            return;
        }
        // Its path through another relay has died, perhaps: it waits for us at the new one.
        let elsewhere = match peer.live().map(|path| path.via) {
            Some(Via::Relay(present)) => present != relay,
            Some(Via::PeersRelay) => true,
            Some(Via::Direct) | None => false,
        };
        if elsewhere {
            self.use_relay(handle, relay, now);
        }
    }

    /// Sees to an allocation at a relay, and that the peer can be reached through it.
    pub(super) fn use_relay(&mut self, handle: PeerHandle, relay: RelayHandle, now: Instant) {
        if self.relays.is_virtual(relay) {
            let Some(id) = self.peers.get(handle).map(|peer| peer.id) else { return };
            if self.join_relay(handle, relay, now) {
                self.bind_at(handle, relay, virtual_relayed(&id.to_string()), now);
            }
        } else if self.is_ours_to_allocate(handle, relay, now)
            && self.join_relay(handle, relay, now)
        {
            self.permit_at(handle, relay, now);
        }
        self.pump_relay(relay, now);
    }

    /// At a relay with ordinary addresses one side allocates: the one that asks for the
    /// connection, unless it can send datagrams and the other can't.
    fn is_ours_to_allocate(&self, handle: PeerHandle, relay: RelayHandle, now: Instant) -> bool {
        let Some(peer) = self.peers.get(handle) else { return false };
        if self.relays.allocation(relay).is_some_and(|there| there.users.contains(&handle)) {
            return true;
        }
        let blocked_here = self.is_udp_blocked(now);
        let blocked_there = peer.nat.udp == Some(false);
        let is_ours = peer.seek.is_some_and(|seek| seek.wish == Wish::Ours);
        match (blocked_here, blocked_there) {
            (true, _) => true,
            (false, true) => false,
            (false, false) => is_ours,
        }
    }

    /// Notes that a peer needs an allocation; false when there can't be one.
    fn join_relay(&mut self, handle: PeerHandle, relay: RelayHandle, now: Instant) -> bool {
        let Some(peer) = self.peers.get(handle) else { return false };
        let is_user = peer.relaying.used.contains(&relay);
        if !is_user && peer.relaying.used.len() >= MAX_USED {
            return false;
        }
        if !self.ensure_allocation(relay, now) {
            return false;
        }
        if let Some(peer) = self.peers.get_mut(handle) {
            peer.relaying.used.insert(relay);
        }
        if let Some(allocation) = self.relays.allocation_mut(relay) {
            allocation.users.insert(handle);
            allocation.idle = None;
        }
        true
    }

    /// A valid message of a peer came through a relay: at one with ordinary addresses that tells
    /// where it is.
    pub(super) fn follow_relayed(&mut self, handle: PeerHandle, from: Path, now: Instant) {
        let Via::Relay(relay) = from.via else { return };
        if !self.relays.is_virtual(relay)
            && self.relays.allocation(relay).is_some_and(|there| there.users.contains(&handle))
        {
            self.bind_at(handle, relay, from.remote, now);
            self.pump_relay(relay, now);
        }
    }

    /// Whether a peer may be behind an address at a relay.
    pub(super) fn is_at_home(&self, peer: &Peer, from: Path) -> bool {
        match from.via {
            Via::Direct | Via::PeersRelay => true,
            Via::Relay(relay) => {
                !self.relays.is_virtual(relay)
                    || from.remote == virtual_relayed(&peer.id.to_string())
            }
        }
    }

    /// Whether a relay is on its way to being used for a peer.
    pub(super) fn is_relay_pending(&self, handle: PeerHandle) -> bool {
        let Some(peer) = self.peers.get(handle) else { return false };
        peer.live_path().is_none()
            && peer.relaying.used.iter().any(|relay| {
                self.relays.allocation(*relay).is_some_and(|there| there.relayed().is_none())
            })
    }

    /// The way by which a peer may be sent a handshake: the path in use, or a relay at which it is
    /// bound, whether it has answered there or not.
    pub(super) fn way_to(&self, handle: PeerHandle) -> Option<Path> {
        let peer = self.peers.get(handle)?;
        peer.live().or_else(|| {
            let bound = |path: &Path| {
                matches!(path.via, Via::Relay(_)) && self.relays.carriage(*path).is_some()
            };
            peer.candidates.iter().map(|(path, _)| path).find(bound)
        })
    }

    /// The peer is bound at a relay: now it can be talked to there.
    pub(super) fn relay_ready(&mut self, handle: PeerHandle, path: Path, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.candidates.add_relayed(path, now);
        let is_in_use = peer.in_use() == Some(path);
        if peer.live().is_none_or(Path::is_relayed) {
            self.send_probe(handle, path, Purpose::Path, now);
        }
        self.ensure_tunnel(handle, now);
        self.begin_handshake(handle, now);
        if is_in_use {
            self.flush(handle, now);
        }
    }

    /// A path was taken into use.
    pub(super) fn settle_relaying(&mut self, handle: PeerHandle, path: Path, now: Instant) {
        self.timers.clear(Timer::Peer(handle, PeerTimer::Relay));
        let linger = Timer::Peer(handle, PeerTimer::LeaveRelay);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.relaying.returning.settle();
        if path.is_relayed() {
            self.timers.set(linger, now + LINGER);
            self.timers.set(Timer::Peer(handle, PeerTimer::Retest), now + RETEST);
            return;
        }
        peer.relaying.relay_only = None;
        peer.relaying.reason = None;
        let uses_relay = !peer.relaying.used.is_empty();
        self.timers.clear(Timer::Peer(handle, PeerTimer::Retest));
        self.timers.clear(Timer::Peer(handle, PeerTimer::RetestAgain));
        if uses_relay {
            self.timers.set(linger, now + LINGER);
        }
    }

    /// The pair has been on its path for long enough.
    pub(super) fn end_linger(&mut self, handle: PeerHandle, now: Instant) {
        match self.peers.get(handle).and_then(Peer::live) {
            Some(path) if path.is_relayed() => self.leave_other_relays(handle, LINGER, now),
            Some(_) | None => self.leave_relays(handle, now),
        }
    }

    /// The peer needs no relay any more.
    pub(super) fn leave_relays(&mut self, handle: PeerHandle, now: Instant) {
        self.timers.clear(Timer::Peer(handle, PeerTimer::LeaveRelay));
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let used = std::mem::take(&mut peer.relaying.used);
        peer.relaying.returning = super::Return::default();
        let in_use = peer.in_use();
        peer.candidates.remove_relayed(|path| Some(path) != in_use);
        peer.relaying.relayed_there =
            peer.relaying.relayed_there.filter(|there| in_use.is_some_and(|p| p.remote == *there));
        for relay in used {
            self.leave_relay(handle, relay, now);
        }
    }
}
