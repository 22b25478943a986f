//! The API's operations on webhooks.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warren_coord::{Account, Ctx, Right, WebhookEdit, WebhookOff, WebhookRecord};
use warren_proto::{DeliveryId, WebhookId};
use warren_store::Delivery as StoredDelivery;

use super::Time;
use super::guard::Asker;
use super::operation::Operation;
use super::paged::{PageQuery, Query};
use super::routes::Content;
use crate::accounts::AccountHandle;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::webhooks;

/// Messages of a log that are told.
const LOG: u32 = 1_000;

type Shared = State<Arc<Broker>>;

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Where its messages go.
    pub url: String,
    /// What it is told of: actions of Activity, or what they begin with; besides `device.online` and
    /// `device.offline`.
    pub events: BTreeSet<String>,
    /// Why it gets no messages; `null`: it does.
    pub off: Option<WebhookOff>,
    /// Since when nothing has arrived.
    pub failing_since: Option<Time>,
    /// When it was created.
    pub created: Time,
}

/// Asks for a new webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where its messages go: an HTTPS URL on the internet, or what the operator allows.
    pub url: String,
    /// What it is told of: actions of Activity, or what they begin with (`device`,
    /// `policy.changed`), `device.online`, `device.offline`.
    pub events: BTreeSet<String>,
}

/// Changes a webhook; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChange {
    /// Where its messages go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it is told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<BTreeSet<String>>,
    /// Whether it gets messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
}

/// A new webhook, or a new secret: it is told this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WebhookCreated {
    /// The webhook's id.
    pub id: WebhookId,
    /// What its messages are signed with (Standard Webhooks): `whsec_` and base64.
    pub secret: String,
}

/// A message to a webhook, and what has become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delivery {
    /// Its id; the header `webhook-id` has it behind `msg_`.
    pub id: DeliveryId,
    /// What it tells of.
    pub event: String,
    /// When it was made.
    pub created: Time,
    /// Whether it has arrived.
    pub arrived: bool,
    /// How often it was tried since it was last asked for.
    pub attempts: u32,
    /// When it was tried last.
    pub tried: Option<Time>,
    /// The response's status then.
    pub status: Option<u16>,
    /// What went wrong then.
    pub error: Option<String>,
    /// When it is tried next; `null`: not any more.
    pub due: Option<Time>,
    /// Its body.
    pub body: String,
}

/// They.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/accounts/{account}/webhooks", "listWebhooks", "Webhooks", list)
            .needs(Right::ManageWebhooks)
            .lists::<Webhook>(),
        Operation::post(
            "/accounts/{account}/webhooks",
            "createWebhook",
            "Makes a webhook; its secret is told this once",
            create,
        )
        .needs(Right::ManageWebhooks)
        .takes::<NewWebhook>()
        .creates::<WebhookCreated>(),
        Operation::get("/accounts/{account}/webhooks/{webhook}", "getWebhook", "A webhook", show)
            .needs(Right::ManageWebhooks)
            .gives::<Webhook>(),
        Operation::patch(
            "/accounts/{account}/webhooks/{webhook}",
            "changeWebhook",
            "Changes where messages go or what they tell of; switches it on or off",
            change,
        )
        .needs(Right::ManageWebhooks)
        .takes::<WebhookChange>()
        .gives::<Webhook>(),
        Operation::delete(
            "/accounts/{account}/webhooks/{webhook}",
            "deleteWebhook",
            "Deletes a webhook with its log",
            remove,
        )
        .needs(Right::ManageWebhooks),
        Operation::post(
            "/accounts/{account}/webhooks/{webhook}/rotate",
            "rotateWebhook",
            "Gives it another secret; for a day messages are signed with both",
            rotate,
        )
        .needs(Right::ManageWebhooks)
        .gives::<WebhookCreated>(),
        Operation::post(
            "/accounts/{account}/webhooks/{webhook}/test",
            "testWebhook",
            "Sends it a message that means nothing",
            test,
        )
        .needs(Right::ManageWebhooks)
        .gives::<Webhook>(),
        Operation::get(
            "/accounts/{account}/webhooks/{webhook}/deliveries",
            "listDeliveries",
            "The messages to a webhook, by id: the last thousand",
            deliveries,
        )
        .needs(Right::ManageWebhooks)
        .lists::<Delivery>(),
        Operation::post(
            "/accounts/{account}/webhooks/{webhook}/deliveries/{delivery}/send-again",
            "sendAgain",
            "Sends a message again",
            send_again,
        )
        .needs(Right::ManageWebhooks)
        .gives::<Webhook>(),
    ]
}

async fn list(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let account = broker.accounts.find(&account)?;
    let webhooks: Vec<Webhook> = account.read(|it| it.webhooks().map(view).collect());
    page.of(webhooks, |it| it.id.to_string())
}

async fn create(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    Content(NewWebhook { url, events }): Content<NewWebhook>,
) -> ApiResult<(StatusCode, Json<WebhookCreated>)> {
    let account = broker.accounts.find(&account)?;
    webhooks::begin(&broker, &account).await?;
    let new = warren_coord::NewWebhook { url, events };
    let create = move |account: &Account, ctx: &Ctx| account.prepare_webhook(new, ctx);
    let created = account.durable(by, create).await?;
    Ok((StatusCode::CREATED, Json(told(&created))))
}

async fn show(
    State(broker): Shared,
    Path((account, webhook)): Path<(String, String)>,
) -> ApiResult<Json<Webhook>> {
    let account = broker.accounts.find(&account)?;
    shown(&account, find(&webhook)?)
}

async fn change(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, webhook)): Path<(String, String)>,
    Content(WebhookChange { url, events, on }): Content<WebhookChange>,
) -> ApiResult<Json<Webhook>> {
    let account = broker.accounts.find(&account)?;
    let id = find(&webhook)?;
    if on == Some(true) {
        webhooks::begin(&broker, &account).await?;
    }
    let edit = WebhookEdit { url, events, on };
    account.durable(by, move |account, _| account.prepare_edit_webhook(id, edit)).await?;
    shown(&account, id)
}

async fn remove(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, webhook)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let account = broker.accounts.find(&account)?;
    let id = find(&webhook)?;
    account.durable(by, move |account, _| account.prepare_remove_webhook(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rotate(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, webhook)): Path<(String, String)>,
) -> ApiResult<Json<WebhookCreated>> {
    let account = broker.accounts.find(&account)?;
    let id = find(&webhook)?;
    let rotate = move |account: &Account, ctx: &Ctx| account.prepare_rotate_webhook(id, ctx);
    Ok(Json(told(&account.durable(by, rotate).await?)))
}

async fn test(
    State(broker): Shared,
    Path((account, webhook)): Path<(String, String)>,
) -> ApiResult<Json<Webhook>> {
    let account = broker.accounts.find(&account)?;
    let id = find(&webhook)?;
    let seen = shown(&account, id)?;
    webhooks::test(&broker, &account, id).await?;
    Ok(seen)
}

async fn deliveries(
    State(broker): Shared,
    Path((account, webhook)): Path<(String, String)>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let account = broker.accounts.find(&account)?;
    let id = find(&webhook)?;
    let _seen = shown(&account, id)?;
    let log = broker.store.deliveries(account.id(), id, LOG).await;
    let log = log.map_err(|error| Failure::unavailable(&error.into()))?;
    // The newest first, as people look for them.
    page.of(log.into_iter().map(delivery_view), |it| {
        format!("{:020} {}", u64::MAX - it.created.0, it.id)
    })
}

async fn send_again(
    State(broker): Shared,
    Path((account, webhook, delivery)): Path<(String, String, String)>,
) -> ApiResult<Json<Webhook>> {
    let account = broker.accounts.find(&account)?;
    let id = find(&webhook)?;
    let delivery = delivery.parse().map_err(|_| Failure::not_found("message"))?;
    let seen = shown(&account, id)?;
    webhooks::send_again(&broker, account.id(), id, delivery).await?;
    Ok(seen)
}

fn find(text: &str) -> ApiResult<WebhookId> {
    text.parse().map_err(|_| Failure::not_found("webhook"))
}

fn shown(account: &AccountHandle, id: WebhookId) -> ApiResult<Json<Webhook>> {
    let found = account.read(|it| it.webhooks().find(|webhook| webhook.id == id).map(view));
    found.map(Json).ok_or_else(|| Failure::not_found("webhook"))
}

fn view(webhook: &WebhookRecord) -> Webhook {
    Webhook {
        id: webhook.id,
        url: webhook.url.clone(),
        events: webhook.events.clone(),
        off: webhook.off,
        failing_since: webhook.failing_since.map(|at| Time(at.0)),
        created: Time(webhook.created.0),
    }
}

fn told(created: &warren_coord::WebhookCreated) -> WebhookCreated {
    WebhookCreated { id: created.id, secret: created.secret.to_string() }
}

fn delivery_view(delivery: StoredDelivery) -> Delivery {
    let time = |millis: u64| Time(millis / 1_000);
    Delivery {
        id: delivery.message.id,
        event: delivery.message.event,
        created: time(delivery.message.created),
        arrived: delivery.arrived,
        attempts: delivery.attempts,
        tried: delivery.tried.map(time),
        status: delivery.status,
        error: delivery.error,
        due: delivery.due.map(time),
        body: delivery.message.body,
    }
}
