//! A relay server's session with the broker: it hears what it needs to serve, and says what it is.
//!
//! There is nothing to resume: each stream begins with everything ([`warren_proto::RelayInit`]).
//! When the stream breaks or falls silent, the relay comes back with full jitter (a random time up
//! to 1, 2, 4 … 60 s). What it was told stays good meanwhile; for how long is its own business.

use std::time::{Duration, SystemTime};

use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use warren_proto::{ParseEventError, RelayEvent, RelayReport, RelayReported};

use crate::sse::SseParser;
use crate::{BrokerUrl, ControlError, Http, Pins, REQUEST_TIMEOUT, Tls};

/// A silent stream is a dead stream: the broker's heartbeat comes each 25 s.
const WATCHDOG: Duration = Duration::from_secs(60);
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A session that lasted this long starts the back-off anew.
const STABLE: Duration = Duration::from_secs(30);

/// What a relay server needs to find its broker.
#[derive(Clone)]
pub struct RelayLinkConfig {
    /// Where the broker is.
    pub url: BrokerUrl,
    /// The keys that may speak for it; none: the system's authorities decide.
    pub pins: Pins,
    /// The token that `warren admin relays create` has printed.
    pub token: String,
}

impl std::fmt::Debug for RelayLinkConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayLinkConfig")
            .field("url", &self.url)
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

/// What a relay server hears.
#[derive(Debug)]
pub enum RelayNews {
    /// From the broker. After [`RelayEvent::Revoked`] nothing more comes: stop serving.
    Event {
        /// What it says.
        event: RelayEvent,
        /// This machine's clock as it arrived, to tell how far it is off
        /// [`warren_proto::RelayInit::clock_unix_ms`].
        received: SystemTime,
    },
    /// The broker has taken a report, and says what it makes of it.
    Reported(RelayReported),
    /// The broker is away, or doesn't want this relay; the next attempt follows by itself.
    Lost(ControlError),
}

/// A relay server's session; it lasts until it is dropped. Drive it with [`RelayLink::next`].
#[derive(Debug)]
pub struct RelayLink {
    config: RelayLinkConfig,
    /// What the relay is; news of it goes out at once.
    report: watch::Receiver<RelayReport>,
    connection: Option<Connection>,
    failures: u32,
    over: bool,
    /// What was heard and not handed out.
    heard: std::collections::VecDeque<RelayNews>,
}

#[derive(Debug)]
struct Connection {
    http: Http,
    stream: Incoming,
    parser: SseParser,
    tick: tokio::time::Interval,
    begun: Instant,
    spoke: Instant,
    /// A report is due, or was under way when its sender was dropped.
    owes: bool,
}

impl RelayLink {
    /// A session that begins with the first [`RelayLink::next`]. Whenever `report` changes, and each
    /// minute, the broker is told.
    pub fn new(config: RelayLinkConfig, report: watch::Receiver<RelayReport>) -> Self {
        Self {
            config,
            report,
            connection: None,
            failures: 0,
            over: false,
            heard: Default::default(),
        }
    }

    /// Waits for the next thing; `None` when the token is void. May be dropped while it waits: then
    /// an attempt to connect, or a report, begins anew.
    pub async fn next(&mut self) -> Option<RelayNews> {
        loop {
            if let Some(news) = self.heard.pop_front() {
                self.over |= matches!(news, RelayNews::Event { event: RelayEvent::Revoked, .. });
                return Some(news);
            }
            if self.over {
                return None;
            }
            let error = match &mut self.connection {
                None => match self.connect().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Some(_) => match self.follow().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            self.lost(error);
        }
    }

    fn lost(&mut self, error: ControlError) {
        let lasted = self.connection.take().is_some_and(|it| it.begun.elapsed() >= STABLE);
        self.failures = if lasted { 1 } else { self.failures.saturating_add(1) };
        if error.is_revoked() {
            let (event, received) = (RelayEvent::Revoked, SystemTime::now());
            self.heard.push_back(RelayNews::Event { event, received });
        } else {
            self.heard.push_back(RelayNews::Lost(error));
        }
    }

    /// Waits its turn, connects, reports, and asks for the stream.
    async fn connect(&mut self) -> Result<(), ControlError> {
        if self.failures > 0 {
            let exponent = (self.failures - 1).min(10);
            let cap = FIRST_BACKOFF.saturating_mul(1 << exponent).min(LONGEST_BACKOFF);
            let wait = rand::rng().random_range(Duration::ZERO..=cap);
            sleep(wait).await;
        }
        let RelayLinkConfig { url, pins, token } = &self.config;
        let tls = Tls::new(pins).map_err(|error| ControlError::Tls {
            authority: url.authority(),
            reason: error.to_string(),
        })?;
        let http = Http::connect(url, &tls, &[], Some(token)).await?;
        let report = self.report.borrow_and_update().clone();
        let reported = send(&http, &report).await?;
        let stream = http.stream("/v1/relay/events", &[]).await?.into_body();
        let now = Instant::now();
        let mut tick = interval_at(now + REPORT_INTERVAL, REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let parser = SseParser::new();
        self.connection =
            Some(Connection { http, stream, parser, tick, begun: now, spoke: now, owes: false });
        self.heard.push_back(RelayNews::Reported(reported));
        Ok(())
    }

    /// Does the next thing on the connection.
    async fn follow(&mut self) -> Result<(), ControlError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let silence = WATCHDOG.saturating_sub(connection.spoke.elapsed());
        let owes = connection.owes;
        tokio::select! {
            () = std::future::ready(()), if owes => {}
            frame = timeout(silence, connection.stream.frame()) => match frame {
                Err(_) => return Err(ControlError::Silent(WATCHDOG.as_secs())),
                Ok(None) => return Err(ControlError::Ended),
                Ok(Some(Err(error))) => return Err(error.into()),
                Ok(Some(Ok(frame))) => {
                    connection.spoke = Instant::now();
                    if let Some(bytes) = frame.data_ref() {
                        take(&mut connection.parser, bytes, &mut self.heard)?;
                    }
                    return Ok(());
                }
            },
            _ = connection.tick.tick() => {}
            Ok(()) = self.report.changed() => {}
        }
        connection.owes = true;
        let report = self.report.borrow_and_update().clone();
        let sent = send(&connection.http, &report).await;
        connection.owes = false;
        match sent {
            Ok(reported) => self.heard.push_back(RelayNews::Reported(reported)),
            // The broker is short of something for a while; the stream goes on.
            Err(error @ ControlError::Refused(_)) if !error.is_definitive() => {
                tracing::debug!(%error, "a report was refused");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Tells the broker once more what this relay is, before it ends.
    pub async fn farewell(&mut self) {
        let report = self.report.borrow_and_update().clone();
        if let Some(connection) = &self.connection
            && let Err(error) = send(&connection.http, &report).await
        {
            tracing::debug!(%error, "the last report didn't arrive");
        }
    }
}

async fn send(http: &Http, report: &RelayReport) -> Result<RelayReported, ControlError> {
    let path = "/v1/relay/report";
    Ok(http.json(Method::POST, path, Some(report), REQUEST_TIMEOUT).await?.body)
}

fn take(
    parser: &mut SseParser,
    bytes: &[u8],
    heard: &mut std::collections::VecDeque<RelayNews>,
) -> Result<(), ControlError> {
    let received = SystemTime::now();
    let mut raw = Vec::new();
    parser
        .push(bytes, |event| raw.push(event))
        .map_err(|error| ControlError::Protocol(error.to_string()))?;
    for event in raw {
        match RelayEvent::parse(&event.name, &event.data) {
            Ok(event) => heard.push_back(RelayNews::Event { event, received }),
            Err(ParseEventError::Unknown(name)) => {
                tracing::debug!(name, "an event of a newer broker is ignored");
            }
            Err(error @ ParseEventError::Data { .. }) => {
                return Err(ControlError::Protocol(error.to_string()));
            }
        }
    }
    Ok(())
}
