//! A TURN server as a part of a warren: the broker says whom it serves.
//!
//! It serves nobody before the broker's first `init`. When the broker goes, it goes on with what it
//! knows for a day.

use std::time::{Duration, Instant, SystemTime};

use anyhow::bail;
use tokio::sync::watch;
use warren_control::{ControlError, RelayLink, RelayLinkConfig, RelayNews};
use warren_proto::{
    DeviceId, DeviceName, ErrorCode, PROTOCOL, Pin, RelayEvent, RelayInit, RelayLimits, RelayLoad,
    RelayReport, RelayScope, RelayTls,
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
    /// What the broker has said; `None` before, and when it has been away for too long.
    init: Option<RelayInit>,
    has_pins: bool,
    /// The broker has known this relay.
    was_known: bool,
    /// Since when the broker is away.
    lost: Option<Instant>,
    /// What was said of that last.
    complaint: Option<String>,
    problem: Option<String>,
}

/// Whom a server serves to which a broker has said this.
pub fn settings_of(init: &RelayInit) -> Settings {
    Settings {
        realm: init.realm.clone(),
        secrets: init.secrets.iter().map(|secret| secret.clone().into_bytes()).collect(),
        users: Vec::new(),
        revoked: init.revoked.iter().map(DeviceId::to_string).collect(),
    }
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
            has_pins: !broker.link.pins.0.is_empty(),
            link: RelayLink::new(broker.link, told),
            report,
            init: None,
            was_known: false,
            lost: None,
            complaint: None,
            problem: None,
        }
    }

    /// TLS shows another certificate: nodes that were told its key are told the new one.
    pub(super) fn set_pin(&self, pin: Pin) {
        self.report.send_if_modified(|report| {
            let pins = report.tls.iter_mut().filter_map(|tls| tls.pin.as_mut());
            let mut is_other = false;
            for known in pins {
                is_other |= std::mem::replace(known, pin) != pin;
            }
            is_other
        });
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
    pub(super) fn take(
        &mut self,
        news: RelayNews,
        turn: &Turn,
        now: Instant,
    ) -> anyhow::Result<()> {
        match news {
            RelayNews::Event { event: RelayEvent::Init(init), received } => {
                self.take_init(init, received, turn);
            }
            RelayNews::Event { event: RelayEvent::Revoke(devices), .. } => {
                tracing::info!(devices = devices.len(), "devices were removed");
                if let Some(init) = &mut self.init {
                    init.revoked.extend(devices);
                    turn.set_settings(settings_of(init));
                }
            }
            RelayNews::Event { event: RelayEvent::Revoked, .. } if self.was_known => {
                bail!(
                    "the broker has removed this relay; `warren admin relays create` makes a new token"
                )
            }
            RelayNews::Event { event: RelayEvent::Revoked, .. } => bail!(
                "the broker doesn't know this relay's token: is it whole, and of this broker, or was \
                 the relay removed? `warren admin relays create` makes a new one for --token-file"
            ),
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
            RelayNews::Lost(ControlError::WrongPin { authority }) if !self.was_known => bail!(
                "the broker at {authority} shows another certificate than --pin names: somebody may \
                 be in between, or the broker was set up anew; `warren admin relays create` prints \
                 its pin"
            ),
            RelayNews::Lost(error) if error.is_definitive() && !self.was_known => {
                return Err(error.into());
            }
            RelayNews::Lost(error) => {
                let complaint = self.complaint(&error);
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!("{complaint}");
                    self.complaint = Some(complaint);
                }
                self.lost.get_or_insert(now);
            }
        }
        Ok(())
    }

    fn complaint(&self, error: &ControlError) -> String {
        match error {
            ControlError::Refused(problem) if problem.code == ErrorCode::RateLimited => {
                "the broker was asked too often: this relay reports again in a while".to_owned()
            }
            ControlError::Refused(_) => format!("the broker refuses this relay: {error}"),
            ControlError::Tls { .. } if !self.has_pins => format!(
                "{error}; if the broker has made its certificate itself, give --pin as `warren admin \
                 relays create` prints it"
            ),
            ControlError::Url(_)
            | ControlError::Resolve { .. }
            | ControlError::Connect { .. }
            | ControlError::WrongPin { .. }
            | ControlError::Tls { .. }
            | ControlError::Http(_)
            | ControlError::Protocol(_)
            | ControlError::Timeout(_)
            | ControlError::Silent(_)
            | ControlError::Ended
            | ControlError::NetworkChanged => format!("the broker is away: {error}"),
        }
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
        turn.set_settings(settings_of(&init));
        turn.set_serving(true);
        (self.init, self.was_known) = (Some(init), true);
        (self.lost, self.complaint) = (None, None);
    }

    /// Notes what goes on for the next report, and stops serving when the broker has been away for
    /// too long: allocations end when they aren't refreshed.
    pub(super) fn look_around(&mut self, turn: &Turn, now: Instant) {
        let load = turn.load();
        self.report.send_if_modified(|report| {
            report.load = load;
            false
        });
        let is_forsaken =
            self.lost.is_some_and(|since| now.saturating_duration_since(since) > GOOD_FOR);
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use warren_control::{BrokerUrl, Pins};
    use warren_proto::{Problem, RelayId};
    use warren_turn::{Builder, Class, Message, Method, TransactionId};

    use super::super::ServerConfig;
    use super::*;

    fn turn_config() -> TurnConfig {
        TurnConfig {
            udp: vec![([127, 0, 0, 1], 0).into()],
            tcp: Vec::new(),
            tls: None,
            server: ServerConfig::private(Settings::default()),
            metrics: None,
            mint: None,
            drain_timeout: Duration::ZERO,
        }
    }

    fn link(pins: &[Pin]) -> Link {
        let tls = |pin| RelayTls { host: String::new(), port: 443, server_name: None, pin };
        let broker = BrokerConfig {
            link: RelayLinkConfig {
                url: BrokerUrl::parse("https://127.0.0.1:1").unwrap(),
                pins: Pins(pins.to_vec()),
                token: "token".to_owned(),
            },
            account: None,
            udp: Vec::new(),
            tcp: Vec::new(),
            tls: vec![tls(Some(Pin([1; 32]))), tls(None)],
        };
        Link::new(broker, &turn_config())
    }

    fn init() -> RelayNews {
        let init = RelayInit {
            id: RelayId(7),
            name: "relay".parse().unwrap(),
            scope: RelayScope::Operator,
            realm: "here".to_owned(),
            secrets: vec!["secret".to_owned()],
            revoked: Vec::new(),
            clock_unix_ms: 1_795_000_000_000,
        };
        RelayNews::Event { event: RelayEvent::Init(init), received: SystemTime::now() }
    }

    /// Whether an Allocate is answered: a Binding behind it always is.
    fn is_served(turn: &Turn) -> bool {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(turn.udp_addresses()[0]).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for (method, n) in [(Method::ALLOCATE, 1), (Method::BINDING, 2)] {
            let mut request = Vec::new();
            let id = TransactionId([n; 12]);
            let mut builder = Builder::new(&mut request, Class::Request, method, id);
            if method == Method::ALLOCATE {
                builder.requested_transport(17);
            }
            socket.send(&request).unwrap();
        }
        let mut buffer = [0; 1500];
        let len = socket.recv(&mut buffer).unwrap();
        Message::parse(&buffer[..len]).unwrap().method() == Method::ALLOCATE
    }

    fn refused(code: ErrorCode) -> ControlError {
        ControlError::Refused(Problem { status: 400, title: "no".to_owned(), code })
    }

    #[tokio::test]
    async fn nobody_is_served_before_the_brokers_word_nor_a_day_after_its_last() {
        let (turn, mut link) = (Turn::start(&turn_config()).await.unwrap(), link(&[]));
        turn.set_serving(false);
        let start = Instant::now();
        assert!(!is_served(&turn), "an Allocate is answered before the broker has said anything");
        link.take(init(), &turn, start).unwrap();
        assert!(is_served(&turn) && turn.hub.is_ready());
        // The broker goes, and comes back in time.
        let day = Duration::from_secs(24 * 3600);
        link.take(RelayNews::Lost(ControlError::Ended), &turn, start).unwrap();
        let late = start + day - Duration::from_secs(1);
        link.look_around(&turn, late);
        assert!(is_served(&turn) && turn.hub.is_ready());
        link.take(init(), &turn, late).unwrap();
        link.look_around(&turn, start + 2 * day);
        assert!(is_served(&turn), "it is back");
        // It goes for good, whatever is tried.
        let gone = start + 2 * day;
        for hours in 0..24 {
            let now = gone + Duration::from_secs(hours * 3600);
            link.take(RelayNews::Lost(ControlError::Timeout(9)), &turn, now).unwrap();
            link.look_around(&turn, now);
            assert!(is_served(&turn), "{hours}");
        }
        link.look_around(&turn, gone + day + Duration::from_secs(1));
        assert!(!is_served(&turn) && !turn.hub.is_ready());
        // A broker that comes back says it all again.
        link.take(init(), &turn, gone + 2 * day).unwrap();
        assert!(is_served(&turn) && turn.hub.is_ready());
    }

    #[tokio::test]
    async fn complaints_say_what_is_wrong_and_what_to_do() {
        let turn = Turn::start(&turn_config()).await.unwrap();
        let untrusted = || ControlError::Tls {
            authority: "h:443".to_owned(),
            reason: "UnknownIssuer".to_owned(),
        };
        assert!(link(&[]).complaint(&untrusted()).contains("give --pin"));
        assert!(!link(&[Pin([2; 32])]).complaint(&untrusted()).contains("give --pin"));
        let busy = link(&[]).complaint(&refused(ErrorCode::RateLimited));
        assert!(!busy.contains("away") && busy.contains("again"), "{busy}");

        let revoked =
            || RelayNews::Event { event: RelayEvent::Revoked, received: SystemTime::now() };
        let now = Instant::now();
        let unknown = link(&[]).take(revoked(), &turn, now).unwrap_err().to_string();
        assert!(unknown.contains("token") && !unknown.contains("has removed"), "{unknown}");
        let wrong = ControlError::WrongPin { authority: "h:443".to_owned() };
        let wrong = link(&[]).take(RelayNews::Lost(wrong), &turn, now).unwrap_err().to_string();
        assert!(wrong.contains("--pin") && !wrong.contains("join link"), "{wrong}");
        let mut known = link(&[]);
        known.take(init(), &turn, now).unwrap();
        let removed = known.take(revoked(), &turn, now).unwrap_err().to_string();
        assert!(removed.contains("has removed"), "{removed}");
    }

    #[tokio::test]
    async fn a_new_certificates_pin_is_reported() {
        let link = link(&[]);
        let mut reports = link.report.subscribe();
        let pins = |report: &RelayReport| report.tls.iter().map(|tls| tls.pin).collect::<Vec<_>>();
        link.set_pin(Pin([1; 32]));
        assert!(!reports.has_changed().unwrap());
        link.set_pin(Pin([3; 32]));
        assert!(reports.has_changed().unwrap());
        // Who reaches it by a name needs none.
        assert_eq!(pins(&reports.borrow_and_update()), [Some(Pin([3; 32])), None]);
    }
}
