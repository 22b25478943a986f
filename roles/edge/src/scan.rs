//! Scanning the LAN: the shell around [`warren_scan`].
//!
//! One scan at a time. What it finds is told as it comes, and kept on disk when it ends; a cancelled
//! scan adds what it found, and says of nothing that it is gone.

mod ears;
mod names;
mod probes;
pub(crate) mod rescan;
mod udp;

pub(crate) use probes::ping;

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ipnet::Ipv4Net;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use warren_net::{Heard, HeardIpv6, Lan};
use warren_proto::{LanCap, MacAddr};
use warren_scan::{
    Ended, Inventory, Known, Listing, Probe, Refused, Scan, ScanEvent, ScanPlan, ScanStatus, Scope,
};

use crate::kernel::ledger::replace_with;
use ears::{Ears, Word, networks_of};

const FILE: &str = "edge-devices.json";
/// The largest network that is scanned unless it is named, by its prefix.
const LARGEST: u8 = 22;
/// How much of the file is read at once.
const READ: usize = 64 << 10;

/// Why there is no scan.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The plan is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nobody sees the mesh, or the edge's own programs, with the edge's eyes.
    #[error(
        "{0} is the mesh's or this device's own, and no LAN: ask from a device that may reach it"
    )]
    Own(Ipv4Net),
    /// The device's owner doesn't let it.
    #[error(
        "{0} is outside of what this device's owner lets it open ({1}); `warren edge enable --only …` \
         on the device says otherwise"
    )]
    Capped(Ipv4Net, LanCap),
    /// It stands in these networks alone, and is asked for none by name.
    #[error(
        "this device stands in networks alone that are too large to be scanned unless they are named: {}",
        by_name(.0)
    )]
    TooLarge(Vec<Ipv4Net>),
    /// There is one already.
    #[error("a scan is under way: wait for its end, or cancel it")]
    UnderWay,
    /// It is repeated, but not for long.
    #[error("until this edge ends the scan is repeated so, but that can't be kept: {0}")]
    NotKept(io::Error),
    /// The system says no.
    #[error(transparent)]
    System(#[from] warren_net::Error),
}

/// Scans, and what they have found. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Scanner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    known: Mutex<Known>,
    /// How many devices were known when no scan was under way.
    counted: AtomicUsize,
    status: watch::Sender<ScanStatus>,
    cancel: watch::Sender<u64>,
}

impl Scanner {
    /// With what earlier scans have found, from `folder`.
    pub fn open(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let known = load(&file);
        let status = ScanStatus { scanned_unix: known.scanned_unix, ..ScanStatus::default() };
        let (status, cancel) = (watch::Sender::new(status), watch::Sender::new(0));
        let counted = AtomicUsize::new(known.devices.len());
        let known = Mutex::new(Known::new(known));
        Self(Arc::new(Inner { file, known, counted, status, cancel }))
    }

    /// Begins a scan. Its progress is in [`Self::status`]; what it finds is [`Self::known`] as it comes.
    ///
    /// Must be called within a tokio runtime, on a thread in the host's network namespace.
    ///
    /// # Errors
    ///
    /// The plan is refused, there is a scan already, or there is no privilege.
    pub fn start(&self, plan: ScanPlan) -> Result<(), ScanError> {
        self.start_without(plan, Vec::new())
    }

    /// As [`Self::start`], and says of these networks that they are left out, as nobody has named them.
    pub(crate) fn start_without(
        &self,
        plan: ScanPlan,
        left_out: Vec<Ipv4Net>,
    ) -> Result<(), ScanError> {
        let mut lan = Lan::open()?;
        let interfaces = lan.interfaces()?;
        let ears = Ears::open(&interfaces, &plan.networks)?;
        let mut scope = Scope { networks: plan.networks.clone(), links: Vec::new() };
        let now = Instant::now().into_std();
        let mut scan = Scan::new(plan, |network| ears.covers(network), now)?;
        let neighbours = lan.neighbours()?;
        for (networks, known) in ears.ipv6_links(&neighbours) {
            scope.links.extend(networks.first());
            let seen = self.known(|inventory| inventory.ipv6_in(&networks));
            scan.look_for_ipv6(networks, known.into_iter().chain(seen));
        }
        let mut is_running = false;
        self.0.status.send_modify(|status| {
            is_running = status.running;
            if !is_running {
                (status.running, status.left_out) = (true, left_out);
            }
        });
        if is_running {
            return Err(ScanError::UnderWay);
        }
        let run = Run { inner: Arc::clone(&self.0), scan, scope, ears, probes: JoinSet::new() };
        tokio::spawn(run.drive(self.0.cancel.subscribe()));
        Ok(())
    }

    /// Ends the scan that is under way, if there is one.
    pub fn cancel(&self) {
        self.0.cancel.send_modify(|count| *count += 1);
    }

    /// How it goes; changes are told.
    pub fn status(&self) -> watch::Receiver<ScanStatus> {
        self.0.status.subscribe()
    }

    /// Has whoever watches [`Self::status`] look again.
    pub(crate) fn stir(&self) {
        self.0.status.send_modify(|_| {});
    }

    /// Looks at the devices that are known. There may be many thousands, and a scan waits meanwhile: what is
    /// to be kept of them is taken out, and nothing waited for.
    pub fn known<T>(&self, look: impl FnOnce(&Inventory) -> T) -> T {
        look(self.0.known().inventory())
    }

    /// When the last whole scan ended, and how many devices were known when the last one did, whole or
    /// not: what is told far away doesn't change with each device that a scan comes across.
    pub fn summary(&self) -> (Option<u64>, usize) {
        let scanned_unix = self.known(|inventory| inventory.scanned_unix);
        (scanned_unix, self.0.counted.load(Ordering::Relaxed))
    }

    /// The networks that this host stands in.
    ///
    /// # Errors
    ///
    /// What the system says; none is usual.
    pub fn adjacent(&self) -> Result<Adjacent, warren_net::Error> {
        let interfaces = Lan::open()?.interfaces()?;
        let nets = interfaces.iter().filter(|i| i.mac.is_some()).flat_map(networks_of);
        Ok(nets.map(|net| net.trunc()).filter(|net| net.prefix_len() < 31).collect())
    }
}

/// The networks that a host stands in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adjacent {
    /// Those that are scanned unless others are named.
    pub networks: Vec<Ipv4Net>,
    /// Those with more than 1,024 addresses, containers' usually: somebody has to name them.
    pub too_large: Vec<Ipv4Net>,
}

impl FromIterator<Ipv4Net> for Adjacent {
    fn from_iter<I: IntoIterator<Item = Ipv4Net>>(networks: I) -> Self {
        let is_small = |net: &Ipv4Net| LARGEST <= net.prefix_len();
        let (networks, too_large) = networks.into_iter().partition(is_small);
        Self { networks, too_large }
    }
}

/// Networks, each with how it is scanned.
fn by_name(networks: &[Ipv4Net]) -> String {
    let names = networks.iter().map(|net| format!("{net} (`{}`)", ScanPlan::command(*net)));
    names.collect::<Vec<_>>().join(", ")
}

impl Inner {
    /// Takes in what the scan has found, if it is a whole one, and writes down what is known.
    fn keep(&self, found: Option<(Scope, Vec<(MacAddr, String)>)>, unix: u64) -> io::Result<()> {
        match found {
            Some((scope, leases)) => self.known().end(&scope, leases, unix),
            None => self.known().cancel(),
        }
        let mut listing = Listing::json();
        replace_with(&self.file, |file| {
            loop {
                // Nobody waits for the disk to look at what is known.
                let piece = listing.next(self.known().inventory());
                let Some(piece) = piece else { return Ok(()) };
                file.write_all(&piece)?;
            }
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(path: &Path) -> Inventory {
    let Ok(file) = File::open(path) else { return Inventory::default() };
    serde_json::from_reader(BufReader::with_capacity(READ, file)).unwrap_or_else(|error| {
        tracing::warn!(%error, "what earlier scans found is damaged: scan again");
        Inventory::default()
    })
}

/// A scan under way.
struct Run {
    inner: Arc<Inner>,
    scan: Scan,
    scope: Scope,
    ears: Ears,
    probes: JoinSet<(Probe, Ended)>,
}

enum Wake {
    Heard(Word),
    Ended(Probe, Ended),
    Cancel,
    Timer,
}

impl Run {
    async fn drive(mut self, mut cancel: watch::Receiver<u64>) {
        loop {
            let now = Instant::now();
            self.scan.handle_timeout(now.into_std());
            while let Some(probe) = self.scan.poll_probe(now.into_std()) {
                self.send(probe);
            }
            if let Some(cancelled) = self.take_events() {
                return self.finish(cancelled).await;
            }
            let due = self.scan.poll_timeout().map(|(due, _)| Instant::from_std(due));
            let wake = tokio::select! {
                heard = self.ears.next() => Wake::Heard(heard),
                Some(ended) = self.probes.join_next() => match ended {
                    Ok((probe, ended)) => Wake::Ended(probe, ended),
                    // A probe that failed has no outcome: nothing would end the scan then.
                    Err(error) => {
                        tracing::error!(%error, "a probe failed");
                        Wake::Cancel
                    }
                },
                _ = cancel.changed() => Wake::Cancel,
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => Wake::Timer,
            };
            let now = Instant::now().into_std();
            match wake {
                Wake::Heard(Word::Arp(Heard { ip, mac })) => {
                    self.scan.handle_neighbour(ip, MacAddr(mac), now);
                }
                Wake::Heard(Word::Ipv6(link, HeardIpv6 { ip, mac })) => {
                    self.scan.handle_ipv6_neighbour(link, ip, MacAddr(mac), now);
                }
                Wake::Ended(probe, ended) => self.scan.handle_ended(probe, ended, now),
                Wake::Cancel => self.scan.cancel(),
                Wake::Timer => {}
            }
        }
    }

    fn send(&mut self, probe: Probe) {
        match probe {
            Probe::Arp(ip) => self.ears.ask(ip),
            Probe::Call(link) => self.ears.call(link),
            Probe::Solicit(link, ip) => self.ears.solicit(link, ip),
            Probe::Ping(_) | Probe::Tcp(..) | Probe::Udp(..) | Probe::Name(..) => {
                self.probes.spawn(async move { (probe, probes::ask(probe).await) });
            }
        }
    }

    /// Whether the scan has ended, and if so, whether it was cancelled.
    fn take_events(&mut self) -> Option<bool> {
        let unix = unix_now();
        let mut ended = None;
        let progress = self.scan.progress();
        while let Some(event) = self.scan.poll_event() {
            if let ScanEvent::Ended { cancelled } = event {
                ended = Some(cancelled);
            }
            self.inner.known().take(event, unix);
        }
        self.inner.status.send_if_modified(|status| {
            let is_new = status.progress.devices != progress.devices
                || status.progress.sent / 64 != progress.sent / 64;
            status.progress = progress;
            is_new
        });
        ended
    }

    async fn finish(mut self, cancelled: bool) {
        // What is still asked has its answers in memory.
        self.probes.shutdown().await;
        let unix = unix_now();
        let (inner, scope) = (Arc::clone(&self.inner), std::mem::take(&mut self.scope));
        let kept = tokio::task::spawn_blocking(move || {
            let kept = inner.keep((!cancelled).then(|| (scope, names::leases())), unix);
            warren_net::release_freed_memory();
            kept
        });
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(%error, "what the scan found can't be written");
        }
        let scanned_unix = {
            let known = self.inner.known();
            self.inner.counted.store(known.inventory().devices.len(), Ordering::Relaxed);
            known.inventory().scanned_unix
        };
        self.inner.status.send_modify(|status| {
            status.running = false;
            status.progress = self.scan.progress();
            status.scanned_unix = scanned_unix;
        });
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
