//! Timers: one instant per key, ordered, with exact cancellation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::{PeerHandle, RelayHandle};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Peer(PeerHandle, PeerTimer),
    /// The own state is to be published.
    CheckIn,
    /// A day begins: probe tags change.
    Day,
    /// More pair secrets are to be derived.
    Derive,
    /// The broker is lost: open holes towards all peers.
    Cold,
    /// Relays are to be measured, or their answers are overdue.
    Measure,
    /// An allocation is to be looked at.
    Relay(RelayHandle),
}

/// What a peer's timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PeerTimer {
    /// The next round of a seek.
    Seek,
    /// The next probe of a suspect path.
    Verify,
    /// Something was sent: has anything come back?
    Silence,
    /// The path in use is to be probed, or let go.
    Refresh,
    /// The peer probably initiates too: our turn, if it hasn't.
    Glare,
    /// The handshake takes too long.
    HandshakeLimit,
    /// The next MTU probe.
    Mtu,
    /// No direct path has answered for long enough: a relay is due.
    Relay,
    /// A relayed path is in use: are there direct ones by now?
    Retest,
    /// The second packets of that question.
    RetestAgain,
    /// The relay isn't needed any more.
    LeaveRelay,
    /// The peer is called to a better relay: is it there?
    Return,
}

impl PeerTimer {
    const ALL: [Self; 12] = [
        Self::Seek,
        Self::Verify,
        Self::Silence,
        Self::Refresh,
        Self::Glare,
        Self::HandshakeLimit,
        Self::Mtu,
        Self::Relay,
        Self::Retest,
        Self::RetestAgain,
        Self::LeaveRelay,
        Self::Return,
    ];
}

impl Timer {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Peer(_, timer) => match timer {
                PeerTimer::Seek => "seek a path",
                PeerTimer::Verify => "verify a path",
                PeerTimer::Silence => "silence of a peer",
                PeerTimer::Refresh => "refresh a path",
                PeerTimer::Glare => "handshake after glare",
                PeerTimer::HandshakeLimit => "limit of a handshake",
                PeerTimer::Mtu => "mtu probe",
                PeerTimer::Relay => "head start of direct paths",
                PeerTimer::Retest => "direct paths beside a relayed one",
                PeerTimer::RetestAgain => "direct paths once more",
                PeerTimer::LeaveRelay => "leave a relay",
                PeerTimer::Return => "back to a better relay",
            },
            Self::CheckIn => "check-in",
            Self::Day => "probe tags of a new day",
            Self::Derive => "derive pair secrets",
            Self::Cold => "probe without the broker",
            Self::Measure => "measure relays",
            Self::Relay(_) => "look at an allocation",
        }
    }
}

/// All timers. Setting, clearing and popping cost O(log n).
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Instant, Timer)>,
    due_by_timer: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets a timer, replacing what it was set to.
    pub(crate) fn set(&mut self, timer: Timer, due: Instant) {
        if let Some(old) = self.due_by_timer.insert(timer, due) {
            self.queue.remove(&(old, timer));
        }
        self.queue.insert((due, timer));
    }

    /// Sets a timer unless it is due earlier anyway.
    pub(crate) fn set_if_earlier(&mut self, timer: Timer, due: Instant) {
        if self.due_by_timer.get(&timer).is_none_or(|present| due < *present) {
            self.set(timer, due);
        }
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        if let Some(due) = self.due_by_timer.remove(&timer) {
            self.queue.remove(&(due, timer));
        }
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.due_by_timer.contains_key(&timer)
    }

    pub(crate) fn clear_peer(&mut self, peer: PeerHandle) {
        for timer in PeerTimer::ALL {
            self.clear(Timer::Peer(peer, timer));
        }
    }

    /// Takes the first timer that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (due, timer) = *self.queue.first()?;
        if due > now {
            return None;
        }
        self.queue.pop_first();
        self.due_by_timer.remove(&timer);
        Some(timer)
    }

    pub(crate) fn next(&self) -> Option<(Instant, Timer)> {
        self.queue.first().copied()
    }
}
