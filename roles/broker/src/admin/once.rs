//! `Idempotency-Key`: a request that is repeated because its answer was lost does nothing twice
//! (draft-ietf-httpapi-idempotency-key-header). Kept in memory, because answers hold secrets.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use ring::digest;
use warren_proto::ErrorCode;

use super::guard::Granted;
use super::routes::{BODY_TIMEOUT, MAX_BODY};
use crate::api::extract;
use crate::api::problem::{ApiResult, Failure};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const LONGEST_KEY: usize = 255;
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How many are kept; beyond it the oldest go.
const MOST: usize = 10_000;
/// An answer longer than this isn't kept: none of these operations gives one.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Answers by who asked, where, and with which key.
#[derive(Default)]
pub(super) struct Once {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<String, Entry>,
    by_age: VecDeque<(Instant, String)>,
}

struct Entry {
    /// The hash of what was asked.
    asked: [u8; 32],
    /// `None`: it is under way.
    answer: Option<Answer>,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

/// Answers a repeated request as the first one; a layer of operations that make something.
pub(super) async fn once(
    State(once): State<Arc<Once>>,
    Granted(grant): Granted,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let Some(key) = request.headers().get(KEY) else { return Ok(next.run(request).await) };
    let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= LONGEST_KEY);
    let key = key.ok_or_else(|| {
        Failure::invalid("an Idempotency-Key has 1 to 255 printable ASCII characters")
    })?;
    let place = format!("{:?} {} {key}", grant.by().actor, request.uri().path());
    let (parts, body) = request.into_parts();
    let body = extract::read(Request::new(body), MAX_BODY, BODY_TIMEOUT).await?;
    let asked = hash(&body);
    if let Some(answer) = once.begin(&place, asked)? {
        return Ok(answer.replay());
    }
    // Whatever happens below, the place is given back or holds an answer.
    let under_way = UnderWay { once: &once, place: Some(place) };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LONGEST_ANSWER).await else {
        return Err(Failure::unavailable(&anyhow::anyhow!("an answer was too long to be kept")));
    };
    if !parts.status.is_server_error() && parts.status != StatusCode::TOO_MANY_REQUESTS {
        let content_type = parts.headers.get(CONTENT_TYPE).cloned();
        under_way.end(Answer { status: parts.status, content_type, body: body.clone() });
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

impl Answer {
    fn replay(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        headers.remove(CONTENT_TYPE);
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

/// A request under way; forgotten if nothing comes of it.
struct UnderWay<'a> {
    once: &'a Once,
    place: Option<String>,
}

impl UnderWay<'_> {
    fn end(mut self, answer: Answer) {
        let Some(place) = self.place.take() else { return };
        if let Some(entry) = self.once.lock().answers.get_mut(&place) {
            entry.answer = Some(answer);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.once.lock().answers.remove(&place);
        }
    }
}

impl Once {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer that was given, if any.
    fn begin(&self, place: &str, asked: [u8; 32]) -> ApiResult<Option<Answer>> {
        let now = Instant::now();
        let mut kept = self.lock();
        kept.forget(now);
        match kept.answers.get(place) {
            Some(entry) if entry.asked != asked => Err(Failure::invalid(
                "this Idempotency-Key was used for another request; take a new one",
            )
            .with_status(StatusCode::UNPROCESSABLE_ENTITY)),
            Some(Entry { answer: None, .. }) => Err(Failure::new(
                ErrorCode::Conflict,
                "a request with this Idempotency-Key is under way",
            )),
            Some(Entry { answer, .. }) => Ok(answer.clone()),
            None => {
                kept.answers.insert(place.to_owned(), Entry { asked, answer: None });
                kept.by_age.push_back((now, place.to_owned()));
                Ok(None)
            }
        }
    }
}

impl Kept {
    fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.by_age.front()
            && (now.duration_since(*at) > KEPT || self.by_age.len() >= MOST)
        {
            if let Some((_, place)) = self.by_age.pop_front() {
                self.answers.remove(&place);
            }
        }
    }
}

fn hash(body: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, body).as_ref());
    hash
}
