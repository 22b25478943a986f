//! The scan that is repeated: the shell around [`Rescans`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use warren_scan::{Begun, Rescan, RescanStatus, Rescans, ScanPlan};

use super::unix_now;
use crate::kernel::ledger::replace;

const FILE: &str = "edge-rescan.json";

/// When a scan is repeated, kept in the state folder. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(crate) struct Rescanner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    rescans: Mutex<Rescans>,
    changed: Notify,
}

impl Rescanner {
    /// Goes on with what is kept in `folder`.
    pub(crate) fn open(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let kept = match std::fs::read(&file).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(kept)) => Some(kept),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the repeated scan is damaged: set it again");
                None
            }
            Err(_) => None,
        };
        let now = Instant::now().into_std();
        let rescans = Mutex::new(Rescans::new(kept, now, unix_now(), rand::random()));
        Self(Arc::new(Inner { file, rescans, changed: Notify::new() }))
    }

    /// How it stands; `None`: nothing is repeated.
    pub(crate) fn status(&self) -> Option<RescanStatus> {
        self.0.lock().status(Instant::now().into_std(), unix_now())
    }

    /// Has this repeated from now on.
    ///
    /// # Errors
    ///
    /// It can't be written, and is in force until the edge ends.
    pub(crate) fn set(&self, rescan: Option<Rescan>) -> io::Result<()> {
        let now = Instant::now().into_std();
        let mut rescans = self.0.lock();
        rescans.set(rescan, now, unix_now(), rand::random());
        self.0.changed.notify_one();
        self.0.keep(&rescans)
    }

    /// Begins what is to be scanned when it is time, for as long as it is polled; `told` is called after
    /// each attempt.
    pub(crate) async fn drive(self, begin: impl Fn(ScanPlan) -> Begun, told: impl Fn()) {
        loop {
            let now = Instant::now().into_std();
            let plan = self.0.lock().poll_scan(now);
            if let Some(plan) = plan {
                let begun = begin(plan);
                self.note(begun, now);
                told();
                continue;
            }
            let due = self.0.lock().poll_timeout().map(|(due, _)| Instant::from_std(due));
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }
}

impl Rescanner {
    fn note(&self, begun: Begun, now: std::time::Instant) {
        if let Begun::Failed(reason) = &begun {
            tracing::warn!(reason, "the repeated scan can't be begun");
        }
        let mut rescans = self.0.lock();
        rescans.handle_begun(begun, now, unix_now(), rand::random());
        if let Err(error) = self.0.keep(&rescans) {
            tracing::warn!(%error, "when the scan was repeated can't be written");
        }
    }
}

impl Inner {
    /// Held while it is written: a later word isn't overtaken by an earlier one.
    fn lock(&self) -> MutexGuard<'_, Rescans> {
        self.rescans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, rescans: &Rescans) -> io::Result<()> {
        match rescans.kept() {
            Some(kept) => replace(&self.file, &serde_json::to_vec(kept)?),
            None => match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn hourly() -> Rescan {
        let networks = vec!["192.168.1.0/24".parse().unwrap()];
        Rescan { every_secs: 3600, plan: ScanPlan::of(networks) }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_begun_in_its_time_and_goes_on_after_a_restart_with_what_went_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let rescanner = Rescanner::open(folder.path());
        assert!(rescanner.status().is_none());
        rescanner.set(Some(hourly())).unwrap();
        let (begun, times) = (Instant::now(), RefCell::new(Vec::new()));
        let outcome = Cell::new(Begun::Yes);
        let begin = |plan: ScanPlan| {
            assert_eq!(plan, hourly().plan);
            times.borrow_mut().push(begun.elapsed());
            outcome.replace(Begun::Failed("no LAN".to_owned()))
        };
        let driven = timeout(HOUR * 5 / 2, rescanner.clone().drive(begin, || {})).await;
        assert!(driven.is_err());
        let times = times.into_inner();
        assert!(times[0] >= HOUR && times[1] >= times[0] + HOUR && times.len() >= 2, "{times:?}");

        let again = Rescanner::open(folder.path()).status().unwrap();
        assert_eq!((again.rescan, again.problem.as_deref()), (hourly(), Some("no LAN")));
        rescanner.set(None).unwrap();
        rescanner.set(None).unwrap();
        assert!(Rescanner::open(folder.path()).status().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn another_word_holds_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let rescanner = Rescanner::open(folder.path());
        let count = Cell::new(0);
        let begin = |_| {
            count.set(count.get() + 1);
            Begun::Yes
        };
        let drive = rescanner.clone().drive(begin, || {});
        let change = async {
            tokio::time::sleep(HOUR).await;
            rescanner.set(Some(hourly())).unwrap();
            tokio::time::sleep(HOUR * 3 / 2).await;
            assert_eq!(count.get(), 1);
            rescanner.set(None).unwrap();
            tokio::time::sleep(HOUR * 10).await;
        };
        let ended = tokio::select! {
            () = drive => false,
            () = change => true,
        };
        assert!(ended && count.get() == 1);
    }

    #[tokio::test]
    async fn what_is_damaged_repeats_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Rescanner::open(folder.path()).status().is_none());
    }
}
