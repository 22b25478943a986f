//! A TURN server as a part of a warren: the broker says whom it serves.
//!
//! It serves nobody before the broker's first `init`. When the broker goes, it goes on with what it
//! knows for a day.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use tokio::sync::watch;
use tokio::time::Instant;
use warren_control::{RelayLink, RelayLinkConfig, RelayNews};
use warren_proto::{
    DeviceId, DeviceName, PROTOCOL, RelayEvent, RelayInit, RelayLimits, RelayLoad, RelayReport,
    RelayScope, RelayTls,
};

use super::{Settings, Turn, TurnConfig};

/// For how long the broker's word holds without the broker.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);

/// What a relay server needs to be a part of a warren.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where the broker is, and this relay's token.
    pub link: RelayLinkConfig,
    /// The account that this relay is meant for, if its operator said so.
    pub account: Option<DeviceName>,
    /// Where it is reached by UDP; an unspecified address stands for where the broker sees it.
    pub udp: Vec<std::net::SocketAddr>,
    /// Likewise by TCP.
    pub tcp: Vec<std::net::SocketAddr>,
    /// Likewise by TLS.
    pub tls: Vec<RelayTls>,
}

/// The session with the broker, and what came of it.
#[derive(Debug)]
pub(super) struct Link {
    link: RelayLink,
    report: watch::Sender<RelayReport>,
    init: Option<RelayInit>,
    revoked: BTreeSet<DeviceId>,
    /// Since when the broker is away.
    lost: Option<Instant>,
    problem: Option<String>,
}

impl Link {
    pub(super) fn new(broker: BrokerConfig, config: &TurnConfig) -> Self {
        let quotas = config.server.quotas;
        let report = RelayReport {
            protocol: PROTOCOL,
            account: broker.account,
            udp: broker.udp,
            tcp: broker.tcp,
            tls: broker.tls,
            limits: RelayLimits {
                allocations: Some(quotas.total_allocations.into()),
                allocations_per_user: Some(quotas.allocations.into()),
                bandwidth_per_user: quotas.bandwidth.map(std::num::NonZeroU64::get),
            },
            load: RelayLoad::default(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            draining: false,
        };
        let (report, told) = watch::channel(report);
        Self {
            link: RelayLink::new(broker.link, told),
            report,
            init: None,
            revoked: BTreeSet::new(),
            lost: None,
            problem: None,
        }
    }

    /// Waits for the broker; may be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<RelayNews> {
        self.link.next().await
    }

    /// Does what the broker says.
    ///
    /// # Errors
    ///
    /// If it wants no more of this relay, or never will: then there is nothing left to do.
    pub(super) fn take(&mut self, news: RelayNews, turn: &Turn) -> anyhow::Result<()> {
        match news {
            RelayNews::Event { event: RelayEvent::Init(init), received } => {
                self.take_init(init, received, turn);
            }
            RelayNews::Event { event: RelayEvent::Revoke(devices), .. } => {
                tracing::info!(devices = devices.len(), "devices were removed");
                self.revoked.extend(devices);
                self.apply(turn);
            }
            RelayNews::Event { event: RelayEvent::Revoked, .. } => {
                bail!(
                    "the broker has removed this relay; `warren admin relays create` makes a new token"
                )
            }
            RelayNews::Reported(reported) => {
                if reported.problem != self.problem {
                    match &reported.problem {
                        Some(problem) => tracing::warn!(problem, "this relay can't help everybody"),
                        None => {
                            tracing::info!(name = %reported.name, "the broker reaches this relay");
                        }
                    }
                    self.problem = reported.problem;
                }
            }
            RelayNews::Lost(error) if error.is_definitive() && self.init.is_none() => {
                return Err(error.into());
            }
            RelayNews::Lost(error) => {
                if self.lost.is_none() {
                    tracing::warn!(%error, "the broker is away");
                }
                self.lost.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    fn take_init(&mut self, init: RelayInit, received: SystemTime, turn: &Turn) {
        let scope = match &init.scope {
            RelayScope::Account { name, .. } => name.to_string(),
            RelayScope::Operator => "all accounts".to_owned(),
            RelayScope::Other => "somebody that this version doesn't know".to_owned(),
        };
        if self.init.is_none() || self.lost.is_some() {
            tracing::info!(name = %init.name, scope, "serving");
        }
        let since = received.elapsed().unwrap_or_default();
        turn.set_clock(Duration::from_millis(init.clock_unix_ms) + since);
        self.revoked = init.revoked.iter().copied().collect();
        self.lost = None;
        self.init = Some(init);
        self.apply(turn);
        turn.set_serving(true);
    }

    fn apply(&self, turn: &Turn) {
        let Some(init) = &self.init else { return };
        turn.set_settings(Settings {
            realm: init.realm.clone(),
            secrets: init.secrets.iter().map(|secret| secret.clone().into_bytes()).collect(),
            users: Vec::new(),
            revoked: self.revoked.iter().map(DeviceId::to_string).collect(),
        });
    }

    /// Notes what goes on for the next report, and stops serving when the broker has been away for
    /// too long: allocations end when they aren't refreshed.
    pub(super) fn look_around(&mut self, turn: &Turn) {
        let load = turn.load();
        self.report.send_if_modified(|report| {
            report.load = load;
            false
        });
        let is_forsaken = self.lost.is_some_and(|since| since.elapsed() > GOOD_FOR);
        if is_forsaken && self.init.take().is_some() {
            tracing::warn!("the broker has been away for a day: nobody is served any more");
            turn.set_settings(Settings::default());
            turn.set_serving(false);
        }
    }

    /// Tells the broker that nothing new is taken.
    pub(super) fn drain(&mut self) {
        self.report.send_modify(|report| report.draining = true);
    }

    /// The last word.
    pub(super) async fn farewell(&mut self) {
        self.report.send_modify(|report| report.draining = true);
        let _ = tokio::time::timeout(Duration::from_secs(2), self.link.farewell()).await;
    }
}
