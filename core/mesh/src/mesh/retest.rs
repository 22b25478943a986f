//! Direct paths, tried beside a relayed one: each 25 s while traffic flows, and when somebody asks.
//!
//! One packet along the relayed path (ASIDE) makes the other side try in the same moment, so that the
//! holes of both NATs are open together.

use std::time::{Duration, Instant};

use super::Mesh;
use super::relaying::RETEST;
use crate::PeerHandle;
use crate::path::{Path, Via};
use crate::peer::is_recent;
use crate::probe::transactions::Purpose;
use crate::timers::{PeerTimer, Timer};

/// When the second packet of such a try leaves: the other side's hole is open by then.
const RETEST_AGAIN: Duration = Duration::from_millis(200);

/// The other side's wish to try, or the own host's, is heeded so often.
const RETEST_PAUSE: Duration = Duration::from_secs(5);

impl Mesh {
    /// It is time to try direct paths beside the relayed one.
    pub(super) fn retest_relayed(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        if !peer.live().is_some_and(Path::is_relayed) {
            return;
        }
        self.timers.set(Timer::Peer(handle, PeerTimer::Retest), now + RETEST);
        if is_recent(peer.traffic, RETEST, now) {
            self.retest_aside(handle, now);
            self.consider_return(handle, now);
        }
    }

    /// The own host asks for a direct path (`warren ping`).
    pub(super) fn retest_on_request(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        if peer.live().is_some_and(Path::is_relayed)
            && peer.seek.is_none()
            && !is_recent(peer.relaying.retested, RETEST_PAUSE, now)
        {
            self.retest_aside(handle, now);
        }
    }

    /// Tries each direct candidate once, asks the peer to do so too, and tries once more soon.
    fn retest_aside(&mut self, handle: PeerHandle, now: Instant) {
        self.publish_candidates(handle, now);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(path) = peer.live() else { return };
        peer.relaying.retested = Some(now);
        let rtt = peer.rtt().unwrap_or(RETEST_AGAIN);
        self.send_probe(handle, path, Purpose::Aside, now);
        self.probe_direct(handle, now);
        let again = now + RETEST_AGAIN.max(rtt + rtt / 4);
        self.timers.set(Timer::Peer(handle, PeerTimer::RetestAgain), again);
    }

    /// The peer tries direct paths at this moment: so does this side, and by that opens its NAT.
    pub(super) fn try_direct_too(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if !peer.live().is_some_and(Path::is_relayed)
            || is_recent(peer.relaying.retested, RETEST_PAUSE, now)
        {
            return;
        }
        peer.relaying.retested = Some(now);
        self.publish_candidates(handle, now);
        self.probe_direct(handle, now);
        self.timers.set(Timer::Peer(handle, PeerTimer::RetestAgain), now + RETEST_AGAIN);
    }

    /// Sends one probe to each direct candidate.
    pub(super) fn probe_direct(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        if !peer.live().is_some_and(Path::is_relayed) {
            return;
        }
        let targets: Vec<Path> = peer
            .candidates
            .iter()
            .map(|(path, _)| path)
            .filter(|path| path.via == Via::Direct)
            .collect();
        for target in targets {
            self.send_probe(handle, target, Purpose::Path, now);
        }
    }
}
