//! The daemon: who this device is, what it wants, and what runs because of that.
//!
//! One task owns everything ([`Daemon`]) and takes one thing at a time: an order from the local
//! socket, an event of the control session or of the data thread, a change of the host's network,
//! the end of an attempt to join, a timer, the shutdown. What others may see of it is published
//! as a [`View`]; what takes long (a ping, waiting for a connection) is done by the local socket's
//! own tasks with a view and a [`DataClient`](crate::data::DataClient).

mod admission;
mod broker;
mod clock;
mod edge;
mod exit;
mod health;
mod join;
mod mapping;
mod mesh;
mod names;
mod orders;
mod paths;
mod persist;
mod view;

pub(crate) use join::host_name;

use std::future::Future;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use warren_net::{Mapping, NetworkState, NetworkWatch, PortMapper, Spare};
use warren_proto::InstanceId;

use crate::config::{DnsMode, NodeConfig};
use crate::data::DataEvent;
use crate::edge::EdgeQuestion;
use crate::local::server::LocalServer;
use crate::state::{CachedMap, Identity, StateFolder};

pub(crate) use orders::{Failure, Order};
pub(crate) use view::{View, peer_status};

use broker::{Broker, Control};
use clock::Clock;
use health::Healths;
use join::JoinAttempt;
use mesh::MeshUp;
use names::NamesUp;
use paths::PathNews;
use persist::Persist;

/// How often what nobody reports is looked at: the clock, a start that failed, unsaved state.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Runs a node until `shutdown` completes, and leaves the host as it was.
///
/// # Errors
/// The state folder can't be used ([`crate::StateError`]: in use by another daemon, damaged), the
/// local socket can't be opened, or the mesh is wanted at the start and its interface can't be had
/// (`/dev/net/tun` missing, no privilege). Later failures are `health`, not errors.
pub async fn run(
    config: NodeConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let folder = StateFolder::open(&config.state)?;
    let identity = Identity::load_or_create(&folder)?;
    let (orders, order_queue) = mpsc::channel(16);
    let mut daemon = Daemon::new(config, folder, identity, order_queue)?;
    let socket = LocalServer::start(
        daemon.folder.path(),
        daemon.view.subscribe(),
        orders,
        daemon.config.set_log_filter.clone(),
    )
    .context("the local socket can't be opened")?;
    let result = match daemon.begin().await {
        Ok(()) => {
            if daemon.identity.joined.is_none() && daemon.identity.joining.is_none() {
                tracing::info!("this device has joined no account yet: warren up --join LINK");
            }
            tokio::pin!(shutdown);
            daemon.serve(shutdown).await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    daemon.finish().await;
    drop(socket);
    result
}

/// Undoes what a daemon that was killed has left in the host's configuration: `resolv.conf`, routing
/// rules. The daemon does so itself at its next start; this is for when there is none, as after
/// `warren service uninstall`, or in the unit's `ExecStopPost=`.
///
/// `roles` does the same for what runs beside the daemon, while none can start. With `until_restart` the
/// daemon will be there again in a moment: what keeps traffic from leaving beside an exit node stays.
///
/// # Errors
/// [`crate::StateError::InUse`]: the daemon is running, and undoes everything when it ends.
pub fn clean_up(
    state: &Path,
    until_restart: bool,
    roles: impl FnOnce(&Path),
) -> Result<(), crate::StateError> {
    if !state.exists() {
        return Ok(());
    }
    let folder = StateFolder::open(state)?;
    roles(folder.path());
    let spare = match until_restart {
        true => Identity::load_or_create(&folder)?.spare(),
        false => Spare::Nothing,
    };
    undo(folder.path(), spare);
    Ok(())
}

/// Undoes what a crash has left in the host's names and routes. What is spared would leave programs
/// asking the host's own network for names.
fn undo(folder: &Path, spare: Spare) {
    if spare == Spare::Nothing {
        names::clean_up(folder);
    }
    if let Err(error) = warren_net::HostNetwork::clean_up(spare) {
        tracing::debug!(%error, "no routing rule was removed");
    }
}

/// Everything that the daemon knows and runs.
pub(crate) struct Daemon {
    config: NodeConfig,
    folder: StateFolder,
    identity: Identity,
    /// Tells this run of the process from any other, for the broker's look-out for clones.
    instance: InstanceId,
    clock: Clock,
    map: Option<CachedMap>,
    broker: Broker,
    control: Option<Control>,
    mesh: Option<MeshUp>,
    /// When to try again to bring the mesh up, after it failed.
    retry_mesh: Option<Instant>,
    names: Option<NamesUp>,
    mapper: Option<PortMapper>,
    /// Mappers that are saying goodbye to the router.
    farewells: JoinSet<()>,
    join: Option<JoinAttempt>,
    network: Option<NetworkWatch>,
    persist: Persist,
    paths: PathNews,
    healths: Healths,
    orders: mpsc::Receiver<Order>,
    view: watch::Sender<View>,
    edge_basis: Option<edge::Basis>,
    /// Whether the mesh was told that this device is an edge.
    edge_told: bool,
    /// Since when how many of the broker's calls to wake a device were passed on.
    edge_woke: Option<(Instant, u32)>,
}

/// What the daemon woke up for.
enum Wake {
    Order(Order),
    Control(crate::control::Event),
    ControlEnded,
    Data(DataEvent),
    Mapping(Option<Mapping>),
    Network(NetworkState),
    Joined(join::Outcome),
    Saved(Result<(), crate::StateError>),
    Edge,
    EdgeAsks(EdgeQuestion),
    Housekeeping,
    Shutdown,
}

impl Daemon {
    fn new(
        config: NodeConfig,
        folder: StateFolder,
        identity: Identity,
        orders: mpsc::Receiver<Order>,
    ) -> anyhow::Result<Self> {
        undo(folder.path(), identity.spare());
        let network = match NetworkWatch::start() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "changes of the network won't be noticed");
                None
            }
        };
        let clock = Clock::load(folder.path());
        let map = CachedMap::load(folder.path());
        let broker = Broker::load(folder.path());
        let (view, _) = watch::channel(View::new(&identity));
        Ok(Self {
            config,
            folder,
            identity,
            instance: InstanceId(rand::random()),
            clock,
            map,
            broker,
            control: None,
            mesh: None,
            retry_mesh: None,
            names: None,
            mapper: None,
            farewells: JoinSet::new(),
            join: None,
            network,
            persist: Persist::default(),
            paths: PathNews::new(Instant::now()),
            healths: Healths::default(),
            orders,
            view,
            edge_basis: None,
            edge_told: false,
            edge_woke: None,
        })
    }

    /// Takes up what was under way when the process ended last.
    async fn begin(&mut self) -> anyhow::Result<()> {
        self.take_configuration()?;
        self.publish();
        if self.identity.joining.is_some() {
            // Better to say so now than after a join key was used.
            self.try_interface()?;
            self.start_joining()?;
        } else if self.identity.revoked {
            self.note_revoked();
        }
        if self.wants_mesh() {
            self.start_control();
            if self.map.is_some() {
                self.bring_up().await?;
            }
        }
        self.publish();
        Ok(())
    }

    /// Brings the command line's wishes into the identity.
    fn take_configuration(&mut self) -> anyhow::Result<()> {
        let mut changed = false;
        if let Some(name) = self.config.name.clone()
            && self.identity.name.as_ref() != Some(&name)
        {
            self.identity.name = Some(name);
            changed = true;
        }
        if let Some(port) = self.config.listen_port {
            changed |= self.identity.listen_port != Some(port) || self.identity.listen_port_auto;
            self.identity.listen_port = Some(port);
            self.identity.listen_port_auto = false;
        }
        if let Some(link) = self.config.join.clone() {
            if self.identity.joined.is_some() && !self.identity.revoked {
                tracing::info!("this device has joined already; the join link is not used");
            } else {
                self.prepare_joining(link)?;
                changed = true;
            }
        }
        if changed {
            self.identity.save(self.folder.path())?;
        }
        Ok(())
    }

    /// Takes one thing after the other until the shutdown.
    async fn serve(&mut self, mut shutdown: std::pin::Pin<&mut (impl Future<Output = ()> + Send)>) {
        let mut housekeeping = Instant::now() + HOUSEKEEPING;
        loop {
            let due = housekeeping.min(self.paths.due());
            let due = self.persist.due().map_or(due, |saving| saving.min(due));
            let wake = tokio::select! {
                () = &mut shutdown => Wake::Shutdown,
                Some(order) = self.orders.recv() => Wake::Order(order),
                event = next_control(&mut self.control) => event,
                event = mesh::next_event(&mut self.mesh) => event,
                mapping = mapping::changed(&mut self.mapper) => Wake::Mapping(mapping),
                state = changed(&mut self.network) => Wake::Network(state),
                outcome = join::next_outcome(&mut self.join) => Wake::Joined(outcome),
                result = self.persist.next_result() => Wake::Saved(result),
                wake = edge::changed(&mut self.config.edge) => wake,
                () = sleep_until(due) => Wake::Housekeeping,
            };
            match wake {
                Wake::Shutdown => return,
                Wake::Order(order) => self.obey(order).await,
                Wake::Control(event) => self.take_control_event(event).await,
                Wake::ControlEnded => self.control = None,
                Wake::Data(event) => self.take_data_event(event).await,
                Wake::Mapping(mapping) => self.take_mapping(mapping).await,
                Wake::Network(state) => self.take_network(&state).await,
                Wake::Joined(outcome) => self.take_join_outcome(outcome).await,
                Wake::Saved(result) => self.note_saved(result),
                Wake::Edge => self.tell_mesh_edge().await,
                Wake::EdgeAsks(EdgeQuestion { request, from, answer }) => {
                    self.obey_edge(request, from, answer).await;
                }
                Wake::Housekeeping => {
                    if Instant::now() >= housekeeping {
                        housekeeping = Instant::now() + HOUSEKEEPING;
                        self.keep_house().await;
                    }
                    self.save_map_if_due();
                    self.report_paths().await;
                }
            }
            self.settle_edge().await;
            self.publish();
            self.publish_edge();
        }
    }

    async fn keep_house(&mut self) {
        if self.retry_mesh.is_some_and(|at| Instant::now() >= at) && self.wants_mesh() {
            // A failure is health already.
            let _ = self.bring_up().await;
        }
        if self.mesh.is_some() {
            self.retry_host();
            self.keep_clock();
        }
        self.retry_saving();
        self.settle_session();
        self.judge_admission();
        self.refresh_names().await;
        self.judge_exit().await;
    }

    /// Leaves the host as it was.
    async fn finish(&mut self) {
        self.stop_control();
        self.join = None;
        self.take_down().await;
        self.publish_edge();
        self.save_before_end();
        while self.farewells.join_next().await.is_some() {}
    }

    /// Whether the mesh should be up: joined, and not told otherwise.
    fn wants_mesh(&self) -> bool {
        self.identity.up && self.identity.joined.is_some() && !self.identity.revoked
    }

    /// Whether names are served.
    fn wants_names(&self) -> bool {
        match self.config.dns {
            DnsMode::Auto => true,
            DnsMode::Off => false,
        }
    }
}

async fn next_control(control: &mut Option<Control>) -> Wake {
    match control {
        Some(control) => match control.events.recv().await {
            Some(event) => Wake::Control(event),
            None => Wake::ControlEnded,
        },
        None => std::future::pending().await,
    }
}

async fn changed(network: &mut Option<NetworkWatch>) -> NetworkState {
    match network {
        Some(network) => network.changed().await,
        None => std::future::pending().await,
    }
}

/// The wall clock; the epoch on a machine whose clock is before it.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
