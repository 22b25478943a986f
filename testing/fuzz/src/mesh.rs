//! Two nodes whose network the fuzzer is: it may repeat, damage, invent, delay, and speak for the
//! broker.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use warren_mesh::{
    BrokerState, Config, Event, Inbound, LocalAddress, MapSource, Mesh, Outbound, TAILROOM,
};
use warren_proto::{
    AccountId, Apply, Change, ConnectSignal, Delta, DeviceId, DnsConfig, Endpoint, EndpointKind,
    MapVersion, NatReport, Netmap, Peer, PublicKey, SelfEntry,
};

use crate::input::Input;
use crate::world::{UNIX, address, epoch, number, packet, sign_mac1};

const MAX_STEPS: usize = 48;
const MAX_POOL: usize = 32;

struct Node {
    mesh: Mesh,
    version: MapVersion,
    delivered: BTreeSet<u64>,
}

struct World {
    now: Instant,
    nodes: [Node; 2],
    /// Datagrams that were really sent: from which node, to where.
    pool: VecDeque<(usize, SocketAddr, Vec<u8>)>,
    sent: u64,
}

/// A script of what happens to two nodes. Whatever it is: nothing panics, no packet is delivered
/// that wasn't sent, none twice, and no timer spins.
pub fn fuzz_mesh(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
}

impl World {
    /// Bit 0: they have a tunnel.
    fn new(options: u8) -> Self {
        let now = epoch();
        let nodes = [0, 1].map(|i: usize| {
            let mut mesh = Mesh::new(
                Config {
                    private_key: [i as u8 + 1; 32],
                    seed: [i as u8 + 9; 32],
                    unix: UNIX,
                    mtu: None,
                },
                now,
            );
            let local = LocalAddress { ip: socket(i).ip(), prefix_len: 24 };
            mesh.handle_local_addresses(&[local], socket(i).port(), now);
            Node { mesh, version: MapVersion { epoch: 1, sequence: 1 }, delivered: BTreeSet::new() }
        });
        let mut world = Self { now, nodes, pool: VecDeque::new(), sent: 0 };
        for i in 0..2 {
            let map = world.netmap(i);
            world.nodes[i].mesh.handle_netmap(map, MapSource::Broker, now);
        }
        if options & 1 != 0 {
            world.nodes[0].mesh.connect(id(1), now);
            for _ in 0..8 {
                world.carry_all();
                world.pass(Duration::from_millis(50));
            }
        }
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let node = usize::from(what >> 7);
        let now = self.now;
        match what & 0x0f {
            0 => {
                let len = input.u8();
                let from = address(input.u8());
                let datagram = input.take(len.into()).to_vec();
                self.deliver(node, from, datagram);
            }
            1 => self.invent(node, input),
            2 | 3 => self.damage(node, input),
            4 | 5 => self.send(node, usize::from(input.u16() % 1500)),
            6 => {
                let len = input.u8();
                let packet = input.take(len.into()).to_vec();
                let outbound = self.nodes[node].mesh.handle_outbound(&packet, packet.len(), now);
                if let Outbound::Wait(peer) = outbound {
                    self.nodes[node].mesh.enqueue(peer, &packet, now);
                }
            }
            7 => self.nodes[node].mesh.connect(id(usize::from(input.u8() % 3)), now),
            8 => self.pass(Duration::from_millis(input.u8().into())),
            9 => self.pass(Duration::from_secs(input.u8().into())),
            10 => self.carry_all(),
            11 => {
                let signal = ConnectSignal {
                    from: id(usize::from(input.u8() % 3)),
                    endpoints: endpoints(input),
                    nat: NatReport::default(),
                    relay: None,
                };
                self.nodes[node].mesh.handle_connect(&signal, now);
            }
            12 => self.presence(node, input),
            13 => {
                let rtt = Duration::from_millis(input.u8().into());
                let is_up = what & 0x40 != 0;
                let state = if is_up { BrokerState::Connected { rtt } } else { BrokerState::Lost };
                self.nodes[node].mesh.handle_broker(state, now);
            }
            14 => {
                let local: Vec<_> = (0..input.u8() % 4)
                    .map(|_| LocalAddress { ip: address(input.u8()).ip(), prefix_len: 24 })
                    .collect();
                self.nodes[node].mesh.handle_local_addresses(&local, 4000, now);
            }
            _ => self.replace_map(node, input),
        }
        self.collect();
    }

    /// WireGuard with a right MAC1, or STUN with a right header; the fuzzer's content.
    fn invent(&mut self, to: usize, input: &mut Input<'_>) {
        let kind = input.u8() % 6;
        let from = address(input.u8());
        let message = match kind {
            0..=2 => {
                let (kind, len) = [(1, 148), (2, 92), (3, 64)][usize::from(kind)];
                let mut message = vec![kind, 0, 0, 0];
                message.extend_from_slice(input.take(len - 4));
                message.resize(len, 0);
                if kind != 3 {
                    sign_mac1(&mut message, &self.nodes[to].mesh.public_key());
                }
                message
            }
            _ => {
                let len = usize::from(input.u8()) & !3;
                let content = input.take(12 + len);
                let len = (content.len().saturating_sub(12) & !3) as u16;
                let mut message = vec![kind & 1, 1];
                message.extend_from_slice(&len.to_be_bytes());
                message.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
                message.extend_from_slice(content);
                message
            }
        };
        self.deliver(to, from, message);
    }

    /// A datagram out of the pool: whole, damaged, cut or prolonged, to either node, from wherever.
    fn damage(&mut self, to: usize, input: &mut Input<'_>) {
        let which = usize::from(input.u8());
        let how = input.u8();
        let (at, value) = (usize::from(input.u16()), input.u8());
        if self.pool.is_empty() {
            return;
        }
        let (from, _, datagram) = &self.pool[which % self.pool.len()];
        let from = if how & 0x40 == 0 { socket(*from) } else { address(how) };
        let mut datagram = datagram.clone();
        match how % 5 {
            0 | 1 => {}
            2 => {
                let at = at % datagram.len();
                datagram[at] ^= value;
            }
            3 => datagram.truncate(at % datagram.len()),
            _ => datagram.resize(datagram.len() + usize::from(value), value),
        }
        if how & 0x80 != 0 {
            sign_mac1(&mut datagram, &self.nodes[to].mesh.public_key());
        }
        self.deliver(to, from, datagram);
    }

    fn send(&mut self, from: usize, len: usize) {
        self.sent += 1;
        let content = packet(ip(from), ip(1 - from), len, self.sent);
        let mesh = &mut self.nodes[from].mesh;
        match mesh.handle_outbound(&content, content.len(), self.now) {
            Outbound::Seal { remote, headroom, mut sealer } => {
                let before = headroom + warren_wg::HEADROOM;
                let mut slot = vec![0; before + content.len() + TAILROOM];
                slot[before..before + content.len()].copy_from_slice(&content);
                let sealed_len = sealer.seal(&mut slot, content.len());
                assert!(sealed_len > content.len());
                slot.truncate(sealed_len);
                self.keep(from, remote, slot);
            }
            Outbound::Wait(peer) => mesh.enqueue(peer, &content, self.now),
            Outbound::Dropped(_) => {}
        }
    }

    fn deliver(&mut self, to: usize, from: SocketAddr, mut datagram: Vec<u8>) {
        let sent = self.sent;
        let node = &mut self.nodes[to];
        match node.mesh.handle_datagram(from, &mut datagram, self.now) {
            Inbound::Deliver { range } => {
                let content = &datagram[range];
                let n = number(content);
                assert!((1..=sent).contains(&n), "{n} was never sent");
                assert_eq!(content, packet(ip(1 - to), ip(to), content.len(), n), "forged");
                assert!(node.delivered.insert(n), "{n} was delivered twice");
            }
            Inbound::Consumed | Inbound::Relay | Inbound::Dropped(_) => {}
        }
    }

    fn presence(&mut self, node: usize, input: &mut Input<'_>) {
        let change = match input.u8() % 4 {
            0 => Change::Removed { id: id(1 - node) },
            1 => Change::Peer { peer: self.entry(1 - node) },
            _ => Change::Presence {
                id: id(1 - node),
                online: input.u8() & 1 == 0,
                endpoints: endpoints(input),
                nat: NatReport::default(),
            },
        };
        let node = &mut self.nodes[node];
        let base = node.version;
        let version = MapVersion { sequence: base.sequence + 1, ..base };
        let delta = Delta { base, version, changes: vec![change] };
        assert_eq!(node.mesh.handle_delta(&delta, self.now), Apply::Applied);
        node.version = version;
        assert_eq!(node.mesh.netmap().map(|map| map.version), Some(version));
        let before = node.mesh.netmap().cloned();
        assert_eq!(node.mesh.handle_delta(&delta, self.now), Apply::Applied, "passed over");
        assert_eq!(node.mesh.netmap(), before.as_ref());
    }

    fn replace_map(&mut self, node: usize, input: &mut Input<'_>) {
        let mut map = self.netmap(node);
        if input.u8() & 1 != 0 {
            map.peers.clear();
        }
        map.version.epoch = self.nodes[node].version.epoch + 1;
        self.nodes[node].version = map.version;
        self.nodes[node].mesh.handle_netmap(map, MapSource::Broker, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for node in &mut self.nodes {
            node.mesh.handle_timeout(self.now);
            drain_events(&mut node.mesh);
            if let Some((at, why)) = node.mesh.poll_timeout() {
                assert!(at > self.now, "{why} is due at once again");
            }
        }
        self.collect();
    }

    fn collect(&mut self) {
        for from in 0..2 {
            while let Some(transmit) = self.nodes[from].mesh.poll_transmit() {
                assert!(!transmit.contents.is_empty());
                self.keep(from, transmit.remote, transmit.contents);
            }
            drain_events(&mut self.nodes[from].mesh);
        }
    }

    fn carry_all(&mut self) {
        for _ in 0..4 {
            self.collect();
            for (from, to, datagram) in std::mem::take(&mut self.pool) {
                if let Some(node) = (0..2).find(|&node| socket(node) == to) {
                    self.deliver(node, socket(from), datagram);
                }
            }
        }
        self.collect();
    }

    fn keep(&mut self, from: usize, to: SocketAddr, datagram: Vec<u8>) {
        if self.pool.len() == MAX_POOL {
            self.pool.pop_front();
        }
        self.pool.push_back((from, to, datagram));
    }

    fn entry(&self, of: usize) -> Peer {
        Peer {
            id: id(of),
            name: format!("node-{of}").parse().expect("a label"),
            key: PublicKey(self.nodes[of].mesh.public_key()),
            ipv4: ip(of),
            ipv6: Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, of as u16 + 1),
            endpoints: vec![Endpoint { addr: socket(of), kind: EndpointKind::Host }],
            nat: NatReport::default(),
            online: true,
            capabilities: Vec::new(),
            relays: Vec::new(),
            edge: None,
            signature: None,
        }
    }

    fn netmap(&self, of: usize) -> Netmap {
        let this = self.entry(of);
        Netmap {
            version: MapVersion { epoch: 1, sequence: 1 },
            account: AccountId(1),
            account_name: "home".parse().expect("a label"),
            ipv4_range: "100.80.0.0/16".parse().expect("a range"),
            ipv6_range: "fd12::/48".parse().expect("a range"),
            this: SelfEntry {
                id: this.id,
                name: this.name,
                ipv4: this.ipv4,
                ipv6: this.ipv6,
                static_endpoint: None,
                admission: warren_proto::Admission::Member,
                expires_unix: None,
                approvers: Vec::new(),
            },
            peers: vec![self.entry(1 - of)],
            stun: vec![address(0), address(7)],
            dns: DnsConfig { domain: "home.warren.internal".to_owned() },
            next_pin: None,
            relays: Vec::new(),
            relay_duty: None,
            filter: None,
            edge: None,
            edge_asked: false,
        }
    }
}

/// Takes everything that the node wants of its shell.
fn drain_events(mesh: &mut Mesh) {
    while let Some(event) = mesh.poll_event() {
        if let Event::CheckIn(state) = event {
            assert!(state.endpoints.len() <= warren_proto::MAX_ENDPOINTS);
        }
    }
    while mesh.poll_tun().is_some() {}
}

fn endpoints(input: &mut Input<'_>) -> Vec<Endpoint> {
    (0..input.u8() % 20)
        .map(|_| Endpoint { addr: address(input.u8()), kind: EndpointKind::Reflexive })
        .collect()
}

fn id(node: usize) -> DeviceId {
    DeviceId(node as u64 + 1)
}

fn ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(100, 80, 0, node as u8 + 1)
}

fn socket(node: usize) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, node as u8 + 200), 4000).into()
}
