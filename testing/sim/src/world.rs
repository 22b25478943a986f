//! Everything together, on one virtual clock.
//!
//! [`World`] owns the network, the STUN server, the broker and the nodes, and a heap of what is to
//! happen when. [`World::step`] takes the earliest thing and lets it happen, drains whoever was
//! touched, and asks it when it wants to be woken. All chance comes from the seed.

mod apps;
mod broker;
mod links;
mod relays;
mod transfer;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use warren_coord::{BrokerSettings, NewJoinKey};
use warren_proto::DeviceId;

use crate::broker::{Broker, UNIX_START};
use crate::control::{ConnId, Connection, Direction};
use crate::net::{HostId, Link, Network};
use crate::node::{Node, Want};
use crate::site::{Nat, SiteConfig, SiteId, Sites};
use crate::stun::StunHost;

use crate::relay::RelayHost;
use apps::{Ping, Stream};
pub use apps::{PingId, StreamId, StreamReport};
use relays::Pipe;
pub use relays::RelayIndex;
use transfer::Transfer;
pub use transfer::{TransferId, TransferReport};

/// A node of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The first message of a lane arrives.
    Arrival(ConnId, Direction),
    /// A connection attempt has come through, or fails.
    Dialled(ConnId),
    Heartbeat(ConnId),
    /// A node learns that its connection was reset.
    Reset(ConnId),
    Wake(NodeId),
    WakeBroker,
    WakeRelay(RelayIndex),
    /// A stream to a relay stands, or could not be opened.
    PipeOpened(u64),
    /// Bytes arrive at the relay, or at the node.
    PipeArrival(u64, usize),
    /// The node learns that a stream was reset.
    PipeReset(u64),
    /// The next packet of a stream is due.
    Pace(usize),
    /// The retransmission timeout of a transfer's segment, or its next segment.
    Transfer(usize, u64),
}

/// The simulation.
#[derive(Debug)]
pub struct World {
    /// The network.
    pub network: Network,
    /// Where nodes can stand.
    pub sites: Sites,
    /// The broker.
    pub broker: Broker,
    /// The STUN server: two addresses, two ports, each family.
    pub stun: StunHost,
    /// Whether control messages are serialised to count their bytes: dear for large maps.
    pub counts_control_bytes: bool,
    /// Whether the STUN server answers; it dies and comes back with the broker.
    stun_is_up: bool,
    /// The relays.
    pub relays: Vec<RelayHost>,
    relay_by_host: BTreeMap<HostId, RelayIndex>,
    relay_names: Vec<String>,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    /// The nodes.
    pub nodes: Vec<Node>,
    node_by_host: BTreeMap<HostId, NodeId>,
    seed: u64,
    start: Instant,
    now: Instant,
    rng: StdRng,
    heap: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    sequence: u64,
    conns: BTreeMap<ConnId, Connection>,
    /// Connections that stand at the broker.
    accepted: BTreeSet<ConnId>,
    next_conn: u64,
    broker_wake: Option<Instant>,
    join_key: String,
    pings: Vec<Ping>,
    streams: Vec<Stream>,
    transfers: Vec<Transfer>,
    steps: u64,
}

impl World {
    /// An internet with a broker and a STUN server on it, each 20 ms away, and nobody else.
    pub fn new(seed: u64) -> Self {
        Self::with_leg(seed, Link::ACCESS)
    }

    /// The same with another line for broker and STUN server.
    pub fn with_leg(seed: u64, leg: Link) -> Self {
        Self::with_stun(seed, leg, 2)
    }

    /// The same with a STUN server that has one address of each family or two, and two ports. One
    /// is what `warren serve` has on most machines.
    pub fn with_stun(seed: u64, leg: Link, addresses: usize) -> Self {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut network = Network::new(rng.next_u64(), start);
        let internet = network.add_segment();
        let nets = |texts: &[&str]| -> Vec<ipnet::IpNet> {
            texts.iter().map(|text| text.parse().expect("a network")).collect()
        };
        let stun_host = network.add_host();
        let v4 = &["203.0.113.1/32", "203.0.113.2/32"][..addresses];
        let v6 = &["2001:db8::1/128", "2001:db8::2/128"][..addresses];
        network.attach(stun_host, internet, &[nets(v4), nets(v6)].concat(), leg);
        let stun = StunHost::new(&network, stun_host, start);
        let broker_host = network.add_host();
        network.attach(broker_host, internet, &nets(&["203.0.113.9/32", "2001:db8::9/128"]), leg);
        let settings = BrokerSettings {
            // Of each address the first port, and where there is but one the second too.
            stun: stun.sockets.iter().copied().step_by(addresses).collect(),
            next_pin: None,
            dns_suffix: "warren.internal".to_owned(),
            ..BrokerSettings::default()
        };
        let broker_rng = StdRng::seed_from_u64(rng.next_u64());
        let mut broker = Broker::new(broker_host, settings, broker_rng, start);
        let reusable = NewJoinKey { reusable: true, ..NewJoinKey::default() };
        let join_key = broker.create_join_key(reusable, start).secret;
        Self {
            network,
            sites: Sites::new(internet),
            broker,
            stun,
            counts_control_bytes: true,
            stun_is_up: true,
            relays: Vec::new(),
            relay_by_host: BTreeMap::new(),
            relay_names: Vec::new(),
            pipes: BTreeMap::new(),
            next_pipe: 0,
            nodes: Vec::new(),
            node_by_host: BTreeMap::new(),
            seed,
            start,
            now: start,
            rng,
            heap: BinaryHeap::new(),
            sequence: 0,
            conns: BTreeMap::new(),
            accepted: BTreeSet::new(),
            next_conn: 0,
            broker_wake: None,
            join_key,
            pings: Vec::new(),
            streams: Vec::new(),
            transfers: Vec::new(),
            steps: 0,
        }
    }

    /// The seed that this world was made of.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many things have happened.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A number below `below`, by the seed: for tests that want chance of their own.
    pub fn chance(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below.max(1))
    }

    /// Adds a site.
    pub fn add_site(&mut self, config: SiteConfig) -> SiteId {
        self.sites.add(&mut self.network, config)
    }

    /// Adds a node that has joined but not started, in a site.
    pub fn add_node(&mut self, name: &str, site: SiteId) -> NodeId {
        let host = self.network.add_host();
        self.sites.attach(&mut self.network, host, site);
        let mut private_key = [0; 32];
        self.rng.fill_bytes(&mut private_key);
        let id = NodeId(self.nodes.len());
        let registered = self
            .broker
            .register(&private_key, name, &self.join_key, self.now)
            .expect("the account has room");
        let records = &self.broker.disk.snapshot.devices;
        let record = records.iter().find(|record| record.id == registered.device);
        let mesh_ip = IpAddr::V4(record.expect("a registration is committed").ipv4);
        self.nodes.push(Node {
            id,
            mesh_ip,
            unix_start: UNIX_START,
            host,
            name: name.to_owned(),
            port: self.rng.random_range(40_000..60_000),
            private_key,
            registered: Some(registered),
            cache: None,
            daemon: None,
            is_edge: false,
            events: std::collections::VecDeque::new(),
            deltas: 0,
            mismatches: 0,
            netmaps: 0,
            control_bytes: 0,
            icmp: 0,
            scheduled: None,
        });
        self.node_by_host.insert(host, id);
        self.settle_broker();
        id
    }

    /// Adds a node behind a NAT of its own, and starts it.
    pub fn add_home(&mut self, name: &str, nat: Nat) -> NodeId {
        let site = self.add_site(SiteConfig::new(nat));
        let node = self.add_node(name, site);
        self.start_node(node);
        node
    }

    /// Starts a node's daemon.
    pub fn start_node(&mut self, node: NodeId) {
        let (start, now) = (self.start, self.now);
        self.nodes[node.0].start(&self.network, &mut self.rng, start, now);
        self.settle(node, Vec::new());
    }

    /// Kills a node's daemon; its kernel closes the connection.
    pub fn stop_node(&mut self, node: NodeId) {
        if let Some(conn) = self.conn_of(node) {
            self.hang_up(conn);
        }
        self.close_streams(node);
        self.nodes[node.0].stop();
    }

    /// Moves a node's host to another site: the old address goes, and a moment later there is a
    /// new one, behind another NAT.
    pub fn roam(&mut self, node: NodeId, site: SiteId) {
        self.unplug(node);
        self.run_for(Duration::from_millis(10));
        self.plug(node, site);
    }

    /// Lets a node listen on another UDP port, as `warren lport` does.
    pub fn change_port(&mut self, node: NodeId, port: u16) {
        self.nodes[node.0].port = port;
        self.nodes[node.0].tell_addresses(&self.network, self.now);
        self.settle(node, Vec::new());
    }

    /// Lets the NAT before a node's site open a port for it, and tells the node, as its port mapper
    /// does.
    ///
    /// # Panics
    /// When there is no NAT.
    pub fn map_port(&mut self, node: NodeId, site: SiteId, port: u16) {
        let inside = self.network.addresses(self.nodes[node.0].host).find(|a| a.addr().is_ipv4());
        let inside = SocketAddr::new(inside.expect("an address").addr(), self.nodes[node.0].port);
        let router = self.sites.router(site).expect("a NAT");
        let mapped = self.network.forward(router, port, inside).expect("a NAT");
        let now = self.now;
        if let Some(daemon) = &mut self.nodes[node.0].daemon {
            daemon.mesh.handle_mapping(&[mapped], now);
        }
        self.settle(node, Vec::new());
    }

    /// Takes a node's host off the network.
    pub fn unplug(&mut self, node: NodeId) {
        self.network.detach(self.nodes[node.0].host);
        self.network_changed(node);
    }

    /// Puts a node's host, which was unplugged, into a site.
    pub fn plug(&mut self, node: NodeId, site: SiteId) {
        self.sites.attach(&mut self.network, self.nodes[node.0].host, site);
        self.network_changed(node);
    }

    fn network_changed(&mut self, node: NodeId) {
        let mut wants = Vec::new();
        self.nodes[node.0].tell_addresses(&self.network, self.now);
        self.nodes[node.0].handle_network_change(&mut wants, self.now);
        self.settle(node, wants);
    }

    /// Starts a second machine with a copy of a node's state folder, in a site.
    pub fn clone_node(&mut self, node: NodeId, site: SiteId) -> NodeId {
        let host = self.network.add_host();
        self.sites.attach(&mut self.network, host, site);
        let id = NodeId(self.nodes.len());
        let original = &self.nodes[node.0];
        let clone = Node {
            id,
            host,
            name: format!("{} (clone)", original.name),
            port: original.port,
            mesh_ip: original.mesh_ip,
            unix_start: original.unix_start,
            private_key: original.private_key,
            registered: original.registered.clone(),
            cache: original.cache.clone(),
            daemon: None,
            is_edge: original.is_edge,
            events: std::collections::VecDeque::new(),
            deltas: 0,
            mismatches: 0,
            netmaps: 0,
            control_bytes: 0,
            icmp: 0,
            scheduled: None,
        };
        self.nodes.push(clone);
        self.node_by_host.insert(host, id);
        self.start_node(id);
        id
    }

    /// One node.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.0]
    }

    /// The node of a device.
    pub fn node_of(&self, device: DeviceId) -> Option<NodeId> {
        self.nodes.iter().find(|node| node.device() == device).map(|node| node.id)
    }

    /// Lets the next thing happen, if it does by `until`.
    pub fn step(&mut self, until: Instant) -> bool {
        let network = self.network.poll_timeout();
        let own = self.heap.peek().map(|Reverse((at, ..))| *at);
        let next = match (network, own) {
            (Some(network), Some(own)) => network.min(own),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => return false,
        };
        if next > until {
            return false;
        }
        assert!(next >= self.now, "time goes backwards");
        self.now = next;
        self.steps += 1;
        if network == Some(next) {
            if let Some(delivery) = self.network.handle_timeout(next) {
                self.deliver(delivery);
            }
        } else if let Some(Reverse((_, _, happening))) = self.heap.pop() {
            self.happen(happening);
        }
        true
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
        self.now = until;
    }

    /// Lets time pass until something is so; how long that took, or `None` if it isn't so within
    /// `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut is_so: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let (begin, until) = (self.now, self.now + limit);
        while !is_so(self) {
            if !self.step(until) {
                self.now = until;
                return is_so(self).then_some(limit);
            }
        }
        Some(self.now - begin)
    }

    fn at(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(conn, direction) => self.arrive(conn, direction),
            Happening::Dialled(conn) => self.dialled(conn),
            Happening::Heartbeat(conn) => self.heartbeat(conn),
            Happening::Reset(conn) => self.reset(conn),
            Happening::Wake(node) => self.wake(node),
            Happening::WakeBroker => self.wake_broker(),
            Happening::WakeRelay(relay) => self.wake_relay(relay),
            Happening::PipeOpened(pipe) => self.pipe_opened(pipe),
            Happening::PipeArrival(pipe, lane) => self.pipe_arrival(pipe, lane),
            Happening::PipeReset(pipe) => self.pipe_reset(pipe),
            Happening::Pace(stream) => self.pace(stream),
            Happening::Transfer(transfer, turn) => self.transfer_due(transfer, turn),
        }
    }

    fn wake(&mut self, node: NodeId) {
        let now = self.now;
        if self.nodes[node.0].scheduled != Some(now) {
            return;
        }
        self.nodes[node.0].scheduled = None;
        self.network.note("wake", node.0 as u64);
        let mut wants = Vec::new();
        self.nodes[node.0].handle_timeout(&mut wants, now);
        self.settle(node, wants);
        if let Some((due, why)) = self.nodes[node.0].poll_timeout() {
            assert!(due > now, "{} wants to be woken again at once for '{why}'", node.0);
        }
    }

    fn deliver(&mut self, delivery: crate::net::Delivery) {
        let now = self.now;
        if delivery.host == self.stun.host {
            if !self.stun_is_up {
                return;
            }
            self.stun.handle_delivery(&delivery, &mut self.network, now);
            return;
        }
        if let Some(relay) = self.relay_by_host.get(&delivery.host).copied() {
            self.deliver_to_relay(relay, &delivery);
            return;
        }
        let Some(id) = self.node_by_host.get(&delivery.host).copied() else { return };
        let node = &mut self.nodes[id.0];
        if delivery.to.port() != node.port {
            return;
        }
        let mut wants = Vec::new();
        node.handle_datagram(delivery.from, delivery.payload, &mut wants, now);
        self.settle(id, wants);
    }

    /// Drains a node, does what it wants, and notes when it is to be woken.
    fn settle(&mut self, node: NodeId, mut wants: Vec<Want>) {
        let now = self.now;
        self.nodes[node.0].drain(&mut self.network, &mut wants, now);
        for want in wants {
            match want {
                Want::Dial => self.dial(node),
                Want::Say(conn, up) => self.say(conn, up),
                Want::Hang(conn) => self.hang_up(conn),
                Want::Deliver(packet) => self.delivered(node, &packet),
                Want::OpenStream(stream, relay) => self.open_stream(node, stream, relay),
                Want::CloseStream(stream) => self.close_stream(node, stream),
            }
        }
        self.drain_streams(node);
        let due = self.nodes[node.0].poll_timeout().map(|(due, _)| due);
        let Some(due) = due.map(|due| due.max(now)) else { return };
        if self.nodes[node.0].scheduled.is_none_or(|scheduled| due < scheduled) {
            self.nodes[node.0].scheduled = Some(due);
            self.at(due, Happening::Wake(node));
        }
    }
}
