use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warren_coord::JoinKeyStatus;
use warren_proto::{
    AccountId, Admission, DeviceId, DeviceName, Endpoint, JoinKeyId, NatReport, PathKind, Pin,
    PublicKey,
};

use super::Time;

/// The broker as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BrokerStatus {
    /// Its software's version.
    pub version: String,
    /// The protocol that it speaks.
    pub protocol: u32,
    /// Where devices reach it.
    pub url: String,
    /// Where HTTPS is bound.
    pub listen: SocketAddr,
    /// Where STUN is bound.
    pub stun: Vec<SocketAddr>,
    /// What netmaps name as STUN servers.
    pub stun_public: Vec<SocketAddr>,
    /// Its data folder.
    pub data: PathBuf,
    /// When it was started.
    pub started: Time,
    /// How many accounts there are.
    pub accounts: usize,
    /// How many devices, of all accounts.
    pub devices: usize,
    /// How many of them have a control session.
    pub online: usize,
    /// The pins of its own CA; none under ACME or behind a proxy.
    pub pins: Option<Pins>,
    /// What keeps devices from finding each other, for people; each with what to do.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// The public keys by which devices know the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pins {
    /// The one in use.
    pub current: Pin,
    /// The one that will follow, announced to the devices.
    pub next: Option<Pin>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: DeviceName,
    /// Its IPv4 range.
    #[schemars(with = "String")]
    pub ipv4_range: Ipv4Net,
    /// Its IPv6 range.
    #[schemars(with = "String")]
    pub ipv6_range: Ipv6Net,
    /// How many devices it has.
    pub devices: usize,
    /// How many of them have a control session.
    pub online: usize,
    /// How many of them wait for an admin's approval.
    pub waiting: usize,
    /// Whether the broker's operator has suspended it.
    pub suspended: bool,
    /// How many devices it may have.
    pub max_devices: u32,
    /// How many people it may have; `null`: any number.
    pub max_users: Option<u32>,
    /// Whether a new device waits until an admin approves it.
    pub device_approval: bool,
    /// After how many days a device must be renewed; `null`: never.
    pub key_expiry_days: Option<u16>,
    /// For how many days its Activity is kept; `null`: for ever.
    pub activity_days: Option<u16>,
}

/// Changes an account's settings; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    /// Whether it is suspended: its devices are out of the mesh and its people locked out until it
    /// goes on. For the broker's operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
    /// How many devices it may have, 1 to 10,000; `null`: the broker's `--max-devices`. For the
    /// broker's operator.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schemars(with = "Option<u32>")]
    pub max_devices: Option<Option<u32>>,
    /// How many people it may have; `null`: any number. For the broker's operator.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schemars(with = "Option<u32>")]
    pub max_users: Option<Option<u32>>,
    /// Whether a new device waits until an admin approves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_approval: Option<bool>,
    /// After how many days a device must be renewed; `null`: never. Counts from now on.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schemars(with = "Option<u16>")]
    pub key_expiry_days: Option<Option<u16>>,
    /// For how many days its Activity is kept; `null`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schemars(with = "Option<u16>")]
    pub activity_days: Option<Option<u16>>,
}

/// Asks for a new account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// Its name: lower-case letters, digits and inner hyphens.
    pub name: DeviceName,
    /// Its IPv4 range; a /16 of 100.64.0.0/10 is chosen unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ipv4_range: Option<Ipv4Net>,
}

/// A join key, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinKey {
    /// Its id.
    pub id: JoinKeyId,
    /// Whether it can be used.
    pub status: JoinKeyStatus,
    /// Whether any number of devices may join with it.
    pub reusable: bool,
    /// Whether its devices vanish when they go offline.
    pub ephemeral: bool,
    /// The tags that its devices get.
    pub tags: BTreeSet<String>,
    /// Whether its devices need no admin's approval.
    #[serde(default)]
    pub approves: bool,
    /// When it was created.
    pub created: Time,
    /// From when on it isn't accepted.
    pub expires: Option<Time>,
    /// When a device last joined with it.
    pub last_used: Option<Time>,
    /// How many devices have joined with it.
    pub uses: u32,
}

/// Asks for a new join key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoinKey {
    /// Whether any number of devices may join with it.
    #[serde(default)]
    pub reusable: bool,
    /// Whether its devices vanish when they go offline.
    #[serde(default)]
    pub ephemeral: bool,
    /// Seconds until it expires; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// The tags that its devices get.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Whether its devices need no admin's approval, where the account asks for that.
    #[serde(default)]
    pub approves: bool,
}

/// A new join key; the secret is in the link and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinKeyCreated {
    /// What a device needs to join: hand it over as a secret.
    pub link: String,
    /// The key's id, safe to show.
    pub key_id: JoinKeyId,
    /// From when on it isn't accepted.
    pub expires: Option<Time>,
}

/// Lets a device in that asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinApproval {
    /// The tags that it gets.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
}

/// A device that asked to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinRequest {
    /// The code that it shows.
    pub code: String,
    /// What it calls itself.
    pub name: String,
    /// Its operating system.
    pub os: String,
    /// Its software's version.
    pub software: String,
    /// Where it asks from.
    pub source: IpAddr,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// Its id, for life.
    pub id: DeviceId,
    /// Its name, unique in the account.
    pub name: DeviceName,
    /// Its DNS name.
    pub dns_name: String,
    /// Its WireGuard public key.
    pub key: PublicKey,
    /// Its mesh IPv4 address, for life.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address, for life.
    pub ipv6: Ipv6Addr,
    /// Its operating system.
    pub os: String,
    /// Its software's version.
    pub software: String,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// The e-mail address of the person that it belongs to.
    #[serde(default)]
    pub owner: Option<String>,
    /// The endpoint that an admin set.
    pub static_endpoint: Option<SocketAddr>,
    /// Whether it vanishes when it goes offline.
    pub ephemeral: bool,
    /// Whether it is in the mesh, and if not, why.
    pub admission: Admission,
    /// From when on it must be renewed; `null`: never.
    pub expires: Option<Time>,
    /// Whether it never expires, whatever is set for the account. Devices with tags don't, either.
    pub never_expires: bool,
    /// Whether it has a control session.
    pub online: bool,
    /// Whether two machines seem to use its identity (a cloned disk): one must
    /// `warren logout --new-identity`.
    pub cloned: bool,
    /// Its endpoints, as of its last check-in.
    pub endpoints: Vec<Endpoint>,
    /// What it knows of the NATs in front of it.
    pub nat: NatReport,
    /// When it joined first.
    pub created: Time,
    /// When it was heard of last.
    pub last_seen: Option<Time>,
    /// The join key that it joined with last.
    pub joined_by: Option<JoinKeyId>,
}

/// A path between two devices, as one of them sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DevicePath {
    /// The device at the other end.
    pub peer: DeviceName,
    /// How traffic goes.
    pub path: PathKind,
    /// Why it isn't direct, for people.
    pub reason: Option<String>,
    /// Where the datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    pub relay: Option<DeviceName>,
    /// The round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes received from the peer since the device's mesh came up.
    pub rx_bytes: u64,
    /// Bytes sent to the peer since the device's mesh came up.
    pub tx_bytes: u64,
}

/// Changes a device; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceChange {
    /// Its new name, as free text: `Kitchen Pi` becomes `kitchen-pi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An endpoint to publish beside the measured ones; `Some(None)` (JSON `null`) removes it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schemars(with = "Option<SocketAddr>")]
    pub static_endpoint: Option<Option<SocketAddr>>,
    /// Its tags, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<String>>,
    /// The e-mail address of whom of the account's people it belongs to; `none`: to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether it never expires, whatever is set for the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_expires: Option<bool>,
}

/// What is to be logged from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLog {
    /// In `tracing`'s filter syntax: `debug`, `info,warren_broker=trace`.
    pub filter: String,
}

/// Tells 'absent' (outer `None`, by `default`) from `null` (inner `None`).
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde's `with` passes the field by reference")]
    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_static_endpoint_is_told_from_a_removed_one() {
        for (change, text) in [
            (DeviceChange::default(), "{}"),
            (
                DeviceChange { static_endpoint: Some(None), ..DeviceChange::default() },
                r#"{"static_endpoint":null}"#,
            ),
            (
                DeviceChange {
                    static_endpoint: Some(Some("203.0.113.7:51820".parse().unwrap())),
                    ..DeviceChange::default()
                },
                r#"{"static_endpoint":"203.0.113.7:51820"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&change).unwrap(), text);
            assert_eq!(serde_json::from_str::<DeviceChange>(text).unwrap(), change);
        }
    }

    #[test]
    fn a_misspelt_setting_is_an_error_and_not_silence() {
        assert!(serde_json::from_str::<NewJoinKey>(r#"{"expire_in":60}"#).is_err());
        assert!(serde_json::from_str::<DeviceChange>(r#"{"rename":"x"}"#).is_err());
    }
}
