//! What an admin is shown.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use warren_proto::{
    Admission, DeviceId, DeviceName, Endpoint, JoinKeyId, NatReport, PublicKey, UserId,
};

use super::device::Device;
use super::housekeeping::wall_clock;
use super::{Account, DeviceFace};
use crate::{JoinKeyRecord, Refused, Tag, UnixTime};

/// A device as an admin sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// Its name.
    pub name: DeviceName,
    /// Its name in DNS, without a trailing dot.
    pub dns_name: String,
    /// Its public key.
    pub key: PublicKey,
    /// Its mesh IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Whether it is connected to the broker.
    pub online: bool,
    /// Whether it is in the mesh, and if not, why.
    pub admission: Admission,
    /// From when on it must be renewed.
    pub expires: Option<UnixTime>,
    /// Whether it never expires, whatever is set for the account.
    pub never_expires: bool,
    /// Whether two machines were noticed within the last hour that both use this identity.
    pub cloned: bool,
    /// When it was heard of last.
    pub last_seen: Option<UnixTime>,
    /// Where it may be reached, as of its last check-in with this broker process.
    pub endpoints: Vec<Endpoint>,
    /// What it knows of the NATs in front of it.
    pub nat: NatReport,
    /// The endpoint that an admin set.
    pub static_endpoint: Option<SocketAddr>,
    /// Whether it is removed when it has been offline for a while.
    pub ephemeral: bool,
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// The user that it belongs to, if any.
    pub owner: Option<UserId>,
    /// Its operating system.
    pub os: String,
    /// Its software's version.
    pub software: String,
    /// When it joined first.
    pub created: UnixTime,
    /// The join key that it joined with last.
    pub joined_by: Option<JoinKeyId>,
}

/// Whether a join key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum JoinKeyStatus {
    /// A device may join with it.
    Usable,
    /// It was a one-time key.
    Used,
    /// Its time is over.
    Expired,
}

/// A join key as an admin sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinKeyView {
    /// Its id.
    pub id: JoinKeyId,
    /// Whether it can be used.
    pub status: JoinKeyStatus,
    /// Whether any number of devices may join with it.
    pub reusable: bool,
    /// Whether devices that join with it are ephemeral.
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

impl Account {
    /// All devices, by id. `unix` is the wall clock at `now`, as time since the Unix epoch.
    pub fn devices(&self, now: Instant, unix: Duration) -> impl Iterator<Item = DeviceView> {
        self.devices.values().map(move |device| self.view(device, now, unix))
    }

    /// One device. `unix` is the wall clock at `now`, as time since the Unix epoch.
    pub fn device(&self, id: DeviceId, now: Instant, unix: Duration) -> Option<DeviceView> {
        self.devices.get(&id).map(|device| self.view(device, now, unix))
    }

    /// The device of that name, expired or not.
    pub fn device_named(&self, name: &DeviceName) -> Option<DeviceId> {
        self.device_by_name.get(name).copied()
    }

    /// The name of a device, expired or not.
    pub fn device_name(&self, id: DeviceId) -> Option<DeviceName> {
        self.devices.get(&id).map(|device| device.record.name.clone())
    }

    /// The user that a device belongs to.
    pub fn device_owner(&self, id: DeviceId) -> Option<UserId> {
        self.devices.get(&id).and_then(|device| device.record.owner)
    }

    /// How many devices there are, expired ones too.
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// All join keys, by id.
    pub fn join_keys(&self, now: UnixTime) -> impl Iterator<Item = JoinKeyView> {
        self.join_keys.values().map(move |key| join_key_view(key, now))
    }

    fn view(&self, device: &Device, now: Instant, unix: Duration) -> DeviceView {
        let record = &device.record;
        let DeviceFace { endpoints, reported } = DeviceFace::of(device);
        let seen = if device.session.is_some() { Some(now) } else { device.seen };
        let last_seen = seen.map(|seen| wall_clock(unix, now.duration_since(seen)));
        DeviceView {
            id: record.id,
            name: record.name.clone(),
            dns_name: format!("{}.{}", record.name, self.dns().domain),
            key: record.key,
            ipv4: record.ipv4,
            ipv6: record.ipv6,
            online: device.online,
            admission: device.admission,
            expires: record.expires,
            never_expires: record.never_expires,
            cloned: device.instances.cloned(now),
            last_seen: last_seen.or(record.last_seen),
            endpoints,
            nat: reported.map(|reported| reported.nat).unwrap_or_default(),
            static_endpoint: record.static_endpoint,
            ephemeral: record.ephemeral,
            tags: record.tags.clone(),
            owner: record.owner,
            os: record.os.clone(),
            software: record.software.clone(),
            created: record.created,
            joined_by: record.joined_by,
        }
    }
}

fn join_key_view(key: &JoinKeyRecord, now: UnixTime) -> JoinKeyView {
    let status = match key.admits(now) {
        Ok(()) => JoinKeyStatus::Usable,
        Err(Refused::JoinKeyExpired) => JoinKeyStatus::Expired,
        Err(_) => JoinKeyStatus::Used,
    };
    JoinKeyView {
        id: key.id,
        status,
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        tags: key.tags.clone(),
        owner: key.owner,
        approves: key.approves,
        created: key.created,
        expires: key.expires,
        last_used: key.last_used,
        uses: key.uses,
    }
}
