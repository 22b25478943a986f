//! Asking a broker to be let in, without a join link: somebody who is signed in there decides.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use ring::digest;
use thiserror::Error;
use warren_control::{BrokerUrl, ControlError, Http, Pins, REQUEST_TIMEOUT, Tls};
use warren_proto::{
    BrokerIdentity, ErrorCode, JoinAsk, JoinAsked, JoinDecision, JoinLink, JoinReveal, PROTOCOL,
    Pin, join_code, join_code_message,
};

use crate::daemon::host_name;

/// From one question whether somebody has decided to the next.
const POLL: Duration = Duration::from_secs(2);

/// Why a device wasn't let in.
#[derive(Debug, Error)]
pub enum AskError {
    /// The broker can't be asked, or refuses.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Somebody has said no.
    #[error("somebody who is signed in at the broker has turned this device away")]
    Denied,
    /// Nobody has said anything.
    #[error("nobody has let this device in within {0} minutes; run the command again")]
    TooLate(u64),
    /// The link that came is for another broker.
    #[error("the broker's answer doesn't fit the code that was shown; nothing was joined")]
    WrongBroker,
}

/// A request that is open.
#[derive(Debug)]
pub struct Request {
    url: BrokerUrl,
    /// As it was seen at the first contact.
    pin: Option<Pin>,
    ticket: String,
    until: Instant,
    minutes: u64,
    /// What people compare.
    pub code: String,
}

/// Asks a broker, of which nothing but the URL is known. `name` is what the device is to be called.
///
/// # Errors
/// The broker can't be reached, or takes no more requests.
pub async fn ask(url: &str, name: Option<&str>) -> Result<Request, AskError> {
    let url = BrokerUrl::parse(url.trim_end_matches('/')).map_err(ControlError::from)?;
    let tls = Tls::first_contact().map_err(|error| setup_failed(&url, &error))?;
    let http = Http::connect(&url, &tls, &[], None).await?;
    let pin = tls.matched();
    let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let asked: JoinAsked = {
        let ask = JoinAsk {
            protocol: PROTOCOL,
            commitment: URL_SAFE_NO_PAD.encode(sha256(nonce.as_bytes())),
            name: name.map_or_else(host_name, str::to_owned),
            os: std::env::consts::OS.to_owned(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
        };
        http.json(Method::POST, "/v1/node/join-requests", Some(&ask), REQUEST_TIMEOUT).await?.body
    };
    let until = Instant::now() + Duration::from_secs(asked.expires_in);
    let request = Request {
        code: code(&identity(&url, pin), &nonce, &asked.nonce),
        ticket: asked.ticket,
        minutes: asked.expires_in / 60,
        url,
        pin,
        until,
    };
    let http = request.connect().await?;
    let reveal = JoinReveal { nonce };
    let path = "/v1/node/join-requests/nonce";
    let _: serde::de::IgnoredAny =
        http.json(Method::PUT, path, Some(&reveal), REQUEST_TIMEOUT).await?.body;
    Ok(request)
}

impl Request {
    /// Where somebody who is signed in decides.
    pub fn link(&self) -> String {
        format!("{}/join/request?code={}", self.url, self.code)
    }

    /// Waits until somebody has decided. A broker that is away for a while is waited for, too.
    ///
    /// # Errors
    /// The device was turned away, or nobody has decided in time.
    pub async fn decided(&self) -> Result<JoinLink, AskError> {
        let mut http = None;
        while Instant::now() < self.until {
            tokio::time::sleep(POLL).await;
            match self.poll(&mut http).await {
                Ok(JoinDecision::Waiting) => {}
                Ok(JoinDecision::Denied) => return Err(AskError::Denied),
                Ok(JoinDecision::Approved { link }) => return self.checked(&link),
                Err(ControlError::Refused(problem)) if problem.code == ErrorCode::NotFound => break,
                Err(error) => {
                    tracing::debug!(%error, "can't ask what was decided");
                    http = None;
                }
            }
        }
        Err(AskError::TooLate(self.minutes))
    }

    async fn poll(&self, http: &mut Option<Http>) -> Result<JoinDecision, ControlError> {
        let connected = match http.take() {
            Some(connected) => connected,
            None => self.connect().await?,
        };
        let connected = http.insert(connected);
        let path = "/v1/node/join-requests";
        let answer = connected.json(Method::GET, path, None::<&()>, REQUEST_TIMEOUT).await?;
        Ok(answer.body)
    }

    /// Connects to nobody but whoever answered first.
    async fn connect(&self) -> Result<Http, ControlError> {
        let tls = Tls::new(&Pins(self.pin.into_iter().collect()))
            .map_err(|error| setup_failed(&self.url, &error))?;
        Http::connect(&self.url, &tls, &[], Some(&self.ticket)).await
    }

    fn checked(&self, link: &str) -> Result<JoinLink, AskError> {
        let link: JoinLink = link.parse().map_err(|_| AskError::WrongBroker)?;
        match BrokerIdentity::of(&link) == identity(&self.url, self.pin) {
            true => Ok(link),
            false => Err(AskError::WrongBroker),
        }
    }
}

fn identity(url: &BrokerUrl, pin: Option<Pin>) -> BrokerIdentity {
    pin.map_or_else(|| BrokerIdentity::host(&url.host.bare()), BrokerIdentity::Pin)
}

fn code(broker: &BrokerIdentity, own: &str, brokers: &str) -> String {
    join_code(&sha256(&join_code_message(broker, own, brokers)))
}

fn setup_failed(url: &BrokerUrl, error: &rustls::Error) -> ControlError {
    ControlError::Tls { authority: url.authority(), reason: error.to_string() }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
