//! The flows, and what becomes of a packet.

mod stream;
mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher as _;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher24;
use thiserror::Error;

use crate::flow::{Flow, FlowId, Lead, Limits, Protocol, Shares, State, Tuple, Usage};
use crate::packet::{self, Content};

/// Before a connection is looked at again that wanted to say something and didn't.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a packet went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Dropped {
    /// It is no whole TCP or UDP packet over IPv4, a fragment, or damaged.
    #[error("it can't be read")]
    Malformed,
    /// Nothing is open there.
    #[error("nothing is open there")]
    Closed,
    /// Its sender, or all together, have as many flows as they may.
    #[error("there are too many flows")]
    TooMany,
    /// More waits for the mesh than may.
    #[error("the queue is full")]
    QueueFull,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Connect to `target` by TCP, and tell [`Proxy::handle_connected`] or [`Proxy::handle_refused`].
    Connect {
        /// Which flow.
        flow: FlowId,
        /// Where to.
        target: SocketAddrV4,
    },
    /// Make a UDP socket that is connected to `target`; its datagrams follow.
    Open {
        /// Which flow.
        flow: FlowId,
        /// Where to.
        target: SocketAddrV4,
    },
    /// Send a datagram by the flow's socket.
    Datagram {
        /// Which flow.
        flow: FlowId,
        /// What it holds.
        payload: Vec<u8>,
    },
    /// Look at the connection: [`Proxy::stream`].
    Ready(FlowId),
    /// The flow is over: whatever the driver has of it goes.
    Closed(FlowId),
}

/// All flows; `K` names what is open.
#[derive(Debug)]
pub struct Proxy<K> {
    limits: Limits,
    seed: [u8; 16],
    counter: u64,
    epoch: Instant,
    flows: BTreeMap<FlowId, Flow<K>>,
    flow_by_tuple: BTreeMap<Tuple, FlowId>,
    share_by_peer: Shares,
    connections: usize,
    timers: BTreeSet<(Instant, FlowId)>,
    /// Connections that have something to say.
    speakers: VecDeque<FlowId>,
    /// Replies to segments: before whatever their connections say next.
    replies: VecDeque<Vec<u8>>,
    /// Of UDP flows, and ICMP.
    datagrams: VecDeque<Vec<u8>>,
    /// Whether a datagram goes before the connections, next time.
    datagram_first: bool,
    events: VecDeque<Event>,
    uses: BTreeMap<K, Usage>,
    drops: BTreeMap<Dropped, u64>,
}

impl<K: Copy + Ord> Proxy<K> {
    /// Without any flow. `seed` is secret: connections' first numbers come of it (RFC 6528).
    pub fn new(limits: Limits, seed: [u8; 16], now: Instant) -> Self {
        Self {
            limits,
            seed,
            counter: 0,
            epoch: now,
            flows: BTreeMap::new(),
            flow_by_tuple: BTreeMap::new(),
            share_by_peer: Shares::new(),
            connections: 0,
            timers: BTreeSet::new(),
            speakers: VecDeque::new(),
            replies: VecDeque::new(),
            datagrams: VecDeque::new(),
            datagram_first: false,
            events: VecDeque::new(),
            uses: BTreeMap::new(),
            drops: BTreeMap::new(),
        }
    }

    /// Takes a packet from the mesh, whose source the tunnel has proven. `lead` says where a new flow
    /// leads.
    ///
    /// # Errors
    ///
    /// It goes nowhere; it is counted, too.
    pub fn handle_packet(
        &mut self,
        packet: &[u8],
        lead: impl FnOnce(Protocol, SocketAddrV4) -> Option<Lead<K>>,
        now: Instant,
    ) -> Result<(), Dropped> {
        let taken = self.take_packet(packet, lead, now);
        if let Err(reason) = taken {
            self.count_drop(reason);
        }
        taken
    }

    fn take_packet(
        &mut self,
        packet: &[u8],
        lead: impl FnOnce(Protocol, SocketAddrV4) -> Option<Lead<K>>,
        now: Instant,
    ) -> Result<(), Dropped> {
        let parsed = packet::parse(packet).ok_or(Dropped::Malformed)?;
        let tuple = parsed.tuple;
        let known = self.flow_by_tuple.get(&tuple).copied();
        let key = match known.and_then(|id| self.flows.get(&id)) {
            Some(flow) => flow.lead.key,
            None => {
                let lead = lead(tuple.protocol, tuple.local).ok_or(Dropped::Closed)?;
                return match parsed.content {
                    Content::Segment { is_syn: true, .. } => self.knock(tuple, lead, packet, now),
                    Content::Segment { is_reset: true, .. } => Ok(()),
                    Content::Segment { .. } => self.disown(packet, &tuple, now),
                    Content::Datagram(payload) => {
                        self.open(tuple, lead, packet.len(), payload, now)
                    }
                };
            }
        };
        let Some(id) = known else { return Err(Dropped::Closed) };
        self.count_use(key, packet.len());
        match parsed.content {
            Content::Segment { is_syn, is_reset } => {
                self.segment(id, packet, (is_syn, is_reset), now);
            }
            Content::Datagram(payload) => self.datagram_out(id, payload, now),
        }
        Ok(())
    }

    /// Lets go of what leads elsewhere than `lead` says, or nowhere: its peers are told.
    pub fn retain(
        &mut self,
        mut lead: impl FnMut(Protocol, SocketAddrV4) -> Option<Lead<K>>,
        now: Instant,
    ) {
        let flows = self.flows.iter();
        let astray: Vec<FlowId> = flows
            .filter(|(_, flow)| {
                lead(flow.tuple.protocol, flow.tuple.local).as_ref().map(|l| (l.key, l.target))
                    != Some((flow.lead.key, flow.lead.target))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in astray {
            self.abort(id, now);
        }
    }

    /// Does what has come due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, id)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, id));
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            flow.due = None;
            match &flow.state {
                State::Connecting { .. } => self.handle_refused(id, now),
                State::Connected(_) => self.settle(id, now),
                State::Datagrams { .. } => self.expire(id, now),
            }
        }
    }

    /// When [`Self::handle_timeout`] is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.first().map(|(due, _)| (*due, "a flow's timer"))
    }

    /// Whether [`Self::poll_transmit`] has anything, most likely.
    pub fn wants_to_transmit(&self) -> bool {
        !self.replies.is_empty() || !self.datagrams.is_empty() || !self.speakers.is_empty()
    }

    /// Makes the next packet for the mesh: to be asked for when there is room for it.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        // In turn: a device that answers by UDP faster than the tunnel takes it silences no connection.
        self.datagram_first = !self.datagram_first;
        if self.datagram_first {
            self.datagrams.pop_front().or_else(|| self.speak(now))
        } else {
            self.speak(now).or_else(|| self.datagrams.pop_front())
        }
    }

    /// The next packet of a connection that has something to say.
    fn speak(&mut self, now: Instant) -> Option<Vec<u8>> {
        let at = self.at(now);
        while let Some(id) = self.speakers.pop_front() {
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            flow.queued = false;
            let State::Connected(connection) = &mut flow.state else { continue };
            let packet = connection.egress(at);
            let key = flow.lead.key;
            match packet {
                Some(packet) => {
                    self.settle(id, now);
                    self.count_use(key, packet.len());
                    return Some(packet);
                }
                None => self.settle_silent(id, now),
            }
        }
        None
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How much was used, by what is open.
    pub fn uses(&self) -> &BTreeMap<K, Usage> {
        &self.uses
    }

    /// How many packets went nowhere, and why.
    pub fn drops(&self) -> &BTreeMap<Dropped, u64> {
        &self.drops
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    fn insert(&mut self, tuple: Tuple, lead: Lead<K>, state: State) -> FlowId {
        self.counter += 1;
        let id = FlowId(self.counter);
        let flow = Flow { tuple, lead, state, due: None, queued: false, told: false, half: false };
        self.flows.insert(id, flow);
        self.flow_by_tuple.insert(tuple, id);
        let share = self.share_by_peer.entry(*tuple.peer.ip()).or_default();
        match tuple.protocol {
            Protocol::Tcp => {
                self.connections += 1;
                share.connections += 1;
            }
            Protocol::Udp => share.flows += 1,
        }
        self.note_half_open(id);
        id
    }

    fn remove(&mut self, id: FlowId) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.flow_by_tuple.remove(&flow.tuple);
        if let Some(due) = flow.due {
            self.timers.remove(&(due, id));
        }
        let peer = *flow.tuple.peer.ip();
        if let Some(share) = self.share_by_peer.get_mut(&peer) {
            match flow.tuple.protocol {
                Protocol::Tcp => {
                    self.connections -= 1;
                    share.connections -= 1;
                }
                Protocol::Udp => share.flows -= 1,
            }
            share.half_open -= usize::from(flow.half);
            if share.connections == 0 && share.flows == 0 {
                self.share_by_peer.remove(&peer);
            }
        }
        self.events.push_back(Event::Closed(id));
    }

    /// Keeps the count of half-open connections true.
    fn note_half_open(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let half = flow.is_half_open();
        if let Some(share) = self.share_by_peer.get_mut(flow.tuple.peer.ip()) {
            share.half_open -= usize::from(flow.half);
            share.half_open += usize::from(half);
        }
        flow.half = half;
    }

    fn set_timer(&mut self, id: FlowId, due: Option<Instant>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.due == due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut flow.due, due) {
            self.timers.remove(&(before, id));
        }
        if let Some(due) = due {
            self.timers.insert((due, id));
        }
    }

    /// Has a packet that was made at once wait for its way.
    fn push(&mut self, protocol: Protocol, key: K, packet: Vec<u8>) {
        let queue = match protocol {
            Protocol::Tcp => &mut self.replies,
            Protocol::Udp => &mut self.datagrams,
        };
        if queue.len() >= self.limits.queue {
            self.count_drop(Dropped::QueueFull);
            return;
        }
        let length = packet.len();
        queue.push_back(packet);
        self.count_use(key, length);
    }

    fn count_use(&mut self, key: K, length: usize) {
        let usage = self.uses.entry(key).or_default();
        usage.packets += 1;
        usage.bytes += length as u64;
    }

    fn count_drop(&mut self, reason: Dropped) {
        *self.drops.entry(reason).or_default() += 1;
    }

    /// A number that nobody can guess and that isn't used twice.
    fn number(&mut self) -> u64 {
        self.counter += 1;
        let mut hasher = SipHasher24::new_with_key(&self.seed);
        hasher.write_u64(self.counter);
        hasher.finish()
    }

    /// As the connections count time.
    fn at(&self, now: Instant) -> smoltcp::time::Instant {
        let since = now.saturating_duration_since(self.epoch);
        smoltcp::time::Instant::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// As everybody else counts it, a microsecond late rather than early.
    fn instant(&self, at: smoltcp::time::Instant) -> Instant {
        let since = u64::try_from(at.total_micros()).unwrap_or(0);
        self.epoch + Duration::from_micros(since.saturating_add(1))
    }
}
