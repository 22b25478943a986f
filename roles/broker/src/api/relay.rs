//! What relay servers ask for.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _};
use http::header::CACHE_CONTROL;
use warren_proto::{RelayReport, RelayReported};

use super::Api;
use super::extract::{self, RelayCaller};
use super::problem::ApiResult;
use crate::relays;

/// `POST /v1/relay/report`
pub(super) async fn report(
    State(api): State<Arc<Api>>,
    RelayCaller { server, source }: RelayCaller,
    extract::Json(report): extract::Json<RelayReport>,
) -> ApiResult<Json<RelayReported>> {
    api.relays.report(server, report, source).await.map(Json)
}

/// `GET /v1/relay/events`
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    RelayCaller { server, .. }: RelayCaller,
) -> ([(http::HeaderName, &'static str); 2], Sse<impl Stream<Item = Result<Event, Infallible>>>) {
    let events = relays::events(api.relays.clone(), server)
        .map(|event| Ok(Event::default().event(event.name()).data(event.data())));
    let heartbeat = KeepAlive::new().interval(api.limits.heartbeat).text("");
    // Tells nginx to pass events on at once.
    let headers =
        [(CACHE_CONTROL, "no-store"), (http::HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Sse::new(events).keep_alive(heartbeat))
}
