//! What timers do (paper §6).

use std::time::Instant;

use super::{Event, Interface, PeerIndex};
use crate::constants::{KEEPALIVE_TIMEOUT, REKEY_ATTEMPT_TIME};
use crate::sealer::seal_keepalive;
use crate::timers::Timer;

impl Interface {
    pub(super) fn timer_expired(&mut self, index: PeerIndex, timer: Timer, now: Instant) {
        match timer {
            Timer::Retry => self.retry(index, now),
            Timer::Keepalive => self.keepalive_due(index, now),
            Timer::Silence => self.initiate(index, now),
            Timer::PersistentKeepalive => self.persistent_keepalive(index, now),
            Timer::Death => self.bury_sessions(index, now),
        }
    }

    fn retry(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get(index) else { return };
        let Some(attempt) = &peer.attempt else { return };
        if now >= attempt.began + REKEY_ATTEMPT_TIME {
            self.end_attempt(index);
            self.events.push_back(Event::HandshakeFailed { peer: index });
        } else {
            self.send_initiation(index, now);
        }
    }

    fn keepalive_due(&mut self, index: PeerIndex, now: Instant) {
        self.send_keepalive(index, now);
        let Some(peer) = self.peers.get_mut(index) else { return };
        if std::mem::take(&mut peer.needs_another_keepalive) {
            let at = now + KEEPALIVE_TIMEOUT;
            self.timers.arm(index, &mut peer.deadlines, Timer::Keepalive, at);
        }
    }

    pub(super) fn persistent_keepalive(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let Some(every) = peer.persistent_keepalive else { return };
        let deadlines = &mut peer.deadlines;
        self.timers.arm(index, deadlines, Timer::PersistentKeepalive, now + every);
        let current = peer.keypairs.current.as_deref();
        if current.is_some_and(|keypair| keypair.is_alive(now)) {
            self.send_keepalive(index, now);
        } else {
            self.initiate(index, now);
        }
    }

    /// Sends an empty packet, if there is a session for it; renews the session if it is due.
    pub(super) fn send_keepalive(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let Some(keypair) = peer.keypairs.current.as_deref_mut() else { return };
        if !keypair.is_alive(now) {
            return;
        }
        let is_due = keypair.is_due_when_sending(now);
        let Some(datagram) = seal_keepalive(keypair) else { return };
        peer.deadlines.cancel(Timer::Keepalive);
        self.counters.keepalives_sent += 1;
        self.send_to_peer(index, datagram, now);
        if is_due {
            self.initiate(index, now);
        }
    }

    /// Sets the timer for the session that dies next.
    pub(super) fn watch_deaths(&mut self, index: PeerIndex) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if let Some(at) = peer.keypairs.next_death() {
            self.timers.arm(index, &mut peer.deadlines, Timer::Death, at);
        }
    }

    fn bury_sessions(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let had_session = peer.keypairs.current.is_some();
        for gone in peer.keypairs.bury(now) {
            self.indices.free(gone);
        }
        if had_session && peer.keypairs.current.is_none() {
            self.events.push_back(Event::Expired { peer: index });
        }
        self.watch_deaths(index);
    }
}
