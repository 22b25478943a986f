//! Sends one message, over a connection of its own to the one address that was looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use warren_control::{Pins, Tls};
use warren_coord::WebhookRecord;
use warren_store::NewDelivery;

use super::seconds;
use super::target::{Targets, Url};

/// How long one attempt may take, all in all.
const PATIENCE: Duration = Duration::from_secs(15);
/// Characters of an error that are kept.
const LONGEST: usize = 300;

/// Why a message has not arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// The response's status, if there was one.
    pub(super) status: Option<u16>,
    /// For people.
    pub(super) text: String,
}

/// What messages are sent with.
pub(crate) struct Sender {
    targets: Targets,
    tls: Arc<ClientConfig>,
}

impl Sender {
    /// Believes the system's certificate authorities.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub(crate) fn new(targets: Targets) -> Result<Self> {
        let tls = Tls::with_protocol(&Pins::default(), b"http/1.1");
        Ok(Self { targets, tls: tls.context("can't set TLS up for webhooks")?.config() })
    }

    /// Sends a message once. Any 2xx says that it has arrived; the answer itself isn't read.
    pub(super) async fn send(
        &self,
        webhook: &WebhookRecord,
        message: &NewDelivery,
    ) -> Result<u16, Failed> {
        let failed = |text: String| {
            let text = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
            Failed { status: None, text }
        };
        let sent = tokio::time::timeout(PATIENCE, self.exchange(webhook, message)).await;
        let sent =
            sent.map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?;
        let status = sent.map_err(|error| failed(format!("{error:#}")))?;
        match status {
            status if status.is_success() => Ok(status.as_u16()),
            status if status.is_redirection() => Err(Failed {
                status: Some(status.as_u16()),
                text: "it was sent elsewhere, which isn't followed: give the final URL".to_owned(),
            }),
            status => {
                let text = format!("the answer was {status}");
                Err(Failed { status: Some(status.as_u16()), text })
            }
        }
    }

    async fn exchange(&self, webhook: &WebhookRecord, message: &NewDelivery) -> Result<StatusCode> {
        let url = Url::parse(&webhook.url).context("this is no URL")?;
        let found: Vec<SocketAddr> = lookup_host((url.host.as_str(), url.port))
            .await
            .with_context(|| format!("can't find {}", url.host))?
            .collect();
        let addr = self.targets.choose(&url, &found).map_err(anyhow::Error::msg)?;
        let stream =
            TcpStream::connect(addr).await.with_context(|| format!("can't reach {addr}"))?;
        let request = request(&url, webhook, message)?;
        if !url.https {
            return answer(stream, request).await;
        }
        let name = ServerName::try_from(url.host.clone()).context("the host's name is none")?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.context("TLS failed")?;
        answer(stream, request).await
    }
}

fn request(
    url: &Url,
    webhook: &WebhookRecord,
    message: &NewDelivery,
) -> Result<Request<Full<Bytes>>> {
    let now = seconds();
    let signatures = webhook.signatures(message.id, now, &message.body);
    Ok(Request::builder()
        .method(Method::POST)
        .uri(&url.path)
        .header(HOST, &url.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("warren/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", format!("msg_{}", message.id))
        .header("webhook-timestamp", now.0.to_string())
        .header("webhook-signature", signatures)
        .body(Full::new(Bytes::from(message.body.clone())))?)
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.context("no answer");
    // With the head it is said; what follows could be endless.
    connection.abort();
    Ok(response?.status())
}
