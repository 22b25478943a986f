//! What is durable but not urgent: when devices were last seen, and ephemeral devices that are due.

use std::time::Duration;

use warren_proto::DeviceId;

use super::Account;
use crate::{Change, Ctx, Prepared, UnixTime};

impl Account {
    /// What fell due with the last [`Account::handle_timeout`], to be committed and applied. If the
    /// commit fails, it comes again with the next housekeeping.
    pub fn poll_housekeeping(&mut self, ctx: &Ctx) -> Option<Prepared<()>> {
        if !std::mem::take(&mut self.housekeeping_due) {
            return None;
        }
        let prepared = self.prepare_housekeeping(ctx);
        (!prepared.changes.is_empty()).then_some(prepared)
    }

    /// All that housekeeping would write: call it before the process ends, too.
    pub fn prepare_housekeeping(&self, ctx: &Ctx) -> Prepared<()> {
        let gone = |id: &DeviceId| self.ephemeral_due.contains(id) && self.is_stale(*id);
        let removed = self.ephemeral_due.iter().copied().filter(|id| gone(id));
        let mut changes: Vec<Change> = removed.flat_map(|id| self.device_removal(id)).collect();
        changes.extend(
            self.consents()
                .filter(|change| !matches!(change, Change::Edge(edge) if gone(&edge.device))),
        );
        let over = self.relays.revoked.iter().filter(|(_, until)| **until < ctx.unix_time());
        changes.extend(over.map(|(device, _)| Change::RevocationOver(*device)));
        for id in self.seen_since_housekeeping.iter().copied().filter(|id| !gone(id)) {
            if let Some(at) = self.last_seen(id, ctx) {
                changes.push(Change::LastSeen { device: id, at });
            }
        }
        Prepared { changes, reply: () }
    }

    fn is_stale(&self, id: DeviceId) -> bool {
        self.devices.get(&id).is_some_and(|device| device.record.ephemeral && !device.online)
    }

    fn last_seen(&self, id: DeviceId, ctx: &Ctx) -> Option<UnixTime> {
        let seen = self.devices.get(&id)?.seen?;
        Some(wall_clock(ctx.unix, ctx.now.duration_since(seen)))
    }
}

pub(super) fn wall_clock(unix: Duration, ago: Duration) -> UnixTime {
    UnixTime(unix.saturating_sub(ago).as_secs())
}
