//! The one task that owns everything.

mod crowd;
mod fallback;
mod following;
mod hearing;
mod listeners;
mod looking;
mod report;
pub(crate) mod sight;
mod supervise;
mod ways_back;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use warren_net::Diverter;
use warren_proto::{EdgeDuty, EdgeState, LanCap, LanTarget, MacAddr};

use crate::follow::Follower;
use crate::kernel::obstacles::Passage;
use crate::kernel::opening::Opening;
use crate::kernel::path::KernelPath;
use crate::kernel::resolve::{Resolved, resolve};
use crate::problem::Problem;
use crate::scan::Scanner;
use crate::scan::rescan::Rescanner;
use crate::tools::EdgeTools;

use crowd::Crowd;
use fallback::Fallback;
use following::{Places, kept_places, moves_of};
use hearing::Hearing;
pub use report::{EdgeReport, Use};
use report::{add_problem, note_failure};
use sight::Sight;
use supervise::supervise;
use ways_back::WaysBack;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the counters are read and the host is looked at anew, in looks.
const COUNT_EACH: u32 = 10;
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
    /// To answer in the host's place where its kernel can't lead packets; without it nobody does.
    pub diverter: Option<Diverter>,
    /// Whether the kernel isn't even asked to.
    pub userspace: bool,
    /// What the device's owner lets it open.
    pub cap: LanCap,
}

/// A running edge. Dropped, it closes everything too, but nobody waits for it.
#[derive(Debug)]
pub struct Edge {
    report: watch::Receiver<EdgeReport>,
    scanner: Scanner,
    tools: EdgeTools,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// Begins the repeated scan; ends when it is dropped.
    repeats: JoinSet<()>,
}

impl Edge {
    /// Begins. Whatever `duty` says is kept in force until [`Self::stop`]; `None` closes everything.
    ///
    /// Must be called within a tokio runtime, on a thread in the host's network namespace.
    pub fn start(config: EdgeConfig, duty: watch::Receiver<Option<EdgeDuty>>) -> Self {
        let (sender, report) = watch::channel(EdgeReport::default());
        let (stop, stopped) = watch::channel(false);
        let scanner = Scanner::open(&config.state);
        let rescanner = Rescanner::open(&config.state);
        let tools =
            EdgeTools::new(scanner.clone(), rescanner, duty.clone(), report.clone(), &config);
        let mut repeats = JoinSet::new();
        repeats.spawn(tools.clone().repeat());
        let reports = sender.clone();
        let make = move || Engine::new(&config, &duty, &sender).run(stopped.clone());
        let task = tokio::spawn(supervise(make, move || note_failure(&reports)));
        Self { report, scanner, tools, stop, task, repeats }
    }

    /// Scanning, waking, checking: a handle that whoever asks for these may keep.
    pub fn tools(&self) -> EdgeTools {
        self.tools.clone()
    }

    /// What the broker is told with a check-in.
    pub fn state(&self) -> EdgeState {
        let (scanned_unix, devices) = self.scanner.summary();
        let mut state = self.report.borrow().state();
        if let Some(reason) = self.tools.rescan().and_then(|rescan| rescan.problem) {
            add_problem(&mut state, &Problem::Rescan { reason });
        }
        let devices = u32::try_from(devices).unwrap_or(u32::MAX);
        EdgeState { scanned_unix, devices, ..state }
    }

    /// How it does; changes are told.
    pub fn report(&self) -> watch::Receiver<EdgeReport> {
        self.report.clone()
    }

    /// Closes everything and leaves the host as it was.
    pub async fn stop(mut self) {
        self.repeats.abort_all();
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
    /// Who isn't where he was chosen, as it is on disk.
    kept: Places,
    hearing: Hearing,
    ways_back: WaysBack,
    passage: Passage,
    crowd: Crowd,
    /// The networks that the host stood in when it was looked at last.
    networks: BTreeSet<Ipv4Net>,
    /// Problems of the duty as it was last resolved.
    resolved: BTreeSet<Problem>,
    again: Option<Instant>,
    /// When it was last opened anew for what had moved.
    followed: Option<Instant>,
    /// What of the host's own stands in the way, as of this generation of its ruleset.
    obstacles: Option<(u32, BTreeSet<Problem>)>,
    fallback: Fallback,
}

enum Wake {
    Stop,
    Duty,
    Heard(MacAddr, Ipv4Addr, Ipv4Net),
    Tested(bool),
    Look,
    Timer,
}

impl Engine {
    fn new(
        config: &EdgeConfig,
        duty: &watch::Receiver<Option<EdgeDuty>>,
        report: &watch::Sender<EdgeReport>,
    ) -> Self {
        let kept = kept_places(&config.state);
        Self {
            config: config.clone(),
            duty: duty.clone(),
            report: report.clone(),
            path: None,
            follower: Follower::new(moves_of(&kept)),
            kept,
            hearing: Hearing::default(),
            ways_back: WaysBack::default(),
            passage: Passage::default(),
            crowd: Crowd::default(),
            networks: BTreeSet::new(),
            resolved: BTreeSet::new(),
            again: None,
            followed: None,
            obstacles: None,
            fallback: Fallback::new(config.mesh_ipv4),
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
                is_news = self.ways_back.next() => Wake::Tested(is_news),
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
                Wake::Tested(is_news) => {
                    if is_news {
                        self.follow().await;
                    }
                }
                Wake::Look => {
                    looked = looked.wrapping_add(1);
                    self.look(looked.is_multiple_of(COUNT_EACH)).await;
                }
                Wake::Timer => {
                    self.follower.handle_timeout(now.into_std());
                    if self.again.is_some_and(|again| again <= now) {
                        self.followed = Some(now);
                        self.apply().await;
                    }
                }
            }
            self.do_events().await;
        }
        self.fallback.end();
        self.close_path().await;
    }

    /// Leaves the host as it was.
    async fn close_path(&mut self) {
        let closed = match self.path.take() {
            Some(mut path) => path.close().await,
            None => {
                let state = self.config.state.clone();
                let cleaned = tokio::task::spawn_blocking(move || crate::clean_up(&state));
                cleaned.await.unwrap_or_else(|failed| Err(failed.into()))
            }
        };
        if let Err(error) = closed {
            tracing::warn!(error = format!("{error:#}"), "not all that the edge opened is closed");
        }
    }

    /// Brings the host to what the duty says.
    async fn apply(&mut self) {
        self.again = None;
        let begun = Instant::now();
        let duty = at_this_hour(self.duty.borrow_and_update().as_ref());
        match self.try_apply(&duty).await {
            Err(error) => {
                self.again = Some(begun + AGAIN);
                self.note_trouble(format!("{error:#}"));
            }
            Ok(()) => self.fallback.trouble = None,
        }
        let is_open = self.fallback.trouble.is_none() || self.config.diverter.is_some();
        self.publish(is_open.then(|| begun.elapsed())).await;
    }

    /// The kernel doesn't do as it should.
    fn note_trouble(&mut self, reason: String) {
        if self.fallback.trouble.as_ref() != Some(&reason) {
            tracing::warn!(reason, "the kernel opens nothing new");
        }
        self.fallback.trouble = Some(reason);
    }

    async fn try_apply(&mut self, duty: &EdgeDuty) -> anyhow::Result<()> {
        self.resolved.clear();
        let resolved = match self.resolve(duty).await {
            Ok(resolved) => resolved,
            Err(error) => {
                self.fallback.wanted = Opening::nothing(self.config.mesh_ipv4);
                self.revoke(None).await;
                return Err(error);
            }
        };
        self.fallback.wanted = resolved.opening.clone();
        if self.config.userspace && self.config.diverter.is_some() {
            self.close_path().await;
            return Ok(());
        }
        let path = match &mut self.path {
            Some(path) => path,
            None => {
                self.path.insert(KernelPath::open(&self.config.state, &self.config.mesh_interface)?)
            }
        };
        let before = path.generation();
        let applied = path.apply(&resolved.opening, &resolved.held, &resolved.lan).await;
        self.fallback.note_applied(before, path.generation());
        self.passage = Passage::default();
        if applied.is_err() {
            self.revoke(Some(&resolved.opening)).await;
        }
        applied
    }

    /// Closes what is open if it isn't so in `wanted`.
    async fn revoke(&mut self, wanted: Option<&Opening>) {
        let Some(path) = &mut self.path else { return };
        match path.revoke(wanted).await {
            Ok(true) => tracing::warn!("the edge has closed what it could not replace"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "what is taken away stays open"),
        }
    }

    /// What of the duty can be opened; its problems are noted.
    async fn resolve(&mut self, duty: &EdgeDuty) -> anyhow::Result<Resolved> {
        let mut sight = Sight::look(&self.config.mesh_interface)?;
        self.networks = sight.networks();
        let targets = targets(duty, &self.config.cap);
        let listening = self.hearing.listen(sight.interfaces(), &targets);
        let is_audible = |ip| self.hearing.is_audible(ip);
        self.follower.watch(targets.into_iter(), is_audible, Instant::now().into_std());
        self.await_answers().await;
        self.await_tests(duty).await;
        let mut seen = sight.with(&self.follower, self.tested_ways());
        let EdgeConfig { mesh_ipv4, cap, .. } = &self.config;
        let resolved = resolve(duty, *mesh_ipv4, cap, &mut seen);
        self.note(duty, &resolved, listening).await;
        Ok(resolved)
    }
}

/// Those that may be looked for.
fn targets<'a>(duty: &'a EdgeDuty, cap: &LanCap) -> Vec<&'a LanTarget> {
    let forwards = duty.forwards.iter().map(|forward| &forward.target);
    let all = forwards.chain(duty.virtual_devices.iter().map(|device| &device.target));
    all.filter(|target| cap.admits(target.ip)).collect()
}

/// What is to be open now: the broker leaves out what is out of its hours, but may be away.
fn at_this_hour(duty: Option<&EdgeDuty>) -> EdgeDuty {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    duty.map(|duty| duty.at(now.as_secs())).unwrap_or_default()
}
