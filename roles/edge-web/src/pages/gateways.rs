use askama::Template;
use axum::extract::{Path, State};
use serde::Deserialize;
use warren_edge::Opened;
use warren_proto::{EdgeChange, GatewayEdit, GatewayId, GatewaySpec, NewGateway};
use warren_web::{Layout, When};

use super::{Frame, Section, Switch, changed, frame, source, when};
use crate::desk::Refusal;
use crate::site::Site;
use crate::surround::{
    Answer, Form, Nothing, Oops, Shared, Visitor, page, page_with, status, told,
};
use crate::words;

const PATH: &str = "/gateways";

/// A gateway as typed.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Typed {
    lan: String,
    #[serde(default)]
    note: String,
    transparent: Option<String>,
}

struct Row {
    id: GatewayId,
    lan: String,
    is_internet: bool,
    mesh: String,
    example: (String, String),
    enabled: bool,
    is_open: bool,
    bytes: String,
    last: Option<When>,
    note: String,
}

impl Row {
    fn of(site: &Site, spec: &GatewaySpec) -> Self {
        let report = site.report();
        let opened = Opened::Gateway(spec.id);
        let used = report.uses.get(&opened).copied().unwrap_or_default();
        let first = |net: ipnet::Ipv4Net| net.hosts().next().unwrap_or(net.addr()).to_string();
        Self {
            id: spec.id,
            lan: spec.network(),
            is_internet: spec.is_internet(),
            mesh: spec.mesh.to_string(),
            example: (first(spec.mesh), first(spec.lan)),
            enabled: spec.enabled,
            is_open: report.open.contains_key(&opened),
            bytes: words::bytes(used.bytes),
            last: used.last_unix.map(when),
            note: spec.note.clone(),
        }
    }
}

#[derive(Template)]
#[template(path = "gateways.html")]
struct Gateways {
    layout: Layout,
    frame: Frame,
    rows: Vec<Row>,
    is_whole: bool,
    adjacent: Vec<String>,
    typed: Typed,
    error: String,
}

pub(super) async fn list(State(site): Shared, visitor: Visitor) -> Answer {
    page(&gateways(&site, &visitor, Typed::default(), String::new()).await)
}

async fn gateways(site: &Site, visitor: &Visitor, typed: Typed, error: String) -> Gateways {
    let known = site.known().await;
    let (layout, frame) = frame(site, visitor, "Gateways", Section::Gateways);
    let adjacent = site.tools.adjacent().unwrap_or_default();
    Gateways {
        layout,
        frame,
        rows: known.spec.gateways.iter().map(|spec| Row::of(site, spec)).collect(),
        is_whole: known.is_whole,
        adjacent: adjacent.networks.iter().map(ToString::to_string).collect(),
        typed,
        error,
    }
}

pub(super) async fn add(State(site): Shared, visitor: Visitor, Form(typed): Form<Typed>) -> Answer {
    site.check(&visitor.asker)?;
    let lan = NewGateway::parse_network(&typed.lan).ok_or_else(|| {
        Refusal::invalid(format!(
            "'{}' is no network: write 192.168.1.0/24, or 'internet'",
            typed.lan.trim()
        ))
    });
    let asked = match lan {
        Ok(lan) => {
            let (source, note) = (source(typed.transparent.as_deref()), typed.note.clone());
            let new = NewGateway { lan, source, enabled: true, standby_for: None, note };
            site.change(&visitor.asker, EdgeChange::AddGateway(new)).await
        }
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok(_) => told(PATH, Ok("The mesh reaches that network now.".to_owned())),
        Err(refusal) => {
            let error = words::sentence(&refusal.text);
            page_with(status(refusal.why), &gateways(&site, &visitor, typed, error).await)
        }
    }
}

pub(super) async fn switch(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(switch): Form<Switch>,
) -> Answer {
    let id = parse(&id)?;
    let edit = GatewayEdit { enabled: Some(switch.enabled), ..GatewayEdit::default() };
    changed(&site, &visitor, PATH, EdgeChange::SetGateway { id, edit }, switch.text()).await
}

pub(super) async fn remove(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let id = parse(&id)?;
    changed(&site, &visitor, PATH, EdgeChange::RemoveGateway { id }, "It was removed.").await
}

fn parse(id: &str) -> Result<GatewayId, Oops> {
    id.parse().map_err(|_| Refusal::not_found("gateway").into())
}
