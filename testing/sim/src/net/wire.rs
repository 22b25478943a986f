use std::cmp::{Ordering, Reverse};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::RngExt as _;

use super::{Delivery, IfaceId, Loss, Network, Owner, Packet};

/// A datagram on its way to an interface.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) at: Instant,
    sequence: u64,
    to: IfaceId,
    packet: Packet,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// A digest (FNV-1a) of what has happened.
#[derive(Debug)]
pub(super) struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Trace {
    pub(super) fn digest(&self) -> u64 {
        self.0
    }

    pub(super) fn note(&mut self, at: Duration, what: &str, value: u64) {
        self.bytes(&at.as_nanos().to_le_bytes());
        self.bytes(what.as_bytes());
        self.bytes(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

/// The bytes of a datagram on the wire, with its IP and UDP headers.
pub(super) fn size(packet: &Packet) -> u64 {
    let headers = if packet.dst.is_ipv4() { 28 } else { 48 };
    headers + packet.payload.len() as u64
}

impl Network {
    /// Puts a packet on the segment of an interface.
    pub(super) fn emit(&mut self, from: IfaceId, packet: &Packet) {
        let Some(to) = self.receiver(from, packet.dst.ip()) else {
            self.lose(Loss::NobodyThere);
            return;
        };
        let (out, into) = (self.ifaces[from.0].link, self.ifaces[to.0].link);
        if size(packet) as usize > out.mtu.min(into.mtu) {
            self.lose(Loss::TooBig);
            return;
        }
        let copies = if self.chance(out.duplicate) || self.chance(into.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance(out.loss) || self.chance(into.loss) {
                self.lose(Loss::Link);
                continue;
            }
            let at = self.arrival(from, to);
            self.sequence += 1;
            let packet = packet.clone();
            self.in_flight.push(Reverse(InFlight { at, sequence: self.sequence, to, packet }));
        }
    }

    fn arrival(&mut self, from: IfaceId, to: IfaceId) -> Instant {
        let (out, into) = (self.ifaces[from.0].link, self.ifaces[to.0].link);
        let mut at = self.now + out.latency + into.latency;
        for jitter in [out.jitter, into.jitter] {
            if !jitter.is_zero() {
                at += jitter.mul_f64(self.rng.random::<f64>());
            }
        }
        if self.chance(out.reorder) || self.chance(into.reorder) {
            // Late enough for those sent in the next milliseconds to overtake it.
            return at + Duration::from_millis(self.rng.random_range(1..30));
        }
        let last = self.last_arrival.entry((from, to)).or_insert(at);
        at = at.max(*last);
        *last = at;
        at
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random::<f64>() < probability
    }

    /// Who on the segment takes a packet for an address: who has it, who leads to it, or the
    /// gateway.
    fn receiver(&self, from: IfaceId, dst: IpAddr) -> Option<IfaceId> {
        let segment = &self.segments[self.ifaces[from.0].segment.0];
        let matching = |iface: &IfaceId| -> Option<u8> {
            let iface = &self.ifaces[iface.0];
            if iface.addrs.iter().any(|addr| addr.addr() == dst) {
                return Some(u8::MAX);
            }
            iface.routes.iter().filter(|route| route.contains(&dst)).map(IpNet::prefix_len).max()
        };
        let others = segment.ifaces.iter().filter(|iface| **iface != from);
        let best =
            others.filter_map(|iface| Some((matching(iface)?, *iface))).max_by_key(|(len, _)| *len);
        best.map(|(_, iface)| iface).or(segment.gateway).filter(|to| *to != from)
    }

    /// Lets the next datagram arrive if it is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Delivery> {
        let due = self.in_flight.peek().is_some_and(|Reverse(next)| next.at <= now);
        if !due {
            return None;
        }
        let Reverse(InFlight { at, to, packet, .. }) = self.in_flight.pop()?;
        self.now = at;
        if !self.ifaces[to.0].attached {
            self.lose(Loss::Detached);
            return None;
        }
        self.note("arrived", to.0 as u64 ^ (packet.payload.len() as u64) << 32);
        match self.ifaces[to.0].owner {
            Owner::Host(host) => {
                // An address that the interface no longer has, or never had.
                if self.ifaces[to.0].addrs.iter().all(|addr| addr.addr() != packet.dst.ip()) {
                    self.lose(Loss::NobodyThere);
                    return None;
                }
                let counters = &mut self.hosts[host.0].counters;
                counters.rx_packets += 1;
                counters.rx_bytes += size(&packet);
                let Packet { src, dst, payload, .. } = packet;
                let delivery = Delivery { host, from: src, to: dst, payload };
                if let Some(captured) = &mut self.captured {
                    captured.push(delivery.clone());
                }
                Some(delivery)
            }
            Owner::Inside(router) => {
                self.route_out(router, packet);
                None
            }
            Owner::Outside(router) => {
                self.route_in(router, packet);
                None
            }
        }
    }
}
