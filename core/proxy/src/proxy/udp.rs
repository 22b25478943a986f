//! Datagrams: each pair of addresses and ports is a flow until it has been idle.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use super::{Dropped, Event, Proxy};
use crate::flow::{FlowId, Lead, Protocol, State, Tuple};
use crate::packet;

impl<K: Copy + Ord> Proxy<K> {
    /// The first datagram of a flow, out of a packet of `length` octets.
    pub(super) fn open(
        &mut self,
        tuple: Tuple,
        lead: Lead<K>,
        length: usize,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Dropped> {
        let share = self.share_by_peer.get(tuple.peer.ip()).copied().unwrap_or_default();
        if share.flows >= self.limits.flows_per_peer {
            self.make_room(*tuple.peer.ip());
        } else if self.flows.len() - self.connections >= self.limits.flows {
            return Err(Dropped::TooMany);
        }
        let id = self.insert(tuple, lead, State::Datagrams { used: now, answered: false });
        self.events.push_back(Event::Open { flow: id, target: lead.target });
        self.count_use(lead.key, length);
        self.datagram_out(id, payload, now);
        Ok(())
    }

    /// A datagram from the peer.
    pub(super) fn datagram_out(&mut self, id: FlowId, payload: &[u8], now: Instant) {
        self.touch(id, false, now);
        self.events.push_back(Event::Datagram { flow: id, payload: payload.to_vec() });
    }

    /// Takes a datagram from the LAN.
    pub fn handle_datagram(&mut self, id: FlowId, payload: &[u8], now: Instant) {
        self.touch(id, true, now);
        let ident = self.number() as u16;
        let Some(flow) = self.flows.get(&id) else { return };
        let (tuple, key) = (flow.tuple, flow.lead.key);
        for packet in packet::datagram(&tuple, payload, ident) {
            self.push(Protocol::Udp, key, packet);
        }
    }

    fn touch(&mut self, id: FlowId, by_the_lan: bool, now: Instant) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let State::Datagrams { used, answered } = &mut flow.state else { return };
        *used = now;
        *answered |= by_the_lan;
        // Later than it is due now: found out then, so that no packet moves a timer.
        if flow.due.is_none() {
            let patience = self.limits.unanswered;
            self.set_timer(id, Some(now + patience));
        }
    }

    /// Ends a flow that has been idle for as long as it may, or looks again when it will have been.
    pub(super) fn expire(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.flows.get(&id) else { return };
        let State::Datagrams { used, answered } = flow.state else { return };
        let due = used + if answered { self.limits.idle } else { self.limits.unanswered };
        if due <= now {
            self.remove(id);
        } else {
            self.set_timer(id, Some(due));
        }
    }

    /// Ends the flow of a peer that was idle longest. It looks at no more than the peer may have.
    fn make_room(&mut self, peer: Ipv4Addr) {
        let tuple = |port, local| Tuple {
            protocol: Protocol::Udp,
            peer: SocketAddrV4::new(peer, port),
            local: SocketAddrV4::new(local, port),
        };
        let own = tuple(0, Ipv4Addr::UNSPECIFIED)..=tuple(u16::MAX, Ipv4Addr::BROADCAST);
        let own = self.flow_by_tuple.range(own).filter_map(|(_, id)| {
            let State::Datagrams { used, .. } = self.flows.get(id)?.state else { return None };
            Some((used, *id))
        });
        if let Some((_, id)) = own.min() {
            self.remove(id);
        }
    }
}
