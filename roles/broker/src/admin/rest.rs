//! The API, version 1: one router for the local socket and for HTTPS.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Method, StatusCode};
use ring::digest;

use super::guard::{self, Guard};
use super::once::{Once, once};
use super::operation::{Operation, PREFIX};
use super::{
    activity, devices, edges, events, metrics, openapi, people, policy, reach, relays, routes,
    tokens, webhooks,
};
use crate::api::problem::Failure;
use crate::broker::Broker;

/// The largest answer that gets a tag: more isn't asked for again and again.
const TAGGED: usize = 4 * 1024 * 1024;

/// All of the API's operations.
pub(super) fn operations() -> Vec<Operation> {
    [
        routes::operations(),
        devices::operations(),
        edges::operations(),
        reach::operations(),
        relays::operations(),
        people::operations(),
        policy::operations(),
        tokens::operations(),
        webhooks::operations(),
        activity::operations(),
        events::operations(),
        metrics::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The API's routes. Who asks must be said by an extension of each request: a
/// [`crate::people::Grant`].
pub(super) fn router(broker: Arc<Broker>) -> Router {
    let made = Arc::new(Once::default());
    let mut router = Router::new();
    for operation in operations() {
        let is_repeatable = operation.is_repeatable();
        let Operation { path, needs, mut route, .. } = operation;
        if is_repeatable {
            route = route.layer(from_fn_with_state(made.clone(), once));
        }
        let guard = Guard { broker: broker.clone(), needs };
        let route = route.layer(from_fn_with_state(guard, guard::check));
        router = router.route(&format!("{PREFIX}{path}"), route);
    }
    router
        .route(&format!("{PREFIX}/{{*unknown}}"), any(unknown))
        .method_not_allowed_fallback(|| async {
            Failure::invalid("this address is for another HTTP method")
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .layer(from_fn(tag))
        .with_state(broker)
}

/// What describes the API: for everybody, because it is the same everywhere.
pub(super) fn description() -> Router {
    Router::new().route(&format!("{PREFIX}/openapi.json"), get(openapi::serve))
}

async fn unknown() -> Failure {
    Failure::not_found("address in the API; /api/v1/openapi.json lists them")
}

/// Tags an answer by its contents (RFC 9110 §8.8.3), and spares a client what it has.
async fn tag(request: Request, next: Next) -> Response {
    let known = (request.method() == Method::GET)
        .then(|| request.headers().get(IF_NONE_MATCH).cloned())
        .flatten();
    let is_get = request.method() == Method::GET;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    if !is_get || !is_one_document(kind) || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, TAGGED).await else {
        return Failure::invalid("this is too much at once; ask for less of it").into_response();
    };
    let tag = parts.headers.get(ETAG).cloned().unwrap_or_else(|| tag_of(&body));
    let has_it = known.is_some_and(|known| {
        let mut tags = known.to_str().unwrap_or_default().split(',').map(str::trim);
        tags.any(|it| it == "*" || it.trim_start_matches("W/").as_bytes() == tag.as_bytes())
    });
    parts.headers.insert(ETAG, tag);
    if has_it {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(CONTENT_TYPE);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(body))
}

fn tag_of(body: &[u8]) -> HeaderValue {
    let hash = digest::digest(&digest::SHA256, body);
    let hex: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether an answer of that type is JSON, and not lines of it: files are streamed.
fn is_one_document(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim_end() == "application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_json_are_a_file() {
        assert!(
            is_one_document("application/json")
                && is_one_document("application/json; charset=utf-8")
        );
        for kind in ["application/jsonl", "application/json-seq", "text/csv", ""] {
            assert!(!is_one_document(kind), "{kind}");
        }
    }
}
