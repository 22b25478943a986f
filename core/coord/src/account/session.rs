//! Control sessions: one stream of events to each connected device.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use warren_proto::{
    ConnectSignal, DeviceId, InstanceId, MacAddr, MapVersion, ReachCheck, SessionEvent, WakeOrder,
};

use super::Account;
use crate::Refused;

/// A device that opens sessions more often than this is told to wait: each may cost a whole map.
const SESSIONS_AT_ONCE: u32 = 20;
const SESSION_INTERVAL: Duration = Duration::from_secs(1);

/// A device that asks for whole maps outside its session more often than this is told to wait: it
/// does so when it has lost the thread.
const FETCHES_AT_ONCE: u32 = 10;
const FETCH_INTERVAL: Duration = Duration::from_secs(5);

/// Names a session of one [`Account`]; never used again while the account is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A session has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// It.
    pub session: SessionId,
    /// The device's older session, which it replaces: end its stream. It gets no further events
    /// and need not be closed.
    pub replaced: Option<SessionId>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) device: DeviceId,
    /// How the stream begins, until it has begun.
    start: Option<Start>,
    /// The sequence of the last map or delta that was sent.
    pub(super) sent: u64,
    /// The sequence up to which all that the device may see was sent; at least `sent`.
    pub(super) seen: u64,
    pub(super) signals: VecDeque<ConnectSignal>,
    /// Word of a check that is about to come; a later one takes its place.
    pub(super) reach: Option<ReachCheck>,
    /// The cards that the device, an edge, is to call; bounded by how often it is asked.
    pub(super) wakes: VecDeque<MacAddr>,
    /// The stream doesn't keep up: nothing is sent until it has drained.
    pub(super) stalled: bool,
}

#[derive(Debug, Clone, Copy)]
enum Start {
    WholeMap,
    Resume(MapVersion),
}

impl Account {
    /// Begins a device's session; it goes online. The first event is the whole map, or, when the
    /// map of `last_event_id` (the newest one that the device has) can be brought up to date, the
    /// delta to it or word that it is current.
    ///
    /// `instance` tells two machines with one identity from one that reconnects.
    ///
    /// # Errors
    /// [`Refused::Revoked`], or [`Refused::RateLimited`] for one that reconnects in a loop.
    pub fn open_session(
        &mut self,
        device: DeviceId,
        instance: Option<InstanceId>,
        last_event_id: Option<MapVersion>,
        now: Instant,
    ) -> Result<Opened, Refused> {
        let session = SessionId(self.next_session);
        let known = self.registered_mut(device)?;
        if !known.opens.take(SESSIONS_AT_ONCE, SESSION_INTERVAL, now) {
            return Err(Refused::RateLimited);
        }
        if let Some(instance) = instance {
            known.instances.note(instance, now);
        }
        known.paths.forget();
        let replaced = known.session.replace(session);
        self.next_session += 1;
        if let Some(old) = replaced {
            self.sessions.remove(&old);
            self.ready.remove(&old);
        }
        let start = last_event_id.map_or(Start::WholeMap, Start::Resume);
        self.sessions.insert(
            session,
            Session {
                device,
                start: Some(start),
                sent: 0,
                seen: 0,
                signals: VecDeque::new(),
                reach: None,
                wakes: VecDeque::new(),
                stalled: false,
            },
        );
        self.ready.insert(session);
        self.note_seen(device, now);
        self.go_online(device, now);
        Ok(Opened { session, replaced })
    }

    /// Notes that a device is about to fetch [`Account::netmap`].
    ///
    /// # Errors
    /// [`Refused::Revoked`], or [`Refused::RateLimited`] for one that does nothing else.
    pub fn handle_fetch(&mut self, device: DeviceId, now: Instant) -> Result<(), Refused> {
        let allowed =
            self.registered_mut(device)?.fetches.take(FETCHES_AT_ONCE, FETCH_INTERVAL, now);
        if allowed { Ok(()) } else { Err(Refused::RateLimited) }
    }

    /// Ends a session whose stream has ended. The device goes offline unless it opens another one
    /// within [`super::OFFLINE_GRACE`]. A session that was replaced or revoked is gone already.
    pub fn close_session(&mut self, session: SessionId, now: Instant) {
        let Some(closed) = self.sessions.remove(&session) else { return };
        self.ready.remove(&session);
        self.note_seen(closed.device, now);
        if let Some(device) = self.devices.get_mut(&closed.device)
            && device.session == Some(session)
        {
            device.session = None;
            self.expect_back(closed.device, now);
        }
    }

    /// Notes that a session's stream has no room for the event that was just polled, which is lost:
    /// nothing more is made for it until [`Account::handle_drained`].
    pub fn handle_overflow(&mut self, session: SessionId) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.stalled = true;
            session.start = Some(Start::WholeMap);
            session.signals.clear();
            session.reach = None;
        }
        self.ready.remove(&session);
    }

    /// Notes that a stalled stream has room again: it gets the whole map.
    pub fn handle_drained(&mut self, session: SessionId) {
        if let Some(stalled) = self.sessions.get_mut(&session)
            && stalled.stalled
        {
            stalled.stalled = false;
            self.ready.insert(session);
        }
    }

    /// The device of a session that is open.
    pub fn session_device(&self, session: SessionId) -> Option<DeviceId> {
        self.sessions.get(&session).map(|session| session.device)
    }

    /// How many sessions are open.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The next event for a session's stream. After [`SessionEvent::Revoked`] the session is gone:
    /// end its stream.
    pub fn poll_event(&mut self) -> Option<(SessionId, SessionEvent)> {
        if let Some(session) = self.revoked.pop_front() {
            return Some((session, SessionEvent::Revoked));
        }
        while let Some(&session) = self.ready.first() {
            if let Some(event) = self.next_event(session) {
                return Some((session, event));
            }
            self.ready.remove(&session);
        }
        self.digest = None;
        None
    }

    fn next_event(&mut self, id: SessionId) -> Option<SessionEvent> {
        let session = self.sessions.get_mut(&id).filter(|session| !session.stalled)?;
        match session.start.take() {
            Some(Start::WholeMap) => return self.whole_map(id),
            Some(Start::Resume(version)) => return self.resume(id, version),
            None => {}
        }
        // A signal must not overtake the entry of the device that it comes from.
        let due = if session.signals.is_empty() { self.published } else { self.log.sequence() };
        if session.seen < due {
            match self.take_delta(id) {
                Ok(Some(delta)) => return Some(SessionEvent::Delta(delta)),
                Ok(None) => {}
                Err(_) => return self.whole_map(id),
            }
        }
        if let Some(check) = self.sessions.get_mut(&id)?.reach.take() {
            return Some(SessionEvent::Reach(check));
        }
        if let Some(mac) = self.sessions.get_mut(&id)?.wakes.pop_front() {
            return Some(SessionEvent::Wake(WakeOrder { mac }));
        }
        self.next_signal(id).map(SessionEvent::Connect)
    }

    /// The next word of a peer that may still be seen.
    fn next_signal(&mut self, id: SessionId) -> Option<ConnectSignal> {
        loop {
            let session = self.sessions.get_mut(&id)?;
            let viewer = session.device;
            let signal = session.signals.pop_front()?;
            let (viewer, sender) = (self.devices.get(&viewer)?, self.devices.get(&signal.from));
            if sender.is_some_and(|sender| self.may_see(viewer, sender)) {
                return Some(signal);
            }
        }
    }

    fn whole_map(&mut self, id: SessionId) -> Option<SessionEvent> {
        let netmap = self.netmap(self.sessions.get(&id)?.device).ok()?;
        let session = self.sessions.get_mut(&id)?;
        (session.sent, session.seen) = (netmap.version.sequence, netmap.version.sequence);
        Some(SessionEvent::Netmap(Box::new(netmap)))
    }

    fn resume(&mut self, id: SessionId, version: MapVersion) -> Option<SessionEvent> {
        if version.epoch != self.epoch.0 || !self.log.reaches(version.sequence) {
            return self.whole_map(id);
        }
        let session = self.sessions.get_mut(&id)?;
        (session.sent, session.seen) = (version.sequence, version.sequence);
        match self.take_delta(id) {
            Ok(Some(delta)) => Some(SessionEvent::Delta(delta)),
            Ok(None) => Some(SessionEvent::Current(version)),
            Err(_) => self.whole_map(id),
        }
    }
}
