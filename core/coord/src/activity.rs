//! Activity: who did what to what, when and from where.
//!
//! Entries are not written by who changes something: they are derived from a decision's changes and
//! the records before them ([`crate::Account::activity`], [`crate::People::activity`]), and
//! committed with the changes. So nothing can be changed without one. When devices, sessions and
//! tokens were used last is no entry; nor is what expires by itself. Secrets are in none: that one
//! was changed is all that is said.
//!
//! # The chain
//!
//! Each account has a chain of its own, and the broker one for the rest. An entry's hash is SHA-256
//! over the words `warren activity 1`, the chain, the sequence number, the hash before (32 zero
//! bytes before the first) and all that the entry says, each part behind its length as 8 big-endian
//! bytes; what is absent has the length 2^64 - 1 and no bytes. Whoever keeps an entry's hash can
//! tell later whether anything up to it was changed or taken out.

mod facts;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ring::digest;
use thiserror::Error;
use warren_proto::{AccountId, ApiTokenId, DeviceId, DeviceName, ParseIdError, UserId};

use crate::Email;

pub(crate) use facts::{Facts, diff};

/// What stands before the first entry's hash.
pub const CHAIN_START: [u8; 32] = [0; 32];

/// Who asks for a change, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// Who.
    pub actor: Actor,
    /// From where, if it came over the network.
    pub source: Option<IpAddr>,
}

impl By {
    /// The broker itself: housekeeping.
    pub const BROKER: Self = Self { actor: Actor::Broker, source: None };

    /// An operator at the broker's local socket.
    pub fn local(uid: u32) -> Self {
        Self { actor: Actor::Local { uid }, source: None }
    }

    /// A device of the account.
    pub fn device(id: DeviceId, name: DeviceName, source: Option<IpAddr>) -> Self {
        Self { actor: Actor::Device { id, name }, source }
    }
}

/// Who changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Somebody who is signed in, or just signs in.
    User {
        /// His id.
        id: UserId,
        /// His e-mail address.
        email: Email,
    },
    /// The holder of an API token.
    Token {
        /// The token.
        id: ApiTokenId,
        /// Its name.
        name: String,
    },
    /// The holder of a one-time link.
    Link,
    /// Who wants to join or to register: a device, with a join key.
    JoinKey,
    /// A device.
    Device {
        /// Its id.
        id: DeviceId,
        /// Its name.
        name: DeviceName,
    },
    /// An operator at the broker's local socket.
    Local {
        /// His user id at the operating system.
        uid: u32,
    },
    /// The broker itself.
    Broker,
}

/// Something or somebody that an entry speaks of, as it was called then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it is: `user`, `device`, ...
    pub kind: String,
    /// Its id; empty where there is but one.
    pub id: String,
    /// What it was called.
    pub name: String,
}

impl Named {
    pub(crate) fn new(kind: &str, id: impl fmt::Display, name: impl fmt::Display) -> Self {
        Self { kind: kind.to_owned(), id: id.to_string(), name: name.to_string() }
    }
}

impl From<&Actor> for Named {
    fn from(actor: &Actor) -> Self {
        match actor {
            Actor::User { id, email } => Self::new("user", id, email),
            Actor::Token { id, name } => Self::new("api-token", id, name),
            Actor::Link => Self::new("link", "", "holder of a one-time link"),
            Actor::JoinKey => Self::new("join-key", "", "holder of a join key"),
            Actor::Device { id, name } => Self::new("device", id, name),
            Actor::Local { uid } => {
                Self::new("local", uid, format_args!("operator (local socket, uid {uid})"))
            }
            Actor::Broker => Self::new("broker", "", "the broker itself"),
        }
    }
}

/// A fact that has changed. Of a secret neither side is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Which.
    pub field: String,
    /// What it was.
    pub before: Option<String>,
    /// What it became.
    pub after: Option<String>,
}

/// An entry of Activity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// Who.
    pub actor: Named,
    /// From where.
    pub source: Option<IpAddr>,
    /// The account that it concerns.
    pub account: Option<AccountId>,
    /// What was done: `device.renamed`, ...
    pub action: String,
    /// To what.
    pub subject: Named,
    /// What it changed.
    pub fields: Vec<FieldChange>,
}

impl Entry {
    /// An entry without details.
    pub fn new(action: &str, subject: Named, account: Option<AccountId>, by: &By, at: u64) -> Self {
        Self {
            at,
            actor: Named::from(&by.actor),
            source: by.source,
            account,
            action: action.to_owned(),
            subject,
            fields: Vec::new(),
        }
    }

    pub(crate) fn with(self, fields: Vec<FieldChange>) -> Self {
        Self { fields, ..self }
    }

    /// An entry about the broker itself: `broker.backup`, `broker.restored`, ...
    pub fn broker(action: &str, by: &By, at: u64) -> Self {
        Self::new(action, Named::new("broker", "", "broker"), None, by, at)
    }
}

/// Which chain an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// What happens across accounts: people, operator's relays, accounts themselves.
    Broker,
    /// What happens in one account.
    Account(AccountId),
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker => f.write_str("broker"),
            Self::Account(id) => write!(f, "{id}"),
        }
    }
}

impl FromStr for Chain {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<Self, ParseIdError> {
        match s {
            "broker" => Ok(Self::Broker),
            id => id.parse().map(Self::Account),
        }
    }
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainedEntry {
    /// Its chain.
    pub chain: Chain,
    /// Its number there, from 1.
    pub sequence: u64,
    /// What it says.
    pub entry: Entry,
    /// The hash of the entry before it.
    pub previous: [u8; 32],
    /// Its own hash.
    pub hash: [u8; 32],
}

impl ChainedEntry {
    /// Puts an entry behind the one with that number and hash.
    pub fn append(chain: Chain, last: u64, previous: [u8; 32], entry: Entry) -> Self {
        let sequence = last + 1;
        let hash = hash(chain, sequence, &previous, &entry);
        Self { chain, sequence, entry, previous, hash }
    }
}

/// A chain is broken: something was changed, taken out or put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the chain '{chain}' is broken at entry {sequence}")]
pub struct ChainBroken {
    /// Which chain.
    pub chain: Chain,
    /// The first entry that doesn't follow from the one before.
    pub sequence: u64,
}

/// Checks the entries of one chain, in order, one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainCheck {
    chain: Chain,
    last: Option<(u64, [u8; 32])>,
}

impl ChainCheck {
    /// Begins with whatever entry comes first: older ones may have been deleted.
    pub fn new(chain: Chain) -> Self {
        Self { chain, last: None }
    }

    /// Checks the next entry.
    ///
    /// # Errors
    /// [`ChainBroken`].
    pub fn next(&mut self, next: &ChainedEntry) -> Result<(), ChainBroken> {
        let broken = ChainBroken { chain: self.chain, sequence: next.sequence };
        let follows = match self.last {
            Some((sequence, hash)) => next.sequence == sequence + 1 && next.previous == hash,
            None => next.sequence > 1 || next.previous == CHAIN_START,
        };
        let own = hash(self.chain, next.sequence, &next.previous, &next.entry);
        if next.chain != self.chain || !follows || own != next.hash {
            return Err(broken);
        }
        self.last = Some((next.sequence, next.hash));
        Ok(())
    }

    /// The number and hash of the last entry that was checked: keep it elsewhere, and nobody can
    /// change what led to it unnoticed.
    pub fn head(&self) -> Option<(u64, [u8; 32])> {
        self.last
    }
}

fn hash(chain: Chain, sequence: u64, previous: &[u8; 32], entry: &Entry) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: Option<&[u8]>| {
        let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        context.update(&length.to_be_bytes());
        context.update(bytes.unwrap_or_default());
    };
    part(Some(b"warren activity 1"));
    part(Some(chain.to_string().as_bytes()));
    part(Some(&sequence.to_be_bytes()));
    part(Some(previous));
    part(Some(&entry.at.to_be_bytes()));
    for named in [&entry.actor, &entry.subject] {
        for text in [&named.kind, &named.id, &named.name] {
            part(Some(text.as_bytes()));
        }
    }
    part(entry.source.map(|source| source.to_string()).as_deref().map(str::as_bytes));
    part(entry.account.map(|account| account.0.to_be_bytes()).as_ref().map(|bytes| &bytes[..]));
    part(Some(entry.action.as_bytes()));
    part(Some(&(entry.fields.len() as u64).to_be_bytes()));
    for FieldChange { field, before, after } in &entry.fields {
        part(Some(field.as_bytes()));
        part(before.as_deref().map(str::as_bytes));
        part(after.as_deref().map(str::as_bytes));
    }
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<ChainedEntry> {
        let mut chain: Vec<ChainedEntry> = Vec::new();
        for n in 0..5u64 {
            let by = By::local(u32::try_from(n).unwrap());
            let subject = Named::new("device", n, "kitchen-pi");
            let before = (n % 2 == 0).then(|| "a".to_owned());
            let change = FieldChange { field: "name".to_owned(), before, after: None };
            let entry = Entry::new("device.changed", subject, Some(AccountId(7)), &by, 1_000 + n)
                .with(vec![change]);
            let (last, hash) = chain.last().map_or((0, CHAIN_START), |it| (it.sequence, it.hash));
            chain.push(ChainedEntry::append(Chain::Account(AccountId(7)), last, hash, entry));
        }
        chain
    }

    fn check(entries: &[ChainedEntry]) -> Option<u64> {
        let mut check = ChainCheck::new(Chain::Account(AccountId(7)));
        entries.iter().find_map(|entry| check.next(entry).err()).map(|broken| broken.sequence)
    }

    #[test]
    fn a_chain_holds_and_shows_whatever_was_changed() {
        let good = entries();
        assert_eq!(check(&good), None);
        assert_eq!(check(&good[2..]), None, "older entries may be gone");
        let mut gap = good.clone();
        gap.remove(2);
        assert_eq!(check(&gap), Some(4));
        let mut swapped = good.clone();
        swapped.swap(1, 2);
        assert_eq!(check(&swapped), Some(3));
        let edits: [fn(&mut Entry); 10] = [
            |entry| entry.at += 1,
            |entry| entry.actor.id = "0".to_owned(),
            |entry| entry.actor.kind.push('x'),
            |entry| entry.source = Some([192, 0, 2, 1].into()),
            |entry| entry.account = None,
            |entry| entry.action = "device.removed".to_owned(),
            |entry| entry.subject.name = "attic-pi".to_owned(),
            |entry| entry.fields[0].before = Some(String::new()),
            |entry| entry.fields[0].after = Some(String::new()),
            |entry| entry.fields.clear(),
        ];
        for edit in edits {
            let mut changed = good.clone();
            edit(&mut changed[3].entry);
            assert_eq!(check(&changed), Some(4));
        }
    }

    /// What was written once must be checkable for ever.
    #[test]
    fn the_hash_is_as_ever() {
        let hex: String = entries()[4].hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "e6689bc2895cfb5cf865fef3fbd213e5cecf9bf04997c3eeb6d82254ed18d3ef");
    }
}
