//! A node: the real `mesh`, and what a daemon does around it.

mod datagrams;
mod session;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;
use warren_mesh::{Config, Event, Mesh};
use warren_proto::{DeviceId, InstanceId, Netmap, Registered};

use crate::control::{ConnId, Up};
use crate::net::{HostId, Network};
use crate::world::NodeId;

pub(crate) use session::Session;

/// How many events a node remembers for the tests.
const REMEMBERED_EVENTS: usize = 256;

/// A device: its disk, and its daemon while that runs.
#[derive(Debug)]
pub struct Node {
    /// Its index in the world.
    pub id: NodeId,
    /// Its host in the network.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// The UDP port that it listens on, for life.
    pub port: u16,
    /// Its private key.
    pub private_key: [u8; 32],
    /// What it got when it joined.
    pub registered: Option<Registered>,
    /// What its clock shows when the world's shows `UNIX_START`.
    pub unix_start: Duration,
    /// Its mesh IPv4 address, for life.
    pub mesh_ip: IpAddr,
    /// The netmap that it has on disk.
    pub cache: Option<Netmap>,
    /// Its daemon.
    pub daemon: Option<Daemon>,
    /// Whether it is an edge.
    pub is_edge: bool,
    /// What happened to it that tests look at, the latest last.
    pub events: VecDeque<(Instant, Event)>,
    /// How many deltas it got.
    pub deltas: u64,
    /// How many deltas did not fit.
    pub mismatches: u64,
    /// How many whole maps it got.
    pub netmaps: u64,
    /// Bytes of its control sessions, both ways, as `control.rs` counts them.
    pub control_bytes: u64,
    /// IP packets that the mesh made for the own host (ICMP errors).
    pub icmp: u64,
    /// The timer that is in the world's heap.
    pub(crate) scheduled: Option<Instant>,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// The core.
    pub mesh: Mesh,
    pub(crate) session: Session,
    pub(crate) instance: InstanceId,
}

/// What a node wants from the world.
#[derive(Debug)]
pub(crate) enum Want {
    /// Open a control connection.
    Dial,
    /// Say something over the one that is open.
    Say(ConnId, Up),
    /// Give a connection up.
    Hang(ConnId),
    /// An IP packet has come out of the tunnel.
    Deliver(Vec<u8>),
    /// Open a stream to a relay.
    OpenStream(warren_mesh::StreamId, warren_proto::RelayId),
    /// Close it.
    CloseStream(warren_mesh::StreamId),
}

impl Node {
    /// The device's id.
    ///
    /// # Panics
    /// When it has not joined.
    pub fn device(&self) -> DeviceId {
        self.registered.as_ref().expect("it has joined").device
    }

    /// The mesh core.
    ///
    /// # Panics
    /// When the daemon isn't running.
    pub fn mesh(&self) -> &Mesh {
        &self.daemon.as_ref().expect("the daemon runs").mesh
    }

    /// Starts the daemon: from the cached netmap if there is one.
    pub(crate) fn start(
        &mut self,
        network: &Network,
        rng: &mut StdRng,
        start: Instant,
        now: Instant,
    ) {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let config = Config {
            private_key: self.private_key,
            seed,
            unix: self.unix_start + now.duration_since(start),
            mtu: None,
        };
        let mut mesh = Mesh::new(config, now);
        if let Some(cache) = &self.cache {
            mesh.handle_netmap(cache.clone(), warren_mesh::MapSource::Cache, now);
        }
        let version = self.cache.as_ref().map(|cache| cache.version);
        let instance = InstanceId(rng.next_u64());
        let session = Session::new(rng.next_u64(), version, now);
        self.daemon = Some(Daemon { mesh, session, instance });
        self.tell_addresses(network, now);
        self.tell_edge(now);
    }

    pub(crate) fn tell_edge(&mut self, now: Instant) {
        let state = self.is_edge.then(warren_proto::EdgeState::default);
        if let Some(daemon) = &mut self.daemon {
            daemon.mesh.handle_edge(state, now);
        }
    }

    /// Kills the daemon; what is on disk stays.
    pub(crate) fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.cache = daemon.mesh.netmap().cloned();
        }
    }

    /// Tells the core the host's addresses.
    pub(crate) fn tell_addresses(&mut self, network: &Network, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let addresses: Vec<warren_mesh::LocalAddress> = network
            .addresses(self.host)
            .map(|net| warren_mesh::LocalAddress { ip: net.addr(), prefix_len: net.prefix_len() })
            .collect();
        daemon.mesh.handle_local_addresses(&addresses, self.port, now);
    }

    /// When the daemon wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let daemon = self.daemon.as_ref()?;
        daemon.mesh.poll_timeout().into_iter().chain(daemon.session.poll_timeout()).min()
    }

    pub(crate) fn handle_timeout(&mut self, wants: &mut Vec<Want>, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.mesh.poll_timeout().is_some_and(|(due, _)| due <= now) {
            daemon.mesh.handle_timeout(now);
        }
        self.session_timeout(wants, now);
    }

    /// Drains the core.
    pub(crate) fn drain(&mut self, network: &mut Network, wants: &mut Vec<Want>, now: Instant) {
        loop {
            let Some(daemon) = &mut self.daemon else { return };
            if let Some(transmit) = daemon.mesh.poll_transmit() {
                network.send(self.host, self.port, transmit.remote, transmit.contents, now);
            } else if let Some(event) = daemon.mesh.poll_event() {
                self.session_event(&event, wants, now);
                if self.events.len() == REMEMBERED_EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back((now, event));
            } else if let Some(packet) = daemon.mesh.poll_tun() {
                // Whatever came by a stream waits there too.
                if crate::app::Datagram::parse(&packet).is_some() {
                    wants.push(Want::Deliver(packet));
                } else {
                    self.icmp += 1;
                }
            } else {
                break;
            }
        }
    }
}
