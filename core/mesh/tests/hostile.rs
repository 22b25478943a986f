//! Whatever comes in, nothing panics, loops or grows, and one seed gives one trace.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::*;
use proptest::prelude::*;
use warren_mesh::{BrokerState, LocalAddress, MapSource, Mesh, Outbound};
use warren_proto::{Change, ConnectSignal, Delta, Endpoint, EndpointKind, MapVersion};

#[derive(Debug, Clone)]
enum Input {
    Datagram(u8, Vec<u8>),
    /// One that a peer would send, damaged at a place.
    Damaged(u8, u16, u8),
    Outbound(Vec<u8>),
    Packet(u8),
    Connect(u8),
    Signal(u8, u8),
    Broker(bool),
    Local(u8),
    Mapped(u8),
    Presence(u8, bool, u8),
    Removed(u8),
    Wait(u16),
    Timeout,
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = prop::collection::vec(any::<u8>(), 0..120);
    let wireguard =
        (1u8..5, prop::collection::vec(any::<u8>(), 0..160)).prop_map(|(kind, mut b)| {
            b.splice(0..0, [kind, 0, 0, 0]);
            b
        });
    let stun = prop::collection::vec(any::<u8>(), 12..100).prop_map(|mut b| {
        let len = ((b.len() - 12) & !3) as u8;
        b.truncate(12 + usize::from(len));
        b.splice(0..0, [0, 1, 0, len, 0x21, 0x12, 0xA4, 0x42]);
        b
    });
    prop_oneof![
        (any::<u8>(), prop_oneof![bytes.clone(), wireguard, stun])
            .prop_map(|(from, bytes)| Input::Datagram(from, bytes)),
        (any::<u8>(), any::<u16>(), any::<u8>()).prop_map(|(n, at, x)| Input::Damaged(n, at, x)),
        bytes.prop_map(Input::Outbound),
        any::<u8>().prop_map(Input::Packet),
        any::<u8>().prop_map(Input::Connect),
        (any::<u8>(), any::<u8>()).prop_map(|(from, n)| Input::Signal(from, n)),
        any::<bool>().prop_map(Input::Broker),
        any::<u8>().prop_map(Input::Local),
        any::<u8>().prop_map(Input::Mapped),
        (any::<u8>(), any::<bool>(), any::<u8>()).prop_map(|(p, o, n)| Input::Presence(p, o, n)),
        any::<u8>().prop_map(Input::Removed),
        any::<u16>().prop_map(Input::Wait),
        Just(Input::Timeout),
    ]
}

fn address(n: u8) -> SocketAddr {
    match n % 5 {
        0 => SocketAddr::new([192, 0, 2, n].into(), 4000),
        1 => SocketAddr::new([10, 0, 0, n].into(), 4000),
        2 => SocketAddr::new([0x2001, 0xDB8, 0, 0, 0, 0, 0, u16::from(n)].into(), 4000),
        3 => SocketAddr::new([127, 0, 0, n].into(), 4000),
        _ => SocketAddr::new([100, 80, 0, n].into(), u16::from(n)),
    }
}

fn endpoints(n: u8) -> Vec<Endpoint> {
    (0..n % 20)
        .map(|i| Endpoint { addr: address(i.wrapping_mul(n)), kind: EndpointKind::Host })
        .collect()
}

struct Rig {
    mesh: Mesh,
    now: Instant,
    version: MapVersion,
    trace: Vec<String>,
    last: Vec<Vec<u8>>,
}

impl Rig {
    fn new(now: Instant) -> Self {
        let mut mesh = Mesh::new(config(0, None, 5), now);
        let peers = (1..6)
            .map(|i| entry(i, &Mesh::new(config(i, None, 5), now)))
            .map(|mut peer| {
                peer.endpoints = endpoints(peer.id.0 as u8);
                peer
            })
            .collect();
        let map = netmap(0, peers);
        let version = map.version;
        mesh.handle_netmap(map, MapSource::Broker, now);
        Self { mesh, now, version, trace: Vec::new(), last: Vec::new() }
    }

    fn change(&mut self, change: Change) {
        let base = self.version;
        self.version.sequence += 1;
        let delta = Delta { base, version: self.version, changes: vec![change] };
        let _ = self.mesh.handle_delta(&delta, self.now);
    }

    fn feed(&mut self, input: &Input) {
        let now = self.now;
        match input {
            Input::Datagram(from, bytes) => {
                let inbound = self.mesh.handle_datagram(address(*from), &mut bytes.clone(), now);
                self.trace.push(format!("{inbound:?}"));
            }
            Input::Damaged(from, at, x) => {
                if let Some(mut bytes) = self.last.last().cloned() {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] ^= x;
                    let inbound = self.mesh.handle_datagram(address(*from), &mut bytes, now);
                    self.trace.push(format!("{inbound:?}"));
                }
            }
            Input::Outbound(bytes) => {
                self.outbound(&bytes.clone());
            }
            Input::Packet(to) => self.outbound(&v4_packet(0, usize::from(to % 8), b"payload")),
            Input::Connect(peer) => self.mesh.connect(id(usize::from(peer % 8)), now),
            Input::Signal(from, n) => {
                let signal = ConnectSignal {
                    from: id(usize::from(from % 8)),
                    endpoints: endpoints(*n),
                    nat: Default::default(),
                    relay: None,
                };
                self.mesh.handle_connect(&signal, now);
            }
            Input::Broker(up) => {
                let state =
                    if *up { BrokerState::Connected { rtt: DELAY } } else { BrokerState::Lost };
                self.mesh.handle_broker(state, now);
            }
            Input::Local(n) => {
                let local: Vec<_> = (0..n % 4)
                    .map(|i| LocalAddress { ip: address(n.wrapping_add(i)).ip(), prefix_len: 24 })
                    .collect();
                self.mesh.handle_local_addresses(&local, 4000 + u16::from(n % 2), now);
            }
            Input::Mapped(n) => self.mesh.handle_mapping(&[address(*n)], now),
            Input::Presence(peer, online, n) => self.change(Change::Presence {
                id: id(usize::from(peer % 8)),
                online: *online,
                endpoints: endpoints(*n),
                nat: Default::default(),
            }),
            Input::Removed(peer) => {
                self.change(Change::Removed { id: id(usize::from(peer % 8)) });
            }
            Input::Wait(millis) => self.now += Duration::from_millis(u64::from(*millis)),
            Input::Timeout => {
                if let Some((due, _)) = self.mesh.poll_timeout() {
                    self.now = self.now.max(due);
                }
            }
        }
        self.drain();
        self.mesh.handle_timeout(self.now);
        self.drain();
        if let Some((due, why)) = self.mesh.poll_timeout() {
            assert!(due > self.now, "busy loop: {why}");
        }
    }

    fn outbound(&mut self, packet: &[u8]) {
        let waits = {
            let outcome = self.mesh.handle_outbound(packet, packet.len(), self.now);
            self.trace.push(format!("{outcome:?}"));
            match outcome {
                Outbound::Wait(peer) => Some(peer),
                Outbound::Seal { .. } | Outbound::Dropped(_) => None,
            }
        };
        if let Some(peer) = waits {
            self.mesh.enqueue(peer, packet, self.now);
        }
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(transmit) = self.mesh.poll_transmit() {
            count += 1;
            assert!(count < 10_000, "endless transmits");
            assert!(warren_proto::is_usable_endpoint(&transmit.remote), "{}", transmit.remote);
            self.trace.push(format!("{transmit:?}"));
            self.last.push(transmit.contents);
        }
        while let Some(event) = self.mesh.poll_event() {
            self.trace.push(format!("{event:?}"));
        }
        while let Some(packet) = self.mesh.poll_tun() {
            self.trace.push(format!("{packet:?}"));
        }
        if self.last.len() > 50 {
            self.last.drain(..25);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_input_panics_or_makes_a_busy_loop(inputs in prop::collection::vec(input(), 0..120)) {
        let mut rig = Rig::new(epoch());
        for input in &inputs {
            rig.feed(input);
        }
    }

    #[test]
    fn one_seed_gives_one_trace(inputs in prop::collection::vec(input(), 0..60)) {
        let now = epoch();
        let mut rigs = [Rig::new(now), Rig::new(now)];
        for rig in &mut rigs {
            for input in &inputs {
                rig.feed(input);
            }
        }
        prop_assert_eq!(&rigs[0].trace, &rigs[1].trace);
    }
}
