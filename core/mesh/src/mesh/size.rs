//! The MTU of paths and of the interface; the search itself is in [`crate::mtu`].
//!
//! The interface's MTU is what every path in use with a finished search carries; a search that
//! still goes on changes nothing, so that a new tunnel doesn't make the others slower.

use std::time::{Duration, Instant};

use super::Mesh;
use crate::mtu::{RAISE, Step};
use crate::path::Path;
use crate::peer::is_recent;
use crate::probe::transactions::Purpose;
use crate::timers::{PeerTimer, Timer};
use crate::{Event, PeerHandle};

/// The least time an MTU probe is given.
const PATIENCE: Duration = Duration::from_millis(300);

/// A path in use is refreshed so often in [`RAISE`].
const REFRESHES_PER_RAISE: u32 = (RAISE.as_secs() / 20) as u32;

/// A size is proven again only if something went through the tunnel within this time.
const IN_USE: Duration = Duration::from_secs(20);

/// At most so often because something seemed lost.
const DOUBT_PAUSE: Duration = Duration::from_secs(5);

impl Mesh {
    /// Begins the search on a new path, once there is a tunnel to use it.
    pub(super) fn begin_mtu_search(&mut self, handle: PeerHandle, now: Instant) {
        if self.fixed_mtu {
            return;
        }
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if !peer.established || peer.plain {
            return;
        }
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        if !path.mtu.is_busy() && !path.mtu.is_settled() {
            let step = path.mtu.search();
            self.take_step(handle, step, now);
        }
    }

    pub(super) fn mtu_answered(&mut self, handle: PeerHandle, from: Path, size: u16, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(path) = peer.path.as_mut().filter(|path| path.path == from) else { return };
        if let Some(step) = path.mtu.answered(size) {
            self.take_step(handle, step, now);
        }
    }

    pub(super) fn mtu_timed_out(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        if let Some(step) = path.mtu.timed_out() {
            self.take_step(handle, step, now);
        }
    }

    /// Proves the size again while it is in use, and looks for more now and then.
    pub(super) fn refresh_mtu(&mut self, handle: PeerHandle, refreshes: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if self.fixed_mtu || !peer.established || !is_recent(peer.traffic, IN_USE, now) {
            return;
        }
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        let step = if refreshes.is_multiple_of(REFRESHES_PER_RAISE) && path.mtu.is_settled() {
            Some(path.mtu.search())
        } else {
            path.mtu.confirm()
        };
        if let Some(step) = step {
            self.take_step(handle, step, now);
        }
    }

    /// Something was sent and only probes were answered: perhaps long packets are lost.
    pub(super) fn doubt_mtu(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        if self.fixed_mtu || is_recent(path.doubted, DOUBT_PAUSE, now) {
            return;
        }
        if let Some(step) = path.mtu.confirm() {
            path.doubted = Some(now);
            self.take_step(handle, step, now);
        }
    }

    fn take_step(&mut self, handle: PeerHandle, step: Step, now: Instant) {
        let timer = Timer::Peer(handle, PeerTimer::Mtu);
        match step {
            Step::Probe(size) => {
                let Some(peer) = self.peers.get(handle) else { return };
                let Some(path) = peer.in_use() else { return };
                let patience = PATIENCE.max(peer.patience() * 3);
                self.timers.set(timer, now + patience);
                self.send_probe(handle, path, Purpose::Mtu(size), now);
            }
            Step::Done => {
                self.timers.clear(timer);
                self.update_mtu(now);
            }
        }
    }

    /// Brings the interface's MTU in line with the paths in use.
    pub(super) fn update_mtu(&mut self, _now: Instant) {
        if self.fixed_mtu {
            return;
        }
        let carried = self
            .peers
            .active()
            .into_iter()
            .filter_map(|handle| self.peers.get(handle))
            .filter(|peer| peer.established)
            .filter_map(|peer| peer.live_path())
            .filter(|path| path.mtu.is_settled())
            .map(|path| path.mtu.confirmed())
            .min();
        if let Some(mtu) = carried
            && mtu != self.mtu
        {
            self.mtu = mtu;
            self.events.retain(|event| !matches!(event, Event::Mtu(_)));
            self.events.push_back(Event::Mtu(mtu));
        }
    }
}
