//! The API's operations on policy.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use warren_coord::policy::{MAX_TEXT, Report, RuleRef};
use warren_coord::{Account, PathView, Right};
use warren_proto::{DeviceId, ErrorCode, Ports};

use super::devices::{find_device, path_view, relay_names};
use super::guard::Asker;
use super::operation::Operation;
use super::paged::Query;
use super::policy_types::{
    PolicyCheck, PolicySaved, PolicyText, Why, WhyDevice, WhyQuery, WhyRule,
};
use super::routes::Content;
use crate::accounts::fresh_ctx;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;

/// A text in JSON, whose every character may be escaped.
const MAX_BODY: usize = 2 * MAX_TEXT + 1024;

type Shared = State<Arc<Broker>>;

/// They.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get(
            "/accounts/{account}/policy",
            "getPolicy",
            "Who may reach what; the ETag is the version",
            show,
        )
        .needs(Right::ReadPolicy)
        .gives::<PolicyText>(),
        Operation::put(
            "/accounts/{account}/policy",
            "setPolicy",
            "Puts a text in force; with If-Match, only in place of that version",
            save,
        )
        .needs(Right::ManagePolicy)
        .takes::<PolicyCheck>()
        .conditional()
        .gives::<PolicySaved>(),
        Operation::post(
            "/accounts/{account}/policy/check",
            "checkPolicy",
            "What is wrong with a text, and who would gain or lose access",
            check,
        )
        .needs(Right::ReadPolicy)
        .takes::<PolicyCheck>()
        .gives::<Report>(),
        Operation::get(
            "/accounts/{account}/why",
            "getWhy",
            "Why two devices do or don't talk",
            why,
        )
        .needs(Right::ReadPolicy)
        .asks::<WhyQuery>()
        .gives::<Why>(),
    ]
}

async fn show(State(broker): Shared, Path(account): Path<String>) -> ApiResult<Response> {
    let handle = broker.accounts.find(&account)?;
    let (version, text) = handle.read(|account| {
        let (version, text) = account.policy();
        (version, text.to_owned())
    });
    tagged(version, Json(PolicyText { version, text }))
}

async fn save(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    headers: HeaderMap,
    Content(PolicyCheck { text }): Content<PolicyCheck, MAX_BODY>,
) -> ApiResult<Response> {
    let handle = broker.accounts.find(&account)?;
    let base = headers.get(IF_MATCH).map(parse_tag).transpose()?.flatten();
    let saved = handle.save_policy(by, text, base).await;
    let (version, report) = saved.map_err(|failure| {
        let late = failure.code() == ErrorCode::Conflict;
        if late { failure.with_status(StatusCode::PRECONDITION_FAILED) } else { failure }
    })?;
    tagged(version, Json(PolicySaved { version, report }))
}

async fn check(
    State(broker): Shared,
    Path(account): Path<String>,
    Content(PolicyCheck { text }): Content<PolicyCheck, MAX_BODY>,
) -> ApiResult<Json<Report>> {
    let handle = broker.accounts.find(&account)?;
    Ok(Json(handle.check_policy(text).await?.report))
}

/// What the broker knows of whether and how two devices talk.
async fn why(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(query): Query<WhyQuery>,
) -> ApiResult<Json<Why>> {
    let handle = broker.accounts.find(&account)?;
    let (from, to) = (find_device(&handle, &query.from)?, find_device(&handle, &query.to)?);
    let port: Option<Ports> = match query.port.as_deref().map(str::parse) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(error)) => return Err(Failure::invalid(format!("the port: {error}"))),
    };
    if from == to {
        return Err(Failure::invalid("a device reaches itself without a tunnel: name two"));
    }
    handle.read(|account| explain(account, from, to, port)).map(Json)
}

fn explain(account: &Account, from: DeviceId, to: DeviceId, port: Option<Ports>) -> ApiResult<Why> {
    let verdict = account.verdict(from, to, port)?;
    let (policy_version, _) = account.policy();
    Ok(Why {
        port: port.map(|port| port.to_string()),
        policy_version,
        allowed_by: verdict.there.iter().map(rule_view).collect(),
        back_allowed_by: verdict.back.iter().map(rule_view).collect(),
        see_each_other: verdict.see_each_other,
        from: one_side(account, from, to)?,
        to: one_side(account, to, from)?,
    })
}

fn one_side(account: &Account, id: DeviceId, other: DeviceId) -> ApiResult<WhyDevice> {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let not_there = || Failure::not_found("device");
    let device = account.device(id, now, unix).ok_or_else(not_there)?;
    let peer = account.device_name(other).ok_or_else(not_there)?;
    let map = account.netmap(id).ok();
    let names = relay_names(account);
    let is_about = |path: &PathView| path.peer == other;
    let path = account.paths(id).find(is_about).map(|path| path_view(path, peer, &names));
    Ok(WhyDevice {
        name: device.name,
        ipv4: device.ipv4,
        online: device.online,
        admission: device.admission,
        has_key_of_other: map.as_ref().is_some_and(|map| map.peers.iter().any(|it| it.id == other)),
        is_filtering: map.as_ref().is_some_and(|map| map.filter.is_some()),
        nat: device.nat,
        endpoints: device.endpoints,
        relays: map.into_iter().flat_map(|map| map.relays).map(|relay| relay.name).collect(),
        path,
    })
}

fn rule_view(rule: &RuleRef<'_>) -> WhyRule {
    WhyRule {
        name: rule.name.map(str::to_owned),
        line: rule.line,
        ports: rule.ports.iter().map(ToString::to_string).collect(),
    }
}

fn tagged<T: serde::Serialize>(version: u64, body: Json<T>) -> ApiResult<Response> {
    let tag = HeaderValue::from_str(&format!("\"{version}\""));
    let tag = tag.map_err(|error| Failure::unavailable(&error.into()))?;
    Ok(([(ETAG, tag)], body).into_response())
}

/// The version that an entity tag names; `None` for `*`.
fn parse_tag(value: &HeaderValue) -> ApiResult<Option<u64>> {
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    if text.starts_with("W/") {
        // RFC 9110 §13.1.1: a weak tag never matches.
        return Err(Failure::new(ErrorCode::Conflict, "If-Match takes a strong ETag")
            .with_status(StatusCode::PRECONDITION_FAILED));
    }
    text.trim_matches('"').parse().map(Some).map_err(|_| {
        Failure::invalid("If-Match takes the ETag that the policy was read with, e.g. \"3\"")
    })
}
