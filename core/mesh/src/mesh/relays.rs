//! The netmap's relays: the list, the round-trip times, and what comes from them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{Relay as Info, RelayState};
use warren_turn::client::Inbound as FromRelay;
use warren_turn::{Builder, Class, Message, Method};

use super::Mesh;
use crate::candidates::canonical;
use crate::demux::{Kind, classify};
use crate::path::{Path, Via};
use crate::relay::Carrier;
use crate::timers::Timer;
use crate::{BrokerState, Inbound, InboundDrop, RelayHandle};

/// What is due at once has been done: the next look is later.
const SOON: Duration = Duration::from_millis(1);

impl Mesh {
    /// How this device does its duty as a relay: published with the next check-in, which is at once
    /// when it has changed. `None`: it has none.
    pub fn handle_relay_state(&mut self, state: Option<RelayState>, now: Instant) {
        self.relays.own = state;
        self.publish_changes(now);
        self.pump(now);
    }

    pub(super) fn take_relays(&mut self, list: &[Info], now: Instant) {
        let (void, news) = self.relays.take(list);
        for relay in void {
            self.drop_allocation(relay, now);
        }
        if news {
            self.timers.set(Timer::Measure, now);
            self.measure_relays(now);
        }
        self.publish_relays(now);
    }

    /// The network is another one: every relay is asked anew.
    pub(super) fn measure_all_relays(&mut self, now: Instant) {
        for relay in self.relays.order.clone() {
            if let Some(relay) = self.relays.get_mut(relay) {
                relay.measurement.restart();
                relay.rest = None;
                relay.udp_failed = None;
            }
        }
        self.measure_relays(now);
    }

    /// A relay is wanted and none is known to answer: those that didn't are asked before their time,
    /// as one may be back.
    pub(super) fn ask_silent_relays(&mut self, now: Instant) {
        for relay in self.relays.order.clone() {
            if let Some(relay) = self.relays.get_mut(relay) {
                relay.measurement.hasten(now);
            }
        }
        self.measure_relays(now);
    }

    /// Asks the relays whose turn it is.
    pub(super) fn measure_relays(&mut self, now: Instant) {
        let mut next = None;
        let mut settled = false;
        for relay in self.relays.order.clone() {
            let Some(entry) = self.relays.get(relay) else { continue };
            let addresses: Vec<SocketAddr> = entry
                .info
                .udp
                .iter()
                .map(|address| canonical(*address))
                .filter(|address| self.outside.has_family(*address))
                .collect();
            if self.outside.local.is_empty() {
                continue;
            }
            let Some(entry) = self.relays.get_mut(relay) else { continue };
            let was_settled = entry.measurement.is_settled();
            let asked = entry.measurement.handle_timeout(&addresses, now);
            settled |= !was_settled && entry.measurement.is_settled();
            for to in asked {
                self.ask_relay(relay, to, now);
            }
            let Some(entry) = self.relays.get(relay) else { continue };
            let due = entry.measurement.due(now).max(now + SOON);
            next = Some(next.map_or(due, |next: Instant| next.min(due)));
        }
        match next {
            Some(next) => self.timers.set(Timer::Measure, next),
            None => self.timers.clear(Timer::Measure),
        }
        if settled {
            self.publish_relays(now);
        }
    }

    fn ask_relay(&mut self, relay: RelayHandle, to: SocketAddr, now: Instant) {
        let id = self.random.transaction_id();
        let mut contents = Vec::with_capacity(28);
        Builder::new(&mut contents, Class::Request, Method::BINDING, id).fingerprint();
        if let Some(entry) = self.relays.get_mut(relay) {
            entry.measurement.sent(id, to, now);
        }
        self.send(Path::direct(to), contents, false);
    }

    /// Takes the answer to such a question; false if it isn't one.
    pub(super) fn relay_measured(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let id = message.transaction_id();
        let order = self.relays.order.clone();
        let answered = order.into_iter().find_map(|relay| {
            let entry = self.relays.get_mut(relay)?;
            Some((relay, entry.measurement.handle_answer(id, from, now)?))
        });
        let Some((relay, done)) = answered else { return false };
        self.relays.heard = Some(now);
        if done {
            self.measure_relays(now);
            self.publish_relays(now);
            self.return_to_udp(relay, now);
            self.relay_found(now);
        }
        true
    }

    /// Brings the published times up to date, once all that was asked is answered or given up.
    pub(super) fn publish_relays(&mut self, now: Instant) {
        let pending = self
            .relays
            .order
            .iter()
            .filter_map(|relay| self.relays.get(*relay))
            .any(|relay| !relay.measurement.is_settled() && relay.rest.is_none());
        if pending {
            return;
        }
        let blocked = self.is_udp_blocked(now);
        let rtt = match self.broker {
            Some(BrokerState::Connected { rtt }) => Some(rtt),
            Some(BrokerState::Lost) | None => None,
        };
        self.relays.update_published(blocked, rtt, now);
        self.publish_changes(now);
    }

    /// Whether something can be sent along a path at this moment.
    pub(super) fn can_send(&self, path: Path) -> bool {
        match path.via {
            Via::Direct | Via::PeersRelay => true,
            Via::Relay(relay) => {
                self.relays.carriage(path).is_some()
                    || (!self.relays.is_virtual(relay)
                        && self.relays.allocation(relay).is_some_and(|a| a.relayed().is_some()))
            }
        }
    }

    /// Sends one datagram along a path: the cold way.
    pub(super) fn send(&mut self, path: Path, contents: Vec<u8>, dont_fragment: bool) {
        match self.relays.carriage(path) {
            Some(carriage) => {
                let contents = match carriage.headroom() {
                    0 => contents,
                    room => {
                        let mut framed = Vec::with_capacity(room + contents.len());
                        framed.resize(room, 0);
                        framed.extend_from_slice(&contents);
                        framed
                    }
                };
                if let Some(transmit) = self.relays.load(carriage, contents) {
                    self.transmits.push_back(crate::Transmit { dont_fragment, ..transmit });
                }
            }
            None => self.send_indication(path, &contents),
        }
    }

    /// At a relay with ordinary addresses what has no channel yet goes as an indication.
    fn send_indication(&mut self, path: Path, contents: &[u8]) {
        let Via::Relay(relay) = path.via else { return };
        if self.relays.is_virtual(relay) {
            return;
        }
        let Some(allocation) = self.relays.allocation_mut(relay) else { return };
        let Some(client) = allocation.client.as_mut().filter(|client| client.relayed().is_some())
        else {
            return;
        };
        let Some(head) = client.indication(path.remote, contents.len()) else { return };
        let padding = &[0; 3][..head.padding()];
        let message = [head.bytes(), contents, padding].concat();
        match &mut allocation.carrier {
            Carrier::Udp(remote) => {
                let remote = *remote;
                let transmit = crate::Transmit { remote, contents: message, dont_fragment: false };
                self.transmits.push_back(transmit);
            }
            Carrier::Stream(stream) => {
                stream.write(&message);
            }
        }
    }

    /// Takes STUN from the data socket.
    pub(super) fn handle_stun(
        &mut self,
        remote: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Inbound {
        let Ok(message) = Message::parse(datagram) else {
            return Inbound::Dropped(InboundDrop::MalformedStun);
        };
        let is_binding = message.method() == Method::BINDING;
        match (is_binding, message.class()) {
            (true, Class::Request) if message.username().is_some() => {
                self.handle_binding(Path::direct(remote), &message, now).into()
            }
            (_, Class::Request) => self.not_ours(InboundDrop::NotAProbe),
            (true, Class::Success | Class::Error) => {
                let handled = self.handle_binding(Path::direct(remote), &message, now);
                match (handled, self.relays.by_server(remote)) {
                    // The keepalive of an allocation.
                    (Err(InboundDrop::UnknownTransaction), Some(relay)) => {
                        self.handle_from_relay(relay, datagram, now)
                    }
                    (handled, _) => handled.into(),
                }
            }
            (true, Class::Indication) => Inbound::Dropped(InboundDrop::NotAProbe),
            (false, Class::Success | Class::Error | Class::Indication) => self
                .handle_from_server(remote, datagram, now)
                .unwrap_or_else(|| self.not_ours(InboundDrop::UnknownTransaction)),
        }
    }

    /// Takes ChannelData from the data socket.
    pub(super) fn handle_channel_data(
        &mut self,
        remote: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Inbound {
        self.handle_from_server(remote, datagram, now)
            .unwrap_or_else(|| self.not_ours(InboundDrop::NoRelay))
    }

    /// Takes what comes from where this device has an allocation; `None` where it has none. A device
    /// that relays there may use this one's relay from the same socket: what the own client doesn't know
    /// is for that.
    fn handle_from_server(
        &mut self,
        remote: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Option<Inbound> {
        let relay = self.relays.by_server(remote)?;
        Some(match self.handle_from_relay(relay, datagram, now) {
            Inbound::Dropped(reason @ InboundDrop::UnknownTransaction) => self.not_ours(reason),
            handled @ (Inbound::Deliver { .. }
            | Inbound::Consumed
            | Inbound::Relay
            | Inbound::Dropped(_)) => handled,
        })
    }

    /// What isn't for this device's own mesh is for its relay, if it is one.
    fn not_ours(&self, otherwise: InboundDrop) -> Inbound {
        if self.netmap.as_ref().is_some_and(|netmap| netmap.relay_duty.is_some()) {
            Inbound::Relay
        } else {
            Inbound::Dropped(otherwise)
        }
    }

    /// Takes one message of a relay at which this device has an allocation.
    pub(super) fn handle_from_relay(
        &mut self,
        relay: RelayHandle,
        datagram: &mut [u8],
        now: Instant,
    ) -> Inbound {
        let Some(allocation) = self.relays.allocation_mut(relay) else {
            return Inbound::Dropped(InboundDrop::NoRelay);
        };
        if matches!(allocation.carrier, Carrier::Udp(_)) {
            self.relays.heard = Some(now);
        }
        let Some(client) = self.relays.allocation_mut(relay).and_then(|it| it.client.as_mut())
        else {
            return Inbound::Dropped(InboundDrop::NoRelay);
        };
        match client.handle_datagram(datagram, now) {
            FromRelay::Data { peer, range } => {
                self.counters.relayed_in += 1;
                let from = Path::relayed(peer, relay);
                match self.handle_relayed(from, &mut datagram[range.clone()], now) {
                    Inbound::Deliver { range: inner } => Inbound::Deliver {
                        range: range.start + inner.start..range.start + inner.end,
                    },
                    other @ (Inbound::Consumed | Inbound::Relay | Inbound::Dropped(_)) => other,
                }
            }
            FromRelay::Consumed => {
                self.pump_relay(relay, now);
                Inbound::Consumed
            }
            FromRelay::NotOurs => Inbound::Dropped(InboundDrop::UnknownTransaction),
            FromRelay::Refused => Inbound::Dropped(InboundDrop::RelayMessage),
        }
    }

    /// Classifies what a relay has passed on; nothing is unwrapped twice.
    fn handle_relayed(&mut self, from: Path, datagram: &mut [u8], now: Instant) -> Inbound {
        match classify(datagram) {
            Kind::WireGuard => self.handle_wireguard(from, datagram, now),
            Kind::Stun => match Message::parse(datagram) {
                Ok(message) if message.method() == Method::BINDING => {
                    self.handle_binding(from, &message, now).into()
                }
                Ok(_) => Inbound::Dropped(InboundDrop::Nested),
                Err(_) => Inbound::Dropped(InboundDrop::MalformedStun),
            },
            Kind::ChannelData => Inbound::Dropped(InboundDrop::Nested),
            Kind::Unknown => Inbound::Dropped(InboundDrop::Unknown),
        }
    }
}
