//! The data thread: one thread that owns the TUN device, the UDP sockets and the [`Mesh`], and
//! runs every packet to completion.
//!
//! It is driven as `docs/sans-io.md` says, in batches: up to [`BATCH`] super-packets of the TUN, of
//! which each costs one look-up in the mesh, are split into slots, sealed in place and sent in
//! runs; up to [`BATCH`] receive calls are taken apart, decrypted in place and written to the TUN
//! in joined packets. No packet costs an allocation. The control runtime talks to it through
//! [`DataThread`] and [`DataClient`] alone.

mod echo;
mod pump;
mod relay;
mod streams;
mod thread;

use std::net::{IpAddr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use warren_mesh::{
    BrokerState, CandidateStatus, LocalAddress, MapSource, Mesh, Netcheck, OutboundDrop, PeerStatus,
};
use warren_net::{Diverted, Finding, HostNetwork, TunConfig, UdpConfig};
use warren_proto::{CheckInState, ConnectSignal, Delta, DeviceId, EdgeState, Netmap, ReachCheck};
use zeroize::Zeroizing;

use crate::local::DebugCounters;

/// Reads that are taken before everything else gets its turn.
const BATCH: usize = 8;

/// What the data thread is made of.
pub(crate) struct DataConfig {
    pub(crate) private_key: Zeroizing<[u8; 32]>,
    /// The wall clock, or its persisted floor if that is later.
    pub(crate) unix: Duration,
    pub(crate) mtu: Option<u16>,
    pub(crate) tun: TunConfig,
    pub(crate) udp: UdpConfig,
    pub(crate) netmap: Netmap,
    pub(crate) source: MapSource,
    /// Who may answer in the host's place.
    pub(crate) diverted: Option<Diverted>,
}

/// What was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The host's side of the interface: addresses and routes.
    pub(crate) host: HostNetwork,
    pub(crate) interface: String,
    pub(crate) index: u32,
    pub(crate) port: u16,
    pub(crate) mtu: u16,
    pub(crate) findings: Vec<Finding>,
}

/// What the data thread reports.
#[derive(Debug)]
pub(crate) enum DataEvent {
    /// Something that the mesh wants, or that happened in it.
    Mesh(warren_mesh::Event),
    /// The thread has ended: the interface is gone.
    Failed(String),
}

/// What the data thread is told.
#[derive(Debug)]
enum Command {
    Netmap(Box<Netmap>, MapSource),
    Delta(Box<Delta>),
    Signal(ConnectSignal),
    ExpectReach(ReachCheck),
    Broker(BrokerState),
    LocalAddresses(Vec<LocalAddress>),
    Mapping(Vec<SocketAddr>),
    Edge(Option<EdgeState>),
    Exit(Option<DeviceId>),
    RaiseClock(Duration),
    Seek(DeviceId),
    Echo(Echo),
    Rebind(UdpConfig, oneshot::Sender<Result<(u16, Vec<Finding>), warren_net::Error>>),
    Snapshot(oneshot::Sender<Snapshot>),
    Candidates(DeviceId, oneshot::Sender<Vec<CandidateStatus>>),
    Stop,
}

/// An ICMP echo request to be sent through the tunnel.
#[derive(Debug)]
struct Echo {
    source: IpAddr,
    destination: IpAddr,
    answer: oneshot::Sender<Result<Duration, OutboundDrop>>,
}

/// The mesh at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) peers: Vec<PeerStatus>,
    pub(crate) netcheck: Netcheck,
    pub(crate) state: CheckInState,
    pub(crate) counters: DebugCounters,
    /// By whom traffic to the internet goes.
    pub(crate) exit: Option<PeerStatus>,
}

/// The data thread's owner; dropping it ends the thread, and with it the interface.
#[derive(Debug)]
pub(crate) struct DataThread {
    client: DataClient,
    thread: Option<JoinHandle<()>>,
}

/// What talks to the data thread for as long as that lasts.
#[derive(Debug, Clone)]
pub(crate) struct DataClient {
    commands: mpsc::Sender<Command>,
}

/// The data thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data thread has ended")]
pub(crate) struct Gone;

impl DataThread {
    /// Opens the interface and the sockets and starts the thread.
    pub(crate) async fn start(
        config: DataConfig,
    ) -> Result<(Self, Opened, mpsc::UnboundedReceiver<DataEvent>), warren_net::Error> {
        let (commands, receiver) = mpsc::channel(256);
        // The thread must never wait for the control runtime; what it reports is bounded by the
        // mesh's own limits.
        let (events, reports) = mpsc::unbounded_channel();
        let (opened, opening) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new()
            .name("warren-data".to_owned())
            .spawn(move || thread::run(config, receiver, &events, opened, runtime))
            .map_err(spawn_failed)?;
        let handle = Self { client: DataClient { commands }, thread: Some(thread) };
        match opening.await {
            Ok(opened) => opened.map(|opened| (handle, opened, reports)),
            Err(_) => Err(spawn_failed(std::io::Error::other("it ended at once"))),
        }
    }

    pub(crate) fn client(&self) -> &DataClient {
        &self.client
    }

    /// Ends the thread and waits until the interface is gone.
    pub(crate) async fn stop(mut self) {
        self.client.tell(Command::Stop).await;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for DataThread {
    fn drop(&mut self) {
        let _ = self.client.commands.try_send(Command::Stop);
    }
}

impl DataClient {
    /// Takes over a whole map.
    pub(crate) async fn netmap(&self, netmap: Netmap, source: MapSource) {
        self.tell(Command::Netmap(Box::new(netmap), source)).await;
    }

    /// Takes over a change of the map.
    pub(crate) async fn delta(&self, delta: Delta) {
        self.tell(Command::Delta(Box::new(delta))).await;
    }

    /// A peer is about to probe.
    pub(crate) async fn signal(&self, signal: ConnectSignal) {
        self.tell(Command::Signal(signal)).await;
    }

    /// A request is coming that shows whether an endpoint is reached.
    pub(crate) async fn expect_reach(&self, check: ReachCheck) {
        self.tell(Command::ExpectReach(check)).await;
    }

    /// The control session's state.
    pub(crate) async fn broker(&self, state: BrokerState) {
        self.tell(Command::Broker(state)).await;
    }

    /// The host's addresses.
    pub(crate) async fn local_addresses(&self, addresses: Vec<LocalAddress>) {
        self.tell(Command::LocalAddresses(addresses)).await;
    }

    /// What is mapped in the router.
    pub(crate) async fn mapping(&self, mapped: Vec<SocketAddr>) {
        self.tell(Command::Mapping(mapped)).await;
    }

    /// The own word on being an edge.
    pub(crate) async fn edge(&self, state: Option<EdgeState>) {
        self.tell(Command::Edge(state)).await;
    }

    /// The user's choice of an exit node.
    pub(crate) async fn exit(&self, chosen: Option<DeviceId>) {
        self.tell(Command::Exit(chosen)).await;
    }

    /// A floor for WireGuard's clock.
    pub(crate) async fn raise_clock(&self, unix: Duration) {
        self.tell(Command::RaiseClock(unix)).await;
    }

    /// Seeks a path to a peer.
    pub(crate) async fn seek(&self, peer: DeviceId) {
        self.tell(Command::Seek(peer)).await;
    }

    /// Sends an ICMP echo request through the tunnel and waits for its answer, which the thread
    /// takes out of the traffic. Never times out by itself: drop the future.
    pub(crate) async fn echo(
        &self,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Result<Duration, OutboundDrop>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Echo(Echo { source, destination, answer })).await;
        answered.await.map_err(|_| Gone)
    }

    /// Opens sockets on another port; the old ones stay if that fails.
    pub(crate) async fn rebind(
        &self,
        config: UdpConfig,
    ) -> Result<Result<(u16, Vec<Finding>), warren_net::Error>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Rebind(config, answer)).await;
        answered.await.map_err(|_| Gone)
    }

    /// The mesh at this moment.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, Gone> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Snapshot(answer)).await;
        answered.await.map_err(|_| Gone)
    }

    /// The ways to a peer, and what has become of each.
    pub(crate) async fn candidates(&self, peer: DeviceId) -> Result<Vec<CandidateStatus>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Candidates(peer, answer)).await;
        answered.await.map_err(|_| Gone)
    }

    async fn tell(&self, command: Command) {
        // A thread that has ended has reported so itself.
        let _ = self.commands.send(command).await;
    }
}

fn spawn_failed(source: std::io::Error) -> warren_net::Error {
    warren_net::Error::Os { action: "start the data thread".to_owned(), source }
}

/// The thread's own view of one moment.
fn snapshot(mesh: &Mesh, counters: DebugCounters) -> Snapshot {
    Snapshot {
        peers: mesh.peers().collect(),
        netcheck: mesh.netcheck(),
        state: mesh.check_in_state(),
        counters,
        exit: mesh.exit_in_use(),
    }
}
