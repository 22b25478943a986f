//! Joining: a device with a join key becomes one of the account's.

use warren_proto::{DeviceId, Register, Registered, is_unseen};

use super::Account;
use super::device::Device;
use crate::address::{allocate, ipv4, ipv6};
use crate::name::unique_name;
use crate::secret::secret_text;
use crate::{
    AccountRecord, Change, Ctx, DeviceRecord, JoinKeyRecord, Prepared, Proven, Refused, SecretHash,
};

const MAX_TEXT: usize = 64;

impl Account {
    /// Lets a device join, or join again.
    ///
    /// A device is its public key. One that the account knows keeps its id, name and addresses. It
    /// may repeat the join key that it joined with (a crash may have lost the reply), unless it has
    /// expired since: then only a key that anybody could use will do.
    ///
    /// # Errors
    /// [`Refused::JoinKeyUnknown`], [`Refused::JoinKeyUsed`], [`Refused::JoinKeyExpired`],
    /// [`Refused::AccountFull`], [`Refused::AccountSuspended`], or [`Refused::NotYourDevice`] for one
    /// that comes back by the word of somebody whose it isn't.
    pub fn prepare_register(
        &self,
        proven: &Proven,
        ctx: &Ctx,
    ) -> Result<Prepared<Registered>, Refused> {
        let register = proven.register();
        let key = self
            .join_key_by_hash
            .get(&SecretHash::of(&register.join_key))
            .and_then(|id| self.join_keys.get(id))
            .ok_or(Refused::JoinKeyUnknown)?;
        if self.record.settings.suspended {
            return Err(Refused::AccountSuspended);
        }
        let token = secret_text(&ctx.bytes("device token"));
        let mut changes = Vec::new();
        let known = self.device_by_key.get(&register.key).and_then(|id| self.devices.get(id));
        let record = match known {
            Some(device) => self.rejoin(device, key, ctx, &mut changes)?,
            None => self.join(register, key, ctx, &mut changes)?,
        };
        let record = DeviceRecord {
            token: Some(SecretHash::of(&token)),
            joined_by: Some(key.id),
            os: short(&register.os, MAX_TEXT),
            software: short(&register.software, MAX_TEXT),
            last_seen: Some(ctx.unix_time()),
            ..record
        };
        let reply = Registered {
            device: record.id,
            account: self.record.id,
            account_name: self.record.name.clone(),
            name: record.name.clone(),
            token,
        };
        changes.push(Change::Device(record));
        Ok(Prepared { changes, reply })
    }

    fn rejoin(
        &self,
        device: &Device,
        key: &JoinKeyRecord,
        ctx: &Ctx,
        changes: &mut Vec<Change>,
    ) -> Result<DeviceRecord, Refused> {
        let mut record = device.record.clone();
        let now = ctx.unix_time();
        if device.is_registered() && !record.is_expired(now) && record.joined_by == Some(key.id) {
            return Ok(record);
        }
        key.admits(now)?;
        if !key.approves && key.owner.is_some() && key.owner != record.owner {
            return Err(Refused::NotYourDevice);
        }
        changes.push(Change::JoinKey(used(key, ctx)));
        record.ephemeral = key.ephemeral;
        if !key.tags.is_empty() {
            record.tags.clone_from(&key.tags);
        }
        if record.tags.is_empty() {
            record.owner = record.owner.or(key.owner);
        }
        record.approved |= self.is_approved_by(key);
        record.expires = record.fresh_expiry(self.record.settings.key_expiry_days, now);
        Ok(record)
    }

    /// Whether a device that joins with this key need not wait.
    fn is_approved_by(&self, key: &JoinKeyRecord) -> bool {
        key.approves || !self.record.settings.device_approval
    }

    fn join(
        &self,
        register: &Register,
        key: &JoinKeyRecord,
        ctx: &Ctx,
        changes: &mut Vec<Change>,
    ) -> Result<DeviceRecord, Refused> {
        key.admits(ctx.unix_time())?;
        if self.devices.len() >= self.device_limit().0 as usize {
            return Err(Refused::AccountFull);
        }
        let taken = self.taken_addresses();
        let is_taken = |ip| taken.have(ip);
        let range = self.record.ipv4_range;
        let (offset, next_host) =
            allocate(range, self.record.next_host, is_taken).ok_or(Refused::AccountFull)?;
        changes.push(Change::JoinKey(used(key, ctx)));
        changes.push(Change::Account(AccountRecord { next_host, ..self.record.clone() }));
        let id = ctx.fresh_id("device id", |id| self.devices.contains_key(&DeviceId(id)));
        let mut record = DeviceRecord {
            id: DeviceId(id),
            key: register.key,
            name: unique_name(&register.name, |name| {
                // Whoever joins can't take rights along with a name that is free.
                self.device_by_name.contains_key(name) || self.rules.names(name)
            }),
            ipv4: ipv4(range, offset),
            ipv6: ipv6(self.record.ipv6_range, offset),
            token: None,
            joined_by: None,
            ephemeral: key.ephemeral,
            tags: key.tags.clone(),
            owner: key.owner,
            static_endpoint: None,
            approved: self.is_approved_by(key),
            expires: None,
            never_expires: false,
            os: String::new(),
            software: String::new(),
            created: ctx.unix_time(),
            last_seen: None,
        };
        let days = self.record.settings.key_expiry_days;
        record.expires = record.fresh_expiry(days, ctx.unix_time());
        Ok(record)
    }
}

fn used(key: &JoinKeyRecord, ctx: &Ctx) -> JoinKeyRecord {
    JoinKeyRecord {
        uses: key.uses.saturating_add(1),
        last_used: Some(ctx.unix_time()),
        ..key.clone()
    }
}

/// A device's own words, without what could disturb a terminal or a log; at most `max` bytes.
pub(crate) fn short(text: &str, max: usize) -> String {
    let mut short = String::new();
    // Some languages' writing takes joiners.
    let is_kept = |c: &char| matches!(c, '\u{200c}' | '\u{200d}') || !is_unseen(*c);
    for c in text.chars().filter(is_kept) {
        if short.len() + c.len_utf8() > max {
            break;
        }
        short.push(c);
    }
    short
}
