use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

/// Whole maps of one account on their way at once, so that a thousand nodes that come back at the
/// same moment don't need a thousand maps in memory.
const AT_ONCE: usize = 2;
/// How long a device waits for its turn before it goes on without one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a turn lasts at most: a device that reads slowly, or not at all, must not keep the
/// others waiting.
const LONGEST: Duration = Duration::from_secs(2);

/// Who of an account's devices may be sent a whole map now.
pub(crate) struct Turns(Arc<Semaphore>);

/// A device's turn. It ends when this is dropped, and after two seconds anyway.
pub(crate) struct Turn {
    _end: oneshot::Sender<()>,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Turns {
    /// Waits for a turn, not for ever: `None` is as good.
    pub(crate) async fn take(&self) -> Option<Turn> {
        let waiting = tokio::time::timeout(PATIENCE, self.0.clone().acquire_owned());
        let permit = waiting.await.ok()?.ok()?;
        let (end, ended) = oneshot::channel();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LONGEST, ended).await;
            drop(permit);
        });
        Some(Turn { _end: end })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_given_back_when_it_ends_and_at_the_latest_after_a_while() {
        let turns = Turns::default();
        let first = turns.take().await.unwrap();
        let second = turns.take().await.unwrap();
        assert!(turns.take().now_or_never().is_none());
        drop(first);
        let third = turns.take().await.expect("the first one's");
        let fourth = turns.take().await.expect("its own or the third one's, unread as they are");
        drop((second, third, fourth));
    }
}
