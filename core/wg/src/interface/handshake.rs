//! Handshakes: attempts of ours, initiations of theirs, responses and cookies (paper §5.4, §6.4).

use std::net::SocketAddr;
use std::time::Instant;

use super::{Destination, Event, Interface, PeerIndex, Received, Transmit};
use crate::DropReason;
use crate::constants::{
    INITIATION_FLOOD_GAP, INITIATION_GAP, MAX_FORGED_RESPONSES, MAX_JITTER, REKEY_TIMEOUT,
};
use crate::keypair::{Keypair, Role};
use crate::message::{
    COOKIE_REPLY_LEN, INITIATION_LEN, RESPONSE_LEN, array, cookie_reply, initiation, response,
    u32_at,
};
use crate::noise::{self, ReadInitiation};
use crate::peer::{Attempt, Pending};
use crate::timers::Timer;

impl Interface {
    /// Begins a handshake or begins it anew: the first initiation leaves as soon as it may.
    pub(super) fn begin_attempt(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if peer.static_static.is_none() {
            self.counters.drop(DropReason::HandshakeCrypto);
            self.events.push_back(Event::HandshakeFailed { peer: index });
            return;
        }
        let before = peer.attempt.take();
        peer.attempt = Some(Attempt {
            began: before.as_ref().map_or(now, |attempt| attempt.began),
            interval: self.first_retry,
            cookie_answered: false,
            pending: before.and_then(|attempt| attempt.pending),
        });
        self.send_initiation_in_turn(index, now);
    }

    /// Sends an initiation at once, or 50 ms after the one before.
    fn send_initiation_in_turn(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        match peer.last_initiation_sent.map(|last| last + INITIATION_GAP) {
            Some(allowed) if now < allowed => {
                self.timers.arm(index, &mut peer.deadlines, Timer::Retry, allowed);
            }
            Some(_) | None => self.send_initiation(index, now),
        }
    }

    /// Sends the next initiation of an attempt, superseding the one before.
    pub(super) fn send_initiation(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        let (Some(attempt), Some(static_static)) = (&mut peer.attempt, &peer.static_static) else {
            return;
        };
        if let Some(superseded) = attempt.pending.take() {
            self.indices.free(superseded.local);
        }
        let local = self.indices.allocate(index, &mut self.random);
        let stamp = self.clock.stamp(now, peer.last_stamp_sent);
        let ephemeral = self.random.secret();
        let written = noise::write_initiation(
            local,
            &self.identity,
            &peer.key,
            static_static,
            &ephemeral,
            stamp,
        );
        let Some((mut message, sent)) = written else {
            self.indices.free(local);
            return;
        };
        peer.macs.write(&mut message, now);
        peer.last_initiation_sent = Some(now);
        peer.last_stamp_sent = stamp;
        attempt.pending = Some(Pending { local, sent_at: now, sent, forged: 0 });

        peer.jitter = self.random.up_to(MAX_JITTER);
        let jitter = peer.jitter.min(attempt.interval / 8);
        let retry_at = now + attempt.interval + jitter;
        attempt.interval = (attempt.interval * 2).min(REKEY_TIMEOUT);
        self.timers.arm(index, &mut peer.deadlines, Timer::Retry, retry_at);
        self.counters.initiations_sent += 1;
        self.send_to_peer(index, message.to_vec(), now);
    }

    /// Ends an attempt, whatever it came to.
    pub(super) fn end_attempt(&mut self, index: PeerIndex) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        self.timers.disarm(index, &mut peer.deadlines, Timer::Retry);
        if let Some(pending) = peer.attempt.take().and_then(|attempt| attempt.pending) {
            self.indices.free(pending.local);
        }
    }

    pub(super) fn handle_initiation(
        &mut self,
        source: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Received, DropReason> {
        let message: [u8; INITIATION_LEN] = array(datagram, 0);
        if !self.jar.has_valid_mac1(&message) {
            return Err(DropReason::Mac1);
        }
        if self.load.count(now) {
            self.check_source(source, &message, now)?;
        }
        let read = noise::read_initiation(&message, &self.identity);
        let mut read = read.ok_or(DropReason::HandshakeCrypto)?;
        let index = self.peers.by_key(&read.initiator).ok_or(DropReason::UnknownPeer)?;
        let peer = self.peers.get_mut(index).ok_or(DropReason::UnknownPeer)?;
        let static_static = peer.static_static.as_ref().ok_or(DropReason::HandshakeCrypto)?;
        let stamp =
            noise::prove_initiation(&mut read, static_static).ok_or(DropReason::HandshakeCrypto)?;
        if stamp <= peer.last_stamp_accepted {
            return Err(DropReason::HandshakeReplay);
        }
        if peer.last_initiation_accepted.is_some_and(|last| now < last + INITIATION_FLOOD_GAP) {
            return Err(DropReason::HandshakeFlood);
        }
        peer.last_stamp_accepted = stamp;
        peer.last_initiation_accepted = Some(now);
        self.heard_of(index, datagram.len(), now);
        self.counters.initiations_received += 1;
        self.respond(index, read, u32_at(&message, initiation::SENDER), now)?;
        Ok(Received::Handshake { peer: index })
    }

    /// Under load: whether this source may handshake, and if it must prove its address first, how.
    fn check_source(
        &mut self,
        source: SocketAddr,
        message: &[u8; INITIATION_LEN],
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.jar.has_valid_mac2(message, source, now, &mut self.random) {
            return if self.load.admit(source) { Ok(()) } else { Err(DropReason::SourceLimit) };
        }
        if self.load.may_reply(source) {
            let sender = u32_at(message, initiation::SENDER);
            let reply = self.jar.reply(message, sender, source, now, &mut self.random);
            let to = Destination::Source(source);
            self.transmits.push_back(Transmit { to, contents: reply.to_vec() });
            self.counters.cookies_sent += 1;
        }
        Err(DropReason::CookieRequired)
    }

    /// Answers a proven initiation; the session waits for its first packet.
    fn respond(
        &mut self,
        index: PeerIndex,
        read: ReadInitiation,
        remote: u32,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(peer) = self.peers.get_mut(index) else { return Ok(()) };
        let local = self.indices.allocate(index, &mut self.random);
        let ephemeral = self.random.secret();
        let written = noise::write_response(read, local, remote, &ephemeral, &peer.preshared);
        let Some((mut message, keys)) = written else {
            self.indices.free(local);
            return Err(DropReason::HandshakeCrypto);
        };
        peer.macs.write(&mut message, now);
        let keypair = Keypair::new(local, remote, Role::Responder, now, &keys);
        if let Some(superseded) = peer.keypairs.expect_responded(keypair) {
            self.indices.free(superseded);
        }
        peer.stats.last_handshake = Some(now);
        peer.jitter = self.random.up_to(MAX_JITTER);
        self.watch_deaths(index);
        self.send_to_peer(index, message.to_vec(), now);
        Ok(())
    }

    pub(super) fn handle_response(
        &mut self,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Received, DropReason> {
        let message: [u8; RESPONSE_LEN] = array(datagram, 0);
        if !self.jar.has_valid_mac1(&message) {
            return Err(DropReason::Mac1);
        }
        let local = u32_at(&message, response::RECEIVER);
        let index = self.indices.peer(local).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.get_mut(index).ok_or(DropReason::UnknownIndex)?;
        let pending = peer.attempt.as_mut().and_then(|attempt| attempt.pending.as_mut());
        let pending = pending
            .filter(|pending| pending.local == local && pending.forged < MAX_FORGED_RESPONSES)
            .ok_or(DropReason::Unexpected)?;
        let keys = noise::read_response(&message, &pending.sent, &self.identity, &peer.preshared);
        let Some(keys) = keys else {
            pending.forged += 1;
            return Err(DropReason::HandshakeCrypto);
        };
        let sent_at = pending.sent_at;

        // The initiation's index becomes the session's, so it must not be freed with the attempt.
        peer.attempt = None;
        self.timers.disarm(index, &mut peer.deadlines, Timer::Retry);
        peer.stats.last_handshake = Some(now);
        peer.stats.handshake_rtt = Some(now.saturating_duration_since(sent_at));
        let remote = u32_at(&message, response::SENDER);
        let keypair = Keypair::new(local, remote, Role::Initiator, now, &keys);
        let ours_wins = self.identity.public > peer.key;
        for gone in peer.keypairs.use_initiated(keypair, ours_wins) {
            self.indices.free(gone);
        }
        self.watch_deaths(index);
        self.heard_of(index, datagram.len(), now);
        self.counters.responses_received += 1;
        self.events.push_back(Event::Established { peer: index });
        // The peer may not send before it has heard from us: this tells it without delay.
        self.send_keepalive(index, now);
        Ok(Received::Handshake { peer: index })
    }

    pub(super) fn handle_cookie_reply(
        &mut self,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Received, DropReason> {
        let reply: [u8; COOKIE_REPLY_LEN] = array(datagram, 0);
        let local = u32_at(&reply, cookie_reply::RECEIVER);
        let index = self.indices.peer(local).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.get_mut(index).ok_or(DropReason::UnknownIndex)?;
        if !peer.macs.read_reply(&reply, now) {
            return Err(DropReason::Cookie);
        }
        self.counters.cookies_received += 1;
        if let Some(attempt) = &mut peer.attempt
            && !attempt.cookie_answered
        {
            attempt.cookie_answered = true;
            self.send_initiation_in_turn(index, now);
        }
        Ok(Received::Cookie { peer: index })
    }
}
