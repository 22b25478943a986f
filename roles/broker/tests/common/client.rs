//! A node's side of the control session, as small as it gets: pinned TLS, HTTP/2, events.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::{digest, hmac};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warren_proto::{
    BrokerIdentity, Challenge, JoinLink, Pin, Problem, PublicKey, Register, Registered,
    SessionEvent, possession_message,
};
use x25519_dalek::StaticSecret;

/// Accepts a chain that ends in the CA with this pin, whatever the names in it.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    schemes: Vec<SignatureScheme>,
}

impl Pinned {
    fn anchor(&self, chain: &[CertificateDer<'_>]) -> Option<CertificateDer<'static>> {
        let has_pin = |certificate: &&CertificateDer<'_>| {
            spki(certificate)
                .is_some_and(|spki| digest::digest(&digest::SHA256, spki).as_ref() == self.pin.0)
        };
        chain.iter().find(has_pin).map(|certificate| certificate.clone().into_owned())
    }
}

/// The SubjectPublicKeyInfo of a certificate: the seventh element of its first element when there
/// is a version (RFC 5280 §4.1).
fn spki<'a>(certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    let (_, certificate, _) = der(certificate)?;
    let (_, mut fields, _) = der(certificate)?;
    for _ in 0..6 {
        (_, _, fields) = der(fields)?;
    }
    let (whole, _, _) = der(fields)?;
    Some(whole)
}

/// Splits off one DER element: all of it, its contents, what follows.
fn der(input: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&length, rest) = input.get(1..)?.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
    };
    let (contents, after) = rest.split_at_checked(length)?;
    Some((&input[..input.len() - after.len()], contents, after))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let anchor = self.anchor(intermediates).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(anchor)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), default_provider().into())
                .build()
                .map_err(|_| unknown())?;
        let localhost = ServerName::try_from("localhost").map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, &[], &localhost, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// TLS that trusts one pin.
pub fn pinned_tls(pin: Pin) -> Arc<ClientConfig> {
    let schemes = default_provider().signature_verification_algorithms.supported_schemes();
    let mut config = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { pin, schemes }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// Where the URL of a link points, if its host is an address.
pub fn address_of(link: &JoinLink) -> SocketAddr {
    let (_, authority) = link.url.split_once("://").expect("a link has a scheme");
    authority.parse().expect("a test's link has address and port")
}

/// Opens a TLS connection that trusts one pin.
pub async fn connect_tls(
    addr: SocketAddr,
    tls: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(addr.ip().into());
    TlsConnector::from(tls).connect(name, stream).await
}

/// What came back: status, headers, body.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn problem(&self) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        self.json()
    }
}

const WINDOW: u32 = 65_535;

/// One HTTP/2 connection to the broker, perhaps with a device's token.
#[derive(Clone)]
pub struct Client {
    sender: http2::SendRequest<Full<Bytes>>,
    token: Option<String>,
    authority: String,
    broker: BrokerIdentity,
}

impl Client {
    /// Connects to the broker of a link.
    pub async fn connect(link: &JoinLink) -> std::io::Result<Self> {
        let addr = address_of(link);
        let pin = link.pin.expect("a self-signed broker's link has a pin");
        Self::speak(
            connect_tls(addr, pinned_tls(pin)).await?,
            addr.to_string(),
            WINDOW,
            BrokerIdentity::Pin(pin),
        )
        .await
    }

    /// Connects and grants the broker no window: it may send headers and nothing else.
    pub async fn connect_deaf(link: &JoinLink) -> std::io::Result<Self> {
        let addr = address_of(link);
        let pin = link.pin.expect("a self-signed broker's link has a pin");
        Self::speak(
            connect_tls(addr, pinned_tls(pin)).await?,
            addr.to_string(),
            0,
            BrokerIdentity::Pin(pin),
        )
        .await
    }

    /// Connects and lets the broker be ahead by so many bytes of each response.
    pub async fn connect_narrow(link: &JoinLink, window: u32) -> std::io::Result<Self> {
        let addr = address_of(link);
        let pin = link.pin.expect("a self-signed broker's link has a pin");
        Self::speak(
            connect_tls(addr, pinned_tls(pin)).await?,
            addr.to_string(),
            window,
            BrokerIdentity::Pin(pin),
        )
        .await
    }

    /// Speaks HTTP/2 over a connection that is open, to whom this authority belongs.
    pub async fn over(
        io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        authority: String,
    ) -> std::io::Result<Self> {
        let host = authority.rsplit_once(':').map_or(&*authority, |(host, _)| host).to_owned();
        Self::speak(io, authority, WINDOW, BrokerIdentity::host(&host)).await
    }

    async fn speak(
        io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        authority: String,
        window: u32,
        broker: BrokerIdentity,
    ) -> std::io::Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            // More than one stream's: an unread event stream must not hold up an answer.
            .initial_connection_window_size(1 << 20)
            .handshake(TokioIo::new(io))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, token: None, authority, broker })
    }

    /// The same connection with a device's token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The device's token, if there is one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request; the response's body is still to come.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<http::Response<Incoming>> {
        let mut request =
            Request::builder().method(method).uri(format!("https://{}{path}", self.authority));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into())).expect("a test's request is valid");
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(request).await
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        self.try_call(method, path, body).await.expect("the broker answers")
    }

    /// Sends a request and reads the whole answer, unless the connection breaks.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Answer> {
        let (head, body) = self.request(method, path, &[], body).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub async fn post(&self, path: &str, content: &impl Serialize) -> Answer {
        let content = serde_json::to_vec(content).expect("plain data");
        self.call(Method::POST, path, content).await
    }

    /// Fetches a challenge and builds the registration that answers it.
    pub async fn registration(&self, secret: &StaticSecret, key: &str, name: &str) -> Register {
        let challenge: Challenge = self.get("/v1/node/challenge").await.json();
        registration(&self.broker, &challenge, secret, key, name)
    }

    /// Joins.
    pub async fn register(&self, secret: &StaticSecret, key: &str, name: &str) -> Answer {
        let register = self.registration(secret, key, name).await;
        self.post("/v1/node/register", &register).await
    }

    /// Joins as a device that the broker accepts.
    pub async fn join(&self, secret: &StaticSecret, key: &str, name: &str) -> Registered {
        let answer = self.register(secret, key, name).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }

    /// Opens the event stream.
    pub async fn events(&self, last_event_id: Option<String>) -> Events {
        let headers: Vec<_> = last_event_id.map(|id| ("last-event-id", id)).into_iter().collect();
        let response = self
            .request(Method::GET, "/v1/node/events", &headers, Bytes::new())
            .await
            .expect("the broker answers");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), text: String::new(), waiting: VecDeque::new() }
    }
}

/// Answers a challenge, written independently of the broker's own code.
pub fn registration(
    broker: &BrokerIdentity,
    challenge: &Challenge,
    secret: &StaticSecret,
    join_key: &str,
    name: &str,
) -> Register {
    let public = PublicKey(x25519_dalek::PublicKey::from(secret).to_bytes());
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(challenge.broker_key.0));
    let key = hmac::Key::new(hmac::HMAC_SHA256, shared.as_bytes());
    let message = possession_message(broker, &challenge.challenge, &public, join_key);
    Register {
        protocol: warren_proto::PROTOCOL,
        join_key: join_key.to_owned(),
        key: public,
        challenge: challenge.challenge.clone(),
        proof: URL_SAFE_NO_PAD.encode(hmac::sign(&key, &message)),
        name: name.to_owned(),
        os: "linux".to_owned(),
        software: "test".to_owned(),
    }
}

/// The event stream, parsed.
pub struct Events {
    body: Incoming,
    text: String,
    waiting: VecDeque<Received>,
}

/// One thing on the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    Event { id: Option<String>, event: SessionEvent },
    Heartbeat,
}

impl Events {
    /// The next thing on the stream; `None` at its end, however it ends.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            if let Some(received) = self.waiting.pop_front() {
                return Some(received);
            }
            let frame = self.body.frame().await?.ok()?;
            let Ok(data) = frame.into_data() else { continue };
            self.text.push_str(std::str::from_utf8(&data).expect("events are UTF-8"));
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                self.waiting.push_back(parse_block(&block));
            }
        }
    }

    /// The next event, without heartbeats.
    pub async fn event(&mut self) -> Option<SessionEvent> {
        loop {
            match self.next().await? {
                Received::Event { event, .. } => return Some(event),
                Received::Heartbeat => {}
            }
        }
    }
}

fn parse_block(block: &str) -> Received {
    if block.starts_with(':') {
        return Received::Heartbeat;
    }
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    let event = field("event: ").expect("an event has a name");
    let data = field("data: ").expect("an event has data");
    Received::Event {
        id: field("id: ").map(str::to_owned),
        event: SessionEvent::parse(event, data).expect("an event of this protocol"),
    }
}

/// A relay server's stream, parsed; heartbeats are passed over.
pub struct RelayEvents {
    body: Incoming,
    text: String,
}

impl RelayEvents {
    /// The next event; `None` at the end of the stream.
    pub async fn event(&mut self) -> Option<warren_proto::RelayEvent> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    let line = block.lines().find_map(|line| line.strip_prefix(name));
                    line.map(str::trim_start).map(str::to_owned)
                };
                if let (Some(name), Some(data)) = (field("event:"), field("data:")) {
                    return Some(warren_proto::RelayEvent::parse(&name, &data).expect("an event"));
                }
            }
            let frame = self.body.frame().await?.ok()?;
            let Ok(data) = frame.into_data() else { continue };
            self.text.push_str(std::str::from_utf8(&data).expect("events are UTF-8"));
        }
    }
}

impl Client {
    /// Opens a relay server's stream.
    pub async fn relay_events(&self) -> RelayEvents {
        let response = self
            .request(Method::GET, "/v1/relay/events", &[], Bytes::new())
            .await
            .expect("the broker answers");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        RelayEvents { body: response.into_body(), text: String::new() }
    }
}
