//! Passing on that a device is about to probe another.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{ConnectRequest, ConnectSignal, DeviceId};

use super::check_in::clean_endpoints;
use super::{Account, with_static};
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
    /// [`Refused::Revoked`], [`Refused::RateLimited`] when the device, or its account towards all
    /// the endpoints named, has sent too many, [`Refused::NotFound`] for a peer that the
    /// device may not see, [`Refused::PeerOffline`] for one without a session.
    pub fn handle_connect(
        &mut self,
        device: DeviceId,
        request: &ConnectRequest,
        now: Instant,
    ) -> Result<(), Refused> {
        let sender = self.registered_mut(device)?;
        if !sender.signals.take(SIGNALS_AT_ONCE, SIGNAL_INTERVAL, now) {
            return Err(Refused::RateLimited);
        }
        let sender = self.registered(device)?;
        let peer = self
            .devices
            .get(&request.peer)
            .filter(|peer| self.may_see(sender, peer))
            .ok_or(Refused::NotFound("peer"))?;
        let session_id = peer.session.ok_or(Refused::PeerOffline)?;
        let fixed = sender.record.static_endpoint;
        let mut endpoints = clean_endpoints(&self.record, &request.endpoints);
        let unknown: Vec<SocketAddr> =
            endpoints.iter().map(|it| it.addr).filter(|addr| !sender.has_reported(addr)).collect();
        let session = self.sessions.get_mut(&session_id).ok_or(Refused::PeerOffline)?;
        if session.stalled {
            return Err(Refused::PeerOffline);
        }
        let named = endpoints.len();
        endpoints.retain(|it| self.aim.permits(&it.addr, !unknown.contains(&it.addr), now));
        if named > 0 && endpoints.is_empty() {
            return Err(Refused::RateLimited);
        }
        let endpoints = with_static(fixed, &endpoints);
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
