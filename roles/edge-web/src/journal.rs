//! What has happened on this edge since it started: a short memory, for people who look for a reason.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// How much is remembered.
const LENGTH: usize = 500;
/// The longest entry, in bytes.
const LONGEST: usize = 300;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Entry {
    /// When, in seconds since the Unix epoch.
    pub(crate) at_unix: u64,
    /// What, in a sentence.
    pub(crate) text: String,
    /// The device from which it was asked, if it was.
    pub(crate) from: Option<String>,
    /// Whether something doesn't work.
    pub(crate) is_problem: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<VecDeque<Entry>>);

impl Journal {
    pub(crate) fn note(&self, text: impl Into<String>, from: Option<&str>, is_problem: bool) {
        let mut text: String = text.into();
        text.truncate(text.floor_char_boundary(LONGEST));
        let from = from.map(str::to_owned);
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == LENGTH {
            entries.pop_back();
        }
        entries.push_front(Entry { at_unix: unix_now(), text, from, is_problem });
    }

    /// All of it, the newest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let journal = Journal::default();
        for n in 0..LENGTH + 3 {
            journal.note(format!("{n}"), None, false);
        }
        let entries = journal.entries();
        assert_eq!((entries.len(), entries[0].text.as_str()), (LENGTH, "502"));
    }
}
