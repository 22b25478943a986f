//! Sending probes, answering those of peers, and taking the answers to ours.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{EndpointKind, is_usable_endpoint};
use warren_turn::{Class, Fingerprint, Handled, Integrity, Message};

use super::Mesh;
use crate::mtu;
use crate::path::{Path, Rank, Via};
use crate::peer::{Pair, Peer, is_recent};
use crate::probe::keys::{PairKeys, Tag};
use crate::probe::transactions::{Pending, Purpose};
use crate::probe::wire::{self, Flags};
use crate::timers::Timer;
use crate::{Inbound, InboundDrop, PeerHandle};

/// How many pair secrets are derived at a time; each costs about 50 µs.
const DERIVED_AT_ONCE: usize = 32;

/// The pause between two such lots.
const DERIVE_PAUSE: Duration = Duration::from_millis(10);

/// A candidate that a probe left for so lately isn't probed again because the peer probed us.
const TRIGGER_PAUSE: Duration = Duration::from_millis(80);

/// Where the peer is known to answer, its probes trigger ours only so often.
const PROVEN_PAUSE: Duration = Duration::from_secs(5);

/// How much older than its maker's newest a probe may be: what paths of different lengths, and their
/// queues, make of the order.
const STAMP_WINDOW: Duration = Duration::from_secs(5);

/// At most one handshake in this time is begun because the peer says that it has no session.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

/// What the peer says of a session counts from so long after the handshake on: by then it has the
/// first packet, which confirms it, or that was lost.
const CONFIRMED: Duration = Duration::from_millis(100);

impl Mesh {
    /// Sends a probe, unless the address has never answered and the budget is used up.
    pub(super) fn send_probe(
        &mut self,
        handle: PeerHandle,
        path: Path,
        purpose: Purpose,
        now: Instant,
    ) -> bool {
        if !self.ensure_pair(handle, now) || !self.can_send(path) {
            return false;
        }
        let day = self.clock.day(now);
        let Some(peer) = self.peers.get_mut(handle) else { return false };
        let Some(candidate) = peer.candidates.get_mut(&path) else { return false };
        // A relay passes on only to who has asked for it.
        let is_free = candidate.answered.is_some() || matches!(path.via, Via::Relay(_));
        if !is_free && !self.budget.take(path.remote.ip(), now) {
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
            Purpose::Path | Purpose::Aside => (wire::REQUEST_LEN, false),
            Purpose::Mtu(size) => (mtu::probe_len(size), true),
        };
        let flags = Flags {
            aside: purpose == Purpose::Aside,
            allocation: matches!(path.via, Via::Relay(relay) if !self.relays.is_virtual(relay)),
        };
        let stamp = self.wg.clock(now);
        let contents = wire::request(id, &pair.own.1, stamp, &pair.keys.integrity, flags, len);
        self.transactions.insert(id, Pending { peer: handle, path, sent: now, purpose });
        self.send(path, contents, dont_fragment);
        self.counters.probes_sent += 1;
        true
    }

    /// Takes a Binding message that came along `from`.
    pub(super) fn handle_binding(
        &mut self,
        from: Path,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        match message.class() {
            Class::Request => self.handle_probe(from, message, now),
            Class::Success => self.handle_answer(from, message, now),
            Class::Error => self.handle_server_answer(from, message, now),
            Class::Indication => Err(InboundDrop::NotAProbe),
        }
    }

    fn handle_probe(
        &mut self,
        from: Path,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let tag = wire::tag_of(message).ok_or(InboundDrop::NotAProbe)?;
        if !self.is_usable(from) {
            return Err(InboundDrop::UnusableSource);
        }
        if self.answer_reach(&tag, from, message, now) {
            return Ok(());
        }
        let handle = self.find_tag(&tag, now).ok_or(InboundDrop::UnknownTag)?;
        let peer = self.peers.get_mut(handle).ok_or(InboundDrop::UnknownTag)?;
        let pair = peer.pair.as_ref().ok_or(InboundDrop::UnknownTag)?;
        check(message, pair)?;
        let stamp = wire::stamp_of(message).ok_or(InboundDrop::NotAProbe)?;
        if stamp.saturating_add(STAMP_WINDOW) < peer.stamp {
            return Err(InboundDrop::Replayed);
        }
        peer.stamp = peer.stamp.max(stamp);
        let known = peer.candidates.get(&from).is_some_and(|candidate| {
            candidate.answered.is_some() || candidate.kind != EndpointKind::Observed
        });
        let share = if known { &mut peer.answers } else { &mut peer.strange_answers };
        if !share.take(now) {
            return Err(InboundDrop::ProbeRate);
        }
        let Some(peer) = self.peers.get(handle) else { return Err(InboundDrop::UnknownTag) };
        if !self.is_at_home(peer, from) {
            return Err(InboundDrop::UnusableSource);
        }
        let peer = self.peers.get_mut(handle).ok_or(InboundDrop::UnknownTag)?;
        let pair = peer.pair.as_ref().ok_or(InboundDrop::UnknownTag)?;
        let id = message.transaction_id();
        let answer = wire::response(id, from.remote, peer.established, &pair.keys.integrity);
        let flags = Flags::of(message);
        if flags.allocation && from.via == Via::Direct {
            peer.relaying.note_relayed_there(from.remote);
        }
        let from = peer.resolve(from);
        self.send(from, answer, false);
        self.counters.probes_answered += 1;
        self.learn_of(handle, from, now);
        if flags.aside && from.is_relayed() {
            self.try_direct_too(handle, now);
        }
        Ok(())
    }

    /// A valid probe came along `from`: probes back, unless that is the path in use anyway.
    fn learn_of(&mut self, handle: PeerHandle, from: Path, now: Instant) {
        // Its handshake may overtake the answer to our own probe.
        self.ensure_tunnel(handle, now);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        if peer.live() == Some(from) {
            return;
        }
        let in_use = peer.in_use();
        let new = peer.candidates.observe(from, in_use, now);
        self.follow_relayed(handle, from, now);
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let candidate = peer.candidates.get(&from);
        let pause = if candidate.is_some_and(|c| is_recent(c.answered, PROVEN_PAUSE, now)) {
            PROVEN_PAUSE
        } else {
            TRIGGER_PAUSE
        };
        let asked = candidate.and_then(|candidate| candidate.asked);
        if !is_recent(asked, pause, now) {
            self.send_probe(handle, from, Purpose::Path, now);
        }
        if new && !from.is_relayed() {
            self.suspect(handle, false, now);
        }
    }

    fn handle_answer(
        &mut self,
        from: Path,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let id = message.transaction_id();
        let Some(pending) = self.transactions.get(id).copied() else {
            return self.handle_server_answer(from, message, now);
        };
        if (pending.path.remote, pending.path.via.relay()) != (from.remote, from.via.relay()) {
            return Err(InboundDrop::UnknownTransaction);
        }
        let (handle, from) = (pending.peer, pending.path);
        let peer = self.peers.get_mut(handle).ok_or(InboundDrop::UnknownTransaction)?;
        check(message, peer.pair.as_ref().ok_or(InboundDrop::UnknownTransaction)?)?;
        self.transactions.remove(id);
        self.counters.answers_received += 1;
        if from.rank(&self.outside.local) == Rank::Direct {
            self.answered = Some(now);
        }
        match pending.purpose {
            Purpose::Path | Purpose::Aside => {
                let rtt = now.saturating_duration_since(pending.sent);
                if let Some(candidate) = peer.candidates.get_mut(&from) {
                    candidate.measure(rtt, now);
                    let lost =
                        self.lost_tunnel(handle, wire::tunnel_of(message), pending.sent, now);
                    self.path_answered(handle, from, now);
                    if lost {
                        self.renew_tunnel(handle, now);
                    }
                }
            }
            Purpose::Mtu(size) => self.mtu_answered(handle, from, size, now),
        }
        Ok(())
    }

    /// A response that answers none of our probes: one of a relay or STUN server?
    fn handle_server_answer(
        &mut self,
        from: Path,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let Path { remote, via: Via::Direct } = from else {
            return Err(InboundDrop::UnknownTransaction);
        };
        if self.relay_measured(remote, message, now) {
            return Ok(());
        }
        match self.outside.stun.handle_response(remote, message, now) {
            Handled::Answered => {
                self.outside_changed(now);
                Ok(())
            }
            Handled::Refused => Err(InboundDrop::MalformedStun),
            Handled::NotOurs => Err(InboundDrop::UnknownTransaction),
        }
    }

    /// The peer says whether it had a session with us when the question that left at `asked` was
    /// there: if not, ours is good for nothing, and what is to be sent waits for a new one.
    fn lost_tunnel(
        &mut self,
        handle: PeerHandle,
        theirs: Option<bool>,
        asked: Instant,
        now: Instant,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(handle) else { return false };
        let (Some(false), true, Some(tunnel)) = (theirs, peer.established, peer.tunnel) else {
            return false;
        };
        let shaken = self.wg.stats(tunnel).and_then(|stats| stats.last_handshake);
        let is_fresh = shaken.is_some_and(|shaken| asked < shaken + CONFIRMED);
        if is_fresh || is_recent(peer.renewed, RENEW_PAUSE, now) {
            return false;
        }
        peer.renewed = Some(now);
        peer.established = false;
        true
    }

    /// Whether a peer could be there.
    pub(super) fn is_usable(&self, path: Path) -> bool {
        match path.via {
            Via::Direct | Via::PeersRelay => {
                is_usable_endpoint(&path.remote) && !self.ranges.contain(path.remote.ip())
            }
            Via::Relay(_) => true,
        }
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
        let in_use = peer.in_use();
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
