//! Looking for a path: both sides probe all endpoints of the other, often at first, then less.

use std::time::{Duration, Instant};

use warren_proto::{ConnectRequest, ConnectSignal, Endpoint, MappingBehaviour};

use super::Mesh;
use crate::candidates::canonical;
use crate::path::{Path, Via, is_better};
use crate::peer::{Failure, InUse, Seek, Wish, is_recent};
use crate::probe::transactions::Purpose;
use crate::timers::{PeerTimer, Timer};
use crate::{BrokerState, Event, OutboundDrop, PeerHandle, Reason};

/// How long a path is looked for.
const LIMIT: Duration = Duration::from_secs(5);

/// How long, when the broker says that the peer is offline.
const LIMIT_OFFLINE: Duration = Duration::from_secs(2);

/// How much longer, while a relay is on its way to being used.
const RELAY_EXTENSION: Duration = Duration::from_secs(5);

/// How many rounds of direct probes a pair gets that was found to need a relay.
const LEARNED_ROUNDS: u32 = 2;

/// How long a better path is looked for after the first one answered.
const SETTLE: Duration = Duration::from_millis(300);

/// When the broker is asked once more to tell the peer: the first word may have been lost.
const SIGNAL_AGAIN: Duration = Duration::from_secs(1);

/// The broker isn't asked about one peer more often than this.
const SIGNAL_PAUSE: Duration = Duration::from_millis(100);

/// After a search in vain, traffic starts the next one no sooner than this (protocols.md §4).
pub(super) const RETRY: Duration = Duration::from_secs(25);

/// The same for a peer that was reached before: its path may well come back. It doubles each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// A peer's answer within this time proves that UDP isn't blocked, whatever STUN says.
pub(super) const UDP_PROVEN: Duration = Duration::from_secs(300);

/// A wish of the own host counts for so long without being repeated.
pub(super) const WISH: Duration = Duration::from_secs(25);

/// Data that came lately from an answering address of the same class draws the side with the lower
/// key there, so that both sides end up on one path.
const FOLLOW: Duration = Duration::from_secs(2);

/// How long after a round the next one follows: 100 ms ten times, 200 ms five times, then 500 ms.
fn interval(round: u32) -> Duration {
    Duration::from_millis(match round {
        0..=9 => 100,
        10..=14 => 200,
        _ => 500,
    })
}

impl Mesh {
    /// The broker says that a peer is about to probe this device.
    pub fn handle_connect(&mut self, signal: &ConnectSignal, now: Instant) {
        let Some(handle) = self.peers.by_id(signal.from) else {
            self.counters.signals_ignored += 1;
            return;
        };
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if (&peer.endpoints, peer.nat) != (&signal.endpoints, signal.nat) {
            peer.endpoints.clone_from(&signal.endpoints);
            peer.nat = signal.nat;
            peer.relaying.relay_only = None;
        }
        peer.online = true;
        peer.wanted_there = Some(now);
        self.take_choice(handle, signal.relay, now);
        let Some(peer) = self.peers.get(handle) else { return };
        if peer.live_path().is_some() {
            self.probe_beside(handle, now);
            self.suspect(handle, false, now);
        } else {
            self.seek(handle, Wish::Theirs, now);
        }
        self.pump(now);
    }

    pub(super) fn connect_peer(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.wanted = Some(now);
        peer.traffic = Some(now);
        match peer.live() {
            Some(path) => {
                self.send_probe(handle, path, Purpose::Path, now);
                self.begin_handshake(handle, now);
                self.retest_on_request(handle, now);
            }
            None => self.seek(handle, Wish::Ours, now),
        }
    }

    /// Starts to look for a path, or goes on with more reason.
    pub(super) fn seek(&mut self, handle: PeerHandle, wish: Wish, now: Instant) {
        self.seek_since(handle, wish, now, now);
    }

    /// The same where probing began at `since`.
    pub(super) fn seek_since(
        &mut self,
        handle: PeerHandle,
        wish: Wish,
        since: Instant,
        now: Instant,
    ) {
        self.publish_candidates(handle, now);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if peer.plain {
            self.use_published_path(handle, now);
            return;
        }
        let fresh = match &mut peer.seek {
            Some(seek) if seek.found.is_none() => {
                let more = wish > seek.wish;
                seek.wish = seek.wish.max(wish);
                // The peer begins anew, so its holes open now: so do ours. But whoever waits here
                // gets his answer in time.
                if more || wish == Wish::Theirs {
                    seek.round = 0;
                }
                if more || seek.wish == Wish::Theirs {
                    seek.started = now;
                }
                more
            }
            Some(_) | None => {
                let seek = Seek { wish, started: now, round: 0, probes: 0, found: None };
                peer.seek = Some(seek);
                true
            }
        };
        if wish == Wish::Ours {
            peer.failure = None;
        }
        self.peers.note_activity(handle);
        if fresh && wish == Wish::Ours {
            self.signal(handle, now);
            if self.outside.nat().udp == Some(false) {
                self.refresh_outside(now);
            }
        }
        self.timers.set(Timer::Peer(handle, PeerTimer::Seek), now + interval(0));
        self.plan_relay(handle, wish, since, now);
        self.probe_round(handle, now);
    }

    /// Looks for a better path beside the one in use.
    pub(super) fn probe_beside(&mut self, handle: PeerHandle, now: Instant) {
        self.publish_candidates(handle, now);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if peer.seek.is_some_and(|seek| seek.found.is_none()) {
            return;
        }
        // Beside a relayed path every direct one is better, so more is worth a try.
        let found = peer.live().filter(|path| !path.is_relayed()).map(|_| now);
        let seek = Seek { wish: Wish::Theirs, started: now, round: 0, probes: 0, found };
        peer.seek = Some(seek);
        self.timers.set(Timer::Peer(handle, PeerTimer::Seek), now + interval(0));
        self.probe_round(handle, now);
    }

    /// Asks the broker to tell a peer that it is to be probed, with the own endpoints.
    pub(super) fn signal(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if self.broker == Some(BrokerState::Lost) || is_recent(peer.signalled, SIGNAL_PAUSE, now) {
            return;
        }
        peer.signalled = Some(now);
        let id = peer.id;
        let relay = self.choice_to_tell(handle, now);
        self.events.push_back(Event::Connect(ConnectRequest {
            peer: id,
            endpoints: self.outside.endpoints(),
            nat: self.outside.nat(),
            relay,
        }));
    }

    pub(super) fn seek_round(&mut self, handle: PeerHandle, now: Instant) {
        let relaying = self.is_relay_pending(handle);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let is_relayed = peer.live().is_some_and(Path::is_relayed);
        let Some(seek) = &mut peer.seek else { return };
        let elapsed = now.saturating_duration_since(seek.started);
        if let Some(found) = seek.found {
            if now.saturating_duration_since(found) >= SETTLE {
                self.end_seek(handle);
                return;
            }
        } else {
            let offline =
                !peer.online && matches!(self.broker, Some(BrokerState::Connected { .. }));
            let limit = match (is_relayed, offline) {
                (true, _) | (false, false) => LIMIT,
                (false, true) => LIMIT_OFFLINE,
            };
            if elapsed >= if relaying { limit + RELAY_EXTENSION } else { limit } {
                self.give_seek_up(handle, now);
                return;
            }
        }
        seek.round += 1;
        let next = now + interval(seek.round);
        let signal_again = seek.found.is_none() && seek.wish == Wish::Ours && !is_relayed;
        if signal_again && elapsed >= SIGNAL_AGAIN && !is_recent(peer.signalled, SIGNAL_AGAIN, now)
        {
            self.signal(handle, now);
        }
        self.timers.set(Timer::Peer(handle, PeerTimer::Seek), next);
        self.probe_round(handle, now);
    }

    /// Probes every candidate that could be of use.
    fn probe_round(&mut self, handle: PeerHandle, now: Instant) {
        let local = &self.outside.local;
        let Some(peer) = self.peers.get(handle) else { return };
        let present = peer.live();
        let rank = present.map(|path| path.rank(local));
        // Where a direct path was sought in vain and nothing has changed, little is spent on one.
        let round = peer.seek.map_or(0, |seek| seek.round);
        let spare = round >= LEARNED_ROUNDS && self.is_relay_only(peer);
        let useful = |path: Path| {
            Some(path) != present
                && rank.is_none_or(|rank| path.rank(local) <= rank)
                && !(path.is_relayed() && present.is_some())
                && !(spare && path.via == Via::Direct)
        };
        let targets: Vec<Path> =
            peer.candidates.iter().map(|(path, _)| path).filter(|path| useful(*path)).collect();
        let mut sent = 0;
        for target in targets {
            let is_direct = target.via == Via::Direct;
            let left = self.send_probe(handle, target, Purpose::Path, now);
            sent += u32::from(left && is_direct);
        }
        if let Some(seek) = self.peers.get_mut(handle).and_then(|peer| peer.seek.as_mut()) {
            seek.probes += sent;
        }
    }

    pub(super) fn end_seek(&mut self, handle: PeerHandle) {
        if let Some(peer) = self.peers.get_mut(handle) {
            peer.seek = None;
        }
        self.timers.clear(Timer::Peer(handle, PeerTimer::Seek));
        self.timers.clear(Timer::Peer(handle, PeerTimer::Relay));
        self.peers.note_activity(handle);
    }

    /// Nothing has answered.
    fn give_seek_up(&mut self, handle: PeerHandle, now: Instant) {
        let reason = self.reason(handle, now);
        self.end_seek(handle);
        if self.learn_relay_only(handle, reason) {
            return;
        }
        self.leave_relays(handle, now);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let wanted = is_recent(peer.wanted, WISH, now);
        if peer.path.is_some() {
            self.drop_path(handle, now);
        }
        if wanted {
            self.fail(handle, reason, now);
        }
    }

    /// Tells whoever waits that the peer can't be reached.
    pub(super) fn fail(&mut self, handle: PeerHandle, reason: Reason, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let pause = match &mut peer.failures {
            Some(failures) => {
                *failures = failures.saturating_add(1);
                RETRY.min(FIRST_RETRY * 2u32.saturating_pow(*failures - 1))
            }
            None => RETRY,
        };
        peer.failure = Some(Failure { reason, retry: now + pause });
        if let Some(tunnel) = peer.tunnel {
            self.wg.cancel_initiation(tunnel);
        }
        self.events.push_back(Event::Unreachable { peer: peer.id, reason });
        self.peers.note_activity(handle);
        while let Some(packet) = self.queues.pop(handle) {
            self.refuse(&packet, OutboundDrop::Unreachable, now);
        }
    }

    pub(super) fn reason(&self, handle: PeerHandle, now: Instant) -> Reason {
        let Some(peer) = self.peers.get(handle) else { return Reason::PeerOffline };
        let own = self.outside.nat();
        let endpoints = u32::try_from(peer.candidates.direct()).unwrap_or(u32::MAX);
        if self.is_udp_blocked(now) {
            Reason::UdpBlockedHere
        } else if !peer.online && matches!(self.broker, Some(BrokerState::Connected { .. })) {
            Reason::PeerOffline
        } else if peer.nat.udp == Some(false) {
            Reason::UdpBlockedThere
        } else if endpoints == 0 {
            Reason::NoUsableEndpoint
        } else {
            let families = [(own.ipv4, peer.nat.ipv4), (own.ipv6, peer.nat.ipv6)];
            let mapping = families.into_iter().find_map(|(here, there)| blame(here, there));
            let probes = peer.seek.map_or(0, |seek| seek.probes);
            mapping.unwrap_or(Reason::NoAnswer { probes, endpoints })
        }
    }

    /// One of our probes was answered: is that the path to use?
    pub(super) fn path_answered(&mut self, handle: PeerHandle, path: Path, now: Instant) {
        self.heard_answer(handle, path, now);
        let Some(peer) = self.peers.get(handle) else { return };
        let Some(present) = peer.live() else {
            self.use_path(handle, path, now);
            return;
        };
        if present == path {
            return;
        }
        let local = &self.outside.local;
        let figures = |path: Path| {
            let rtt = peer.candidates.get(&path).and_then(|candidate| candidate.rtt);
            (path.rank(local), rtt.unwrap_or(Duration::MAX))
        };
        let (new, old) = (figures(path), figures(present));
        let follow = new.0 == old.0
            && self.public < peer.key
            && peer
                .elsewhere
                .is_some_and(|(from, at)| from == path && is_recent(Some(at), FOLLOW, now));
        if follow || peer.returns_by(path) || is_better(new, old) {
            self.use_path(handle, path, now);
        }
    }

    /// A peer that can't be probed is simply talked to.
    fn use_published_path(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        let usable = |path: &Path| peer.candidates.get(path).is_some();
        let published = |endpoint: &Endpoint| Path::direct(canonical(endpoint.addr));
        match peer.endpoints.iter().map(published).find(usable) {
            Some(path) => self.use_path(handle, path, now),
            None => self.fail(handle, Reason::NoUsableEndpoint, now),
        }
    }

    /// Takes a path into use: the first, a better one, or one that lives.
    pub(super) fn use_path(&mut self, handle: PeerHandle, path: Path, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if let Some(old) = &peer.path
            && let Some(candidate) = peer.candidates.get_mut(&old.path)
        {
            candidate.mtu = Some(old.mtu.confirmed());
        }
        let known = peer.candidates.get(&path).and_then(|candidate| candidate.mtu);
        peer.path = Some(InUse::new(path, known, now));
        peer.failure = None;
        peer.failures = Some(0);
        peer.elsewhere = None;
        if let Some(seek) = &mut peer.seek
            && !path.is_relayed()
        {
            seek.found = Some(now);
        }
        let held = peer.held.take();
        self.events.push_back(Event::PathChanged { peer: peer.id, path: Some(path) });
        self.settle_relaying(handle, path, now);
        self.timers.clear(Timer::Peer(handle, PeerTimer::Verify));
        self.timers.clear(Timer::Peer(handle, PeerTimer::Silence));
        self.timers.clear(Timer::Peer(handle, PeerTimer::Mtu));
        self.schedule_refresh(handle, now);
        self.peers.note_activity(handle);
        if let Some(contents) = held {
            self.send(path, contents, false);
        }
        self.ensure_tunnel(handle, now);
        self.begin_handshake(handle, now);
        self.flush(handle, now);
        self.begin_mtu_search(handle, now);
    }

    /// A peer's endpoints changed, or it came online: perhaps after a restart, without its sessions.
    pub(super) fn peer_moved(&mut self, handle: PeerHandle, came_online: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.relaying.relay_only = None;
        let failed = peer.failure.take().is_some();
        let wanted = is_recent(peer.wanted, WISH, now);
        let sought = peer.seek.is_some_and(|seek| seek.wish == Wish::Ours && seek.found.is_none());
        if peer.live_path().is_some() {
            self.probe_beside(handle, now);
            if came_online {
                self.suspect(handle, false, now);
            }
        } else if failed && wanted {
            self.seek(handle, Wish::Ours, now);
        } else if came_online && sought {
            self.signal(handle, now);
            self.seek(handle, Wish::Theirs, now);
        } else if peer.seek.is_some() && self.publish_candidates(handle, now) {
            self.probe_round(handle, now);
        }
    }
}

/// What the mapping behaviour of two NATs explains, when nothing came through (RFC 4787 §4.1).
pub(super) fn blame(here: MappingBehaviour, there: MappingBehaviour) -> Option<Reason> {
    use MappingBehaviour::{AddressDependent, EndpointIndependent, Unknown};
    match (here, there) {
        (AddressDependent, AddressDependent) => Some(Reason::BothMapPerDestination),
        (AddressDependent, EndpointIndependent | Unknown) => {
            Some(Reason::OneMapsPerDestination { here: true })
        }
        (EndpointIndependent | Unknown, AddressDependent) => {
            Some(Reason::OneMapsPerDestination { here: false })
        }
        (MappingBehaviour::None | EndpointIndependent | Unknown, _)
        | (AddressDependent, MappingBehaviour::None) => None,
    }
}
