//! What nodes ask for.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use warren_proto::{
    ASKED_FROM, Challenge, CheckIn, CheckInReply, ConnectRequest, DeviceId, EdgeChange,
    EdgeChanged, EdgeSpec, ErrorCode, INSTANCE_HEADER, InstanceId, MapVersion, PathReports,
    Register, Registered,
};

use super::Api;
use super::events::{EventBody, MapBody};
use super::extract::{self, Caller, Content, Source};
use super::problem::{ApiResult, Failure};

/// Bytes of a registration: a few times what one has.
const MAX_REGISTER: usize = 4 * 1024;
/// The server-sent events specification's name for where a client left off.
const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /v1/node/challenge`
pub(super) async fn challenge(State(api): State<Arc<Api>>) -> Json<Challenge> {
    Json(api.accounts.challenge())
}

/// `POST /v1/node/register`. Strangers' bodies are read only after they were counted.
pub(super) async fn register(
    State(api): State<Arc<Api>>,
    Source { prefix: source, address }: Source,
    request: Request,
) -> ApiResult<Json<Registered>> {
    if !api.attempts.take(source, Instant::now()) {
        return Err(Failure::new(
            ErrorCode::RateLimited,
            "too many devices tried to join from this address; try again in a minute",
        ));
    }
    let reading = api.joining.try_acquire().map_err(|_| {
        Failure::new(ErrorCode::RateLimited, "too many devices join just now; try again soon")
    })?;
    let body = extract::read(request, MAX_REGISTER, api.limits.request_timeout).await?;
    drop(reading);
    let register: Register = extract::parse(&body)?;
    let own = api.identity.current();
    let outcome = api.accounts.register(register, &own, address).await;
    if let Err(failure) = &outcome
        && is_a_guess(failure.code())
    {
        api.attempts.punish(source, Instant::now());
    }
    outcome.map(Json)
}

/// Whether a registration failed for a reason that guessing has.
fn is_a_guess(code: ErrorCode) -> bool {
    match code {
        ErrorCode::JoinKeyUnknown | ErrorCode::ProofFailed => true,
        ErrorCode::JoinKeyUsed
        | ErrorCode::JoinKeyExpired
        | ErrorCode::Revoked
        | ErrorCode::UpgradeRequired
        | ErrorCode::AccountFull
        | ErrorCode::WrongScope
        | ErrorCode::SignInRequired
        | ErrorCode::SignInFailed
        | ErrorCode::Forbidden
        | ErrorCode::Suspended
        | ErrorCode::LinkInvalid
        | ErrorCode::RateLimited
        | ErrorCode::Invalid
        | ErrorCode::NotFound
        | ErrorCode::Conflict
        | ErrorCode::Unavailable
        | ErrorCode::Other => false,
    }
}

/// `POST /v1/node/check-in`
pub(super) async fn check_in(
    caller: Caller,
    Content(bytes): Content,
) -> ApiResult<Json<CheckInReply>> {
    let check_in = parse_check_in(&bytes)?;
    let Caller { account, device, .. } = caller;
    let has_news = check_in.state.is_some();
    let handle =
        move || account.soft(|account, now| account.handle_check_in(device, &check_in, now));
    let reply = if has_news { on_a_thread_of_its_own(handle).await? } else { handle() }?;
    Ok(Json(reply))
}

/// For what makes a whole map, or a delta for each of a thousand sessions: it takes a while, and
/// its many small parts stay away from the memory of this thread's connections, which live for
/// days.
async fn on_a_thread_of_its_own<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> ApiResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::unavailable(&anyhow::Error::new(error)))
}

/// A state that can't be read must not pass for 'as before'.
fn parse_check_in(bytes: &[u8]) -> ApiResult<CheckIn> {
    if bytes == b"{}" {
        return Ok(CheckIn::default());
    }
    let check_in: CheckIn = extract::parse(bytes)?;
    if check_in.state.is_none() {
        let fields: Value = extract::parse(bytes)?;
        if ["endpoints", "nat", "capabilities", "relay_rtts", "relay", "edge"]
            .iter()
            .any(|name| fields.get(name).is_some())
        {
            return Err(Failure::invalid("the check-in's state can't be read"));
        }
    }
    Ok(check_in)
}

/// `GET /v1/node/netmap`
pub(super) async fn netmap(caller: Caller) -> ApiResult<Response> {
    let Caller { account, device, flow, .. } = caller;
    account.soft(|account, now| account.handle_fetch(device, now))?;
    let place = account.fetching.enter(device, &flow);
    let turn = account.turns.take().await;
    let read = move || account.read(|account| account.netmap(device));
    let map = on_a_thread_of_its_own(read).await??;
    let mut response = Response::new(Body::new(MapBody::new(map, turn, place)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `GET /v1/node/events`
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let instance: Option<InstanceId> = text(INSTANCE_HEADER).and_then(|text| text.parse().ok());
    // What can't be read is as good as nothing: the whole map will follow.
    let last: Option<MapVersion> = text(LAST_EVENT_ID).and_then(|text| text.parse().ok());
    let Caller { account, device, flow, .. } = caller;
    let waiting = account.opening.enter(device, &flow);
    let turn = account.turns.take().await;
    drop(waiting);
    let open = move || account.open_session(device, instance, last, &flow);
    let session = on_a_thread_of_its_own(open).await??;
    let body = EventBody::new(session, api.limits.heartbeat, turn);
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Tells nginx to pass events on at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// `POST /v1/node/connect`
pub(super) async fn connect(
    caller: Caller,
    extract::Json(request): extract::Json<ConnectRequest>,
) -> ApiResult<StatusCode> {
    caller.account.soft(|account, now| account.handle_connect(caller.device, &request, now))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/node/paths`
pub(super) async fn paths(
    caller: Caller,
    extract::Json(reports): extract::Json<PathReports>,
) -> ApiResult<StatusCode> {
    caller.account.soft(|account, now| account.handle_paths(caller.device, reports, now))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/node/edge`: what is set for this device as an edge.
pub(super) async fn edge(caller: Caller) -> ApiResult<Json<EdgeSpec>> {
    let device = caller.device;
    Ok(Json(caller.account.read(|account| account.edge(device))?.spec))
}

/// `POST /v1/node/edge`: whoever rules a device rules what it opens of its LAN. Where the device says
/// from which other one it was asked, its user must be one who may.
pub(super) async fn change_edge(
    caller: Caller,
    RawQuery(query): RawQuery,
    Content(bytes): Content,
) -> ApiResult<Json<EdgeChanged>> {
    let change: EdgeChange = extract::parse(&bytes)?;
    let device = caller.device;
    let by = match asked_from(query.as_deref())? {
        Some(from) => caller.account.read(|account| account.manager(device, from))?,
        None => caller.by(),
    };
    let change = move |account: &warren_coord::Account, ctx: &warren_coord::Ctx| {
        account.prepare_edge_change(device, change, ctx)
    };
    Ok(Json(caller.account.durable(by, change).await?))
}

fn asked_from(query: Option<&str>) -> ApiResult<Option<DeviceId>> {
    let Some(query) = query else { return Ok(None) };
    let from = query.strip_prefix(ASKED_FROM).and_then(|rest| rest.strip_prefix('='));
    let from = from.and_then(|id| id.parse().ok());
    from.map(Some).ok_or_else(|| Failure::invalid(format!("{ASKED_FROM} is a device's id")))
}

/// `POST /v1/node/logout`
pub(super) async fn logout(caller: Caller) -> ApiResult<StatusCode> {
    let (by, device) = (caller.by(), caller.device);
    caller.account.durable(by, move |account, _| account.prepare_logout(device)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_state_does_not_pass_for_unchanged() {
        assert!(parse_check_in(b"{}").unwrap().state.is_none());
        assert!(parse_check_in(br#" {"from_the_future":1} "#).unwrap().state.is_none());
        let full = br#"{"endpoints":[{"addr":"192.0.2.1:5","kind":"host"}],"more":true}"#;
        assert_eq!(parse_check_in(full).unwrap().state.unwrap().endpoints.len(), 1);
        for garbage in [
            &br#"{"endpoints":[{"addr":"nonsense","kind":"host"}]}"#[..],
            br#"{"endpoints":7}"#,
            br#"{"nat":{}}"#,
            b"[]",
            b"",
            b"\xff",
        ] {
            assert!(parse_check_in(garbage).is_err(), "{}", String::from_utf8_lossy(garbage));
        }
    }
}
