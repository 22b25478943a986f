use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use warren_proto::{AccountId, DeviceId, DeviceName, JoinKeyId, PublicKey, UserId};

use crate::{
    DeviceLimit, EdgeItemRecord, EdgeRecord, ListedRelay, RelayRecord, SecretHash, UnixTime,
    WebhookRecord,
};

/// A tag was not a usable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a tag has 1 to 32 lower-case letters, digits and inner hyphens")]
pub struct InvalidTag;

/// A word that marks devices of a kind, e.g. `server`: 1 to 32 lower-case letters, digits and
/// inner hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(s: &str) -> Result<Self, InvalidTag> {
        let fits = (1..=32).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-');
        if fits { Ok(Self(s.to_owned())) } else { Err(InvalidTag) }
    }
}

impl TryFrom<String> for Tag {
    type Error = InvalidTag;

    fn try_from(s: String) -> Result<Self, InvalidTag> {
        s.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An account as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRecord {
    /// Its id.
    pub id: AccountId,
    /// Its name, unique at the broker: a label of its devices' DNS names.
    pub name: DeviceName,
    /// The range that its devices' IPv4 addresses come from.
    pub ipv4_range: Ipv4Net,
    /// The ULA /48 that its devices' IPv6 addresses come from (RFC 4193).
    pub ipv6_range: Ipv6Net,
    /// The high-water mark of addresses: the lowest offset into the range that no device ever had.
    pub next_host: u32,
    /// When it was created.
    pub created: UnixTime,
    /// What its admins and the broker's operator have set.
    pub settings: AccountSettings,
}

/// What is set for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountSettings {
    /// Whether the operator has suspended it: its devices are cut off until it goes on.
    pub suspended: bool,
    /// How many devices it may have, where that differs from the broker's limit.
    pub device_limit: Option<DeviceLimit>,
    /// How many people it may have; `None`: any number.
    pub user_limit: Option<u32>,
    /// Whether a new device waits until an admin approves it.
    pub device_approval: bool,
    /// After how many days a device must show anew that it may be there; `None`: never.
    pub key_expiry_days: Option<u16>,
    /// For how many days Activity is kept; `None`: for ever.
    pub activity_days: Option<u16>,
}

impl AccountSettings {
    /// A year.
    const ACTIVITY_DAYS: u16 = 365;
}

impl Default for AccountSettings {
    fn default() -> Self {
        Self {
            suspended: false,
            device_limit: None,
            user_limit: None,
            device_approval: false,
            key_expiry_days: None,
            activity_days: Some(Self::ACTIVITY_DAYS),
        }
    }
}

/// A device as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its id, for life.
    pub id: DeviceId,
    /// Its public key, for life: a new key is a new device.
    pub key: PublicKey,
    /// Its name, unique in the account.
    pub name: DeviceName,
    /// Its mesh IPv4 address, for life.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address, for life.
    pub ipv6: Ipv6Addr,
    /// The hash of its bearer token; `None`: it was expired and must join again.
    pub token: Option<SecretHash>,
    /// The join key that it joined with last.
    pub joined_by: Option<JoinKeyId>,
    /// Whether it is removed when it has been offline for [`crate::EPHEMERAL_AFTER`].
    pub ephemeral: bool,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// The user that it belongs to, if any.
    pub owner: Option<UserId>,
    /// The endpoint that an admin set.
    pub static_endpoint: Option<SocketAddr>,
    /// Whether it may see others and be seen: where devices are approved, not before an admin has.
    pub approved: bool,
    /// From when on it must join again, or somebody must renew it.
    pub expires: Option<UnixTime>,
    /// Whether it never expires, whatever is set for the account. Devices with tags don't, either.
    pub never_expires: bool,
    /// Its operating system, as it said when it joined; at most 64 bytes.
    pub os: String,
    /// Its software's version, as it said when it joined; at most 64 bytes.
    pub software: String,
    /// When it joined first.
    pub created: UnixTime,
    /// When it was heard of last; written in batches, so it may lag by
    /// [`crate::HOUSEKEEPING_INTERVAL`].
    pub last_seen: Option<UnixTime>,
}

/// A join key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinKeyRecord {
    /// Its id, which is safe to show.
    pub id: JoinKeyId,
    /// The hash of the secret.
    pub hash: SecretHash,
    /// Whether any number of devices may join with it.
    pub reusable: bool,
    /// Whether the devices that join with it are ephemeral.
    pub ephemeral: bool,
    /// The tags that devices get from it.
    pub tags: BTreeSet<Tag>,
    /// The user to whom the devices belong that join with it.
    pub owner: Option<UserId>,
    /// Whether devices that join with it are approved by that.
    pub approves: bool,
    /// When it was created.
    pub created: UnixTime,
    /// From when on it is no longer accepted.
    pub expires: Option<UnixTime>,
    /// When a device last joined with it.
    pub last_used: Option<UnixTime>,
    /// How many joins were granted by it.
    pub uses: u32,
}

/// An account's policy as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRecord {
    /// How often it was changed.
    pub version: u64,
    /// The text, as it was written; without one, the text that every account begins with.
    pub text: Option<String>,
}

impl PolicyRecord {
    /// A new account's.
    pub const INITIAL: Self = Self { version: 0, text: None };
}

/// All of an account that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The account itself.
    pub account: AccountRecord,
    /// Its devices.
    pub devices: Vec<DeviceRecord>,
    /// Its join keys.
    pub join_keys: Vec<JoinKeyRecord>,
    /// Its relays.
    pub relays: Vec<RelayRecord>,
    /// Its list of connection relays, in order.
    pub relay_list: Vec<ListedRelay>,
    /// Devices that were removed, and until when relays are to refuse them.
    pub revoked: BTreeMap<DeviceId, UnixTime>,
    /// Its policy.
    pub policy: PolicyRecord,
    /// Its webhooks.
    pub webhooks: Vec<WebhookRecord>,
    /// Its edges.
    pub edges: Vec<EdgeRecord>,
    /// What they open.
    pub edge_items: Vec<EdgeItemRecord>,
}

impl Snapshot {
    /// A new account's: without devices or join keys.
    pub fn empty(account: AccountRecord) -> Self {
        Self {
            account,
            devices: Vec::new(),
            join_keys: Vec::new(),
            relays: Vec::new(),
            relay_list: Vec::new(),
            revoked: BTreeMap::new(),
            policy: PolicyRecord::INITIAL,
            webhooks: Vec::new(),
            edges: Vec::new(),
            edge_items: Vec::new(),
        }
    }

    /// What the snapshot is after a commit of `changes`: the meaning that every store gives them.
    pub fn apply(&mut self, changes: &[crate::Change]) {
        use crate::Change;
        for change in changes {
            match change {
                Change::Account(account) => self.account = account.clone(),
                Change::Device(device) => {
                    self.devices.retain(|other| other.id != device.id);
                    self.devices.push(device.clone());
                }
                Change::DeviceRemoved(id) => {
                    self.devices.retain(|device| device.id != *id);
                    self.edges.retain(|edge| edge.device != *id);
                    self.edge_items.retain(|item| item.edge != *id);
                }
                Change::LastSeen { device: id, at } => {
                    for device in self.devices.iter_mut().filter(|device| device.id == *id) {
                        device.last_seen = Some(*at);
                    }
                }
                Change::JoinKey(key) => {
                    self.join_keys.retain(|other| other.id != key.id);
                    self.join_keys.push(key.clone());
                }
                Change::JoinKeyRemoved(id) => self.join_keys.retain(|key| key.id != *id),
                Change::Relay(relay) => {
                    self.relays.retain(|other| other.id != relay.id);
                    self.relays.push(relay.clone());
                }
                Change::RelayRemoved(id) => self.relays.retain(|relay| relay.id != *id),
                Change::RelayList(list) => self.relay_list.clone_from(list),
                Change::Revoked { device, until } => {
                    self.revoked.insert(*device, *until);
                }
                Change::RevocationOver(device) => {
                    self.revoked.remove(device);
                }
                Change::Policy(policy) => self.policy.clone_from(policy),
                Change::Webhook(webhook) => {
                    self.webhooks.retain(|other| other.id != webhook.id);
                    self.webhooks.push(webhook.clone());
                }
                Change::WebhookRemoved(id) => self.webhooks.retain(|it| it.id != *id),
                Change::Edge(edge) => {
                    self.edges.retain(|other| other.device != edge.device);
                    self.edges.push(*edge);
                }
                Change::EdgeItem(record) => {
                    let key = (record.edge, record.item.id());
                    self.edge_items.retain(|other| (other.edge, other.item.id()) != key);
                    self.edge_items.push(record.clone());
                }
                Change::EdgeItemRemoved { edge, id } => {
                    let key = (*edge, *id);
                    self.edge_items.retain(|other| (other.edge, other.item.id()) != key);
                }
                Change::EdgeWakes { .. } => {}
            }
        }
        self.devices.sort_by_key(|device| device.id);
        self.join_keys.sort_by_key(|key| key.id);
        self.relays.sort_by_key(|relay| relay.id);
        self.webhooks.sort_by_key(|webhook| webhook.id);
        self.edges.sort_by_key(|edge| edge.device);
        self.edge_items.sort_by_key(|record| (record.edge, record.item.id()));
    }
}
