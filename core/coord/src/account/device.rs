//! Devices as an admin changes them: rename, remove, tag, pin an endpoint.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use warren_proto::{Admission, DeviceId, DeviceName, UserId, is_usable_endpoint};

use super::check_in::Reported;
use super::paths::Paths;
use super::presence::{Instances, Timer};
use super::session::SessionId;
use super::{Account, Subject};
use crate::limit::Bucket;
use crate::name::check_new_name;
use crate::policy::Meant;
use crate::{Change, Ctx, DeviceRecord, Prepared, Refused, Tag};

const MAX_TAGS: usize = 16;

/// A device: what is stored, and what this process knows besides.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) record: DeviceRecord,
    pub(super) session: Option<SessionId>,
    /// Whether the peers are told that it is online.
    pub(super) online: bool,
    pub(super) reported: Option<Reported>,
    /// The next check-in must bring the state again.
    pub(super) resend: bool,
    pub(super) seen: Option<Instant>,
    pub(super) timer: Option<(Instant, Timer)>,
    pub(super) instances: Instances,
    pub(super) changes: Bucket,
    pub(super) signals: Bucket,
    pub(super) reaches: Bucket,
    pub(super) wakes: Bucket,
    pub(super) opens: Bucket,
    pub(super) fetches: Bucket,
    pub(super) paths: Paths,
    /// Which of the policy's rules mean it.
    pub(super) meant: Meant,
    /// Whether it is in the mesh.
    pub(super) admission: Admission,
    /// The sequence at which it came or went: no map from before can be brought up to date.
    pub(super) anew: u64,
}

impl Device {
    fn new(record: DeviceRecord, meant: Meant, admission: Admission) -> Self {
        Self {
            record,
            meant,
            admission,
            anew: 0,
            session: None,
            online: false,
            reported: None,
            resend: false,
            seen: None,
            timer: None,
            instances: Instances::default(),
            changes: Bucket::full(),
            signals: Bucket::full(),
            reaches: Bucket::full(),
            wakes: Bucket::full(),
            opens: Bucket::full(),
            fetches: Bucket::full(),
            paths: Paths::none(),
        }
    }

    /// Whether it has checked in with this endpoint, or an admin has set it.
    pub(super) fn has_reported(&self, addr: &SocketAddr) -> bool {
        let reported = self.reported.iter().flat_map(|reported| &reported.endpoints);
        reported
            .map(|endpoint| endpoint.addr)
            .chain(self.record.static_endpoint)
            .any(|it| it == *addr)
    }

    /// Whether the broker talks to it: it has a token.
    pub(super) fn is_registered(&self) -> bool {
        self.record.token.is_some()
    }
}

/// What an admin changes of a device; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceEdit {
    /// Another name.
    pub name: Option<DeviceName>,
    /// The endpoint that is published beside the measured ones; `Some(None)` removes it.
    pub static_endpoint: Option<Option<SocketAddr>>,
    /// The tags, all of them.
    pub tags: Option<BTreeSet<Tag>>,
    /// The user that it belongs to; `Some(None)`: to none.
    pub owner: Option<Option<UserId>>,
    /// Whether it never expires, whatever is set for the account.
    pub never_expires: Option<bool>,
}

impl DeviceEdit {
    /// Another name alone.
    pub fn rename(name: DeviceName) -> Self {
        Self { name: Some(name), ..Self::default() }
    }

    /// Another static endpoint, or none, alone.
    pub fn static_endpoint(endpoint: Option<SocketAddr>) -> Self {
        Self { static_endpoint: Some(endpoint), ..Self::default() }
    }
}

impl Account {
    /// Changes what an admin may change of a device, all of it or nothing. Where that decides whether
    /// it expires, its time begins now; one whose time is over has to be renewed all the same.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::NameTaken`], or [`Refused::Invalid`] for a name that is
    /// [reserved](DeviceName::is_reserved), an endpoint that no peer could send to or for more than
    /// 16 tags.
    pub fn prepare_change(
        &self,
        device: DeviceId,
        edit: DeviceEdit,
        ctx: &Ctx,
    ) -> Result<Prepared<()>, Refused> {
        if let Some(name) = &edit.name
            && self.device_by_name.get(name).is_some_and(|other| *other != device)
        {
            return Err(Refused::NameTaken(name.clone()));
        }
        if let Some(name) = &edit.name {
            check_new_name(name)?;
        }
        if let Some(Some(addr)) = &edit.static_endpoint {
            self.check_static_endpoint(addr)?;
        }
        if let Some(tags) = &edit.tags {
            check_tags(tags)?;
        }
        let (days, now) = (self.record.settings.key_expiry_days, ctx.unix_time());
        self.prepare_edit(device, |record| {
            let was_exempt = record.is_exempt();
            record.name = edit.name.unwrap_or_else(|| record.name.clone());
            record.static_endpoint = edit.static_endpoint.unwrap_or(record.static_endpoint);
            record.tags = edit.tags.unwrap_or_else(|| std::mem::take(&mut record.tags));
            record.owner = edit.owner.unwrap_or(record.owner);
            record.never_expires = edit.never_expires.unwrap_or(record.never_expires);
            if record.is_exempt() != was_exempt && !record.is_expired(now) {
                record.expires = record.fresh_expiry(days, now);
            }
        })
    }

    fn check_static_endpoint(&self, addr: &SocketAddr) -> Result<(), Refused> {
        let mesh = match addr.ip().to_canonical() {
            IpAddr::V4(ip) => self.record.ipv4_range.contains(&ip),
            IpAddr::V6(ip) => self.record.ipv6_range.contains(&ip),
        };
        if mesh || !is_usable_endpoint(addr) {
            return Err(Refused::Invalid(
                "a static endpoint is a unicast address and port outside the mesh",
            ));
        }
        Ok(())
    }

    /// Removes a device: it is cut off and forgotten; its key would join as a new device. If it is a
    /// connection relay, it is one no more.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_remove(&self, device: DeviceId) -> Result<Prepared<()>, Refused> {
        if !self.devices.contains_key(&device) {
            return Err(Refused::NotFound("device"));
        }
        Ok(Prepared { changes: self.device_removal(device), reply: () })
    }

    /// The device leaves by itself: it is cut off, keeps its name and addresses, and must join again.
    /// An ephemeral one is removed.
    ///
    /// # Errors
    /// [`Refused::Revoked`] if it has left already.
    pub fn prepare_logout(&self, device: DeviceId) -> Result<Prepared<()>, Refused> {
        if self.registered(device)?.record.ephemeral {
            return self.prepare_remove(device);
        }
        self.prepare_edit(device, |record| record.token = None)
    }

    pub(super) fn prepare_edit(
        &self,
        device: DeviceId,
        edit: impl FnOnce(&mut DeviceRecord),
    ) -> Result<Prepared<()>, Refused> {
        let device = self.devices.get(&device).ok_or(Refused::NotFound("device"))?;
        let mut record = device.record.clone();
        edit(&mut record);
        let changed = record != device.record;
        let changes = if changed { vec![Change::Device(record)] } else { Vec::new() };
        Ok(Prepared { changes, reply: () })
    }

    pub(super) fn put_device(&mut self, record: DeviceRecord, now: Instant) {
        let id = record.id;
        let old = self.devices.get(&id);
        let is_new = old.is_none();
        let touched = old.is_none_or(|old| face(&old.record) != face(&record));
        let is_own_news = old.is_some_and(|old| old.record.expires != record.expires);
        let before = old.map(|device| device.meant.clone());
        let renamed = old.is_none_or(|old| who(&old.record) != who(&record));
        self.store_device(record, now);
        self.await_expiry(now);
        let after = self.devices.get(&id).map(|device| device.meant.clone());
        self.judge_device(id, before.as_ref(), after.as_ref(), now);
        if renamed {
            self.limits_changed(now);
        }
        let moved = self.judge_admission(id, now);
        if !self.devices.get(&id).is_some_and(Device::is_registered) {
            self.cut_off(id);
        }
        self.watch_ephemeral(id, now);
        if moved {
            self.revocations_changed(now);
        } else if touched && (!is_new || self.is_member(id)) {
            self.touch_device(id, true, now);
            self.relay_device_changed(id, now);
        } else if is_own_news {
            self.touch(Subject::Own(id), now);
        }
    }

    pub(super) fn store_device(&mut self, record: DeviceRecord, now: Instant) {
        let id = record.id;
        let old = self.devices.get(&id).map(|old| &old.record);
        let expiry = old.and_then(|old| old.expires);
        if let Some(old) = old {
            self.device_by_name.remove(&old.name);
        }
        self.note_expiry(expiry, &record, now);
        self.device_by_name.insert(record.name.clone(), id);
        self.device_by_key.insert(record.key, id);
        self.device_by_ipv4.insert(record.ipv4, id);
        let meant = self.rules.meant(&record, &self.edges.networks(id));
        let admission = self.admission_of(&record, now);
        match self.devices.get_mut(&id) {
            Some(device) => (device.record, device.meant) = (record, meant),
            None => {
                self.devices.insert(id, Device::new(record, meant, admission));
            }
        }
    }

    pub(super) fn drop_device(&mut self, id: DeviceId, now: Instant) {
        self.cut_off(id);
        let Some(meant) = self.devices.get(&id).map(|device| device.meant.clone()) else { return };
        self.judge_device(id, Some(&meant), None, now);
        let Some(device) = self.devices.remove(&id) else { return };
        self.forget_edge(id);
        self.limits_changed(now);
        self.forget_expiry(&device.record);
        self.device_by_name.remove(&device.record.name);
        self.device_by_key.remove(&device.record.key);
        self.device_by_ipv4.remove(&device.record.ipv4);
        self.seen_since_housekeeping.remove(&id);
        self.ephemeral_due.remove(&id);
        for other in self.devices.values_mut() {
            other.paths.forget_peer(id);
        }
        self.touch(Subject::Device { id, whole: true }, now);
    }

    /// Ends the device's session with a revocation and forgets its soft state.
    fn cut_off(&mut self, id: DeviceId) {
        self.cancel_timer(id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.online = false;
        device.reported = None;
        device.paths.forget();
        if let Some(session) = device.session.take() {
            self.sessions.remove(&session);
            self.ready.remove(&session);
            self.revoked.push_back(session);
        }
    }
}

/// What of a stored device others, or it itself, are told.
fn face(record: &DeviceRecord) -> impl PartialEq + '_ {
    (&record.name, record.ipv4, record.ipv6, record.static_endpoint)
}

/// What of a stored device tells whose and what it is.
fn who(record: &DeviceRecord) -> impl PartialEq + '_ {
    (&record.name, &record.tags, record.owner)
}

pub(super) fn check_tags(tags: &BTreeSet<Tag>) -> Result<(), Refused> {
    if tags.len() > MAX_TAGS {
        return Err(Refused::Invalid("at most 16 tags"));
    }
    Ok(())
}
