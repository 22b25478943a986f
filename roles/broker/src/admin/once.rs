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

use super::guard::{Again, Granted};
use super::routes::{BODY_TIMEOUT, MAX_BODY};
use crate::api::extract;
use crate::api::problem::{ApiResult, Failure};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const LONGEST_KEY: usize = 255;
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How many are kept of one who asks; beyond it his oldest go, and nobody else's.
const MOST_OF_ACTOR: usize = 100;
/// Whatever is created, its answer is shorter.
const LONGEST_ANSWER: usize = 64 * 1024;
/// How often what is too old is looked for.
const SWEEP: Duration = Duration::from_secs(600);

/// Answers by who asked, where, and with which key.
#[derive(Default)]
pub(super) struct Once {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<Place, Entry>,
    /// The oldest first.
    of_actor: HashMap<String, VecDeque<(Instant, Place)>>,
    swept: Option<Instant>,
}

/// Who asked, where, and with which key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    actor: String,
    path: String,
    key: String,
}

struct Entry {
    begun: Instant,
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
    let place = Place {
        actor: format!("{:?}", grant.by().actor),
        path: request.uri().path().to_owned(),
        key: key.to_owned(),
    };
    let (parts, body) = request.into_parts();
    let body = extract::read(Request::new(body), MAX_BODY, BODY_TIMEOUT).await?;
    Again::ask(&parts.extensions)?;
    let asked = hash(&body);
    if let Some(answer) = once.begin(&place, asked, Instant::now())? {
        return Ok(answer.replay());
    }
    // Whatever happens below, the place is given back or holds an answer.
    let under_way = UnderWay { once, place: Some(place) };
    let request = Request::from_parts(parts, Body::from(body));
    // Even if the client goes away: it is for him that the answer is kept.
    let answering = tokio::spawn(answer(under_way, next, request));
    answering.await.map_err(|error| Failure::unavailable(&error.into()))?
}

async fn answer(under_way: UnderWay, next: Next, request: Request) -> ApiResult<Response> {
    let response = next.run(request).await;
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
struct UnderWay {
    once: Arc<Once>,
    place: Option<Place>,
}

impl UnderWay {
    fn end(mut self, answer: Answer) {
        let Some(place) = self.place.take() else { return };
        if let Some(entry) = self.once.lock().answers.get_mut(&place) {
            entry.answer = Some(answer);
        }
    }
}

impl Drop for UnderWay {
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
    fn begin(&self, place: &Place, asked: [u8; 32], now: Instant) -> ApiResult<Option<Answer>> {
        let mut kept = self.lock();
        kept.sweep(now);
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
                kept.begin(place, asked, now);
                Ok(None)
            }
        }
    }
}

impl Kept {
    fn begin(&mut self, place: &Place, asked: [u8; 32], now: Instant) {
        let of_actor = self.of_actor.entry(place.actor.clone()).or_default();
        while of_actor.len() >= MOST_OF_ACTOR
            && let Some(oldest) = of_actor.pop_front()
        {
            forget(&mut self.answers, &oldest);
        }
        of_actor.push_back((now, place.clone()));
        self.answers.insert(place.clone(), Entry { begun: now, asked, answer: None });
    }

    /// Forgets what is too old, now and then.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now.duration_since(at) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        let Self { answers, of_actor, .. } = self;
        of_actor.retain(|_, places| {
            while let Some(oldest) = places.front()
                && now.duration_since(oldest.0) > KEPT
            {
                forget(answers, oldest);
                places.pop_front();
            }
            !places.is_empty()
        });
    }
}

/// Forgets an answer, but not that of a later request in its place.
fn forget(answers: &mut HashMap<Place, Entry>, (begun, place): &(Instant, Place)) {
    if answers.get(place).is_some_and(|entry| entry.begun == *begun) {
        answers.remove(place);
    }
}

fn hash(body: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, body).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(actor: &str, key: usize) -> Place {
        Place { actor: actor.to_owned(), path: "/".to_owned(), key: key.to_string() }
    }

    fn is_kept(once: &Once, place: &Place) -> bool {
        once.lock().answers.contains_key(place)
    }

    #[test]
    fn one_who_asks_much_pushes_out_his_own_and_nobody_elses() {
        let (once, now) = (Once::default(), Instant::now());
        once.begin(&place("ada", 0), [0; 32], now).unwrap();
        for key in 0..10 * MOST_OF_ACTOR {
            once.begin(&place("eve", key), [0; 32], now).unwrap();
        }
        assert!(is_kept(&once, &place("ada", 0)));
        assert!(!is_kept(&once, &place("eve", 0)));
        assert_eq!(once.lock().answers.len(), MOST_OF_ACTOR + 1);
    }

    #[test]
    fn a_day_later_it_is_forgotten_and_a_later_request_in_its_place_is_not() {
        let (once, now) = (Arc::new(Once::default()), Instant::now());
        let (failed, other) = (place("ada", 0), place("eve", 0));
        once.begin(&failed, [0; 32], now).unwrap();
        once.begin(&other, [0; 32], now).unwrap();
        // It came to nothing and is repeated much later.
        drop(UnderWay { once: once.clone(), place: Some(failed.clone()) });
        let later = now + KEPT / 2;
        once.begin(&failed, [0; 32], later).unwrap();
        once.begin(&place("bob", 0), [0; 32], now + KEPT + SWEEP).unwrap();
        assert!(is_kept(&once, &failed) && !is_kept(&once, &other));
        once.begin(&place("bob", 1), [0; 32], later + KEPT + SWEEP).unwrap();
        assert!(!is_kept(&once, &failed));
    }
}
