//! What carries the traffic of devices that can't reach each other.

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{RelayOrigin, Right};
use warren_proto::{DeviceName, RelayId};
use warren_web::{Layout, When};

use super::answer::{Answer, Oops, done, failed, page, page_with, sentence};
use super::browser::{Form, Nothing};
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::admin::Relay;
use crate::admin::relays::views;
use crate::api::problem::Failure;

struct Row {
    name: String,
    kind: &'static str,
    tone: &'static str,
    state: &'static str,
    heard: Option<When>,
    rank: Option<u16>,
    shared: bool,
    addresses: Vec<String>,
    reached_by: usize,
    devices: usize,
    allocations: u64,
    traffic: String,
    warnings: Vec<String>,
    /// Where to remove it, where that is the account's to do.
    remove: Option<String>,
    /// The device that it is.
    device: Option<String>,
    id: String,
}

#[derive(Template)]
#[template(path = "relays.html")]
struct Page {
    layout: Layout,
    is_admin: bool,
    path: String,
    settings: String,
    rows: Vec<Row>,
    typed_name: String,
    name_error: String,
}

#[derive(Template)]
#[template(path = "relay_made.html")]
struct Made {
    layout: Layout,
    path: String,
    name: String,
    /// The command that puts the token into a file.
    keep: String,
    command: String,
}

/// `GET /a/{account}/relays`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    page(&list(&portal, &member, String::new(), String::new()))
}

#[derive(Debug, Deserialize)]
pub(super) struct NewRelay {
    name: String,
}

/// `POST /a/{account}/relays`
///
/// The answer shows the token, which is nowhere else; so it is no redirect.
pub(super) async fn create(
    State(portal): Shared,
    member: Member,
    Form(form): Form<NewRelay>,
) -> Answer {
    member.check(Right::ManageRelays)?;
    let name = DeviceName::from_free_text(&form.name);
    let outcome = match form.name.trim().is_empty() {
        true => Err(Failure::invalid("a relay server has a name")),
        false => {
            let name = name.clone();
            member
                .account
                .durable(member.by(), move |account, ctx| account.prepare_relay_server(name, ctx))
                .await
        }
    };
    let created = match outcome {
        Ok(created) => created,
        Err(failure) => {
            let refused = list(&portal, &member, form.name, sentence(failure.text()));
            return page_with(StatusCode::UNPROCESSABLE_ENTITY, &refused);
        }
    };
    let (url, pin) = portal.broker.reached_by();
    let pin = pin.map(|pin| format!(" --pin {pin}")).unwrap_or_default();
    page(&Made {
        layout: member.layout(&portal, "Relay token", Section::Relays),
        path: member.path("relays"),
        name: name.to_string(),
        keep: format!("(umask 077; printf %s '{}' > relay.token)", created.token),
        command: format!("warren relay --broker {url}{pin} --token-file relay.token"),
    })
}

/// `POST /a/{account}/relays/{relay}/remove`
pub(super) async fn remove(
    member: Member,
    Path((_, relay)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageRelays)?;
    let relay: RelayId = relay.parse().map_err(|_| Oops::not_found("relay"))?;
    let outcome = member
        .account
        .durable(member.by(), move |account, _| account.prepare_remove_relay(relay))
        .await;
    match outcome {
        Ok(()) => done(&member.path("relays"), "The relay is removed; its token is void."),
        Err(failure) => failed(&member.path("relays"), failure),
    }
}

fn list(portal: &Portal, member: &Member, typed_name: String, name_error: String) -> Page {
    let now = fresh_ctx().unix.as_secs();
    let mut relays = views(&portal.broker, &member.account);
    relays.sort_by(|a, b| {
        (a.rank.is_none(), a.rank, &a.name).cmp(&(b.rank.is_none(), b.rank, &b.name))
    });
    Page {
        layout: member.layout(portal, "Relays", Section::Relays),
        is_admin: member.may(Right::ManageRelays),
        path: member.path("relays"),
        settings: member.path("settings"),
        rows: relays.iter().map(|relay| row(member, relay, now)).collect(),
        typed_name,
        name_error,
    }
}

fn row(member: &Member, relay: &Relay, now: u64) -> Row {
    let (tone, state) = match (relay.online, relay.warnings.is_empty()) {
        (Some(false), _) => ("idle", "Offline"),
        (_, false) => ("warn", "Needs attention"),
        (Some(true), true) => ("good", "Online"),
        (None, true) => ("good", "Ready"),
    };
    let is_own_server = matches!(relay.origin, RelayOrigin::Server | RelayOrigin::Turn);
    let udp = relay.udp.iter().map(|addr| format!("{addr} UDP"));
    let tcp = relay.tcp.iter().map(|addr| format!("{addr} TCP"));
    let tls = relay.tls.iter().map(|host| format!("{host} TLS"));
    Row {
        id: relay.id.to_string(),
        kind: match relay.origin {
            RelayOrigin::Device => "Device",
            RelayOrigin::Server => "Relay server",
            RelayOrigin::Turn => "TURN server",
            RelayOrigin::Broker => "The broker itself",
        },
        tone,
        state,
        heard: relay.last_heard.map(|at| When { at: at.0, now }),
        rank: relay.rank,
        shared: relay.shared,
        addresses: udp.chain(tcp).chain(tls).collect(),
        reached_by: relay.reached_by,
        devices: relay.devices,
        allocations: relay.load.allocations,
        traffic: bytes(relay.load.bytes),
        warnings: relay.warnings.iter().map(|text| sentence(text)).collect(),
        remove: (is_own_server && !relay.shared)
            .then(|| member.path(&format!("relays/{}/remove", relay.id))),
        device: (relay.origin == RelayOrigin::Device)
            .then(|| device_of(member, &relay.name))
            .flatten(),
        name: relay.name.to_string(),
    }
}

fn device_of(member: &Member, name: &DeviceName) -> Option<String> {
    let id = member.account.read(|account| account.device_named(name))?;
    Some(member.path(&format!("devices/{id}")))
}

/// An amount of bytes: `3.4 GB`.
pub(super) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if amount < 1000 {
        return format!("{amount} B");
    }
    let (mut value, mut unit) = (amount as f64 / 1000.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_unit_that_fits() {
        for (amount, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (3_400_000_000, "3.4 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(amount), text);
        }
    }
}
