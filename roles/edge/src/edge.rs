//! The one task that owns everything.

mod hearing;
pub(crate) mod sight;
mod supervise;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use warren_net::{Counter, Nftables};
use warren_proto::{
    EdgeDuty, EdgeState, ForwardId, GatewayId, LanTarget, MAX_EDGE_PROBLEM, MAX_EDGE_PROBLEMS,
    MacAddr, VirtualDeviceId,
};

use crate::follow::{Event, Follower};
use crate::kernel::obstacles::{Passage, obstacles};
use crate::kernel::opening::Opening;
use crate::kernel::path::KernelPath;
use crate::kernel::render::{device_counter, forward_counter, gateway_counter};
use crate::kernel::resolve::{Resolved, resolve};
use crate::problem::Problem;
use crate::scan::Scanner;
use crate::tools::EdgeTools;

use hearing::Hearing;
use sight::Sight;
use supervise::supervise;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the counters are read and the host is looked at anew, in looks.
const COUNT_EACH: u32 = 10;
/// How often what moves is followed at most.
const MOVES: Duration = Duration::from_secs(1);
/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Where the edge stands.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// The mesh interface.
    pub mesh_interface: String,
    /// This device's mesh address.
    pub mesh_ipv4: Ipv4Addr,
    /// The folder for what outlives the process; it exists.
    pub state: PathBuf,
}

/// What is open, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opened {
    /// A forward.
    Forward(ForwardId),
    /// A virtual device.
    Device(VirtualDeviceId),
    /// A gateway.
    Gateway(GatewayId),
}

/// How much something was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Packets in both directions, since the edge was started.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was last used, in seconds since the Unix epoch, as far as was seen since the start.
    pub last_unix: Option<u64>,
}

/// How the edge does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeReport {
    /// How often what is open was put in force since the start, repairs included.
    pub applied: u64,
    /// How long the last time took.
    pub took: Duration,
    /// How often another program's doing was repaired.
    pub repaired: u64,
    /// What is open, and where its target is; a gateway's is its network's address.
    pub open: BTreeMap<Opened, Ipv4Addr>,
    /// What was used.
    pub uses: BTreeMap<Opened, Use>,
    /// What doesn't work.
    pub problems: BTreeSet<Problem>,
}

impl EdgeReport {
    /// What the broker is told of it.
    fn state(&self) -> EdgeState {
        let problems = self.problems.iter().take(MAX_EDGE_PROBLEMS).map(|problem| {
            let mut text = problem.to_string();
            text.truncate(text.floor_char_boundary(MAX_EDGE_PROBLEM));
            text
        });
        EdgeState { problems: problems.collect(), ..EdgeState::default() }
    }
}

/// A running edge. Dropped, it closes everything too, but nobody waits for it.
#[derive(Debug)]
pub struct Edge {
    report: watch::Receiver<EdgeReport>,
    scanner: Scanner,
    tools: EdgeTools,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Edge {
    /// Begins. Whatever `duty` says is kept in force until [`Self::stop`]; `None` closes everything.
    ///
    /// Must be called within a tokio runtime, on a thread in the host's network namespace.
    pub fn start(config: EdgeConfig, duty: watch::Receiver<Option<EdgeDuty>>) -> Self {
        let (sender, report) = watch::channel(EdgeReport::default());
        let (stop, stopped) = watch::channel(false);
        let scanner = Scanner::open(&config.state);
        let mesh = config.mesh_interface.clone();
        let tools = EdgeTools::new(scanner.clone(), duty.clone(), report.clone(), mesh);
        let reports = sender.clone();
        let make = move || Engine::new(&config, &duty, &sender).run(stopped.clone());
        let task = tokio::spawn(supervise(make, move || note_failure(&reports)));
        Self { report, scanner, tools, stop, task }
    }

    /// Scanning, waking, checking: a handle that whoever asks for these may keep.
    pub fn tools(&self) -> EdgeTools {
        self.tools.clone()
    }

    /// What the broker is told with a check-in.
    pub fn state(&self) -> EdgeState {
        let (scanned_unix, devices) = self.scanner.summary();
        EdgeState {
            scanned_unix,
            devices: u32::try_from(devices).unwrap_or(u32::MAX),
            ..self.report.borrow().state()
        }
    }

    /// How it does; changes are told.
    pub fn report(&self) -> watch::Receiver<EdgeReport> {
        self.report.clone()
    }

    /// Closes everything and leaves the host as it was.
    pub async fn stop(mut self) {
        self.scanner.cancel();
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the edge's task failed");
        }
    }
}

struct Engine {
    config: EdgeConfig,
    duty: watch::Receiver<Option<EdgeDuty>>,
    report: watch::Sender<EdgeReport>,
    path: Option<KernelPath>,
    follower: Follower,
    hearing: Hearing,
    passage: Passage,
    /// Problems of the duty as it was last resolved.
    resolved: BTreeSet<Problem>,
    again: Option<Instant>,
    /// When it was last opened anew for what had moved.
    followed: Option<Instant>,
    /// What of the host's own stands in the way, as of this generation of its ruleset.
    obstacles: Option<(u32, BTreeSet<Problem>)>,
}

enum Wake {
    Stop,
    Duty,
    Heard(MacAddr, Ipv4Addr, Ipv4Net),
    Look,
    Timer,
}

impl Engine {
    fn new(
        config: &EdgeConfig,
        duty: &watch::Receiver<Option<EdgeDuty>>,
        report: &watch::Sender<EdgeReport>,
    ) -> Self {
        Self {
            config: config.clone(),
            duty: duty.clone(),
            report: report.clone(),
            path: None,
            follower: Follower::default(),
            hearing: Hearing::default(),
            passage: Passage::default(),
            resolved: BTreeSet::new(),
            again: None,
            followed: None,
            obstacles: None,
        }
    }

    /// Until the word to stop, or nobody can give it any more.
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = 0_u32;
        let mut duty_lives = true;
        self.duty.mark_changed();
        loop {
            let follow = self.follower.poll_timeout().map(|(due, _)| Instant::from_std(due));
            let due = [follow, self.again].into_iter().flatten().min();
            let wake = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Wake::Stop,
                changed = self.duty.changed(), if duty_lives => {
                    duty_lives = changed.is_ok();
                    Wake::Duty
                }
                Some(heard) = self.hearing.next() => {
                    let (mac, ip, network) = heard;
                    Wake::Heard(mac, ip, network)
                }
                _ = looks.tick() => Wake::Look,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Wake::Timer,
            };
            let now = Instant::now();
            match wake {
                Wake::Stop => break,
                Wake::Duty => self.apply().await,
                Wake::Heard(mac, ip, network) => {
                    self.follower.handle_heard(mac, ip, network, now.into_std());
                }
                Wake::Look => {
                    looked = looked.wrapping_add(1);
                    self.look(looked.is_multiple_of(COUNT_EACH)).await;
                }
                Wake::Timer => {
                    self.follower.handle_timeout(now.into_std());
                    if self.again.is_some_and(|again| again <= now) {
                        self.apply().await;
                    }
                }
            }
            self.do_events().await;
        }
        if let Some(mut path) = self.path.take()
            && let Err(error) = path.close()
        {
            tracing::warn!(%error, "not all that the edge opened is closed");
        }
    }

    async fn do_events(&mut self) {
        let mut moved = false;
        while let Some(event) = self.follower.poll_event() {
            match event {
                Event::Ask(ip) => self.hearing.ask(ip),
                Event::Sweep(ip) => self.hearing.sweep(ip),
                Event::Moved => moved = true,
            }
        }
        if moved {
            self.follow().await;
        }
    }

    /// Opens anew for what has moved: at once, but not more often than each [`MOVES`], whatever is said
    /// on the LAN.
    async fn follow(&mut self) {
        let now = Instant::now();
        match self.followed.map(|at| at + MOVES).filter(|next| now < *next) {
            Some(next) => self.again = Some(self.again.map_or(next, |again| again.min(next))),
            None => {
                self.followed = Some(now);
                self.apply().await;
            }
        }
    }

    /// Brings the host to what the duty says.
    async fn apply(&mut self) {
        self.again = None;
        let begun = Instant::now();
        let duty = at_this_hour(self.duty.borrow_and_update().as_ref());
        match self.try_apply(&duty).await {
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::warn!(reason, "the edge opens nothing new");
                self.again = Some(begun + AGAIN);
                let is_open = self.path.as_ref().is_some_and(|path| path.opening().is_some());
                self.resolved.insert(if is_open {
                    Problem::Unchanged { reason }
                } else {
                    Problem::Nothing { reason }
                });
            }
            Ok(()) => self.report.send_modify(|report| {
                report.applied += 1;
                report.took = begun.elapsed();
            }),
        }
        self.publish().await;
    }

    async fn try_apply(&mut self, duty: &EdgeDuty) -> anyhow::Result<()> {
        self.resolved.clear();
        let resolved = match self.resolve(duty) {
            Ok(resolved) => resolved,
            Err(error) => {
                self.revoke(None);
                return Err(error);
            }
        };
        let path = match &mut self.path {
            Some(path) => path,
            None => {
                self.path.insert(KernelPath::open(&self.config.state, &self.config.mesh_interface)?)
            }
        };
        let applied = path.apply(&resolved.opening, &resolved.lan).await;
        self.passage = Passage::default();
        let helps = path.helps();
        if applied.is_err() {
            self.revoke(Some(&resolved.opening));
        }
        if !helps {
            self.resolved.insert(Problem::NoHelpers);
        }
        applied
    }

    /// Closes what is open if it isn't so in `wanted`.
    fn revoke(&mut self, wanted: Option<&Opening>) {
        let Some(path) = &mut self.path else { return };
        match path.revoke(wanted) {
            Ok(true) => tracing::warn!("the edge has closed what it could not replace"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "what is taken away stays open"),
        }
    }

    /// What of the duty can be opened; its problems are noted.
    fn resolve(&mut self, duty: &EdgeDuty) -> anyhow::Result<Resolved> {
        let mut sight = Sight::look(&self.config.mesh_interface)?;
        let targets = targets(duty);
        let listening = self.hearing.listen(sight.interfaces(), &targets);
        self.follower.watch(targets.into_iter(), Instant::now().into_std());
        let mut seen = sight.with(&self.follower);
        let mut resolved = resolve(duty, self.config.mesh_ipv4, &mut seen);
        self.resolved = std::mem::take(&mut resolved.problems);
        if let Err(error) = listening {
            self.resolved.insert(Problem::NotFollowing { reason: error.to_string() });
        }
        Ok(resolved)
    }

    async fn look(&mut self, thoroughly: bool) {
        let Some(path) = &mut self.path else { return };
        match path.is_touched() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("another program has changed the edge's table: it is made anew");
                self.report.send_modify(|report| report.repaired += 1);
                self.apply().await;
            }
            Err(error) => tracing::debug!(%error, "couldn't look at nftables"),
        }
        if thoroughly {
            self.look_around().await;
        }
    }

    /// Whether the LAN and the host look as they did when the duty was resolved.
    async fn look_around(&mut self) {
        let Ok(mut sight) = Sight::look(&self.config.mesh_interface) else {
            return;
        };
        let duty = at_this_hour(self.duty.borrow().as_ref());
        // An interface that was down has no ear any more.
        let listening = self.hearing.listen(sight.interfaces(), &targets(&duty));
        if let Err(error) = listening {
            tracing::debug!(%error, "devices aren't followed");
        }
        let mut sight = sight.with(&self.follower);
        let resolved = resolve(&duty, self.config.mesh_ipv4, &mut sight);
        let is_in_force = self.path.as_ref().is_some_and(|path| match path.opening() {
            Some(opening) => *opening == resolved.opening && path.is_fitting(&resolved.lan),
            None => resolved.opening.is_empty(),
        });
        if is_in_force || self.path.is_none() && resolved.opening.is_empty() {
            self.publish().await;
        } else {
            self.apply().await;
        }
    }

    async fn publish(&mut self) {
        let mut problems = self.resolved.clone();
        let mut counts = BTreeMap::new();
        let mut open = BTreeMap::new();
        problems.extend(self.drops().await);
        if let Some(path) = &mut self.path {
            counts = path.counts().unwrap_or_default();
            if let Some(opening) = path.opening() {
                open = opened(opening);
            }
        }
        self.report.send_if_modified(|report| {
            let mut next = EdgeReport { open, problems, ..report.clone() };
            count(&mut next, &counts);
            let is_new = next != *report;
            *report = next;
            is_new
        });
    }

    /// Who drops what the edge forwards.
    async fn drops(&mut self) -> BTreeSet<Problem> {
        let Some(path) = self.path.as_mut().filter(|path| path.opening().is_some()) else {
            return BTreeSet::new();
        };
        let mesh = &self.config.mesh_interface;
        let Ok(mut nftables) = Nftables::open() else { return BTreeSet::new() };
        let generation = nftables.generation().unwrap_or_default();
        let mut problems = match &self.obstacles {
            Some((seen, problems)) if *seen == generation => problems.clone(),
            Some(_) | None => {
                let found = obstacles(&mut nftables, mesh, path.table()).await;
                self.obstacles = Some((generation, found.clone()));
                found
            }
        };
        let blocked =
            path.passage().is_ok_and(|(let_in, out)| self.passage.is_blocked(let_in, out));
        if blocked && problems.is_empty() {
            problems.insert(Problem::SomethingDrops { mesh: mesh.clone() });
        }
        problems
    }
}

fn targets(duty: &EdgeDuty) -> Vec<&LanTarget> {
    let forwards = duty.forwards.iter().map(|forward| &forward.target);
    forwards.chain(duty.virtual_devices.iter().map(|device| &device.target)).collect()
}

/// What is to be open now: the broker leaves out what is out of its hours, but may be away.
fn at_this_hour(duty: Option<&EdgeDuty>) -> EdgeDuty {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    duty.map(|duty| duty.at(now.as_secs())).unwrap_or_default()
}

/// A failed engine has closed everything; so say that until it runs again.
fn note_failure(report: &watch::Sender<EdgeReport>) {
    report.send_modify(|report| {
        report.open.clear();
        let reason = "the edge has failed; it begins again by itself".to_owned();
        report.problems = BTreeSet::from([Problem::Nothing { reason }]);
    });
}

fn opened(opening: &Opening) -> BTreeMap<Opened, Ipv4Addr> {
    let forwards = opening.forwards.iter().map(|f| (Opened::Forward(f.id), f.target));
    let devices = opening.devices.iter().map(|d| (Opened::Device(d.id), d.target));
    let gateways = opening.gateways.iter().map(|g| (Opened::Gateway(g.id), g.lan.network()));
    forwards.chain(devices).chain(gateways).collect()
}

fn count(report: &mut EdgeReport, counts: &BTreeMap<String, Counter>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for opened in report.open.keys() {
        let name = match *opened {
            Opened::Forward(id) => forward_counter(id),
            Opened::Device(id) => device_counter(id),
            Opened::Gateway(id) => gateway_counter(id),
        };
        let Some(counter) = counts.get(&name) else { continue };
        let used = report.uses.entry(*opened).or_default();
        if counter.packets > used.packets {
            used.last_unix = Some(now.as_secs());
        }
        used.packets = counter.packets;
        used.bytes = counter.bytes;
    }
}
