use std::time::{Duration, Instant};

/// Wall-clock time, told from a monotonic instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    at: Instant,
    unix: Duration,
}

impl Clock {
    pub(super) fn new(at: Instant, unix: Duration) -> Self {
        Self { at, unix }
    }

    /// Time since the Unix epoch.
    pub(super) fn unix(&self, now: Instant) -> Duration {
        self.unix + now.saturating_duration_since(self.at)
    }
}
