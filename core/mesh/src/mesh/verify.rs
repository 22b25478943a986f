//! Whether the path in use still works, and letting it go.
//!
//! Silence alone says nothing; silence after we have sent does. After max(3 RTT, 400 ms) of it the
//! path is suspect and probed each 100 ms; once two probes have gone unanswered for longer than an
//! answer takes, it is dead. Where traffic flows one way only, answers to probes keep a path alive,
//! and it is probed once a second.

use std::time::{Duration, Instant};

use super::Mesh;
use crate::path::{Path, Via};
use crate::peer::{InUse, Suspicion, Wish, is_recent};
use crate::probe::transactions::Purpose;
use crate::timers::{PeerTimer, Timer};
use crate::{BrokerState, Event, PeerHandle};

/// A path in use is probed this often.
const REFRESH: Duration = Duration::from_secs(20);

/// Refreshes of different peers are spread over this much less.
const REFRESH_SPREAD_MS: u64 = 2000;

/// A path without traffic is let go after this time.
const IDLE: Duration = Duration::from_secs(300);

/// The least silence after sending that makes a path suspect.
const SILENCE: Duration = Duration::from_millis(400);

/// The same where traffic flows one way.
const SILENCE_ONE_WAY: Duration = Duration::from_secs(1);

/// The cadence of probes on a suspect path.
const CADENCE: Duration = Duration::from_millis(100);

/// The least time that a suspect path is given.
const VERDICT: Duration = Duration::from_millis(200);

/// Every so many refreshes, endpoints that would be of a better class are tried too.
const RETEST_EVERY: u32 = 3;

/// An address that data comes from, but that isn't the path in use, is probed this often.
const ELSEWHERE_PAUSE: Duration = Duration::from_secs(1);

/// Observed addresses that don't answer are forgotten after this time.
const STALE: Duration = Duration::from_secs(60);

impl Mesh {
    /// Something authenticated that isn't the answer to a probe came from a peer.
    pub(super) fn heard(&mut self, handle: PeerHandle, from: Path, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        match &mut peer.path {
            Some(path) if path.path == from => {
                path.heard = now;
                path.one_way = false;
                path.unanswered = None;
                if path.suspicion.take().is_some() {
                    self.timers.clear(Timer::Peer(handle, PeerTimer::Verify));
                }
            }
            Some(_) | None => self.heard_elsewhere(handle, from, now),
        }
    }

    /// Authenticated data comes from where we don't send: that proves nothing but is a hint.
    fn heard_elsewhere(&mut self, handle: PeerHandle, from: Path, now: Instant) {
        if !self.is_usable(from) {
            return;
        }
        let Some(peer) = self.peers.get_mut(handle) else { return };
        // A relay may say what it likes of where data comes from.
        if matches!(from.via, Via::Relay(_)) && peer.candidates.get(&from).is_none() {
            return;
        }
        let in_use = peer.in_use();
        peer.candidates.observe(from, in_use, now);
        if peer.plain {
            self.use_path(handle, from, now);
            return;
        }
        peer.elsewhere = Some((from, now));
        let asked = peer.candidates.get(&from).and_then(|candidate| candidate.asked);
        if is_recent(asked, ELSEWHERE_PAUSE, now) {
            return;
        }
        let patience = silence_limit(peer.patience());
        let quiet =
            peer.live_path().is_some_and(|path| !is_recent(Some(path.heard), patience, now));
        self.send_probe(handle, from, Purpose::Path, now);
        if quiet {
            self.suspect(handle, false, now);
        }
    }

    /// A probe was answered along `from`.
    pub(super) fn heard_answer(&mut self, handle: PeerHandle, from: Path, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(path) = peer.path.as_mut().filter(|path| path.path == from && !path.dead) else {
            return;
        };
        let was_silent = path.unanswered.take().is_some();
        path.heard = now;
        path.one_way = was_silent;
        if path.suspicion.take().is_some() {
            self.timers.clear(Timer::Peer(handle, PeerTimer::Verify));
        }
        if was_silent {
            self.doubt_mtu(handle, now);
        }
    }

    /// Something was sent along the path in use: looks later whether anything came back.
    pub(super) fn judge_silence(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let patience = silence_limit(peer.patience());
        let Some(path) = &mut peer.path else { return };
        path.watched = false;
        let Some(since) = path.unanswered else { return };
        let due = since + if path.one_way { patience.max(SILENCE_ONE_WAY) } else { patience };
        if due > now {
            path.watched = true;
            self.timers.set(Timer::Peer(handle, PeerTimer::Silence), due);
        } else {
            self.suspect(handle, false, now);
        }
    }

    /// Probes the path in use to see whether it still works. A `gentle` check is in no hurry.
    pub(super) fn suspect(&mut self, handle: PeerHandle, gentle: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let patience = silence_limit(peer.patience());
        if peer.plain {
            return;
        }
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        match path.suspicion {
            Some(suspicion) if gentle || !suspicion.gentle => return,
            Some(_) | None => {}
        }
        path.suspicion = Some(Suspicion { since: now, sent: 1, gentle });
        let suspect = path.path;
        let next = now + if gentle { patience } else { CADENCE };
        self.timers.set(Timer::Peer(handle, PeerTimer::Verify), next);
        self.send_probe(handle, suspect, Purpose::Path, now);
        if let (Via::Relay(relay), false) = (suspect.via, gentle) {
            self.doubt_relay(relay, now);
        }
    }

    /// A suspect path has not answered yet.
    pub(super) fn verify_again(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let verdict = VERDICT.max(peer.patience() * 3 / 2 + Duration::from_millis(50));
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        let Some(suspicion) = &mut path.suspicion else { return };
        if suspicion.gentle {
            *suspicion = Suspicion { since: now, sent: 1, gentle: false };
        } else if suspicion.sent >= 2 && now.saturating_duration_since(suspicion.since) >= verdict {
            self.declare_dead(handle, now);
            return;
        } else {
            suspicion.sent += 1;
        }
        let suspect = path.path;
        self.timers.set(Timer::Peer(handle, PeerTimer::Verify), now + CADENCE);
        self.send_probe(handle, suspect, Purpose::Path, now);
        if let Via::Relay(relay) = suspect.via {
            self.doubt_relay(relay, now);
        }
    }

    /// The path in use doesn't answer: it, and all others, are sought anew, from both sides.
    pub(super) fn declare_dead(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        path.dead = true;
        let since = path.suspicion.take().map_or(now, |suspicion| suspicion.since);
        let was = path.path;
        peer.seek = None;
        peer.relaying.note_dead(was, now);
        self.refresh_outside(now);
        self.seek_since(handle, Wish::Ours, since, now);
    }

    pub(super) fn schedule_refresh(&mut self, handle: PeerHandle, now: Instant) {
        let spread = Duration::from_millis(self.random.number() % REFRESH_SPREAD_MS);
        self.timers.set(Timer::Peer(handle, PeerTimer::Refresh), now + REFRESH - spread);
    }

    /// Keeps the path in use open and known to work, or lets it go.
    pub(super) fn refresh_path(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(path) = &mut peer.path else { return };
        let needed = is_recent(peer.traffic, IDLE, now) || self.broker == Some(BrokerState::Lost);
        if !needed {
            self.drop_path(handle, now);
            return;
        }
        path.refreshes += 1;
        let refreshes = path.refreshes;
        let is_relayed = path.path.is_relayed();
        let in_use = Some(path.path);
        peer.candidates.forget_stale(in_use, now, STALE);
        self.schedule_refresh(handle, now);
        self.suspect(handle, true, now);
        self.refresh_mtu(handle, refreshes, now);
        if refreshes.is_multiple_of(RETEST_EVERY) && !is_relayed {
            self.retest(handle, now);
        }
    }

    /// Tries endpoints that would be of a better class than the direct path in use.
    fn retest(&mut self, handle: PeerHandle, now: Instant) {
        let local = &self.outside.local;
        let Some(peer) = self.peers.get(handle) else { return };
        let Some(present) = peer.live_path() else { return };
        let rank = present.path.rank(local);
        let better: Vec<Path> = peer
            .candidates
            .iter()
            .map(|(path, _)| path)
            .filter(|path| path.rank(local) < rank)
            .collect();
        for path in better {
            self.send_probe(handle, path, Purpose::Path, now);
        }
    }

    /// Stops using a path; the peer is idle from here on.
    pub(super) fn drop_path(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.path = None;
        peer.seek = peer.seek.filter(|seek| seek.found.is_none());
        peer.candidates.clear();
        peer.held = None;
        self.events.push_back(Event::PathChanged { peer: peer.id, path: None });
        for timer in [
            PeerTimer::Verify,
            PeerTimer::Silence,
            PeerTimer::Refresh,
            PeerTimer::Glare,
            PeerTimer::HandshakeLimit,
            PeerTimer::Mtu,
            PeerTimer::Retest,
        ] {
            self.timers.clear(Timer::Peer(handle, timer));
        }
        self.leave_relays(handle, now);
        self.peers.note_activity(handle);
        self.update_mtu(now);
    }
}

impl InUse {
    pub(super) fn new(path: Path, mtu: Option<u16>, now: Instant) -> Self {
        Self {
            path,
            heard: now,
            unanswered: None,
            watched: false,
            one_way: false,
            suspicion: None,
            dead: false,
            mtu: crate::mtu::PathMtu::new(path, mtu),
            refreshes: 0,
            doubted: None,
        }
    }

    /// Notes that something was sent; returns whether a timer is needed that looks for an answer.
    pub(super) fn note_sent(&mut self, now: Instant) -> bool {
        if self.unanswered.is_some() {
            return false;
        }
        self.unanswered = Some(now);
        !std::mem::replace(&mut self.watched, true)
    }
}

/// How long silence may last after something was sent, where an answer takes `patience`.
pub(super) fn silence_limit(patience: Duration) -> Duration {
    SILENCE.max(patience * 3)
}
