//! Credentials for other applications, by HTTP: `POST /credentials?id=ID&ttl=SECONDS`.
//!
//! Whoever asks shows a token. A wrong one counts against its prefix and the total, and a prefix that has
//! had its share gets nothing for the right one either, so that nobody guesses quickly; but whoever
//! knows the token is kept out by no stranger from elsewhere.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use warren_turn::{Admission, Limiter, Limits, rest};

use super::unix_time;

/// Wrong requests that are answered.
const LIMITS: Limits =
    Limits { prefix_rate: 20, prefix_burst: 100, total_rate: 200, total_burst: 400 };

/// Who gets credentials, and what they say.
#[derive(Clone)]
pub struct Mint {
    /// Whoever asks says it, as a bearer token.
    pub token: String,
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

/// Answers the requests.
#[derive(Debug)]
pub(super) struct Minter {
    mint: Mint,
    limiter: Mutex<Limiter>,
}

impl Minter {
    pub(super) fn new(mint: Mint) -> Self {
        let limiter = Limiter::new(LIMITS, rand::random(), Instant::now());
        Self { mint, limiter: Mutex::new(limiter) }
    }

    /// `secret` makes the credentials.
    pub(super) fn answer<B>(
        &self,
        request: &Request<B>,
        from: IpAddr,
        secret: Option<&[u8]>,
        now: Instant,
    ) -> Response<Full<Bytes>> {
        let said = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let token = said.and_then(|said| said.strip_prefix(b"Bearer ")).unwrap_or_default();
        let is_known = bool::from(token.ct_eq(self.mint.token.as_bytes()));
        if !self.admits(from, is_known, now) {
            let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "too many requests\n");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "POST only\n");
        }
        if !is_known {
            return plain(StatusCode::UNAUTHORIZED, "the token is missing or wrong\n");
        }
        let Some(secret) = secret else {
            return plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "there is no secret to make them with\n",
            );
        };
        self.make(request.uri().query().unwrap_or_default(), secret)
    }

    fn admits(&self, from: IpAddr, is_known: bool, now: Instant) -> bool {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        match is_known {
            true => !limiter.is_exhausted(from, now),
            false => limiter.admit(from, now) == Admission::Granted,
        }
    }

    fn make(&self, query: &str, secret: &[u8]) -> Response<Full<Bytes>> {
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let id = value("id").unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if id.is_empty() || id.len() > 128 || !id.bytes().all(is_plain) {
            let hint = "give an id of letters, digits, '-', '_' and '.': ?id=ID&ttl=SECONDS\n";
            return plain(StatusCode::BAD_REQUEST, hint);
        }
        let longest = self.mint.lifetime.as_secs().max(1);
        let Ok(ttl) = value("ttl").map_or(Ok(longest), str::parse) else {
            return plain(StatusCode::BAD_REQUEST, "ttl is a number of seconds\n");
        };
        let ttl = ttl.clamp(1, longest);
        let expires = unix_time().as_secs() + ttl;
        let (username, password) = rest::mint(secret, expires, id);
        let minted = Minted { username, password, ttl, uris: &self.mint.uris };
        let Ok(body) = serde_json::to_vec(&minted) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "can't be written\n");
        };
        with_type(StatusCode::OK, "application/json", body.into())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "/credentials?id=phone-7&ttl=60";
    const BEARER: Option<&str> = Some("Bearer token");
    const SECRET: Option<&[u8]> = Some(b"secret");

    fn minter() -> Minter {
        Minter::new(Mint {
            token: "token".to_owned(),
            lifetime: Duration::from_secs(3600),
            uris: vec!["turn:203.0.113.1:3478".to_owned()],
        })
    }

    fn request(uri: &str, token: Option<&str>, method: Method) -> Request<()> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(()).unwrap()
    }

    fn from(last: u8) -> IpAddr {
        IpAddr::from([192, 0, last, 1])
    }

    #[test]
    fn credentials_are_made_for_those_who_know_the_token() {
        let minter = minter();
        let status = |uri, token, method| {
            let request = request(uri, token, method);
            minter.answer(&request, from(0), SECRET, Instant::now()).status()
        };
        assert_eq!(status(GOOD, BEARER, Method::POST), StatusCode::OK);
        assert_eq!(status("/credentials?id=a", BEARER, Method::POST), StatusCode::OK);
        assert_eq!(status(GOOD, BEARER, Method::GET), StatusCode::METHOD_NOT_ALLOWED);
        for token in [None, Some("Bearer toke"), Some("Bearer tokem"), Some("token"), Some("")] {
            assert_eq!(status(GOOD, token, Method::POST), StatusCode::UNAUTHORIZED);
        }
        for uri in
            ["/credentials", "/credentials?id=", "/credentials?id=a:b", "/credentials?id=a&ttl=x"]
        {
            assert_eq!(status(uri, BEARER, Method::POST), StatusCode::BAD_REQUEST, "{uri}");
        }
    }

    #[test]
    fn guessing_is_slow_and_hinders_nobody_elsewhere() {
        let (minter, now) = (minter(), Instant::now());
        let ask = |last, token, now| {
            minter.answer(&request(GOOD, token, Method::POST), from(last), SECRET, now).status()
        };
        let guesses =
            (0..500).filter(|_| ask(1, Some("Bearer x"), now) == StatusCode::UNAUTHORIZED);
        // A prefix may draw from two buckets.
        assert!((100..=200).contains(&guesses.count()));
        assert_eq!(ask(1, BEARER, now), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(ask(2, BEARER, now), StatusCode::OK);
        assert_eq!(ask(1, BEARER, now + Duration::from_secs(1)), StatusCode::OK);
    }

    #[test]
    fn strangers_from_everywhere_do_not_keep_out_who_knows_the_token() {
        let (minter, now) = (minter(), Instant::now());
        let ask = |last, token| {
            minter.answer(&request(GOOD, token, Method::POST), from(last), SECRET, now).status()
        };
        let guesses = (0..100).flat_map(|_| 0..200);
        let answered = guesses.filter(|n| ask(*n, None) == StatusCode::UNAUTHORIZED).count();
        assert_eq!(answered, 400);
        assert_eq!(ask(201, None), StatusCode::TOO_MANY_REQUESTS);
        // However often it asks.
        assert!((0..1000).all(|_| ask(201, BEARER) == StatusCode::OK));
    }

    #[test]
    fn without_a_secret_there_is_nothing_to_make_them_with() {
        let request = request(GOOD, BEARER, Method::POST);
        let answer = minter().answer(&request, from(0), None, Instant::now());
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
