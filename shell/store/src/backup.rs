//! Backup and restore while the broker runs.

use std::fs::File;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnection;
use sqlx::{Executor as _, Row as _};

use crate::{Store, StoreError, create_private};

impl Store {
    /// Writes all of the database, as it is at one moment, to a new file, which is there whole or
    /// not at all. Commits go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::DiskFull`], or a failure of the file system.
    pub async fn backup_to(&self, path: &Path) -> Result<(), StoreError> {
        if path.exists() {
            return Err(StoreError::Exists(path.to_owned()));
        }
        let partial = beside(path, "partial");
        remove_if_there(&partial)?;
        create_private(&partial)?;
        let written = self.vacuum_into(&partial).await;
        let placed =
            written.and_then(|()| place(&partial, path)).map_err(|error| error.on_disk_of(path));
        if placed.is_err() {
            remove_if_there(&partial)?;
        }
        placed
    }

    async fn vacuum_into(&self, path: &Path) -> Result<(), StoreError> {
        let text = path.to_str().ok_or_else(|| not_unicode(path))?;
        sqlx::query("VACUUM INTO $1").bind(text).execute(&self.pool).await?;
        Ok(())
    }

    /// Replaces all that the database holds by what a backup holds, in one transaction: a crash
    /// leaves either the one or the other. Backups of older schemas are brought up to date first;
    /// the backup itself isn't touched.
    ///
    /// All leases are void afterwards: take them again and load everything anew.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::NewerSchema`] for the backup, or as
    /// [`Store::commit`]. The database is as it was then.
    pub async fn restore_from(&self, backup: &Path) -> Result<(), StoreError> {
        let copy = beside(&self.path, "restoring");
        remove_database(&copy)?;
        let result = self.restore_copy(backup, &copy).await;
        remove_database(&copy)?;
        result.map_err(|error| error.on_disk_of(&self.path))
    }

    async fn restore_copy(&self, backup: &Path, copy: &Path) -> Result<(), StoreError> {
        create_private(copy)?;
        std::fs::copy(backup, copy).map_err(|error| StoreError::io(backup, error))?;
        match Store::open(copy).await {
            Ok(store) => store.close().await,
            Err(error) => return Err(error.at(backup)),
        }
        let mut connection = self.pool.acquire().await?;
        let text = copy.to_str().ok_or_else(|| not_unicode(copy))?;
        sqlx::query("ATTACH DATABASE $1 AS backup").bind(text).execute(&mut *connection).await?;
        let replaced = replace_all(&mut connection).await;
        if replaced.is_err() {
            // After a failure in the midst of a statement the transaction may be gone already.
            if let Err(error) = connection.execute("ROLLBACK").await {
                tracing::debug!(%error, "no restore to roll back");
            }
        }
        connection.execute("DETACH DATABASE backup").await?;
        replaced
    }
}

/// Owners before what they own, so that foreign keys hold at every step.
const TABLES: [(&str, &str); 23] = [
    ("settings", "name, value"),
    (
        "accounts",
        "id, name, ipv4_range, ipv6_range, next_host, created, lease_epoch, suspended, \
         max_devices, device_approval, key_expiry_days, max_users, \
         activity_days",
    ),
    (
        "join_keys",
        "account_id, id, secret_hash, reusable, ephemeral, created, expires, last_used, uses, owner, \
         approves",
    ),
    ("join_key_tags", "account_id, join_key_id, tag"),
    (
        "devices",
        "account_id, id, public_key, name, ipv4, ipv6, token_hash, joined_by, ephemeral, \
         static_endpoint, os, software, created, last_seen, owner, approved, expires, \
         never_expires",
    ),
    ("device_tags", "account_id, device_id, tag"),
    ("edges", "account_id, device_id, enabled, asked"),
    ("edge_items", "account_id, device_id, kind, id, item, created"),
    (
        "relays",
        "id, account_id, name, kind, device_id, token_hash, url, username, secret, \
         previous_secret, addresses, created",
    ),
    ("policies", "account_id, version, text"),
    ("relay_list", "account_id, position, relay_id, preference"),
    ("revocations", "account_id, device_id, until"),
    (
        "webhooks",
        "account_id, id, url, events, secret, previous_secret, previous_until, created, \
         failing_since, off",
    ),
    (
        "webhook_deliveries",
        "account_id, webhook_id, id, event, body, created, due, attempts, tried, status, error, \
         arrived",
    ),
    ("webhook_cursors", "account_id, own, broker"),
    ("leases", "name, epoch"),
    (
        "users",
        "id, email, name, password, totp_secret, totp_last_step, recovery_codes, identities, \
         operator, suspended, created, last_seen",
    ),
    ("memberships", "user_id, account_id, role, created"),
    ("invitations", "id, secret_hash, account_id, role, email, created, expires, creator_id"),
    (
        "web_sessions",
        "id, secret_hash, user_id, method, user_agent, address, created, last_used, expires",
    ),
    (
        "api_tokens",
        "id, secret_hash, name, account_id, scopes, creator, created, expires, last_used",
    ),
    ("one_time_links", "secret_hash, user_id, second_factor, expires"),
    (
        "activity",
        "chain, sequence, at, actor_kind, actor_id, actor_name, source, account_id, action, \
         subject_kind, subject_id, subject_name, fields, previous, hash",
    ),
];

async fn replace_all(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    connection.execute("BEGIN IMMEDIATE").await?;
    let row = sqlx::query("SELECT COALESCE(MAX(lease_epoch), 0) FROM main.accounts")
        .fetch_one(&mut *connection)
        .await?;
    let newest: i64 = row.try_get(0)?;
    let row = sqlx::query("SELECT COALESCE(MAX(epoch), 0) FROM main.leases")
        .fetch_one(&mut *connection)
        .await?;
    let newest_lease: i64 = row.try_get(0)?;
    for (table, _) in TABLES.iter().rev() {
        let statement = format!("DELETE FROM main.{table}");
        connection.execute(sqlx::AssertSqlSafe(statement)).await?;
    }
    for (table, columns) in TABLES {
        let statement =
            format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM backup.{table}");
        connection.execute(sqlx::AssertSqlSafe(statement)).await?;
    }
    sqlx::query(
        "UPDATE main.accounts SET lease_epoch = \
         CASE WHEN lease_epoch > $1 THEN lease_epoch ELSE $1 END + 1",
    )
    .bind(newest)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE main.leases SET epoch = CASE WHEN epoch > $1 THEN epoch ELSE $1 END + 1")
        .bind(newest_lease)
        .execute(&mut *connection)
        .await?;
    connection.execute("COMMIT").await?;
    Ok(())
}

/// Gives a file that was written whole its name, safely.
fn place(partial: &Path, path: &Path) -> Result<(), StoreError> {
    let sync = File::open(partial).and_then(|file| file.sync_all());
    sync.map_err(|error| StoreError::io(partial, error))?;
    std::fs::rename(partial, path).map_err(|error| StoreError::io(path, error))?;
    sync_folder(path)
}

/// Makes the name of a new file survive a crash.
pub(crate) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|error| StoreError::io(folder, error))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn remove_database(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        remove_if_there(Path::new(&name))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io(path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn not_unicode(path: &Path) -> StoreError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the name isn't Unicode");
    StoreError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that was forgotten would be lost by every restore.
    #[tokio::test]
    async fn a_restore_brings_every_column_of_every_table() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("warren.db")).await.unwrap();
        let rows = sqlx::query(
            "SELECT m.name, group_concat(c.name, ', ') FROM sqlite_schema m, \
             pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' \
             AND m.name <> 'schema_version' GROUP BY m.name",
        )
        .fetch_all(&store.pool)
        .await
        .unwrap();
        let sorted = |columns: &str| {
            let mut columns: Vec<String> = columns.split(", ").map(str::to_owned).collect();
            columns.sort();
            columns
        };
        let mut schema: Vec<(String, Vec<String>)> =
            rows.iter().map(|row| (row.get(0), sorted(row.get(1)))).collect();
        schema.sort();
        let mut listed: Vec<(String, Vec<String>)> =
            TABLES.iter().map(|(table, columns)| ((*table).to_owned(), sorted(columns))).collect();
        listed.sort();
        assert_eq!(schema, listed);
    }
}
