//! A bound in time for each request, and what the authority says of when to come again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Request, response};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use tokio::time::timeout;

use super::https::Exchange;

/// How long a request may take, all in all.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Makes requests through another client.
#[derive(Clone)]
pub(super) struct Client {
    inner: Arc<dyn HttpClient>,
    patience: Duration,
    /// Of the last refusal.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl Client {
    pub(super) fn new(inner: impl HttpClient, patience: Duration) -> Self {
        Self { inner: Arc::new(inner), patience, retry_after: Arc::default() }
    }

    /// How long the authority wants to be left alone, if it has said so since this was last asked.
    pub(super) fn take_retry_after(&self) -> Option<Duration> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let what = format!("{} {}", request.method(), request.uri());
        let exchange = async {
            let BytesResponse { parts, mut body } = self.inner.request(request).await?;
            let body = body.into_bytes().await.map_err(Error::Other)?;
            Ok::<_, Error>((parts, body))
        };
        let Ok(answer) = timeout(self.patience, exchange).await else {
            let text = format!("{what}: no answer within {} s", self.patience.as_secs_f32());
            return Err(Error::Other(text.into()));
        };
        let (parts, body) = answer?;
        if parts.status.is_client_error() || parts.status.is_server_error() {
            *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = retry_after(&parts);
            if serde_json::from_slice::<Problem>(&body).is_err() {
                return Err(Error::Other(format!("{what}: {}", parts.status).into()));
            }
        }
        Ok(BytesResponse { parts, body: Box::new(body) })
    }
}

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Exchange {
        Box::pin(self.clone().exchange(request))
    }
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn retry_after(parts: &response::Parts) -> Option<Duration> {
    let value = parts.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok()
}
