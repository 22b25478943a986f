//! The account's relays: which of them its devices use, in what order, and with what credentials.
//!
//! What the account has named ([`Account::prepare_relay_list`]) is used and nothing else. As long
//! as it has named none, its own relay servers and TURN servers are used, then the operator's, then
//! the broker itself.
//!
//! Credentials change once a day, at an hour of the account's own, for all of its devices at once;
//! until then every map says the same. Devices that were removed, or are not in the mesh, are refused
//! by every relay (`revoked`) as long as a credential of theirs could be good.

mod edit;
mod report;
mod view;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_proto::{
    DeviceId, DeviceName, Endpoint, EndpointKind, Relay, RelayDuty, RelayEvent, RelayId, RelayInit,
    RelayScope,
};
use warren_turn::is_public;

use super::device::Device;
use super::presence::Timer;
use super::{Account, DeviceFace, Subject};
use crate::relay::{CREDENTIAL_LIFETIME, DAY, RELAY_REALM};
use crate::{ListedRelay, RelayFace, RelayKind, RelayRecord, UnixTime};

pub(crate) use self::edit::not_ours;
pub use self::edit::{NewTurn, RelayGroups};
pub use self::report::RelayProbe;
pub(super) use self::report::are_alike;
pub use self::view::{RelayOrigin, RelayView, RelayWarning};

/// The account's relays, stored and known besides.
#[derive(Debug, Default)]
pub(super) struct Relays {
    pub(super) records: BTreeMap<RelayId, RelayRecord>,
    pub(super) list: Vec<ListedRelay>,
    /// Until when credentials of a removed device may be good.
    pub(super) revoked: BTreeMap<DeviceId, UnixTime>,
    live: BTreeMap<RelayId, report::Live>,
    clock: Option<(Instant, Duration)>,
    /// Which day's credentials are given out, counted from the account's own hour.
    day: u64,
    /// Grows whenever relay servers must be told something.
    news: u64,
}

/// A relay that devices use, and its place.
struct Used<'a> {
    record: &'a RelayRecord,
    rank: u16,
}

impl Relays {
    pub(super) fn new(
        records: Vec<RelayRecord>,
        list: Vec<ListedRelay>,
        revoked: BTreeMap<DeviceId, UnixTime>,
    ) -> Self {
        let records = records.into_iter().map(|record| (record.id, record)).collect();
        Self { records, list, revoked, ..Self::default() }
    }
}

impl Account {
    /// Tells the account the wall clock, as time since the Unix epoch: at the start, and whenever
    /// its timer fires. Credentials follow it.
    pub fn handle_clock(&mut self, unix: Duration, now: Instant) {
        self.relays.clock = Some((now, unix));
        self.await_expiry(now);
        self.keep_hours(now);
        if let Some((at, timer)) = self.relay_timer.take() {
            self.timers.remove(&(at, timer));
        }
        let offset = self.credential_offset();
        let shifted = unix.as_secs().saturating_add(offset);
        let next = Duration::from_secs((shifted / DAY + 1) * DAY - offset).saturating_sub(unix);
        let timer = (now + next, Timer::Credentials);
        self.timers.insert(timer);
        self.relay_timer = Some(timer);
        let day = shifted / DAY;
        if day != std::mem::replace(&mut self.relays.day, day) && self.used().next().is_some() {
            self.touch(Subject::Relays, now);
        }
    }

    /// The credentials' day is over.
    pub(super) fn renew_credentials(&mut self, now: Instant) {
        let Some((at, unix)) = self.relays.clock else { return };
        self.handle_clock(unix + now.duration_since(at), now);
    }

    /// The account's own relays as they are stored, by id.
    pub fn relay_records(&self) -> Vec<RelayRecord> {
        self.relays.records.values().cloned().collect()
    }

    /// Grows whenever what [`Account::relay_init`] says may have changed.
    pub fn relay_news(&self) -> u64 {
        self.relays.news
    }

    /// What a relay server of the account is to know; `None`: it is none (any more).
    pub fn relay_init(&self, id: RelayId, unix: Duration) -> Option<RelayInit> {
        let record = self.relays.records.get(&id)?;
        let RelayKind::Server { .. } = record.kind else { return None };
        let scope = RelayScope::Account { id: self.id(), name: self.record.name.clone() };
        Some(relay_init(record, scope, self.revoked_devices(), unix))
    }

    /// The devices that every relay is to refuse: those that are not in the mesh, and those that
    /// were removed while a credential of theirs may still be good.
    pub fn revoked_devices(&self) -> Vec<DeviceId> {
        // One that was never approved was never given a credential.
        let is_outside = |it: &&Device| it.record.approved && !it.admission.is_member();
        let outside = self.devices.values().filter(is_outside);
        let mut revoked: Vec<DeviceId> = outside.map(|device| device.record.id).collect();
        revoked.extend(self.relays.revoked.keys());
        revoked.sort_unstable();
        revoked.dedup();
        revoked
    }

    /// When the last credential that was given out for a relay ends.
    pub fn credentials_end(&self) -> UnixTime {
        UnixTime(self.credential_expiry())
    }

    pub(super) fn credential_expiry(&self) -> u64 {
        (self.relays.day * DAY).saturating_sub(self.credential_offset()) + CREDENTIAL_LIFETIME
    }

    /// The wall clock, as it was told last and has gone on since.
    pub(super) fn unix_at(&self, now: Instant) -> Duration {
        let told = self.relays.clock;
        told.map_or(Duration::ZERO, |(at, unix)| unix + now.saturating_duration_since(at))
    }

    fn credential_offset(&self) -> u64 {
        self.record.id.0 % DAY
    }

    pub(super) fn relays_for(&self, viewer: DeviceId) -> Vec<Relay> {
        let expiry = self.credential_expiry();
        let mut relays: Vec<Relay> = self
            .used()
            .filter(|used| used.record.kind != RelayKind::Device(viewer))
            .filter(|used| !self.is_draining(used.record.id))
            .map(|used| (used.record, used.rank, self.relay_face(used.record)))
            .filter(|(_, _, face)| !face.is_empty())
            .map(|(record, rank, face)| {
                record.entry(self.relay_name(record), rank, face, viewer, expiry)
            })
            .collect();
        relays.sort_by_key(|relay| relay.rank);
        relays
    }

    pub(super) fn duty_of(&self, device: DeviceId) -> Option<RelayDuty> {
        let record = self.relay_of(device)?;
        Some(record.duty(self.relay_face(record).udp, self.revoked_devices()))
    }

    /// Whether a device is a connection relay of the account.
    pub fn is_relay(&self, device: DeviceId) -> bool {
        self.relay_of(device).is_some()
    }

    /// The relay that a device is.
    pub(super) fn relay_of(&self, device: DeviceId) -> Option<&RelayRecord> {
        self.relays.records.values().find(|record| record.kind == RelayKind::Device(device))
    }

    /// What devices use.
    fn used(&self) -> impl Iterator<Item = Used<'_>> {
        let named: Vec<Used<'_>> = self
            .relays
            .list
            .iter()
            .filter_map(|entry| {
                Some(Used { record: self.any_relay(entry.relay)?, rank: entry.rank })
            })
            .collect();
        let by_itself = named.is_empty();
        let own = self.relays.records.values().map(|record| Used { record, rank: 0 });
        let shared = self
            .settings
            .relays
            .iter()
            .map(|record| Used { record, rank: if record.kind == RelayKind::Own { 2 } else { 1 } });
        let unnamed = own.chain(shared).filter(move |_| by_itself);
        named.into_iter().chain(unnamed).filter(|used| match used.record.kind {
            RelayKind::Device(device) => self.is_member(device),
            RelayKind::Server { .. } | RelayKind::Turn { .. } | RelayKind::Own => true,
        })
    }

    /// A relay of the account's, or one that is offered to all.
    fn any_relay(&self, id: RelayId) -> Option<&RelayRecord> {
        let shared = || self.settings.relays.iter().find(|record| record.id == id);
        self.relays.records.get(&id).or_else(shared)
    }

    fn relay_name<'a>(&'a self, record: &'a RelayRecord) -> &'a DeviceName {
        match record.kind {
            RelayKind::Device(device) => {
                self.devices.get(&device).map_or(&record.name, |device| &device.record.name)
            }
            RelayKind::Server { .. } | RelayKind::Turn { .. } | RelayKind::Own => &record.name,
        }
    }

    fn relay_face(&self, record: &RelayRecord) -> RelayFace {
        match record.kind {
            RelayKind::Device(device) => RelayFace {
                udp: self.devices.get(&device).map(device_face).unwrap_or_default(),
                ..RelayFace::default()
            },
            RelayKind::Server { .. } | RelayKind::Turn { .. } | RelayKind::Own => {
                record.face.clone()
            }
        }
    }

    /// Tells private relays and relay servers that the devices to refuse have changed.
    pub(super) fn revocations_changed(&mut self, now: Instant) {
        self.relays.news += 1;
        for device in self.relay_devices() {
            self.touch(Subject::Duty(device), now);
        }
    }

    fn relay_devices(&self) -> Vec<DeviceId> {
        let device = |record: &RelayRecord| match record.kind {
            RelayKind::Device(device) => Some(device),
            RelayKind::Server { .. } | RelayKind::Turn { .. } | RelayKind::Own => None,
        };
        self.relays.records.values().filter_map(device).collect()
    }

    pub(super) fn put_relay(&mut self, record: RelayRecord, now: Instant) {
        if let RelayKind::Device(device) = record.kind {
            self.touch(Subject::Duty(device), now);
        }
        self.relays.news += 1;
        self.relays.records.insert(record.id, record);
        self.touch(Subject::Relays, now);
    }

    pub(super) fn drop_relay(&mut self, id: RelayId, now: Instant) {
        let Some(record) = self.relays.records.remove(&id) else { return };
        self.relays.live.remove(&id);
        self.relays.news += 1;
        if let RelayKind::Device(device) = record.kind {
            self.touch(Subject::Duty(device), now);
        }
        self.touch(Subject::Relays, now);
    }

    /// The device's measured endpoints changed; those matter as long as nobody set one.
    pub(super) fn relay_device_moved(&mut self, device: DeviceId, now: Instant) {
        let is_fixed = |device: &Device| device.record.static_endpoint.is_some();
        if !self.devices.get(&device).is_some_and(is_fixed) {
            self.relay_device_changed(device, now);
        }
    }

    /// The device that is a relay is reached elsewhere, or named otherwise.
    pub(super) fn relay_device_changed(&mut self, device: DeviceId, now: Instant) {
        if self.relay_of(device).is_some() {
            self.touch(Subject::Relays, now);
            self.touch(Subject::Duty(device), now);
        }
    }
}

/// What a relay server is to know.
pub fn relay_init(
    record: &RelayRecord,
    scope: RelayScope,
    revoked: Vec<DeviceId>,
    unix: Duration,
) -> RelayInit {
    RelayInit {
        id: record.id,
        name: record.name.clone(),
        scope,
        realm: RELAY_REALM.to_owned(),
        secrets: record.secrets(),
        clock_unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        revoked,
    }
}

/// The endpoint that an admin set is the one; without it the best guess of each family.
fn device_face(device: &Device) -> Vec<SocketAddr> {
    if let Some(fixed) = device.record.static_endpoint {
        return vec![fixed];
    }
    let DeviceFace { endpoints, .. } = DeviceFace::of(device);
    let mut face = Vec::new();
    for family in [true, false] {
        let fits = |endpoint: &&Endpoint| {
            endpoint.addr.is_ipv4() == family && is_public(&endpoint.addr.ip())
        };
        face.extend(endpoints.iter().filter(fits).min_by_key(guess_rank).map(|it| it.addr));
    }
    face
}

/// A device with a public address is surer to be reached than one behind a NAT.
fn guess_rank(endpoint: &&Endpoint) -> u8 {
    match endpoint.kind {
        EndpointKind::Static => 0,
        EndpointKind::Host => 1,
        EndpointKind::Mapped => 2,
        EndpointKind::Reflexive | EndpointKind::Other => 3,
        EndpointKind::Observed => 4,
    }
}

/// Where a device is seen to be on the internet.
fn public_ips(device: &Device) -> Vec<IpAddr> {
    let DeviceFace { endpoints, .. } = DeviceFace::of(device);
    endpoints.iter().map(|endpoint| endpoint.addr.ip()).filter(is_public).collect()
}

/// What a relay server is told when what it is to know has changed; `None`: nothing.
pub fn relay_update(old: &RelayInit, new: &RelayInit) -> Option<RelayEvent> {
    let RelayInit { id, name, scope, realm, secrets, clock_unix_ms: _, revoked } = new;
    let same = (id, name, scope, realm, secrets)
        == (&old.id, &old.name, &old.scope, &old.realm, &old.secrets);
    let gone = old.revoked.iter().any(|device| !revoked.contains(device));
    if !same || gone {
        return Some(RelayEvent::Init(new.clone()));
    }
    let more: Vec<DeviceId> =
        revoked.iter().copied().filter(|device| !old.revoked.contains(device)).collect();
    (!more.is_empty()).then_some(RelayEvent::Revoke(more))
}
