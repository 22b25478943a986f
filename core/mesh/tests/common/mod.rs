//! Two or more [`Mesh`]es, a wire with delay, a STUN server and a broker that passes words on.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at one thing at a time")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use warren_mesh::{
    BrokerState, Config, Event, Inbound, InboundDrop, LocalAddress, MapSource, Mesh, Outbound,
    OutboundDrop, PathState, TAILROOM,
};
use warren_proto::{
    AccountId, Change, ConnectSignal, Delta, DeviceId, DnsConfig, MapVersion, Netmap, Peer,
    PublicKey, SelfEntry,
};
use warren_turn::{Builder, Class, Message, Method};

/// One way between any two parties.
pub const DELAY: Duration = Duration::from_millis(20);

/// Noon of some day, so that no test crosses midnight by accident.
pub const NOON: Duration = Duration::from_secs(20_000 * 86_400 + 43_200);

pub const STUN: [&str; 2] = ["198.51.100.1:3478", "198.51.100.1:3479"];

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn id(index: usize) -> DeviceId {
    DeviceId(index as u64 + 1)
}

pub fn mesh_v4(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(100, 80, 0, index as u8 + 1)
}

pub fn mesh_v6(index: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xFD12, 0x3456, 0x789A, 0, 0, 0, 0, index as u16 + 1)
}

pub fn private_key(index: usize) -> [u8; 32] {
    [index as u8 + 1; 32]
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mail {
    /// From, to, content, Don't Fragment.
    Datagram(SocketAddr, SocketAddr, Vec<u8>, bool),
    Signal(usize, usize),
    Presence(usize),
}

pub struct Node {
    pub mesh: Mesh,
    /// Its address, as everyone sees it.
    pub addr: SocketAddr,
    pub received: Vec<(Instant, Vec<u8>)>,
    pub icmp: Vec<Vec<u8>>,
    pub events: Vec<(Instant, Event)>,
    pub drops: Vec<InboundDrop>,
    pub sent: usize,
    pub alive: bool,
    /// Its address on a LAN, where it has one: used towards 192.168.0.0/16.
    pub lan: Option<SocketAddr>,
    /// Lets in only what it has sent to (address and port), as most NATs and firewalls do.
    pub firewall: bool,
    pub holes: BTreeSet<(SocketAddr, SocketAddr)>,
}

pub type Filter = Box<dyn FnMut(&Mail) -> bool>;

pub struct World {
    pub now: Instant,
    pub start: Instant,
    pub nodes: Vec<Node>,
    mail: BTreeMap<(Instant, u64), Mail>,
    serial: u64,
    /// What is delivered at all.
    pub filter: Filter,
    pub broker: bool,
    /// One way between two nodes.
    pub delay: Duration,
    version: u64,
    signals: BTreeMap<u64, ConnectSignal>,
    /// Every datagram that was sent, for replays.
    pub log: Vec<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
}

#[expect(clippy::disallowed_methods, reason = "a test's instants count from any instant")]
pub fn epoch() -> Instant {
    Instant::now()
}

pub fn v4_packet(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    ip_packet(mesh_v4(from), mesh_v4(to), payload)
}

pub fn ip_packet(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}

pub fn config(index: usize, mtu: Option<u16>, seed: u8) -> Config {
    Config { private_key: private_key(index), seed: [seed; 32], unix: NOON, mtu }
}

pub fn netmap(this: usize, peers: Vec<Peer>) -> Netmap {
    Netmap {
        version: MapVersion { epoch: 1, sequence: 0 },
        account: AccountId(1),
        account_name: "home".parse().unwrap(),
        ipv4_range: "100.80.0.0/16".parse().unwrap(),
        ipv6_range: "fd12:3456:789a::/48".parse().unwrap(),
        this: SelfEntry {
            id: id(this),
            name: format!("node-{this}").parse().unwrap(),
            ipv4: mesh_v4(this),
            ipv6: mesh_v6(this),
            static_endpoint: None,
            admission: warren_proto::Admission::Member,
            expires_unix: None,
            approvers: Vec::new(),
        },
        peers,
        stun: STUN.iter().map(|addr| addr.parse().unwrap()).collect(),
        dns: DnsConfig { domain: "home.warren.internal".into() },
        next_pin: None,
        relays: Vec::new(),
        relay_duty: None,
        filter: None,
        edge: None,
        edge_asked: false,
    }
}

pub fn entry(index: usize, mesh: &Mesh) -> Peer {
    let state = mesh.check_in_state();
    Peer {
        id: id(index),
        name: format!("node-{index}").parse().unwrap(),
        key: PublicKey(mesh.public_key()),
        ipv4: mesh_v4(index),
        ipv6: mesh_v6(index),
        endpoints: state.endpoints,
        nat: state.nat,
        online: true,
        capabilities: Vec::new(),
        relays: Vec::new(),
        edge: None,
        signature: None,
    }
}

impl World {
    /// `count` nodes at public addresses that know one another and have checked in.
    pub fn new(count: usize) -> Self {
        Self::with_mtu(count, Some(1280))
    }

    pub fn with_mtu(count: usize, mtu: Option<u16>) -> Self {
        let addrs: Vec<String> = (0..count).map(|i| format!("192.0.2.{}:4000", i + 1)).collect();
        let addrs: Vec<&str> = addrs.iter().map(String::as_str).collect();
        Self::at(&addrs, mtu)
    }

    pub fn at(addrs: &[&str], mtu: Option<u16>) -> Self {
        let now = epoch();
        let nodes: Vec<Node> = addrs
            .iter()
            .enumerate()
            .map(|(i, addr)| Node {
                mesh: Mesh::new(config(i, mtu, i as u8 + 1), now),
                addr: addr.parse().unwrap(),
                received: Vec::new(),
                icmp: Vec::new(),
                events: Vec::new(),
                drops: Vec::new(),
                sent: 0,
                alive: true,
                lan: None,
                firewall: false,
                holes: BTreeSet::new(),
            })
            .collect();
        let mut world = Self {
            now,
            start: now,
            nodes,
            mail: BTreeMap::new(),
            serial: 0,
            filter: Box::new(|_| true),
            broker: true,
            delay: DELAY,
            version: 0,
            signals: BTreeMap::new(),
            log: Vec::new(),
        };
        for (i, addr) in addrs.iter().enumerate() {
            world.set_address(i, addr);
        }
        for i in 0..addrs.len() {
            let map = world.map_of(i);
            world.nodes[i].mesh.handle_netmap(map, MapSource::Broker, now);
            world.nodes[i].mesh.handle_broker(BrokerState::Connected { rtt: DELAY * 2 }, now);
            world.drain(i);
        }
        world.run(secs(1));
        world
    }

    pub fn map_of(&self, this: usize) -> Netmap {
        let peers = (0..self.nodes.len())
            .filter(|i| *i != this)
            .map(|i| entry(i, &self.nodes[i].mesh))
            .collect();
        let mut map = netmap(this, peers);
        map.version.sequence = self.version;
        map
    }

    /// Moves a node to another public address, and tells it.
    pub fn set_address(&mut self, node: usize, addr: &str) {
        let addr: SocketAddr = addr.parse().unwrap();
        self.nodes[node].addr = addr;
        let local =
            LocalAddress { ip: addr.ip(), prefix_len: if addr.is_ipv4() { 32 } else { 128 } };
        let now = self.now;
        self.nodes[node].mesh.handle_local_addresses(&[local], addr.port(), now);
        self.drain(node);
    }

    fn post(&mut self, after: Duration, mail: Mail) {
        if (self.filter)(&mail) {
            self.serial += 1;
            self.mail.insert((self.now + after, self.serial), mail);
        }
    }

    pub fn drain(&mut self, i: usize) {
        while let Some(transmit) = self.nodes[i].mesh.poll_transmit() {
            assert!(!transmit.contents.is_empty());
            let from = self.source(i, transmit.remote);
            self.nodes[i].sent += 1;
            self.nodes[i].holes.insert((from, transmit.remote));
            self.log.push((self.now, from, transmit.remote, transmit.contents.clone()));
            self.post(
                self.delay,
                Mail::Datagram(from, transmit.remote, transmit.contents, transmit.dont_fragment),
            );
        }
        while let Some(event) = self.nodes[i].mesh.poll_event() {
            self.nodes[i].events.push((self.now, event.clone()));
            match event {
                Event::Connect(request) => {
                    let signal = ConnectSignal {
                        from: id(i),
                        endpoints: request.endpoints,
                        nat: request.nat,
                        relay: request.relay,
                    };
                    self.signals.insert(self.serial, signal);
                    let to = request.peer.0 as usize - 1;
                    if self.broker {
                        self.post(DELAY * 2, Mail::Signal(self.serial as usize, to));
                    }
                }
                Event::CheckIn(_) if self.broker && self.now > self.start => {
                    self.post(DELAY * 2, Mail::Presence(i));
                }
                _ => {}
            }
        }
        while let Some(packet) = self.nodes[i].mesh.poll_tun() {
            self.nodes[i].icmp.push(packet);
        }
    }

    /// After a timeout nothing may be due at once: that would be a busy loop.
    fn assert_quiet(&self, i: usize) {
        if let Some((due, why)) = self.nodes[i].mesh.poll_timeout() {
            assert!(due > self.now, "busy loop: {why}");
        }
    }

    /// The address that a node sends from.
    fn source(&self, node: usize, remote: SocketAddr) -> SocketAddr {
        let node = &self.nodes[node];
        match (remote.ip(), node.lan) {
            (IpAddr::V4(ip), Some(lan)) if ip.octets()[..2] == [192, 168] => lan,
            _ => node.addr,
        }
    }

    /// The living node at an address.
    fn owner(&self, addr: SocketAddr) -> Option<usize> {
        let is_at = |node: &Node| node.addr == addr || node.lan == Some(addr);
        self.nodes.iter().position(|node| is_at(node) && node.alive)
    }

    /// Gives a node an address on a LAN besides its public one, and tells it.
    pub fn join_lan(&mut self, node: usize, addr: &str) {
        let lan: SocketAddr = addr.parse().unwrap();
        self.nodes[node].lan = Some(lan);
        let local = [
            LocalAddress { ip: self.nodes[node].addr.ip(), prefix_len: 32 },
            LocalAddress { ip: lan.ip(), prefix_len: 24 },
        ];
        let now = self.now;
        self.nodes[node].mesh.handle_local_addresses(&local, lan.port(), now);
        self.drain(node);
    }

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::Datagram(from, to, mut contents, _) => {
                if STUN.iter().any(|server| server.parse() == Ok(to)) {
                    self.answer_stun(from, to, &contents);
                } else if let Some(i) = self.owner(to) {
                    let node = &self.nodes[i];
                    if node.firewall && !node.holes.contains(&(to, from)) {
                        return;
                    }
                    self.receive(i, from, &mut contents);
                }
            }
            Mail::Signal(serial, to) => {
                let signal = self.signals.remove(&(serial as u64)).unwrap();
                if self.nodes[to].alive {
                    self.nodes[to].mesh.handle_connect(&signal, self.now);
                    self.drain(to);
                }
            }
            Mail::Presence(of) => {
                let state = self.nodes[of].mesh.check_in_state();
                self.change(
                    |_| Change::Presence {
                        id: id(of),
                        online: true,
                        endpoints: state.endpoints.clone(),
                        nat: state.nat,
                    },
                    of,
                );
            }
        }
    }

    /// Sends a delta with one change to all but one.
    pub fn change(&mut self, change: impl Fn(usize) -> Change, except: usize) {
        let base = MapVersion { epoch: 1, sequence: self.version };
        self.version += 1;
        let version = MapVersion { epoch: 1, sequence: self.version };
        for i in 0..self.nodes.len() {
            let changes = if i == except { Vec::new() } else { vec![change(i)] };
            let delta = Delta { base, version, changes };
            let _ = self.nodes[i].mesh.handle_delta(&delta, self.now);
            self.drain(i);
        }
    }

    pub fn receive(&mut self, i: usize, from: SocketAddr, datagram: &mut [u8]) {
        let now = self.now;
        match self.nodes[i].mesh.handle_datagram(from, datagram, now) {
            Inbound::Deliver { range } => {
                self.nodes[i].received.push((now, datagram[range].to_vec()));
            }
            Inbound::Consumed | Inbound::Relay => {}
            Inbound::Dropped(reason) => self.nodes[i].drops.push(reason),
        }
        self.drain(i);
    }

    fn answer_stun(&mut self, from: SocketAddr, server: SocketAddr, request: &[u8]) {
        let Ok(message) = Message::parse(request) else { return };
        let mut reply = Vec::new();
        Builder::new(&mut reply, Class::Success, Method::BINDING, message.transaction_id())
            .xor_mapped_address(from)
            .fingerprint();
        self.post(DELAY, Mail::Datagram(server, from, reply, false));
    }

    /// Runs for a time.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until something holds; panics when it doesn't within `limit`. Returns how long it took.
    pub fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.now;
        let end = begin + limit;
        while !holds(self) {
            assert!(self.step(end), "not within {limit:?}");
        }
        self.now - begin
    }

    fn step(&mut self, end: Instant) -> bool {
        let mail = self.mail.keys().next().map(|key| (key.0, None));
        let timers = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.alive)
            .filter_map(|(i, node)| Some((node.mesh.poll_timeout()?.0, Some(i))));
        let Some((due, node)) = mail.into_iter().chain(timers).min() else { return false };
        if due > end {
            return false;
        }
        self.now = self.now.max(due);
        match node {
            Some(i) => {
                let now = self.now;
                self.nodes[i].mesh.handle_timeout(now);
                self.drain(i);
                self.assert_quiet(i);
            }
            None => {
                let (_, mail) = self.mail.pop_first().unwrap();
                self.deliver(mail);
            }
        }
        true
    }

    /// The own host of `from` sends a packet to `to`.
    pub fn send(&mut self, from: usize, to: usize, payload: &[u8]) -> Option<OutboundDrop> {
        let packet = v4_packet(from, to, payload);
        self.send_packet(from, &packet)
    }

    pub fn send_packet(&mut self, from: usize, packet: &[u8]) -> Option<OutboundDrop> {
        let now = self.now;
        let node = &mut self.nodes[from];
        let mut dropped = None;
        let mut waits = None;
        let sealed = match node.mesh.handle_outbound(packet, packet.len(), now) {
            Outbound::Seal { remote, headroom, mut sealer } => {
                let mut slot = vec![0; headroom + 16];
                slot.extend_from_slice(packet);
                slot.resize(slot.len() + TAILROOM, 0);
                let len = sealer.seal(&mut slot, packet.len());
                slot.truncate(len);
                Some((remote, slot))
            }
            Outbound::Wait(peer) => {
                waits = Some(peer);
                None
            }
            Outbound::Dropped(reason) => {
                dropped = Some(reason);
                None
            }
        };
        if let Some(peer) = waits {
            self.nodes[from].mesh.enqueue(peer, packet, now);
        }
        if let Some((remote, contents)) = sealed {
            let addr = self.source(from, remote);
            self.nodes[from].sent += 1;
            self.log.push((self.now, addr, remote, contents.clone()));
            self.post(self.delay, Mail::Datagram(addr, remote, contents, false));
        }
        self.drain(from);
        dropped
    }

    pub fn path(&self, from: usize, to: usize) -> PathState {
        self.nodes[from].mesh.peer(id(to)).unwrap().path
    }

    pub fn remote(&self, from: usize, to: usize) -> Option<SocketAddr> {
        match self.path(from, to) {
            PathState::Direct { path, .. } => Some(path.remote),
            _ => None,
        }
    }

    /// Establishes a tunnel from one to the other, with a packet each way.
    pub fn join(&mut self, a: usize, b: usize) {
        let (at_a, at_b) = (self.nodes[a].received.len(), self.nodes[b].received.len());
        self.send(a, b, b"hello");
        self.run_until(secs(2), |world| world.nodes[b].received.len() > at_b);
        self.send(b, a, b"hello yourself");
        self.run_until(secs(2), |world| world.nodes[a].received.len() > at_a);
        self.run(secs(1));
    }

    pub fn payloads(&self, node: usize) -> Vec<Vec<u8>> {
        self.nodes[node].received.iter().map(|(_, packet)| packet[20..].to_vec()).collect()
    }

    /// Distinct senders that got through to a node lately.
    pub fn sources(&self, node: usize) -> BTreeSet<IpAddr> {
        self.nodes[node]
            .received
            .iter()
            .map(|(_, packet)| IpAddr::from([packet[12], packet[13], packet[14], packet[15]]))
            .collect()
    }
}
