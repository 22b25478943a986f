//! What handlers take out of a request: who asks, with which token, and what the body says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use warren_coord::{Actor, By, Refused};
use warren_proto::{DeviceId, ErrorCode, OLDEST_PROTOCOL, PROTOCOL_HEADER};

use super::Api;
use super::problem::Failure;
use crate::accounts::{AccountHandle, Place};
use crate::relays::Server;
use crate::server::{Flow, Holder, Peer, client_of, source_of};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where a request comes from.
pub(super) struct Source {
    /// As far as limits go: an IPv4 address or an IPv6 /64.
    pub(super) prefix: IpAddr,
    /// As far as trusted proxies tell.
    pub(super) address: IpAddr,
}

impl FromRequestParts<Arc<Api>> for Source {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        let address = client(parts, api)?;
        Ok(Self { prefix: source_of(address), address })
    }
}

/// Where a request comes from, as far as trusted proxies tell.
fn client(parts: &Parts, api: &Api) -> Result<IpAddr, Failure> {
    client_ip(parts, &api.trusted_proxies)
}

/// Where a request comes from, as far as these proxies tell.
pub(crate) fn client_ip(parts: &Parts, trusted: &[IpNet]) -> Result<IpAddr, Failure> {
    let peer = peer(parts)?;
    let chain: Vec<&str> = parts
        .headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    Ok(client_of(peer.source(), chain.into_iter(), trusted))
}

/// The relay server that a request's token belongs to, and where it is.
pub(super) struct RelayCaller {
    pub(super) server: Server,
    pub(super) source: IpAddr,
}

impl FromRequestParts<Arc<Api>> for RelayCaller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        check_protocol(&parts.headers)?;
        let server = api.relays.authenticate(bearer(&parts.headers, "relay")?)?;
        peer(parts)?.set_known(Holder::Relay(server.id()));
        Ok(Self { server, source: client(parts, api)? })
    }
}

/// The bearer token (RFC 6750 §2.1) of a request.
pub(crate) fn bearer<'a>(headers: &'a HeaderMap, whose: &str) -> Result<&'a str, Failure> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value
        .and_then(|value| value.split_once(' '))
        .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("Bearer").then_some(token));
    token.ok_or_else(|| {
        Failure::new(ErrorCode::Revoked, format!("this request needs the {whose}'s token"))
    })
}

/// The device that a request's token belongs to. One device has few requests under way: one more
/// ends the oldest.
pub(super) struct Caller {
    pub(super) account: Arc<AccountHandle>,
    pub(super) device: DeviceId,
    pub(super) flow: Arc<Flow>,
    address: IpAddr,
    _place: Place,
}

impl Caller {
    /// The device, as Activity names it.
    pub(super) fn by(&self) -> By {
        let name = self.account.read(|account| account.device_name(self.device));
        match name {
            Some(name) => By::device(self.device, name, Some(self.address)),
            None => By { actor: Actor::JoinKey, source: Some(self.address) },
        }
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        check_protocol(&parts.headers)?;
        let token = bearer(&parts.headers, "device")?;
        let (account, device) = api.accounts.authenticate(token)?;
        peer(parts)?.set_known(Holder::Device(account.id(), device));
        let flow: Arc<Flow> = parts.extensions.get().cloned().unwrap_or_default();
        let place = account.requests.enter(device, &flow);
        let address = client(parts, api)?;
        Ok(Self { account, device, flow, address, _place: place })
    }
}

/// A node says which protocol it speaks; silence means the oldest.
fn check_protocol(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get(PROTOCOL_HEADER) else { return Ok(()) };
    let version: Option<u32> = value.to_str().ok().and_then(|text| text.parse().ok());
    match version {
        Some(version) if version >= OLDEST_PROTOCOL => Ok(()),
        Some(_) => Err(Refused::UpgradeRequired.into()),
        None => Err(Failure::invalid(format!("the header {PROTOCOL_HEADER} is a number"))),
    }
}

/// Who is at the other end of the connection.
pub(crate) fn peer(parts: &Parts) -> Result<Peer, Failure> {
    parts.extensions.get().cloned().ok_or_else(|| {
        Failure::unavailable(&anyhow::anyhow!("a request came by no connection of the server's"))
    })
}

/// A request's body, bounded in size and time.
pub(super) struct Content(pub(super) Bytes);

impl FromRequest<Arc<Api>> for Content {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        read(request, api.limits.body, api.limits.request_timeout).await.map(Self)
    }
}

/// Reads a request's body.
pub(crate) async fn read(
    request: Request,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, Failure> {
    let body = Limited::new(request.into_body(), limit).collect();
    match tokio::time::timeout(patience, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Failure::invalid(format!("this request has at most {limit} bytes"))
                .with_status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Ok(Err(_)) => Err(Failure::invalid("the request broke off")),
        Err(_) => {
            Err(Failure::invalid("the request took too long")
                .with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// A request's body in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        let Content(bytes) = Content::from_request(request, api).await?;
        parse(&bytes).map(Self)
    }
}

/// Reads JSON; the error says where it went wrong and shows nothing of it: it may hold secrets.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::invalid(format!(
            "the request isn't the JSON expected (line {line}, column {column})"
        ))
    })
}
