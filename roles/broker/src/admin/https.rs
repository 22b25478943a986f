//! The API over HTTPS: for the holders of API tokens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use ipnet::IpNet;
use warren_coord::{Bucket, UnixTime};
use warren_proto::{ApiTokenId, ErrorCode};

use super::rest;
use crate::accounts::fresh_ctx;
use crate::api::extract::{bearer, client_ip, peer};
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::people::{Grant, Holder};
use crate::server::Holder as Place;

/// Requests of one token at once ...
const BURST: u32 = 200;
/// ... and the time in which one more comes back.
const INTERVAL: Duration = Duration::from_millis(50);

/// Lets the holders of API tokens in.
struct Door {
    broker: Arc<Broker>,
    trusted_proxies: Arc<[IpNet]>,
    buckets: Mutex<HashMap<ApiTokenId, Bucket>>,
}

/// The API's routes for HTTPS.
pub(crate) fn router(broker: Arc<Broker>, trusted_proxies: Arc<[IpNet]>) -> Router {
    let buckets = Mutex::default();
    let door = Arc::new(Door { broker: broker.clone(), trusted_proxies, buckets });
    rest::router(broker).layer(from_fn_with_state(door, admit)).merge(rest::description())
}

async fn admit(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match door.grant(&parts) {
        Ok(grant) => {
            parts.extensions.insert(grant);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(failure) => {
            let is_unknown = failure.code() == ErrorCode::SignInRequired;
            let mut response = failure.into_response();
            if is_unknown {
                let challenge = HeaderValue::from_static("Bearer realm=\"warren\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

impl Door {
    /// What the token of a request is good for.
    fn grant(&self, parts: &Parts) -> ApiResult<Grant> {
        let source: IpAddr = client_ip(parts, &self.trusted_proxies)?;
        let unknown = || {
            Failure::new(
                ErrorCode::SignInRequired,
                "this needs a valid API token in the header 'Authorization: Bearer'; Account \
                 settings, API tokens makes one",
            )
        };
        let secret = bearer(&parts.headers, "API").map_err(|_| unknown())?;
        let now = UnixTime(fresh_ctx().unix.as_secs());
        let token = self.broker.people.soft(|people| people.token(secret, now));
        let token = token.ok_or_else(unknown)?;
        peer(parts)?.set_known(Place::Token(token.id));
        if !self.take(token.id) {
            return Err(Failure::new(
                ErrorCode::RateLimited,
                "this API token is used too often; wait a moment",
            ));
        }
        Ok(Grant { holder: Holder::Token(token), source: Some(source) })
    }

    fn take(&self, token: ApiTokenId) -> bool {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = buckets.entry(token).or_insert_with(Bucket::full).take(BURST, INTERVAL, now);
        if buckets.len() > 1_000 {
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        taken
    }
}
