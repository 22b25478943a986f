//! Whether a device is in the mesh: the one place that decides it.
//!
//! A device outside has a map without peers, is in nobody else's, gets no credentials for relays and
//! is refused by them. Unless it has logged out it goes on talking to the broker: so it can say why,
//! and is back within a moment once that has changed. What changes it are an admin (approval,
//! expiry), whoever renews it, the broker's operator (suspension) and time, for which there is one
//! timer: that of the device which expires first.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use warren_proto::{Admission, DeviceId, MAX_APPROVERS};

use super::device::Device;
use super::presence::Timer;
use super::{Account, Subject};
use crate::{
    AccountRecord, Change, Ctx, DeviceLimit, DeviceRecord, Prepared, Refused, Role, UnixTime,
};

const DAY: u64 = 24 * 60 * 60;

/// An account keeps its Activity for so many days at least: whoever takes it over can't make others
/// forget how.
const SHORTEST_ACTIVITY: u16 = 30;

/// Which devices expire when.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    due: BTreeSet<(UnixTime, DeviceId)>,
    timer: Option<(Instant, Timer)>,
}

/// What to change of an account's settings; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettingsEdit {
    /// Whether it is suspended.
    pub suspended: Option<bool>,
    /// How many devices it may have; `Some(None)`: as many as the broker allows.
    pub device_limit: Option<Option<DeviceLimit>>,
    /// How many people it may have; `Some(None)`: any number.
    pub user_limit: Option<Option<u32>>,
    /// Whether a new device waits until an admin approves it.
    pub device_approval: Option<bool>,
    /// After how many days a device must be renewed; `Some(None)`: never.
    pub key_expiry_days: Option<Option<u16>>,
    /// For how many days Activity is kept; `Some(None)`: for ever.
    pub activity_days: Option<Option<u16>>,
}

impl DeviceRecord {
    /// Whether its time is over.
    pub(crate) fn is_expired(&self, now: UnixTime) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Whether it never expires: because somebody said so, or because it has tags and so is nobody's
    /// who could renew it.
    pub(super) fn is_exempt(&self) -> bool {
        self.never_expires || !self.tags.is_empty()
    }

    /// From when on it must be renewed if that is done now.
    pub(super) fn fresh_expiry(&self, days: Option<u16>, now: UnixTime) -> Option<UnixTime> {
        let days = days.filter(|_| !self.is_exempt())?;
        Some(UnixTime(now.0 + u64::from(days) * DAY))
    }
}

impl Account {
    /// Whether a device is in the mesh at this moment, and if not, why.
    pub(super) fn admission_of(&self, record: &DeviceRecord, now: Instant) -> Admission {
        match record {
            _ if record.token.is_none() => Admission::LoggedOut,
            _ if self.record.settings.suspended => Admission::Suspended,
            _ if !record.approved => Admission::Waiting,
            _ if record.is_expired(UnixTime(self.unix_at(now).as_secs())) => Admission::Expired,
            _ => Admission::Member,
        }
    }

    /// Whether a device is in the mesh.
    pub(super) fn is_member(&self, id: DeviceId) -> bool {
        self.devices.get(&id).is_some_and(|device| device.admission.is_member())
    }

    /// How many devices the account may have.
    pub fn device_limit(&self) -> DeviceLimit {
        self.record.settings.device_limit.unwrap_or(self.settings.device_limit)
    }

    /// How many devices wait for an admin.
    pub fn waiting_count(&self) -> usize {
        let waits = |device: &&Device| device.admission == Admission::Waiting;
        self.devices.values().filter(waits).count()
    }

    /// Works out anew whether a device is in the mesh, and tells everybody whom that concerns. Says
    /// whether it came or went: relays must hear of it then.
    pub(super) fn judge_admission(&mut self, id: DeviceId, now: Instant) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        let (was, admission) = (device.admission, self.admission_of(&device.record, now));
        if was == admission {
            return false;
        }
        if was.is_member() && !self.record.settings.suspended {
            self.note_departure(id, now);
        }
        let Some(device) = self.devices.get_mut(&id) else { return false };
        device.admission = admission;
        if was.is_member() == admission.is_member() {
            self.touch(Subject::Own(id), now);
            return false;
        }
        device.paths.forget();
        self.touch(Subject::Device { id, whole: true }, now);
        self.relay_device_changed(id, now);
        // All that it was told of peers and relays is void, or it was told of none.
        let anew = self.log.sequence();
        if let Some(device) = self.devices.get_mut(&id) {
            device.anew = anew;
        }
        true
    }

    /// What others are told of a device has changed, if they are told of it.
    pub(super) fn touch_device(&mut self, id: DeviceId, whole: bool, now: Instant) {
        match (self.is_member(id), whole) {
            (true, _) => self.touch(Subject::Device { id, whole }, now),
            (false, true) => self.touch(Subject::Own(id), now),
            (false, false) => self.revise(),
        }
    }

    pub(super) fn put_account(&mut self, record: AccountRecord, now: Instant) {
        let was_suspended = self.record.settings.suspended;
        self.record = record;
        if was_suspended == self.record.settings.suspended {
            return;
        }
        let ids: Vec<DeviceId> = self.devices.keys().copied().collect();
        let moved = ids.into_iter().filter(|id| self.judge_admission(*id, now)).count();
        if moved > 0 {
            self.revocations_changed(now);
        }
    }

    /// Notes when a device will expire, instead of what was known of it.
    pub(super) fn note_expiry(
        &mut self,
        old: Option<UnixTime>,
        record: &DeviceRecord,
        now: Instant,
    ) {
        if let Some(old) = old {
            self.expiries.due.remove(&(old, record.id));
        }
        let unix = UnixTime(self.unix_at(now).as_secs());
        if let Some(at) = record.expires.filter(|at| *at > unix) {
            self.expiries.due.insert((at, record.id));
        }
    }

    /// Forgets when a device expires.
    pub(super) fn forget_expiry(&mut self, record: &DeviceRecord) {
        if let Some(at) = record.expires {
            self.expiries.due.remove(&(at, record.id));
        }
    }

    /// Sets the timer for the device that expires first.
    pub(super) fn await_expiry(&mut self, now: Instant) {
        if let Some(timer) = self.expiries.timer.take() {
            self.timers.remove(&timer);
        }
        let unix = self.unix_at(now);
        let Some((at, _)) = self.expiries.due.first() else { return };
        let timer = (now + Duration::from_secs(at.0).saturating_sub(unix), Timer::Expiry);
        self.timers.insert(timer);
        self.expiries.timer = Some(timer);
    }

    /// Devices whose time is over leave the mesh.
    pub(super) fn expire_due(&mut self, now: Instant) {
        let unix = UnixTime(self.unix_at(now).as_secs());
        let mut moved = false;
        while let Some(due) = self.expiries.due.first().copied().filter(|(at, _)| *at <= unix) {
            self.expiries.due.remove(&due);
            moved |= self.judge_admission(due.1, now);
        }
        if moved {
            self.revocations_changed(now);
        }
        self.await_expiry(now);
    }

    /// Who may let a device in that waits.
    pub(super) fn approvers_of(&self, device: &Device) -> Vec<String> {
        if device.admission != Admission::Waiting {
            return Vec::new();
        }
        let admins = self.rules.members().at_least(Role::Admin);
        admins.map(ToString::to_string).take(MAX_APPROVERS).collect()
    }

    /// Devices that wait are told who else may let them in.
    pub(super) fn approvers_changed(&mut self, now: Instant) {
        let waits = |device: &&Device| device.admission == Admission::Waiting;
        let waiting: Vec<DeviceId> =
            self.devices.values().filter(waits).map(|device| device.record.id).collect();
        for id in waiting {
            self.touch(Subject::Own(id), now);
        }
    }

    /// Lets a device into the mesh that waits. Its time begins now.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_approve(&self, device: DeviceId, ctx: &Ctx) -> Result<Prepared<()>, Refused> {
        let days = self.record.settings.key_expiry_days;
        self.prepare_edit(device, |record| {
            if !record.approved {
                record.approved = true;
                record.expires = record.fresh_expiry(days, ctx.unix_time());
            }
        })
    }

    /// Turns a device away that waits: it is removed.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Conflict`] for one that is approved.
    pub fn prepare_refuse(&self, device: DeviceId) -> Result<Prepared<()>, Refused> {
        if self.devices.get(&device).is_some_and(|device| device.record.approved) {
            return Err(Refused::Conflict("this device is approved already; remove it instead"));
        }
        self.prepare_remove(device)
    }

    /// Expires a device: it leaves the mesh at once and keeps its name and addresses until it is
    /// renewed, or joins again with a join key that it may use.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_expire(&self, device: DeviceId, ctx: &Ctx) -> Result<Prepared<()>, Refused> {
        let now = ctx.unix_time();
        self.prepare_edit(device, |record| {
            if !record.is_expired(now) {
                record.expires = Some(now);
            }
        })
    }

    /// Renews a device: its time begins anew, whether it was over or not.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Conflict`] for one that has logged out.
    pub fn prepare_renew(&self, device: DeviceId, ctx: &Ctx) -> Result<Prepared<()>, Refused> {
        if self.devices.get(&device).is_some_and(|device| !device.is_registered()) {
            return Err(Refused::Conflict(
                "this device has logged out: it comes back with a join link",
            ));
        }
        let days = self.record.settings.key_expiry_days;
        self.prepare_edit(device, |record| {
            record.expires = record.fresh_expiry(days, ctx.unix_time());
        })
    }

    /// Changes the account's settings, all of it or nothing. Another lifetime of devices counts from
    /// now on; those whose time is over stay out.
    ///
    /// # Errors
    /// [`Refused::Invalid`] for a lifetime of no day, an Activity of less than 30, or a limit of no
    /// device, of more than [`DeviceLimit::MAX`], or of no person.
    pub fn prepare_settings(&self, edit: SettingsEdit, ctx: &Ctx) -> Result<Prepared<()>, Refused> {
        let mut record = self.record.clone();
        let settings = &mut record.settings;
        settings.suspended = edit.suspended.unwrap_or(settings.suspended);
        settings.device_limit = edit.device_limit.unwrap_or(settings.device_limit);
        settings.user_limit = edit.user_limit.unwrap_or(settings.user_limit);
        settings.device_approval = edit.device_approval.unwrap_or(settings.device_approval);
        settings.key_expiry_days = edit.key_expiry_days.unwrap_or(settings.key_expiry_days);
        settings.activity_days = edit.activity_days.unwrap_or(settings.activity_days);
        if edit.activity_days.flatten().is_some_and(|days| days < SHORTEST_ACTIVITY) {
            return Err(Refused::Invalid("Activity is kept for 30 days at least, or for ever"));
        }
        if settings.key_expiry_days == Some(0) {
            return Err(Refused::Invalid("devices are good for a day at least, or for ever"));
        }
        let is_limit = |limit: DeviceLimit| (1..=DeviceLimit::MAX.0).contains(&limit.0);
        if !settings.device_limit.is_none_or(is_limit) {
            return Err(Refused::Invalid("an account has 1 to 10,000 devices"));
        }
        if settings.user_limit == Some(0) {
            return Err(Refused::Invalid("an account has a person at least"));
        }
        let days = settings.key_expiry_days;
        let mut changes = Vec::new();
        if days != self.record.settings.key_expiry_days {
            changes.extend(self.fresh_expiries(days, ctx.unix_time()));
        }
        if record != self.record {
            changes.insert(0, Change::Account(record));
        }
        Ok(Prepared { changes, reply: () })
    }

    fn fresh_expiries(&self, days: Option<u16>, now: UnixTime) -> impl Iterator<Item = Change> {
        let records = self.devices.values().map(|device| &device.record);
        records.filter(move |record| !record.is_expired(now)).filter_map(move |record| {
            let expires = record.fresh_expiry(days, now);
            let other = DeviceRecord { expires, ..record.clone() };
            (other != *record).then_some(Change::Device(other))
        })
    }
}
