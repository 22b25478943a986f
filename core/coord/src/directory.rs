//! Broker-wide look-ups: which account a name, token or join key belongs to.

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};
use warren_proto::{AccountId, DeviceId, DeviceName, JoinKeyId, RelayId, check_range};

use crate::address::{choose_ipv4_range, overlap, ula};
use crate::name::check_new_name;
use crate::{
    AccountRecord, AccountSettings, Change, Ctx, Refused, RelayKind, RelayRecord, SecretHash,
    Snapshot,
};

/// What the directory knows of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountEntry {
    /// Its name.
    pub name: DeviceName,
    /// Its IPv4 range.
    pub ipv4_range: Ipv4Net,
    /// Its IPv6 range.
    pub ipv6_range: Ipv6Net,
}

/// Finds accounts, devices and join keys across the whole broker.
///
/// It is made from all snapshots and then told of every committed change.
#[derive(Debug, Default)]
pub struct Directory {
    accounts: BTreeMap<AccountId, AccountEntry>,
    account_by_name: BTreeMap<DeviceName, AccountId>,
    device_by_token: BTreeMap<SecretHash, (AccountId, DeviceId)>,
    token_by_device: BTreeMap<(AccountId, DeviceId), SecretHash>,
    join_key_by_hash: BTreeMap<SecretHash, (AccountId, JoinKeyId)>,
    hash_by_join_key: BTreeMap<(AccountId, JoinKeyId), SecretHash>,
    relay_by_token: BTreeMap<SecretHash, (AccountId, RelayId)>,
}

impl Directory {
    /// Makes a directory of no accounts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an account.
    pub fn insert(&mut self, snapshot: &Snapshot) {
        let id = snapshot.account.id;
        self.note_account(&snapshot.account);
        for device in &snapshot.devices {
            self.note_token(id, device.id, device.token);
        }
        for key in &snapshot.join_keys {
            self.note_join_key(id, key.id, Some(key.hash));
        }
        for relay in &snapshot.relays {
            self.note_relay(id, relay);
        }
    }

    /// Forgets an account with all its tokens and join keys.
    pub fn remove(&mut self, account: AccountId) {
        let Some(entry) = self.accounts.remove(&account) else { return };
        self.account_by_name.remove(&entry.name);
        self.token_by_device.retain(|(owner, _), _| *owner != account);
        self.device_by_token.retain(|_, (owner, _)| *owner != account);
        self.hash_by_join_key.retain(|(owner, _), _| *owner != account);
        self.join_key_by_hash.retain(|_, (owner, _)| *owner != account);
        self.relay_by_token.retain(|_, (owner, _)| *owner != account);
    }

    /// Takes notice of an account's committed changes.
    pub fn apply(&mut self, account: AccountId, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Account(record) => self.note_account(record),
                Change::Device(device) => self.note_token(account, device.id, device.token),
                Change::DeviceRemoved(id) => self.note_token(account, *id, None),
                Change::JoinKey(key) => self.note_join_key(account, key.id, Some(key.hash)),
                Change::JoinKeyRemoved(id) => self.note_join_key(account, *id, None),
                Change::Relay(relay) => self.note_relay(account, relay),
                Change::RelayRemoved(id) => {
                    self.relay_by_token.retain(|_, relay| *relay != (account, *id));
                }
                Change::LastSeen { .. }
                | Change::RelayList(_)
                | Change::Revoked { .. }
                | Change::RevocationOver(_)
                | Change::Policy(_)
                | Change::Webhook(_)
                | Change::WebhookRemoved(_)
                | Change::Edge(_)
                | Change::EdgeItem(_)
                | Change::EdgeItemRemoved { .. }
                | Change::EdgeWakes { .. } => {}
            }
        }
    }

    /// All accounts, by id.
    pub fn accounts(&self) -> impl Iterator<Item = (AccountId, &AccountEntry)> {
        self.accounts.iter().map(|(id, entry)| (*id, entry))
    }

    /// The account of that name.
    pub fn account_named(&self, name: &DeviceName) -> Option<AccountId> {
        self.account_by_name.get(name).copied()
    }

    /// The device that a bearer token belongs to.
    pub fn authenticate(&self, token: &str) -> Option<(AccountId, DeviceId)> {
        self.device_by_token.get(&SecretHash::of(token)).copied()
    }

    /// The relay server of an account that a bearer token belongs to.
    pub fn relay(&self, token: &str) -> Option<(AccountId, RelayId)> {
        self.relay_by_token.get(&SecretHash::of(token)).copied()
    }

    /// The join key with that secret.
    pub fn join_key(&self, secret: &str) -> Option<(AccountId, JoinKeyId)> {
        self.join_key_by_hash.get(&SecretHash::of(secret)).copied()
    }

    /// Decides what a new account is: its id and, unless given, its IPv4 range. It takes effect
    /// when the record is stored and then [inserted](Self::insert).
    ///
    /// # Errors
    /// [`Refused::NameTaken`], [`Refused::RangeTaken`], [`Refused::InvalidRange`], or
    /// [`Refused::Invalid`] for a name that is [reserved](DeviceName::is_reserved).
    pub fn prepare_account(
        &self,
        name: DeviceName,
        ipv4_range: Option<Ipv4Net>,
        ctx: &Ctx,
    ) -> Result<AccountRecord, Refused> {
        if self.account_by_name.contains_key(&name) {
            return Err(Refused::NameTaken(name));
        }
        check_new_name(&name)?;
        let ipv4_range = match ipv4_range {
            Some(range) => self.check_free(range)?,
            None => {
                let taken: Vec<Ipv4Net> = self.accounts.values().map(|a| a.ipv4_range).collect();
                choose_ipv4_range(ctx.bytes("account ipv4 range"), &taken)
            }
        };
        let id = ctx.fresh_id("account", |id| self.accounts.contains_key(&AccountId(id)));
        Ok(AccountRecord {
            id: AccountId(id),
            name,
            ipv4_range,
            ipv6_range: self.fresh_ula(ctx),
            next_host: crate::SERVICE_ADDRESSES,
            created: ctx.unix_time(),
            settings: AccountSettings::default(),
        })
    }

    fn check_free(&self, range: Ipv4Net) -> Result<Ipv4Net, Refused> {
        check_range(range)?;
        match self.accounts.values().find(|other| overlap(other.ipv4_range, range)) {
            Some(other) => Err(Refused::RangeTaken(other.name.clone())),
            None => Ok(range),
        }
    }

    fn fresh_ula(&self, ctx: &Ctx) -> Ipv6Net {
        (0u32..)
            .map(|n| ula(ctx.bytes(&format!("account ipv6 range {n}"))))
            .find(|range| !self.accounts.values().any(|other| other.ipv6_range == *range))
            .expect("2^32 draws of 40 bits do not all collide")
    }

    fn note_account(&mut self, record: &AccountRecord) {
        let entry = AccountEntry {
            name: record.name.clone(),
            ipv4_range: record.ipv4_range,
            ipv6_range: record.ipv6_range,
        };
        if let Some(old) = self.accounts.insert(record.id, entry) {
            self.account_by_name.remove(&old.name);
        }
        self.account_by_name.insert(record.name.clone(), record.id);
    }

    fn note_token(&mut self, account: AccountId, device: DeviceId, token: Option<SecretHash>) {
        if let Some(old) = self.token_by_device.remove(&(account, device)) {
            self.device_by_token.remove(&old);
        }
        if let Some(token) = token {
            self.token_by_device.insert((account, device), token);
            self.device_by_token.insert(token, (account, device));
        }
    }

    fn note_relay(&mut self, account: AccountId, relay: &RelayRecord) {
        if let RelayKind::Server { token } = relay.kind {
            self.relay_by_token.insert(token, (account, relay.id));
        }
    }

    fn note_join_key(&mut self, account: AccountId, key: JoinKeyId, hash: Option<SecretHash>) {
        if let Some(old) = self.hash_by_join_key.remove(&(account, key)) {
            self.join_key_by_hash.remove(&old);
        }
        if let Some(hash) = hash {
            self.hash_by_join_key.insert((account, key), hash);
            self.join_key_by_hash.insert(hash, (account, key));
        }
    }
}
