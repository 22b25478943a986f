//! A scan that is repeated: when its next time is.
//!
//! From one beginning to the next it is the interval, and a little more by chance: edges that were
//! started together, as after a power cut, don't scan together for long. The interval counts over a
//! restart, by the wall clock, which may have been set meanwhile: then a scan comes late by one interval
//! at most. A scan that is under way is waited for.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::plan::{Refused, ScanPlan};

/// The shortest interval, in seconds.
pub const MIN_EVERY: u64 = 15 * 60;
/// The longest interval, in seconds.
pub const MAX_EVERY: u64 = 30 * 24 * 3600;

/// The most that chance adds.
const MAX_SPREAD: Duration = Duration::from_secs(30 * 60);
/// How long an edge that was started lets the host come up.
const SETTLE: Duration = Duration::from_secs(120);
/// How soon it is tried again while another scan is under way.
const BUSY: Duration = Duration::from_secs(5 * 60);
/// How soon one that couldn't be begun is tried again.
const AGAIN: Duration = Duration::from_secs(15 * 60);

/// A scan that is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rescan {
    /// From one beginning to the next, in seconds: [`MIN_EVERY`] to [`MAX_EVERY`].
    pub every_secs: u64,
    /// What is scanned; without networks, those that the edge stands in at that time.
    pub plan: ScanPlan,
}

impl Rescan {
    /// Sees whether it may be done.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self) -> Result<(), Refused> {
        if !(MIN_EVERY..=MAX_EVERY).contains(&self.every_secs) {
            return Err(Refused::Every(self.every_secs));
        }
        match self.plan.networks.is_empty() {
            true => self.plan.check_manner(),
            false => self.plan.check(),
        }
    }

    fn every(&self) -> Duration {
        Duration::from_secs(self.every_secs)
    }

    /// The interval's part that chance decides, by any number.
    fn spread(&self, dice: u32) -> Duration {
        let most = (self.every() / 10).min(MAX_SPREAD);
        most.mul_f64(f64::from(dice) / f64::from(u32::MAX))
    }
}

/// What outlives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRescan {
    /// What is repeated.
    #[serde(flatten)]
    pub rescan: Rescan,
    /// When it was begun last, or set, in seconds since the Unix epoch.
    pub since_unix: u64,
    /// Why it couldn't be begun when it was time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A repeated scan, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RescanStatus {
    /// What is repeated.
    #[serde(flatten)]
    pub rescan: Rescan,
    /// When it is next begun, in seconds since the Unix epoch.
    pub next_unix: u64,
    /// Why it couldn't be begun when it was time, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How the beginning of a scan went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is under way.
    Yes,
    /// Another one is.
    Busy,
    /// It can't be done, and why.
    Failed(String),
}

/// When a scan is repeated. Chance comes in as any number, with each call that needs it.
#[derive(Debug)]
pub struct Rescans {
    kept: Option<KeptRescan>,
    next: Option<Instant>,
}

impl Rescans {
    /// Goes on with what was kept, at `unix` seconds since the epoch; what isn't allowed is forgotten.
    pub fn new(kept: Option<KeptRescan>, now: Instant, unix: u64, dice: u32) -> Self {
        let kept = kept.filter(|kept| kept.rescan.check().is_ok());
        let next = kept.as_ref().map(|KeptRescan { rescan, since_unix, .. }| {
            let passed = Duration::from_secs(unix.saturating_sub(*since_unix));
            now + rescan.every().saturating_sub(passed).max(SETTLE) + rescan.spread(dice)
        });
        Self { kept, next }
    }

    /// Has this repeated from now on, for the first time after one interval; `None`: nothing.
    pub fn set(&mut self, rescan: Option<Rescan>, now: Instant, unix: u64, dice: u32) {
        self.next = rescan.as_ref().map(|rescan| now + rescan.every() + rescan.spread(dice));
        self.kept = rescan.map(|rescan| KeptRescan { rescan, since_unix: unix, problem: None });
    }

    /// What is to be kept.
    pub fn kept(&self) -> Option<&KeptRescan> {
        self.kept.as_ref()
    }

    /// How it stands.
    pub fn status(&self, now: Instant, unix: u64) -> Option<RescanStatus> {
        let KeptRescan { rescan, problem, .. } = self.kept.clone()?;
        let rest = self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        Some(RescanStatus { rescan, next_unix: unix.saturating_add(rest.as_secs()), problem })
    }

    /// When to call [`Self::poll_scan`] again, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Some((self.next?, "the next rescan"))
    }

    /// What to scan now; how that went is told by [`Self::handle_begun`].
    pub fn poll_scan(&mut self, now: Instant) -> Option<ScanPlan> {
        self.next.take_if(|next| *next <= now)?;
        Some(self.kept.as_ref()?.rescan.plan.clone())
    }

    /// Takes how the scan's beginning went.
    pub fn handle_begun(&mut self, begun: Begun, now: Instant, unix: u64, dice: u32) {
        let Some(kept) = &mut self.kept else { return };
        let every = kept.rescan.every();
        let pause = match begun {
            Begun::Yes => {
                kept.since_unix = unix;
                kept.problem = None;
                every + kept.rescan.spread(dice)
            }
            Begun::Busy => BUSY.min(every),
            Begun::Failed(problem) => {
                kept.problem = Some(problem);
                AGAIN.min(every)
            }
        };
        self.next = Some(now + pause);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "one instant to begin with")]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const UNIX: u64 = 1_800_000_000;

    fn hourly() -> Rescan {
        Rescan { every_secs: 3600, plan: ScanPlan::of(Vec::new()) }
    }

    /// Virtual time: what is begun when, until `end`, each beginning going as `outcome` says.
    fn beginnings(
        rescans: &mut Rescans,
        begun: Instant,
        end: Duration,
        mut outcome: impl FnMut(usize) -> Begun,
    ) -> Vec<Duration> {
        let mut at = Vec::new();
        while let Some((due, _)) = rescans.poll_timeout()
            && due <= begun + end
        {
            let Some(_) = rescans.poll_scan(due) else { panic!("woken for nothing") };
            assert_eq!(rescans.poll_scan(due), None, "once");
            at.push(due - begun);
            let unix = UNIX + (due - begun).as_secs();
            rescans.handle_begun(outcome(at.len()), due, unix, u32::MAX / 2);
        }
        at
    }

    #[test]
    fn a_scan_is_repeated_at_its_interval_and_a_little_more() {
        let now = Instant::now();
        let mut rescans = Rescans::new(None, now, UNIX, 0);
        assert!(rescans.poll_timeout().is_none() && rescans.status(now, UNIX).is_none());
        rescans.set(Some(hourly()), now, UNIX, 0);
        assert_eq!(rescans.status(now, UNIX).unwrap().next_unix, UNIX + 3600);
        assert_eq!(rescans.poll_scan(now + HOUR / 2), None);
        let at = beginnings(&mut rescans, now, 5 * HOUR, |_| Begun::Yes);
        assert_eq!(at.len(), 4);
        for (earlier, later) in at.iter().zip(&at[1..]) {
            let pause = (*later - *earlier).as_secs();
            assert!((3600..=3600 + 360).contains(&pause), "{pause}");
        }
        rescans.set(None, now, UNIX, 0);
        assert_eq!((rescans.poll_timeout(), rescans.kept()), (None, None));
    }

    #[test]
    fn chance_spreads_edges_that_were_started_together() {
        let now = Instant::now();
        let kept = KeptRescan { rescan: hourly(), since_unix: UNIX - 99_999, problem: None };
        let first = |dice| Rescans::new(Some(kept.clone()), now, UNIX, dice).next.unwrap() - now;
        assert_eq!(first(0), SETTLE, "what was missed is made good, once the host is up");
        assert_eq!(first(u32::MAX), SETTLE + HOUR / 10);
        let monthly = Rescan { every_secs: MAX_EVERY, ..hourly() };
        assert_eq!(monthly.spread(u32::MAX), MAX_SPREAD);
        let damaged = Rescan { every_secs: u64::MAX, ..hourly() };
        let damaged = KeptRescan { rescan: damaged, since_unix: 0, problem: None };
        assert!(Rescans::new(Some(damaged), now, UNIX, 0).poll_timeout().is_none());
    }

    #[test]
    fn a_restart_neither_forgets_nor_hastens_it_and_a_set_clock_delays_it_by_one_interval() {
        let now = Instant::now();
        let first = |since_unix| {
            let kept = KeptRescan { rescan: hourly(), since_unix, problem: None };
            Rescans::new(Some(kept), now, UNIX, 0).next.unwrap() - now
        };
        assert_eq!(first(UNIX - 600), HOUR - Duration::from_secs(600));
        assert_eq!(first(UNIX + 99_999_999), HOUR, "the clock was set back");
        assert_eq!(first(0), SETTLE, "it was set ahead");
    }

    #[test]
    fn a_scan_under_way_is_waited_for_and_what_fails_is_said_and_tried_again() {
        let now = Instant::now();
        let mut rescans = Rescans::new(None, now, UNIX, 0);
        rescans.set(Some(hourly()), now, UNIX, 0);
        let at = beginnings(&mut rescans, now, 2 * HOUR, |count| match count {
            1 => Begun::Busy,
            2 => Begun::Failed("no LAN".to_owned()),
            _ => Begun::Yes,
        });
        assert_eq!(at, [HOUR, HOUR + BUSY, HOUR + BUSY + AGAIN]);
        assert_eq!(rescans.kept().unwrap().problem, None, "it works again");
        let unix = rescans.kept().unwrap().since_unix;
        assert_eq!(unix, UNIX + (HOUR + BUSY + AGAIN).as_secs());
        rescans.handle_begun(Begun::Failed("no LAN".to_owned()), now, UNIX, 0);
        assert_eq!(rescans.status(now, UNIX).unwrap().problem.as_deref(), Some("no LAN"));
        assert_eq!(rescans.kept().unwrap().since_unix, unix);
        let json = serde_json::to_string(rescans.kept().unwrap()).unwrap();
        assert_eq!(&serde_json::from_str::<KeptRescan>(&json).unwrap(), rescans.kept().unwrap());
    }

    #[test]
    fn only_gentle_intervals_and_allowed_plans_are_repeated() {
        let check = |every_secs, networks: &[&str]| {
            let networks = networks.iter().map(|net| net.parse().unwrap()).collect();
            Rescan { every_secs, plan: ScanPlan::of(networks) }.check()
        };
        assert_eq!(check(MIN_EVERY, &[]), Ok(()));
        assert_eq!(check(MAX_EVERY, &["10.0.0.0/24"]), Ok(()));
        assert_eq!(check(MIN_EVERY - 1, &[]), Err(Refused::Every(MIN_EVERY - 1)));
        assert!(check(MAX_EVERY + 1, &[]).is_err() && check(u64::MAX, &[]).is_err());
        assert!(matches!(check(3600, &["8.8.8.0/24"]), Err(Refused::Public(_))));
        let fast = ScanPlan { rate: 0, ..ScanPlan::of(Vec::new()) };
        assert_eq!(Rescan { every_secs: 3600, plan: fast }.check(), Err(Refused::Rate(0)));
    }
}
