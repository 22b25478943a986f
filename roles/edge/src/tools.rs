//! What people have an edge do beside opening the LAN: scan it, wake devices, see whether something
//! answers.

mod card;
mod check;
mod wake;

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::{Semaphore, watch};
use warren_proto::{
    CardAt, EdgeDuty, EdgeOpen, Forward, ForwardId, ForwardProtocol, LanCap, MacAddr,
};
use warren_scan::{
    Begun, Device, Inventory, Looked, Rescan, RescanStatus, ScanPlan, ScanStatus, Woken,
};

use crate::edge::sight::Sight;
use crate::edge::{EdgeConfig, EdgeReport};
use crate::kernel::opening::Opened;
use crate::kernel::resolve::Way;
use crate::scan::rescan::Rescanner;
use crate::scan::{Adjacent, ScanError, Scanner};

pub use check::CheckError;
pub use wake::WakeError;

/// How many checks may be under way: whoever asks for more waits.
const CHECKS: usize = 4;

/// An edge's tools, for whoever asks for them. Clones are handles to the same, and stay good as long as
/// the edge runs.
#[derive(Debug, Clone)]
pub struct EdgeTools {
    scanner: Scanner,
    rescanner: Rescanner,
    duty: watch::Receiver<Option<EdgeDuty>>,
    report: watch::Receiver<EdgeReport>,
    mesh_interface: String,
    cap: LanCap,
    checks: Arc<Semaphore>,
}

impl EdgeTools {
    pub(crate) fn new(
        scanner: Scanner,
        rescanner: Rescanner,
        duty: watch::Receiver<Option<EdgeDuty>>,
        report: watch::Receiver<EdgeReport>,
        config: &EdgeConfig,
    ) -> Self {
        let (mesh_interface, cap) = (config.mesh_interface.clone(), config.cap.clone());
        let checks = Arc::new(Semaphore::new(CHECKS));
        Self { scanner, rescanner, duty, report, mesh_interface, cap, checks }
    }

    /// Begins a scan, which goes on by itself: [`Self::scanning`] tells how far it is. A plan without
    /// networks is for those that this host stands in ([`Self::adjacent`]).
    ///
    /// Must be called within a tokio runtime, on a thread in the host's network namespace.
    ///
    /// # Errors
    ///
    /// The plan is refused, reaches into the mesh, there is a scan already, or there is no privilege.
    pub fn scan(&self, plan: ScanPlan) -> Result<(), ScanError> {
        let (networks, left_out) = match plan.networks.is_empty() {
            true => self.adjacent_as_let()?,
            false => (plan.networks, Vec::new()),
        };
        self.keep_to_lans(&networks)?;
        self.scanner.start_without(ScanPlan { networks, ..plan }, left_out)
    }

    /// As [`Self::scan`], and has it repeated from now on, as [`Self::set_rescan`]: a scan that is refused
    /// isn't repeated either.
    ///
    /// # Errors
    ///
    /// Those of both.
    pub async fn scan_and_repeat(&self, rescan: Rescan) -> Result<(), ScanError> {
        rescan.check()?;
        self.scan(rescan.plan.clone())?;
        self.set_rescan(Some(rescan)).await
    }

    /// The networks that this host stands in, or the parts of them that its owner lets it open; and which of
    /// those are too large to be scanned unasked.
    fn adjacent_as_let(&self) -> Result<(Vec<Ipv4Net>, Vec<Ipv4Net>), ScanError> {
        let Adjacent { mut networks, too_large } = self.adjacent()?;
        networks.extend(too_large);
        let parts = networks.iter().flat_map(|net| self.cap.within(*net));
        let Adjacent { networks: parts, too_large } = parts.collect();
        match networks.first().filter(|_| parts.is_empty()) {
            Some(network) if too_large.is_empty() => {
                Err(ScanError::Capped(*network, self.cap.clone()))
            }
            Some(_) => Err(ScanError::TooLarge(too_large)),
            None => Ok((parts, too_large)),
        }
    }

    /// What the device's owner lets it open.
    pub fn cap(&self) -> &LanCap {
        &self.cap
    }

    /// What is open at this moment.
    pub fn open(&self) -> EdgeOpen {
        self.report.borrow().opened()
    }

    /// Ends the scan that is under way, if there is one. What it found is kept.
    pub fn cancel(&self) {
        self.scanner.cancel();
    }

    /// The scan that is repeated, if one is.
    pub fn rescan(&self) -> Option<RescanStatus> {
        self.rescanner.status()
    }

    /// Has a scan repeated from now on, over restarts too, or none any more.
    ///
    /// # Errors
    ///
    /// The plan is refused or reaches into the mesh, or it can't be kept.
    pub async fn set_rescan(&self, rescan: Option<Rescan>) -> Result<(), ScanError> {
        if let Some(rescan) = &rescan {
            rescan.check()?;
            if !rescan.plan.networks.is_empty() {
                self.keep_to_lans(&rescan.plan.networks)?;
            }
        }
        let kept = self.rescanner.set(rescan).await.map_err(ScanError::NotKept);
        self.scanner.stir();
        kept
    }

    /// Begins the repeated scan when it is time, for as long as it is polled.
    pub(crate) async fn repeat(self) {
        let tools = self.clone();
        let begin = move |plan| match tools.scan(plan) {
            Ok(()) => Begun::Yes,
            Err(ScanError::UnderWay) => Begun::Busy,
            Err(error) => Begun::Failed(error.to_string()),
        };
        self.rescanner.clone().drive(begin, || self.scanner.stir()).await;
    }

    /// How scanning goes; changes are told.
    pub fn scanning(&self) -> watch::Receiver<ScanStatus> {
        self.scanner.status()
    }

    /// Looks at the devices that are known; while a scan is under way, with those that it has found so far.
    /// There may be many thousands, and a scan waits meanwhile: what is to be kept of them is taken out, and
    /// nothing waited for.
    pub fn known<T>(&self, look: impl FnOnce(&Inventory) -> T) -> T {
        self.scanner.known(look)
    }

    /// The networks that this host stands in.
    ///
    /// # Errors
    ///
    /// What the system says; none is usual.
    pub fn adjacent(&self) -> Result<Adjacent, warren_net::Error> {
        self.scanner.adjacent()
    }

    /// Wakes a device by its card's address: three magic packets, by broadcast on the interface at whose
    /// network a scan saw it; one that was never seen is called on every LAN. Whether it wakes, nobody
    /// says.
    ///
    /// # Errors
    ///
    /// There is no LAN by which it could be reached, or the system says no.
    pub async fn wake(&self, mac: MacAddr) -> Result<Woken, WakeError> {
        // Of a device without IPv4, the network of its link.
        let at = |device: &Device| device.ipv4().or_else(|| device.link.map(|it| it.network()));
        let seen = self.known(|inventory| inventory.by_mac(mac).and_then(at));
        wake::wake(mac, seen, &self.mesh_interface, &self.cap).await
    }

    /// Sees whether what a forward leads to answers, at the first of its ports. It is asked as the edge
    /// itself, wherever its device is now, and nothing is written to it.
    ///
    /// # Errors
    ///
    /// It isn't open.
    pub async fn check(&self, forward: ForwardId) -> Result<Looked, CheckError> {
        let target = self.report.borrow().open.get(&Opened::Forward(forward)).copied();
        let duty = self.duty.borrow().clone().unwrap_or_default();
        let Some(found) = duty.forwards.into_iter().find(|it| it.id == forward) else {
            return Err(CheckError::Unknown);
        };
        let Some(target) = target else { return Err(self.why_not_open(&found)) };
        let (protocol, port) = (found.protocol, found.target_port);
        let _turn = self.checks.acquire().await;
        Ok(check::look(target, protocol, port).await)
    }

    fn why_not_open(&self, forward: &Forward) -> CheckError {
        let what = format!("forward '{}'", forward.name);
        let report = self.report.borrow();
        let problems = report.problems.iter().map(ToString::to_string);
        let why = problems.into_iter().find(|problem| problem.starts_with(&what));
        let why = why.unwrap_or_else(|| match &forward.schedule {
            Some(_) => "these aren't its hours, or `warren edge status` says why".to_owned(),
            None => "`warren edge status` says why".to_owned(),
        });
        CheckError::NotOpen(why)
    }

    /// As [`Self::check`], of an address and port that nothing leads to yet: what somebody is about to
    /// open.
    ///
    /// # Errors
    ///
    /// It is an address of the internet, of the mesh, the edge's own, or of no device.
    pub async fn check_target(
        &self,
        target: Ipv4Addr,
        protocol: ForwardProtocol,
        port: u16,
    ) -> Result<Looked, CheckError> {
        ScanPlan::of(vec![target.into()]).check()?;
        self.keep_to_lans(&[target.into()])?;
        let _turn = self.checks.acquire().await;
        Ok(check::look(target, protocol, port).await)
    }

    /// The card that something at an address of a LAN is to be bound to: the one that a scan has seen there in
    /// the last hour; where it was earlier, the one that answers now.
    ///
    /// # Errors
    ///
    /// As [`Self::check_target`].
    pub async fn card(&self, ip: Ipv4Addr) -> Result<CardAt, CheckError> {
        self.keep_to_lans(&[ip.into()])?;
        let _turn = self.checks.acquire().await;
        Ok(card::card(&self.scanner, ip, &self.mesh_interface).await)
    }

    /// Refuses what the device's owner doesn't let it open, and what an edge would see as itself, and
    /// others may not: the mesh, and its own addresses.
    fn keep_to_lans(&self, networks: &[Ipv4Net]) -> Result<(), ScanError> {
        if let Some(network) = networks.iter().find(|it| !self.cap.admits_network(**it)) {
            return Err(ScanError::Capped(*network, self.cap.clone()));
        }
        let mut sight = Sight::look(&self.mesh_interface)?;
        for network in networks {
            let is_one = network.prefix_len() == 32;
            let mut ends = [network.network(), network.broadcast()].into_iter();
            let is_own = ends.any(|ip| match sight.way(ip) {
                Way::Mesh => true,
                // A network's own address and its broadcast are the host's, too.
                Way::Host => is_one,
                Way::Lan { .. } | Way::Nowhere => false,
            });
            if is_own {
                return Err(ScanError::Own(*network));
            }
        }
        Ok(())
    }
}
