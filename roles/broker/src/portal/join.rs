//! Joining a device: join keys, and the command and code that carry one.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{JoinKeyStatus, JoinKeyView, Right, UnixTime};
use warren_proto::JoinKeyId;
use warren_web::{Layout, When, qr};

use super::answer::{Answer, Oops, done, failed, page, page_with, sentence};
use super::browser::{Browser, Form, Nothing};
use super::device::split_tags;
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::admin::NewJoinKey;
use crate::admin::routes::parse_join_key;
use crate::api::problem::Failure;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// How long a key may be good, as offered.
const LIFETIMES: &[(u64, &str)] = &[
    (HOUR, "1 hour"),
    (DAY, "1 day"),
    (7 * DAY, "7 days"),
    (30 * DAY, "30 days"),
    (365 * DAY, "1 year"),
    (0, "No end"),
];

struct Key {
    id: String,
    remove: String,
    tone: &'static str,
    status: &'static str,
    reusable: bool,
    ephemeral: bool,
    approves: bool,
    tags: Vec<String>,
    created: When,
    expires: Option<When>,
    uses: u32,
}

#[derive(Template)]
#[template(path = "join.html")]
struct Page {
    layout: Layout,
    url: String,
    devices: String,
    path: String,
    lifetimes: &'static [(u64, &'static str)],
    keys: Vec<Key>,
    typed: NewKey,
    /// Whether new devices wait for an admin.
    is_approving: bool,
    tags_error: String,
}

#[derive(Template)]
#[template(path = "welcome.html")]
struct Welcome {
    layout: Layout,
}

#[derive(Template)]
#[template(path = "joined.html")]
struct Made {
    layout: Layout,
    path: String,
    devices: String,
    command: String,
    code: String,
    reusable: bool,
    expires: Option<When>,
}

/// What a key is to be, as it was typed.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct NewKey {
    reusable: String,
    ephemeral: String,
    approves: String,
    lifetime: u64,
    tags: String,
}

impl Default for NewKey {
    fn default() -> Self {
        Self {
            reusable: String::new(),
            ephemeral: String::new(),
            approves: String::new(),
            lifetime: DAY,
            tags: String::new(),
        }
    }
}

/// `GET /join`: what somebody sees who opens a join link in a browser. The key is in the fragment,
/// which the browser keeps to itself.
pub(super) async fn welcome(browser: Browser) -> Answer {
    page(&Welcome { layout: browser.bare_layout("Join") })
}

/// `GET /a/{account}/join`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    member.check(Right::ManageJoinKeys)?;
    page(&list(&portal, &member, NewKey::default(), String::new()))
}

/// `POST /a/{account}/join`
///
/// The answer shows the link, which is nowhere else; so it is no redirect.
pub(super) async fn create(
    State(portal): Shared,
    member: Member,
    Form(form): Form<NewKey>,
) -> Answer {
    member.check(Right::ManageJoinKeys)?;
    let new = NewJoinKey {
        reusable: !form.reusable.is_empty(),
        ephemeral: !form.ephemeral.is_empty(),
        expires_in: (form.lifetime > 0).then_some(form.lifetime),
        tags: split_tags(&form.tags),
        approves: !form.approves.is_empty(),
    };
    let reusable = new.reusable;
    let created = match parse_join_key(new) {
        Ok(new) => portal.broker.create_join_key(member.by(), &member.account, new).await,
        Err(failure) => Err(failure),
    };
    let made = match created {
        Ok(made) => made,
        Err(failure) => {
            let refused = list(&portal, &member, form, sentence(failure.text()));
            return page_with(StatusCode::UNPROCESSABLE_ENTITY, &refused);
        }
    };
    let now = fresh_ctx().unix.as_secs();
    page(&Made {
        layout: member.layout(&portal, "Join link", Section::Devices),
        path: member.path("join"),
        devices: member.path("devices"),
        code: qr::svg(&made.link, "The join link as a QR code").unwrap_or_default(),
        command: format!("warren up --join '{}'", made.link),
        reusable,
        expires: made.expires.map(|at| When { at: at.0, now }),
    })
}

/// `POST /a/{account}/join/{key}/remove`
pub(super) async fn remove(
    member: Member,
    Path((_, key)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageJoinKeys)?;
    let key: JoinKeyId = key.parse().map_err(|_| Oops::not_found("join key"))?;
    let outcome: Result<(), Failure> = member
        .account
        .durable(member.by(), move |account, _| account.prepare_remove_join_key(key))
        .await;
    match outcome {
        Ok(()) => {
            done(&member.path("join"), "The key is removed. Devices that joined with it stay.")
        }
        Err(failure) => failed(&member.path("join"), failure),
    }
}

fn list(portal: &Portal, member: &Member, typed: NewKey, tags_error: String) -> Page {
    let now = fresh_ctx().unix.as_secs();
    let mut keys: Vec<JoinKeyView> =
        member.account.read(|account| account.join_keys(UnixTime(now)).collect());
    keys.sort_by_key(|key| (key.status != JoinKeyStatus::Usable, std::cmp::Reverse(key.created)));
    Page {
        layout: member.layout(portal, "Add a device", Section::Devices),
        url: portal.site.clone(),
        devices: member.path("devices"),
        path: member.path("join"),
        lifetimes: LIFETIMES,
        keys: keys.iter().map(|key| view(member, key, now)).collect(),
        typed,
        is_approving: member.account.record().settings.device_approval,
        tags_error,
    }
}

fn view(member: &Member, key: &JoinKeyView, now: u64) -> Key {
    let (tone, status) = match key.status {
        JoinKeyStatus::Usable => ("good", "Usable"),
        JoinKeyStatus::Used => ("idle", "Used"),
        JoinKeyStatus::Expired => ("idle", "Expired"),
    };
    Key {
        id: key.id.to_string(),
        remove: member.path(&format!("join/{}/remove", key.id)),
        tone,
        status,
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        approves: key.approves,
        tags: key
            .tags
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        created: When { at: key.created.0, now },
        expires: key.expires.map(|at| When { at: at.0, now }),
        uses: key.uses,
    }
}
