//! How much went through what is open: sums over time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use warren_edge::EdgeReport;

/// How often a sum is kept, and how many: an hour.
pub(crate) const EACH: Duration = Duration::from_secs(20);
const KEPT: usize = 180;

/// Bytes through everything that is open, each [`EACH`].
#[derive(Debug, Default)]
pub(crate) struct Traffic(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: Option<u64>,
    rates: VecDeque<u64>,
}

impl Traffic {
    pub(crate) fn keep(&self, report: &EdgeReport) {
        let sum: u64 = report.uses.values().map(|it| it.bytes).sum();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = kept.last.replace(sum) {
            if kept.rates.len() == KEPT {
                kept.rates.pop_front();
            }
            // Counters begin anew with whatever was set anew.
            kept.rates.push_back(sum.saturating_sub(last) / EACH.as_secs());
        }
    }

    /// Bytes in a second, the oldest first.
    pub(crate) fn rates(&self) -> Vec<u64> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.rates.iter().copied().collect()
    }
}
