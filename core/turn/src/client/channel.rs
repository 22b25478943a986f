//! Channels: bound, refreshed, let go (RFC 8656 §12).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::timers::Timer;
use super::transaction::Request;
use super::{Client, Event, Failure, State};
use crate::codec::ChannelNumber;

/// How often a binding is refreshed. It lasts ten minutes, but the permission that comes with it
/// five, and a refresh may have to be repeated for 40 s (RFC 8656 §9, §12).
pub(super) const REFRESH: Duration = Duration::from_secs(240);

/// How long after its last refresh a number may not be bound to another peer: ten minutes until it
/// expires, and five more (RFC 8656 §12).
const REST: Duration = Duration::from_secs(900);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    /// Not asked for yet: there is no allocation, and no nonce.
    Waiting,
    Asked,
    Bound,
}

#[derive(Debug)]
struct Channel {
    number: ChannelNumber,
    binding: Binding,
    wanted: bool,
    timer: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Channels {
    by_peer: BTreeMap<SocketAddr, Channel>,
    peer_by_number: BTreeMap<ChannelNumber, SocketAddr>,
    next: ChannelNumber,
}

impl Channels {
    pub(super) fn new(first: ChannelNumber) -> Self {
        Self { by_peer: BTreeMap::new(), peer_by_number: BTreeMap::new(), next: first }
    }

    pub(super) fn number(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        self.by_peer.get(&peer).map(|channel| channel.number)
    }

    pub(super) fn peer(&self, number: ChannelNumber) -> Option<SocketAddr> {
        self.peer_by_number.get(&number).copied()
    }

    pub(super) fn usable(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        let channel = self.by_peer.get(&peer)?;
        (channel.binding == Binding::Bound && channel.wanted).then_some(channel.number)
    }

    pub(super) fn unwant(&mut self, peer: SocketAddr) {
        if let Some(channel) = self.by_peer.get_mut(&peer) {
            channel.wanted = false;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.next);
    }

    /// There is no allocation any more: none is bound, none rests.
    pub(super) fn wait(&mut self) {
        self.by_peer.retain(|_, channel| channel.wanted);
        self.peer_by_number.retain(|_, peer| self.by_peer.contains_key(peer));
        for channel in self.by_peer.values_mut() {
            channel.binding = Binding::Waiting;
            channel.timer = None;
        }
    }

    pub(super) fn wait_for(&mut self, peer: SocketAddr) {
        if let Some(channel) = self.by_peer.get_mut(&peer) {
            channel.binding = Binding::Waiting;
        }
    }

    fn remove(&mut self, peer: SocketAddr) -> Option<Channel> {
        let channel = self.by_peer.remove(&peer)?;
        self.peer_by_number.remove(&channel.number);
        Some(channel)
    }

    fn free_number(&mut self) -> Option<ChannelNumber> {
        for _ in ChannelNumber::MIN.number()..=ChannelNumber::MAX.number() {
            let number = self.next;
            self.next = ChannelNumber::new(number.number() + 1)
                .filter(|next| *next <= ChannelNumber::MAX)
                .unwrap_or(ChannelNumber::MIN);
            if !self.peer_by_number.contains_key(&number) {
                return Some(number);
            }
        }
        None
    }
}

impl Client {
    pub(super) fn bind_channel(&mut self, peer: SocketAddr, now: Instant) -> Option<ChannelNumber> {
        if self.state == State::Closing || self.state == State::Ended {
            return None;
        }
        if let Some(channel) = self.channels.by_peer.get_mut(&peer) {
            let number = channel.number;
            let was_resting = !std::mem::replace(&mut channel.wanted, true);
            // The server may have forgotten it meanwhile.
            let is_allocated = matches!(self.state, State::Allocated(_));
            if was_resting && channel.binding != Binding::Asked && is_allocated {
                channel.binding = Binding::Waiting;
                self.ask_channel(peer, now);
            }
            return Some(number);
        }
        let number = self.channels.free_number()?;
        self.channels.peer_by_number.insert(number, peer);
        let channel = Channel { number, binding: Binding::Waiting, wanted: true, timer: None };
        self.channels.by_peer.insert(peer, channel);
        // Right behind the Allocate: its own nonce serves this one too.
        let is_allocated = matches!(self.state, State::Allocated(_));
        if is_allocated || self.auth.is_some() && self.config.virtual_address {
            self.ask_channel(peer, now);
        }
        Some(number)
    }

    fn ask_channel(&mut self, peer: SocketAddr, now: Instant) {
        let Some(channel) = self.channels.by_peer.get_mut(&peer) else { return };
        if let Some(at) = channel.timer.take() {
            self.timers.remove(at, Timer::Channel(peer));
        }
        if channel.binding == Binding::Waiting {
            channel.binding = Binding::Asked;
        }
        self.request(Request::ChannelBind(peer), now);
    }

    pub(super) fn bind_waiting_channels(&mut self, now: Instant) {
        let waiting: Vec<_> = self
            .channels
            .by_peer
            .iter()
            .filter(|(_, channel)| channel.binding == Binding::Waiting)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in waiting {
            self.ask_channel(peer, now);
        }
    }

    /// A channel that was asked for at `begun` is bound.
    pub(super) fn handle_bound(&mut self, peer: SocketAddr, begun: Instant, now: Instant) {
        let allocated = match self.state {
            State::Allocated(allocated) => Some(allocated.asked),
            State::Allocating | State::Closing | State::Ended => None,
        };
        let Some(channel) = self.channels.by_peer.get_mut(&peer) else { return };
        // Sent behind an Allocate that was refused (438), it has met an allocation of before at the
        // same address, which the next Allocate replaces.
        if allocated.is_none_or(|asked| begun < asked) {
            channel.binding = Binding::Waiting;
            if allocated.is_some() {
                self.ask_channel(peer, now);
            }
            return;
        }
        let is_news = channel.binding != Binding::Bound;
        channel.binding = Binding::Bound;
        let at = now + REFRESH;
        channel.timer = Some(at);
        self.timers.set(at, Timer::Channel(peer));
        if is_news {
            self.events.push_back(Event::ChannelReady { peer, number: channel.number });
        }
    }

    pub(super) fn handle_bind_refused(&mut self, peer: SocketAddr, reason: Failure) {
        if let Some(channel) = self.channels.remove(peer) {
            if let Some(at) = channel.timer {
                self.timers.remove(at, Timer::Channel(peer));
            }
            self.events.push_back(Event::ChannelFailed { peer, reason });
        }
    }

    pub(super) fn handle_channel_timeout(&mut self, peer: SocketAddr, now: Instant) {
        let Some(channel) = self.channels.by_peer.get_mut(&peer) else { return };
        channel.timer = None;
        match (channel.wanted, channel.binding) {
            (true, _) => self.ask_channel(peer, now),
            (false, Binding::Bound) => {
                channel.binding = Binding::Waiting;
                let at = now + REST;
                channel.timer = Some(at);
                self.timers.set(at, Timer::Channel(peer));
            }
            (false, Binding::Waiting | Binding::Asked) => {
                self.channels.remove(peer);
            }
        }
    }
}
