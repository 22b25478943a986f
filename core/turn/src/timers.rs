use std::collections::BTreeSet;
use std::time::Instant;

/// What is due when. Whoever sets a timer keeps the instant, to remove it by.
#[derive(Debug)]
pub(crate) struct Timers<T>(BTreeSet<(Instant, T)>);

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Copy + Ord> Timers<T> {
    pub(crate) fn set(&mut self, at: Instant, timer: T) {
        self.0.insert((at, timer));
    }

    pub(crate) fn remove(&mut self, at: Instant, timer: T) {
        self.0.remove(&(at, timer));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.0.first()?.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    pub(crate) fn next(&self) -> Option<(Instant, T)> {
        self.0.first().copied()
    }
}
