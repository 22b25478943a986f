//! Who is online, and what happens when time passes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use warren_proto::{DeviceId, InstanceId};

use super::{Account, EPHEMERAL_AFTER, HOUSEKEEPING_INTERVAL, OFFLINE_GRACE};

const REMEMBERED_INSTANCES: usize = 8;

/// How long two machines with one identity are shown after they were noticed last.
const CLONE_NOTICE: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The window after a delta ends.
    Publish,
    /// A device without a session no longer counts as online.
    Offline(DeviceId),
    /// An ephemeral device has been offline for too long.
    Ephemeral(DeviceId),
    Housekeeping,
    /// The day's credentials for relays are over.
    Credentials,
    /// A device must be renewed.
    Expiry,
    /// Devices have said that they are edges, or none any more.
    Edges,
    /// The hours of a port forward begin or end.
    Hours,
}

impl Timer {
    fn reason(self) -> &'static str {
        match self {
            Self::Publish => "delta window",
            Self::Offline(_) => "offline grace",
            Self::Ephemeral(_) => "ephemeral device",
            Self::Housekeeping => "housekeeping",
            Self::Credentials => "relay credentials",
            Self::Expiry => "device expiry",
            Self::Edges => "edges",
            Self::Hours => "hours",
        }
    }
}

/// The runs of a node that opened sessions, the newest last.
///
/// A node draws its instance anew with each start. So one that comes back after another had its
/// place is not a restart: two machines have the same identity.
#[derive(Debug, Default)]
pub(super) struct Instances {
    recent: VecDeque<InstanceId>,
    clone_noticed: Option<Instant>,
}

impl Instances {
    pub(super) fn note(&mut self, instance: InstanceId, now: Instant) {
        if self.recent.back() == Some(&instance) {
            return;
        }
        if self.recent.contains(&instance) {
            self.clone_noticed = Some(now);
            self.recent.retain(|other| *other != instance);
        }
        if self.recent.len() == REMEMBERED_INSTANCES {
            self.recent.pop_front();
        }
        self.recent.push_back(instance);
    }

    pub(super) fn cloned(&self, now: Instant) -> bool {
        self.clone_noticed.is_some_and(|at| now.duration_since(at) < CLONE_NOTICE)
    }
}

impl Account {
    /// When [`Account::handle_timeout`] is to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.first().map(|(at, timer)| (*at, timer.reason()))
    }

    /// Does what is due. Commit and apply [`Account::poll_housekeeping`] afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, timer)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Publish => self.publish(now),
                Timer::Offline(id) => self.go_offline(id, now),
                Timer::Ephemeral(id) => {
                    self.forget_timer(id);
                    self.ephemeral_due.insert(id);
                    self.housekeeping_due = true;
                }
                Timer::Credentials => self.renew_credentials(now),
                Timer::Expiry => self.expire_due(now),
                Timer::Edges => self.housekeeping_due = true,
                Timer::Hours => self.keep_hours(now),
                Timer::Housekeeping => {
                    self.housekeeping_due = true;
                    self.timers.insert((now + HOUSEKEEPING_INTERVAL, Timer::Housekeeping));
                }
            }
        }
    }

    pub(super) fn note_seen(&mut self, id: DeviceId, now: Instant) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.seen = Some(now);
            self.seen_since_housekeeping.insert(id);
        }
    }

    pub(super) fn go_online(&mut self, id: DeviceId, now: Instant) {
        self.cancel_timer(id);
        self.ephemeral_due.remove(&id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        if !device.online {
            device.online = true;
            self.touch_device(id, false, now);
            self.note_presence(id, true);
        }
    }

    /// The device's session has ended: it is offline unless it is back soon.
    pub(super) fn expect_back(&mut self, id: DeviceId, now: Instant) {
        self.arm_timer(id, now + OFFLINE_GRACE, Timer::Offline(id));
    }

    fn go_offline(&mut self, id: DeviceId, now: Instant) {
        self.forget_timer(id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.online = false;
        device.paths.forget();
        self.touch_device(id, false, now);
        self.note_presence(id, false);
        self.watch_ephemeral(id, now);
    }

    /// Begins to count an ephemeral device's time offline.
    pub(super) fn watch_ephemeral(&mut self, id: DeviceId, now: Instant) {
        let Some(device) = self.devices.get(&id) else { return };
        if device.record.ephemeral && !device.online && device.timer.is_none() {
            self.arm_timer(id, now + EPHEMERAL_AFTER, Timer::Ephemeral(id));
        }
    }

    fn arm_timer(&mut self, id: DeviceId, at: Instant, timer: Timer) {
        self.cancel_timer(id);
        if let Some(device) = self.devices.get_mut(&id) {
            device.timer = Some((at, timer));
            self.timers.insert((at, timer));
        }
    }

    pub(super) fn cancel_timer(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id)
            && let Some(timer) = device.timer.take()
        {
            self.timers.remove(&timer);
        }
    }

    fn forget_timer(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.timer = None;
        }
    }
}
