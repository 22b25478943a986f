//! Webhooks, and the messages to them: made of Activity, tried until they arrive, kept as a log.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use warren_coord::{
    Chain, ChainedEntry, LeaseEpoch, UnixTime, WebhookOff, WebhookRecord, WebhookSecret,
};
use warren_proto::{AccountId, DeliveryId, WebhookId};

use crate::activity::{chained, millis};
use crate::commit::{fence, hex_bytes, seconds};
use crate::load::{number, optional, optional_number, optional_time, parse, secret_hash};
use crate::people::{from_json, json};
use crate::{Store, StoreError};

/// Entries of Activity that are handed over at a time.
const BATCH: i64 = 500;
/// Messages to one webhook that its log keeps.
const LOG: i64 = 1_000;

/// A message that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// To which webhook.
    pub webhook: WebhookId,
    /// Its id, the same in every attempt.
    pub id: DeliveryId,
    /// What it tells of.
    pub event: String,
    /// Its body, in JSON.
    pub body: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created: u64,
}

/// A message to a webhook, and what has become of it. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Of which account.
    pub account: AccountId,
    /// What is sent, and to which webhook.
    pub message: NewDelivery,
    /// When it is tried next; `None`: it has arrived, or was given up.
    pub due: Option<u64>,
    /// How often it was tried since it was last asked for.
    pub attempts: u32,
    /// When it was tried last.
    pub tried: Option<u64>,
    /// The response's status then.
    pub status: Option<u16>,
    /// What went wrong then.
    pub error: Option<String>,
    /// Whether it has arrived.
    pub arrived: bool,
}

/// What has become of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The response's status, if there was one.
    pub status: Option<u16>,
    /// What went wrong; `None`: it has arrived.
    pub error: Option<String>,
    /// When it is tried again; `None`: not any more.
    pub next: Option<u64>,
}

/// Up to where Activity was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookCursor {
    own: i64,
    broker: i64,
}

impl Store {
    /// What Activity says of an account that its webhooks have not been told, the oldest first, and
    /// the place behind it; `None`: nothing. Whoever asks for the first time begins with what comes
    /// from then on.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn webhook_news(
        &self,
        account: AccountId,
    ) -> Result<Option<(Vec<ChainedEntry>, WebhookCursor)>, StoreError> {
        let own = Chain::Account(account).to_string();
        let broker = Chain::Broker.to_string();
        let row = sqlx::query("SELECT own, broker FROM webhook_cursors WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else {
            return Ok(Some((Vec::new(), self.present(account).await?)));
        };
        let mut cursor = WebhookCursor { own: row.try_get("own")?, broker: row.try_get("broker")? };
        let rows = sqlx::query(
            "SELECT * FROM activity WHERE account_id = $1 AND ((chain = $2 AND sequence > $3) \
             OR (chain = $4 AND sequence > $5)) ORDER BY chain, sequence LIMIT $6",
        )
        .bind(account.to_string())
        .bind(&own)
        .bind(cursor.own)
        .bind(&broker)
        .bind(cursor.broker)
        .bind(BATCH)
        .fetch_all(&self.pool)
        .await?;
        let entries = rows.iter().map(chained).collect::<Result<Vec<_>, _>>()?;
        for entry in &entries {
            let sequence = millis(entry.sequence);
            match entry.chain {
                Chain::Broker => cursor.broker = sequence,
                Chain::Account(_) => cursor.own = sequence,
            }
        }
        Ok((!entries.is_empty()).then_some((entries, cursor)))
    }

    async fn newest(&self, chain: &str) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COALESCE(MAX(sequence), 0) FROM activity WHERE chain = $1")
            .bind(chain)
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Keeps messages until they have arrived, and notes up to where Activity was handed over.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn queue_deliveries(
        &self,
        account: AccountId,
        lease: LeaseEpoch,
        deliveries: &[NewDelivery],
        cursor: Option<WebhookCursor>,
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        let queued = queue(&mut connection, account, lease, deliveries, cursor).await;
        self.settle(connection, queued).await
    }

    /// Has an account's webhooks be told of what comes from now on, and of nothing from before.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn begin_webhooks(
        &self,
        account: AccountId,
        lease: LeaseEpoch,
    ) -> Result<(), StoreError> {
        let cursor = self.present(account).await?;
        self.queue_deliveries(account, lease, &[], Some(cursor)).await
    }

    /// The place behind all that there is.
    async fn present(&self, account: AccountId) -> Result<WebhookCursor, StoreError> {
        let own = self.newest(&Chain::Account(account).to_string()).await?;
        Ok(WebhookCursor { own, broker: self.newest(&Chain::Broker.to_string()).await? })
    }

    /// Messages that are due at this moment (in milliseconds since the Unix epoch), the oldest of each
    /// webhook alone, so that one that is slow keeps no other waiting; and when the next one is due.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn due_deliveries(
        &self,
        now: u64,
        limit: u32,
    ) -> Result<(Vec<Delivery>, Option<u64>), StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY account_id, webhook_id \
             ORDER BY due, created, id) AS place FROM webhook_deliveries WHERE due <= $1) \
             WHERE place = 1 ORDER BY due LIMIT $2",
        )
        .bind(millis(now))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let due = rows.iter().map(delivery).collect::<Result<Vec<_>, _>>()?;
        let next = sqlx::query("SELECT MIN(due) AS due FROM webhook_deliveries WHERE due > $1")
            .bind(millis(now))
            .fetch_one(&self.pool)
            .await?;
        Ok((due, optional_number(&next, "due")?))
    }

    /// Notes what has become of an attempt.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn note_attempt(
        &self,
        delivery: &Delivery,
        attempt: &Attempt,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE webhook_deliveries SET attempts = attempts + 1, tried = $4, status = $5, \
             error = $6, due = $7, arrived = $8 \
             WHERE account_id = $1 AND webhook_id = $2 AND id = $3",
        )
        .bind(delivery.account.to_string())
        .bind(delivery.message.webhook.to_string())
        .bind(delivery.message.id.to_string())
        .bind(millis(attempt.at))
        .bind(attempt.status.map(i64::from))
        .bind(attempt.error.as_deref())
        .bind(attempt.next.map(millis))
        .bind(attempt.error.is_none())
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Has a message sent again, as if for the first time. Says whether there is such a one.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn send_again(
        &self,
        account: AccountId,
        webhook: WebhookId,
        id: DeliveryId,
        now: u64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE webhook_deliveries SET due = $4, attempts = 0, arrived = FALSE \
             WHERE account_id = $1 AND webhook_id = $2 AND id = $3",
        )
        .bind(account.to_string())
        .bind(webhook.to_string())
        .bind(id.to_string())
        .bind(millis(now))
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives up what waits for a webhook.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn give_up_deliveries(
        &self,
        account: AccountId,
        webhook: WebhookId,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE webhook_deliveries SET due = NULL \
             WHERE account_id = $1 AND webhook_id = $2 AND due IS NOT NULL",
        )
        .bind(account.to_string())
        .bind(webhook.to_string())
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// The log of a webhook: the newest messages first.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn deliveries(
        &self,
        account: AccountId,
        webhook: WebhookId,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM webhook_deliveries WHERE account_id = $1 AND webhook_id = $2 \
             ORDER BY created DESC, id DESC LIMIT $3",
        )
        .bind(account.to_string())
        .bind(webhook.to_string())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(delivery).collect()
    }
}

async fn queue(
    connection: &mut SqliteConnection,
    account: AccountId,
    lease: LeaseEpoch,
    deliveries: &[NewDelivery],
    cursor: Option<WebhookCursor>,
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    fence(&mut transaction, account, lease).await?;
    for delivery in deliveries {
        insert(&mut transaction, account, delivery).await?;
    }
    if let Some(WebhookCursor { own, broker }) = cursor {
        sqlx::query(
            "INSERT INTO webhook_cursors (account_id, own, broker) VALUES ($1, $2, $3) \
             ON CONFLICT (account_id) DO UPDATE SET own = excluded.own, broker = excluded.broker",
        )
        .bind(account.to_string())
        .bind(own)
        .bind(broker)
        .execute(&mut *transaction)
        .await?;
    }
    Ok(transaction.commit().await?)
}

/// Puts a message behind the others, and forgets the oldest of a log that is full. One to a webhook
/// that is gone meanwhile is none.
async fn insert(
    connection: &mut SqliteConnection,
    account: AccountId,
    delivery: &NewDelivery,
) -> Result<(), StoreError> {
    let (account, webhook) = (account.to_string(), delivery.webhook.to_string());
    sqlx::query(
        "INSERT INTO webhook_deliveries (account_id, webhook_id, id, event, body, created, due, \
         attempts, arrived) SELECT $1, $2, $3, $4, $5, $6, $6, 0, FALSE \
         FROM webhooks WHERE account_id = $1 AND id = $2",
    )
    .bind(&account)
    .bind(&webhook)
    .bind(delivery.id.to_string())
    .bind(&delivery.event)
    .bind(&delivery.body)
    .bind(millis(delivery.created))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM webhook_deliveries WHERE account_id = $1 AND webhook_id = $2 AND created < \
         (SELECT created FROM webhook_deliveries WHERE account_id = $1 AND webhook_id = $2 \
          ORDER BY created DESC LIMIT 1 OFFSET $3)",
    )
    .bind(&account)
    .bind(&webhook)
    .bind(LOG - 1)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn write(
    connection: &mut SqliteConnection,
    account: &str,
    webhook: &WebhookRecord,
) -> Result<(), StoreError> {
    let (previous, until) = webhook.previous.unzip();
    sqlx::query(
        "INSERT INTO webhooks (account_id, id, url, events, secret, previous_secret, \
         previous_until, created, failing_since, off) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (account_id, id) DO UPDATE SET url = excluded.url, events = excluded.events, \
         secret = excluded.secret, previous_secret = excluded.previous_secret, \
         previous_until = excluded.previous_until, created = excluded.created, \
         failing_since = excluded.failing_since, off = excluded.off",
    )
    .bind(account)
    .bind(webhook.id.to_string())
    .bind(&webhook.url)
    .bind(json(&webhook.events)?)
    .bind(hex_bytes(&webhook.secret.0))
    .bind(previous.map(|secret: WebhookSecret| hex_bytes(&secret.0)))
    .bind(until.map(seconds))
    .bind(seconds(webhook.created))
    .bind(webhook.failing_since.map(seconds))
    .bind(webhook.off.map(off_word))
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn delete(
    connection: &mut SqliteConnection,
    account: &str,
    webhook: WebhookId,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM webhooks WHERE account_id = $1 AND id = $2")
        .bind(account)
        .bind(webhook.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn load(
    connection: &mut SqliteConnection,
    account: &str,
) -> Result<Vec<WebhookRecord>, StoreError> {
    let rows = sqlx::query("SELECT * FROM webhooks WHERE account_id = $1 ORDER BY id")
        .bind(account)
        .fetch_all(connection)
        .await?;
    rows.iter().map(record).collect()
}

fn record(row: &SqliteRow) -> Result<WebhookRecord, StoreError> {
    let previous = optional::<String>(row, "previous_secret")?;
    let previous = previous.map(|hex| secret(&hex)).transpose()?;
    Ok(WebhookRecord {
        id: parse(row, "id")?,
        url: row.try_get("url")?,
        events: from_json(row, "events")?,
        secret: secret(row.try_get("secret")?)?,
        previous: previous.zip(optional_time(row, "previous_until")?),
        created: UnixTime(number(row, "created")?),
        failing_since: optional_time(row, "failing_since")?,
        off: optional::<String>(row, "off")?.map(|word| off(&word)).transpose()?,
    })
}

fn secret(hex: &str) -> Result<WebhookSecret, StoreError> {
    Ok(WebhookSecret(secret_hash(hex)?.0))
}

fn off_word(off: WebhookOff) -> &'static str {
    match off {
        WebhookOff::ByHand => "by-hand",
        WebhookOff::Failing => "failing",
    }
}

fn off(word: &str) -> Result<WebhookOff, StoreError> {
    [WebhookOff::ByHand, WebhookOff::Failing]
        .into_iter()
        .find(|it| off_word(*it) == word)
        .ok_or_else(|| StoreError::nonsense("off"))
}

fn delivery(row: &SqliteRow) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        account: parse(row, "account_id")?,
        message: NewDelivery {
            webhook: parse(row, "webhook_id")?,
            id: parse(row, "id")?,
            event: row.try_get("event")?,
            body: row.try_get("body")?,
            created: number(row, "created")?,
        },
        due: optional_number(row, "due")?,
        attempts: number(row, "attempts")?,
        tried: optional_number(row, "tried")?,
        status: optional_number(row, "status")?,
        error: optional(row, "error")?,
        arrived: row.try_get("arrived")?,
    })
}
