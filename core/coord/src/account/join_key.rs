//! Join keys: who may join, how often and until when.

use std::collections::BTreeSet;
use std::fmt;

use warren_proto::{JoinKeyId, UserId};

use super::Account;
use super::device::check_tags;
use crate::secret::secret_text;
use crate::{Change, Ctx, JoinKeyRecord, Prepared, Refused, SecretHash, Tag, UnixTime};

/// How many keys that a device could join with an account may have.
const MAX_JOIN_KEYS: usize = 1000;

/// How long a key that nobody can join with any more is still listed ...
const LISTED_AFTER_DEATH: u64 = 30 * 24 * 60 * 60;

/// ... and how many such keys are: those that died last.
const LISTED_DEAD: usize = 1000;

/// What a new join key is to be. By default it is one-time and does not expire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewJoinKey {
    /// Whether any number of devices may join with it.
    pub reusable: bool,
    /// Whether the devices that join with it are removed when they have been offline for a while.
    pub ephemeral: bool,
    /// How long it may be used, in seconds.
    pub expires_in: Option<u64>,
    /// The tags that devices get from it; at most 16.
    pub tags: BTreeSet<Tag>,
    /// The user to whom the devices belong that join with it.
    pub owner: Option<UserId>,
    /// Whether devices that join with it are approved by that, where the account approves devices.
    pub approves: bool,
}

/// A new join key. The secret exists nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinKeyCreated {
    /// Its id.
    pub id: JoinKeyId,
    /// The secret, for a [`warren_proto::JoinLink`].
    pub secret: String,
    /// From when on it is no longer accepted.
    pub expires: Option<UnixTime>,
}

impl fmt::Debug for JoinKeyCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinKeyCreated({})", self.id)
    }
}

impl JoinKeyRecord {
    /// Whether a device may join with the key now.
    ///
    /// # Errors
    /// [`Refused::JoinKeyUsed`] or [`Refused::JoinKeyExpired`].
    pub fn admits(&self, now: UnixTime) -> Result<(), Refused> {
        if !self.reusable && self.uses > 0 {
            return Err(Refused::JoinKeyUsed);
        }
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(Refused::JoinKeyExpired);
        }
        Ok(())
    }

    fn died(&self, now: UnixTime) -> Option<UnixTime> {
        match self.admits(now) {
            Ok(()) => None,
            Err(_) => self.last_used.max(self.expires.filter(|expires| *expires <= now)),
        }
    }
}

impl Account {
    /// Makes a join key. Keys that have been dead for 30 days, or are not among the 1,000 that died
    /// last, are swept away with it.
    ///
    /// # Errors
    /// [`Refused::Invalid`] for more than 16 tags, or when there are 1,000 keys in use.
    pub fn prepare_join_key(
        &self,
        new: NewJoinKey,
        ctx: &Ctx,
    ) -> Result<Prepared<JoinKeyCreated>, Refused> {
        check_tags(&new.tags)?;
        let now = ctx.unix_time();
        let mut dead: Vec<_> =
            self.join_keys.values().filter_map(|key| Some((key.died(now)?, key.id))).collect();
        if self.join_keys.len() - dead.len() >= MAX_JOIN_KEYS {
            return Err(Refused::Invalid("the account has 1,000 unused join keys; remove some"));
        }
        dead.sort_unstable_by_key(|died| std::cmp::Reverse(*died));
        let listed = dead
            .iter()
            .take_while(|(at, _)| at.0 + LISTED_AFTER_DEATH >= now.0)
            .take(LISTED_DEAD)
            .count();
        let mut changes: Vec<Change> =
            dead[listed..].iter().map(|(_, key)| Change::JoinKeyRemoved(*key)).collect();
        let id = ctx.fresh_id("join key id", |id| self.join_keys.contains_key(&JoinKeyId(id)));
        let secret = secret_text(&ctx.bytes("join key secret")[..24]);
        let expires = new.expires_in.map(|lifetime| UnixTime(now.0.saturating_add(lifetime)));
        let record = JoinKeyRecord {
            id: JoinKeyId(id),
            hash: SecretHash::of(&secret),
            reusable: new.reusable,
            ephemeral: new.ephemeral,
            tags: new.tags,
            owner: new.owner,
            approves: new.approves,
            created: now,
            expires,
            last_used: None,
            uses: 0,
        };
        changes.push(Change::JoinKey(record));
        Ok(Prepared { changes, reply: JoinKeyCreated { id: JoinKeyId(id), secret, expires } })
    }

    /// Deletes a join key. Devices that joined with it stay.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_remove_join_key(&self, key: JoinKeyId) -> Result<Prepared<()>, Refused> {
        if !self.join_keys.contains_key(&key) {
            return Err(Refused::NotFound("join key"));
        }
        Ok(Prepared { changes: vec![Change::JoinKeyRemoved(key)], reply: () })
    }

    pub(super) fn put_join_key(&mut self, key: JoinKeyRecord) {
        self.join_key_by_hash.insert(key.hash, key.id);
        self.join_keys.insert(key.id, key);
    }

    pub(super) fn drop_join_key(&mut self, id: JoinKeyId) {
        if let Some(key) = self.join_keys.remove(&id) {
            self.join_key_by_hash.remove(&key.hash);
        }
    }
}
