//! A task that fails is begun again.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Before the first new beginning, and doubled each time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// What has run so long begins with the first pause again.
const GOOD: Duration = Duration::from_secs(300);

/// Runs what `make` makes to its end, in a task of its own: one that panics is made anew after a
/// pause, and `failed` is told before.
pub(super) async fn supervise<F>(mut make: impl FnMut() -> F, mut failed: impl FnMut())
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut pause = FIRST;
    loop {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(make());
        let Some(Err(error)) = tasks.join_next().await else { return };
        if !error.is_panic() {
            return;
        }
        tracing::error!(%error, ?pause, "the edge's task failed and is begun again");
        failed();
        if begun.elapsed() >= GOOD {
            pause = FIRST;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_is_begun_again_with_longer_and_longer_pauses() {
        let begun = Instant::now();
        let starts = Arc::new(Mutex::new(Vec::new()));
        let mut told = 0;
        let make = || {
            let starts = Arc::clone(&starts);
            async move {
                let mut starts = starts.lock().expect("nobody panics with it");
                starts.push(begun.elapsed().as_secs());
                let goes_well = starts.len() == 4;
                drop(starts);
                assert!(goes_well, "on purpose");
            }
        };
        supervise(make, || told += 1).await;
        assert_eq!(*starts.lock().unwrap(), [0, 1, 3, 7]);
        assert_eq!(told, 3);
    }
}
