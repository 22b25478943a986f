//! The own addresses change: what is published, and what paths must be looked at.

use std::time::{Duration, Instant};

use super::Mesh;
use crate::peer::{Wish, is_recent};
use crate::timers::Timer;
use crate::{BrokerState, Event, LocalAddress, PeerHandle};

/// How long a change waits for STUN's word, so that one roam is published once.
const SETTLE: Duration = Duration::from_secs(1);

/// The same, once one of STUN's answers is there.
const SETTLE_REST: Duration = Duration::from_millis(300);

/// STUN isn't asked anew more often than this, whatever dies.
const ASK_PAUSE: Duration = Duration::from_secs(1);

impl Mesh {
    /// The control session came up or was lost.
    pub fn handle_broker(&mut self, state: BrokerState, now: Instant) {
        let before = self.broker.replace(state);
        match state {
            BrokerState::Connected { .. } => {
                self.timers.clear(Timer::Cold);
                self.choose_stun(now);
                self.stand_down(now);
                self.publish_relays(now);
                // STUN servers often live and die with the broker.
                if before == Some(BrokerState::Lost) || self.outside.nat().udp == Some(false) {
                    self.refresh_outside(now);
                }
                if before == Some(BrokerState::Lost) {
                    self.tell_peers(now);
                }
            }
            BrokerState::Lost if before != Some(BrokerState::Lost) => {
                self.choose_stun(now);
                self.cold_cursor = None;
                self.cold_round(now);
            }
            BrokerState::Lost => {}
        }
        self.pump(now);
    }

    pub(super) fn change_local_addresses(
        &mut self,
        addresses: &[LocalAddress],
        listen_port: u16,
        now: Instant,
    ) {
        let mut local: Vec<LocalAddress> =
            addresses.iter().copied().filter(|address| !self.ranges.contain(address.ip)).collect();
        local.sort_unstable();
        local.dedup();
        let lost = self.outside.local.iter().any(|old| !local.contains(old));
        if !self.outside.set_local(local, listen_port, now) {
            return;
        }
        self.outside.update();
        // What the network before let through proves nothing of this one.
        self.answered = None;
        self.relays.heard = None;
        self.relays.generation += 1;
        self.measure_all_relays(now);
        self.renew_allocations(lost, now);
        for handle in self.peers.active() {
            self.own_side_moved(handle, now);
        }
        self.publish_changes(now);
    }

    /// STUN says something else.
    pub(super) fn outside_changed(&mut self, now: Instant) {
        let before = self.outside.nat().udp;
        self.outside.update();
        let udp = self.outside.nat().udp;
        if before == Some(false) && udp == Some(true) {
            self.measure_all_relays(now);
        } else if before != udp {
            self.choose_stun(now);
            self.publish_relays(now);
        }
        self.publish_changes(now);
    }

    /// The own addresses or endpoints changed while a peer was in use.
    fn own_side_moved(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        let wanted = is_recent(peer.wanted, super::seek::WISH, now);
        if peer.live_path().is_some() {
            self.probe_beside(handle, now);
            self.suspect(handle, false, now);
        } else if peer.failure.is_some() && wanted {
            self.seek(handle, Wish::Ours, now);
        } else if peer.seek.is_some() {
            self.publish_candidates(handle, now);
        }
    }

    /// A path died: perhaps because the own address changed, without the host noticing.
    pub(super) fn refresh_outside(&mut self, now: Instant) {
        if is_recent(self.outside.refreshed, ASK_PAUSE, now) {
            return;
        }
        self.outside.refreshed = Some(now);
        self.outside.stun.refresh(now);
    }

    /// Publishes the own state if it changed: at once when STUN has said all it will, or soon.
    pub(super) fn publish_changes(&mut self, now: Instant) {
        // Without a map there is nobody to tell, and no STUN server to wait for.
        if self.netmap.is_none() {
            return;
        }
        let differs = self.published.as_ref() != Some(&self.check_in_state());
        if !differs {
            self.timers.clear(Timer::CheckIn);
        } else if self.outside.is_resolved() {
            self.publish(now);
        } else if self.outside.is_partly_resolved() {
            self.timers.set_if_earlier(Timer::CheckIn, now + SETTLE_REST);
        } else {
            self.timers.set_if_earlier(Timer::CheckIn, now + SETTLE);
        }
    }

    pub(super) fn publish(&mut self, now: Instant) {
        self.timers.clear(Timer::CheckIn);
        self.outside.settle();
        let state = self.check_in_state();
        if self.published.as_ref() == Some(&state) {
            return;
        }
        let told = self.published.as_ref().is_none_or(|before| before.nat != state.nat);
        if told && self.broker == Some(BrokerState::Lost) {
            // Whom to wait for at a relay depends on it.
            self.timers.set_if_earlier(Timer::Cold, now + SETTLE_REST);
        }
        let moved = self.published.as_ref().is_none_or(|before| {
            (&before.endpoints, before.nat.udp) != (&state.endpoints, state.nat.udp)
        });
        if moved {
            self.relays.generation += 1;
        }
        self.published = Some(state.clone());
        self.events.retain(|event| !matches!(event, Event::CheckIn(_)));
        self.events.push_back(Event::CheckIn(state));
        if moved {
            self.tell_peers(now);
        }
    }

    /// The own endpoints changed, or the broker can pass on words again: those who are sought, or
    /// whose path is in doubt, are told at once; those who were sought in vain may be reached by now.
    fn tell_peers(&mut self, now: Instant) {
        for handle in self.peers.active() {
            let Some(peer) = self.peers.get(handle) else { continue };
            let sought =
                peer.seek.is_some_and(|seek| seek.found.is_none() && seek.wish == Wish::Ours);
            let doubtful = peer.path.as_ref().is_some_and(|path| {
                path.dead || path.suspicion.is_some_and(|suspicion| !suspicion.gentle)
            });
            if sought || doubtful {
                self.signal(handle, now);
            } else if peer.failure.is_some() && is_recent(peer.wanted, super::seek::WISH, now) {
                self.seek(handle, Wish::Ours, now);
            }
        }
    }
}
