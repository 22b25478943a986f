//! Connections: from the SYN to their end.

use std::time::Instant;

use super::{Dropped, Event, PAUSE, Proxy};
use crate::connection::{self, Connection};
use crate::flow::{FlowId, Lead, Protocol, State, Tuple};

impl<K: Copy + Ord> Proxy<K> {
    /// A SYN for something open: it waits until the LAN has agreed.
    pub(super) fn knock(
        &mut self,
        tuple: Tuple,
        lead: Lead<K>,
        syn: &[u8],
        now: Instant,
    ) -> Result<(), Dropped> {
        let share = self.share_by_peer.get(tuple.peer.ip()).copied().unwrap_or_default();
        let is_full = self.connections >= self.limits.connections
            || share.connections >= self.limits.connections_per_peer
            || share.half_open >= self.limits.half_open_per_peer;
        if is_full {
            return Err(Dropped::TooMany);
        }
        let until = now + self.limits.connect;
        let id = self.insert(tuple, lead, State::Connecting { syn: syn.to_vec() });
        self.set_timer(id, Some(until));
        self.count_use(lead.key, syn.len());
        self.events.push_back(Event::Connect { flow: id, target: lead.target });
        Ok(())
    }

    /// A segment that belongs to no connection.
    pub(super) fn disown(
        &mut self,
        segment: &[u8],
        tuple: &Tuple,
        now: Instant,
    ) -> Result<(), Dropped> {
        if self.replies.len() >= self.limits.queue {
            return Err(Dropped::QueueFull);
        }
        self.replies.extend(connection::reset(segment, *tuple.local.ip(), self.at(now)));
        Ok(())
    }

    /// A segment of a connection: `kind` is whether it is a SYN, and whether a reset.
    pub(super) fn segment(&mut self, id: FlowId, packet: &[u8], kind: (bool, bool), now: Instant) {
        let at = self.at(now);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let key = flow.lead.key;
        match (&mut flow.state, kind) {
            // Sent again; or its sender has given up and asks anew from the same port.
            (State::Connecting { syn }, (true, _)) => *syn = packet.to_vec(),
            (State::Connecting { .. }, (_, true)) => self.remove(id),
            (State::Connected(connection), _) => {
                if let Some(answer) = connection.receive(packet, at) {
                    self.push(Protocol::Tcp, key, answer);
                }
                self.tell(id);
                self.settle(id, now);
            }
            (State::Connecting { .. } | State::Datagrams { .. }, _) => {}
        }
    }

    /// The LAN has agreed: now the peer is answered.
    pub fn handle_connected(&mut self, id: FlowId, now: Instant) {
        let (at, seed) = (self.at(now), self.number());
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let State::Connecting { syn } = &mut flow.state else { return };
        let syn = std::mem::take(syn);
        let (local, key) = (flow.tuple.local, flow.lead.key);
        let Some(mut connection) = Connection::listen(local, seed, &self.limits, at) else {
            self.remove(id);
            return;
        };
        let answer = connection.receive(&syn, at);
        flow.state = State::Connected(Box::new(connection));
        if let Some(answer) = answer {
            self.push(Protocol::Tcp, key, answer);
        }
        self.settle(id, now);
    }

    /// The LAN has refused, or is silent: the peer is told.
    pub fn handle_refused(&mut self, id: FlowId, now: Instant) {
        let at = self.at(now);
        let Some(flow) = self.flows.get(&id) else { return };
        let (protocol, key) = (flow.tuple.protocol, flow.lead.key);
        let answer = match &flow.state {
            State::Connecting { syn } => connection::reset(syn, *flow.tuple.local.ip(), at),
            State::Datagrams { .. } => Some(crate::packet::unreachable(&flow.tuple)),
            State::Connected(_) => return self.abort(id, now),
        };
        if let Some(answer) = answer {
            self.push(protocol, key, answer);
        }
        self.remove(id);
    }

    /// Ends a flow at once; the peer of a connection is reset.
    pub fn abort(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        match &mut flow.state {
            State::Connecting { .. } => self.handle_refused(id, now),
            State::Datagrams { .. } => self.remove(id),
            State::Connected(connection) => {
                connection.abort();
                self.tell(id);
                self.settle(id, now);
            }
        }
    }

    /// Has the driver look at a connection, once.
    pub(super) fn tell(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id)
            && !std::mem::replace(&mut flow.told, true)
        {
            self.events.push_back(Event::Ready(id));
        }
    }

    /// After anything that has happened to a connection: whether it is gone, has something to say, or
    /// when.
    pub(super) fn settle(&mut self, id: FlowId, now: Instant) {
        let at = self.at(now);
        self.note_half_open(id);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let State::Connected(connection) = &mut flow.state else { return };
        if connection.is_gone(at) {
            self.remove(id);
            return;
        }
        match connection.poll_at(at) {
            Some(next) if next <= at => {
                if !std::mem::replace(&mut flow.queued, true) {
                    self.speakers.push_back(id);
                }
                self.set_timer(id, None);
            }
            next => {
                let due = next.map(|next| self.instant(next));
                self.set_timer(id, due);
            }
        }
    }

    /// As [`Self::settle`], of a connection that has just had nothing to say.
    pub(super) fn settle_silent(&mut self, id: FlowId, now: Instant) {
        let at = self.at(now);
        // It may have timed out, which is found out when it wants to speak.
        self.tell(id);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let State::Connected(connection) = &mut flow.state else { return };
        if connection.poll_at(at).is_some_and(|next| next <= at) && !connection.is_gone(at) {
            self.set_timer(id, Some(now + PAUSE));
        } else {
            self.settle(id, now);
        }
    }
}
