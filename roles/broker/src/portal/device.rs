//! One device: what it is, where it is reached, and what an admin changes of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{Account, Ctx, DeviceEdit, DeviceView, Right, TrafficPoint};
use warren_proto::{
    DeviceId, DeviceName, Endpoint, EndpointKind, MappingBehaviour, NatReport, UserId,
};
use warren_web::{Layout, When, calendar};

use super::answer::{Answer, Oops, done, failed, page_with, sentence};
use super::browser::{Form, Nothing};
use super::devices::{Condition, system};
use super::frame::Section;
use super::paths::{Chart, Line, Names, charts};
use super::viewer::Member;
use super::{Portal, Shared, owner};
use crate::accounts::fresh_ctx;
use crate::admin::devices::edit_device;
use crate::admin::routes::parse_tags;
use crate::api::problem::Failure;

/// What was typed into one of the forms, and what is wrong with it.
#[derive(Debug, Default)]
struct Typed {
    name: Option<String>,
    tags: Option<String>,
    endpoint: Option<String>,
    error: String,
}

struct Reached {
    addr: String,
    how: &'static str,
    why: &'static str,
}

#[derive(Template)]
#[template(path = "device.html")]
struct Page {
    layout: Layout,
    is_admin: bool,
    /// Whether it is the viewer's to rename, renew and remove.
    is_manageable: bool,
    list: String,
    /// The device's own page, where its forms begin.
    path: String,
    name: String,
    dns_name: String,
    ipv4: String,
    ipv6: String,
    condition: Condition,
    never_expires: bool,
    expires: Option<When>,
    system: String,
    software: String,
    tags: Vec<String>,
    ephemeral: bool,
    is_online: bool,
    is_relay: bool,
    seen: Option<When>,
    joined: String,
    key: String,
    id: String,
    owner: String,
    /// Those whose it may be.
    people: Vec<owner::Choice>,
    endpoints: Vec<Reached>,
    lines: Vec<Line>,
    charts: Vec<Chart>,
    port: Option<u16>,
    nat: &'static str,
    example: SocketAddr,
    typed_name: String,
    typed_tags: String,
    typed_endpoint: String,
    name_error: String,
    tags_error: String,
    endpoint_error: String,
    opens_advanced: bool,
}

impl Page {
    /// Where one of the forms is sent.
    fn at(&self, form: &str) -> String {
        format!("{}/{form}", self.path)
    }

    /// Its page as an edge.
    fn edge(&self) -> String {
        self.path.replace("/devices/", "/edges/")
    }

    fn is_waiting(&self) -> bool {
        self.condition == Condition::Waiting
    }

    fn is_expired(&self) -> bool {
        self.condition == Condition::Expired
    }

    /// The attributes of the static endpoint's field; an address needs no escaping.
    fn endpoint_more(&self) -> String {
        let example = self.example;
        format!("class=mono-input autocomplete=off spellcheck=false placeholder='{example}'")
    }
}

/// `GET /a/{account}/devices/{device}`
pub(super) async fn show(
    State(portal): Shared,
    member: Member,
    Path((_, device)): Path<(String, String)>,
) -> Answer {
    render(&portal, &member, &device, StatusCode::OK, Typed::default())
}

#[derive(Debug, Deserialize)]
pub(super) struct Rename {
    name: String,
}

/// `POST …/rename`
pub(super) async fn rename(
    State(portal): Shared,
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(form): Form<Rename>,
) -> Answer {
    let id = find_own(&member, &device)?;
    let name = DeviceName::from_free_text(&form.name);
    let outcome = match form.name.trim().is_empty() {
        true => Err(Failure::invalid("a device has a name")),
        false => change(&member, id, DeviceEdit::rename(name.clone())).await,
    };
    match outcome {
        Ok(()) => done(&page_of(&member, id), format!("It is called {name} now.")),
        Err(failure) => {
            let typed = Typed { name: Some(form.name), ..wrong(&failure) };
            render(&portal, &member, &device, StatusCode::UNPROCESSABLE_ENTITY, typed)
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Tags {
    tags: String,
}

/// `POST …/tags`
pub(super) async fn tag(
    State(portal): Shared,
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(form): Form<Tags>,
) -> Answer {
    member.check(Right::ManageDevices)?;
    let id = find(&member, &device)?;
    let outcome = match parse_tags(split_tags(&form.tags)) {
        Ok(tags) => {
            change(&member, id, DeviceEdit { tags: Some(tags), ..DeviceEdit::default() }).await
        }
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => done(&page_of(&member, id), "The tags are saved."),
        Err(failure) => {
            let typed = Typed { tags: Some(form.tags), ..wrong(&failure) };
            render(&portal, &member, &device, StatusCode::UNPROCESSABLE_ENTITY, typed)
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct StaticEndpoint {
    endpoint: String,
}

/// `POST …/endpoint`
pub(super) async fn pin_endpoint(
    State(portal): Shared,
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(form): Form<StaticEndpoint>,
) -> Answer {
    member.check(Right::ManageDevices)?;
    let id = find(&member, &device)?;
    let outcome = match parse_endpoint(&form.endpoint) {
        Ok(endpoint) => {
            let outcome = change(&member, id, DeviceEdit::static_endpoint(endpoint)).await;
            outcome.map(|()| endpoint)
        }
        Err(text) => Err(Failure::invalid(text)),
    };
    match outcome {
        Ok(Some(addr)) => {
            done(&page_of(&member, id), format!("All devices will try {addr} first."))
        }
        Ok(None) => done(&page_of(&member, id), "The static endpoint is removed."),
        Err(failure) => {
            let typed = Typed { endpoint: Some(form.endpoint), ..wrong(&failure) };
            render(&portal, &member, &device, StatusCode::UNPROCESSABLE_ENTITY, typed)
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Lifetime {
    #[serde(default)]
    never: String,
}

/// `POST …/lifetime`
pub(super) async fn set_lifetime(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(form): Form<Lifetime>,
) -> Answer {
    member.check(Right::ManageDevices)?;
    let id = find(&member, &device)?;
    let edit = DeviceEdit { never_expires: Some(!form.never.is_empty()), ..DeviceEdit::default() };
    match change(&member, id, edit).await {
        Ok(()) => done(&page_of(&member, id), "Saved."),
        Err(failure) => failed(&page_of(&member, id), failure),
    }
}

/// `POST …/approve`
pub(super) async fn approve(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageDevices)?;
    let id = find(&member, &device)?;
    let approve = move |account: &Account, ctx: &Ctx| account.prepare_approve(id, ctx);
    let outcome = member.account.durable(member.by(), approve).await;
    told(&member, id, outcome, "It is in the mesh.")
}

/// `POST …/refuse`
pub(super) async fn refuse(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageDevices)?;
    let id = find(&member, &device)?;
    let refuse = move |account: &Account, _: &Ctx| account.prepare_refuse(id);
    match member.account.durable(member.by(), refuse).await {
        Ok(()) => done(&member.path("devices"), "The device is turned away."),
        Err(failure) => failed(&page_of(&member, id), failure),
    }
}

/// `POST …/renew`
pub(super) async fn renew(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let id = find_own(&member, &device)?;
    let renew = move |account: &Account, ctx: &Ctx| account.prepare_renew(id, ctx);
    let outcome = member.account.durable(member.by(), renew).await;
    told(&member, id, outcome, "It is renewed.")
}

/// `POST …/expire`
pub(super) async fn expire(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let id = find_own(&member, &device)?;
    let expire = move |account: &Account, ctx: &Ctx| account.prepare_expire(id, ctx);
    let outcome = member.account.durable(member.by(), expire).await;
    told(&member, id, outcome, "It is out of the mesh until it is renewed.")
}

fn told(member: &Member, id: DeviceId, outcome: Result<(), Failure>, text: &str) -> Answer {
    match outcome {
        Ok(()) => done(&page_of(member, id), text),
        Err(failure) => failed(&page_of(member, id), failure),
    }
}

/// `POST …/remove`
pub(super) async fn remove(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let id = find_own(&member, &device)?;
    let name = member.account.read(|account| account.device_name(id));
    let remove = move |account: &Account, _: &Ctx| account.prepare_remove(id);
    let outcome = member.account.durable(member.by(), remove).await;
    match (outcome, name) {
        (Ok(()), Some(name)) => done(&member.path("devices"), format!("{name} is removed.")),
        (Ok(()), None) => done(&member.path("devices"), "The device is removed."),
        (Err(failure), _) => failed(&page_of(&member, id), failure),
    }
}

pub(super) async fn change(member: &Member, id: DeviceId, edit: DeviceEdit) -> Result<(), Failure> {
    let is_admin = member.may(Right::ManageDevices);
    edit_device(member.by(), &member.account, id, edit, is_admin).await
}

fn wrong(failure: &Failure) -> Typed {
    Typed { error: sentence(failure.text()), ..Typed::default() }
}

pub(super) fn page_of(member: &Member, device: DeviceId) -> String {
    member.path(&format!("devices/{device}"))
}

pub(super) fn find(member: &Member, text: &str) -> Result<DeviceId, Oops> {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let id = text.parse().map_err(|_| Oops::not_found("device"))?;
    let found = member.account.read(|account| account.device(id, now, unix));
    found.map(|device| device.id).ok_or_else(|| Oops::not_found("device"))
}

/// A device that is the viewer's to handle: his own, or any if he is an admin.
pub(super) fn find_own(member: &Member, text: &str) -> Result<DeviceId, Oops> {
    let id = find(member, text)?;
    let owner = member.account.read(|account| account.device_owner(id));
    if is_own(member, owner) || member.may(Right::ManageDevices) {
        return Ok(id);
    }
    Err(Oops::forbidden())
}

pub(super) fn is_own(member: &Member, owner: Option<UserId>) -> bool {
    owner == Some(member.viewer.user) && member.may(Right::ManageOwnDevices)
}

/// Tags as somebody types them: between commas or spaces.
pub(super) fn split_tags(text: &str) -> BTreeSet<String> {
    let words = text.split([',', ' ', '\n']).map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.strip_prefix("tag:").unwrap_or(word).to_owned()).collect()
}

/// An address and port; nothing removes it.
fn parse_endpoint(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(addr) = text.parse() {
        return Ok(Some(addr));
    }
    let is_address = text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    Err(match text {
        _ if is_address && text.contains(':') => {
            "the port is missing: write [2001:db8::1]:51820, with brackets around the address"
        }
        _ if is_address => "the port is missing: write it behind a colon, as in 203.0.113.7:51820",
        _ if text.bytes().any(|byte| byte.is_ascii_alphabetic()) && !text.starts_with('[') => {
            "a name won't do: give the public address itself, as in 203.0.113.7:51820"
        }
        _ => "that is no address and port; it looks like 203.0.113.7:51820",
    })
}

fn render(
    portal: &Portal,
    member: &Member,
    text: &str,
    status: StatusCode,
    typed: Typed,
) -> Answer {
    let id = find(member, text)?;
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let (device, is_relay, lines, traffic) = member.account.read(|account| {
        let names = Names::new(account, now, unix);
        let lines: Vec<Line> = account.paths(id).filter_map(|path| names.line(path)).collect();
        let traffic: Vec<TrafficPoint> = account.traffic(id, now, unix).collect();
        (account.device(id, now, unix), account.is_relay(id), lines, traffic)
    });
    let device = device.ok_or_else(|| Oops::not_found("device"))?;
    let error_of = |field: &Option<String>| match field {
        Some(_) => typed.error.clone(),
        None => String::new(),
    };
    let tags: Vec<String> = device.tags.iter().map(ToString::to_string).collect();
    let endpoint = device.static_endpoint.map(|addr| addr.to_string()).unwrap_or_default();
    let port = listen_port(&device);
    page_with(
        status,
        &Page {
            layout: member.layout(portal, device.name.as_str(), Section::Devices),
            is_admin: member.may(Right::ManageDevices),
            is_manageable: member.may(Right::ManageDevices) || is_own(member, device.owner),
            never_expires: device.never_expires,
            expires: device.expires.map(|at| When { at: at.0, now: unix.as_secs() }),
            list: member.path("devices"),
            path: page_of(member, id),
            dns_name: device.dns_name.clone(),
            ipv4: device.ipv4.to_string(),
            ipv6: device.ipv6.to_string(),
            condition: Condition::of(&device),
            system: system(&device.os).to_owned(),
            software: device.software.clone(),
            ephemeral: device.ephemeral,
            is_online: device.online,
            is_relay,
            seen: device.last_seen.map(|at| When { at: at.0, now: unix.as_secs() }),
            joined: calendar(device.created.0),
            key: device.key.to_string(),
            id: id.to_string(),
            owner: portal.owner(&device),
            people: owner::choices(portal, member, &device),
            endpoints: device.endpoints.iter().map(reached).collect(),
            lines,
            charts: charts(&traffic),
            port,
            nat: nat(&device.nat),
            example: example(&device, port),
            name_error: error_of(&typed.name),
            tags_error: error_of(&typed.tags),
            endpoint_error: error_of(&typed.endpoint),
            opens_advanced: typed.endpoint.is_some(),
            typed_tags: typed.tags.unwrap_or_else(|| tags.join(", ")),
            typed_endpoint: typed.endpoint.unwrap_or(endpoint),
            typed_name: typed.name.unwrap_or_else(|| device.name.to_string()),
            tags,
            name: device.name.to_string(),
        },
    )
}

/// The port of its own interfaces' endpoints: the one that it listens on.
fn listen_port(device: &DeviceView) -> Option<u16> {
    let host = device.endpoints.iter().find(|endpoint| endpoint.kind == EndpointKind::Host);
    host.map(|endpoint| endpoint.addr.port())
}

/// A static endpoint that might be right for it.
fn example(device: &DeviceView, port: Option<u16>) -> SocketAddr {
    let seen = device.endpoints.iter().find(|it| it.kind == EndpointKind::Reflexive);
    let ip = seen.map_or(IpAddr::from([203, 0, 113, 7]), |endpoint| endpoint.addr.ip());
    SocketAddr::new(ip, port.unwrap_or(51820))
}

fn reached(endpoint: &Endpoint) -> Reached {
    let (how, why) = match endpoint.kind {
        EndpointKind::Host => ("Own interface", "From the same network, or everywhere if public"),
        EndpointKind::Static => ("Static", "Set by an admin; tried first"),
        EndpointKind::Mapped => ("Port mapping", "Opened in its router (UPnP, NAT-PMP, PCP)"),
        EndpointKind::Reflexive => ("As seen from outside", "Its NAT's address, told by STUN"),
        EndpointKind::Observed | EndpointKind::Other => ("Observed", "Where its packets came from"),
    };
    Reached { addr: endpoint.addr.to_string(), how, why }
}

fn nat(nat: &NatReport) -> &'static str {
    match (nat.udp, nat.ipv4) {
        (Some(false), _) => "UDP is blocked: it needs a relay over TCP",
        (None, _) => "Not measured yet",
        (Some(true), MappingBehaviour::None) => "No NAT: it has a public address",
        (Some(true), MappingBehaviour::EndpointIndependent) => {
            "Easy to reach: one mapping for everybody"
        }
        (Some(true), MappingBehaviour::AddressDependent) => {
            "Hard to reach: a mapping of its own for each peer"
        }
        (Some(true), MappingBehaviour::Unknown) => "UDP gets through",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_endpoint_is_checked_with_advice() {
        assert_eq!(parse_endpoint("  "), Ok(None));
        let addr = "203.0.113.7:51820".parse().unwrap();
        assert_eq!(parse_endpoint(" 203.0.113.7:51820 "), Ok(Some(addr)));
        assert!(parse_endpoint("[2001:db8::1]:1").is_ok());
        assert!(parse_endpoint("203.0.113.7").unwrap_err().contains("port is missing"));
        assert!(parse_endpoint("2001:db8::1").unwrap_err().contains("brackets"));
        assert!(parse_endpoint("relay.example.com:51820").unwrap_err().contains("a name"));
        assert!(parse_endpoint("203.0.113.7:99999").unwrap_err().contains("looks like"));
    }

    #[test]
    fn tags_are_typed_as_people_type_them() {
        let tags: Vec<String> = split_tags("tag:server, prod  server,,").into_iter().collect();
        assert_eq!(tags, ["prod", "server"]);
    }
}
