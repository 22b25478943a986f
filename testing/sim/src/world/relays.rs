//! Relays and the streams to them.
//!
//! A stream costs two round trips to open (TCP, TLS 1.3); its bytes arrive in order, and a loss on
//! the way costs a retransmission timeout, as on the control sessions. UDP that is blocked doesn't
//! touch it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::RngExt as _;
use warren_coord::{NewTurn, RelayFace};
use warren_mesh::StreamId as NodeStream;
use warren_proto::{DeviceName, RelayId, RelayTls};
use warren_turn::server::{Config, Settings, User};

use super::{Happening, NodeId, World};
use crate::broker::UNIX_START;
use crate::control::{MIN_RTO, SETUP_ROUND_TRIPS};
use crate::net::{Link, PathToCore};
use crate::relay::{RELAY_PORT, RelayHost, RelayKind};

/// A relay of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayIndex(pub usize);

/// A stream between a node and a relay.
#[derive(Debug)]
pub(super) struct Pipe {
    node: NodeId,
    stream: NodeStream,
    relay: RelayIndex,
    open: bool,
    /// Towards the relay, then towards the node.
    lanes: [VecDeque<(Instant, Vec<u8>)>; 2],
}

impl World {
    /// Adds a relay for the account and lets it report: at the end of the list that devices use.
    ///
    /// # Panics
    /// When the broker is down.
    pub fn add_relay(&mut self, name: &str, kind: RelayKind, line: Link) -> RelayIndex {
        let index = RelayIndex(self.relays.len());
        let host = self.network.add_host();
        let last = u8::try_from(index.0 + 1).expect("few relays");
        let nets: Vec<IpNet> = [format!("203.0.113.2{last}/32"), format!("2001:db8::2:{last}/128")]
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect();
        // Somebody's TURN server has but one family.
        let nets = match kind {
            RelayKind::Ours => &nets[..],
            RelayKind::ThirdParty => &nets[..1],
        };
        self.network.attach(host, self.sites.internet, nets, line);
        let addresses: Vec<SocketAddr> =
            nets.iter().map(|net| SocketAddr::new(net.addr(), RELAY_PORT)).collect();
        let tls = RelayTls {
            host: addresses[0].ip().to_string(),
            port: RELAY_PORT,
            server_name: None,
            pin: None,
        };
        let face = RelayFace { udp: addresses.clone(), tcp: Vec::new(), tls: vec![tls] };
        let name: DeviceName = name.parse().expect("a label");
        let (id, config) = match kind {
            RelayKind::Ours => self.create_relay_server(&name, &face),
            RelayKind::ThirdParty => self.create_turn(&name, face, addresses[0].ip()),
        };
        self.relay_names.push(name.to_string());
        let times = (self.start, self.now);
        self.relays.push(RelayHost::new(&self.network, host, id, config, times));
        self.relay_by_host.insert(host, index);
        let names: Vec<Vec<String>> = self.relay_names.iter().map(|n| vec![n.clone()]).collect();
        self.list_relays(&names);
        index
    }

    /// Names the account's connection relays, as `warren admin relays set` does.
    ///
    /// # Panics
    /// When the broker is down or refuses.
    pub fn list_relays(&mut self, groups: &[Vec<String>]) {
        let now = self.now;
        let ctx = self.broker.ctx(now);
        let account = self.broker.account().expect("the broker runs");
        let prepared = account.prepare_relay_list(&groups.to_vec(), &ctx).expect("they exist");
        self.broker.settle(prepared, now);
        self.settle_broker();
    }

    fn create_relay_server(&mut self, name: &DeviceName, face: &RelayFace) -> (RelayId, Config) {
        let now = self.now;
        let ctx = self.broker.ctx(now);
        let account = self.broker.account().expect("the broker runs");
        let prepared = account.prepare_relay_server(name.clone(), &ctx).expect("a fresh name");
        let id = self.broker.settle(prepared, now).id;
        let account = self.broker.account().expect("the broker runs");
        let prepared = account.prepare_relay_face(id, face).expect("it exists");
        self.broker.settle(prepared, now);
        let account = self.broker.account().expect("the broker runs");
        let init = account.relay_init(id, UNIX_START + self.elapsed()).expect("it is a server");
        let settings = Settings {
            realm: init.realm,
            secrets: init.secrets.into_iter().map(String::into_bytes).collect(),
            users: Vec::new(),
            revoked: init.revoked.iter().map(ToString::to_string).collect(),
        };
        (id, Config::private(settings))
    }

    fn create_turn(&mut self, name: &DeviceName, face: RelayFace, ip: IpAddr) -> (RelayId, Config) {
        let now = self.now;
        let new = NewTurn {
            name: name.clone(),
            url: format!("turn:{ip}"),
            username: Some("user".to_owned()),
            secret: "password".to_owned(),
            face,
        };
        let ctx = self.broker.ctx(now);
        let account = self.broker.account().expect("the broker runs");
        let prepared = account.prepare_turn(new, &ctx).expect("a fresh name");
        let id = self.broker.settle(prepared, now);
        let user = User { name: "user".to_owned(), password: "password".to_owned(), realm: None };
        let settings =
            Settings { realm: "elsewhere".to_owned(), users: vec![user], ..Settings::default() };
        let IpAddr::V4(ip) = ip else { panic!("it has IPv4") };
        let config = Config {
            relayed_ipv4: Some(ip),
            virtual_addresses: false,
            // The internet of the simulation.
            allow_peers: vec!["198.18.0.0/15".parse().expect("a network")],
            ..Config::private(settings)
        };
        (id, config)
    }

    /// One relay.
    pub fn relay(&self, relay: RelayIndex) -> &RelayHost {
        &self.relays[relay.0]
    }

    /// How many allocations have been made at all relays together.
    pub fn allocated(&self) -> u64 {
        self.relays.iter().map(|relay| relay.server().counters().allocated).sum()
    }

    /// Kills a relay's process; its kernel resets the streams.
    pub fn kill_relay(&mut self, relay: RelayIndex) {
        self.relays[relay.0].kill();
        let ids: Vec<u64> =
            self.pipes.iter().filter(|(_, pipe)| pipe.relay == relay).map(|(id, _)| *id).collect();
        for id in ids {
            self.reset_pipe(id);
        }
    }

    /// Starts it again, without anything that it knew.
    pub fn restart_relay(&mut self, relay: RelayIndex) {
        let now = self.now;
        self.relays[relay.0].restart(now);
        self.settle_relay(relay);
    }

    pub(super) fn deliver_to_relay(&mut self, relay: RelayIndex, delivery: &crate::net::Delivery) {
        let now = self.now;
        self.relays[relay.0].handle_delivery(delivery, &mut self.network, now);
        self.settle_relay(relay);
    }

    pub(super) fn wake_relay(&mut self, relay: RelayIndex) {
        let now = self.now;
        if self.relays[relay.0].scheduled != Some(now) {
            return;
        }
        self.relays[relay.0].scheduled = None;
        self.relays[relay.0].handle_timeout(&mut self.network, now);
        self.settle_relay(relay);
    }

    fn settle_relay(&mut self, relay: RelayIndex) {
        let now = self.now;
        let (out, closed) = self.relays[relay.0].take_streams();
        for (pipe, bytes) in out {
            self.write_pipe(pipe, 1, bytes);
        }
        for pipe in closed {
            self.reset_pipe(pipe);
        }
        let Some((due, _)) = self.relays[relay.0].poll_timeout() else { return };
        let due = due.max(now);
        if self.relays[relay.0].scheduled.is_none_or(|scheduled| due < scheduled) {
            self.relays[relay.0].scheduled = Some(due);
            self.at(due, Happening::WakeRelay(relay));
        }
    }

    fn pipe_way(&self, node: NodeId, relay: RelayIndex) -> Option<PathToCore> {
        let near = self.network.path_to_core(self.nodes[node.0].host)?;
        let far = self.network.path_to_core(self.relays[relay.0].host)?;
        Some(PathToCore {
            latency: near.latency + far.latency,
            loss: 1.0 - (1.0 - near.loss) * (1.0 - far.loss),
        })
    }

    fn pipe_delay(&mut self, way: PathToCore) -> Duration {
        let mut delay = way.latency;
        let mut timeout = MIN_RTO.max(way.latency * 4);
        while way.loss > 0.0 && self.rng.random::<f64>() < way.loss {
            delay += timeout;
            timeout *= 2;
        }
        delay
    }

    pub(super) fn open_stream(&mut self, node: NodeId, stream: NodeStream, id: RelayId) {
        let relay = self.relays.iter().position(|relay| relay.id == id).expect("it is known");
        let relay = RelayIndex(relay);
        let pipe = self.next_pipe;
        self.next_pipe += 1;
        let lanes = [VecDeque::new(), VecDeque::new()];
        self.pipes.insert(pipe, Pipe { node, stream, relay, open: false, lanes });
        let wait = match self.pipe_way(node, relay) {
            Some(way) => way.latency * 2 * SETUP_ROUND_TRIPS + self.pipe_delay(way) - way.latency,
            None => Duration::from_secs(10),
        };
        self.at(self.now + wait, Happening::PipeOpened(pipe));
    }

    pub(super) fn pipe_opened(&mut self, id: u64) {
        let now = self.now;
        let Some(Pipe { node, stream, relay, .. }) = self.pipes.get(&id) else { return };
        let (node, stream, relay) = (*node, *stream, *relay);
        if !self.relays[relay.0].is_up || self.pipe_way(node, relay).is_none() {
            self.pipes.remove(&id);
            if let Some(daemon) = &mut self.nodes[node.0].daemon {
                daemon.mesh.handle_stream_closed(stream, now);
            }
            self.settle(node, Vec::new());
            return;
        }
        self.pipes.get_mut(&id).expect("it was there").open = true;
        let from = self.network.addresses(self.nodes[node.0].host).next().expect("an address");
        self.relays[relay.0].accept(id, SocketAddr::new(from.addr(), 50_000), now);
        if let Some(daemon) = &mut self.nodes[node.0].daemon {
            daemon.mesh.handle_stream_opened(stream, true, now);
        }
        self.settle(node, Vec::new());
        self.settle_relay(relay);
    }

    /// Takes what a node's streams have to send.
    pub(super) fn drain_streams(&mut self, node: NodeId) {
        let open: Vec<(u64, NodeStream)> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| pipe.node == node && pipe.open)
            .map(|(id, pipe)| (*id, pipe.stream))
            .collect();
        for (id, stream) in open {
            loop {
                let Some(daemon) = &mut self.nodes[node.0].daemon else { return };
                let Some(bytes) = daemon.mesh.poll_stream(stream) else { break };
                self.write_pipe(id, 0, bytes);
            }
        }
    }

    fn write_pipe(&mut self, id: u64, lane: usize, bytes: Vec<u8>) {
        let Some(Pipe { node, relay, .. }) = self.pipes.get(&id) else { return };
        let (node, relay) = (*node, *relay);
        // What can't pass is repeated until it can: too late for anybody who waits for it.
        let delay = match self.pipe_way(node, relay) {
            Some(way) => self.pipe_delay(way),
            None => Duration::from_secs(60),
        };
        let ready = self.now + delay;
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        let queue = &mut pipe.lanes[lane];
        let ready = queue.back().map_or(ready, |(last, _)| ready.max(*last));
        queue.push_back((ready, bytes));
        self.at(ready, Happening::PipeArrival(id, lane));
    }

    pub(super) fn pipe_arrival(&mut self, id: u64, lane: usize) {
        let now = self.now;
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        let (node, stream, relay) = (pipe.node, pipe.stream, pipe.relay);
        let Some((_, bytes)) = pipe.lanes[lane].pop_front() else { return };
        if lane == 0 {
            self.relays[relay.0].handle_stream(id, &bytes, &mut self.network, now);
            self.settle_relay(relay);
        } else {
            if let Some(daemon) = &mut self.nodes[node.0].daemon {
                daemon.mesh.handle_stream(stream, &bytes, now);
            }
            self.settle(node, Vec::new());
        }
    }

    /// The node closes a stream.
    pub(super) fn close_stream(&mut self, node: NodeId, stream: NodeStream) {
        let found = self.pipes.iter().find(|(_, pipe)| (pipe.node, pipe.stream) == (node, stream));
        let Some(id) = found.map(|(id, _)| *id) else { return };
        if let Some(pipe) = self.pipes.remove(&id)
            && pipe.open
        {
            let now = self.now;
            self.relays[pipe.relay.0].handle_stream_closed(id, now);
            self.settle_relay(pipe.relay);
        }
    }

    /// All streams of a daemon that has ended.
    pub(super) fn close_streams(&mut self, node: NodeId) {
        let streams: Vec<NodeStream> =
            self.pipes.values().filter(|pipe| pipe.node == node).map(|pipe| pipe.stream).collect();
        for stream in streams {
            self.close_stream(node, stream);
        }
    }

    fn reset_pipe(&mut self, id: u64) {
        let Some(pipe) = self.pipes.get(&id) else { return };
        if let Some(way) = self.pipe_way(pipe.node, pipe.relay) {
            self.at(self.now + way.latency, Happening::PipeReset(id));
        }
    }

    pub(super) fn pipe_reset(&mut self, id: u64) {
        let now = self.now;
        let Some(pipe) = self.pipes.remove(&id) else { return };
        if let Some(daemon) = &mut self.nodes[pipe.node.0].daemon {
            daemon.mesh.handle_stream_closed(pipe.stream, now);
        }
        self.settle(pipe.node, Vec::new());
    }
}
