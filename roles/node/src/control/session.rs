//! Following the broker: connect, listen, check in, come back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use warren_control::{BrokerUrl, ControlError, Http, Pins, REQUEST_TIMEOUT, Tls, sse::SseParser};
use warren_proto::{
    CheckInState, ConnectRequest, INSTANCE_HEADER, InstanceId, MapVersion, ParseEventError,
    PathReports, Pin, SessionEvent,
};

use super::edge::EdgeAsk;
use super::requests::{Done, Requests};
use crate::state::BrokerAddresses;

/// A silent stream is a dead stream: the broker's heartbeat comes each 25 s.
const WATCHDOG: Duration = Duration::from_secs(60);
const CHECK_IN_INTERVAL: Duration = Duration::from_secs(60);
/// How long a check-in may take just after the network changed: a dead connection must show soon.
const IMPATIENT: Duration = Duration::from_secs(3);
/// How long after a change of the network [`IMPATIENT`] holds.
const UNSETTLED: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A session that lasted this long starts the back-off anew.
const STABLE: Duration = Duration::from_secs(30);

/// What a [`Session`] reports.
#[derive(Debug)]
pub(crate) enum Event {
    /// The stream is open.
    Connected {
        rtt: Duration,
        addresses: BrokerAddresses,
        /// Which of the pins the broker's certificate carried.
        pin: Option<Pin>,
    },
    /// The broker answered a check-in.
    CheckedIn { rtt: Duration, unix: Option<Duration> },
    /// Something for the mesh.
    Session(SessionEvent),
    /// The stream has ended; the next attempt follows within moments.
    Disconnected { error: ControlError },
    /// The broker is out of reach: silent for too long, or an attempt to connect failed.
    Lost { error: ControlError },
    /// The membership is over. The session has ended for good.
    Revoked,
}

/// What a [`Session`] is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// The node's state changed: check in at once.
    CheckIn(CheckInState),
    /// Ask the broker to signal a peer.
    Connect(ConnectRequest),
    /// Tell the broker how traffic goes.
    Paths(PathReports),
    /// A delta didn't fit: fetch the whole map.
    FetchNetmap,
    /// Somebody asks for what is set of this device as an edge, or for a change of it.
    Edge(EdgeAsk),
    /// From now on these keys may sign the broker's certificate.
    Pins(Pins),
    /// The host's addresses are now these: a connection from another one is dead.
    NetworkChanged(Vec<IpAddr>),
}

/// What a [`Session`] needs to know.
#[derive(Debug, Clone)]
pub(crate) struct SessionConfig {
    pub(crate) url: BrokerUrl,
    pub(crate) pins: Pins,
    pub(crate) token: String,
    pub(crate) instance: InstanceId,
    /// The version of the map that the mesh has from the cache.
    pub(crate) version: Option<MapVersion>,
    pub(crate) known: BrokerAddresses,
}

/// A control session that lasts until it is dropped or revoked.
#[derive(Debug)]
pub(crate) struct Session {
    config: SessionConfig,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
    /// What to check in with; known once the mesh has looked around.
    state: Option<CheckInState>,
    /// When the host's addresses last changed.
    changed: Option<Instant>,
    failures: u32,
}

/// Why one connection is over.
enum End {
    Failed(ControlError),
    Revoked,
    /// Whoever held the session is gone.
    Dropped,
}

impl From<ControlError> for End {
    fn from(error: ControlError) -> Self {
        if error.is_revoked() { Self::Revoked } else { Self::Failed(error) }
    }
}

impl Session {
    pub(crate) fn new(
        config: SessionConfig,
        commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { config, commands, events, state: None, changed: None, failures: 0 }
    }

    /// Runs until the other ends of the channels are dropped, or the membership is revoked.
    pub(crate) async fn run(mut self) {
        loop {
            let begun = Instant::now();
            let mut connected = false;
            let error = match self.connection(&mut connected).await {
                End::Dropped => return,
                End::Revoked => {
                    let _ = self.events.send(Event::Revoked).await;
                    return;
                }
                End::Failed(error) => error,
            };
            tracing::debug!(%error, connected, "the control session broke");
            let at_once =
                matches!(error, ControlError::NetworkChanged) || (connected && self.is_unsettled());
            if connected && begun.elapsed() >= STABLE {
                self.failures = 0;
            }
            if !connected && matches!(error, ControlError::NetworkChanged) {
                continue;
            }
            let silent = matches!(error, ControlError::Silent(_));
            let event = if connected && !silent {
                Event::Disconnected { error }
            } else {
                Event::Lost { error }
            };
            if self.events.send(event).await.is_err() {
                return;
            }
            if !at_once && !self.back_off().await {
                return;
            }
        }
    }

    /// Waits with full jitter; a change of the network ends the wait. False when all is over.
    async fn back_off(&mut self) -> bool {
        let cap = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        let wait = rand::rng().random_range(Duration::ZERO..=cap);
        let wake = sleep(wait);
        tokio::pin!(wake);
        loop {
            tokio::select! {
                () = &mut wake => return true,
                command = self.commands.recv() => match command {
                    None => return false,
                    Some(Command::CheckIn(state)) => {
                        // STUN answers again: so may the broker.
                        let was_out = self.state.as_ref().is_none_or(|s| s.nat.udp != Some(true));
                        let back = was_out && state.nat.udp == Some(true);
                        self.state = Some(state);
                        if back {
                            self.failures = 0;
                            return true;
                        }
                    }
                    Some(Command::Pins(pins)) => self.config.pins = pins,
                    Some(Command::NetworkChanged(_)) => {
                        self.changed = Some(Instant::now());
                        self.failures = 0;
                        return true;
                    }
                    Some(Command::Edge(ask)) => ask.refuse(),
                    // The mesh repeats itself, and the map comes with the next session anyway.
                    Some(Command::Connect(_) | Command::FetchNetmap | Command::Paths(_)) => {}
                },
            }
        }
    }

    /// One connection, from the first SYN to its end.
    async fn connection(&mut self, connected: &mut bool) -> End {
        let url = self.config.url.clone();
        let tls = match Tls::new(&self.config.pins) {
            Ok(tls) => tls,
            Err(error) => {
                let authority = url.authority();
                return End::Failed(ControlError::Tls { authority, reason: error.to_string() });
            }
        };
        let known = if self.config.known.authority == url.authority() {
            self.config.known.addresses.clone()
        } else {
            Vec::new()
        };
        let (http, stream) = match self.open(&url, &tls, &known).await {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        *connected = true;
        let addresses =
            BrokerAddresses { authority: url.authority(), addresses: http.addresses.clone() };
        self.config.known = addresses.clone();
        let connection = Event::Connected { rtt: http.rtt, addresses, pin: tls.matched() };
        if self.events.send(connection).await.is_err() {
            return End::Dropped;
        }
        match self.follow(http, stream).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    /// Connects and asks for the stream. A change of the network, or word that STUN answers again,
    /// ends the attempt: it may be waiting for an answer on a line that is, or was, gone.
    async fn open(
        &mut self,
        url: &BrokerUrl,
        tls: &Tls,
        known: &[SocketAddr],
    ) -> Result<(Http, Incoming), End> {
        let token = self.config.token.clone();
        let mut headers = vec![(INSTANCE_HEADER, self.config.instance.to_string())];
        if let Some(version) = self.config.version {
            headers.push(("last-event-id", version.to_string()));
        }
        let opening = async {
            let http = Http::connect(url, tls, known, Some(&token)).await?;
            let stream = http.stream("/v1/node/events", &headers).await?;
            Ok::<_, ControlError>((http, stream.into_body()))
        };
        tokio::pin!(opening);
        loop {
            tokio::select! {
                opened = &mut opening => return Ok(opened?),
                () = self.events.closed() => return Err(End::Dropped),
                command = self.commands.recv() => match command {
                    None => return Err(End::Dropped),
                    Some(Command::CheckIn(state)) => {
                        let was_cut_off = self.state.as_ref().is_some_and(|s| s.nat.udp == Some(false));
                        let back = was_cut_off && state.nat.udp == Some(true);
                        self.state = Some(state);
                        if back {
                            return Err(ControlError::NetworkChanged.into());
                        }
                    }
                    Some(Command::Pins(pins)) => self.config.pins = pins,
                    Some(Command::NetworkChanged(_)) => {
                        self.changed = Some(Instant::now());
                        return Err(ControlError::NetworkChanged.into());
                    }
                    Some(Command::Edge(ask)) => ask.refuse(),
                    // The mesh repeats itself, and the map comes with the session anyway.
                    Some(Command::Connect(_) | Command::FetchNetmap | Command::Paths(_)) => {}
                },
            }
        }
    }

    async fn follow(
        &mut self,
        http: Http,
        mut stream: Incoming,
    ) -> Result<std::convert::Infallible, End> {
        let mut parser = SseParser::new();
        let mut requests = Requests::new(http);
        let mut tick = interval_at(Instant::now() + CHECK_IN_INTERVAL, CHECK_IN_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Answers to check-ins prove the broker alive, not that deltas still get through.
        let watchdog = sleep(WATCHDOG);
        tokio::pin!(watchdog);
        requests.check_in(self.state.clone(), self.patience());
        loop {
            tokio::select! {
                () = &mut watchdog => return Err(ControlError::Silent(WATCHDOG.as_secs()).into()),
                frame = stream.frame() => match frame {
                    None => return Err(ControlError::Ended.into()),
                    Some(Err(error)) => return Err(ControlError::Http(error).into()),
                    Some(Ok(frame)) => {
                        if let Some(bytes) = frame.data_ref() {
                            watchdog.as_mut().reset(Instant::now() + WATCHDOG);
                            self.take_bytes(&mut parser, bytes).await?;
                        }
                    }
                },
                _ = tick.tick() => {
                    let owed = std::mem::take(&mut requests.owed);
                    let state = self.state.clone().filter(|_| owed);
                    requests.check_in(state, self.patience());
                }
                command = self.commands.recv() => match command {
                    None => return Err(End::Dropped),
                    Some(command) => self.obey(command, &mut requests)?,
                },
                Some(done) = requests.next() => self.take_answer(done, &mut requests).await?,
            }
        }
    }

    fn obey(&mut self, command: Command, requests: &mut Requests) -> Result<(), End> {
        match command {
            Command::CheckIn(state) => {
                let before = self.state.replace(state.clone());
                // Seen from elsewhere: what the connection went through may be gone too.
                if before.is_some_and(|before| before.endpoints != state.endpoints) {
                    self.changed = Some(Instant::now());
                }
                requests.check_in(Some(state), self.patience());
            }
            Command::Connect(request) => requests.connect(request),
            Command::Paths(reports) => requests.tell_paths(reports),
            Command::FetchNetmap => requests.fetch_netmap(),
            Command::Edge(ask) => requests.ask_edge(ask),
            Command::Pins(pins) => self.config.pins = pins,
            Command::NetworkChanged(addresses) => {
                self.changed = Some(Instant::now());
                let local = requests.http.local.ip();
                if !local.is_loopback() && !addresses.contains(&local) {
                    return Err(ControlError::NetworkChanged.into());
                }
                // The route may lead elsewhere though the address is still there: ask.
                requests.check_in(None, self.patience());
            }
        }
        Ok(())
    }

    /// Whether the network has changed a moment ago.
    fn is_unsettled(&self) -> bool {
        self.changed.is_some_and(|changed| changed.elapsed() < UNSETTLED)
    }

    fn patience(&self) -> Duration {
        if self.is_unsettled() { IMPATIENT } else { REQUEST_TIMEOUT }
    }

    async fn take_bytes(&mut self, parser: &mut SseParser, bytes: &[u8]) -> Result<(), End> {
        let mut raw = Vec::new();
        parser
            .push(bytes, |event| raw.push(event))
            .map_err(|error| ControlError::Protocol(error.to_string()))?;
        for event in raw {
            let event = match SessionEvent::parse(&event.name, &event.data) {
                Ok(event) => event,
                Err(ParseEventError::Unknown(name)) => {
                    tracing::debug!(name, "an event of a newer broker is ignored");
                    continue;
                }
                Err(error @ ParseEventError::Data { .. }) => {
                    return Err(ControlError::Protocol(error.to_string()).into());
                }
            };
            if event == SessionEvent::Revoked {
                return Err(End::Revoked);
            }
            if let Some(version) = event.version() {
                self.config.version = Some(version);
            }
            self.send(Event::Session(event)).await?;
        }
        Ok(())
    }

    async fn take_answer(&mut self, done: Done, requests: &mut Requests) -> Result<(), End> {
        match done {
            Done::CheckIn(Ok(answer)) => {
                requests.checked_in();
                if answer.body.resend && self.state.is_some() {
                    requests.check_in(self.state.clone(), self.patience());
                }
                let (rtt, unix) = (answer.took, answer.unix);
                self.send(Event::CheckedIn { rtt, unix }).await
            }
            Done::Netmap(Ok(answer)) => {
                requests.fetched();
                self.config.version = Some(answer.body.version);
                self.send(Event::Session(SessionEvent::Netmap(answer.body))).await
            }
            Done::CheckIn(Err(error @ ControlError::Refused(_))) if !error.is_revoked() => {
                // The broker is short of something for a while; the stream goes on.
                tracing::debug!(%error, "a check-in was refused");
                requests.checked_in();
                requests.owed = true;
                Ok(())
            }
            Done::CheckIn(Err(error)) | Done::Netmap(Err(error)) => Err(error.into()),
            Done::Told(Ok(())) => Ok(()),
            Done::Told(Err(error)) if error.is_revoked() => Err(End::Revoked),
            Done::Told(Err(error)) => {
                tracing::debug!(%error, "the broker didn't take what it was told");
                Ok(())
            }
        }
    }

    async fn send(&self, event: Event) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Dropped)
    }
}
