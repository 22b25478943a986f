//! Webhooks: what Activity says of an account, and which devices come and go, is sent to addresses
//! that its admins have named.
//!
//! Messages are kept in the database until they have arrived: made of Activity from where the last
//! one was made ([`Store::webhook_news`]), so that none is lost or made twice when the broker dies in
//! between. Who comes and goes is soft and not made up for. One task does all of it beside the rest;
//! at most one message to each webhook is under way, so a slow one keeps only itself waiting. What
//! fails is tried again for a day, each time later; a webhook where nothing arrives for five days is
//! switched off.
//!
//! [`Store::webhook_news`]: warren_store::Store::webhook_news

mod send;
mod target;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};
use warren_coord::{Account, By, Ctx, Presence, UnixTime, WebhookRecord};
use warren_proto::{AccountId, DeliveryId, WebhookId};
use warren_store::{Attempt, Delivery, NewDelivery};

use crate::accounts::{AccountHandle, unix_millis};
use crate::admin::Time;
use crate::admin::activity::entry_view;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;

pub(crate) use send::Sender;
pub(crate) use target::Targets;

/// After which attempt how long the next one waits, in seconds: a day, all in all.
const PAUSES: [u64; 8] = [5, 60, 5 * 60, 30 * 60, 2 * 3600, 4 * 3600, 8 * 3600, 8 * 3600];
/// Messages under way at once.
const AT_ONCE: usize = 32;
/// News that comes sooner after some is handed over together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long the task rests when the database can't be asked.
const AFTER_ERROR: Duration = Duration::from_secs(10);
/// When to look again while nothing is due.
const FAR: Duration = Duration::from_secs(3600);

/// The webhook of one account that a message under way is for.
type Busy = BTreeSet<(AccountId, WebhookId)>;

/// Hands over and sends, until `shutdown` turns true.
pub(crate) async fn keep_sending(broker: Arc<Broker>, mut shutdown: watch::Receiver<bool>) {
    let mut members = broker.people.membership_changes();
    let mut sending: JoinSet<(AccountId, WebhookId)> = JoinSet::new();
    let mut busy = Busy::new();
    loop {
        let rest = match pass(&broker, &mut sending, &mut busy).await {
            Ok(rest) => rest,
            Err(error) => {
                warn!(%error, "webhooks have to wait");
                AFTER_ERROR
            }
        };
        let is_news = tokio::select! {
            () = broker.accounts.webhook_news() => true,
            _ = members.changed() => true,
            Some(sent) = sending.join_next() => {
                if let Ok(key) = sent {
                    busy.remove(&key);
                }
                false
            }
            () = tokio::time::sleep(rest) => false,
            () = ended(&mut shutdown) => return,
        };
        if is_news {
            tokio::time::sleep(TOGETHER).await;
        }
    }
}

async fn ended(shutdown: &mut watch::Receiver<bool>) {
    // Without a sender it has ended, too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Makes messages of what is new, and begins to send what is due. Says how long to rest.
async fn pass(
    broker: &Arc<Broker>,
    sending: &mut JoinSet<(AccountId, WebhookId)>,
    busy: &mut Busy,
) -> Result<Duration> {
    for account in broker.accounts.all() {
        collect(broker, &account).await?;
    }
    let now = unix_millis();
    let (due, next) = broker.store.due_deliveries(now, AT_ONCE as u32 * 2).await?;
    for delivery in due {
        let key = (delivery.account, delivery.message.webhook);
        if sending.len() >= AT_ONCE || !busy.insert(key) {
            continue;
        }
        let broker = broker.clone();
        sending.spawn(async move {
            if let Err(error) = attempt(&broker, &delivery).await {
                warn!(%error, "what has become of a message to a webhook could not be noted");
                tokio::time::sleep(AFTER_ERROR).await;
            }
            key
        });
    }
    Ok(next.map_or(FAR, |next| Duration::from_millis(next.saturating_sub(now))))
}

/// Makes messages of what an account's Activity says that is new, and of who came and went.
async fn collect(broker: &Broker, account: &AccountHandle) -> Result<()> {
    let (webhooks, epoch): (Vec<WebhookRecord>, _) =
        account.read(|it| (it.webhooks().cloned().collect(), it.epoch()));
    let presences: Vec<Presence> =
        account.soft(|account, _| std::iter::from_fn(|| account.poll_presence()).collect());
    if webhooks.iter().all(|webhook| webhook.off.is_some()) {
        return Ok(());
    }
    let (id, now) = (account.id(), unix_millis());
    let mut deliveries = Vec::new();
    for presence in presences {
        let device = json!({ "id": presence.device, "name": presence.name });
        let body = body(presence.event(), now, &json!({ "account": id, "device": device }));
        deliveries.extend(to_all(&webhooks, presence.event(), &body, now));
    }
    let mut news = broker.store.webhook_news(id).await?;
    loop {
        let (entries, cursor) = match news {
            Some((entries, cursor)) => (entries, Some(cursor)),
            None => (Vec::new(), None),
        };
        let has_more = !entries.is_empty();
        for entry in entries {
            let (event, at) = (entry.entry.action.clone(), entry.entry.at);
            let body = body(&event, at, &json!(entry_view(entry)));
            deliveries.extend(to_all(&webhooks, &event, &body, now));
        }
        if !deliveries.is_empty() || cursor.is_some() {
            broker.store.queue_deliveries(id, epoch, &deliveries, cursor).await?;
        }
        if !has_more {
            return Ok(());
        }
        deliveries.clear();
        news = broker.store.webhook_news(id).await?;
    }
}

/// What is sent: as Standard Webhooks recommends.
fn body(event: &str, at: u64, data: &Value) -> String {
    json!({ "type": event, "timestamp": Time(at / 1_000), "data": data }).to_string()
}

fn to_all<'a>(
    webhooks: &'a [WebhookRecord],
    event: &'a str,
    body: &'a str,
    created: u64,
) -> impl Iterator<Item = NewDelivery> + 'a {
    let wanting = webhooks.iter().filter(|webhook| webhook.wants(event));
    wanting.map(move |webhook| delivery(webhook.id, event, body, created))
}

fn delivery(webhook: WebhookId, event: &str, body: &str, created: u64) -> NewDelivery {
    NewDelivery {
        webhook,
        id: DeliveryId(rand::random()),
        event: event.to_owned(),
        body: body.to_owned(),
        created,
    }
}

/// Sends a message once, and notes what has become of it.
async fn attempt(broker: &Arc<Broker>, delivery: &Delivery) -> Result<()> {
    let webhook = delivery.message.webhook;
    let Some(account) = broker.accounts.get(delivery.account) else { return Ok(()) };
    let record = account.read(|it| it.webhooks().find(|it| it.id == webhook).cloned());
    let Some(record) = record else { return Ok(()) };
    if record.off.is_some() {
        return Ok(broker.store.give_up_deliveries(delivery.account, webhook).await?);
    }
    let outcome = broker.webhooks.send(&record, &delivery.message).await;
    let at = unix_millis();
    let (status, error) = match outcome {
        Ok(status) => (Some(status), None),
        Err(failed) => (failed.status, Some(failed.text)),
    };
    let pause = usize::try_from(delivery.attempts).ok().and_then(|tried| PAUSES.get(tried));
    let next = pause.filter(|_| error.is_some()).map(|pause| at + pause * 1_000);
    let arrived = error.is_none();
    debug!(account = %delivery.account, %webhook, arrived, "sent a message to a webhook");
    broker.store.note_attempt(delivery, &Attempt { at, status, error, next }).await?;
    if arrived && record.failing_since.is_none() {
        return Ok(());
    }
    let note =
        move |account: &Account, ctx: &Ctx| account.prepare_webhook_outcome(webhook, arrived, ctx);
    // It may have been removed meanwhile.
    let _ = account.durable(By::BROKER, note).await;
    Ok(())
}

/// Has what comes from now on be told, and not what was before: to be asked for before the first
/// webhook of an account is switched on.
pub(crate) async fn begin(broker: &Broker, account: &AccountHandle) -> ApiResult<()> {
    if account.read(|it| it.webhooks().any(|webhook| webhook.off.is_none())) {
        return Ok(());
    }
    let begun = broker.store.begin_webhooks(account.id(), account.read(Account::epoch)).await;
    begun.map_err(|error| Failure::unavailable(&error.into()))
}

/// Sends a message that means nothing, to see whether one arrives.
pub(crate) async fn test(
    broker: &Broker,
    account: &AccountHandle,
    webhook: WebhookId,
) -> ApiResult<()> {
    let now = unix_millis();
    let body = body("webhook.test", now, &json!({ "account": account.id() }));
    let message = delivery(webhook, "webhook.test", &body, now);
    let epoch = account.read(Account::epoch);
    let queued = broker.store.queue_deliveries(account.id(), epoch, &[message], None).await;
    queued.map_err(|error| Failure::unavailable(&error.into()))?;
    broker.accounts.announce_webhook_news();
    Ok(())
}

/// Has a message of the log sent again.
pub(crate) async fn send_again(
    broker: &Broker,
    account: AccountId,
    webhook: WebhookId,
    delivery: DeliveryId,
) -> ApiResult<()> {
    let again = broker.store.send_again(account, webhook, delivery, unix_millis()).await;
    match again.map_err(|error| Failure::unavailable(&error.into()))? {
        true => broker.accounts.announce_webhook_news(),
        false => return Err(Failure::not_found("message")),
    }
    Ok(())
}

/// The moment of a message's headers.
fn seconds() -> UnixTime {
    UnixTime(unix_millis() / 1_000)
}
