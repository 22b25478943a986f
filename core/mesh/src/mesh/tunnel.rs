//! WireGuard's side of a peer: when to shake hands, and where its messages go.

use std::time::{Duration, Instant};

use warren_wg::{Destination, Event as TunnelEvent, PeerConfig};

use super::Mesh;
use super::verify::silence_limit;
use crate::path::Path;
use crate::peer::is_recent;
use crate::timers::{PeerTimer, Timer};
use crate::{Event, PeerHandle, Reason};

/// The side with the lower key waits this long where both sides initiate (protocols.md §4).
const GLARE: Duration = Duration::from_millis(200);

/// How much longer, once its handshake has begun.
pub(super) const GLARE_AGAIN: Duration = Duration::from_secs(1);

/// How long after the peer asked for a path it is expected to initiate.
const GLARE_EXPECTED: Duration = Duration::from_secs(5);

/// How long packets wait for a handshake over a path that answers.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

impl Mesh {
    /// Tells WireGuard of the peer, unless it knows.
    pub(super) fn ensure_tunnel(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        if peer.tunnel.is_none() {
            let config = PeerConfig { preshared_key: None, persistent_keepalive: None };
            let tunnel = self.wg.add_peer(peer.key, config, now);
            self.peers.set_tunnel(handle, tunnel);
        }
    }

    /// Shakes hands over the path in use, if there is something to say and no session.
    pub(super) fn begin_handshake(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        let Some(tunnel) = peer.tunnel else { return };
        let wanted =
            self.queues.is_waiting(handle) || is_recent(peer.wanted, super::seek::WISH, now);
        let Some(way) = self.way_to(handle).filter(|_| wanted && !peer.established) else { return };
        // One that goes this way already is repeated by WireGuard's own timer.
        let initiating = self.wg.stats(tunnel).is_some_and(|stats| stats.initiating);
        if initiating && peer.shaking == Some(way) {
            return;
        }
        let glare = Timer::Peer(handle, PeerTimer::Glare);
        if self.timers.is_set(glare) {
            return;
        }
        self.timers
            .set_if_earlier(Timer::Peer(handle, PeerTimer::HandshakeLimit), now + HANDSHAKE_LIMIT);
        if self.public < peer.key && is_recent(peer.wanted_there, GLARE_EXPECTED, now) {
            self.timers.set(glare, now + GLARE);
        } else {
            self.wg.initiate_now(tunnel, now);
            if let Some(peer) = self.peers.get_mut(handle) {
                peer.shaking = Some(way);
            }
        }
    }

    /// Shakes hands anew with a peer that has lost its session.
    pub(super) fn renew_tunnel(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        if let (Some(tunnel), Some(_)) = (peer.tunnel, peer.live_path()) {
            let limit = Timer::Peer(handle, PeerTimer::HandshakeLimit);
            self.timers.set_if_earlier(limit, now + HANDSHAKE_LIMIT);
            self.wg.initiate_now(tunnel, now);
        }
    }

    /// The peer was given its time to initiate.
    pub(super) fn initiate_after_glare(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        if let (false, Some(tunnel), Some(_)) = (peer.established, peer.tunnel, self.way_to(handle))
        {
            self.wg.initiate_now(tunnel, now);
        }
    }

    pub(super) fn give_handshake_up(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        if !peer.established && peer.live_path().is_some() {
            self.fail(handle, Reason::NoHandshake, now);
        }
    }

    /// Takes over what WireGuard has queued.
    pub(super) fn pump_wireguard(&mut self, now: Instant) {
        while let Some(event) = self.wg.poll_event() {
            match event {
                TunnelEvent::Established { peer } => {
                    if let Some(handle) = self.peers.by_tunnel(peer) {
                        self.tunnel_established(handle, now);
                    }
                }
                TunnelEvent::Expired { peer } => {
                    let handle = self.peers.by_tunnel(peer);
                    if let Some(peer) = handle.and_then(|handle| self.peers.get_mut(handle)) {
                        peer.established = false;
                    }
                }
                TunnelEvent::HandshakeFailed { peer } => {
                    if let Some(handle) = self.peers.by_tunnel(peer)
                        && self.queues.is_waiting(handle)
                    {
                        self.fail(handle, Reason::NoHandshake, now);
                    }
                }
            }
        }
        self.pump_wireguard_transmits();
    }

    pub(super) fn pump_wireguard_transmits(&mut self) {
        while let Some(transmit) = self.wg.poll_transmit() {
            match transmit.to {
                Destination::Source(remote) => {
                    // A cookie goes back the way its cause came.
                    let path = self.inbound.filter(|path| path.remote == remote);
                    let path = path.unwrap_or_else(|| Path::direct(remote));
                    self.send(path, transmit.contents, false);
                }
                Destination::Peer(tunnel) => {
                    let Some(handle) = self.peers.by_tunnel(tunnel) else { continue };
                    let way = self.way_to(handle);
                    let Some(peer) = self.peers.get_mut(handle) else { continue };
                    match way {
                        Some(path) => self.send(path, transmit.contents, false),
                        None => peer.held = Some(transmit.contents),
                    }
                }
            }
        }
    }

    fn tunnel_established(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let first = !peer.established;
        peer.established = true;
        peer.failure = None;
        let id = peer.id;
        self.timers.clear(Timer::Peer(handle, PeerTimer::Glare));
        self.timers.clear(Timer::Peer(handle, PeerTimer::HandshakeLimit));
        self.peers.note_activity(handle);
        if first {
            self.events.push_back(Event::Established { peer: id });
        }
        self.flush(handle, now);
        self.begin_mtu_search(handle, now);
    }

    /// Seals and sends what waited for the tunnel, if it and a path are there.
    pub(super) fn flush(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let (true, Some(tunnel)) = (peer.established, peer.tunnel) else { return };
        let Some(path) = peer.path.as_mut().filter(|path| !path.dead) else { return };
        if !self.queues.is_waiting(handle) {
            return;
        }
        let Some(carriage) = self.relays.carriage(path.path) else { return };
        let Some(mut sealer) = self.wg.sealer(tunnel, now) else { return };
        let before = carriage.headroom();
        while let Some(packet) = self.queues.pop(handle) {
            let len = before + warren_wg::HEADROOM + packet.len() + warren_wg::TAILROOM;
            let mut contents = vec![0; len];
            contents[before + warren_wg::HEADROOM..][..packet.len()].copy_from_slice(&packet);
            let sealed = sealer.seal(&mut contents[before..], packet.len());
            if sealed == 0 {
                continue;
            }
            contents.truncate(before + sealed);
            self.counters.sealed += 1;
            if let Some(transmit) = self.relays.load(carriage, contents) {
                self.transmits.push_back(transmit);
            }
        }
        if path.note_sent(now) {
            let due = now + silence_limit(peer.patience());
            self.timers.set(Timer::Peer(handle, PeerTimer::Silence), due);
        }
    }
}
