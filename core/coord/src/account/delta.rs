//! What changed, and what of it each session is told.
//!
//! The log remembers *which* things changed, not how: a delta is made of what they are when it is
//! sent. So ten changes of one device are one entry, a device that came and went is a `Removed`,
//! and whoever applies all of its deltas has exactly the present map.
//!
//! The first change after a silence goes out at once; those in the [`COALESCE_WINDOW`] after it go
//! out together at its end. What a change means is worked out once for all sessions that are
//! equally far (nearly always all of them); each then takes what it may see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use warren_proto::{Change, Delta, DeviceId, MapVersion};

use super::device::Device;
use super::session::SessionId;
use super::{Account, COALESCE_WINDOW, DeviceFace, Timer, peer_entry};

/// How many changes the log holds. A session that is further behind gets the whole map.
const LOG_CAPACITY: usize = 4096;

/// A thing that changed.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// A device: its whole entry, or its presence alone.
    Device {
        id: DeviceId,
        whole: bool,
    },
    /// What a device is told of itself alone.
    Own(DeviceId),
    Stun,
    NextPin,
    Dns,
    /// The relays that a device reaches.
    Reach(DeviceId),
    /// The relays that devices use, or their credentials.
    Relays,
    /// What a device is to do as a relay.
    Duty(DeviceId),
    /// What a device is to open as an edge.
    Edge(DeviceId),
    /// What a device reaches behind edges.
    Offers(DeviceId),
    /// Whether a device and others see each other.
    Sight {
        id: DeviceId,
        others: Arc<[DeviceId]>,
    },
    /// A device that all others saw is there no more.
    Gone(DeviceId),
    /// What some devices let in.
    Filters(Arc<[DeviceId]>),
    /// What any device lets in.
    AllFilters,
}

/// The last changes, each with its sequence number.
#[derive(Debug, Default)]
pub(super) struct Log {
    sequence: u64,
    subjects: VecDeque<Subject>,
}

impl Log {
    /// The number of the newest change.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    fn push(&mut self, subject: Subject) {
        if self.subjects.len() == LOG_CAPACITY {
            self.subjects.pop_front();
        }
        self.subjects.push_back(subject);
        self.sequence += 1;
    }

    /// Whether everything after `sequence` is still there.
    pub(super) fn reaches(&self, sequence: u64) -> bool {
        self.behind(sequence).is_some()
    }

    fn behind(&self, sequence: u64) -> Option<usize> {
        let behind = usize::try_from(self.sequence.checked_sub(sequence)?).ok()?;
        (behind <= self.subjects.len()).then_some(behind)
    }

    fn since(&self, sequence: u64) -> Option<impl Iterator<Item = &Subject>> {
        let behind = self.behind(sequence)?;
        Some(self.subjects.range(self.subjects.len() - behind..))
    }
}

/// What the changes between two sequence numbers mean, for everybody.
#[derive(Debug)]
pub(super) struct Digest {
    from: u64,
    to: u64,
    devices: Vec<DeviceChange>,
    own: BTreeSet<DeviceId>,
    common: Vec<Change>,
    /// For each who may see the device.
    reach: Vec<(DeviceId, Change)>,
    relays: bool,
    duties: BTreeSet<DeviceId>,
    edges: BTreeSet<DeviceId>,
    offers: BTreeSet<DeviceId>,
    /// For each viewer, whom it began or ceased to see.
    sights: BTreeMap<DeviceId, BTreeSet<DeviceId>>,
    gone: BTreeSet<DeviceId>,
    filters: BTreeSet<DeviceId>,
    all_filters: bool,
}

#[derive(Debug)]
struct DeviceChange {
    id: DeviceId,
    whole: bool,
    /// For those who may see the device.
    seen: Option<Change>,
}

impl Account {
    /// Notes that something changed; the sessions are told at once or at the window's end.
    pub(super) fn touch(&mut self, subject: Subject, now: Instant) {
        self.log.push(subject);
        self.revise();
        match self.window_ends {
            Some(end) if now < end => {
                self.timers.insert((end, Timer::Publish));
            }
            Some(_) | None => self.publish(now),
        }
    }

    /// Lets every session be told of all changes up to here.
    pub(super) fn publish(&mut self, now: Instant) {
        if self.published == self.log.sequence() {
            return;
        }
        self.published = self.log.sequence();
        self.window_ends = Some(now + COALESCE_WINDOW);
        self.ready.extend(self.sessions.keys().copied());
    }

    /// Makes the delta that brings a session up to date, and notes that it has been.
    ///
    /// `Ok(None)`: nothing that it may see has changed. `Err`: only the whole map will do.
    pub(super) fn take_delta(&mut self, id: SessionId) -> Result<Option<Delta>, NeedsWholeMap> {
        let version = self.version();
        let Some(session) = self.sessions.get(&id) else { return Ok(None) };
        let (viewer, seen, base) = (session.device, session.seen, session.sent);
        let changes = self.changes_since(viewer, seen)?;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(None) };
        session.seen = version.sequence;
        if changes.is_empty() {
            return Ok(None);
        }
        session.sent = version.sequence;
        let base = MapVersion { epoch: version.epoch, sequence: base };
        Ok(Some(Delta { base, version, changes }))
    }

    fn changes_since(&mut self, viewer: DeviceId, seen: u64) -> Result<Vec<Change>, NeedsWholeMap> {
        let to = self.log.sequence();
        if self.digest.as_ref().is_none_or(|digest| (digest.from, digest.to) != (seen, to)) {
            self.digest = Some(self.digest_since(seen).ok_or(NeedsWholeMap)?);
        }
        let Some(digest) = &self.digest else { return Err(NeedsWholeMap) };
        let Some(viewer) = self.devices.get(&viewer) else { return Err(NeedsWholeMap) };
        if seen < viewer.anew {
            return Err(NeedsWholeMap);
        }
        let id = viewer.record.id;
        let mut changes = Vec::new();
        if digest.own.contains(&id) {
            changes.push(Change::This { this: self.self_entry(viewer) });
        }
        if !viewer.admission.is_member() {
            changes.extend(digest.common.iter().cloned());
            return Ok(changes);
        }
        if digest.all_filters || digest.filters.contains(&id) {
            changes.push(Change::Filter { filter: self.filter_of(viewer) });
        }
        let sights = digest.sights.get(&id);
        for change in &digest.devices {
            if change.id == id {
                continue;
            }
            let meant = self.devices.get(&change.id);
            let meant = meant.filter(|it| self.are_for_each_other(viewer, it));
            match (&change.seen, meant) {
                (Some(seen), Some(device)) => changes.push(self.change_for(viewer, device, seen)),
                // Of those who were hidden, or outside, all along it learns nothing.
                (Some(_), None) | (None, Some(_) | None) => {
                    let saw = sights.is_some_and(|it| it.contains(&change.id));
                    if saw || digest.gone.contains(&change.id) {
                        changes.push(Change::Removed { id: change.id });
                    }
                }
            }
        }
        let others = sights.into_iter().flatten();
        changes.extend(others.filter_map(|other| self.sight_change(viewer, *other, digest)));
        for (id, change) in &digest.reach {
            if self.devices.get(id).is_some_and(|it| self.may_see(viewer, it)) {
                changes.push(change.clone());
            }
        }
        changes.extend(digest.common.iter().cloned());
        if digest.relays {
            changes.push(Change::Relays { relays: self.relays_for(id) });
        }
        if digest.duties.contains(&id) {
            changes.push(Change::RelayDuty { duty: self.duty_of(id) });
        }
        if digest.edges.contains(&id) {
            changes.push(Change::Edge { duty: self.edge_duty(id), asked: self.edge_asked(id) });
        }
        if digest.offers.contains(&id) {
            changes.extend(self.edge_entries(viewer));
        }
        Ok(changes)
    }

    /// What a viewer is told of a device that it began or ceased to see.
    fn sight_change(&self, viewer: &Device, other: DeviceId, digest: &Digest) -> Option<Change> {
        let at = digest.devices.binary_search_by_key(&other, |change| change.id);
        // A whole entry was said already, or that it is gone.
        let said = at.is_ok_and(|at| {
            let change = &digest.devices[at];
            change.whole || change.seen.is_none()
        });
        if said {
            return None;
        }
        let device = self.devices.get(&other).filter(|it| self.may_see(viewer, it));
        Some(match device {
            Some(device) => Change::Peer { peer: self.entry_for(viewer, device) },
            None => Change::Removed { id: other },
        })
    }

    fn digest_since(&self, from: u64) -> Option<Digest> {
        let mut whole_by_device: BTreeMap<DeviceId, bool> = BTreeMap::new();
        let (mut stun, mut next_pin, mut dns, mut relays) = (false, false, false, false);
        let (mut own, mut reach, mut duties) = <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
        let (mut edges, mut offers) = <(BTreeSet<_>, BTreeSet<_>)>::default();
        let mut sights: BTreeMap<DeviceId, BTreeSet<DeviceId>> = BTreeMap::new();
        let (mut gone, mut filters, mut all_filters) = (BTreeSet::new(), BTreeSet::new(), false);
        for subject in self.log.since(from)? {
            match subject {
                Subject::Device { id, whole } => {
                    *whole_by_device.entry(*id).or_default() |= whole;
                    if *whole {
                        own.insert(*id);
                    }
                }
                Subject::Own(id) => {
                    own.insert(*id);
                }
                Subject::Stun => stun = true,
                Subject::NextPin => next_pin = true,
                Subject::Dns => dns = true,
                Subject::Relays => relays = true,
                Subject::Reach(id) => {
                    reach.insert(*id);
                }
                Subject::Duty(id) => {
                    duties.insert(*id);
                }
                Subject::Edge(id) => {
                    edges.insert(*id);
                }
                Subject::Offers(id) => {
                    offers.insert(*id);
                }
                Subject::Sight { id, others } => {
                    for other in others.iter() {
                        sights.entry(*id).or_default().insert(*other);
                        sights.entry(*other).or_default().insert(*id);
                    }
                }
                Subject::Gone(id) => {
                    gone.insert(*id);
                }
                Subject::Filters(of) => filters.extend(of.iter().copied()),
                Subject::AllFilters => all_filters = true,
            }
        }
        let mut common = Vec::new();
        if stun {
            common.push(Change::Stun { stun: self.settings.stun.clone() });
        }
        if next_pin {
            common.push(Change::NextPin { pin: self.settings.next_pin });
        }
        if dns {
            common.push(Change::Dns { dns: self.dns() });
        }
        // A whole entry says that, too.
        reach.retain(|id| whole_by_device.get(id) != Some(&true));
        let devices: Vec<DeviceChange> = whole_by_device
            .into_iter()
            .map(|(id, whole)| DeviceChange { id, whole, seen: self.device_change(id, whole) })
            .collect();
        let reach = reach.into_iter().filter_map(|id| self.reach_change(id)).collect();
        let to = self.log.sequence();
        Some(Digest {
            from,
            to,
            devices,
            own,
            common,
            reach,
            relays,
            duties,
            edges,
            offers,
            sights,
            gone,
            filters,
            all_filters,
        })
    }

    fn reach_change(&self, id: DeviceId) -> Option<(DeviceId, Change)> {
        let device = self.devices.get(&id).filter(|device| device.admission.is_member())?;
        let relays = device.reported.as_ref().map(|it| it.relays.clone()).unwrap_or_default();
        Some((id, Change::PeerRelays { id, relays }))
    }

    fn device_change(&self, id: DeviceId, whole: bool) -> Option<Change> {
        let device = self.devices.get(&id).filter(|device| device.admission.is_member())?;
        if whole {
            return Some(Change::Peer { peer: peer_entry(device) });
        }
        let DeviceFace { endpoints, reported } = DeviceFace::of(device);
        let nat = reported.map(|reported| reported.nat).unwrap_or_default();
        Some(Change::Presence { id, online: device.online, endpoints, nat })
    }
}

/// Deltas can't bridge the gap.
pub(super) struct NeedsWholeMap;
