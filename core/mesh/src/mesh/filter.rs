//! Holding peers to the filter, statefully.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use warren_proto::{DeviceId, Filter};

use super::Mesh;
use crate::filter::{Access, Rules, Watched};
use crate::flows::{Begun, Flows, Key, Patience};
use crate::icmp::{self, Problem};
use crate::ip::Header;
use crate::transport::{self, Kind, Transport, UDP};
use crate::{InboundDrop, PeerHandle};

/// How long after a peer was restricted its running flows are told apart by their ports.
const LEARNING: Duration = Duration::from_secs(300);

/// How long later fragments follow their first (RFC 8200 §4.5 gives up after as long).
const FRAGMENT_TIME: Duration = Duration::from_secs(60);

/// The most packets in fragments at a time.
const MAX_FRAGMENTED: usize = 64;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What is let in, and what restricted peers and this device have begun.
#[derive(Debug)]
pub(super) struct State {
    /// None: everything is let in.
    rules: Option<Rules>,
    flows: Flows,
    /// First fragments that were let in.
    fragments: VecDeque<(PeerHandle, u32, Instant)>,
}

impl State {
    pub(super) fn new(flows: Flows) -> Self {
        Self { rules: None, flows, fragments: VecDeque::new() }
    }
}

impl Mesh {
    /// Takes a filter, and brings what peers may send in line with it.
    pub(super) fn take_filter(&mut self, filter: Option<&Filter>, now: Instant) {
        let was_open = self.filter.rules.is_none();
        let edge = &self.edge;
        self.filter.rules = filter
            .map(|it| Rules::new(it, &edge.virtual_devices, edge.opens_anything(), edge.is_exit()));
        if was_open && self.filter.rules.is_none() {
            return;
        }
        for handle in self.peers.handles() {
            let Some(peer) = self.peers.get_mut(handle) else { continue };
            let access = access(&self.filter, peer.id);
            if peer.access.is_open() && !access.is_open() {
                peer.restricted = Some((now, Watched::Never));
            }
            peer.access = access;
        }
    }

    /// The same for a peer that is new, or known from an earlier run.
    pub(super) fn restrict(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        peer.access = access(&self.filter, peer.id);
        peer.restricted = Some((now, Watched::LastRun));
    }

    /// Notes what this device sends to a restricted peer, so that the answers are let in.
    pub(super) fn note_outbound(
        &mut self,
        handle: PeerHandle,
        packet: &[u8],
        header: &Header,
        now: Instant,
    ) {
        let Some(read) = transport::read(packet, header) else { return };
        if read.kind == Kind::LaterFragment {
            return;
        }
        let key = Key {
            peer: handle,
            local: header.source,
            remote: header.destination,
            protocol: read.protocol,
            local_port: read.source,
            remote_port: read.destination,
        };
        let flows = &mut self.filter.flows;
        match flows.find(&key, now) {
            Some((slot, Begun::Here | Begun::There)) => {
                let ends = matches!(read.kind, Kind::Tcp(flags) if flags & (FIN | RST) != 0);
                return flows.touch(slot, ends.then_some(Patience::Short), now);
            }
            Some((_, Begun::Unclear)) => return,
            None => {}
        }
        let restricted = self.peers.get(handle).and_then(|peer| peer.restricted);
        let learning = restricted
            .filter(|(at, _)| now.saturating_duration_since(*at) < LEARNING)
            .map(|(_, watched)| watched);
        if let Some((begun, patience)) = begins(&read, learning) {
            flows.begin(key, begun, patience, now);
        }
    }

    /// Whether a packet of a restricted peer is let in: an answer, or what the filter admits.
    pub(super) fn judge(
        &mut self,
        handle: PeerHandle,
        packet: &[u8],
        header: &Header,
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let read = transport::read(packet, header).ok_or(InboundDrop::Filtered)?;
        if read.kind == Kind::LaterFragment {
            let fragments = &self.filter.fragments;
            let follows = |(peer, id, at): &(PeerHandle, u32, Instant)| {
                (*peer, Some(*id)) == (handle, read.fragment)
                    && now.saturating_duration_since(*at) < FRAGMENT_TIME
            };
            let known = fragments.iter().any(follows);
            return if known { Ok(()) } else { Err(InboundDrop::Filtered) };
        }
        if !self.is_let_in(handle, packet, header, &read, now) {
            return Err(InboundDrop::Filtered);
        }
        if let Some(id) = read.fragment {
            let fragments = &mut self.filter.fragments;
            if fragments.len() == MAX_FRAGMENTED {
                fragments.pop_front();
            }
            fragments.push_back((handle, id, now));
        }
        Ok(())
    }

    fn is_let_in(
        &mut self,
        handle: PeerHandle,
        packet: &[u8],
        header: &Header,
        read: &Transport,
        now: Instant,
    ) -> bool {
        let Some(peer) = self.peers.get(handle) else { return false };
        let (protocol, port) = (read.protocol, read.destination);
        let admitted = if self.is_self(header.destination) {
            peer.access.admits(protocol, port)
        } else {
            peer.access.admits_behind(header.destination, protocol, port)
        };
        let flows = &mut self.filter.flows;
        if let Kind::Error(at) = read.kind {
            return admitted || is_about_a_flow(flows, handle, &packet[at..], now);
        }
        let key = Key {
            peer: handle,
            local: header.destination,
            remote: header.source,
            protocol: read.protocol,
            local_port: read.destination,
            remote_port: read.source,
        };
        match flows.find(&key, now) {
            Some((slot, Begun::Here)) if is_answer(read.kind) => {
                flows.touch(slot, change_of_patience(read.kind), now);
                true
            }
            // It is noted though it is refused: our answers don't make the flow ours.
            Some((slot, Begun::There)) => {
                flows.touch(slot, None, now);
                admitted
            }
            Some((_, Begun::Here | Begun::Unclear)) => admitted,
            None => {
                if admitted {
                    flows.begin(key, Begun::There, Patience::Short, now);
                }
                admitted
            }
        }
    }

    /// Tells a peer that its packet was refused.
    pub(super) fn reject(&mut self, handle: PeerHandle, packet: &[u8], now: Instant) {
        let Some(error) = icmp::error(packet, Problem::Prohibited) else { return };
        if self.icmp_limit.take(now) {
            self.enqueue(handle, &error, now);
        } else {
            self.counters.icmp_withheld += 1;
        }
    }
}

fn access(state: &State, peer: DeviceId) -> Access {
    state.rules.as_ref().map_or(Access::Open, |rules| rules.access(peer))
}

/// Whose flow a packet of ours belongs to that is of no flow that is known; `learning` while flows
/// may be running that nobody has watched.
fn begins(read: &Transport, learning: Option<Watched>) -> Option<(Begun, Patience)> {
    // Servers' ports are lower than their clients'.
    let looks_ours = read.source > read.destination;
    match read.kind {
        Kind::Tcp(flags) if flags & (SYN | ACK) == SYN => Some((Begun::Here, Patience::Short)),
        Kind::Tcp(flags) if flags & RST == 0 && learning.is_some() && looks_ours => {
            Some((Begun::Here, Patience::Long))
        }
        Kind::EchoRequest => Some((Begun::Here, Patience::Short)),
        Kind::Plain if read.protocol == transport::ICMP => None,
        Kind::Plain
            if learning == Some(Watched::Never) && !(read.protocol == UDP && looks_ours) =>
        {
            Some((Begun::Unclear, Patience::Short))
        }
        Kind::Plain => Some((Begun::Here, Patience::Medium)),
        Kind::Tcp(_) | Kind::EchoReply | Kind::Error(_) | Kind::LaterFragment => None,
    }
}

/// Whether a packet can be an answer at all.
fn is_answer(kind: Kind) -> bool {
    match kind {
        Kind::Tcp(flags) => flags & (SYN | ACK) != SYN,
        Kind::EchoReply | Kind::Plain => true,
        Kind::EchoRequest | Kind::Error(_) | Kind::LaterFragment => false,
    }
}

fn change_of_patience(kind: Kind) -> Option<Patience> {
    let Kind::Tcp(flags) = kind else { return None };
    if flags & (FIN | RST) != 0 {
        return Some(Patience::Short);
    }
    (flags & (SYN | ACK) == SYN | ACK).then_some(Patience::Long)
}

/// Whether an ICMP error quotes a packet that this device has sent in a flow that is known.
fn is_about_a_flow(flows: &mut Flows, peer: PeerHandle, quote: &[u8], now: Instant) -> bool {
    let Some((header, sent)) = transport::read_quote(quote) else { return false };
    let key = Key {
        peer,
        local: header.source,
        remote: header.destination,
        protocol: sent.protocol,
        local_port: sent.source,
        remote_port: sent.destination,
    };
    flows.find(&key, now).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::TCP;

    fn packet(protocol: u8, source: u16, destination: u16, kind: Kind) -> Transport {
        Transport { protocol, source, destination, kind, fragment: None }
    }

    #[test]
    fn only_what_begins_a_flow_makes_it_ours() {
        let ours = Some((Begun::Here, Patience::Short));
        assert_eq!(begins(&packet(TCP, 40_000, 22, Kind::Tcp(SYN)), None), ours);
        assert_eq!(begins(&packet(TCP, 22, 40_000, Kind::Tcp(SYN | ACK)), None), None);
        assert_eq!(begins(&packet(TCP, 40_000, 22, Kind::Tcp(ACK)), None), None);
        assert_eq!(begins(&packet(1, 7, 7, Kind::EchoRequest), None), ours);
        assert_eq!(begins(&packet(1, 7, 7, Kind::EchoReply), None), None);
    }

    #[test]
    fn running_flows_of_a_peer_that_was_just_restricted_are_told_apart_by_their_ports() {
        let begun_after = |source, destination, kind, protocol, watched| {
            let packet = packet(protocol, source, destination, kind);
            begins(&packet, Some(watched)).map(|(begun, _)| begun)
        };
        let begun = |source, destination, kind, protocol| {
            begun_after(source, destination, kind, protocol, Watched::Never)
        };
        assert_eq!(begun(40_000, 22, Kind::Tcp(ACK), TCP), Some(Begun::Here));
        assert_eq!(begun(22, 40_000, Kind::Tcp(ACK), TCP), None);
        assert_eq!(begun(40_000, 53, Kind::Plain, UDP), Some(Begun::Here));
        assert_eq!(begun(53, 40_000, Kind::Plain, UDP), Some(Begun::Unclear));
        assert_eq!(begun(5060, 5060, Kind::Plain, UDP), Some(Begun::Unclear));
        assert_eq!(begun(1000, 7, Kind::Plain, UDP), Some(Begun::Here));
        let after_restart = |source, destination, kind, protocol| {
            begun_after(source, destination, kind, protocol, Watched::LastRun)
        };
        assert_eq!(after_restart(40_000, 22, Kind::Tcp(ACK), TCP), Some(Begun::Here));
        assert_eq!(after_restart(22, 40_000, Kind::Tcp(ACK), TCP), None);
        assert_eq!(after_restart(5060, 5060, Kind::Plain, UDP), Some(Begun::Here));
    }
}
