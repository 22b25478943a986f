//! The account's edge devices: those that open the LAN they stand in.

use askama::Template;
use axum::extract::State;
use warren_coord::{EdgeView, Right};
use warren_web::{Layout, When};

use super::Shared;
use super::answer::{Answer, page};
use super::device::is_own;
use super::frame::Section;
use super::viewer::Member;
use crate::accounts::fresh_ctx;

struct Row {
    href: String,
    name: String,
    state: &'static str,
    tone: &'static str,
    address: String,
    /// What it opens, counted.
    opens: String,
    scanned: Option<When>,
    found: u32,
    problems: Vec<String>,
}

#[derive(Template)]
#[template(path = "edges.html")]
struct Page {
    layout: Layout,
    rows: Vec<Row>,
    is_admin: bool,
    join: String,
}

/// `GET /a/{account}/edges`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    let is_admin = member.may(Right::ManageDevices);
    let now = fresh_ctx().unix.as_secs();
    let mut rows: Vec<Row> = member.account.read(|account| {
        let own = |edge: &EdgeView| is_admin || is_own(&member, account.device_owner(edge.device));
        account.edges().filter(own).map(|edge| row(&member, edge, now)).collect()
    });
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    page(&Page {
        layout: member.layout(&portal, "Edge devices", Section::Edges),
        rows,
        is_admin,
        join: member.path("join"),
    })
}

fn row(member: &Member, edge: EdgeView, now: u64) -> Row {
    let (state, tone) = condition(&edge);
    let reported = edge.state.unwrap_or_default();
    Row {
        href: member.path(&format!("edges/{}", edge.device)),
        name: edge.name.to_string(),
        state,
        tone,
        address: edge.ipv4.to_string(),
        opens: [
            counted(edge.spec.forwards.len(), "port forward"),
            counted(edge.spec.virtual_devices.len(), "virtual device"),
            counted(edge.spec.gateways.len(), "gateway"),
        ]
        .join(", "),
        scanned: reported.scanned_unix.map(|at| When { at, now }),
        found: reported.devices,
        problems: reported.problems,
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How it is, in words and colour.
pub(super) fn condition(edge: &EdgeView) -> (&'static str, &'static str) {
    match (edge.enabled, edge.online) {
        (false, _) if edge.asked => ("Asked to be one", "warn"),
        (false, _) => ("No edge at present", "warn"),
        (true, true) => ("Online", "good"),
        (true, false) => ("Offline", "idle"),
    }
}
