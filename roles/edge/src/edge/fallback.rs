//! Which way packets go: the kernel's, unless that can't be had or is blocked; then the userspace
//! proxy's, for as long as that lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;
use warren_net::{Counter, Nftables};
use warren_proto::LanSource;

use super::Engine;
use super::report::{EdgeReport, count, name};
use crate::kernel::obstacles::obstacles;
use crate::kernel::opening::{Opened, Opening};
use crate::kernel::path::KernelPath;
use crate::problem::Problem;
use crate::userspace::Userspace;

/// How soon the kernel's way is tried again after something unseen has dropped all that went there, if
/// the host's rules have changed since.
const RETRY: Duration = Duration::from_secs(600);

/// Something unseen drops what is let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocked {
    /// With this generation of the host's ruleset.
    generation: u32,
    since: Instant,
}

/// What the engine knows of the way that isn't the kernel's.
#[derive(Debug)]
pub(super) struct Fallback {
    /// What is to be open.
    pub(super) wanted: Opening,
    /// Why the kernel's way can't be had.
    pub(super) trouble: Option<String>,
    blocked: Option<Blocked>,
    userspace: Option<Userspace>,
    /// What earlier proxies have counted.
    earlier: BTreeMap<Opened, Counter>,
}

impl Fallback {
    /// Of an edge at a mesh address that has yet to open anything.
    pub(super) fn new(mesh: Ipv4Addr) -> Self {
        Self {
            wanted: Opening::nothing(mesh),
            trouble: None,
            blocked: None,
            userspace: None,
            earlier: BTreeMap::new(),
        }
    }

    /// The kernel's way is open anew: a change of the ruleset from `before` to `now` was our own.
    pub(super) fn note_applied(&mut self, before: Option<u32>, now: Option<u32>) {
        if let (Some(blocked), Some(now)) = (&mut self.blocked, now)
            && before == Some(blocked.generation)
        {
            blocked.generation = now;
        }
    }

    /// Ends the proxy.
    pub(super) fn end(&mut self) {
        if let Some(userspace) = self.userspace.take() {
            add(&mut self.earlier, userspace.uses());
        }
    }

    fn counts(&self) -> BTreeMap<Opened, Counter> {
        let mut counts = self.earlier.clone();
        add(&mut counts, self.userspace.as_ref().map(Userspace::uses).unwrap_or_default());
        counts
    }
}

fn add(sum: &mut BTreeMap<Opened, Counter>, more: BTreeMap<Opened, Counter>) {
    for (opened, counter) in more {
        let sum = sum.entry(opened).or_default();
        sum.packets += counter.packets;
        sum.bytes += counter.bytes;
    }
}

impl Engine {
    /// Says what is open and how that goes, after it has chosen the way. `applied`: it has just been put
    /// in force, which took so long.
    pub(super) async fn publish(&mut self, applied: Option<Duration>) {
        let mut problems = self.resolved.clone();
        problems.extend(self.lacks());
        let drops = self.drops().await;
        let diverted = self.divert(&drops);
        problems.extend(drops);
        problems.extend(diverted);
        problems.extend(self.crowd().await);
        let mut counts = BTreeMap::new();
        let mut open: BTreeMap<_, _> = BTreeMap::new();
        if let Some(path) = &mut self.path {
            let by_name = path.counts().unwrap_or_default();
            if let Some(opening) = path.opening() {
                open.extend(opening.places());
            }
            counts = open
                .keys()
                .filter_map(|opened| Some((*opened, *by_name.get(&name(*opened))?)))
                .collect();
        }
        if let Some(userspace) = &self.fallback.userspace {
            open.extend(userspace.opening().places());
        }
        add(&mut counts, self.fallback.counts());
        let networks = self.networks.clone();
        self.report.send_if_modified(|report| {
            let mut next = EdgeReport { open, problems, networks, ..report.clone() };
            count(&mut next, &counts);
            if let Some(took) = applied {
                (next.applied, next.took) = (report.applied + 1, took);
            }
            let is_new = next != *report;
            *report = next;
            is_new
        });
    }

    /// Leads to the proxy what the kernel doesn't lead, and back what it does.
    fn divert(&mut self, drops: &BTreeSet<Problem>) -> BTreeSet<Problem> {
        let mut problems = BTreeSet::new();
        let Some(diverter) = &self.config.diverter else { return problems };
        let kernel = self.path.as_ref().and_then(KernelPath::opening);
        let (because, kept) = if self.config.userspace {
            ("that was chosen".to_owned(), None)
        } else if let Some(trouble) = &self.fallback.trouble {
            // A table that can't be replaced goes on; one that is in force and still no way doesn't.
            (trouble.clone(), kernel.filter(|opening| **opening != self.fallback.wanted))
        } else if !drops.is_empty() {
            ("this host's firewall drops what its kernel forwards".to_owned(), None)
        } else {
            self.fallback.end();
            return problems;
        };
        let wanted = &self.fallback.wanted;
        problems.extend(left_out(wanted, kept));
        let opening = wanted.for_userspace(kept);
        if opening.is_empty() {
            problems.extend(self.fallback.trouble.clone().map(|reason| match kernel {
                Some(_) => Problem::Unchanged { reason },
                None => Problem::Nothing { reason },
            }));
            self.fallback.end();
            return problems;
        }
        if self.fallback.userspace.as_ref().is_some_and(|userspace| !userspace.is_alive()) {
            self.fallback.end();
        }
        match &mut self.fallback.userspace {
            Some(userspace) => userspace.set(opening),
            none => match Userspace::start(diverter, opening) {
                Ok(userspace) => {
                    tracing::info!(because, "forwards go through the userspace proxy");
                    *none = Some(userspace);
                }
                Err(error) => {
                    problems.insert(Problem::Nothing { reason: error.to_string() });
                    return problems;
                }
            },
        }
        problems.insert(Problem::Userspace { because });
        problems
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
        let (let_in, went_out) = path.passage().unwrap_or_default();
        let mut is_blocked = self.passage.is_blocked(let_in, went_out);
        // What goes to the proxy doesn't show any more whether it would come out.
        if self.config.diverter.is_some() {
            let now = Instant::now();
            is_blocked = match self.fallback.blocked {
                None => is_blocked,
                Some(Blocked { generation: seen, since }) => {
                    seen == generation || now < since + RETRY
                }
            };
            match (is_blocked, self.fallback.blocked) {
                (true, None) => {
                    self.fallback.blocked = Some(Blocked { generation, since: now });
                }
                (false, Some(_)) => {
                    self.fallback.blocked = None;
                    self.passage.forgive(let_in, went_out);
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        if is_blocked && problems.is_empty() {
            problems.insert(Problem::SomethingDrops { mesh: mesh.clone() });
        }
        problems
    }
}

/// What the proxy doesn't open, unless the kernel has it in `kept`.
fn left_out(wanted: &Opening, kept: Option<&Opening>) -> BTreeSet<Problem> {
    let gateways = wanted.gateways.iter().filter(|g| !kept.is_some_and(|k| k.gateways.contains(g)));
    let gateways = gateways.map(|gateway| Problem::GatewayByKernel { lan: gateway.lan });
    let is_transparent = |source| source == LanSource::Transparent;
    let forwards = wanted.forwards.iter().filter(|f| {
        is_transparent(f.source) && !kept.is_some_and(|kept| kept.forwards.contains(f))
    });
    let devices = wanted
        .devices
        .iter()
        .filter(|d| is_transparent(d.source) && !kept.is_some_and(|kept| kept.devices.contains(d)));
    let forwards = forwards.map(|forward| format!("the forward at port {}", forward.port));
    let devices = devices.map(|device| format!("the virtual device at {}", device.ipv4));
    let transparent = forwards.chain(devices).map(|what| Problem::NotTransparent { what });
    gateways.chain(transparent).collect()
}
