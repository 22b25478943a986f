//! Back to the relay that the account prefers, once it works again.
//!
//! A pair whose relay failed goes on through the next one. The side with the higher key looks, when
//! direct paths are tried anyway, whether a relay of a better rank is reached by both again, has not
//! failed for a while, and isn't one that this pair returned to a moment ago: each return makes the
//! wait before the next one twice as long. Then it has itself and the peer, through the broker's
//! word, bound there, and moves when its probe along the new path is answered. The other side follows
//! the data. The channels at the old relay are kept meanwhile, so that nothing is lost.
//!
//! Where a relay gives ordinary addresses, pairs stay where they are until they are idle.

use std::time::{Duration, Instant};

use super::Mesh;
use crate::path::{Path, Via};
use crate::peer::{Peer, is_recent};
use crate::probe::transactions::Purpose;
use crate::timers::{PeerTimer, Timer};
use crate::{BrokerState, PeerHandle, RelayHandle};

/// A relay must not have failed here, nor a path of the pair's through it, for so long.
const STEADY: Duration = Duration::from_secs(60);

/// The wait from one return to the next; it doubles with each.
const PAUSE: Duration = Duration::from_secs(60);

/// How often it doubles at most: to an hour.
const MAX_DOUBLINGS: u32 = 6;

/// The peer is being called to the relay, and is probed there so often.
const AGAIN: Duration = Duration::from_millis(250);

/// How many such probes leave before it is given up until the next time.
const ROUNDS: u32 = 8;

/// A pair's way back.
#[derive(Debug, Default)]
pub(crate) struct Return {
    /// The relay that is on its way to being used, and how often the peer was probed there.
    under_way: Option<(RelayHandle, u32)>,
    /// How many there were since the pair was last idle or direct, and when the next may begin.
    count: u32,
    not_before: Option<Instant>,
}

impl Mesh {
    /// Begins to move a relayed pair to a relay of a better rank, if there is one.
    pub(super) fn consider_return(&mut self, handle: PeerHandle, now: Instant) {
        let Some(relay) = self.relay_to_return_to(handle, now) else { return };
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let returning = &mut peer.relaying.returning;
        returning.under_way = Some((relay, 0));
        returning.not_before = Some(now + PAUSE * (1 << returning.count.min(MAX_DOUBLINGS)));
        returning.count = returning.count.saturating_add(1);
        self.use_relay(handle, relay, now);
        self.signal(handle, now);
        self.timers.set(Timer::Peer(handle, PeerTimer::Return), now + AGAIN);
    }

    fn relay_to_return_to(&self, handle: PeerHandle, now: Instant) -> Option<RelayHandle> {
        let peer = self.peers.get(handle)?;
        let Via::Relay(present) = peer.live()?.via else { return None };
        let is_early = peer.relaying.returning.not_before.is_some_and(|at| now < at);
        if self.public < peer.key || is_early || self.broker == Some(BrokerState::Lost) {
            return None;
        }
        let relay = self.choose_relay(handle, now)?;
        let (entry, present) = (self.relays.get(relay)?, self.relays.get(present)?);
        let is_reached = peer.relaying.reach.iter().any(|rtt| rtt.relay == entry.info.id)
            && self.relays.published.iter().any(|rtt| rtt.relay == entry.info.id);
        let is_steady = entry.is_steady(STEADY, now)
            && !peer
                .relaying
                .avoid
                .is_some_and(|(avoided, at)| avoided == relay && is_recent(Some(at), STEADY, now));
        let is_better = entry.info.rank < present.info.rank;
        (is_better && is_reached && is_steady && self.relays.is_virtual(relay)).then_some(relay)
    }

    /// The peer may be bound at the relay by now.
    pub(super) fn return_again(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let is_relayed = peer.live().is_some_and(Path::is_relayed);
        let returning = &mut peer.relaying.returning;
        let Some((relay, rounds)) = returning.under_way else { return };
        if !is_relayed || rounds >= ROUNDS {
            returning.under_way = None;
            return;
        }
        returning.under_way = Some((relay, rounds + 1));
        let path = peer.candidates.iter().map(|(path, _)| path);
        let path = path.into_iter().find(|path| path.via == Via::Relay(relay));
        if let Some(path) = path {
            self.send_probe(handle, path, Purpose::Path, now);
        }
        self.timers.set(Timer::Peer(handle, PeerTimer::Return), now + AGAIN);
    }

    /// A pair that goes on through one relay needs the others no more, unless the peer still sends
    /// through one.
    pub(super) fn leave_other_relays(
        &mut self,
        handle: PeerHandle,
        linger: Duration,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(Path { via: Via::Relay(present), .. }) = peer.live() else { return };
        let is_needed = peer.elsewhere.is_some_and(|(_, at)| is_recent(Some(at), linger, now));
        if is_needed || peer.relaying.returning.under_way.is_some() {
            self.timers.set(Timer::Peer(handle, PeerTimer::LeaveRelay), now + linger);
            return;
        }
        let others: Vec<RelayHandle> =
            peer.relaying.used.iter().copied().filter(|relay| *relay != present).collect();
        for relay in others {
            let Some(peer) = self.peers.get_mut(handle) else { return };
            peer.relaying.used.remove(&relay);
            peer.candidates.remove_relayed(|path| path.via == Via::Relay(relay));
            self.leave_relay(handle, relay, now);
        }
    }
}

impl Peer {
    /// Whether an answer along a path is what a return waits for.
    pub(super) fn returns_by(&self, path: Path) -> bool {
        let under_way = self.relaying.returning.under_way;
        under_way.is_some_and(|(relay, _)| path.via == Via::Relay(relay))
            && self.live().is_some_and(Path::is_relayed)
    }
}

impl Return {
    /// A path was taken into use: there is nothing to wait for.
    pub(super) fn settle(&mut self) {
        self.under_way = None;
    }
}
