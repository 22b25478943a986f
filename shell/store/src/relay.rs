//! Relays: an account's own, its list of them, and the devices that they are to refuse; and the
//! operator's.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use warren_coord::{Chain, Entry, ListedRelay, RelayFace, RelayKind, RelayRecord, UnixTime};
use warren_proto::{AccountId, DeviceId, RelayId, RelayTls};

use crate::commit::{hex, seconds};
use crate::load::{number, parse, secret_hash};
use crate::{Store, StoreError, activity};

impl Store {
    /// The relays that the operator offers to all accounts, by id.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn operator_relays(&self) -> Result<Vec<RelayRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM relays WHERE account_id IS NULL ORDER BY id")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(record).collect()
    }

    /// Stores one of the operator's relays, in place of what was there, with the entries of Activity.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn put_operator_relay(
        &self,
        relay: &RelayRecord,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        let written = put_operators(&mut connection, relay, entries).await;
        self.settle(connection, written).await
    }

    /// Deletes one of the operator's relays, with the entries of Activity.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn remove_operator_relay(
        &self,
        relay: RelayId,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        let deleted = delete_operators(&mut connection, relay, entries).await;
        self.settle(connection, deleted).await
    }

    /// The devices of accounts that were removed, which the operator's relays are to refuse.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn orphaned_revocations(&self) -> Result<Vec<DeviceId>, StoreError> {
        let rows = sqlx::query(
            "SELECT device_id FROM revocations WHERE account_id NOT IN (SELECT id FROM accounts) \
             ORDER BY device_id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| parse(row, "device_id")).collect()
    }

    /// Forgets what no relay needs to refuse any more: of accounts that were removed.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn end_orphaned_revocations(&self, now: UnixTime) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM revocations WHERE until < $1 \
             AND account_id NOT IN (SELECT id FROM accounts)",
        )
        .bind(seconds(now))
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }
}

async fn put_operators(
    connection: &mut SqliteConnection,
    relay: &RelayRecord,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    write(&mut transaction, None, relay).await?;
    activity::append(&mut transaction, Chain::Broker, entries).await?;
    Ok(transaction.commit().await?)
}

async fn delete_operators(
    connection: &mut SqliteConnection,
    relay: RelayId,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    delete(&mut transaction, None, relay).await?;
    activity::append(&mut transaction, Chain::Broker, entries).await?;
    Ok(transaction.commit().await?)
}

/// Has relays refuse all devices of an account that is being removed.
pub(crate) async fn revoke_all(
    connection: &mut SqliteConnection,
    account: AccountId,
    until: UnixTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO revocations (account_id, device_id, until) \
         SELECT account_id, id, $2 FROM devices WHERE account_id = $1 \
         ON CONFLICT (account_id, device_id) DO UPDATE SET until = excluded.until",
    )
    .bind(account.to_string())
    .bind(seconds(until))
    .execute(connection)
    .await?;
    Ok(())
}

/// Addresses as the database holds them.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Addresses {
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    tls: Vec<RelayTls>,
}

pub(crate) async fn write(
    connection: &mut SqliteConnection,
    account: Option<&str>,
    relay: &RelayRecord,
) -> Result<(), StoreError> {
    let (kind, device, token, url, username) = match &relay.kind {
        RelayKind::Device(device) => ("device", Some(device.to_string()), None, None, None),
        RelayKind::Server { token } => ("server", None, Some(hex(token)), None, None),
        RelayKind::Turn { url, username } => {
            ("turn", None, None, Some(url.clone()), username.clone())
        }
        RelayKind::Own => return Err(StoreError::nonsense("stored relay of the broker itself")),
    };
    let RelayFace { udp, tcp, tls } = relay.face.clone();
    let addresses = serde_json::to_string(&Addresses { udp, tcp, tls })
        .map_err(|_| StoreError::nonsense("relay's address"))?;
    sqlx::query(
        "INSERT INTO relays (id, account_id, name, kind, device_id, token_hash, url, username, \
         secret, previous_secret, addresses, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, kind = excluded.kind, \
         device_id = excluded.device_id, token_hash = excluded.token_hash, url = excluded.url, \
         username = excluded.username, secret = excluded.secret, \
         previous_secret = excluded.previous_secret, addresses = excluded.addresses, \
         created = excluded.created",
    )
    .bind(relay.id.to_string())
    .bind(account)
    .bind(relay.name.as_str())
    .bind(kind)
    .bind(device)
    .bind(token)
    .bind(url)
    .bind(username)
    .bind(&relay.secret)
    .bind(&relay.previous_secret)
    .bind(addresses)
    .bind(seconds(relay.created))
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn delete(
    connection: &mut SqliteConnection,
    account: Option<&str>,
    relay: RelayId,
) -> Result<(), StoreError> {
    let statement = match account {
        Some(_) => "DELETE FROM relays WHERE id = $1 AND account_id = $2",
        None => "DELETE FROM relays WHERE id = $1 AND account_id IS NULL AND $2 IS NULL",
    };
    sqlx::query(statement).bind(relay.to_string()).bind(account).execute(connection).await?;
    Ok(())
}

pub(crate) async fn write_list(
    connection: &mut SqliteConnection,
    account: &str,
    list: &[ListedRelay],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM relay_list WHERE account_id = $1")
        .bind(account)
        .execute(&mut *connection)
        .await?;
    for (position, entry) in (0i64..).zip(list) {
        sqlx::query(
            "INSERT INTO relay_list (account_id, position, relay_id, preference) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(account)
        .bind(position)
        .bind(entry.relay.to_string())
        .bind(i64::from(entry.rank))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

pub(crate) async fn revoke(
    connection: &mut SqliteConnection,
    account: &str,
    device: DeviceId,
    until: UnixTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO revocations (account_id, device_id, until) VALUES ($1, $2, $3) \
         ON CONFLICT (account_id, device_id) DO UPDATE SET until = excluded.until",
    )
    .bind(account)
    .bind(device.to_string())
    .bind(seconds(until))
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn end_revocation(
    connection: &mut SqliteConnection,
    account: &str,
    device: DeviceId,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM revocations WHERE account_id = $1 AND device_id = $2")
        .bind(account)
        .bind(device.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn load(
    connection: &mut SqliteConnection,
    account: &str,
) -> Result<Vec<RelayRecord>, StoreError> {
    let rows = sqlx::query("SELECT * FROM relays WHERE account_id = $1 ORDER BY id")
        .bind(account)
        .fetch_all(connection)
        .await?;
    rows.iter().map(record).collect()
}

pub(crate) async fn load_list(
    connection: &mut SqliteConnection,
    account: &str,
) -> Result<Vec<ListedRelay>, StoreError> {
    let rows = sqlx::query("SELECT * FROM relay_list WHERE account_id = $1 ORDER BY position")
        .bind(account)
        .fetch_all(connection)
        .await?;
    let entry = |row: &SqliteRow| {
        Ok(ListedRelay { relay: parse(row, "relay_id")?, rank: number(row, "preference")? })
    };
    rows.iter().map(entry).collect()
}

pub(crate) async fn load_revoked(
    connection: &mut SqliteConnection,
    account: &str,
) -> Result<BTreeMap<DeviceId, UnixTime>, StoreError> {
    let rows = sqlx::query("SELECT * FROM revocations WHERE account_id = $1")
        .bind(account)
        .fetch_all(connection)
        .await?;
    let entry = |row: &SqliteRow| Ok((parse(row, "device_id")?, UnixTime(number(row, "until")?)));
    rows.iter().map(entry).collect()
}

fn record(row: &SqliteRow) -> Result<RelayRecord, StoreError> {
    let kind = match row.try_get("kind")? {
        "device" => RelayKind::Device(parse(row, "device_id")?),
        "server" => RelayKind::Server { token: secret_hash(row.try_get("token_hash")?)? },
        "turn" => RelayKind::Turn { url: row.try_get("url")?, username: row.try_get("username")? },
        _ => return Err(StoreError::nonsense("kind of relay")),
    };
    let addresses: Addresses = serde_json::from_str(row.try_get("addresses")?)
        .map_err(|_| StoreError::nonsense("relay's address"))?;
    Ok(RelayRecord {
        id: parse(row, "id")?,
        name: parse(row, "name")?,
        kind,
        secret: row.try_get("secret")?,
        previous_secret: row.try_get("previous_secret")?,
        face: RelayFace { udp: addresses.udp, tcp: addresses.tcp, tls: addresses.tls },
        created: UnixTime(number(row, "created")?),
    })
}
