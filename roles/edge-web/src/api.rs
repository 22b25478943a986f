//! The REST API, below [`PREFIX`]: what the pages do, for programs. One row for each operation; the
//! routes and the OpenAPI document are made of the same rows.

mod opening;
mod scan;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::handler::Handler;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any, on};
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use warren_edge::{Adjacent, EdgeReport, Listing, Looked, Opened, Woken};
use warren_proto::{CardAt, EdgeOpen, EdgeSpec, MacAddr};
use warren_scan::Inventory;

use crate::desk::{Refusal, Why};
use crate::journal::Entry;
use crate::openapi;
use crate::site::Site;
use crate::surround::{Shared, Visitor, pieces, status};

/// Where the API begins.
pub(crate) const PREFIX: &str = "/api/v1";

/// The longest body.
const LONGEST: usize = 64 * 1024;

/// Makes a type's schema.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One operation.
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// Below [`PREFIX`].
    pub(crate) path: &'static str,
    /// Names it for programs.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) body: Option<SchemaOf>,
    pub(crate) gives: Option<SchemaOf>,
    route: MethodRouter<Arc<Site>>,
}

impl Operation {
    fn new<H, T>(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<Site>>,
        T: 'static,
    {
        let filter = match method {
            Method::POST => MethodFilter::POST,
            Method::PUT => MethodFilter::PUT,
            Method::PATCH => MethodFilter::PATCH,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        let route = on(filter, handler);
        Self { method, path, id, summary, body: None, gives: None, route }
    }

    fn takes<T: JsonSchema>(self) -> Self {
        Self { body: Some(|generator| generator.subschema_for::<T>()), ..self }
    }

    fn gives<T: JsonSchema>(self) -> Self {
        Self { gives: Some(|generator| generator.subschema_for::<T>()), ..self }
    }

    /// Whether it takes the right to change the edge.
    pub(crate) fn is_change(&self) -> bool {
        self.method != Method::GET
    }

    /// The names between braces in its path.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// What it is about.
    pub(crate) fn group(&self) -> &'static str {
        self.path.split('/').find(|part| !part.is_empty()).unwrap_or_default()
    }
}

/// All of them.
pub(crate) fn operations() -> Vec<Operation> {
    let doing = doing().into_iter().chain(scan::operations());
    looking().into_iter().chain(doing).chain(opening::operations()).collect()
}

fn looking() -> Vec<Operation> {
    let get = Method::GET;
    vec![
        Operation::new(get.clone(), "/edge", "getEdge", "This edge, and who asks", edge)
            .gives::<EdgeView>(),
        Operation::new(
            get.clone(),
            "/devices",
            "listDevices",
            "The devices that scans have found, and what the last one changed",
            devices,
        )
        .gives::<Inventory>(),
        Operation::new(get.clone(), "/open", "getOpen", "What is open at this moment", open)
            .gives::<EdgeOpen>(),
        Operation::new(
            get.clone(),
            "/cards/{ip}",
            "getCard",
            "The card that something at an address of the LAN is to be bound to: as a scan saw it in the last \
             hour, or as it answers now",
            card,
        )
        .gives::<CardAt>(),
        Operation::new(get.clone(), "/traffic", "getTraffic", "How much each was used", traffic)
            .gives::<Vec<Used>>(),
        Operation::new(get, "/log", "getLog", "What has happened, the newest first", log)
            .gives::<Vec<Entry>>(),
    ]
}

fn doing() -> Vec<Operation> {
    vec![
        Operation::new(
            Method::POST,
            "/devices/{mac}/wake",
            "wakeDevice",
            "Calls a device to wake (Wake-on-LAN)",
            wake,
        )
        .gives::<Woken>(),
        Operation::new(
            Method::POST,
            "/forwards/{id}/check",
            "checkForward",
            "Sees whether what a port forward leads to answers",
            check,
        )
        .gives::<Looked>(),
    ]
}

/// Their routes, and the document about them.
pub(crate) fn routes() -> Router<Arc<Site>> {
    let mut router = Router::new();
    for operation in operations() {
        router = router.route(&format!("{PREFIX}{}", operation.path), operation.route);
    }
    router
        .route(&format!("{PREFIX}/openapi.json"), on(MethodFilter::GET, openapi::serve))
        .route(&format!("{PREFIX}/{{*unknown}}"), any(unknown))
        .layer(DefaultBodyLimit::max(LONGEST))
        .layer(from_fn(own_pages_alone))
}

async fn unknown() -> Failure {
    Refusal::not_found("address in the API; /api/v1/openapi.json lists them").into()
}

/// A program says no origin; a browser says which page has made it ask, and only ours may.
async fn own_pages_alone(request: Request, next: Next) -> Response {
    if is_own(request.headers()) {
        return next.run(request).await;
    }
    let text = "another site's pages may not use this API";
    Failure(Refusal::new(Why::Forbidden, text)).into_response()
}

fn is_own(headers: &HeaderMap) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = header(HOST.as_str()).unwrap_or_default();
    let is_ours = |origin: &str| origin.strip_prefix("http://") == Some(host);
    let origin_is = !headers.contains_key(ORIGIN) || header(ORIGIN.as_str()).is_some_and(is_ours);
    // `none`: somebody has typed the address.
    origin_is && header("sec-fetch-site").is_none_or(|it| it == "same-origin" || it == "none")
}

/// An answer that says why not (RFC 9457).
#[derive(Debug)]
pub(crate) struct Failure(Refusal);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// Why not.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Problem {
    /// The reason, and what to do.
    pub(crate) title: String,
    /// The answer's status.
    pub(crate) status: u16,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = status(self.0.why);
        problem(status, self.0.text)
    }
}

/// Why not, as the API says it (RFC 9457).
pub(crate) fn problem(status: StatusCode, title: String) -> Response {
    let problem = Problem { title, status: status.as_u16() };
    let kind = [(CONTENT_TYPE, "application/problem+json")];
    (status, kind, serde_json::to_string(&problem).unwrap_or_default()).into_response()
}

type Given<T> = Result<Json<T>, Failure>;

/// A body in JSON, said to be so: a form of another site can't say that.
struct Content<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<Site>> for Content<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Failure> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
            return Err(
                Refusal::invalid("the body is JSON: say Content-Type: application/json").into()
            );
        }
        let bytes = Bytes::from_request(request, site).await;
        let bytes = bytes.map_err(|error| Refusal::invalid(error.body_text()))?;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Self).map_err(|error| Refusal::invalid(error).into())
    }
}

/// This edge, and who asks. Whoever doesn't manage it is told nothing of what stands behind it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct EdgeView {
    /// Its name.
    name: String,
    /// Its name in DNS.
    dns_name: String,
    /// Its mesh address.
    ipv4: std::net::Ipv4Addr,
    /// Its IPv6 mesh address.
    ipv6: std::net::Ipv6Addr,
    /// The networks that it stands in, and scans unless others are named.
    networks: Vec<String>,
    /// Those that it stands in, too, and scans only if they are named: they are large.
    large_networks: Vec<String>,
    /// The networks that the device's owner lets it open; none: all.
    only: Vec<String>,
    /// Whether the broker is connected: without it, what is open can't be changed.
    broker_connected: bool,
    /// How many port forwards are set.
    forwards: usize,
    /// How many virtual devices.
    virtual_devices: usize,
    /// How many gateways.
    gateways: usize,
    /// How many devices are known.
    devices: usize,
    /// When the last whole scan ended, in seconds since the Unix epoch.
    scanned_unix: Option<u64>,
    /// What doesn't work, and what to do about it.
    problems: Vec<String>,
    /// The device that asks.
    you: String,
    /// Whether it may change this edge.
    may_change: bool,
}

async fn edge(State(site): Shared, visitor: Visitor) -> Json<EdgeView> {
    let (place, may_change) = (site.place(), visitor.asker.manages);
    let (mut devices, mut scanned_unix) = (0, None);
    let (mut spec, mut report) = (EdgeSpec::default(), EdgeReport::default());
    let mut adjacent = Adjacent::default();
    let mut only: &[ipnet::Ipv4Net] = &[];
    if may_change {
        (devices, scanned_unix) = site.tools.known(|it| (it.devices.len(), it.scanned_unix));
        (spec, report) = (site.known().await.spec, site.report());
        adjacent = site.tools.adjacent().unwrap_or_default();
        only = site.tools.cap().networks();
    }
    Json(EdgeView {
        name: place.name.to_string(),
        dns_name: place.dns_name(),
        ipv4: place.ipv4,
        ipv6: place.ipv6,
        networks: adjacent.networks.iter().map(ToString::to_string).collect(),
        large_networks: adjacent.too_large.iter().map(ToString::to_string).collect(),
        only: only.iter().map(ToString::to_string).collect(),
        broker_connected: place.is_connected,
        forwards: spec.forwards.len(),
        virtual_devices: spec.virtual_devices.len(),
        gateways: spec.gateways.len(),
        devices,
        scanned_unix,
        problems: report.problems.iter().map(ToString::to_string).collect(),
        you: visitor.asker.name.to_string(),
        may_change,
    })
}

async fn devices(State(site): Shared, _: Visitor) -> Response {
    let kind = [(CONTENT_TYPE, "application/json")];
    (kind, pieces(&site.tools, Listing::json())).into_response()
}

async fn card(
    State(site): Shared,
    visitor: Visitor,
    Path(ip): Path<std::net::Ipv4Addr>,
) -> Given<CardAt> {
    Ok(Json(site.card(&visitor.asker, ip).await?))
}

/// How much something was used.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Used {
    /// `forward`, `virtual-device` or `gateway`.
    kind: String,
    /// Its id.
    id: String,
    /// Packets in both directions, since the edge was started.
    packets: u64,
    /// Their bytes.
    bytes: u64,
    /// When it was last used, in seconds since the Unix epoch.
    last_unix: Option<u64>,
}

async fn traffic(State(site): Shared, _: Visitor) -> Json<Vec<Used>> {
    let EdgeReport { uses, .. } = site.report();
    let used = |(opened, used): (Opened, warren_edge::Use)| {
        let (kind, id) = match opened {
            Opened::Forward(id) => ("forward", id.to_string()),
            Opened::Device(id) => ("virtual-device", id.to_string()),
            Opened::Gateway(id) => ("gateway", id.to_string()),
        };
        let warren_edge::Use { packets, bytes, last_unix } = used;
        Used { kind: kind.to_owned(), id, packets, bytes, last_unix }
    };
    Json(uses.into_iter().map(used).collect())
}

async fn open(State(site): Shared, _: Visitor) -> Json<EdgeOpen> {
    Json(site.report().opened())
}

async fn log(State(site): Shared, _: Visitor) -> Json<Vec<Entry>> {
    Json(site.journal.entries())
}

async fn wake(State(site): Shared, visitor: Visitor, Path(mac): Path<String>) -> Given<Woken> {
    let mac: MacAddr = mac.parse().map_err(Refusal::invalid)?;
    Ok(Json(site.wake(&visitor.asker, mac).await?))
}

async fn check(State(site): Shared, visitor: Visitor, Path(id): Path<String>) -> Given<Looked> {
    let id = id.parse().map_err(|_| Refusal::not_found("port forward"))?;
    Ok(Json(site.look(&visitor.asker, id).await?))
}
