//! Sending probes, answering those of peers, and taking the answers to ours.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::is_usable_endpoint;
use warren_turn::{Class, Fingerprint, Handled, Integrity, Message, Method};

use super::Mesh;
use crate::mtu;
use crate::peer::{Pair, Peer, is_recent};
use crate::probe::keys::{PairKeys, Tag};
use crate::probe::transactions::{Pending, Purpose};
use crate::probe::wire;
use crate::timers::Timer;
use crate::{Inbound, InboundDrop, PeerHandle, Transmit};

/// How many pair secrets are derived at a time; each costs about 50 µs.
const DERIVED_AT_ONCE: usize = 32;

/// The pause between two such lots.
const DERIVE_PAUSE: Duration = Duration::from_millis(10);

/// A candidate that a probe left for so lately isn't probed again because the peer probed us.
const TRIGGER_PAUSE: Duration = Duration::from_millis(80);

/// Where the peer is known to answer, its probes trigger ours only so often.
const PROVEN_PAUSE: Duration = Duration::from_secs(5);

/// At most one handshake in this time is begun because the peer says that it has no session.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

impl Mesh {
    /// Sends a probe, unless the address has never answered and the budget is used up.
    pub(super) fn send_probe(
        &mut self,
        handle: PeerHandle,
        remote: SocketAddr,
        purpose: Purpose,
        now: Instant,
    ) -> bool {
        if !self.ensure_pair(handle, now) {
            return false;
        }
        let day = self.clock.day(now);
        let Some(peer) = self.peers.get_mut(handle) else { return false };
        let Some(candidate) = peer.candidates.get_mut(&remote) else { return false };
        if candidate.answered.is_none() && !self.budget.take(remote.ip(), now) {
            self.counters.probes_withheld += 1;
            return false;
        }
        candidate.asked = Some(now);
        let Some(pair) = &mut peer.pair else { return false };
        if pair.own.0 != day
            && let Some(tag) = pair.keys.tag(&self.public, day)
        {
            pair.own = (day, tag);
        }
        let id = self.random.transaction_id();
        let (len, dont_fragment) = match purpose {
            Purpose::Path => (wire::REQUEST_LEN, false),
            Purpose::Mtu(size) => (mtu::probe_len(size), true),
        };
        let contents = wire::request(id, &pair.own.1, &pair.keys.integrity, len);
        self.transactions.insert(id, Pending { peer: handle, remote, sent: now, purpose });
        self.transmits.push_back(Transmit { remote, contents, dont_fragment });
        self.counters.probes_sent += 1;
        true
    }

    /// Takes a datagram that has STUN's cookie.
    pub(super) fn handle_stun(
        &mut self,
        remote: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let Ok(message) = Message::parse(datagram) else { return Err(InboundDrop::MalformedStun) };
        if message.method() != Method::BINDING {
            return Err(InboundDrop::NotAProbe);
        }
        match message.class() {
            Class::Request => self.handle_probe(remote, &message, now),
            Class::Success => self.handle_answer(remote, &message, now),
            Class::Error => self.handle_server_answer(remote, &message, now),
            Class::Indication => Err(InboundDrop::NotAProbe),
        }
    }

    fn handle_probe(
        &mut self,
        remote: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let tag = wire::tag_of(message).ok_or(InboundDrop::NotAProbe)?;
        if !self.is_usable(remote) {
            return Err(InboundDrop::UnusableSource);
        }
        let handle = self.find_tag(&tag, now).ok_or(InboundDrop::UnknownTag)?;
        let peer = self.peers.get_mut(handle).ok_or(InboundDrop::UnknownTag)?;
        let pair = peer.pair.as_ref().ok_or(InboundDrop::UnknownTag)?;
        check(message, pair)?;
        if !peer.answers.take(now) {
            return Err(InboundDrop::ProbeRate);
        }
        let id = message.transaction_id();
        let answer = wire::response(id, remote, peer.established, &pair.keys.integrity);
        self.send(remote, answer);
        self.counters.probes_answered += 1;
        self.learn_of(handle, remote, now);
        Ok(())
    }

    /// A valid probe came from `remote`: probes back, unless that is where the peer is anyway.
    fn learn_of(&mut self, handle: PeerHandle, remote: SocketAddr, now: Instant) {
        // Its handshake may overtake the answer to our own probe.
        self.ensure_tunnel(handle, now);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if peer.live_path().is_some_and(|path| path.remote == remote) {
            return;
        }
        let in_use = peer.remote();
        let new = peer.candidates.observe(remote, in_use, now);
        let candidate = peer.candidates.get(&remote);
        let pause = if candidate.is_some_and(|c| is_recent(c.answered, PROVEN_PAUSE, now)) {
            PROVEN_PAUSE
        } else {
            TRIGGER_PAUSE
        };
        let asked = candidate.and_then(|candidate| candidate.asked);
        if !is_recent(asked, pause, now) {
            self.send_probe(handle, remote, Purpose::Path, now);
        }
        if new {
            self.suspect(handle, false, now);
        }
    }

    fn handle_answer(
        &mut self,
        remote: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let id = message.transaction_id();
        let Some(pending) = self.transactions.get(id).copied() else {
            return self.handle_server_answer(remote, message, now);
        };
        if pending.remote != remote {
            return Err(InboundDrop::UnknownTransaction);
        }
        let handle = pending.peer;
        let peer = self.peers.get_mut(handle).ok_or(InboundDrop::UnknownTransaction)?;
        check(message, peer.pair.as_ref().ok_or(InboundDrop::UnknownTransaction)?)?;
        self.transactions.remove(id);
        self.counters.answers_received += 1;
        self.answered = Some(now);
        match pending.purpose {
            Purpose::Path => {
                let rtt = now.saturating_duration_since(pending.sent);
                if let Some(candidate) = peer.candidates.get_mut(&remote) {
                    candidate.measure(rtt, now);
                    let lost = self.lost_tunnel(handle, wire::tunnel_of(message), now);
                    self.path_answered(handle, remote, now);
                    if lost {
                        self.renew_tunnel(handle, now);
                    }
                }
            }
            Purpose::Mtu(size) => self.mtu_answered(handle, remote, size, now),
        }
        Ok(())
    }

    /// A response that answers none of our probes: one of a STUN server?
    fn handle_server_answer(
        &mut self,
        remote: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        match self.outside.stun.handle_response(remote, message, now) {
            Handled::Answered => {
                self.outside.update();
                self.publish_changes(now);
                Ok(())
            }
            Handled::Refused => Err(InboundDrop::MalformedStun),
            Handled::NotOurs => Err(InboundDrop::UnknownTransaction),
        }
    }

    /// The peer says whether it has a session with us: if not, ours is good for nothing, and what
    /// is to be sent waits for a new one.
    fn lost_tunnel(&mut self, handle: PeerHandle, theirs: Option<bool>, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(handle) else { return false };
        let (Some(false), true, Some(tunnel)) = (theirs, peer.established, peer.tunnel) else {
            return false;
        };
        let fresh = self
            .wg
            .stats(tunnel)
            .is_some_and(|stats| is_recent(stats.last_handshake, RENEW_PAUSE, now));
        if fresh || is_recent(peer.renewed, RENEW_PAUSE, now) {
            return false;
        }
        peer.renewed = Some(now);
        peer.established = false;
        true
    }

    /// Whether a peer could be at this address.
    pub(super) fn is_usable(&self, remote: SocketAddr) -> bool {
        is_usable_endpoint(&remote) && !self.ranges.contain(remote.ip())
    }

    /// Brings a peer's candidates up to date with what it has published. Returns whether there is
    /// a new one.
    pub(super) fn publish_candidates(&mut self, handle: PeerHandle, now: Instant) -> bool {
        let (outside, ranges) = (&self.outside, self.ranges);
        let usable = |addr: SocketAddr| {
            is_usable_endpoint(&addr)
                && !ranges.contain(addr.ip())
                && outside.has_family(addr)
                && !outside.is_own(addr)
        };
        let Some(peer) = self.peers.get_mut(handle) else { return false };
        let in_use = peer.remote();
        peer.candidates.publish(&peer.endpoints, usable, in_use, now)
    }

    /// Derives a pair's secrets unless that has been done; false when there are none.
    pub(super) fn ensure_pair(&mut self, handle: PeerHandle, now: Instant) -> bool {
        let Some(peer) = self.peers.get(handle) else { return false };
        if peer.pair.is_some() {
            return true;
        }
        if peer.plain {
            return false;
        }
        let day = self.clock.day(now);
        let pair = PairKeys::derive(&self.secret.0, peer.key)
            .and_then(|keys| make_pair(keys, &self.public, &peer.key, day));
        match pair {
            Some(pair) => {
                self.peers.set_pair(handle, pair);
                true
            }
            None => {
                self.peers.give_up_deriving(handle);
                false
            }
        }
    }

    /// Finds the peer that a tag belongs to. Tags of peers that nothing was said to or heard of yet
    /// are derived when the first unknown one comes.
    fn find_tag(&mut self, tag: &Tag, now: Instant) -> Option<PeerHandle> {
        if let Some(handle) = self.peers.by_tag(tag) {
            return Some(handle);
        }
        if !self.timers.is_set(Timer::Derive) {
            self.derive_some(now);
        }
        self.peers.by_tag(tag)
    }

    pub(super) fn derive_some(&mut self, now: Instant) {
        for _ in 0..DERIVED_AT_ONCE {
            let Some(handle) = self.peers.next_underived() else { return };
            self.ensure_pair(handle, now);
        }
        if self.peers.next_underived().is_some() {
            self.timers.set(Timer::Derive, now + DERIVE_PAUSE);
        }
    }

    /// Another day: all tags change.
    pub(super) fn renew_tags(&mut self, now: Instant) {
        let day = self.clock.day(now);
        for handle in self.peers.handles() {
            let Some(Peer { key, pair: Some(pair), .. }) = self.peers.get(handle) else { continue };
            if let Some(pair) = make_pair(pair.keys.clone(), &self.public, key, day) {
                self.peers.set_pair(handle, pair);
            }
        }
        self.timers.set(Timer::Day, self.clock.next_day(now));
    }

    pub(super) fn schedule_tags(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Day) {
            self.timers.set(Timer::Day, self.clock.next_day(now));
        }
    }
}

/// The tags of yesterday, today and tomorrow, and our own of today.
fn make_pair(keys: PairKeys, own: &[u8; 32], theirs: &[u8; 32], day: u32) -> Option<Pair> {
    let accepted = [
        keys.tag(theirs, day.saturating_sub(1))?,
        keys.tag(theirs, day)?,
        keys.tag(theirs, day.saturating_add(1))?,
    ];
    let own = (day, keys.tag(own, day)?);
    Some(Pair { keys, accepted, own })
}

fn check(message: &Message<'_>, pair: &Pair) -> Result<(), InboundDrop> {
    match (message.verify_fingerprint(), message.verify_sha256(&pair.keys.integrity)) {
        (Fingerprint::Valid, Integrity::Valid) => Ok(()),
        (Fingerprint::Absent | Fingerprint::Wrong, _)
        | (Fingerprint::Valid, Integrity::Absent | Integrity::Wrong) => {
            Err(InboundDrop::BadIntegrity)
        }
    }
}

impl From<Result<(), InboundDrop>> for Inbound {
    fn from(result: Result<(), InboundDrop>) -> Self {
        match result {
            Ok(()) => Self::Consumed,
            Err(reason) => Self::Dropped(reason),
        }
    }
}
