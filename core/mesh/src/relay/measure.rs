//! How quickly a relay answers: one Binding to each of its addresses (repeated only when lost), at
//! the start, after a change of the network, and then each hour. One that doesn't answer is asked
//! again sooner, ever more seldom; and at once when a relay is wanted and none answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_turn::TransactionId;

/// From one measurement to the next.
const INTERVAL: Duration = Duration::from_secs(3600);

/// The same for one that didn't answer; it doubles up to [`INTERVAL`].
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// One that didn't answer is asked before its time no sooner than this after the last attempt.
const HASTE: Duration = Duration::from_secs(5);

/// A question is repeated after this time.
const REPEAT: Duration = Duration::from_millis(300);

/// How often it is asked in all.
const TRIES: usize = 3;

/// One question.
#[derive(Debug, Clone, Copy)]
struct Question {
    id: TransactionId,
    to: SocketAddr,
    sent: Instant,
}

/// One relay's answers.
#[derive(Debug, Default)]
pub(crate) struct Measurement {
    open: Vec<Question>,
    /// How often each address has been asked this time.
    round: usize,
    best: Option<(Duration, SocketAddr)>,
    /// The best of the measurement under way.
    fresh: Option<(Duration, SocketAddr)>,
    failures: u32,
    /// When it was last given up.
    given_up: Option<Instant>,
    /// When something is due; `None`: never asked, so now.
    due: Option<Instant>,
    running: bool,
    asked: bool,
}

impl Measurement {
    /// The least round trip, if it answers.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.best.map(|(rtt, _)| rtt)
    }

    /// The address that answers the quickest.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.best.map(|(_, address)| address)
    }

    /// Whether it is known by now if it answers.
    pub(crate) fn is_settled(&self) -> bool {
        self.asked && !self.running
    }

    /// When it wants to be looked at.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        self.due.unwrap_or(now)
    }

    /// Asks anew, at once.
    pub(crate) fn restart(&mut self) {
        self.open.clear();
        self.fresh = None;
        self.running = false;
        self.due = None;
    }

    /// It is wanted: if it didn't answer, and that is not just now, it is asked again at once.
    pub(crate) fn hasten(&mut self, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= HASTE;
        if !self.running && self.best.is_none() && self.given_up.is_some_and(is_old) {
            self.due = Some(now);
        }
    }

    /// It was seen not to work; asks again at `at`.
    pub(crate) fn fail(&mut self, at: Instant) {
        self.restart();
        self.best = None;
        self.due = Some(at);
    }

    /// Whom to ask now; each is then told with [`Self::sent`].
    pub(crate) fn handle_timeout(
        &mut self,
        addresses: &[SocketAddr],
        now: Instant,
    ) -> Vec<SocketAddr> {
        if self.due.is_some_and(|due| due > now) {
            return Vec::new();
        }
        if !self.running {
            self.running = true;
            self.asked = true;
            self.round = 0;
            self.open.clear();
            self.fresh = None;
        }
        let unanswered: Vec<SocketAddr> = if self.round == 0 {
            addresses.to_vec()
        } else {
            let mut left: Vec<SocketAddr> = self.open.iter().map(|question| question.to).collect();
            left.sort_unstable();
            left.dedup();
            left
        };
        if unanswered.is_empty() || self.round >= TRIES || (self.round > 0 && self.fresh.is_some())
        {
            self.settle(now);
            return Vec::new();
        }
        self.round += 1;
        self.due = Some(now + REPEAT * u32::try_from(self.round).unwrap_or(1));
        unanswered
    }

    pub(crate) fn sent(&mut self, id: TransactionId, to: SocketAddr, now: Instant) {
        self.open.push(Question { id, to, sent: now });
    }

    /// Takes an answer; `None` if it isn't one to this relay's questions. Whether all is said.
    pub(crate) fn handle_answer(
        &mut self,
        id: TransactionId,
        from: SocketAddr,
        now: Instant,
    ) -> Option<bool> {
        let question = *self.open.iter().find(|open| open.id == id && open.to == from)?;
        self.open.retain(|open| open.to != from);
        let rtt = now.saturating_duration_since(question.sent);
        if self.fresh.is_none_or(|(best, _)| rtt < best) {
            self.fresh = Some((rtt, from));
        }
        let done = self.open.is_empty();
        if done {
            self.settle(now);
        }
        Some(done)
    }

    fn settle(&mut self, now: Instant) {
        self.running = false;
        self.open.clear();
        self.best = self.fresh.take();
        self.given_up = self.best.is_none().then_some(now);
        self.failures = if self.best.is_some() { 0 } else { self.failures.saturating_add(1) };
        let pause = match self.failures {
            0 => INTERVAL,
            failures => INTERVAL.min(FIRST_RETRY * 2u32.saturating_pow(failures.min(16) - 1)),
        };
        self.due = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn addresses() -> [SocketAddr; 2] {
        ["192.0.2.1:3478", "[2001:db8::1]:3478"].map(|address| address.parse().unwrap())
    }

    fn ask(measurement: &mut Measurement, serial: u8, now: Instant) -> Vec<SocketAddr> {
        let asked = measurement.handle_timeout(&addresses(), now);
        for (i, to) in asked.iter().enumerate() {
            measurement.sent(TransactionId([serial * 2 + i as u8; 12]), *to, now);
        }
        asked
    }

    #[test]
    fn the_quicker_of_two_addresses_counts_and_each_is_asked_once() {
        let (now, mut measurement) = (start(), Measurement::default());
        assert_eq!(ask(&mut measurement, 0, now), addresses());
        let [v4, v6] = addresses();
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(measurement.handle_answer(TransactionId([1; 12]), v4, at(10)), None);
        assert_eq!(measurement.handle_answer(TransactionId([0; 12]), v4, at(30)), Some(false));
        assert!(!measurement.is_settled());
        assert_eq!(measurement.handle_answer(TransactionId([1; 12]), v6, at(20)), Some(true));
        assert_eq!(
            (measurement.rtt(), measurement.address()),
            (Some(Duration::from_millis(20)), Some(v6))
        );
        assert_eq!(measurement.due(now), at(20) + INTERVAL);
    }

    #[test]
    fn one_that_does_not_answer_is_given_up_and_asked_again_ever_more_seldom() {
        let (mut now, mut measurement) = (start(), Measurement::default());
        let mut pauses = Vec::new();
        for serial in 0..8 {
            for _ in 0..TRIES {
                assert_eq!(ask(&mut measurement, serial, now).len(), 2);
                now = measurement.due(now);
            }
            assert_eq!(ask(&mut measurement, serial, now), []);
            assert!(measurement.is_settled() && measurement.rtt().is_none());
            pauses.push((measurement.due(now) - now).as_secs());
            now = measurement.due(now);
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn one_that_is_wanted_is_asked_again_before_its_time_but_not_at_once() {
        let (mut now, mut measurement) = (start(), Measurement::default());
        for _ in 0..TRIES {
            ask(&mut measurement, 0, now);
            now = measurement.due(now);
        }
        ask(&mut measurement, 0, now);
        let soon = now + HASTE - Duration::from_millis(1);
        measurement.hasten(soon);
        assert_eq!(ask(&mut measurement, 1, soon), [], "it was just asked");
        measurement.hasten(now + HASTE);
        assert_eq!(ask(&mut measurement, 1, now + HASTE), addresses());
        let answered =
            measurement.handle_answer(TransactionId([2; 12]), addresses()[0], now + HASTE);
        assert_eq!(answered, Some(false));
    }

    #[test]
    fn where_one_family_answers_the_other_is_not_waited_for_long() {
        let (now, mut measurement) = (start(), Measurement::default());
        ask(&mut measurement, 0, now);
        let [v4, _] = addresses();
        assert_eq!(measurement.handle_answer(TransactionId([0; 12]), v4, now), Some(false));
        let due = measurement.due(now);
        assert_eq!(ask(&mut measurement, 1, due), []);
        assert!(measurement.is_settled() && measurement.rtt().is_some());
    }
}
