//! One edge device: what it opens of its LAN, in sentences, and the forms that change it.

mod form;
mod words;

use askama::Template;
use axum::extract::{Path, Query, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::EdgeView;
use warren_proto::{DeviceId, EdgeChange, MacAddr};
use warren_web::{Layout, When};

use super::answer::{Answer, Oops, done, failed, page_with, sentence};
use super::browser::{Form, Nothing};
use super::device::{find_own, page_of};
use super::edges::condition;
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::api::problem::Failure;
use form::{Fields, Kind, Wrong};
use words::Line;

/// The form that is open.
struct OpenForm {
    kind: Kind,
    /// Where it is sent.
    action: String,
    is_new: bool,
    fields: Fields,
    wrong: Wrong,
}

#[derive(Template)]
#[template(path = "edge.html")]
struct Page {
    layout: Layout,
    list: String,
    /// The edge's own page here, where its forms begin.
    path: String,
    name: String,
    device: String,
    state: &'static str,
    tone: &'static str,
    is_enabled: bool,
    /// Whether the account wants it to be one.
    is_asked: bool,
    /// Its own pages, in the mesh.
    own_pages: String,
    join: String,
    scanned: Option<When>,
    found: u32,
    problems: Vec<String>,
    /// The networks that it stands in.
    networks: Vec<String>,
    groups: Vec<Group>,
    /// Cards to choose from: those of its targets.
    cards: Vec<(String, String)>,
    form: Option<OpenForm>,
}

/// All of one kind.
struct Group {
    kind: Kind,
    lines: Vec<Line>,
}

/// Which form is open: `add=forwards`, or `change=forwards/ID`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wish {
    add: String,
    change: String,
}

/// `GET /a/{account}/edges/{device}`
pub(super) async fn show(
    State(portal): Shared,
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Query(wish): Query<Wish>,
) -> Answer {
    let edge = edge(&member, find_own(&member, &device)?)?;
    let form = match (wish.add.parse(), wish.change.split_once('/')) {
        (Ok(kind), _) => Some(new_form(&member, &edge, kind)),
        (Err(()), Some((kind, item))) => {
            let kind: Kind = kind.parse().map_err(|()| Oops::not_found("thing"))?;
            let fields =
                Fields::of(kind, item, &edge.spec).ok_or_else(|| Oops::not_found("thing"))?;
            let action = format!("{}/{kind}/{item}", path_of(&member, edge.device));
            Some(OpenForm { kind, action, is_new: false, fields, wrong: Wrong::default() })
        }
        (Err(()), None) => None,
    };
    render(&portal, &member, edge, StatusCode::OK, form)
}

fn new_form(member: &Member, edge: &EdgeView, kind: Kind) -> OpenForm {
    let action = format!("{}/{kind}", path_of(member, edge.device));
    OpenForm { kind, action, is_new: true, fields: Fields::default(), wrong: Wrong::default() }
}

fn path_of(member: &Member, device: DeviceId) -> String {
    member.path(&format!("edges/{device}"))
}

fn edge(member: &Member, device: DeviceId) -> Result<EdgeView, Oops> {
    let found = member.account.read(|account| account.edge(device));
    found.map_err(|_| Oops::not_found("edge device"))
}

fn render(
    portal: &Portal,
    member: &Member,
    edge: EdgeView,
    status: StatusCode,
    form: Option<OpenForm>,
) -> Answer {
    let now = fresh_ctx().unix.as_secs();
    let (state, tone) = condition(&edge);
    let groups = Kind::ALL
        .map(|kind| Group { kind, lines: words::lines(kind, &edge) })
        .into_iter()
        .collect();
    let cards = words::cards(&edge.spec);
    let reported = edge.state.unwrap_or_default();
    let page = Page {
        layout: member.layout(portal, edge.name.as_str(), Section::Edges),
        list: member.path("edges"),
        path: path_of(member, edge.device),
        name: edge.name.to_string(),
        device: page_of(member, edge.device),
        state,
        tone,
        is_enabled: edge.enabled,
        is_asked: edge.asked,
        own_pages: format!("http://{}/", edge.dns_name),
        join: member.path("join"),
        scanned: reported.scanned_unix.map(|at| When { at, now }),
        found: reported.devices,
        problems: reported.problems,
        networks: reported.networks.iter().map(ToString::to_string).collect(),
        groups,
        cards,
        form,
    };
    page_with(status, &page)
}

/// `POST …/{kind}`
pub(super) async fn add(
    State(portal): Shared,
    member: Member,
    Path((_, device, kind)): Path<(String, String, String)>,
    Form(fields): Form<Fields>,
) -> Answer {
    let (id, kind) = place(&member, &device, &kind)?;
    let action = format!("{}/{kind}", path_of(&member, id));
    let open = |fields, wrong| OpenForm { kind, action, is_new: true, fields, wrong };
    match save(&member, id, fields.clone().added(kind)).await {
        Ok(()) => done(&path_of(&member, id), "It is open."),
        Err(wrong) => {
            let form = Some(open(fields, wrong));
            render(&portal, &member, edge(&member, id)?, StatusCode::UNPROCESSABLE_ENTITY, form)
        }
    }
}

/// `POST …/{kind}/{item}`
pub(super) async fn change(
    State(portal): Shared,
    member: Member,
    Path((_, device, kind, item)): Path<(String, String, String, String)>,
    Form(fields): Form<Fields>,
) -> Answer {
    let (id, kind) = place(&member, &device, &kind)?;
    let action = format!("{}/{kind}/{item}", path_of(&member, id));
    let change = fields.clone().changed(kind, &item);
    let open = |fields, wrong| OpenForm { kind, action, is_new: false, fields, wrong };
    match save(&member, id, change).await {
        Ok(()) => done(&path_of(&member, id), "It is saved."),
        Err(wrong) => {
            let form = Some(open(fields, wrong));
            render(&portal, &member, edge(&member, id)?, StatusCode::UNPROCESSABLE_ENTITY, form)
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Switch {
    /// `on` or nothing.
    #[serde(default)]
    enabled: String,
}

/// `POST …/{kind}/{item}/switch`
pub(super) async fn switch(
    member: Member,
    Path((_, device, kind, item)): Path<(String, String, String, String)>,
    Form(form): Form<Switch>,
) -> Answer {
    let (id, kind) = place(&member, &device, &kind)?;
    let change = form::switched(kind, &item, !form.enabled.is_empty())?;
    match alter(&member, id, change).await {
        Ok(()) if form.enabled.is_empty() => done(&path_of(&member, id), "It is closed."),
        Ok(()) => done(&path_of(&member, id), "It is open."),
        Err(failure) => failed(&path_of(&member, id), failure),
    }
}

/// `POST /a/{account}/edges/{device}/ask`
pub(super) async fn ask(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(form): Form<Switch>,
) -> Answer {
    let id = find_own(&member, &device)?;
    let asked = !form.enabled.is_empty();
    let decide = move |account: &warren_coord::Account, _: &warren_coord::Ctx| {
        account.prepare_edge_ask(id, asked)
    };
    match member.account.durable(member.by(), decide).await {
        Ok(()) if asked => done(&path_of(&member, id), "The device is asked."),
        Ok(()) => done(&path_of(&member, id), "It is asked no more."),
        Err(failure) => failed(&path_of(&member, id), failure),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Call {
    #[serde(default)]
    mac: String,
}

/// `POST /a/{account}/edges/{device}/wake`
pub(super) async fn wake(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(Call { mac }): Form<Call>,
) -> Answer {
    let id = find_own(&member, &device)?;
    let page = path_of(&member, id);
    let mac = match mac.trim().parse::<MacAddr>() {
        Ok(mac) => mac,
        Err(error) => return failed(&page, Failure::invalid(sentence(&error.to_string()))),
    };
    let called =
        member.account.durable(member.by(), move |account, ctx| account.prepare_wake(id, mac, ctx));
    match called.await {
        Ok(()) => {
            done(&page, "The edge calls it. What lets itself be woken answers within a minute.")
        }
        Err(failure) => failed(&page, failure),
    }
}

/// `POST …/{kind}/{item}/remove`
pub(super) async fn remove(
    member: Member,
    Path((_, device, kind, item)): Path<(String, String, String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let (id, kind) = place(&member, &device, &kind)?;
    match alter(&member, id, form::removed(kind, &item)?).await {
        Ok(()) => done(&path_of(&member, id), "It is removed."),
        Err(failure) => failed(&path_of(&member, id), failure),
    }
}

/// An edge that is the viewer's to handle, and the kind of what it opens.
fn place(member: &Member, device: &str, kind: &str) -> Result<(DeviceId, Kind), Oops> {
    let kind = kind.parse().map_err(|()| Oops::not_found("page"))?;
    Ok((find_own(member, device)?, kind))
}

async fn save(
    member: &Member,
    id: DeviceId,
    change: Result<EdgeChange, Wrong>,
) -> Result<(), Wrong> {
    let saved = alter(member, id, change?).await;
    saved.map_err(|failure| Wrong::new("", sentence(failure.text())))
}

async fn alter(member: &Member, id: DeviceId, change: EdgeChange) -> Result<(), Failure> {
    let decide = move |account: &warren_coord::Account, ctx: &warren_coord::Ctx| {
        account.prepare_edge_change(id, change, ctx)
    };
    member.account.durable(member.by(), decide).await.map(|_| ())
}
