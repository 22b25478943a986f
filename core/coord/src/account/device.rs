//! Devices as an admin changes them: rename, expire, remove, tag, pin an endpoint.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use warren_proto::{DeviceId, DeviceName, UserId, is_usable_endpoint};

use super::check_in::Reported;
use super::paths::Paths;
use super::presence::{Instances, Timer};
use super::session::SessionId;
use super::{Account, Subject};
use crate::limit::Bucket;
use crate::name::RESERVED_NAME;
use crate::policy::Meant;
use crate::{Change, DeviceRecord, Prepared, Refused, Tag};

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
    pub(super) opens: Bucket,
    pub(super) fetches: Bucket,
    pub(super) paths: Paths,
    /// Which of the policy's rules mean it.
    pub(super) meant: Meant,
}

impl Device {
    fn new(record: DeviceRecord, meant: Meant) -> Self {
        Self {
            record,
            meant,
            session: None,
            online: false,
            reported: None,
            resend: false,
            seen: None,
            timer: None,
            instances: Instances::default(),
            changes: Bucket::full(),
            signals: Bucket::full(),
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

    /// Whether it belongs to the mesh: it has a token, that is, it need not join again.
    pub(super) fn is_active(&self) -> bool {
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
    /// Changes what an admin may change of a device, all of it or nothing.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::NameTaken`], or [`Refused::Invalid`] for a name that is
    /// [reserved](DeviceName::is_reserved), an endpoint that no peer could send to or for more than
    /// 16 tags.
    pub fn prepare_change(
        &self,
        device: DeviceId,
        edit: DeviceEdit,
    ) -> Result<Prepared<()>, Refused> {
        if let Some(name) = &edit.name
            && self.device_by_name.get(name).is_some_and(|other| *other != device)
        {
            return Err(Refused::NameTaken(name.clone()));
        }
        if edit.name.as_ref().is_some_and(DeviceName::is_reserved) {
            return Err(RESERVED_NAME);
        }
        if let Some(Some(addr)) = &edit.static_endpoint {
            self.check_static_endpoint(addr)?;
        }
        if let Some(tags) = &edit.tags {
            check_tags(tags)?;
        }
        self.prepare_edit(device, |record| {
            record.name = edit.name.unwrap_or_else(|| record.name.clone());
            record.static_endpoint = edit.static_endpoint.unwrap_or(record.static_endpoint);
            record.tags = edit.tags.unwrap_or_else(|| std::mem::take(&mut record.tags));
            record.owner = edit.owner.unwrap_or(record.owner);
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

    /// Expires a device: it is cut off, keeps its name and addresses, and must join again with a
    /// join key that it may use.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_expire(&self, device: DeviceId) -> Result<Prepared<()>, Refused> {
        self.prepare_edit(device, |record| record.token = None)
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

    /// The device leaves by itself: as if expired, and removed if it is ephemeral.
    ///
    /// # Errors
    /// [`Refused::Revoked`] if it has left already.
    pub fn prepare_logout(&self, device: DeviceId) -> Result<Prepared<()>, Refused> {
        if self.active(device)?.record.ephemeral {
            return self.prepare_remove(device);
        }
        self.prepare_expire(device)
    }

    fn prepare_edit(
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
        let old = self.devices.get(&id).map(|old| &old.record);
        let touched = old.is_none_or(|old| face(old) != face(&record));
        let expired = record.token.is_none();
        let other_credentials = old.is_some_and(|old| old.token.is_none() != expired);
        let before = self.devices.get(&id).map(|device| device.meant.clone());
        self.store_device(record);
        let after = self.devices.get(&id).map(|device| device.meant.clone());
        self.judge_device(id, before.as_ref(), after.as_ref(), now);
        if expired {
            self.cut_off(id);
        }
        self.watch_ephemeral(id, now);
        if touched {
            self.touch(Subject::Device { id, whole: true }, now);
            self.relay_device_changed(id, now);
        }
        if other_credentials {
            self.revocations_changed(now);
        }
    }

    pub(super) fn store_device(&mut self, record: DeviceRecord) {
        let id = record.id;
        if let Some(old) = self.devices.get(&id) {
            self.device_by_name.remove(&old.record.name);
        }
        self.device_by_name.insert(record.name.clone(), id);
        self.device_by_key.insert(record.key, id);
        self.device_by_ipv4.insert(record.ipv4, id);
        let meant = self.rules.meant(&record);
        match self.devices.get_mut(&id) {
            Some(device) => (device.record, device.meant) = (record, meant),
            None => {
                self.devices.insert(id, Device::new(record, meant));
            }
        }
    }

    pub(super) fn drop_device(&mut self, id: DeviceId, now: Instant) {
        self.cut_off(id);
        let Some(device) = self.devices.remove(&id) else { return };
        self.device_by_name.remove(&device.record.name);
        self.device_by_key.remove(&device.record.key);
        self.device_by_ipv4.remove(&device.record.ipv4);
        self.seen_since_housekeeping.remove(&id);
        self.ephemeral_due.remove(&id);
        for other in self.devices.values_mut() {
            other.paths.forget_peer(id);
        }
        self.judge_device(id, Some(&device.meant), None, now);
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
    (record.token.is_some(), &record.name, record.ipv4, record.ipv6, record.static_endpoint)
}

pub(super) fn check_tags(tags: &BTreeSet<Tag>) -> Result<(), Refused> {
    if tags.len() > MAX_TAGS {
        return Err(Refused::Invalid("at most 16 tags"));
    }
    Ok(())
}
