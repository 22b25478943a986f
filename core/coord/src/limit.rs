use std::time::{Duration, Instant};

/// A token bucket: `burst` at once, one more each `interval`.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// The moment at which the bucket is full again; the further ahead, the emptier it is.
    full_at: Option<Instant>,
}

impl Bucket {
    /// With all its tokens.
    pub fn full() -> Self {
        Self { full_at: None }
    }

    /// Whether nothing was taken lately.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }

    /// Gives a token back that was taken.
    pub(crate) fn give_back(&mut self, interval: Duration) {
        self.full_at = self.full_at.and_then(|at| at.checked_sub(interval));
    }

    /// Whether there is a token.
    pub fn has(&self, burst: u32, interval: Duration, now: Instant) -> bool {
        self.clone().take(burst, interval, now)
    }

    /// Takes one token, or says that there is none.
    pub fn take(&mut self, burst: u32, interval: Duration, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        if full_at.duration_since(now) + interval > interval * burst {
            return false;
        }
        self.full_at = Some(full_at + interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut now = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = Bucket::full();
        let taken =
            |bucket: &mut Bucket, now| (0..9).filter(|_| bucket.take(3, second, now)).count();
        assert_eq!(taken(&mut bucket, now), 3);
        now += second * 2;
        assert_eq!(taken(&mut bucket, now), 2);
        now += second * 100;
        assert_eq!(taken(&mut bucket, now), 3);
    }
}
