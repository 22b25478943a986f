//! What an admin is shown of relays, and what speaks against them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use warren_proto::{DeviceId, DeviceName, FIXED_PORT, RelayId, RelayLimits, RelayLoad};

use super::public_ips;
use super::report::Live;
use crate::account::{Account, housekeeping::wall_clock};
use crate::{RelayFace, RelayKind, RelayRecord, UnixTime};

/// A relay server that hasn't reported for this long is shown as silent.
const SILENT: Duration = Duration::from_secs(180);

/// Whose a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RelayOrigin {
    /// A device of the account.
    Device,
    /// A relay server.
    Server,
    /// Somebody else's TURN server.
    Turn,
    /// The broker itself.
    Broker,
}

/// A relay as an admin sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayView {
    /// Its id.
    pub id: RelayId,
    /// Its name; a device's own.
    pub name: DeviceName,
    /// What it is.
    pub origin: RelayOrigin,
    /// Whether it is offered to all accounts.
    pub shared: bool,
    /// Its place among those that the account's devices use; `None`: they don't use it.
    pub rank: Option<u16>,
    /// Whether the account has named it, rather than use what there is.
    pub listed: bool,
    /// Where it is reached.
    pub face: RelayFace,
    /// A TURN server's URL.
    pub url: Option<String>,
    /// Whether it is connected: the device has a session, the server reported of late.
    pub online: Option<bool>,
    /// When it was last heard of.
    pub last_heard: Option<UnixTime>,
    /// How many devices that are online reach it ...
    pub reached_by: usize,
    /// ... of how many.
    pub devices: usize,
    /// What it allows.
    pub limits: RelayLimits,
    /// What it carries.
    pub load: RelayLoad,
    /// What speaks against it.
    pub warnings: Vec<RelayWarning>,
    /// When it was created; the broker's own has no such moment.
    pub created: UnixTime,
}

/// Why a relay can't help, or not everybody. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayWarning {
    /// A device without a static endpoint.
    NoStaticEndpoint {
        /// The device.
        name: DeviceName,
        /// Where it is seen at the moment.
        seen: Option<SocketAddr>,
    },
    /// A device whose UDP port is chosen automatically.
    AutomaticPort {
        /// The device.
        name: DeviceName,
    },
    /// Nothing came back from there.
    Unreachable {
        /// Where the broker asked.
        addr: SocketAddr,
    },
    /// Behind the same public address as devices that it should serve.
    SameAddress {
        /// That address.
        ip: IpAddr,
        /// Those devices.
        peers: Vec<DeviceName>,
    },
    /// The device isn't connected.
    Offline {
        /// The device.
        name: DeviceName,
    },
    /// The relay server hasn't reported.
    Silent,
    /// The relay server is ending.
    Draining,
    /// Nothing is known of where it is reached.
    NoAddress,
    /// The relay itself says so.
    Says(String),
}

impl fmt::Display for RelayWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStaticEndpoint { name, seen: Some(seen) } => write!(
                f,
                "{name} has no static endpoint: the others use what was seen ({seen}), which may \
                 change; set it: warren admin devices set {name} --static-endpoint ADDR:PORT"
            ),
            Self::NoStaticEndpoint { name, seen: None } => write!(
                f,
                "{name} has no static endpoint and no public address: nobody can reach it; \
                 forward a UDP port to it and set it: warren admin devices set {name} \
                 --static-endpoint ADDR:PORT"
            ),
            Self::AutomaticPort { name } => write!(
                f,
                "the UDP port of {name} was chosen automatically; choose it, so that it fits \
                 firewall and static endpoint: on {name}, warren lport 51820"
            ),
            Self::Unreachable { addr } => write!(
                f,
                "no answer to the broker from {addr}; is UDP port {} open in the firewall, and \
                 forwarded where there is a router?",
                addr.port()
            ),
            Self::SameAddress { ip, peers } => {
                let peers: Vec<&str> = peers.iter().map(DeviceName::as_str).collect();
                write!(
                    f,
                    "it stands behind the same public address ({ip}) as {}: a network that keeps \
                     others from reaching them may keep them from reaching the relay, too; a \
                     relay elsewhere helps more",
                    peers.join(", ")
                )
            }
            Self::Offline { name } => write!(f, "{name} is offline"),
            Self::Silent => f.write_str(
                "it hasn't reported to the broker; is `warren relay` running with its token?",
            ),
            Self::Draining => f.write_str("it is shutting down and takes no new allocations"),
            Self::NoAddress => f.write_str("where it is reached isn't known yet"),
            Self::Says(text) => f.write_str(text),
        }
    }
}

impl Account {
    /// All relays that the account could use: its own, and those that are offered to all. Those in
    /// use come first, in their order. `unix` is the wall clock at `now`.
    pub fn relays(&self, now: Instant, unix: Duration) -> Vec<RelayView> {
        let own = self.relays.records.values().map(|record| (record, false));
        let shared = self.settings.relays.iter().map(|record| (record, true));
        let mut views: Vec<RelayView> = own
            .chain(shared)
            .map(|(record, shared)| self.relay_view(record, shared, now, unix))
            .collect();
        views.sort_by(|a, b| {
            let place = |view: &RelayView| (view.rank.is_none(), view.rank);
            place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name))
        });
        views
    }

    /// Whether the account has named its relays, rather than use those that there are.
    pub fn has_relay_list(&self) -> bool {
        !self.relays.list.is_empty()
    }

    /// The account's relays with the UDP addresses where the broker can ask whether they are
    /// reached.
    pub fn relay_addresses(&self) -> Vec<(RelayId, Vec<SocketAddr>)> {
        let records = self.relays.records.values();
        records.map(|record| (record.id, self.relay_face(record).udp)).collect()
    }

    fn relay_view(
        &self,
        record: &RelayRecord,
        shared: bool,
        now: Instant,
        unix: Duration,
    ) -> RelayView {
        let live = self.relays.live.get(&record.id);
        let report = live.and_then(|live| live.report.as_ref());
        let heard = report.map(|(at, _)| *at);
        let online = self.devices.values().filter(|device| device.online);
        let reaches = |device: &&super::Device| {
            let reported = device.reported.as_ref();
            reported.is_some_and(|it| it.relays.iter().any(|rtt| rtt.relay == record.id))
        };
        let (devices, reached_by) = (online.clone().count(), online.filter(reaches).count());
        let (origin, is_online, last_heard) = match record.kind {
            RelayKind::Device(device) => {
                let view = self.device(device, now, unix);
                let online = view.as_ref().is_some_and(|view| view.online);
                (RelayOrigin::Device, Some(online), view.and_then(|view| view.last_seen))
            }
            RelayKind::Server { .. } => {
                let online = heard.is_some_and(|at| now.duration_since(at) < SILENT);
                let heard = heard.map(|at| wall_clock(unix, now.duration_since(at)));
                // Operator relays report to the broker, not to each account.
                (RelayOrigin::Server, (!shared).then_some(online), heard)
            }
            RelayKind::Turn { .. } => (RelayOrigin::Turn, None, None),
            RelayKind::Own => (RelayOrigin::Broker, None, None),
        };
        let used = self.used().find(|used| used.record.id == record.id);
        RelayView {
            id: record.id,
            name: self.relay_name(record).clone(),
            origin,
            shared,
            rank: used.map(|used| used.rank),
            listed: self.relays.list.iter().any(|entry| entry.relay == record.id),
            face: self.relay_face(record),
            url: match &record.kind {
                RelayKind::Turn { url, .. } => Some(url.clone()),
                RelayKind::Device(_) | RelayKind::Server { .. } | RelayKind::Own => None,
            },
            online: is_online,
            last_heard,
            reached_by,
            devices,
            limits: report.map(|(_, report)| report.limits).unwrap_or_default(),
            load: report.map(|(_, report)| report.load).unwrap_or_default(),
            warnings: self.relay_warnings(record, live, shared, is_online),
            created: record.created,
        }
    }

    fn relay_warnings(
        &self,
        record: &RelayRecord,
        live: Option<&Live>,
        shared: bool,
        online: Option<bool>,
    ) -> Vec<RelayWarning> {
        let mut warnings = Vec::new();
        let face = self.relay_face(record);
        match record.kind {
            RelayKind::Device(device) => {
                if let Some(device) = self.devices.get(&device) {
                    warnings.extend(self.device_warnings(device, &face));
                }
            }
            RelayKind::Server { .. } if !shared => {
                let draining = self.is_draining(record.id);
                warnings.extend((online == Some(false)).then_some(RelayWarning::Silent));
                warnings.extend(draining.then_some(RelayWarning::Draining));
            }
            RelayKind::Server { .. } | RelayKind::Turn { .. } | RelayKind::Own => {}
        }
        if matches!(record.kind, RelayKind::Server { .. }) {
            let addresses = face.udp.iter().map(SocketAddr::ip).collect();
            warnings.extend(self.neighbours(addresses, None));
        }
        let is_device = matches!(record.kind, RelayKind::Device(_));
        if face.is_empty() && !is_device && warnings.is_empty() {
            warnings.push(RelayWarning::NoAddress);
        }
        for probe in live.map_or(&[][..], |live| &live.probes) {
            if !probe.answered && face.udp.contains(&probe.addr) {
                warnings.push(RelayWarning::Unreachable { addr: probe.addr });
            }
        }
        warnings
    }

    fn device_warnings(&self, device: &super::Device, face: &RelayFace) -> Vec<RelayWarning> {
        let name = device.record.name.clone();
        let mut warnings = Vec::new();
        if !device.online {
            warnings.push(RelayWarning::Offline { name: name.clone() });
        }
        if device.record.static_endpoint.is_none() {
            let seen = face.udp.first().copied();
            warnings.push(RelayWarning::NoStaticEndpoint { name: name.clone(), seen });
        }
        if let Some(reported) = &device.reported {
            if !reported.capabilities.iter().any(|word| word == FIXED_PORT) {
                warnings.push(RelayWarning::AutomaticPort { name });
            }
            let says = reported.relay.as_ref().and_then(|relay| relay.problem.clone());
            warnings.extend(says.map(RelayWarning::Says));
        }
        let mut own: BTreeSet<IpAddr> = public_ips(device).into_iter().collect();
        own.extend(face.udp.iter().map(SocketAddr::ip));
        warnings.extend(self.neighbours(own, Some(device.record.id)));
        warnings
    }

    /// Devices that share one of a relay's addresses; not the one that it is.
    fn neighbours(
        &self,
        addresses: BTreeSet<IpAddr>,
        itself: Option<DeviceId>,
    ) -> impl Iterator<Item = RelayWarning> {
        addresses.into_iter().filter_map(move |ip| {
            let shares = |peer: &&super::Device| {
                Some(peer.record.id) != itself && public_ips(peer).contains(&ip)
            };
            let peers: Vec<DeviceName> =
                self.devices.values().filter(shares).map(|peer| peer.record.name.clone()).collect();
            (!peers.is_empty()).then_some(RelayWarning::SameAddress { ip, peers })
        })
    }
}
