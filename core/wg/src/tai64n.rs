//! TAI64N timestamps: what makes a replayed initiation recognizable (paper §5.1).
//!
//! A peer accepts only growing timestamps, so a machine whose clock went back can't handshake
//! until it has caught up. [`Clock`] therefore never goes back and takes any better knowledge
//! (the persisted time, the broker's time) as a floor.

use std::time::{Duration, Instant};

/// 2^62, the epoch's label, plus the 10 s between TAI and UTC in 1970.
const TAI_1970: u64 = 0x4000_0000_0000_000a;
/// Nanoseconds are cut down to multiples of this (16.8 ms), so that a timestamp tells little of
/// the sender's clock.
const GRAIN_NANOS: u32 = 1 << 24;

/// A TAI64N label: seconds and nanoseconds in big endian, so that bytes compare as times do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tai64n(pub(crate) [u8; 12]);

impl Tai64n {
    fn from_unix(unix: Duration) -> Self {
        let mut label = [0; 12];
        label[..8].copy_from_slice(&TAI_1970.saturating_add(unix.as_secs()).to_be_bytes());
        let nanos = unix.subsec_nanos() / GRAIN_NANOS * GRAIN_NANOS;
        label[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(label)
    }
}

/// Wall-clock time that never goes back.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    at: Instant,
    unix: Duration,
}

impl Clock {
    pub(crate) fn new(at: Instant, unix: Duration) -> Self {
        Self { at, unix }
    }

    pub(crate) fn raise(&mut self, now: Instant, unix: Duration) {
        if unix > self.unix(now) {
            *self = Self { at: now, unix };
        }
    }

    pub(crate) fn unix(&self, now: Instant) -> Duration {
        self.unix.saturating_add(now.saturating_duration_since(self.at))
    }

    /// A timestamp for `now` that is newer than `last`; the clock is raised where it must be.
    pub(crate) fn stamp(&mut self, now: Instant, last: Tai64n) -> Tai64n {
        let stamp = Tai64n::from_unix(self.unix(now));
        if stamp > last {
            return stamp;
        }
        let seconds = u64::from_be_bytes(crate::message::array(&last.0, 0));
        let nanos = u32::from_be_bytes(crate::message::array(&last.0, 8));
        let unix = Duration::new(seconds.saturating_sub(TAI_1970), nanos);
        let next = unix.saturating_add(Duration::from_nanos(GRAIN_NANOS.into()));
        let next = match Tai64n::from_unix(next) {
            // The last grain of a second is a short one.
            same if same == last => Duration::from_secs(unix.as_secs().saturating_add(1)),
            _ => next,
        };
        self.raise(now, next);
        Tai64n::from_unix(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_even_if_time_stands_still() {
        let now = crate::testing::epoch();
        let mut clock = Clock::new(now, Duration::from_nanos(1_999_999_999));
        let mut last = Tai64n::default();
        for _ in 0..500 {
            let stamp = clock.stamp(now, last);
            assert!(stamp > last);
            last = stamp;
        }
        assert!(Tai64n::from_unix(clock.unix(now)) >= last, "what is persisted covers every stamp");
    }

    #[test]
    fn the_clock_never_goes_back() {
        let now = crate::testing::epoch();
        let mut clock = Clock::new(now, Duration::from_secs(1000));
        clock.raise(now, Duration::from_secs(500));
        assert_eq!(clock.unix(now), Duration::from_secs(1000));
        clock.raise(now + Duration::from_secs(1), Duration::from_secs(5000));
        assert_eq!(clock.unix(now + Duration::from_secs(3)), Duration::from_secs(5002));
    }

    #[test]
    fn a_label_is_what_the_paper_says() {
        let stamp = Tai64n::from_unix(Duration::new(1, GRAIN_NANOS + 5));
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 0, 0, 0, 0x0b, 1, 0, 0, 0]);
    }
}
