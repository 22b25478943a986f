//! What pages and API have in common: looking at the edge, and having it do something.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, interval, timeout};
use warren_edge::{
    EdgeReport, EdgeTools, Looked, Opened, Problem, Rescan, ScanError, ScanPlan, ScanStatus, Woken,
};
use warren_proto::{CardAt, EdgeChange, EdgeChanged, EdgeSpec, ForwardId, MacAddr};
use warren_web::Csrf;

use crate::desk::{Asker, Desk, Place, Refusal, Why};
use crate::journal::Journal;
use crate::traffic::{EACH, Traffic};
use crate::{Sources, words};

/// How long a page waits for the broker before it shows what is known without it.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the broker's answer is good: pages that are open are fetched anew at each news.
const FRESH: Duration = Duration::from_secs(2);

/// Everything that a request needs.
pub(crate) struct Site {
    pub(crate) place: watch::Receiver<Place>,
    pub(crate) tools: EdgeTools,
    pub(crate) report: watch::Receiver<EdgeReport>,
    desk: Arc<dyn Desk>,
    /// What the broker said last. Who asks holds it, so that it is asked once at a time.
    said: Mutex<Option<(Instant, EdgeSpec)>>,
    pub(crate) journal: Journal,
    pub(crate) traffic: Traffic,
    /// Says that something of what pages show is otherwise.
    pub(crate) news: watch::Sender<u64>,
    /// Where the pages are.
    pub(crate) port: u16,
    secret: String,
}

/// What is set, as far as it can be known.
pub(crate) struct Known {
    pub(crate) spec: EdgeSpec,
    /// Whether the broker said so; without it only what is open is known.
    pub(crate) is_whole: bool,
}

impl Site {
    pub(crate) fn new(sources: Sources, port: u16) -> Self {
        let Sources { place, tools, report, desk } = sources;
        Self {
            place,
            tools,
            report,
            desk,
            said: Mutex::default(),
            journal: Journal::default(),
            traffic: Traffic::default(),
            news: watch::Sender::new(0),
            port,
            secret: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()),
        }
    }

    pub(crate) fn place(&self) -> Place {
        self.place.borrow().clone()
    }

    pub(crate) fn report(&self) -> EdgeReport {
        self.report.borrow().clone()
    }

    /// Makes and checks the tokens of forms for one device.
    pub(crate) fn csrf(&self, asker: &Asker) -> Csrf {
        Csrf::new(&format!("{}{}", self.secret, asker.device))
    }

    /// What is set of this edge.
    pub(crate) async fn known(&self) -> Known {
        let place = self.place();
        let said = if place.is_connected { self.ask().await } else { None };
        match said {
            Some(spec) => Known { spec, is_whole: true },
            None => Known { spec: place.open(), is_whole: false },
        }
    }

    async fn ask(&self) -> Option<EdgeSpec> {
        let mut said = self.said.lock().await;
        if let Some((at, spec)) = &*said
            && at.elapsed() < FRESH
        {
            return Some(spec.clone());
        }
        let spec = timeout(PATIENCE, self.desk.spec()).await.ok()?.ok()?;
        *said = Some((Instant::now(), spec.clone()));
        Some(spec)
    }

    /// Refuses who may only look.
    pub(crate) fn check(&self, asker: &Asker) -> Result<(), Refusal> {
        if asker.manages {
            return Ok(());
        }
        let text = format!(
            "{} is a device of nobody who manages this edge: it takes one of the edge's own user or of \
             an admin of the account, without tags",
            asker.name
        );
        Err(Refusal::new(Why::Forbidden, text))
    }

    pub(crate) async fn change(
        &self,
        asker: &Asker,
        change: EdgeChange,
    ) -> Result<EdgeChanged, Refusal> {
        self.check(asker)?;
        let changed = self.desk.change(change.clone(), asker.device).await;
        *self.said.lock().await = None;
        let changed = changed?;
        self.note(words::done(&change, &changed), asker);
        Ok(changed)
    }

    /// Begins a scan, and has it repeated each so many seconds, if that is said; refused, it does neither.
    pub(crate) async fn scan(
        &self,
        asker: &Asker,
        plan: ScanPlan,
        every_secs: Option<u64>,
    ) -> Result<(), Refusal> {
        self.check(asker)?;
        let begun = format!("A scan of {} was begun.", words::scanned(&plan));
        match every_secs {
            None => self.tools.scan(plan).map_err(not_scanned)?,
            Some(every_secs) => {
                let rescan = Rescan { every_secs, plan };
                let repeated = repeats(&rescan);
                let done = self.tools.scan_and_repeat(rescan).await;
                if in_force(&done) {
                    self.note(repeated, asker);
                    self.note(begun, asker);
                }
                return done.map_err(not_scanned);
            }
        }
        self.note(begun, asker);
        Ok(())
    }

    /// Has a scan repeated, or none any more.
    pub(crate) async fn set_rescan(
        &self,
        asker: &Asker,
        rescan: Option<Rescan>,
    ) -> Result<(), Refusal> {
        self.check(asker)?;
        let none = || "No scan is repeated any more.".to_owned();
        let text = rescan.as_ref().map_or_else(none, repeats);
        let done = self.tools.set_rescan(rescan).await;
        if in_force(&done) {
            self.note(text, asker);
        }
        done.map_err(not_scanned)
    }

    pub(crate) fn cancel_scan(&self, asker: &Asker) -> Result<(), Refusal> {
        self.check(asker)?;
        self.tools.cancel();
        self.note("The scan was cancelled.", asker);
        Ok(())
    }

    pub(crate) async fn wake(&self, asker: &Asker, mac: MacAddr) -> Result<Woken, Refusal> {
        self.check(asker)?;
        let woken = self.tools.wake(mac).await.map_err(|it| Refusal::new(Why::Failed, it))?;
        self.note(format!("{mac} was called to wake."), asker);
        Ok(woken)
    }

    pub(crate) async fn look(&self, asker: &Asker, id: ForwardId) -> Result<Looked, Refusal> {
        self.check(asker)?;
        self.tools.check(id).await.map_err(Refusal::invalid)
    }

    /// The card that something at an address of the LAN is to be bound to.
    pub(crate) async fn card(&self, asker: &Asker, ip: Ipv4Addr) -> Result<CardAt, Refusal> {
        self.check(asker)?;
        self.tools.card(ip).await.map_err(Refusal::invalid)
    }

    pub(crate) fn scanning(&self) -> ScanStatus {
        self.tools.scanning().borrow().clone()
    }

    fn note(&self, text: impl Into<String>, asker: &Asker) {
        self.journal.note(text, Some(asker.name.as_str()), false);
        self.stir();
    }

    /// Pages are to be fetched anew.
    fn stir(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Watches what happens on the edge: writes it down, and tells the pages that are open.
    pub(crate) async fn watch(self: Arc<Self>) {
        let (mut place, mut report) = (self.place.clone(), self.report.clone());
        let mut scanning = self.tools.scanning();
        let mut sums = interval(EACH);
        let mut seen = Seen::default();
        report.mark_changed();
        place.mark_changed();
        loop {
            let lives = tokio::select! {
                changed = place.changed() => {
                    *self.said.lock().await = None;
                    changed.is_ok()
                }
                changed = report.changed() => changed.is_ok(),
                changed = scanning.changed() => changed.is_ok(),
                _ = sums.tick() => {
                    self.traffic.keep(&self.report.borrow());
                    continue;
                }
            };
            if !lives {
                return;
            }
            seen.compare(&self.journal, &place.borrow_and_update().clone());
            seen.report(&self.journal, &report.borrow_and_update().clone());
            seen.scan(&self.journal, &scanning.borrow_and_update());
            seen.rescan(&self.journal, self.tools.rescan().and_then(|it| it.problem));
            self.stir();
        }
    }
}

fn repeats(Rescan { every_secs, plan }: &Rescan) -> String {
    let (what, every) = (words::scanned(plan), words::every(*every_secs));
    format!("A scan of {what} is repeated each {every}.")
}

/// Whether it was done, be it that it can't be kept.
fn in_force(done: &Result<(), ScanError>) -> bool {
    matches!(done, Ok(()) | Err(ScanError::NotKept(_)))
}

fn not_scanned(error: ScanError) -> Refusal {
    let why = match error {
        ScanError::Refused(_)
        | ScanError::Own(_)
        | ScanError::Capped(..)
        | ScanError::TooLarge(_) => Why::Invalid,
        ScanError::UnderWay => Why::Busy,
        ScanError::NotKept(_) | ScanError::System(_) => Why::Failed,
    };
    Refusal::new(why, error)
}

/// What was so at the last look.
#[derive(Default)]
struct Seen {
    connected: Option<bool>,
    applied: u64,
    repaired: u64,
    open: BTreeSet<Opened>,
    problems: BTreeSet<Problem>,
    scanning: bool,
    /// Why the repeated scan couldn't be begun.
    unscanned: Option<String>,
}

impl Seen {
    fn compare(&mut self, journal: &Journal, place: &Place) {
        if self.connected.replace(place.is_connected) != Some(place.is_connected) {
            match place.is_connected {
                true => journal.note("The broker is connected.", None, false),
                false => journal.note(
                    "The broker is out of reach: what is open stays so, and can't be changed.",
                    None,
                    true,
                ),
            }
        }
    }

    fn report(&mut self, journal: &Journal, report: &EdgeReport) {
        let open: BTreeSet<Opened> = report.open.keys().copied().collect();
        if report.applied > self.applied && open != self.open {
            let (count, took) = (open.len(), report.took.as_millis());
            let text = format!("What is open was put in force: {count} in all, in {took} ms.");
            journal.note(text, None, false);
        }
        if report.repaired > self.repaired {
            let text = "Another program had changed the edge's rules: they were made anew.";
            journal.note(text, None, true);
        }
        for problem in report.problems.difference(&self.problems) {
            journal.note(words::sentence(&problem.to_string()), None, true);
        }
        for problem in self.problems.difference(&report.problems) {
            journal.note(format!("Over: {problem}"), None, false);
        }
        (self.applied, self.repaired) = (report.applied, report.repaired);
        (self.open, self.problems) = (open, report.problems.clone());
    }

    fn scan(&mut self, journal: &Journal, status: &ScanStatus) {
        if std::mem::replace(&mut self.scanning, status.running) && !status.running {
            let found = status.progress.devices;
            journal.note(format!("The scan has ended: {found} devices answered."), None, false);
        }
    }

    fn rescan(&mut self, journal: &Journal, problem: Option<String>) {
        if let Some(reason) = problem.as_ref().filter(|_| problem != self.unscanned) {
            journal.note(format!("The repeated scan can't be begun: {reason}."), None, true);
        }
        self.unscanned = problem;
    }
}
