//! The control session as the daemon sees it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use warren_mesh::{BrokerState, MapSource};
use warren_proto::{Apply, Delta, InvalidMap, Netmap, Pin, SessionEvent, WakeOrder};

use super::{Daemon, wall_clock};
use crate::control::{
    self, BrokerUrl, Command, ControlError, Named as _, Pins, Session, SessionConfig,
};
use crate::local::{FailureCode, HealthCode};
use crate::state::{BrokerAddresses, CachedMap};

/// Nobody takes a session over that has lasted this long.
const STABLE: Duration = Duration::from_secs(60);
/// This many short sessions in a row are no accident.
const USURPED: u32 = 3;

/// What is known of the broker.
#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) connected: bool,
    /// Whether it was out of reach at the last attempt.
    pub(super) lost: bool,
    pub(super) rtt: Option<Duration>,
    pub(super) last_check_in: Option<SystemTime>,
    pub(super) error: Option<String>,
    /// When the present session began.
    since: Option<Instant>,
    /// How many sessions in a row the broker has ended soon after their beginning.
    usurped: u32,
    /// Why the last registration was refused.
    pub(super) join_failure: Option<(FailureCode, String)>,
    /// The pin that the present connection has matched.
    matched: Option<Pin>,
    /// Whether the next pin was announced on the present connection.
    announced: bool,
    addresses: BrokerAddresses,
}

impl Broker {
    pub(super) fn load(folder: &Path) -> Self {
        Self { addresses: BrokerAddresses::load(folder), ..Self::default() }
    }
}

/// A running control session; dropping it ends it.
#[derive(Debug)]
pub(super) struct Control {
    commands: mpsc::UnboundedSender<Command>,
    pub(super) events: mpsc::Receiver<control::Event>,
    task: AbortHandle,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Control {
    /// The session takes commands at once and holds only the latest state, so nothing piles up.
    pub(super) fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

impl Daemon {
    /// Starts the control session, if it isn't running.
    pub(super) fn start_control(&mut self) {
        let Some(joined) = self.identity.joined.clone() else { return };
        if self.control.is_some() {
            return;
        }
        let url = match BrokerUrl::parse(&joined.url) {
            Ok(url) => url,
            Err(error) => {
                self.healths.set(HealthCode::BrokerAway, error.to_string());
                return;
            }
        };
        let config = SessionConfig {
            url,
            pins: Pins(joined.pins),
            token: joined.token,
            instance: self.instance,
            version: self.map.as_ref().map(|map| map.netmap.version),
            known: self.broker.addresses.clone(),
        };
        let (commands, command_queue) = mpsc::unbounded_channel();
        let (reports, events) = mpsc::channel(64);
        let session = Session::new(config, command_queue, reports);
        let task = tokio::spawn(session.run()).abort_handle();
        self.control = Some(Control { commands, events, task });
    }

    /// Ends the control session.
    pub(super) fn stop_control(&mut self) {
        self.control = None;
        self.broker.connected = false;
        self.broker.lost = false;
        self.broker.error = None;
        self.healths.clear(HealthCode::BrokerAway);
    }

    pub(super) fn tell_broker(&self, command: Command) {
        if let Some(control) = &self.control {
            control.tell(command);
        }
    }

    pub(super) async fn take_control_event(&mut self, event: control::Event) {
        match event {
            control::Event::Connected { rtt, addresses, pin } => {
                self.connected(rtt, addresses, pin).await;
            }
            control::Event::CheckedIn { rtt, unix } => {
                self.note_rtt(rtt);
                self.broker.last_check_in = Some(SystemTime::now());
                self.map_confirmed();
                if let Some(unix) = unix {
                    self.take_broker_clock(unix).await;
                }
                if let Some(mesh) = &mut self.mesh {
                    mesh.settle();
                }
            }
            control::Event::Session(event) => self.take_session_event(event).await,
            control::Event::Disconnected { error } => self.disconnected(&error),
            control::Event::Lost { error } => self.lost(&error).await,
            control::Event::Revoked => self.revoked().await,
        }
    }

    async fn connected(&mut self, rtt: Duration, addresses: BrokerAddresses, pin: Option<Pin>) {
        tracing::info!("connected to the broker");
        self.broker.connected = true;
        self.paths.begin(Instant::now().into());
        self.broker.since = Some(Instant::now());
        self.broker.lost = false;
        self.broker.error = None;
        self.broker.matched = pin;
        self.broker.announced = self.map.as_ref().is_some_and(|map| map.netmap.next_pin.is_some());
        self.update_pins();
        self.broker.rtt = Some(rtt);
        for code in [HealthCode::BrokerAway, HealthCode::WrongPin, HealthCode::UpgradeRequired] {
            self.healths.clear(code);
        }
        if self.broker.addresses != addresses {
            if let Err(error) = addresses.save(self.folder.path()) {
                self.note_unsaved(&error);
            }
            self.broker.addresses = addresses;
        }
        if let Some(mesh) = &self.mesh {
            mesh.client().broker(BrokerState::Connected { rtt }).await;
        }
    }

    /// A quiet moment's round trip is the truth; a slow answer is the broker's load.
    fn note_rtt(&mut self, rtt: Duration) {
        self.broker.rtt = Some(match self.broker.rtt {
            Some(known) if rtt > known => known + (rtt - known) / 8,
            Some(_) | None => rtt,
        });
    }

    fn disconnected(&mut self, error: &ControlError) {
        self.broker.connected = false;
        self.broker.error = Some(error.to_string());
        let short = self.broker.since.take().is_some_and(|since| since.elapsed() < STABLE);
        let ended = matches!(error, ControlError::Ended | ControlError::Http(_));
        self.broker.usurped = if short && ended { self.broker.usurped + 1 } else { 0 };
        if self.broker.usurped >= USURPED {
            self.healths.set(
                HealthCode::DuplicateIdentity,
                "the broker keeps ending this device's session for another one: does a second machine use a copy of this state folder (a cloned disk)? On one of them: warren logout --new-identity, then join again",
            );
        }
    }

    /// A session that lasts has nobody against it.
    pub(super) fn settle_session(&mut self) {
        if self.broker.since.is_some_and(|since| since.elapsed() >= STABLE) {
            self.broker.usurped = 0;
            self.healths.clear(HealthCode::DuplicateIdentity);
        }
    }

    async fn lost(&mut self, error: &ControlError) {
        self.broker.connected = false;
        self.broker.lost = true;
        self.broker.error = Some(error.to_string());
        self.broker.usurped = 0;
        let code = error.health();
        let text = match (code == HealthCode::BrokerAway, self.map.is_some()) {
            (true, true) => {
                format!("the broker is out of reach, the mesh works from its last map: {error}")
            }
            (true, false) => {
                format!("the broker is out of reach, and there is no map of the mesh yet: {error}")
            }
            (false, _) => error.to_string(),
        };
        self.healths.set(code, text);
        if let Some(mesh) = &self.mesh {
            mesh.client().broker(BrokerState::Lost).await;
        }
    }

    async fn revoked(&mut self) {
        self.stop_control();
        self.take_down().await;
        self.forget_map();
        self.forget_exit();
        self.identity.revoked = true;
        self.save_identity();
        self.note_revoked();
    }

    pub(super) fn note_revoked(&mut self) {
        self.healths.set(
            HealthCode::MustJoinAgain,
            "this device was removed from its account; ask for a new join link, then: warren up --join LINK",
        );
    }

    async fn take_session_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Netmap(netmap) => self.take_netmap(*netmap).await,
            SessionEvent::Delta(delta) => self.take_delta(delta).await,
            SessionEvent::Current(_) => self.map_confirmed(),
            SessionEvent::Connect(signal) => {
                if let Some(mesh) = &self.mesh {
                    mesh.client().signal(signal).await;
                }
            }
            SessionEvent::Reach(check) => {
                if let Some(mesh) = &self.mesh {
                    mesh.client().expect_reach(check).await;
                }
            }
            SessionEvent::Wake(WakeOrder { mac }) => self.wake_for_broker(mac),
            // The session reports it as its own end.
            SessionEvent::Revoked => {}
        }
    }

    async fn take_netmap(&mut self, netmap: Netmap) {
        if let Err(error) = netmap.check() {
            self.refuse_map(&error);
            return;
        }
        // A map that was fetched may arrive behind deltas that went out after it was made.
        let known = self.map.as_ref().map(|map| map.netmap.version);
        if known.is_some_and(|known| {
            known.epoch == netmap.version.epoch && known.sequence > netmap.version.sequence
        }) {
            return;
        }
        self.healths.clear(HealthCode::MapRefused);
        self.map = Some(CachedMap { current_at: wall_clock().as_secs(), netmap: netmap.clone() });
        self.map_taken().await;
        match &self.mesh {
            Some(mesh) if mesh.fits(&netmap) => {
                mesh.client().netmap(netmap, MapSource::Broker).await;
                self.configure_host();
            }
            // Another address of our own: the interface is made anew.
            Some(_) => {
                self.take_down_for_now().await;
                let _ = self.bring_up().await;
            }
            None if self.wants_mesh() => {
                let _ = self.bring_up().await;
            }
            None => {}
        }
    }

    async fn take_delta(&mut self, delta: Delta) {
        let Some(map) = &mut self.map else {
            self.tell_broker(Command::FetchNetmap);
            return;
        };
        if let Err(error) = map.netmap.check_delta(&delta) {
            self.refuse_map(&error);
            return;
        }
        match map.netmap.apply(&delta) {
            Apply::BaseMismatch => self.tell_broker(Command::FetchNetmap),
            Apply::Applied => {
                self.map_confirmed();
                self.map_taken().await;
                if let Some(mesh) = &self.mesh {
                    mesh.client().delta(delta).await;
                }
                self.configure_host();
            }
        }
    }

    fn refuse_map(&mut self, error: &InvalidMap) {
        self.healths.set(
            HealthCode::MapRefused,
            format!(
                "the broker sent a map of the mesh that can't be right, and this device goes on with the one before: {error}; tell the broker's operator"
            ),
        );
    }

    /// What a new map means beside the mesh: pins, our own name, names of others.
    async fn map_taken(&mut self) {
        self.map_changed();
        self.judge_admission();
        self.update_zone().await;
        let (Some(map), Some(joined)) = (&self.map, &mut self.identity.joined) else { return };
        let name = map.netmap.this.name.clone();
        if joined.name != name {
            joined.name = name;
            self.save_identity();
        }
        self.update_pins();
    }

    /// Which keys may sign the broker's certificate from now on: the one that this connection
    /// showed and the one that is announced. One whose announcement has ended on this connection
    /// was put to use (or was given up): the next connection tells.
    fn update_pins(&mut self) {
        let (Some(map), Some(joined)) = (&self.map, &mut self.identity.joined) else { return };
        // Under the system's authorities there is no pin.
        let Some(matched) = self.broker.matched else { return };
        let pins = match map.netmap.next_pin {
            Some(next) => {
                self.broker.announced = true;
                if next == matched { vec![matched] } else { vec![matched, next] }
            }
            None if self.broker.announced => return,
            None => vec![matched],
        };
        if joined.pins != pins {
            joined.pins.clone_from(&pins);
            self.save_identity();
            self.tell_broker(Command::Pins(Pins(pins)));
        }
    }
}
