//! Waking what stands behind an edge.

use std::time::{Duration, Instant};

use warren_proto::{DeviceId, MacAddr};

use crate::Refused;
use crate::account::Account;

/// Calls of one edge.
const CALLS_AT_ONCE: u32 = 5;
const CALL_INTERVAL: Duration = Duration::from_secs(2);

impl Account {
    /// Has an edge call a card of its LAN. Whether the device wakes is seen by whether it answers.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::Invalid`] for a device that is no edge or not connected,
    /// [`Refused::RateLimited`].
    pub fn handle_wake(
        &mut self,
        edge: DeviceId,
        mac: MacAddr,
        now: Instant,
    ) -> Result<(), Refused> {
        let is_edge = self.edges.by_device.get(&edge).is_some_and(super::Edge::is_enabled);
        let device = self.devices.get_mut(&edge).ok_or(Refused::NotFound("device"))?;
        if !is_edge {
            return Err(Refused::Invalid("the device is no edge: it calls nobody in its LAN"));
        }
        let offline = Refused::Invalid("the edge is offline: it can't be told to call anybody");
        let Some(session_id) = device.session else { return Err(offline) };
        if !device.wakes.take(CALLS_AT_ONCE, CALL_INTERVAL, now) {
            return Err(Refused::RateLimited);
        }
        let session = self.sessions.get_mut(&session_id).filter(|session| !session.stalled);
        session.ok_or(offline)?.wakes.push_back(mac);
        self.ready.insert(session_id);
        Ok(())
    }
}
