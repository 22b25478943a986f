//! Checks exported Activity without the broker: JSON lines, as `warren admin audit export` writes
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

use thiserror::Error;
use warren_coord::{
    Chain, ChainCheck, ChainedEntry, Entry, FieldChange as CoordChange, Named as CoordNamed,
};
use warren_proto::AccountId;

use super::people_types::{ActivityEntry, FieldChange, Named};

/// A file of Activity can't be checked.
#[derive(Debug, Error)]
pub enum ActivityFileError {
    /// It can't be read.
    #[error("can't read the file: {0}")]
    Io(#[from] std::io::Error),
    /// A line is no entry.
    #[error("line {0} is no entry of Activity: give a file of `warren admin audit export`")]
    NoEntry(usize),
}

/// What a file holds of one chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileChain {
    /// Which: `broker`, or an account's id.
    pub chain: String,
    /// How many entries there are.
    pub entries: u64,
    /// The number of the first one.
    pub first: u64,
    /// The number of the last one ...
    pub last: u64,
    /// ... and its hash.
    pub hash: String,
    /// How often entries are missing between two others.
    pub gaps: u64,
    /// Whether that is as it must be: of the broker's chain an account has but its own entries.
    pub is_part: bool,
    /// The first entry that was changed, or doesn't follow from the one before it.
    pub broken_at: Option<u64>,
}

impl FileChain {
    /// Whether nothing was changed or taken out, as far as the file can tell.
    pub fn is_whole(&self) -> bool {
        self.broken_at.is_none() && (self.gaps == 0 || self.is_part)
    }
}

struct Checking {
    check: ChainCheck,
    found: FileChain,
    accounts: BTreeSet<Option<AccountId>>,
}

/// Checks all chains of a file, by chain.
///
/// # Errors
/// [`ActivityFileError`]. That something was changed is none: the result says so.
pub fn verify_activity(file: impl BufRead) -> Result<Vec<FileChain>, ActivityFileError> {
    let mut chains: BTreeMap<Chain, Checking> = BTreeMap::new();
    for (number, line) in (1..).zip(file.lines()) {
        let line = line?;
        let entry = read(&line).ok_or(ActivityFileError::NoEntry(number))?;
        chains.entry(entry.chain).or_insert_with(|| Checking::new(&entry)).take(&entry);
    }
    Ok(chains.into_values().map(Checking::done).collect())
}

impl Checking {
    fn new(first: &ChainedEntry) -> Self {
        Self {
            check: ChainCheck::new(first.chain),
            found: FileChain {
                chain: first.chain.to_string(),
                entries: 0,
                first: first.sequence,
                last: first.sequence,
                hash: String::new(),
                gaps: 0,
                is_part: false,
                broken_at: None,
            },
            accounts: BTreeSet::new(),
        }
    }

    fn take(&mut self, entry: &ChainedEntry) {
        let found = &mut self.found;
        if found.entries > 0 && entry.sequence > found.last + 1 {
            found.gaps += 1;
            self.check = ChainCheck::new(entry.chain);
        }
        found.entries += 1;
        found.last = entry.sequence;
        found.hash = hex(&entry.hash);
        self.accounts.insert(entry.entry.account);
        if let Err(broken) = self.check.next(entry) {
            found.broken_at = found.broken_at.or(Some(broken.sequence));
        }
    }

    fn done(mut self) -> FileChain {
        let of_one_account = self.accounts.len() == 1 && !self.accounts.contains(&None);
        self.found.is_part = self.found.chain == Chain::Broker.to_string() && of_one_account;
        self.found
    }
}

fn read(line: &str) -> Option<ChainedEntry> {
    let entry: ActivityEntry = serde_json::from_str(line).ok()?;
    let named = |it: Named| CoordNamed { kind: it.kind, id: it.id, name: it.name };
    let change =
        |it: FieldChange| CoordChange { field: it.field, before: it.before, after: it.after };
    Some(ChainedEntry {
        chain: entry.chain.parse().ok()?,
        sequence: entry.sequence,
        entry: Entry {
            at: entry.at_millis,
            actor: named(entry.actor),
            source: entry.source,
            account: entry.account,
            action: entry.action,
            subject: named(entry.subject),
            fields: entry.changes.into_iter().map(change).collect(),
        },
        previous: unhex(&entry.previous)?,
        hash: unhex(&entry.hash)?,
    })
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use warren_coord::{By, CHAIN_START};

    use super::super::activity::entry_view;
    use super::*;

    /// Lines of the broker's chain, about one account or about none.
    fn lines(account: Option<AccountId>) -> Vec<String> {
        let (mut last, mut previous) = (0, CHAIN_START);
        let mut lines = Vec::new();
        for n in 0..5 {
            let entry = Entry { account, ..Entry::broker("broker.backup", &By::local(n), 7_000) };
            let chained = ChainedEntry::append(Chain::Broker, last, previous, entry);
            (last, previous) = (chained.sequence, chained.hash);
            lines.push(serde_json::to_string(&entry_view(chained)).unwrap());
        }
        lines
    }

    fn check(lines: &[String]) -> FileChain {
        verify_activity(lines.join("\n").as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_file_that_was_changed_or_has_lost_a_line_is_found_out() {
        let good = lines(None);
        let whole = check(&good);
        assert!(whole.is_whole() && (whole.first, whole.last, whole.entries) == (1, 5, 5));
        assert!(check(&good[2..]).is_whole(), "older entries may have been pruned");
        let mut changed = good.clone();
        changed[2] = changed[2].replace("uid 2", "uid 9");
        assert_eq!(check(&changed).broken_at, Some(3));
        let mut lost = good.clone();
        lost.remove(2);
        assert!(!check(&lost).is_whole() && check(&lost).gaps == 1);
        let mut swapped = good;
        swapped.swap(1, 2);
        assert!(check(&swapped).broken_at.is_some());
        assert!(matches!(verify_activity(&b"{}"[..]), Err(ActivityFileError::NoEntry(1))));
    }

    #[test]
    fn what_an_account_has_of_the_brokers_chain_may_have_gaps() {
        let mut part = lines(Some(AccountId(7)));
        part.remove(2);
        assert!(check(&part).is_whole());
    }
}
