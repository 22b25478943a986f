//! What a TURN server says of itself, and the credentials that it makes for other applications.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;
use warren_turn::rest;
use warren_turn::server::Traffic;

use super::hub::Hub;
use super::unix_time;
use crate::metrics::{Page, Watched};

/// How credentials for other applications are made: `POST /credentials?id=ID&ttl=SECONDS`.
#[derive(Clone)]
pub struct Mint {
    /// Whoever asks says it, as a bearer token.
    pub token: String,
    /// The secret of the credentials.
    pub secret: Vec<u8>,
    /// Their lifetime where none is asked for, and the longest.
    pub lifetime: Duration,
    /// Where this server is reached, as in WebRTC's `iceServers`.
    pub uris: Vec<String>,
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mint").field("uris", &self.uris).finish_non_exhaustive()
    }
}

/// The form of draft-uberti-behave-turn-rest.
#[derive(Serialize)]
struct Minted<'a> {
    username: String,
    password: String,
    ttl: u64,
    uris: &'a [String],
}

impl Mint {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "POST only\n");
        }
        let said = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let token = said.and_then(|said| said.strip_prefix(b"Bearer ")).unwrap_or_default();
        if !is_same(token, self.token.as_bytes()) {
            return plain(StatusCode::UNAUTHORIZED, "the token is missing or wrong\n");
        }
        let query = request.uri().query().unwrap_or_default();
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let id = value("id").unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if id.is_empty() || id.len() > 128 || !id.bytes().all(is_plain) {
            let hint = "give an id of letters, digits, '-', '_' and '.': ?id=ID&ttl=SECONDS\n";
            return plain(StatusCode::BAD_REQUEST, hint);
        }
        let Ok(ttl) = value("ttl").map_or(Ok(self.lifetime.as_secs()), str::parse) else {
            return plain(StatusCode::BAD_REQUEST, "ttl is a number of seconds\n");
        };
        let ttl = ttl.clamp(1, self.lifetime.as_secs().max(1));
        let expires = unix_time().as_secs() + ttl;
        let (username, password) = rest::mint(&self.secret, expires, id);
        let minted = Minted { username, password, ttl, uris: &self.uris };
        let Ok(body) = serde_json::to_vec(&minted) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "can't be written\n");
        };
        with_type(StatusCode::OK, "application/json", body.into())
    }
}

/// Compares without telling by its time where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A server behind the metrics' address.
#[derive(Debug)]
pub(super) struct Observed {
    hub: Arc<Hub>,
    mint: Option<Mint>,
}

impl Observed {
    pub(super) fn new(hub: Arc<Hub>, mint: Option<Mint>) -> Self {
        Self { hub, mint }
    }
}

impl Watched for Observed {
    fn metrics(&self, page: &mut Page) {
        let (gauges, counters, losses) = self.hub.with(|state, _| {
            (state.server.gauges(), state.server.counters().clone(), state.stream_losses)
        });
        let gauge = |page: &mut Page, name: &str, help: &str, value: usize| {
            page.gauge(&format!("warren_turn_{name}"), help, value);
        };
        gauge(page, "allocations", "Allocations there are.", gauges.allocations);
        gauge(
            page,
            "virtual_allocations",
            "Allocations with a virtual address.",
            gauges.virtual_allocations,
        );
        gauge(page, "channels", "Channels that are bound.", gauges.channels);
        gauge(page, "credentials", "Credentials in use.", gauges.credentials);
        gauge(page, "streams", "TCP and TLS connections.", gauges.streams);
        let ways = [
            ("to_peer", counters.to_peers),
            ("to_client", counters.to_clients),
            ("between_clients", counters.between_clients),
        ];
        let by_way = |value: fn(Traffic) -> u64| ways.map(|(way, traffic)| (way, value(traffic)));
        page.counters(
            "warren_turn_packets_total",
            "Packets forwarded.",
            "direction",
            by_way(|traffic| traffic.packets),
        );
        page.counters(
            "warren_turn_bytes_total",
            "Payload forwarded.",
            "direction",
            by_way(|traffic| traffic.bytes),
        );
        page.counters(
            "warren_turn_dropped_total",
            "Packets dropped.",
            "reason",
            counters.drops().map(|(reason, count)| (reason.name(), count)),
        );
        page.counters(
            "warren_turn_refused_total",
            "Requests refused.",
            "code",
            counters.refused.iter().map(|(code, count)| (*code, *count)),
        );
        page.counter(
            "warren_turn_auth_failures_total",
            "Requests with a wrong credential.",
            counters.auth_failures,
        );
        page.counter("warren_turn_allocated_total", "Allocations made.", counters.allocated);
        page.counter("warren_turn_released_total", "Allocations ended.", counters.released);
        page.counter("warren_turn_bindings_total", "Binding requests answered.", counters.bindings);
        page.counter(
            "warren_turn_ports_taken_total",
            "Ports that somebody else had.",
            counters.ports_taken,
        );
        page.counter(
            "warren_turn_stream_losses_total",
            "Messages that a connection didn't take.",
            losses,
        );
        let udp = self.hub.udp_counters();
        page.counter(
            "warren_turn_udp_send_errors_total",
            "Datagrams to clients that the system didn't take.",
            udp.iter().map(|counters| counters.send_errors).sum::<u64>(),
        );
    }

    fn is_ready(&self) -> bool {
        self.hub.is_ready()
    }

    fn call(&self, request: &Request<()>) -> Option<Response<Full<Bytes>>> {
        let mint = self.mint.as_ref().filter(|_| request.uri().path() == "/credentials")?;
        Some(mint.answer(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(uri: &str, token: Option<&str>, method: Method) -> (StatusCode, Mint) {
        let mint = Mint {
            token: "token".to_owned(),
            secret: b"secret".to_vec(),
            lifetime: Duration::from_secs(3600),
            uris: vec!["turn:203.0.113.1:3478".to_owned()],
        };
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        (mint.answer(&request.body(()).unwrap()).status(), mint)
    }

    #[test]
    fn credentials_are_made_for_those_who_know_the_token() {
        let status = |uri, token, method| ask(uri, token, method).0;
        let (good, bearer) = ("/credentials?id=phone-7&ttl=60", Some("Bearer token"));
        assert_eq!(status(good, bearer, Method::POST), StatusCode::OK);
        assert_eq!(status("/credentials?id=a", bearer, Method::POST), StatusCode::OK);
        assert_eq!(status(good, bearer, Method::GET), StatusCode::METHOD_NOT_ALLOWED);
        for token in [None, Some("Bearer toke"), Some("Bearer tokem"), Some("token"), Some("")] {
            assert_eq!(status(good, token, Method::POST), StatusCode::UNAUTHORIZED);
        }
        for uri in
            ["/credentials", "/credentials?id=", "/credentials?id=a:b", "/credentials?id=a&ttl=x"]
        {
            assert_eq!(status(uri, bearer, Method::POST), StatusCode::BAD_REQUEST, "{uri}");
        }
    }
}
