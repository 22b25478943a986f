//! Activity: who changed what, when and from where.

use askama::Template;
use axum::extract::{Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use warren_coord::lines::{Line, changes};
use warren_coord::{ChainedEntry, FieldChange, Right, SettingsEdit};
use warren_store::{ActivityCursor, ActivityFilter};
use warren_web::{Layout, When};

use super::Shared;
use super::answer::{Answer, done, encode, failed, page};
use super::browser::Form;
use super::frame::Section;
use super::settings::days;
use super::viewer::Member;
use crate::accounts::fresh_ctx;
use crate::api::problem::Failure;
use crate::export::{Format, export};

const PER_PAGE: u32 = 50;

/// What can be asked for, by the beginning of the action's name.
const KINDS: &[(&str, &str)] = &[
    ("device", "Devices"),
    ("join-key", "Join keys"),
    ("relay", "Relays"),
    ("policy", "Policy"),
    ("member", "Members"),
    ("invitation", "Invitations"),
    ("api-token", "API tokens"),
    ("webhook", "Webhooks"),
    ("account", "Account"),
];

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    who: String,
    action: String,
    /// The first and the last day, as `2026-11-29`, in UTC.
    since: String,
    until: String,
    after: String,
}

impl ListQuery {
    fn filter(&self, member: &Member) -> ActivityFilter {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        ActivityFilter {
            account: Some(member.account.id()),
            about: given(&self.who),
            action: given(&self.action),
            since: day(&self.since),
            until: day(&self.until).map(|begin| begin.saturating_add(DAY)),
            ..ActivityFilter::default()
        }
    }
}

const DAY: u64 = 24 * 3600 * 1000;

/// When a day begins, in milliseconds since the Unix epoch; nothing where none is named.
fn day(text: &str) -> Option<u64> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    let begin = time::Date::parse(text.trim(), format).ok()?.midnight().assume_utc();
    u64::try_from(begin.unix_timestamp()).ok()?.checked_mul(1_000)
}

struct Row {
    id: String,
    said: String,
    subject: String,
    href: Option<String>,
    actor: String,
    source: String,
    at: When,
    fields: Vec<Field>,
}

/// More than this are folded away.
const FIELDS: usize = 3;

impl Row {
    fn is_long(&self) -> bool {
        self.fields.len() > FIELDS
    }
}

struct Field {
    name: String,
    before: Option<String>,
    after: Option<String>,
    /// What is different, where both are texts of many lines.
    lines: Vec<Line>,
}

#[derive(Template)]
#[template(path = "activity.html")]
struct Page {
    layout: Layout,
    path: String,
    query: ListQuery,
    kinds: &'static [(&'static str, &'static str)],
    entries: Vec<Row>,
    is_first: bool,
    next: Option<String>,
    /// What the files are asked for with.
    asked: String,
    may_change: bool,
    days: String,
}

/// `GET /a/{account}/activity`
pub(super) async fn show(
    State(portal): Shared,
    member: Member,
    Query(query): Query<ListQuery>,
) -> Answer {
    member.check(Right::ReadActivity)?;
    let filter = query.filter(&member);
    let cursor = read_cursor(&query.after);
    let found = portal.broker.store.activity(&filter, cursor.as_ref(), PER_PAGE).await;
    let found = found.map_err(|error| Failure::unavailable(&error.into()))?;
    let now = fresh_ctx().unix.as_secs();
    let asked = format!(
        "?who={}&action={}&since={}&until={}",
        encode(&query.who),
        encode(&query.action),
        encode(&query.since),
        encode(&query.until)
    );
    let link = |cursor: &ActivityCursor| format!("{asked}&after={}", write_cursor(cursor));
    let next = found.next.as_ref().map(link);
    let kept = member.account.record().settings.activity_days;
    page(&Page {
        layout: member.layout(&portal, "Activity", Section::Activity),
        path: member.path("activity"),
        kinds: KINDS,
        entries: found.entries.iter().map(|entry| row(&member, entry, now)).collect(),
        asked,
        may_change: member.may(Right::ManageRetention),
        days: kept.map(|days| days.to_string()).unwrap_or_default(),
        is_first: query.after.is_empty(),
        next,
        query,
    })
}

/// `GET /a/{account}/activity.csv`
pub(super) async fn csv(
    State(portal): Shared,
    member: Member,
    Query(query): Query<ListQuery>,
) -> Answer {
    member.check(Right::ReadActivity)?;
    Ok(export(portal.broker.store.clone(), query.filter(&member), Format::Csv))
}

/// `GET /a/{account}/activity.jsonl`
pub(super) async fn json_lines(
    State(portal): Shared,
    member: Member,
    Query(query): Query<ListQuery>,
) -> Answer {
    member.check(Right::ReadActivity)?;
    Ok(export(portal.broker.store.clone(), query.filter(&member), Format::JsonLines))
}

#[derive(Debug, Deserialize)]
pub(super) struct Keep {
    days: String,
}

/// `POST /a/{account}/activity/keep`
pub(super) async fn keep(State(portal): Shared, member: Member, Form(form): Form<Keep>) -> Answer {
    member.check(Right::ManageRetention)?;
    let outcome = match days(&form.days) {
        Ok(days) => {
            let edit = SettingsEdit { activity_days: Some(days), ..SettingsEdit::default() };
            portal.broker.change_settings(member.by(), &member.account, edit).await
        }
        Err(text) => Err(Failure::invalid(text)),
    };
    match outcome {
        Ok(()) => done(&member.path("activity"), "Saved. What is older is forgotten within hours."),
        Err(failure) => failed(&member.path("activity"), failure),
    }
}

fn write_cursor(cursor: &ActivityCursor) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(cursor).unwrap_or_default())
}

/// Somebody's own words lead to the first page.
fn read_cursor(text: &str) -> Option<ActivityCursor> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn row(member: &Member, chained: &ChainedEntry, now: u64) -> Row {
    let entry = &chained.entry;
    let is_there = entry.subject.kind == "device" && entry.action != "device.removed";
    Row {
        id: format!("{}-{}", chained.chain, chained.sequence),
        said: said(&entry.action),
        subject: entry.subject.name.clone(),
        href: is_there.then(|| member.path(&format!("devices/{}", entry.subject.id))),
        actor: entry.actor.name.clone(),
        source: entry.source.map(|source| source.to_string()).unwrap_or_default(),
        at: When { at: entry.at / 1000, now },
        fields: entry.fields.iter().map(field).collect(),
    }
}

/// `device.joined-again` as a person says it: `Device joined again`.
fn said(action: &str) -> String {
    let words = action.replace(['.', '-', '_'], " ");
    let words = words.replace("api token", "API token");
    let mut chars = words.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect()
}

fn field(change: &FieldChange) -> Field {
    let is_secret = change.before.is_none() && change.after.is_none();
    let is_text = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains('\n'));
    if is_text(&change.before) || is_text(&change.after) {
        let [before, after] = [&change.before, &change.after].map(|it| it.as_deref().unwrap_or(""));
        let lines = changes(before, after);
        return Field { name: said(&change.field), before: None, after: None, lines };
    }
    Field {
        lines: Vec::new(),
        name: said(&change.field),
        before: change.before.as_deref().map(|it| value(&change.field, it)),
        after: match &change.after {
            Some(after) => Some(value(&change.field, after)),
            None => is_secret.then(|| "changed".to_owned()),
        },
    }
}

/// A fact as a person says it.
fn value(field: &str, text: &str) -> String {
    match (field, text, text.parse()) {
        ("expires", _, Ok(at)) => When { at, now: at }.spelled(),
        (_, "true", _) => "yes".to_owned(),
        (_, "false", _) => "no".to_owned(),
        (_, text, _) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_said_as_people_say_them() {
        assert_eq!(said("device.joined-again"), "Device joined again");
        assert_eq!(said("api-token.created"), "API token created");
        assert_eq!(said("static_endpoint"), "Static endpoint");
        assert_eq!(said(""), "");
        assert_eq!(value("expires", "1795237200"), "21 Nov 2026, 05:00:00 UTC");
        assert_eq!(value("reusable", "false"), "no");
        assert_eq!(value("name", "1795237200"), "1795237200");
    }
}
