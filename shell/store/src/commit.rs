//! Writing an account's changes, fenced, in one transaction.

use std::collections::BTreeSet;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _, Sqlite, Transaction};
use warren_coord::{
    AccountRecord, Chain, Change, DeviceRecord, Entry, JoinKeyRecord, LeaseEpoch, PolicyRecord,
    SecretHash, Tag, UnixTime,
};
use warren_proto::{AccountId, DeviceId, JoinKeyId};

use crate::{Store, StoreError, activity, edge, relay, webhook};

impl Store {
    /// Commits an account's changes with the entries of Activity that they make: all or none. When
    /// it returns, they are on the disk.
    ///
    /// Don't drop the future before it is done: the changes may have been committed by then, and
    /// the state machine must be told.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if another process has taken the account over,
    /// [`StoreError::DiskFull`], [`StoreError::Conflict`], [`StoreError::NoAccount`], or another
    /// failure of the database. Nothing was kept then.
    pub async fn commit(
        &self,
        account: AccountId,
        lease: LeaseEpoch,
        changes: &[Change],
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut connection = self.pool.acquire().await?;
        let written = write_all(&mut connection, account, lease, changes, entries).await;
        self.settle(connection, written).await
    }

    /// Ends a transaction's use of its connection. After one that failed the connection goes, too:
    /// when a disk is full SQLite rolls back by itself, of which sqlx knows nothing.
    pub(crate) async fn settle<T>(
        &self,
        connection: PoolConnection<Sqlite>,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let error = match outcome {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if let Err(error) = connection.close().await {
            tracing::debug!(%error, "a connection to the database did not end well");
        }
        Err(error.on_disk_of(&self.path))
    }
}

async fn write_all(
    connection: &mut SqliteConnection,
    account: AccountId,
    lease: LeaseEpoch,
    changes: &[Change],
    entries: &[Entry],
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    fence(&mut transaction, account, lease).await?;
    let id = account.to_string();
    for change in changes {
        write(&mut transaction, &id, change).await?;
    }
    activity::append(&mut transaction, Chain::Account(account), entries).await?;
    Ok(transaction.commit().await?)
}

/// Refuses a commit under any lease but the newest.
pub(crate) async fn fence(
    transaction: &mut Transaction<'_, Sqlite>,
    account: AccountId,
    lease: LeaseEpoch,
) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT lease_epoch FROM accounts WHERE id = $1")
        .bind(account.to_string())
        .fetch_optional(&mut **transaction)
        .await?
        .ok_or(StoreError::NoAccount)?;
    let newest: i64 = row.try_get(0)?;
    if i64::try_from(lease.0) == Ok(newest) { Ok(()) } else { Err(StoreError::Fenced) }
}

pub(crate) async fn create_account(
    connection: &mut SqliteConnection,
    account: &AccountRecord,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "INSERT INTO accounts (id, name, ipv4_range, ipv6_range, next_host, created) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(account.id.to_string())
    .bind(account.name.as_str())
    .bind(account.ipv4_range.to_string())
    .bind(account.ipv6_range.to_string())
    .bind(i64::from(account.next_host))
    .bind(seconds(account.created))
    .execute(&mut *transaction)
    .await?;
    write_account(&mut transaction, &account.id.to_string(), account).await?;
    activity::append(&mut transaction, Chain::Broker, entries).await?;
    Ok(transaction.commit().await?)
}

pub(crate) async fn remove_account(
    connection: &mut SqliteConnection,
    account: AccountId,
    lease: LeaseEpoch,
    revoked_until: UnixTime,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    fence(&mut transaction, account, lease).await?;
    relay::revoke_all(&mut transaction, account, revoked_until).await?;
    sqlx::query("DELETE FROM accounts WHERE id = $1")
        .bind(account.to_string())
        .execute(&mut *transaction)
        .await?;
    activity::append(&mut transaction, Chain::Broker, entries).await?;
    Ok(transaction.commit().await?)
}

async fn write(
    connection: &mut SqliteConnection,
    account: &str,
    change: &Change,
) -> Result<(), StoreError> {
    match change {
        Change::Account(record) => write_account(connection, account, record).await,
        Change::Device(record) => {
            write_device(connection, account, record).await?;
            write_tags(connection, DEVICE_TAGS, account, &record.id.to_string(), &record.tags).await
        }
        Change::DeviceRemoved(id) => delete_device(connection, account, *id).await,
        Change::LastSeen { device, at } => {
            sqlx::query("UPDATE devices SET last_seen = $3 WHERE account_id = $1 AND id = $2")
                .bind(account)
                .bind(device.to_string())
                .bind(seconds(*at))
                .execute(connection)
                .await?;
            Ok(())
        }
        Change::JoinKey(record) => {
            write_join_key(connection, account, record).await?;
            let id = record.id.to_string();
            write_tags(connection, JOIN_KEY_TAGS, account, &id, &record.tags).await
        }
        Change::JoinKeyRemoved(id) => delete_join_key(connection, account, *id).await,
        Change::Relay(record) => relay::write(connection, Some(account), record).await,
        Change::RelayRemoved(id) => relay::delete(connection, Some(account), *id).await,
        Change::RelayList(list) => relay::write_list(connection, account, list).await,
        Change::Revoked { device, until } => {
            relay::revoke(connection, account, *device, *until).await
        }
        Change::RevocationOver(device) => relay::end_revocation(connection, account, *device).await,
        Change::Policy(policy) => write_policy(connection, account, policy).await,
        Change::Webhook(record) => webhook::write(connection, account, record).await,
        Change::WebhookRemoved(id) => webhook::delete(connection, account, *id).await,
        Change::Edge(record) => edge::write(connection, account, record).await,
        Change::EdgeItem(record) => edge::write_item(connection, account, record).await,
        Change::EdgeItemRemoved { edge, id } => {
            edge::delete_item(connection, account, *edge, *id).await
        }
        // Activity has it.
        Change::EdgeWakes { .. } => Ok(()),
    }
}

async fn write_account(
    connection: &mut SqliteConnection,
    account: &str,
    record: &AccountRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE accounts SET name = $2, ipv4_range = $3, ipv6_range = $4, next_host = $5, \
         created = $6, suspended = $7, max_devices = $8, device_approval = $9, \
         key_expiry_days = $10, max_users = $11, activity_days = $12 WHERE id = $1",
    )
    .bind(account)
    .bind(record.name.as_str())
    .bind(record.ipv4_range.to_string())
    .bind(record.ipv6_range.to_string())
    .bind(i64::from(record.next_host))
    .bind(seconds(record.created))
    .bind(record.settings.suspended)
    .bind(record.settings.device_limit.map(|limit| i64::from(limit.0)))
    .bind(record.settings.device_approval)
    .bind(record.settings.key_expiry_days.map(i64::from))
    .bind(record.settings.user_limit.map(i64::from))
    .bind(record.settings.activity_days.map(i64::from))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_device(
    connection: &mut SqliteConnection,
    account: &str,
    device: &DeviceRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO devices (account_id, id, public_key, name, ipv4, ipv6, token_hash, \
         joined_by, ephemeral, static_endpoint, os, software, created, last_seen, owner, \
         approved, expires, never_expires) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
         ON CONFLICT (account_id, id) DO UPDATE SET public_key = excluded.public_key, \
         name = excluded.name, ipv4 = excluded.ipv4, ipv6 = excluded.ipv6, \
         token_hash = excluded.token_hash, joined_by = excluded.joined_by, \
         ephemeral = excluded.ephemeral, static_endpoint = excluded.static_endpoint, \
         os = excluded.os, software = excluded.software, created = excluded.created, \
         last_seen = excluded.last_seen, owner = excluded.owner, \
         approved = excluded.approved, expires = excluded.expires, \
         never_expires = excluded.never_expires",
    )
    .bind(account)
    .bind(device.id.to_string())
    .bind(device.key.to_string())
    .bind(device.name.as_str())
    .bind(device.ipv4.to_string())
    .bind(device.ipv6.to_string())
    .bind(device.token.as_ref().map(hex))
    .bind(device.joined_by.map(|key| key.to_string()))
    .bind(device.ephemeral)
    .bind(device.static_endpoint.map(|endpoint| endpoint.to_string()))
    .bind(&device.os)
    .bind(&device.software)
    .bind(seconds(device.created))
    .bind(device.last_seen.map(seconds))
    .bind(device.owner.map(|user| user.to_string()))
    .bind(device.approved)
    .bind(device.expires.map(seconds))
    .bind(device.never_expires)
    .execute(connection)
    .await?;
    Ok(())
}

async fn delete_device(
    connection: &mut SqliteConnection,
    account: &str,
    device: DeviceId,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM devices WHERE account_id = $1 AND id = $2")
        .bind(account)
        .bind(device.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_join_key(
    connection: &mut SqliteConnection,
    account: &str,
    key: &JoinKeyRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO join_keys (account_id, id, secret_hash, reusable, ephemeral, created, \
         expires, last_used, uses, owner, approves) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (account_id, id) DO UPDATE SET secret_hash = excluded.secret_hash, \
         reusable = excluded.reusable, ephemeral = excluded.ephemeral, \
         created = excluded.created, expires = excluded.expires, \
         last_used = excluded.last_used, uses = excluded.uses, owner = excluded.owner, \
         approves = excluded.approves",
    )
    .bind(account)
    .bind(key.id.to_string())
    .bind(hex(&key.hash))
    .bind(key.reusable)
    .bind(key.ephemeral)
    .bind(seconds(key.created))
    .bind(key.expires.map(seconds))
    .bind(key.last_used.map(seconds))
    .bind(i64::from(key.uses))
    .bind(key.owner.map(|user| user.to_string()))
    .bind(key.approves)
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_policy(
    connection: &mut SqliteConnection,
    account: &str,
    policy: &PolicyRecord,
) -> Result<(), StoreError> {
    let version = i64::try_from(policy.version).map_err(|_| StoreError::nonsense("version"))?;
    sqlx::query(
        "INSERT INTO policies (account_id, version, text) VALUES ($1, $2, $3) \
         ON CONFLICT (account_id) DO UPDATE SET version = excluded.version, text = excluded.text",
    )
    .bind(account)
    .bind(version)
    .bind(policy.text.as_deref())
    .execute(connection)
    .await?;
    Ok(())
}

async fn delete_join_key(
    connection: &mut SqliteConnection,
    account: &str,
    key: JoinKeyId,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM join_keys WHERE account_id = $1 AND id = $2")
        .bind(account)
        .bind(key.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// How tags of one kind are replaced: all are deleted, then each is inserted.
struct TagStatements {
    delete: &'static str,
    insert: &'static str,
}

const DEVICE_TAGS: TagStatements = TagStatements {
    delete: "DELETE FROM device_tags WHERE account_id = $1 AND device_id = $2",
    insert: "INSERT INTO device_tags (account_id, device_id, tag) VALUES ($1, $2, $3)",
};

const JOIN_KEY_TAGS: TagStatements = TagStatements {
    delete: "DELETE FROM join_key_tags WHERE account_id = $1 AND join_key_id = $2",
    insert: "INSERT INTO join_key_tags (account_id, join_key_id, tag) VALUES ($1, $2, $3)",
};

async fn write_tags(
    connection: &mut SqliteConnection,
    statements: TagStatements,
    account: &str,
    owner: &str,
    tags: &BTreeSet<Tag>,
) -> Result<(), StoreError> {
    sqlx::query(statements.delete).bind(account).bind(owner).execute(&mut *connection).await?;
    for tag in tags {
        sqlx::query(statements.insert)
            .bind(account)
            .bind(owner)
            .bind(tag.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Seconds since the Unix epoch as the database holds them.
pub(crate) fn seconds(at: UnixTime) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

pub(crate) fn hex(hash: &SecretHash) -> String {
    hex_bytes(&hash.0)
}

pub(crate) fn hex_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
