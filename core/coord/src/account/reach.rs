//! Whether a device is reached at its static endpoint.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{DeviceId, ReachCheck};

use super::Account;
use crate::Refused;

/// Checks of one device: each sends a few datagrams to an address that somebody typed.
const CHECKS_AT_ONCE: u32 = 5;
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

impl Account {
    /// Tells a device to expect a look at its static endpoint, and says where that is.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::Invalid`] for a device without a static endpoint,
    /// [`Refused::PeerOffline`] for one without a session, [`Refused::RateLimited`].
    pub fn handle_reach(
        &mut self,
        device: DeviceId,
        check: ReachCheck,
        now: Instant,
    ) -> Result<SocketAddr, Refused> {
        let known = self.devices.get_mut(&device).ok_or(Refused::NotFound("device"))?;
        let endpoint = known.record.static_endpoint.ok_or(Refused::Invalid(
            "the device has no static endpoint: set the address and port to be checked first",
        ))?;
        let session_id = known.session.ok_or(Refused::PeerOffline)?;
        if !known.reaches.take(CHECKS_AT_ONCE, CHECK_INTERVAL, now) {
            return Err(Refused::RateLimited);
        }
        let session = self.sessions.get_mut(&session_id).ok_or(Refused::PeerOffline)?;
        if session.stalled {
            return Err(Refused::PeerOffline);
        }
        session.reach = Some(check);
        self.ready.insert(session_id);
        Ok(endpoint)
    }
}
