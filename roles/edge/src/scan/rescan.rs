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
    /// Held by who writes; nobody waits for the disk to read or change the schedule.
    writing: Mutex<()>,
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
        let (changed, writing) = (Notify::new(), Mutex::default());
        Self(Arc::new(Inner { file, rescans, changed, writing }))
    }

    /// How it stands; `None`: nothing is repeated.
    pub(crate) fn status(&self) -> Option<RescanStatus> {
        self.0.lock().status(Instant::now().into_std(), unix_now())
    }

    /// Has this repeated from now on: at once, though the answer waits until it is written.
    ///
    /// # Errors
    ///
    /// It can't be written, and is in force until the edge ends.
    pub(crate) fn set(
        &self,
        rescan: Option<Rescan>,
    ) -> impl Future<Output = io::Result<()>> + use<> {
        let now = Instant::now().into_std();
        self.0.lock().set(rescan, now, unix_now(), rand::random());
        self.0.changed.notify_one();
        self.keep()
    }

    /// Begins what is to be scanned when it is time, for as long as it is polled; `told` is called after
    /// each attempt.
    pub(crate) async fn drive(self, begin: impl Fn(ScanPlan) -> Begun, told: impl Fn()) {
        loop {
            let now = Instant::now().into_std();
            let plan = self.0.lock().poll_scan(now);
            if let Some(plan) = plan {
                let begun = begin(plan);
                self.note(begun, now).await;
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
    async fn note(&self, begun: Begun, now: std::time::Instant) {
        if let Begun::Failed(reason) = &begun {
            tracing::warn!(reason, "the repeated scan can't be begun");
        }
        self.0.lock().handle_begun(begun, now, unix_now(), rand::random());
        if let Err(error) = self.keep().await {
            tracing::warn!(%error, "when the scan was repeated can't be written");
        }
    }

    /// Writes down what is to be kept, also if nobody waits for that.
    fn keep(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let inner = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || inner.write());
        async { written.await.unwrap_or_else(|error| Err(io::Error::other(error))) }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Rescans> {
        self.rescans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever's turn it is writes what holds then: a later word isn't overtaken by an earlier one.
    fn write(&self) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.lock().kept().cloned();
        match kept {
            Some(kept) => replace(&self.file, &serde_json::to_vec(&kept)?),
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
        rescanner.set(Some(hourly())).await.unwrap();
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
        rescanner.set(None).await.unwrap();
        rescanner.set(None).await.unwrap();
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
            rescanner.set(Some(hourly())).await.unwrap();
            tokio::time::sleep(HOUR * 3 / 2).await;
            assert_eq!(count.get(), 1);
            rescanner.set(None).await.unwrap();
            tokio::time::sleep(HOUR * 10).await;
        };
        let ended = tokio::select! {
            () = drive => false,
            () = change => true,
        };
        assert!(ended && count.get() == 1);
    }

    #[tokio::test]
    async fn a_slow_disk_keeps_nobody_waiting_and_the_last_word_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let rescanner = Rescanner::open(folder.path());
        let disk = rescanner.0.writing.lock().unwrap();
        let daily = Rescan { every_secs: 86_400, ..hourly() };
        let first = rescanner.set(Some(hourly()));
        // Nobody waits for it, and it is written all the same.
        drop(rescanner.set(Some(daily.clone())));
        assert_eq!(rescanner.status().unwrap().rescan, daily, "it holds before it is written");
        assert!(!folder.path().join(FILE).exists());
        drop(disk);
        first.await.unwrap();
        assert_eq!(Rescanner::open(folder.path()).status().unwrap().rescan, daily);
    }

    #[tokio::test]
    async fn what_is_damaged_repeats_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Rescanner::open(folder.path()).status().is_none());
    }
}
