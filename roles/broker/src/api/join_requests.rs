//! What a device asks that wants to be let in without a join key.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use http::StatusCode;
use warren_proto::{ErrorCode, JoinAsk, JoinAsked, JoinDecision, JoinReveal};

use super::Api;
use super::extract::{self, Source, bearer};
use super::problem::{ApiResult, Failure};

/// Bytes of a request: a few times what one has.
const MAX_ASK: usize = 4 * 1024;

/// `POST /v1/node/join-requests`
pub(super) async fn ask(
    State(api): State<Arc<Api>>,
    Source { prefix, address }: Source,
    request: Request,
) -> ApiResult<(StatusCode, Json<JoinAsked>)> {
    if !api.attempts.take(prefix, Instant::now()) {
        return Err(too_many());
    }
    let body = extract::read(request, MAX_ASK, api.limits.request_timeout).await?;
    let ask: JoinAsk = extract::parse(&body)?;
    let asked = api.join_requests.ask(ask, address, Instant::now())?;
    Ok((StatusCode::CREATED, Json(asked)))
}

/// `PUT /v1/node/join-requests/nonce`
pub(super) async fn reveal(
    State(api): State<Arc<Api>>,
    Source { prefix, .. }: Source,
    request: Request,
) -> ApiResult<StatusCode> {
    if !api.attempts.take(prefix, Instant::now()) {
        return Err(too_many());
    }
    let ticket = bearer(request.headers(), "request")?.to_owned();
    let body = extract::read(request, MAX_ASK, api.limits.request_timeout).await?;
    let JoinReveal { nonce } = extract::parse(&body)?;
    let own = api.identity.current();
    api.join_requests.reveal(&ticket, &nonce, &own, Instant::now())?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/node/join-requests`
pub(super) async fn decision(
    State(api): State<Arc<Api>>,
    Source { prefix, .. }: Source,
    request: Request,
) -> ApiResult<Json<JoinDecision>> {
    let decision =
        api.join_requests.decision(bearer(request.headers(), "request")?, Instant::now());
    if decision.is_err() {
        api.attempts.punish(prefix, Instant::now());
    }
    decision.map(Json)
}

fn too_many() -> Failure {
    Failure::new(
        ErrorCode::RateLimited,
        "too many devices tried to join from this address; try again in a minute",
    )
}
