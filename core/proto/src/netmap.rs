use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    AccountId, DeviceId, DeviceName, EdgeDuty, EdgeOffer, Endpoint, Filter, NatReport, Pin,
    PublicKey, Relay, RelayDuty, RelayRtt,
};

/// A netmap version was not `epoch-sequence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a netmap version is <epoch>-<sequence>")]
pub struct ParseVersionError;

/// Which netmap: the epoch changes whenever a broker process takes the account over, the sequence
/// grows by one with every change of the account. Written `<epoch in hex>-<sequence>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MapVersion {
    /// Which broker process's view this is.
    pub epoch: u64,
    /// How many changes that view has seen.
    pub sequence: u64,
}

impl fmt::Display for MapVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.sequence)
    }
}

impl FromStr for MapVersion {
    type Err = ParseVersionError;

    fn from_str(s: &str) -> Result<Self, ParseVersionError> {
        let (epoch, sequence) = s.split_once('-').ok_or(ParseVersionError)?;
        Ok(Self {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| ParseVersionError)?,
            sequence: sequence.parse().map_err(|_| ParseVersionError)?,
        })
    }
}

impl TryFrom<String> for MapVersion {
    type Error = ParseVersionError;

    fn try_from(s: String) -> Result<Self, ParseVersionError> {
        s.parse()
    }
}

impl From<MapVersion> for String {
    fn from(version: MapVersion) -> Self {
        version.to_string()
    }
}

/// The device that a netmap was made for, as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfEntry {
    /// The device.
    pub id: DeviceId,
    /// Its name, unique in the account.
    pub name: DeviceName,
    /// Its mesh IPv4 address, for life.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address, for life.
    pub ipv6: Ipv6Addr,
    /// The endpoint that an admin set, if any; to be published beside the measured ones.
    #[serde(default)]
    pub static_endpoint: Option<SocketAddr>,
    /// Whether it is in the mesh, and if not, why. Outside, the map has no peers.
    #[serde(default, skip_serializing_if = "Admission::is_member")]
    pub admission: Admission,
    /// From when on it must be renewed, in seconds since the Unix epoch. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix: Option<u64>,
    /// While it waits: the e-mail addresses of some who may let it in; at most
    /// [`MAX_APPROVERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
}

/// The most [`SelfEntry::approvers`] that are told.
pub const MAX_APPROVERS: usize = 3;

/// Whether a device is in the mesh: whether it has peers, and they have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// It is.
    #[default]
    Member,
    /// Not before an admin of the account has approved it.
    Waiting,
    /// Not before it has joined again, or somebody has renewed it.
    Expired,
    /// Not as long as the broker's operator has suspended the account.
    Suspended,
    /// It has logged out: it has no word with the broker until it joins again.
    LoggedOut,
    /// Not, for a reason that a newer broker knows.
    #[serde(other)]
    Other,
}

impl Admission {
    /// Whether it is in the mesh.
    pub fn is_member(&self) -> bool {
        *self == Self::Member
    }
}

/// The capability of a peer that speaks plain WireGuard and nothing else: it is sent no probes, its
/// first usable endpoint is its path, and its path follows its authenticated packets, as WireGuard's
/// own roaming does. Only the broker gives it; a device that claimed it could have its peers send wherever it likes.
pub const WIREGUARD_ONLY: &str = "wireguard";

/// Another device of the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The device.
    pub id: DeviceId,
    /// Its name, unique in the account.
    pub name: DeviceName,
    /// Its WireGuard public key.
    pub key: PublicKey,
    /// Its mesh IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Where it may be reached, as of its last check-in; at most [`crate::MAX_ENDPOINTS`].
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// What it knows of the NATs in front of it.
    #[serde(default)]
    pub nat: NatReport,
    /// Whether it has a control session with the broker.
    #[serde(default)]
    pub online: bool,
    /// What it can do beyond this protocol's first version; unknown words are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The relays that it reaches, as of its last check-in. Empty: unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayRtt>,
    /// What this device reaches behind it. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeOffer>,
    /// Reserved for a signature over id and key by the account's own lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Names in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// The account's domain, without a trailing dot: `<account>.<suffix>`.
    pub domain: String,
}

/// Everything that one device is told about its account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netmap {
    /// Which map this is.
    pub version: MapVersion,
    /// The account.
    pub account: AccountId,
    /// The account's name.
    pub account_name: DeviceName,
    /// The account's IPv4 range, a /16 of 100.64.0.0/10 unless the operator chose otherwise.
    pub ipv4_range: Ipv4Net,
    /// The account's IPv6 range, a ULA /48.
    pub ipv6_range: Ipv6Net,
    /// This device.
    #[serde(rename = "self")]
    pub this: SelfEntry,
    /// The devices that this one may see, by id.
    pub peers: Vec<Peer>,
    /// Where to ask how the outside sees us. The first of a family is asked regularly, two
    /// different ones tell the mapping behaviour. Never derived from the broker's URL.
    #[serde(default)]
    pub stun: Vec<SocketAddr>,
    /// Names in the mesh.
    pub dns: DnsConfig,
    /// The pin that will replace the present one, announced ahead of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_pin: Option<Pin>,
    /// The relays that this device may use, in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<Relay>,
    /// That this device is a connection relay of its account, and what it needs to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_duty: Option<RelayDuty>,
    /// What this device lets in without having asked for it. Absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// What this device opens of the LAN that it stands in. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeDuty>,
    /// Whether the account wants this device to be an edge: one whose owner has left that to the account
    /// is one then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub edge_asked: bool,
}

/// One thing that changed in a netmap.
///
/// A kind of change that is added later may only carry parts of the map that came with it, so that
/// a node that doesn't know it loses nothing that it could use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Change {
    /// A peer is new, or its durable part changed.
    Peer {
        /// The whole entry.
        peer: Peer,
    },
    /// A peer may no longer be seen: cut it off.
    Removed {
        /// Which one.
        id: DeviceId,
    },
    /// A peer's soft part changed.
    Presence {
        /// Which one.
        id: DeviceId,
        /// Whether it has a control session.
        online: bool,
        /// Its endpoints, all of them.
        endpoints: Vec<Endpoint>,
        /// Its NAT report.
        nat: NatReport,
    },
    /// This device's own entry changed.
    This {
        /// The whole entry.
        this: SelfEntry,
    },
    /// The STUN servers changed.
    Stun {
        /// All of them.
        stun: Vec<SocketAddr>,
    },
    /// The pin will change, or (without one) it has changed and no further change is announced.
    NextPin {
        /// The next pin.
        #[serde(default)]
        pin: Option<Pin>,
    },
    /// The names changed.
    Dns {
        /// All about them.
        dns: DnsConfig,
    },
    /// The relays changed, or credentials were renewed.
    Relays {
        /// All of them, in order of preference.
        relays: Vec<Relay>,
    },
    /// This device's duty as a relay changed; without one it has none (any more).
    RelayDuty {
        /// The whole duty.
        #[serde(default)]
        duty: Option<RelayDuty>,
    },
    /// The relays that a peer reaches changed.
    PeerRelays {
        /// Which peer.
        id: DeviceId,
        /// All that it reaches.
        relays: Vec<RelayRtt>,
    },
    /// What this device lets in changed; without a filter, everything.
    Filter {
        /// All of it.
        #[serde(default)]
        filter: Option<Filter>,
    },
    /// This device's duty as an edge changed; without one it has none (any more).
    Edge {
        /// The whole duty.
        #[serde(default)]
        duty: Option<EdgeDuty>,
        /// Whether the account wants this device to be an edge.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        asked: bool,
    },
    /// From a newer version: passed over.
    #[serde(other)]
    Unknown,
}

/// What changed between two netmaps of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The version of the last map or delta that was sent to this device.
    pub base: MapVersion,
    /// The version that the map has afterwards.
    pub version: MapVersion,
    /// What changed, to be applied in order.
    pub changes: Vec<Change>,
}

/// What became of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Apply {
    /// It was applied.
    Applied,
    /// It builds on a map that we don't have: fetch the whole map.
    BaseMismatch,
}

impl Delta {
    /// Whether a map of this version can be brought up to date by the delta: it is of the same
    /// epoch and no older than the base.
    pub fn builds_on(&self, version: MapVersion) -> bool {
        self.base.epoch == version.epoch
            && self.version.epoch == version.epoch
            && self.base.sequence <= version.sequence
    }

    /// Whether the delta brings what a map of this version doesn't have. Only to be asked if it
    /// [builds on](Self::builds_on) that version.
    pub fn is_news_to(&self, version: MapVersion) -> bool {
        self.version.sequence > version.sequence
    }
}

impl Netmap {
    /// Applies a delta, or leaves the map as it was if the delta builds on a newer map or one of
    /// another epoch.
    ///
    /// Changes carry whole entries as they are at [`Delta::version`], so a delta is right for every
    /// map between its base and its version: the whole map may be fetched while deltas are under
    /// way. One that brings nothing newer is passed over.
    pub fn apply(&mut self, delta: &Delta) -> Apply {
        if !delta.builds_on(self.version) {
            return Apply::BaseMismatch;
        }
        if !delta.is_news_to(self.version) {
            return Apply::Applied;
        }
        if !self.peers.is_sorted_by_key(|peer| peer.id) {
            self.peers.sort_by_key(|peer| peer.id);
        }
        for change in &delta.changes {
            self.change(change);
        }
        self.version = delta.version;
        Apply::Applied
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Peer { peer } => match self.slot(peer.id) {
                Ok(slot) => self.peers[slot] = peer.clone(),
                Err(slot) => self.peers.insert(slot, peer.clone()),
            },
            Change::Removed { id } => {
                if let Ok(slot) = self.slot(*id) {
                    self.peers.remove(slot);
                }
            }
            Change::Presence { id, online, endpoints, nat } => {
                if let Ok(slot) = self.slot(*id) {
                    let peer = &mut self.peers[slot];
                    peer.online = *online;
                    peer.endpoints.clone_from(endpoints);
                    peer.nat = *nat;
                }
            }
            Change::This { this } => self.this = this.clone(),
            Change::Stun { stun } => self.stun.clone_from(stun),
            Change::NextPin { pin } => self.next_pin = *pin,
            Change::Dns { dns } => self.dns.clone_from(dns),
            Change::Relays { relays } => self.relays.clone_from(relays),
            Change::RelayDuty { duty } => self.relay_duty.clone_from(duty),
            Change::PeerRelays { id, relays } => {
                if let Ok(slot) = self.slot(*id) {
                    self.peers[slot].relays.clone_from(relays);
                }
            }
            Change::Filter { filter } => self.filter.clone_from(filter),
            Change::Edge { duty, asked } => {
                self.edge.clone_from(duty);
                self.edge_asked = *asked;
            }
            Change::Unknown => {}
        }
    }

    /// Where the peer is, or where it belongs.
    fn slot(&self, id: DeviceId) -> Result<usize, usize> {
        self.peers.binary_search_by_key(&id, |peer| peer.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netmap(sequence: u64) -> Netmap {
        Netmap {
            version: MapVersion { epoch: 5, sequence },
            account: AccountId(1),
            account_name: DeviceName::from_free_text("home"),
            ipv4_range: "100.80.0.0/16".parse().unwrap(),
            ipv6_range: "fd00::/48".parse().unwrap(),
            this: SelfEntry {
                id: DeviceId(1),
                name: DeviceName::from_free_text("pi"),
                ipv4: Ipv4Addr::new(100, 80, 1, 1),
                ipv6: Ipv6Addr::LOCALHOST,
                static_endpoint: None,
                admission: Admission::Member,
                expires_unix: None,
                approvers: Vec::new(),
            },
            peers: Vec::new(),
            stun: Vec::new(),
            dns: DnsConfig { domain: "home.warren.internal".to_owned() },
            next_pin: None,
            relays: Vec::new(),
            relay_duty: None,
            filter: None,
            edge: None,
            edge_asked: false,
        }
    }

    fn delta(base: u64, sequence: u64, port: u16) -> Delta {
        let stun = vec![SocketAddr::from(([192, 0, 2, 1], port))];
        Delta {
            base: MapVersion { epoch: 5, sequence: base },
            version: MapVersion { epoch: 5, sequence },
            changes: vec![Change::Stun { stun }],
        }
    }

    #[test]
    fn a_delta_fits_every_map_from_its_base_on_and_old_ones_change_nothing() {
        let mut map = netmap(10);
        assert_eq!(map.apply(&delta(8, 12, 1)), Apply::Applied, "the map was fetched meanwhile");
        assert_eq!((map.version.sequence, map.stun[0].port()), (12, 1));
        assert_eq!(map.apply(&delta(9, 11, 2)), Apply::Applied);
        assert_eq!((map.version.sequence, map.stun[0].port()), (12, 1), "it was old news");
        assert_eq!(map.apply(&delta(13, 14, 3)), Apply::BaseMismatch, "something is missing");
        map.version.epoch = 6;
        assert_eq!(map.apply(&delta(12, 13, 4)), Apply::BaseMismatch, "another broker process");
        assert_eq!(map.stun[0].port(), 1);
    }
}
