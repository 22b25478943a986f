//! Reading accounts as they are stored.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row as _, SqlitePool};
use warren_coord::{
    AccountRecord, AccountSettings, DeviceLimit, DeviceRecord, JoinKeyRecord, PolicyRecord,
    SecretHash, Snapshot, Tag, UnixTime,
};
use warren_proto::AccountId;

use crate::{Store, StoreError, edge, relay, webhook};

impl Store {
    /// Loads one account; `None` if there is no such account.
    ///
    /// # Errors
    /// When the database can't be read or holds what no version of this crate has written.
    pub async fn load(&self, account: AccountId) -> Result<Option<Snapshot>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query("SELECT * FROM accounts WHERE id = $1")
            .bind(account.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        match row {
            Some(row) => Ok(Some(load_account(&mut transaction, &row).await?)),
            None => Ok(None),
        }
    }

    /// Loads all accounts, by id.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn load_all(&self) -> Result<Vec<Snapshot>, StoreError> {
        load_all(&self.pool).await
    }
}

async fn load_all(pool: &SqlitePool) -> Result<Vec<Snapshot>, StoreError> {
    let mut transaction = pool.begin().await?;
    let rows =
        sqlx::query("SELECT * FROM accounts ORDER BY id").fetch_all(&mut *transaction).await?;
    let mut snapshots = Vec::with_capacity(rows.len());
    for row in rows {
        snapshots.push(load_account(&mut transaction, &row).await?);
    }
    Ok(snapshots)
}

async fn load_account(
    connection: &mut SqliteConnection,
    row: &SqliteRow,
) -> Result<Snapshot, StoreError> {
    let id: String = row.try_get("id")?;
    let account = AccountRecord {
        id: parse(row, "id")?,
        name: parse(row, "name")?,
        ipv4_range: parse(row, "ipv4_range")?,
        ipv6_range: parse(row, "ipv6_range")?,
        next_host: number(row, "next_host")?,
        created: UnixTime(number(row, "created")?),
        settings: settings(row)?,
    };
    let select = "SELECT device_id, tag FROM device_tags WHERE account_id = $1";
    let mut tags = load_tags(connection, select, &id).await?;
    let rows = sqlx::query("SELECT * FROM devices WHERE account_id = $1 ORDER BY id")
        .bind(&id)
        .fetch_all(&mut *connection)
        .await?;
    let devices = rows.iter().map(|row| device(row, &mut tags)).collect::<Result<_, _>>()?;
    let select = "SELECT join_key_id, tag FROM join_key_tags WHERE account_id = $1";
    let mut tags = load_tags(connection, select, &id).await?;
    let rows = sqlx::query("SELECT * FROM join_keys WHERE account_id = $1 ORDER BY id")
        .bind(&id)
        .fetch_all(&mut *connection)
        .await?;
    let join_keys = rows.iter().map(|row| join_key(row, &mut tags)).collect::<Result<_, _>>()?;
    let relays = relay::load(connection, &id).await?;
    let relay_list = relay::load_list(connection, &id).await?;
    let revoked = relay::load_revoked(connection, &id).await?;
    let policy = load_policy(connection, &id).await?;
    let webhooks = webhook::load(connection, &id).await?;
    let edges = edge::load(connection, &id).await?;
    let edge_items = edge::load_items(connection, &id).await?;
    Ok(Snapshot {
        account,
        devices,
        join_keys,
        relays,
        relay_list,
        revoked,
        policy,
        webhooks,
        edges,
        edge_items,
    })
}

async fn load_policy(
    connection: &mut SqliteConnection,
    account: &str,
) -> Result<PolicyRecord, StoreError> {
    let row = sqlx::query("SELECT version, text FROM policies WHERE account_id = $1")
        .bind(account)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(PolicyRecord::INITIAL) };
    Ok(PolicyRecord { version: number(&row, "version")?, text: optional(&row, "text")? })
}

fn settings(row: &SqliteRow) -> Result<AccountSettings, StoreError> {
    Ok(AccountSettings {
        suspended: row.try_get("suspended")?,
        device_limit: optional_number(row, "max_devices")?.map(DeviceLimit),
        user_limit: optional_number(row, "max_users")?,
        device_approval: row.try_get("device_approval")?,
        key_expiry_days: optional_number(row, "key_expiry_days")?,
        activity_days: optional_number(row, "activity_days")?,
    })
}

type TagsByOwner = BTreeMap<String, BTreeSet<Tag>>;

async fn load_tags(
    connection: &mut SqliteConnection,
    select: &'static str,
    account: &str,
) -> Result<TagsByOwner, StoreError> {
    let mut tags = TagsByOwner::new();
    for row in sqlx::query(select).bind(account).fetch_all(connection).await? {
        tags.entry(row.try_get(0)?).or_default().insert(parse(&row, "tag")?);
    }
    Ok(tags)
}

fn device(row: &SqliteRow, tags: &mut TagsByOwner) -> Result<DeviceRecord, StoreError> {
    Ok(DeviceRecord {
        id: parse(row, "id")?,
        key: parse(row, "public_key")?,
        name: parse(row, "name")?,
        ipv4: parse(row, "ipv4")?,
        ipv6: parse(row, "ipv6")?,
        token: optional::<String>(row, "token_hash")?.map(|hash| secret_hash(&hash)).transpose()?,
        joined_by: parse_optional(row, "joined_by")?,
        ephemeral: row.try_get("ephemeral")?,
        tags: tags.remove(row.try_get::<&str, _>("id")?).unwrap_or_default(),
        owner: parse_optional(row, "owner")?,
        static_endpoint: parse_optional(row, "static_endpoint")?,
        os: row.try_get("os")?,
        software: row.try_get("software")?,
        created: UnixTime(number(row, "created")?),
        last_seen: optional_time(row, "last_seen")?,
        approved: row.try_get("approved")?,
        expires: optional_time(row, "expires")?,
        never_expires: row.try_get("never_expires")?,
    })
}

fn join_key(row: &SqliteRow, tags: &mut TagsByOwner) -> Result<JoinKeyRecord, StoreError> {
    Ok(JoinKeyRecord {
        id: parse(row, "id")?,
        hash: secret_hash(row.try_get("secret_hash")?)?,
        reusable: row.try_get("reusable")?,
        ephemeral: row.try_get("ephemeral")?,
        tags: tags.remove(row.try_get::<&str, _>("id")?).unwrap_or_default(),
        owner: parse_optional(row, "owner")?,
        approves: row.try_get("approves")?,
        created: UnixTime(number(row, "created")?),
        expires: optional_time(row, "expires")?,
        last_used: optional_time(row, "last_used")?,
        uses: number(row, "uses")?,
    })
}

pub(crate) fn parse<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| StoreError::nonsense(column))
}

pub(crate) fn parse_optional<T: FromStr>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    let text = optional::<String>(row, column)?;
    text.map(|text| text.parse().map_err(|_| StoreError::nonsense(column))).transpose()
}

pub(crate) fn optional<'r, T>(
    row: &'r SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError>
where
    Option<T>: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    Ok(row.try_get(column)?)
}

pub(crate) fn number<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<T, StoreError> {
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|_| StoreError::nonsense(column))
}

pub(crate) fn time(row: &SqliteRow, column: &'static str) -> Result<UnixTime, StoreError> {
    number(row, column).map(UnixTime)
}

pub(crate) fn optional_time(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<UnixTime>, StoreError> {
    Ok(optional_number(row, column)?.map(UnixTime))
}

pub(crate) fn optional_number<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    let number: Option<i64> = optional(row, column)?;
    number.map(|it| T::try_from(it).map_err(|_| StoreError::nonsense(column))).transpose()
}

pub(crate) fn secret_hash(hex: &str) -> Result<SecretHash, StoreError> {
    let nonsense = || StoreError::nonsense("hash");
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(nonsense());
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| nonsense())?;
    }
    Ok(SecretHash(hash))
}
