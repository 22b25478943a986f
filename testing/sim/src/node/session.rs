//! The control session as the daemon (`roles/node`) keeps it: connect, open the stream, then check
//! in; watch; come back with full jitter; check in on change and each minute, one at a time.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use warren_mesh::{BrokerState, Event, MapSource};
use warren_proto::{Apply, CheckIn, CheckInState, MapVersion, SessionEvent};

use super::{Node, Want};
use crate::control::{ConnId, Down, Up, WATCHDOG};

/// Time from one check-in to the next.
const CHECK_IN: Duration = Duration::from_secs(60);

/// How long an answer to a check-in may take, and how long just after a change of the network.
const PATIENCE: Duration = Duration::from_secs(10);
const IMPATIENT: Duration = Duration::from_secs(3);
const UNSETTLED: Duration = Duration::from_secs(10);

/// The first retry comes within this, and each failure doubles it (full jitter).
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// A session that lasted this long starts the back-off anew.
const STABLE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Session {
    state: State,
    rng: StdRng,
    failures: u32,
    heard: Instant,
    /// When the connection was opened.
    begun: Instant,
    /// The host's addresses changed last.
    changed: Option<Instant>,
    check_in_at: Option<Instant>,
    /// The check-in under way is given up then.
    answer_due: Option<Instant>,
    /// Check in once more when the present one is answered.
    again: Option<Option<CheckInState>>,
    /// What the mesh said last.
    known: Option<CheckInState>,
    /// The newest map that the node has.
    version: Option<MapVersion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting {
        until: Instant,
    },
    Dialling,
    /// The stream is asked for.
    Opening {
        conn: ConnId,
        rtt: Duration,
    },
    Open(ConnId),
    /// Removed from the account.
    Revoked,
}

impl Session {
    pub(super) fn new(seed: u64, version: Option<MapVersion>, now: Instant) -> Self {
        Self {
            state: State::Waiting { until: now + Duration::from_millis(1) },
            rng: StdRng::seed_from_u64(seed),
            failures: 0,
            heard: now,
            begun: now,
            changed: None,
            check_in_at: None,
            answer_due: None,
            again: None,
            known: None,
            version,
        }
    }

    /// The connection that stands.
    pub(crate) fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Opening { conn, .. } | State::Open(conn) => Some(conn),
            State::Waiting { .. } | State::Dialling | State::Revoked => None,
        }
    }

    /// Whether the event stream stands.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let state = match self.state {
            State::Waiting { until } => Some((until, "reconnect")),
            State::Opening { .. } => Some((self.begun + PATIENCE, "opening the stream")),
            State::Open(_) => Some((self.heard + WATCHDOG, "watchdog")),
            State::Dialling | State::Revoked => None,
        };
        let check_in = self.check_in_at.map(|at| (at, "check-in"));
        let answer = self.answer_due.map(|at| (at, "no answer to a check-in"));
        state.into_iter().chain(check_in).chain(answer).min()
    }

    /// Gives up what there was, and tries again after a while.
    fn retry(&mut self, now: Instant) {
        if self.is_open() && now - self.begun >= STABLE {
            self.failures = 0;
        }
        let cap = (FIRST_BACKOFF * 2u32.saturating_pow(self.failures.min(10))).min(LONGEST_BACKOFF);
        self.failures += 1;
        // Full jitter, but never this very instant.
        let wait = cap.mul_f64(self.rng.random::<f64>()).max(Duration::from_millis(1));
        self.reset(State::Waiting { until: now + wait });
    }

    fn reset(&mut self, state: State) {
        self.state = state;
        self.check_in_at = None;
        self.answer_due = None;
        self.again = None;
    }

    fn check_in(&mut self, state: Option<CheckInState>, wants: &mut Vec<Want>, now: Instant) {
        let State::Open(conn) = self.state else { return };
        if self.answer_due.is_some() {
            let pending = self.again.take().flatten();
            self.again = Some(state.or(pending));
            return;
        }
        let unsettled = self.changed.is_some_and(|changed| now - changed < UNSETTLED);
        self.answer_due = Some(now + if unsettled { IMPATIENT } else { PATIENCE });
        wants.push(Want::Say(conn, Up::CheckIn(CheckIn { state })));
    }

    fn checked_in(&mut self, wants: &mut Vec<Want>, now: Instant) {
        self.answer_due = None;
        if let Some(state) = self.again.take() {
            self.check_in(state, wants, now);
        }
    }
}

impl Node {
    pub(super) fn session_timeout(&mut self, wants: &mut Vec<Want>, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let session = &mut daemon.session;
        let silent = session.is_open() && session.heard + WATCHDOG <= now;
        let unanswered = session.answer_due.is_some_and(|due| due <= now);
        match session.state {
            State::Waiting { until } if until <= now => {
                session.reset(State::Dialling);
                wants.push(Want::Dial);
            }
            State::Opening { conn, .. } if session.begun + PATIENCE <= now => {
                wants.push(Want::Hang(conn));
                session.retry(now);
                daemon.mesh.handle_broker(BrokerState::Lost, now);
                return;
            }
            State::Open(conn) if silent || unanswered => {
                wants.push(Want::Hang(conn));
                session.retry(now);
                if silent {
                    daemon.mesh.handle_broker(BrokerState::Lost, now);
                }
                return;
            }
            State::Waiting { .. }
            | State::Dialling
            | State::Opening { .. }
            | State::Open(_)
            | State::Revoked => {}
        }
        if session.check_in_at.is_some_and(|at| at <= now) {
            session.check_in_at = Some(now + CHECK_IN);
            session.check_in(None, wants, now);
        }
    }

    /// The connection stands: ask for the stream.
    pub(crate) fn handle_connected(
        &mut self,
        conn: ConnId,
        rtt: Duration,
        wants: &mut Vec<Want>,
        now: Instant,
    ) {
        let Some(daemon) = &mut self.daemon else { return };
        let session = &mut daemon.session;
        if session.state != State::Dialling {
            wants.push(Want::Hang(conn));
            return;
        }
        session.state = State::Opening { conn, rtt };
        session.begun = now;
        session.heard = now;
        wants.push(Want::Say(conn, Up::Events { last_event_id: session.version }));
    }

    /// The attempt to connect has failed.
    pub(crate) fn handle_dial_failed(&mut self, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.session.state == State::Dialling {
            daemon.session.retry(now);
            daemon.mesh.handle_broker(BrokerState::Lost, now);
        }
    }

    /// The connection has ended: reset, or closed by the broker.
    pub(crate) fn handle_disconnected(&mut self, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.session.conn().is_some() {
            daemon.session.retry(now);
        }
    }

    /// The host's network has changed: whatever went over the old one is gone, and a new connection
    /// is tried at once.
    pub(crate) fn handle_network_change(&mut self, wants: &mut Vec<Want>, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let session = &mut daemon.session;
        session.changed = Some(now);
        match session.state {
            State::Revoked => return,
            State::Opening { conn, .. } | State::Open(conn) => wants.push(Want::Hang(conn)),
            State::Waiting { .. } => session.failures = 0,
            // Its SYN left from an address that is gone.
            State::Dialling => {}
        }
        session.reset(State::Dialling);
        wants.push(Want::Dial);
    }

    /// What the broker says over a connection.
    pub(crate) fn handle_control(
        &mut self,
        conn: ConnId,
        down: Down,
        wants: &mut Vec<Want>,
        now: Instant,
    ) {
        let Some(daemon) = &mut self.daemon else { return };
        let session = &mut daemon.session;
        if session.conn() != Some(conn) {
            return;
        }
        session.heard = now;
        match down {
            Down::Event(event) => {
                self.opened(conn, wants, now);
                self.handle_session_event(event, now);
            }
            Down::Heartbeat | Down::Done => {}
            Down::CheckedIn { reply, unix } => {
                daemon.mesh.raise_clock(unix, now);
                session.checked_in(wants, now);
                if reply.resend && session.known.is_some() {
                    session.check_in(session.known.clone(), wants, now);
                }
            }
            Down::CheckInRefused => {
                wants.push(Want::Hang(conn));
                session.retry(now);
            }
            Down::Netmap(netmap) => self.take_netmap(*netmap, now),
            Down::Revoked => session.reset(State::Revoked),
            Down::Closed => session.retry(now),
        }
    }

    /// The stream's first event has come.
    fn opened(&mut self, conn: ConnId, wants: &mut Vec<Want>, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let session = &mut daemon.session;
        let State::Opening { rtt, .. } = session.state else { return };
        session.state = State::Open(conn);
        session.check_in_at = Some(now + CHECK_IN);
        session.check_in(session.known.clone(), wants, now);
        daemon.mesh.handle_broker(BrokerState::Connected { rtt }, now);
    }

    fn handle_session_event(&mut self, event: SessionEvent, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        if let Some(version) = event.version() {
            daemon.session.version = Some(version);
        }
        match event {
            SessionEvent::Netmap(netmap) => self.take_netmap(*netmap, now),
            SessionEvent::Delta(delta) => {
                self.deltas += 1;
                if daemon.mesh.handle_delta(&delta, now) == Apply::BaseMismatch {
                    self.mismatches += 1;
                }
            }
            // No broker of this world has a relay that it would have devices look for.
            SessionEvent::Current(_) | SessionEvent::Reach(_) | SessionEvent::Wake(_) => {}
            SessionEvent::Connect(signal) => daemon.mesh.handle_connect(&signal, now),
            SessionEvent::Revoked => daemon.session.reset(State::Revoked),
        }
    }

    fn take_netmap(&mut self, netmap: warren_proto::Netmap, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        self.netmaps += 1;
        daemon.session.version = Some(netmap.version);
        daemon.mesh.handle_netmap(netmap, MapSource::Broker, now);
    }

    pub(super) fn session_event(&mut self, event: &Event, wants: &mut Vec<Want>, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let session = &mut daemon.session;
        let open = session.is_open().then(|| session.conn()).flatten();
        match event {
            Event::CheckIn(state) => {
                let before = session.known.replace(state.clone());
                let sees_outside = |state: &CheckInState| state.nat.udp == Some(true);
                let was_cut_off = before.as_ref().is_some_and(|b| b.nat.udp == Some(false));
                let was_blind = before.is_some_and(|before| !sees_outside(&before));
                if sees_outside(state) && was_blind {
                    match session.state {
                        State::Waiting { .. } => {
                            session.failures = 0;
                            session.state =
                                State::Waiting { until: now + Duration::from_millis(1) };
                        }
                        // What it waits for may have been lost.
                        State::Dialling if was_cut_off => wants.push(Want::Dial),
                        State::Dialling
                        | State::Opening { .. }
                        | State::Open(_)
                        | State::Revoked => {}
                    }
                }
                session.check_in(Some(state.clone()), wants, now);
            }
            Event::Connect(request) => {
                wants.extend(open.map(|conn| Want::Say(conn, Up::Connect(request.clone()))));
            }
            Event::FetchNetmap => wants.extend(open.map(|conn| Want::Say(conn, Up::FetchNetmap))),
            Event::OpenStream { stream, relay, targets: _ } => {
                wants.push(Want::OpenStream(*stream, *relay));
            }
            Event::CloseStream { stream } => wants.push(Want::CloseStream(*stream)),
            Event::PathChanged { .. }
            | Event::Unreachable { .. }
            | Event::Established { .. }
            | Event::Mtu(_) => {}
        }
    }
}
