//! One HTTP/2 connection to the broker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;
use warren_proto::{ErrorCode, Problem};

use crate::connect::dial;
use crate::error::ControlError;
use crate::tls::Tls;
use crate::url::BrokerUrl;

/// The longest answer that is read: a whole netmap.
const MAX_BODY: usize = 8 << 20;
/// The longest explanation of a broker that is shown, in characters.
const LONGEST_TEXT: usize = 300;

/// How long an answer may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection; requests run beside each other. Closed when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Http {
    sender: SendRequest<Full<Bytes>>,
    base: String,
    token: Option<HeaderValue>,
    /// The end of the connection on this machine.
    pub local: SocketAddr,
    /// The broker's addresses, the one in use first.
    pub addresses: Vec<SocketAddr>,
    /// One round trip, by the TCP handshake.
    pub rtt: Duration,
    _driver: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer, how long it took, and the broker's clock.
#[derive(Debug)]
pub struct Answer<T> {
    /// What it says.
    pub body: T,
    /// How long it took.
    pub took: Duration,
    /// The broker's time since the Unix epoch, if it sent a `Date`.
    pub unix: Option<Duration>,
}

impl Http {
    /// Connects and shakes hands. `known` are addresses that worked before, for when names don't
    /// resolve; `token` goes with every request.
    ///
    /// # Errors
    /// The broker can't be reached, or isn't believed.
    pub async fn connect(
        url: &BrokerUrl,
        tls: &Tls,
        known: &[SocketAddr],
        token: Option<&str>,
    ) -> Result<Self, ControlError> {
        let token = match token {
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| ControlError::Protocol("the token is damaged".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let dialled = dial(url, tls, known).await?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(dialled.transport));
        let (sender, connection) = tokio::time::timeout(REQUEST_TIMEOUT, handshake)
            .await
            .map_err(|_| ControlError::Timeout(REQUEST_TIMEOUT.as_secs()))??;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the control connection broke");
            }
        });
        Ok(Self {
            sender,
            base: url.to_string(),
            token,
            local: dialled.local,
            addresses: dialled.addresses,
            rtt: dialled.rtt,
            _driver: Arc::new(AbortOnDrop(driver.abort_handle())),
        })
    }

    /// Asks, and reads the whole answer as JSON.
    ///
    /// # Errors
    /// The broker's refusal, a broken connection, or an answer that makes no sense or comes after
    /// `patience`.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> Result<Answer<T>, ControlError> {
        let asking = async {
            let begun = Instant::now();
            let response = self.send(method, path, body, &[]).await?;
            let took = begun.elapsed();
            let unix = date(&response);
            let body = collect(response.into_body()).await?;
            // An answer without content is as good as an empty object.
            let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
            let body = serde_json::from_slice(&body)
                .map_err(|error| ControlError::Protocol(format!("{path}: {error}")))?;
            Ok(Answer { body, took, unix })
        };
        tokio::time::timeout(patience, asking)
            .await
            .map_err(|_| ControlError::Timeout(patience.as_secs()))?
    }

    /// Opens a stream; its body is left to the caller.
    ///
    /// # Errors
    /// As [`Http::json`].
    pub async fn stream(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Response<Incoming>, ControlError> {
        let asking = self.send(Method::GET, path, None::<&()>, headers);
        tokio::time::timeout(REQUEST_TIMEOUT, asking)
            .await
            .map_err(|_| ControlError::Timeout(REQUEST_TIMEOUT.as_secs()))?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        headers: &[(&'static str, String)],
    ) -> Result<Response<Incoming>, ControlError> {
        let malformed = |error: &dyn std::fmt::Display| ControlError::Protocol(error.to_string());
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let contents = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|error| malformed(&error))?
            }
            None => Vec::new(),
        };
        let request =
            request.body(Full::new(Bytes::from(contents))).map_err(|error| malformed(&error))?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }
}

async fn collect(body: Incoming) -> Result<Bytes, ControlError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(ControlError::Http(*error)),
            Err(error) => Err(ControlError::Protocol(error.to_string())),
        },
    }
}

async fn refusal(response: Response<Incoming>) -> ControlError {
    let status = response.status();
    let problem = match collect(response.into_body()).await {
        Ok(body) => serde_json::from_slice(&body).ok(),
        Err(error) => return error,
    };
    let mut problem: Problem = problem.unwrap_or_else(|| Problem {
        status: status.as_u16(),
        title: format!("the broker (or a proxy in front of it) answered '{status}'"),
        code: foreign_code(status),
    });
    problem.title = printable(&problem.title);
    ControlError::Refused(problem)
}

/// What may be shown on a person's terminal of a text that came from elsewhere: a sentence or two,
/// no control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

/// What a status means that came without a broker's explanation: never that we were removed.
fn foreign_code(status: StatusCode) -> ErrorCode {
    match status {
        StatusCode::TOO_MANY_REQUESTS => ErrorCode::RateLimited,
        status if status.is_server_error() => ErrorCode::Unavailable,
        _ => ErrorCode::Other,
    }
}

/// The broker's clock, from the `Date` header (RFC 9110 §6.6.1).
fn date(response: &Response<Incoming>) -> Option<Duration> {
    let text = response.headers().get(header::DATE)?.to_str().ok()?;
    let time = httpdate::parse_http_date(text).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok()
}
