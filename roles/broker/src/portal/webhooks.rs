//! Webhooks: where messages about the account go, and what has become of them.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{Account, Ctx, NewWebhook, Right, WebhookEdit, WebhookOff, WebhookRecord};
use warren_proto::WebhookId;
use warren_store::Delivery;
use warren_web::{Layout, When};

use super::answer::{Answer, Oops, done, failed, page, page_with, sentence};
use super::browser::{Form, Nothing};
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::api::problem::{ApiResult, Failure};
use crate::webhooks;

/// Messages that the page shows.
const SHOWN: u32 = 50;

/// What can be ticked: the word, and what it tells of.
const EVENTS: &[(&str, &str)] = &[
    ("device", "Devices: joined, waiting, approved, expired, removed, online, offline"),
    ("join-key", "Join keys"),
    ("relay", "Relays"),
    ("relay-list", "The list of connection relays"),
    ("policy", "The policy"),
    ("member", "Members and their roles"),
    ("invitation", "Invitations"),
    ("api-token", "API tokens"),
    ("account", "The account's settings"),
    ("webhook", "Webhooks, also that one was switched off"),
];

struct Row {
    href: String,
    url: String,
    events: Vec<String>,
    tone: &'static str,
    state: &'static str,
}

#[derive(Template)]
#[template(path = "webhooks.html")]
struct List {
    layout: Layout,
    settings: String,
    path: String,
    webhooks: Vec<Row>,
    events: &'static [(&'static str, &'static str)],
    typed_url: String,
    error: String,
}

#[derive(Template)]
#[template(path = "webhook_made.html")]
struct Made {
    layout: Layout,
    path: String,
    secret: String,
}

struct Message {
    event: String,
    created: When,
    tone: &'static str,
    state: String,
    error: String,
    body: String,
    again: String,
}

#[derive(Template)]
#[template(path = "webhook.html")]
struct One {
    layout: Layout,
    list: String,
    path: String,
    row: Row,
    is_on: bool,
    notice: &'static str,
    messages: Vec<Message>,
}

impl One {
    /// Where one of the forms is sent.
    fn at(&self, form: &str) -> String {
        format!("{}/{form}", self.path)
    }
}

/// `GET /a/{account}/webhooks`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    member.check(Right::ManageWebhooks)?;
    page(&list(&portal, &member, String::new(), String::new()))
}

/// A URL, and a field for each kind of events that is ticked.
#[derive(Deserialize)]
pub(super) struct New(BTreeMap<String, String>);

/// `POST /a/{account}/webhooks`
///
/// The answer shows the secret, which is nowhere else; so it is no redirect.
pub(super) async fn create(
    State(portal): Shared,
    member: Member,
    Form(New(fields)): Form<New>,
) -> Answer {
    member.check(Right::ManageWebhooks)?;
    let url = fields.get("url").map(|url| url.trim().to_owned()).unwrap_or_default();
    let is_ticked = |event: &&(&str, &str)| fields.contains_key(&format!("event-{}", event.0));
    let events: BTreeSet<String> =
        EVENTS.iter().filter(is_ticked).map(|(event, _)| (*event).to_owned()).collect();
    let new = NewWebhook { url: url.clone(), events };
    let created: ApiResult<_> = async {
        webhooks::begin(&portal.broker, &member.account).await?;
        let create = move |account: &Account, ctx: &Ctx| account.prepare_webhook(new, ctx);
        member.account.durable(member.by(), create).await
    }
    .await;
    match created {
        Ok(created) => page(&made(&portal, &member, created.id, &created.secret.to_string())),
        Err(failure) => {
            let again = list(&portal, &member, url, sentence(failure.text()));
            page_with(StatusCode::UNPROCESSABLE_ENTITY, &again)
        }
    }
}

fn made(portal: &Portal, member: &Member, id: WebhookId, secret: &str) -> Made {
    Made {
        layout: member.layout(portal, "Webhook", Section::Settings),
        path: member.path(&format!("webhooks/{id}")),
        secret: secret.to_owned(),
    }
}

fn list(portal: &Portal, member: &Member, typed_url: String, error: String) -> List {
    List {
        layout: member.layout(portal, "Webhooks", Section::Settings),
        settings: member.path("settings"),
        path: member.path("webhooks"),
        webhooks: member.account.read(|it| it.webhooks().map(|it| row(member, it)).collect()),
        events: EVENTS,
        typed_url,
        error,
    }
}

fn row(member: &Member, webhook: &WebhookRecord) -> Row {
    let (tone, state) = match (webhook.off, webhook.failing_since) {
        (Some(WebhookOff::ByHand), _) => ("idle", "Off"),
        (Some(WebhookOff::Failing), _) => ("bad", "Switched off"),
        (None, Some(_)) => ("warn", "Failing"),
        (None, None) => ("good", "On"),
    };
    Row {
        href: member.path(&format!("webhooks/{}", webhook.id)),
        url: webhook.url.clone(),
        events: webhook.events.iter().cloned().collect(),
        tone,
        state,
    }
}

/// `GET /a/{account}/webhooks/{webhook}`
pub(super) async fn one(
    State(portal): Shared,
    member: Member,
    Path((_, webhook)): Path<(String, String)>,
) -> Answer {
    member.check(Right::ManageWebhooks)?;
    let id = find(&webhook)?;
    let record = member.account.read(|it| it.webhooks().find(|it| it.id == id).cloned());
    let record = record.ok_or_else(|| Oops::not_found("webhook"))?;
    let log = portal.broker.store.deliveries(member.account.id(), id, SHOWN).await;
    let log = log.map_err(|error| Failure::unavailable(&error.into()))?;
    let now = fresh_ctx().unix.as_secs();
    let path = member.path(&format!("webhooks/{id}"));
    page(&One {
        layout: member.layout(&portal, "Webhook", Section::Settings),
        list: member.path("webhooks"),
        row: row(&member, &record),
        is_on: record.off.is_none(),
        notice: match (record.off, record.failing_since) {
            (Some(WebhookOff::Failing), _) => {
                "Nothing has arrived for five days, so it was switched off. Mend the other side and \
                 switch it on again; what was missed is not made up for."
            }
            (None, Some(_)) => {
                "The last messages have not arrived. Each is tried for a day; after five days \
                 without any that arrives the webhook is switched off."
            }
            (Some(WebhookOff::ByHand) | None, _) => "",
        },
        messages: log.into_iter().map(|it| message(&path, it, now)).collect(),
        path,
    })
}

fn message(path: &str, delivery: Delivery, now: u64) -> Message {
    let status = delivery.status.map(|status| format!(" ({status})")).unwrap_or_default();
    let (tone, state) = match (delivery.arrived, delivery.due, delivery.attempts) {
        (true, _, _) => ("good", format!("Arrived{status}")),
        (false, Some(_), 0) => ("idle", "On its way".to_owned()),
        (false, Some(_), tries) => ("warn", format!("Tried {tries} times{status}")),
        (false, None, _) => ("bad", format!("Given up{status}")),
    };
    Message {
        again: format!("{path}/deliveries/{}/send-again", delivery.message.id),
        event: delivery.message.event,
        created: When { at: delivery.message.created / 1_000, now },
        tone,
        state,
        error: delivery.error.unwrap_or_default(),
        body: delivery.message.body,
    }
}

#[derive(Deserialize)]
pub(super) struct Switch {
    on: String,
}

/// `POST …/switch`
pub(super) async fn switch(
    State(portal): Shared,
    member: Member,
    Path((_, webhook)): Path<(String, String)>,
    Form(form): Form<Switch>,
) -> Answer {
    member.check(Right::ManageWebhooks)?;
    let (id, on) = (find(&webhook)?, form.on == "on");
    if on {
        webhooks::begin(&portal.broker, &member.account).await?;
    }
    let edit = WebhookEdit { on: Some(on), ..WebhookEdit::default() };
    let change = move |account: &Account, _: &Ctx| account.prepare_edit_webhook(id, edit);
    let outcome = member.account.durable(member.by(), change).await;
    told(&member, id, outcome, if on { "It is on." } else { "It is off." })
}

/// `POST …/rotate`
pub(super) async fn rotate(
    State(portal): Shared,
    member: Member,
    Path((_, webhook)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageWebhooks)?;
    let id = find(&webhook)?;
    let rotate = move |account: &Account, ctx: &Ctx| account.prepare_rotate_webhook(id, ctx);
    let created = member.account.durable(member.by(), rotate).await?;
    page(&made(&portal, &member, id, &created.secret.to_string()))
}

/// `POST …/test`
pub(super) async fn test(
    State(portal): Shared,
    member: Member,
    Path((_, webhook)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageWebhooks)?;
    let id = find(&webhook)?;
    let outcome = webhooks::test(&portal.broker, &member.account, id).await;
    told(&member, id, outcome, "A test message is on its way.")
}

/// `POST …/deliveries/{delivery}/send-again`
pub(super) async fn send_again(
    State(portal): Shared,
    member: Member,
    Path((_, webhook, delivery)): Path<(String, String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageWebhooks)?;
    let id = find(&webhook)?;
    let delivery = delivery.parse().map_err(|_| Oops::not_found("message"))?;
    let account = member.account.id();
    let outcome = webhooks::send_again(&portal.broker, account, id, delivery).await;
    told(&member, id, outcome, "It is on its way again.")
}

/// `POST …/remove`
pub(super) async fn remove(
    member: Member,
    Path((_, webhook)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageWebhooks)?;
    let id = find(&webhook)?;
    let remove = move |account: &Account, _: &Ctx| account.prepare_remove_webhook(id);
    match member.account.durable(member.by(), remove).await {
        Ok(()) => done(&member.path("webhooks"), "The webhook is deleted."),
        Err(failure) => Err(failure.into()),
    }
}

fn find(text: &str) -> Result<WebhookId, Oops> {
    text.parse().map_err(|_| Oops::not_found("webhook"))
}

fn told(member: &Member, id: WebhookId, outcome: ApiResult<()>, text: &str) -> Answer {
    let path = member.path(&format!("webhooks/{id}"));
    match outcome {
        Ok(()) => done(&path, text),
        Err(failure) => failed(&path, failure),
    }
}
