//! When a certificate is ordered, decided from two clocks that are told. A renewal goes by the wall
//! clock: a laptop sleeps for days, a Raspberry Pi wakes up in 1970. The pause after a failure goes by
//! the monotonic one, so that no step of the wall clock shortens what the authority asks for.

use std::time::{Duration, Instant, SystemTime};

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The longest that an authority's wish is believed: its header may be a date, and the clock here wrong.
const LONGEST_WISH: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often the wall clock is looked at: nobody says when it steps.
const LOOK: Duration = Duration::from_secs(600);

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// Two thirds through the lifetime, or up to a thirtieth of it earlier: by `jitter` from 0 to 1, so
    /// that what was ordered together is not renewed together.
    fn renewal(&self, jitter: f64) -> SystemTime {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + lifetime * 2 / 3 - (lifetime / 30).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Order,
    /// Asked again after this.
    Wait(Duration),
}

/// Knows when the next order is due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// `None`: there is no certificate.
    renewal: Option<SystemTime>,
    failures: u32,
    pause_until: Option<Instant>,
}

impl Schedule {
    /// A certificate that was kept is in use.
    pub(super) fn handle_kept(&mut self, validity: &Validity, jitter: f64) {
        self.renewal = Some(validity.renewal(jitter));
    }

    /// A certificate was ordered. One that is to be renewed at once (the clock is wrong) is followed by
    /// a pause like a failure.
    pub(super) fn handle_ordered(
        &mut self,
        validity: &Validity,
        jitter: f64,
        now: Instant,
        wall: SystemTime,
    ) {
        let renewal = validity.renewal(jitter);
        self.renewal = Some(renewal);
        if renewal <= wall {
            self.handle_failure(None, now);
        } else {
            self.failures = 0;
            self.pause_until = None;
        }
    }

    /// An order failed; the authority may have `wish`ed for a pause. Returns how long it is.
    pub(super) fn handle_failure(&mut self, wish: Option<Duration>, now: Instant) -> Duration {
        let own = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let pause = own.max(wish.unwrap_or_default().min(LONGEST_WISH));
        self.pause_until = Some(now + pause);
        pause
    }

    pub(super) fn next_step(&self, now: Instant, wall: SystemTime) -> Step {
        let after = |later: SystemTime| later.duration_since(wall).unwrap_or_default();
        let pause = self.pause_until.map_or(Duration::ZERO, |end| end.duration_since(now));
        let valid = self.renewal.map_or(Duration::ZERO, after).min(LOOK);
        match pause.max(valid) {
            Duration::ZERO => Step::Order,
            wait => Step::Wait(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn issued() -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY
    }

    fn ninety_days() -> Validity {
        Validity { not_before: issued(), not_after: issued() + 90 * DAY }
    }

    #[test]
    fn without_a_certificate_one_is_ordered_at_once() {
        assert_eq!(Schedule::default().next_step(Instant::now(), issued()), Step::Order);
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life_or_somewhat_earlier() {
        let now = Instant::now();
        for (jitter, due) in [(0.0, 60 * DAY), (1.0, 57 * DAY), (0.5, 58 * DAY + 12 * HOUR)] {
            let mut schedule = Schedule::default();
            schedule.handle_kept(&ninety_days(), jitter);
            assert_eq!(schedule.next_step(now, issued() + due), Step::Order, "{jitter}");
            let before = issued() + due - Duration::from_secs(5);
            assert_eq!(schedule.next_step(now, before), Step::Wait(Duration::from_secs(5)));
        }
    }

    #[test]
    fn a_clock_that_steps_is_seen_within_ten_minutes_and_one_from_1970_orders_nothing() {
        let mut schedule = Schedule::default();
        schedule.handle_kept(&ninety_days(), 0.0);
        let now = Instant::now();
        assert_eq!(schedule.next_step(now, UNIX_EPOCH), Step::Wait(LOOK));
        assert_eq!(schedule.next_step(now, issued() + DAY), Step::Wait(LOOK));
        assert_eq!(schedule.next_step(now + LOOK, issued() + 61 * DAY), Step::Order);
    }

    #[test]
    fn an_expired_certificate_is_ordered_anew_at_once() {
        let mut schedule = Schedule::default();
        schedule.handle_kept(&ninety_days(), 0.3);
        assert_eq!(schedule.next_step(Instant::now(), issued() + 1000 * DAY), Step::Order);
    }

    #[test]
    fn pauses_double_from_a_second_to_six_hours_and_success_ends_them() {
        let mut schedule = Schedule::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..18 {
            let pause = schedule.handle_failure(None, now);
            assert_eq!(schedule.next_step(now, issued()), Step::Wait(pause));
            now += pause;
            assert_eq!(schedule.next_step(now, issued()), Step::Order);
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses[..5], [1, 2, 4, 8, 16]);
        assert_eq!(pauses[14..], [16_384, 21_600, 21_600, 21_600]);
        schedule.handle_ordered(&ninety_days(), 0.0, now, issued());
        assert_eq!(schedule.next_step(now, issued()), Step::Wait(LOOK));
        assert_eq!(schedule.handle_failure(None, now).as_secs(), 1);
    }

    #[test]
    fn the_authoritys_wish_counts_when_it_is_longer_and_a_clock_that_steps_does_not_shorten_it() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        assert_eq!(schedule.handle_failure(Some(3 * HOUR), now), 3 * HOUR);
        let later = issued() + 400 * DAY;
        assert_eq!(schedule.next_step(now + HOUR, later), Step::Wait(2 * HOUR));
        assert_eq!(schedule.handle_failure(Some(Duration::ZERO), now).as_secs(), 2);
        assert_eq!(schedule.handle_failure(Some(20_000 * DAY), now), LONGEST_WISH);
    }

    #[test]
    fn a_new_certificate_that_is_due_at_once_is_not_ordered_in_a_loop() {
        let mut schedule = Schedule::default();
        let (now, wrong) = (Instant::now(), issued() + 1000 * DAY);
        for wait in [1, 2, 4] {
            schedule.handle_ordered(&ninety_days(), 0.0, now, wrong);
            assert_eq!(schedule.next_step(now, wrong), Step::Wait(Duration::from_secs(wait)));
        }
    }

    #[test]
    fn a_certificate_that_ends_before_it_begins_does_no_harm() {
        let never = Validity { not_before: issued() + DAY, not_after: issued() };
        assert_eq!(never.renewal(0.5), issued() + DAY);
    }
}
