//! Passing on that a device is about to probe another.

use std::time::{Duration, Instant};

use warren_proto::{ConnectRequest, ConnectSignal, DeviceId};

use super::check_in::clean_endpoints;
use super::{Account, may_see, with_static};
use crate::Refused;

/// A device may wake a few hundred peers at once (a server after a restart), but not go on so.
const SIGNALS_AT_ONCE: u32 = 256;
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// What waits for one session at most; beyond, the oldest is dropped: the sender asks again.
const MAX_WAITING_SIGNALS: usize = 64;

impl Account {
    /// Tells a peer, if it has a session, that a device is about to probe it.
    ///
    /// # Errors
    /// [`Refused::Revoked`], [`Refused::RateLimited`], [`Refused::NotFound`] for a peer that the
    /// device may not see, [`Refused::PeerOffline`] for one without a session.
    pub fn handle_connect(
        &mut self,
        device: DeviceId,
        request: &ConnectRequest,
        now: Instant,
    ) -> Result<(), Refused> {
        let sender = self.active_mut(device)?;
        if !sender.signals.take(SIGNALS_AT_ONCE, SIGNAL_INTERVAL, now) {
            return Err(Refused::RateLimited);
        }
        let sender = self.active(device)?;
        let peer = self
            .devices
            .get(&request.peer)
            .filter(|peer| may_see(sender, peer))
            .ok_or(Refused::NotFound("peer"))?;
        let session_id = peer.session.ok_or(Refused::PeerOffline)?;
        let endpoints = clean_endpoints(&self.record, &request.endpoints);
        let endpoints = with_static(sender.record.static_endpoint, &endpoints);
        let session = self.sessions.get_mut(&session_id).ok_or(Refused::PeerOffline)?;
        if session.stalled {
            return Err(Refused::PeerOffline);
        }
        session.signals.retain(|waiting| waiting.from != device);
        if session.signals.len() == MAX_WAITING_SIGNALS {
            session.signals.pop_front();
        }
        session.signals.push_back(ConnectSignal {
            from: device,
            endpoints,
            nat: request.nat,
            relay: request.relay,
        });
        self.ready.insert(session_id);
        Ok(())
    }
}
