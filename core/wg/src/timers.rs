//! The timers of all peers (paper §6), in one ordered queue.
//!
//! Some of them are put off or cancelled by nearly every packet. So each peer notes when a timer is
//! *wanted*, and the queue holds the instant at which to look: an entry that comes up early finds
//! out that the timer was put off, and is queued again, or cancelled, and is forgotten. The queue
//! itself is touched only when a timer must go off earlier than it would be looked at.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::interface::PeerIndex;

/// What happens at a peer's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Send an initiation (again).
    Retry,
    /// Answer received data with an empty packet, having had nothing to send.
    Keepalive,
    /// Nothing came back since we sent: begin a handshake.
    Silence,
    /// The user wants something to be sent this often.
    PersistentKeepalive,
    /// A session dies.
    Death,
}

impl Timer {
    const COUNT: usize = 5;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Timer::Retry => "wg: handshake retry",
            Timer::Keepalive => "wg: keepalive",
            Timer::Silence => "wg: nothing came back",
            Timer::PersistentKeepalive => "wg: persistent keepalive",
            Timer::Death => "wg: session dies",
        }
    }
}

/// One peer's timers.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    wanted: [Option<Instant>; Timer::COUNT],
    queued: [Option<Instant>; Timer::COUNT],
}

impl Deadlines {
    pub(crate) fn is_armed(&self, timer: Timer) -> bool {
        self.wanted[timer as usize].is_some()
    }

    /// Cancels a timer, leaving its entry in the queue: for timers that packets cancel.
    pub(crate) fn cancel(&mut self, timer: Timer) {
        self.wanted[timer as usize] = None;
    }
}

/// When to look at which timer of which peer.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Instant, PeerIndex, Timer)>,
}

impl Timers {
    /// Lets a timer go off at `at`, whatever it was set to before.
    pub(crate) fn arm(
        &mut self,
        peer: PeerIndex,
        deadlines: &mut Deadlines,
        timer: Timer,
        at: Instant,
    ) {
        deadlines.wanted[timer as usize] = Some(at);
        let queued = &mut deadlines.queued[timer as usize];
        if queued.is_some_and(|queued| queued <= at) {
            return;
        }
        if let Some(later) = queued.replace(at) {
            self.queue.remove(&(later, peer, timer));
        }
        self.queue.insert((at, peer, timer));
    }

    /// Cancels a timer and takes it out of the queue: for timers that are cancelled rarely.
    pub(crate) fn disarm(&mut self, peer: PeerIndex, deadlines: &mut Deadlines, timer: Timer) {
        deadlines.cancel(timer);
        if let Some(at) = deadlines.queued[timer as usize].take() {
            self.queue.remove(&(at, peer, timer));
        }
    }

    /// The next entry that is due; to be passed to [`Self::settle`] with its peer's deadlines.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(PeerIndex, Timer)> {
        let &(at, ..) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first().map(|(_, peer, timer)| (peer, timer))
    }

    /// Whether the timer of a popped entry goes off; if it was put off, queues it again.
    pub(crate) fn settle(
        &mut self,
        peer: PeerIndex,
        deadlines: &mut Deadlines,
        timer: Timer,
        now: Instant,
    ) -> bool {
        deadlines.queued[timer as usize] = None;
        match deadlines.wanted[timer as usize] {
            Some(at) if at <= now => {
                deadlines.wanted[timer as usize] = None;
                true
            }
            Some(at) => {
                self.arm(peer, deadlines, timer, at);
                false
            }
            None => false,
        }
    }

    /// Forgets a peer's entries.
    pub(crate) fn forget(&mut self, peer: PeerIndex, deadlines: &Deadlines) {
        for timer in [
            Timer::Retry,
            Timer::Keepalive,
            Timer::Silence,
            Timer::PersistentKeepalive,
            Timer::Death,
        ] {
            if let Some(at) = deadlines.queued[timer as usize] {
                self.queue.remove(&(at, peer, timer));
            }
        }
    }

    /// When to look next, and for which timer.
    pub(crate) fn next(&self) -> Option<(Instant, &'static str)> {
        self.queue.first().map(|&(at, _, timer)| (at, timer.name()))
    }
}
