//! The node API: JSON up, server-sent events down. `docs/protocol.md` has the routes.

mod attempts;
mod events;
pub(crate) mod extract;
mod join_requests;
mod node;
mod pieces;
pub(crate) mod problem;
mod relay;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post, put};
use http::StatusCode;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::accounts::Accounts;
use crate::config::Limits;
use crate::join_requests::JoinRequests;
use crate::relays::Relays;
use crate::tls::Identity;
use attempts::Attempts;
use problem::Failure;

/// What the handlers share.
pub(crate) struct Api {
    accounts: Arc<Accounts>,
    relays: Arc<Relays>,
    identity: Identity,
    join_requests: Arc<JoinRequests>,
    limits: Arc<Limits>,
    trusted_proxies: Arc<[IpNet]>,
    attempts: Attempts,
    /// Bodies of devices that want to join.
    joining: Semaphore,
}

/// The routes that nodes and relay servers use.
pub(crate) fn router(
    accounts: Arc<Accounts>,
    relays: Arc<Relays>,
    identity: Identity,
    join_requests: Arc<JoinRequests>,
    limits: Arc<Limits>,
    trusted_proxies: Arc<[IpNet]>,
) -> Router {
    let joining = Semaphore::new(limits.joining);
    let attempts = Attempts::default();
    let api = Api {
        accounts,
        relays,
        identity,
        join_requests,
        limits,
        trusted_proxies,
        attempts,
        joining,
    };
    Router::new()
        .route("/v1/node/challenge", get(node::challenge))
        .route("/v1/node/register", post(node::register))
        .route("/v1/node/join-requests", post(join_requests::ask).get(join_requests::decision))
        .route("/v1/node/join-requests/nonce", put(join_requests::reveal))
        .route("/v1/node/check-in", post(node::check_in))
        .route("/v1/node/netmap", get(node::netmap))
        .route("/v1/node/events", get(node::events))
        .route("/v1/node/connect", post(node::connect))
        .route("/v1/node/paths", post(node::paths))
        .route("/v1/node/edge", get(node::edge).post(node::change_edge))
        .route("/v1/node/logout", post(node::logout))
        .route("/v1/relay/report", post(relay::report))
        .route("/v1/relay/events", get(relay::events))
        .route("/healthz", get(|| async { "ok\n" }))
        .method_not_allowed_fallback(|| async {
            Failure::invalid("this address is for another HTTP method")
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .with_state(Arc::new(api))
}
