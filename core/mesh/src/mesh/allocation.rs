//! Allocations at relays: made when the first peer needs one, shared, looked after, let go.
//!
//! A relay that doesn't answer is given up much sooner than RFC 8489's retransmissions would: there
//! is a next one. Over UDP it is tried first, unless that is known to be blocked, and by a stream
//! (TLS, or TCP) when no datagram is answered.

use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_proto::DeviceId;
use warren_turn::client::{Client, Config, Event as TurnEvent, Failure, Transport};
use warren_turn::{Family, is_public};

use super::Mesh;
use super::stream::{STREAM_OPENING, STREAM_PATIENCE};
use crate::candidates::canonical;
use crate::path::{Path, Via};
use crate::relay::{Allocation, Carrier, MAX_ALLOCATIONS, Relay, credential};
use crate::timers::Timer;
use crate::{Event, PeerHandle, RelayHandle, Transmit};

/// A request over UDP goes unanswered for so long before the relay is given up, at least.
const PATIENCE: Duration = Duration::from_millis(500);

/// The same in round trips.
const PATIENCE_ROUND_TRIPS: u32 = 3;

/// The first time-out over UDP; doubled for each repetition.
const RTO: Duration = Duration::from_millis(200);

/// An allocation that nobody needs is kept for so long.
const IDLE: Duration = Duration::from_secs(60);

/// How often at most a relay in doubt is asked for a sign of life.
const DOUBT_PAUSE: Duration = Duration::from_millis(300);

/// The most addresses of one peer that may send to an ordinary relayed address.
const MAX_PERMITTED: usize = 8;

/// The most addresses of one peer that are bound at one relay.
const MAX_BOUND: usize = 4;

impl Mesh {
    /// Makes an allocation unless there is one; false when that can't be.
    pub(super) fn ensure_allocation(&mut self, relay: RelayHandle, now: Instant) -> bool {
        if self.relays.allocation(relay).is_some() {
            return true;
        }
        let blocked = self.is_udp_blocked(now);
        if !self.relays.get(relay).is_some_and(|entry| entry.is_rested(now)) {
            return false;
        }
        if self.relays.allocations() >= MAX_ALLOCATIONS && !self.evict_idle(now) {
            return false;
        }
        let Some(entry) = self.relays.get(relay) else { return false };
        match self.server_of(entry) {
            Some(server) if !blocked || !entry.has_streams() => {
                self.allocate_by_udp(relay, server, now);
                true
            }
            Some(_) | None if entry.has_streams() => {
                self.allocate_by_stream(relay, now);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends an allocation that nobody needs, so that there is room for another; false when all are
    /// needed.
    fn evict_idle(&mut self, now: Instant) -> bool {
        let is_idle = |relay: &RelayHandle| {
            self.relays.allocation(*relay).is_some_and(|there| there.users.is_empty())
        };
        let Some(relay) = self.relays.handles().find(is_idle) else { return false };
        self.close_allocation(relay, now);
        self.drop_allocation(relay, now);
        true
    }

    /// The address at which a relay takes datagrams from here: the quickest, or any.
    fn server_of(&self, relay: &Relay) -> Option<SocketAddr> {
        let usable = |address: &SocketAddr| self.outside.has_family(*address);
        let quickest = relay.measurement.address().filter(usable);
        // One that was asked and hasn't answered is for streams, if there are any.
        if quickest.is_none() && relay.measurement.is_settled() && relay.has_streams() {
            return None;
        }
        quickest.or_else(|| relay.info.udp.iter().map(|address| canonical(*address)).find(usable))
    }

    pub(super) fn allocate_by_udp(&mut self, relay: RelayHandle, server: SocketAddr, now: Instant) {
        self.counters.allocations += 1;
        let patience = self.patience_with(relay);
        let seed = self.random.seed();
        let this = self.this_device();
        let Some(entry) = self.relays.get_mut(relay) else { return };
        let config = turn_config(entry, Transport::Udp, this);
        let mut allocation =
            entry.allocation.take().unwrap_or_else(|| Allocation::new(Carrier::Udp(server), now));
        allocation.carrier = Carrier::Udp(server);
        allocation.begun = now;
        allocation.client = Some(Client::new(config, seed, now));
        entry.allocation = Some(allocation);
        self.timers.set(Timer::Relay(relay), now + patience);
        self.restore_bindings(relay, now);
    }

    /// Asks a new client for what its predecessor had.
    pub(super) fn restore_bindings(&mut self, relay: RelayHandle, now: Instant) {
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        let Some(client) = allocation.client.as_mut() else { return };
        for address in allocation.peers.keys() {
            client.bind(*address, now);
        }
        for ip in &allocation.permitted {
            client.permit(*ip, now);
        }
    }

    /// Wants a channel to an address of a peer.
    pub(super) fn bind_at(
        &mut self,
        handle: PeerHandle,
        relay: RelayHandle,
        address: SocketAddr,
        now: Instant,
    ) {
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        let bound = allocation.peers.values().filter(|bound| **bound == handle).count();
        if let Entry::Vacant(entry) = allocation.peers.entry(address) {
            if bound >= MAX_BOUND {
                return;
            }
            entry.insert(handle);
        }
        let Some(client) = allocation.client.as_mut() else { return };
        client.bind(address, now);
        if client.channel(address).is_some() {
            self.relay_ready(handle, Path::relayed(address, relay), now);
        } else {
            let patience = self.patience_with(relay);
            self.timers.set_if_earlier(Timer::Relay(relay), now + patience);
        }
    }

    /// Lets the peer's addresses send to an ordinary relayed address, and tells the peer which.
    pub(super) fn permit_at(&mut self, handle: PeerHandle, relay: RelayHandle, now: Instant) {
        let Some(peer) = self.peers.get(handle) else { return };
        let ips: Vec<IpAddr> = peer
            .endpoints
            .iter()
            .map(|endpoint| canonical(endpoint.addr).ip())
            .filter(|ip| is_public(ip) && ip.is_ipv4())
            .take(MAX_PERMITTED)
            .collect();
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        for ip in ips {
            if allocation.permitted.insert(ip)
                && let Some(client) = allocation.client.as_mut()
            {
                client.permit(ip, now);
            }
        }
        if allocation.relayed().is_some() {
            self.signal(handle, now);
        }
    }

    /// Takes over what a client has to say.
    pub(super) fn pump_relay(&mut self, relay: RelayHandle, now: Instant) {
        loop {
            self.pump_relay_messages(relay);
            let Some(client) = self.client_of(relay) else { return };
            let Some(event) = client.poll_event() else { return };
            self.take_turn_event(relay, &event, now);
        }
    }

    pub(super) fn this_device(&self) -> Option<DeviceId> {
        self.netmap.as_ref().map(|netmap| netmap.this.id)
    }

    fn client_of(&mut self, relay: RelayHandle) -> Option<&mut Client> {
        self.relays.allocation_mut(relay)?.client.as_mut()
    }

    fn pump_relay_messages(&mut self, relay: RelayHandle) {
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        let Some(client) = allocation.client.as_mut() else { return };
        while let Some(contents) = client.poll_transmit() {
            match &mut allocation.carrier {
                Carrier::Udp(remote) => self.transmits.push_back(Transmit {
                    remote: *remote,
                    contents,
                    dont_fragment: false,
                }),
                Carrier::Stream(stream) => {
                    stream.write(&contents);
                }
            }
        }
    }

    fn take_turn_event(&mut self, relay: RelayHandle, event: &TurnEvent, now: Instant) {
        match *event {
            TurnEvent::Allocated { virtual_address, .. } => {
                self.allocated(relay, virtual_address, now);
            }
            TurnEvent::ChannelReady { peer, number: _ } => {
                let allocation = self.relays.allocation(relay);
                let handle = allocation.and_then(|there| there.peers.get(&peer).copied());
                if let Some(handle) = handle {
                    self.relay_ready(handle, Path::relayed(peer, relay), now);
                }
            }
            TurnEvent::ChannelFailed { peer, reason: _ } => {
                let path = Path::relayed(peer, relay);
                let allocation = self.relays.allocation_mut(relay);
                let handle = allocation.and_then(|there| there.peers.remove(&peer));
                if let Some(handle) = handle {
                    self.relayed_path_lost(handle, path, now);
                }
            }
            TurnEvent::Permitted(_) | TurnEvent::PermissionFailed { .. } | TurnEvent::Rtt(_) => {}
            TurnEvent::Failed { reason } => self.relay_failed(relay, reason, now),
            TurnEvent::Closed => self.drop_allocation(relay, now),
        }
    }

    fn allocated(&mut self, relay: RelayHandle, virtual_address: bool, now: Instant) {
        let Some(entry) = self.relays.get_mut(relay) else { return };
        if entry.info.virtual_addresses && !virtual_address {
            self.relay_failed(relay, Failure::Malformed, now);
            return;
        }
        entry.note_success();
        let is_virtual = entry.info.virtual_addresses;
        let users = entry.allocation.as_ref().map(|there| there.users.clone()).unwrap_or_default();
        if !is_virtual {
            for handle in users {
                // Where this device is reached is news, whatever was said a moment ago.
                if let Some(peer) = self.peers.get_mut(handle) {
                    peer.signalled = None;
                }
                self.signal(handle, now);
            }
        }
    }

    /// A path through a relay doesn't answer: is the relay still there?
    pub(super) fn doubt_relay(&mut self, relay: RelayHandle, now: Instant) {
        let patience = self.patience_with(relay);
        let Some(client) = self.client_of(relay) else { return };
        if client.unanswered_for(now).is_some() {
            return;
        }
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        if now.saturating_duration_since(allocation.begun) < DOUBT_PAUSE {
            return;
        }
        allocation.begun = now;
        if let Some(client) = allocation.client.as_mut() {
            client.verify(now);
        }
        self.timers.set_if_earlier(Timer::Relay(relay), now + patience);
        self.pump_relay(relay, now);
    }

    fn patience_with(&self, relay: RelayHandle) -> Duration {
        let Some(entry) = self.relays.get(relay) else { return PATIENCE };
        let client = entry.allocation.as_ref().and_then(|there| there.client.as_ref());
        let rtt = client.and_then(Client::rtt).or(entry.measurement.rtt()).unwrap_or_default();
        match entry.allocation.as_ref().map(|there| &there.carrier) {
            Some(Carrier::Stream(_)) => STREAM_PATIENCE.max(rtt * PATIENCE_ROUND_TRIPS),
            Some(Carrier::Udp(_)) | None => PATIENCE.max(rtt * PATIENCE_ROUND_TRIPS),
        }
    }

    /// Looks after an allocation: has it answered, does anybody need it?
    pub(super) fn look_at_relay(&mut self, relay: RelayHandle, now: Instant) {
        let patience = self.patience_with(relay);
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        if let Some(idle) = allocation.idle {
            if now.saturating_duration_since(idle) >= IDLE {
                self.close_allocation(relay, now);
            } else {
                self.timers.set(Timer::Relay(relay), idle + IDLE);
            }
            return;
        }
        let (waited, limit) = match &allocation.client {
            Some(client) => (client.unanswered_for(now), patience),
            None => (Some(now.saturating_duration_since(allocation.begun)), STREAM_OPENING),
        };
        match waited {
            Some(waited) if waited >= limit => self.carrier_failed(relay, now),
            Some(waited) => self.timers.set(Timer::Relay(relay), now + (limit - waited)),
            None => {}
        }
    }

    /// Nothing comes back: another carrier, or another relay.
    fn carrier_failed(&mut self, relay: RelayHandle, now: Instant) {
        let Some(entry) = self.relays.get_mut(relay) else { return };
        let by_udp =
            entry.allocation.as_ref().is_some_and(|there| matches!(there.carrier, Carrier::Udp(_)));
        if by_udp && entry.has_streams() {
            entry.udp_failed = Some(now);
            entry.measurement.restart();
            self.timers.set_if_earlier(Timer::Measure, now);
            self.allocate_by_stream(relay, now);
        } else {
            self.relay_failed(relay, Failure::Timeout, now);
        }
    }

    /// The own addresses are others, so relays don't know this device any more: allocations that are
    /// needed are made anew. Connections stay, unless an address is gone or they didn't stand yet.
    pub(super) fn renew_allocations(&mut self, lost: bool, now: Instant) {
        for relay in self.relays.handles() {
            let Some(there) = self.relays.allocation(relay) else { continue };
            let is_needed = !there.users.is_empty();
            let by_udp = matches!(there.carrier, Carrier::Udp(_));
            let stands = there.relayed().is_some();
            let server = self.relays.get(relay).and_then(|entry| self.server_of(entry));
            match server.filter(|_| by_udp && is_needed) {
                Some(server) => {
                    self.allocate_by_udp(relay, server, now);
                    self.pump_relay(relay, now);
                }
                None if by_udp || !is_needed || lost || !stands => {
                    self.drop_allocation(relay, now);
                }
                None => {}
            }
        }
    }

    /// A relay doesn't work: whoever uses it goes to the next one.
    pub(super) fn relay_failed(&mut self, relay: RelayHandle, reason: Failure, now: Instant) {
        self.counters.relay_failures += 1;
        let Some(entry) = self.relays.get_mut(relay) else { return };
        let rest = entry.note_failure(reason, now);
        entry.measurement.fail(rest);
        self.timers.set_if_earlier(Timer::Measure, rest);
        self.drop_allocation(relay, now);
        self.publish_relays(now);
    }

    /// Forgets an allocation that is no more.
    pub(super) fn drop_allocation(&mut self, relay: RelayHandle, now: Instant) {
        self.timers.clear(Timer::Relay(relay));
        let Some(entry) = self.relays.get_mut(relay) else { return };
        let Some(allocation) = entry.allocation.take() else { return };
        if let Carrier::Stream(stream) = &allocation.carrier {
            self.events.push_back(Event::CloseStream { stream: stream.id });
        }
        for handle in allocation.users {
            let Some(peer) = self.peers.get_mut(handle) else { continue };
            peer.relaying.used.remove(&relay);
            let lost = peer.in_use().filter(|path| path.via == Via::Relay(relay));
            peer.candidates
                .remove_relayed(|path| path.via == Via::Relay(relay) && Some(path) != lost);
            match lost {
                Some(path) => self.relayed_path_lost(handle, path, now),
                None => self.begin_relaying(handle, now),
            }
        }
    }

    /// A path through a relay is gone: if it was in use, another is sought at once.
    fn relayed_path_lost(&mut self, handle: PeerHandle, path: Path, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.relaying.note_dead(path, now);
        if peer.live() == Some(path) {
            self.declare_dead(handle, now);
        } else {
            peer.candidates.remove_relayed(|there| there == path);
            self.begin_relaying(handle, now);
        }
    }

    /// A peer doesn't need an allocation any more.
    pub(super) fn leave_relay(&mut self, handle: PeerHandle, relay: RelayHandle, now: Instant) {
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        allocation.users.remove(&handle);
        if let Some(client) = allocation.client.as_mut() {
            for (address, _) in allocation.peers.iter().filter(|(_, bound)| **bound == handle) {
                client.unbind(*address);
            }
        }
        allocation.peers.retain(|_, bound| *bound != handle);
        if allocation.users.is_empty() && allocation.idle.is_none() {
            allocation.idle = Some(now);
            self.timers.set(Timer::Relay(relay), now + IDLE);
        }
    }

    /// Ends an allocation: tells the relay.
    pub(super) fn close_allocation(&mut self, relay: RelayHandle, now: Instant) {
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        match (allocation.client.as_mut(), &allocation.carrier) {
            (Some(client), Carrier::Udp(_)) => {
                client.close(now);
                self.timers.set(Timer::Relay(relay), now + IDLE);
                self.pump_relay(relay, now);
            }
            // The relay ends the allocation with the connection.
            (Some(_) | None, Carrier::Stream(_)) | (None, Carrier::Udp(_)) => {
                self.drop_allocation(relay, now);
            }
        }
    }

    /// Runs the clients' timers that are due.
    pub(super) fn relays_timeout(&mut self, now: Instant) {
        for relay in self.relays.handles() {
            let Some(client) = self.client_of(relay) else { continue };
            if client.poll_timeout().is_some_and(|(due, _)| due <= now) {
                client.handle_timeout(now);
                self.pump_relay(relay, now);
            }
        }
    }

    /// When the first of them is due.
    pub(super) fn relays_due(&self) -> Option<(Instant, &'static str)> {
        self.relays
            .handles()
            .filter_map(|relay| self.relays.allocation(relay)?.client.as_ref()?.poll_timeout())
            .min()
    }
}

pub(super) fn turn_config(relay: &Relay, transport: Transport, this: Option<DeviceId>) -> Config {
    Config {
        first_channel: relay.first_channel(this),
        transport,
        virtual_address: relay.info.virtual_addresses,
        family: if relay.info.virtual_addresses { Family::V6 } else { Family::V4 },
        rto: relay.measurement.rtt().map_or(RTO, |rtt| RTO.max(rtt * 2)),
        ..Config::new(credential(&relay.info.credential))
    }
}
