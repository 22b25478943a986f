use std::time::{Duration, Instant};

const DAY: u64 = 86_400;

const AGREEMENT: Duration = Duration::from_secs(60);

/// Wall-clock time, kept beside the monotonic one that the core is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    base: Instant,
    unix: Duration,
}

impl Clock {
    pub(crate) fn new(base: Instant, unix: Duration) -> Self {
        Self { base, unix }
    }

    /// The time since 1970.
    pub(crate) fn unix(&self, now: Instant) -> Duration {
        self.unix.saturating_add(now.saturating_duration_since(self.base))
    }

    /// The number of whole days since 1970: what probe tags are made for.
    pub(crate) fn day(&self, now: Instant) -> u32 {
        u32::try_from(self.unix(now).as_secs() / DAY).unwrap_or(u32::MAX)
    }

    /// When the next day begins.
    pub(crate) fn next_day(&self, now: Instant) -> Instant {
        let unix = self.unix(now);
        let begins = Duration::from_secs((unix.as_secs() / DAY + 1).saturating_mul(DAY));
        now + begins.saturating_sub(unix).min(Duration::from_secs(DAY))
    }

    /// Sets the clock by one that everybody has in common, unless the two nearly agree: what its
    /// messages take to arrive must not move midnight to and fro.
    pub(crate) fn set(&mut self, unix: Duration, now: Instant) {
        if unix.abs_diff(self.unix(now)) > AGREEMENT {
            *self = Self { base: now, unix };
        }
    }
}
