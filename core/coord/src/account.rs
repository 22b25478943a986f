//! One account: its devices, join keys, presence and sessions.

mod activity;
mod admission;
mod aim;
mod check_in;
mod connect;
mod delta;
mod device;
mod edge;
mod housekeeping;
mod join_key;
mod paths;
mod policy;
mod presence;
mod reach;
mod register;
mod relay;
mod session;
mod view;
mod webhook;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use warren_proto::{
    AccountId, DeviceId, DeviceName, DnsConfig, JoinKeyId, MapVersion, Netmap, Peer, PublicKey,
    SelfEntry, WebhookId,
};

use self::admission::Expiries;
use self::aim::Aim;
use self::check_in::Reported;
use self::delta::{Digest, Log, Subject};
use self::device::Device;
use self::edge::Edges;
use self::policy::Rules;
use self::presence::Timer;
use self::relay::Relays;
use self::session::Session;
use crate::{
    AccountRecord, BrokerSettings, Change, JoinKeyRecord, LeaseEpoch, Prepared, Refused,
    SecretHash, Snapshot, WebhookRecord,
};

pub use self::activity::{account_activity, relay_activity};
pub use self::admission::SettingsEdit;
pub use self::device::DeviceEdit;
pub use self::edge::EdgeView;
pub use self::join_key::{JoinKeyCreated, NewJoinKey};
pub use self::paths::{PathView, TRAFFIC_STEP, TRAFFIC_STEPS, TrafficPoint};
pub use self::policy::{CheckedPolicy, PolicyCase, Verdict};
pub(crate) use self::register::short;
pub(crate) use self::relay::not_ours;
pub use self::relay::{
    NewTurn, RelayGroups, RelayOrigin, RelayProbe, RelayView, RelayWarning, relay_init,
    relay_update,
};
pub use self::session::{Opened, SessionId};
pub use self::view::{DeviceView, JoinKeyStatus, JoinKeyView};
pub use self::webhook::{NewWebhook, Presence, WebhookCreated, WebhookEdit};

/// How long after a delta further changes are collected for the next one.
pub const COALESCE_WINDOW: Duration = Duration::from_millis(50);

/// How long a device without a session still counts as online: a reconnect in this time is seen by
/// nobody.
pub const OFFLINE_GRACE: Duration = Duration::from_secs(3);

/// How long an ephemeral device may be offline before it is removed.
pub const EPHEMERAL_AFTER: Duration = Duration::from_secs(30 * 60);

/// How often what is durable but not urgent (when devices were last seen) is written.
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// The state machine of one account. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Account {
    record: AccountRecord,
    epoch: LeaseEpoch,
    settings: BrokerSettings,
    devices: BTreeMap<DeviceId, Device>,
    device_by_key: BTreeMap<PublicKey, DeviceId>,
    device_by_name: BTreeMap<DeviceName, DeviceId>,
    device_by_ipv4: BTreeMap<Ipv4Addr, DeviceId>,
    join_keys: BTreeMap<JoinKeyId, JoinKeyRecord>,
    join_key_by_hash: BTreeMap<SecretHash, JoinKeyId>,
    log: Log,
    /// Grows whenever something changes that people may be shown.
    revision: u64,
    digest: Option<Digest>,
    /// The sequence up to which every session may be told.
    published: u64,
    window_ends: Option<Instant>,
    sessions: BTreeMap<SessionId, Session>,
    next_session: u64,
    ready: BTreeSet<SessionId>,
    revoked: VecDeque<SessionId>,
    timers: BTreeSet<(Instant, Timer)>,
    aim: Aim,
    seen_since_housekeeping: BTreeSet<DeviceId>,
    ephemeral_due: BTreeSet<DeviceId>,
    housekeeping_due: bool,
    relays: Relays,
    relay_timer: Option<(Instant, Timer)>,
    expiries: Expiries,
    webhooks: BTreeMap<WebhookId, WebhookRecord>,
    presences: VecDeque<Presence>,
    rules: Rules,
    edges: Edges,
}

impl Account {
    /// Takes an account over as it was stored, under the lease that the caller has taken. `unix` is
    /// the wall clock at `now`, as time since the Unix epoch.
    pub fn new(
        snapshot: Snapshot,
        epoch: LeaseEpoch,
        settings: &BrokerSettings,
        now: Instant,
        unix: Duration,
    ) -> Self {
        let mut account = Self {
            record: snapshot.account,
            epoch,
            settings: settings.clone(),
            devices: BTreeMap::new(),
            device_by_key: BTreeMap::new(),
            device_by_name: BTreeMap::new(),
            device_by_ipv4: BTreeMap::new(),
            join_keys: BTreeMap::new(),
            join_key_by_hash: BTreeMap::new(),
            log: Log::default(),
            revision: 0,
            digest: None,
            published: 0,
            window_ends: None,
            sessions: BTreeMap::new(),
            next_session: 0,
            ready: BTreeSet::new(),
            revoked: VecDeque::new(),
            timers: BTreeSet::from([(now + HOUSEKEEPING_INTERVAL, Timer::Housekeeping)]),
            aim: Aim::default(),
            seen_since_housekeeping: BTreeSet::new(),
            ephemeral_due: BTreeSet::new(),
            housekeeping_due: false,
            relays: Relays::new(snapshot.relays, snapshot.relay_list, snapshot.revoked),
            relay_timer: None,
            expiries: Expiries::default(),
            webhooks: snapshot.webhooks.into_iter().map(|it| (it.id, it)).collect(),
            presences: VecDeque::new(),
            rules: Rules::new(snapshot.policy),
            edges: Edges::new(snapshot.edges, snapshot.edge_items),
        };
        account.handle_clock(unix, now);
        for device in snapshot.devices {
            let id = device.id;
            account.store_device(device, now);
            account.watch_ephemeral(id, now);
        }
        account.await_expiry(now);
        for key in snapshot.join_keys {
            account.put_join_key(key);
        }
        account
    }

    /// The account's id.
    pub fn id(&self) -> AccountId {
        self.record.id
    }

    /// The account as it is stored.
    pub fn record(&self) -> &AccountRecord {
        &self.record
    }

    /// The lease under which this process owns the account.
    pub fn epoch(&self) -> LeaseEpoch {
        self.epoch
    }

    /// The version of the newest map.
    pub fn version(&self) -> MapVersion {
        MapVersion { epoch: self.epoch.0, sequence: self.log.sequence() }
    }

    /// Grows whenever something changes that people may be shown: a page that shows the account as of
    /// this number is up to date.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn revise(&mut self) {
        self.revision += 1;
    }

    /// All that is durable, as a store would load it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            account: self.record.clone(),
            devices: self.devices.values().map(|device| device.record.clone()).collect(),
            join_keys: self.join_keys.values().cloned().collect(),
            relays: self.relays.records.values().cloned().collect(),
            relay_list: self.relays.list.clone(),
            revoked: self.relays.revoked.clone(),
            policy: self.rules.record.clone(),
            webhooks: self.webhooks.values().cloned().collect(),
            edges: self.edges.records(),
            edge_items: self.edges.item_records(),
        }
    }

    /// Carries out a decision whose changes have been committed.
    pub fn apply<R>(&mut self, prepared: Prepared<R>, now: Instant) -> R {
        if !prepared.changes.is_empty() {
            self.revise();
        }
        for change in prepared.changes {
            match change {
                Change::Account(record) => self.put_account(record, now),
                Change::Device(device) => self.put_device(device, now),
                Change::DeviceRemoved(id) => self.drop_device(id, now),
                Change::LastSeen { device, at } => {
                    self.seen_since_housekeeping.remove(&device);
                    if let Some(device) = self.devices.get_mut(&device) {
                        device.record.last_seen = Some(at);
                    }
                }
                Change::JoinKey(key) => self.put_join_key(key),
                Change::JoinKeyRemoved(id) => self.drop_join_key(id),
                Change::Relay(relay) => self.put_relay(relay, now),
                Change::RelayRemoved(id) => self.drop_relay(id, now),
                Change::RelayList(list) => {
                    self.relays.list = list;
                    self.touch(Subject::Relays, now);
                }
                Change::Revoked { device, until } => {
                    self.relays.revoked.insert(device, until);
                    self.revocations_changed(now);
                }
                Change::RevocationOver(device) => {
                    self.relays.revoked.remove(&device);
                }
                Change::Policy(policy) => self.put_policy(policy, now),
                Change::Webhook(webhook) => {
                    self.webhooks.insert(webhook.id, webhook);
                }
                Change::WebhookRemoved(id) => {
                    self.webhooks.remove(&id);
                }
                Change::Edge(edge) => self.put_edge(edge, now),
                Change::EdgeItem(item) => self.put_edge_item(item, now),
                Change::EdgeItemRemoved { edge, id } => self.drop_edge_item(edge, id, now),
                Change::EdgeWakes { edge, mac } => self.wake(edge, mac, now),
            }
        }
        prepared.reply
    }

    /// Takes new broker-wide settings over and tells every session what changed for it.
    pub fn handle_settings(&mut self, settings: &BrokerSettings, now: Instant) {
        let old = std::mem::replace(&mut self.settings, settings.clone());
        if old.stun != settings.stun {
            self.touch(Subject::Stun, now);
        }
        if old.next_pin != settings.next_pin {
            self.touch(Subject::NextPin, now);
        }
        if old.dns_suffix != settings.dns_suffix {
            self.touch(Subject::Dns, now);
        }
        if old.relays != settings.relays {
            self.touch(Subject::Relays, now);
        }
    }

    /// The whole map as one device may see it.
    ///
    /// # Errors
    /// [`Refused::Revoked`] if the device is gone or must join again.
    pub fn netmap(&self, device: DeviceId) -> Result<Netmap, Refused> {
        let viewer = self.registered(device)?;
        let is_member = viewer.admission.is_member();
        Ok(Netmap {
            version: self.version(),
            account: self.record.id,
            account_name: self.record.name.clone(),
            ipv4_range: self.record.ipv4_range,
            ipv6_range: self.record.ipv6_range,
            this: self.self_entry(viewer),
            peers: self
                .devices
                .values()
                .filter(|subject| self.may_see(viewer, subject))
                .map(|subject| self.entry_for(viewer, subject))
                .collect(),
            stun: self.settings.stun.clone(),
            dns: self.dns(),
            next_pin: self.settings.next_pin,
            relays: if is_member { self.relays_for(device) } else { Vec::new() },
            relay_duty: self.duty_of(device).filter(|_| is_member),
            filter: self.filter_of(viewer).filter(|_| is_member),
            edge: self.edge_duty(device),
            edge_asked: is_member && self.edge_asked(device),
        })
    }

    /// Ends all sessions with a revocation: the account itself is being removed.
    pub fn revoke_all(&mut self, now: Instant) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.close_session(session, now);
            self.revoked.push_back(session);
        }
    }

    fn dns(&self) -> DnsConfig {
        DnsConfig { domain: format!("{}.{}", self.record.name, self.settings.dns_suffix) }
    }

    /// A device that the broker talks to, in the mesh or not.
    fn registered(&self, device: DeviceId) -> Result<&Device, Refused> {
        self.devices.get(&device).filter(|device| device.is_registered()).ok_or(Refused::Revoked)
    }

    fn registered_mut(&mut self, device: DeviceId) -> Result<&mut Device, Refused> {
        let device = self.devices.get_mut(&device).filter(|device| device.is_registered());
        device.ok_or(Refused::Revoked)
    }

    fn self_entry(&self, device: &Device) -> SelfEntry {
        SelfEntry {
            id: device.record.id,
            name: device.record.name.clone(),
            ipv4: device.record.ipv4,
            ipv6: device.record.ipv6,
            static_endpoint: device.record.static_endpoint,
            admission: device.admission,
            expires_unix: device.record.expires.map(|at| at.0),
            approvers: self.approvers_of(device),
        }
    }
}

fn peer_entry(device: &Device) -> Peer {
    let DeviceFace { endpoints, reported } = DeviceFace::of(device);
    Peer {
        id: device.record.id,
        name: device.record.name.clone(),
        key: device.record.key,
        ipv4: device.record.ipv4,
        ipv6: device.record.ipv6,
        endpoints,
        nat: reported.map(|reported| reported.nat).unwrap_or_default(),
        online: device.online,
        capabilities: reported.map(|reported| reported.capabilities.clone()).unwrap_or_default(),
        relays: reported.map(|reported| reported.relays.clone()).unwrap_or_default(),
        edge: None,
        signature: None,
    }
}

/// The soft part of what others see of a device.
struct DeviceFace<'a> {
    endpoints: Vec<warren_proto::Endpoint>,
    reported: Option<&'a Reported>,
}

impl<'a> DeviceFace<'a> {
    fn of(device: &'a Device) -> Self {
        let reported = device.reported.as_ref();
        let measured = reported.map_or(&[][..], |reported| &reported.endpoints);
        Self { endpoints: with_static(device.record.static_endpoint, measured), reported }
    }
}

/// Puts the endpoint that an admin set before the measured ones.
fn with_static(
    fixed: Option<SocketAddr>,
    measured: &[warren_proto::Endpoint],
) -> Vec<warren_proto::Endpoint> {
    use warren_proto::{Endpoint, EndpointKind, MAX_ENDPOINTS};
    let fixed = fixed.map(|addr| Endpoint { addr, kind: EndpointKind::Static });
    let others = measured.iter().filter(|e| fixed.is_none_or(|fixed| fixed.addr != e.addr));
    fixed.iter().chain(others).copied().take(MAX_ENDPOINTS).collect()
}
