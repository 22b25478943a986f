//! Waking what stands behind an edge.

use std::time::{Duration, Instant};

use warren_proto::{DeviceId, MacAddr};

use crate::account::Account;
use crate::{Change, Ctx, Prepared, Refused};

/// Calls of one edge.
const CALLS_AT_ONCE: u32 = 5;
const CALL_INTERVAL: Duration = Duration::from_secs(2);

const OFFLINE: Refused = Refused::Invalid("the edge is offline: it can't be told to call anybody");

impl Account {
    /// Has an edge call a card of its LAN. Whether the device wakes is seen by whether it answers.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::Invalid`] for a device that is no edge or not connected,
    /// [`Refused::RateLimited`].
    pub fn prepare_wake(
        &self,
        edge: DeviceId,
        mac: MacAddr,
        ctx: &Ctx,
    ) -> Result<Prepared<()>, Refused> {
        let is_edge = self.edges.by_device.get(&edge).is_some_and(super::Edge::is_enabled);
        let device = self.devices.get(&edge).ok_or(Refused::NotFound("device"))?;
        if !is_edge {
            return Err(Refused::Invalid("the device is no edge: it calls nobody in its LAN"));
        }
        let session = device.session.and_then(|id| self.sessions.get(&id));
        if session.is_none_or(|session| session.stalled) {
            return Err(OFFLINE);
        }
        if !device.wakes.has(CALLS_AT_ONCE, CALL_INTERVAL, ctx.now) {
            return Err(Refused::RateLimited);
        }
        Ok(Prepared { changes: vec![Change::EdgeWakes { edge, mac }], reply: () })
    }

    /// Tells the edge; it may have gone since that was decided.
    pub(in crate::account) fn wake(&mut self, edge: DeviceId, mac: MacAddr, now: Instant) {
        let Some(device) = self.devices.get_mut(&edge) else { return };
        device.wakes.take(CALLS_AT_ONCE, CALL_INTERVAL, now);
        let Some(id) = device.session else { return };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wakes.push_back(mac);
            self.ready.insert(id);
        }
    }
}
