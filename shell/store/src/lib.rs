//! Loads and commits the broker's durable state against SQLite.
//!
//! One file, in WAL mode with `synchronous=FULL`: when [`Store::commit`] returns, the changes are on
//! the disk. Every commit is fenced: it names the lease ([`LeaseEpoch`]) under which its process
//! owns the account, and is refused in the same transaction if another process has taken the
//! account over. People have a lease of their own. What changes something is committed together with
//! its entries of Activity. A lease's epoch is at least the wall clock in milliseconds, so that it never
//! repeats, not even after an older database was restored; netmaps are served under it.
//!
//! The tables are plain (`migrations/`), so that PostgreSQL can hold them as well.

mod activity;
mod backup;
mod commit;
mod edge;
mod error;
mod load;
mod people;
mod relay;
mod schema;
mod webhook;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use warren_coord::{AccountRecord, Entry, LeaseEpoch, UnixTime};
use warren_proto::AccountId;

pub use activity::{ActivityCursor, ActivityFilter, ActivityPage, ChainReport};
pub use error::StoreError;
pub use webhook::{Attempt, Delivery, NewDelivery, WebhookCursor};

/// A database that is open. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    path: PathBuf,
}

impl Store {
    /// Opens a database, or makes one (readable by its owner alone), checks it and brings its
    /// schema up to date. The folder must exist.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::NewerSchema`], [`StoreError::DiskFull`], or another
    /// reason why the file can't be used.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        // A connection that was there before a migration has an old idea of the tables.
        let pool = connect(options.clone(), path).await?;
        let prepared = prepare(&pool, path).await;
        pool.close().await;
        prepared?;
        Ok(Self { pool: connect(options, path).await?, path: path.to_owned() })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finishes what is under way, folds the log into the database file and closes it.
    pub async fn close(self) {
        self.pool.close().await;
    }

    /// Stores a new account, and what Activity says of it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if its id, name or IPv6 range is taken, or as [`Store::commit`].
    pub async fn create_account(
        &self,
        account: &AccountRecord,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        let created = commit::create_account(&mut connection, account, entries).await;
        self.settle(connection, created).await
    }

    /// Deletes an account with all that belongs to it. The operator's relays are to refuse its
    /// devices until then.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::NoAccount`], or as [`Store::commit`].
    pub async fn remove_account(
        &self,
        account: AccountId,
        lease: LeaseEpoch,
        revoked_until: UnixTime,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        let removed =
            commit::remove_account(&mut connection, account, lease, revoked_until, entries).await;
        self.settle(connection, removed).await
    }

    /// Takes an account over: from here on commits under its earlier leases are refused.
    ///
    /// # Errors
    /// [`StoreError::NoAccount`], or as [`Store::commit`].
    pub async fn take_lease(&self, account: AccountId) -> Result<LeaseEpoch, StoreError> {
        let row = sqlx::query(
            "UPDATE accounts SET lease_epoch = \
             CASE WHEN lease_epoch + 1 > $2 THEN lease_epoch + 1 ELSE $2 END \
             WHERE id = $1 RETURNING lease_epoch",
        )
        .bind(account.to_string())
        .bind(wall_clock_epoch())
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?
        .ok_or(StoreError::NoAccount)?;
        let epoch: i64 = row.try_get(0)?;
        u64::try_from(epoch).map(LeaseEpoch).map_err(|_| StoreError::nonsense("lease epoch"))
    }

    /// A broker-wide setting.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Sets a broker-wide setting.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO settings (name, value) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(value)
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn failed(&self, error: sqlx::Error) -> StoreError {
        StoreError::from(error).on_disk_of(&self.path)
    }
}

async fn prepare(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    schema::check_integrity(pool, path).await?;
    schema::migrate(pool, path).await
}

/// A lease's epoch is at least this.
pub(crate) fn wall_clock_epoch() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(0)
}

async fn connect(options: SqliteConnectOptions, path: &Path) -> Result<SqlitePool, StoreError> {
    // One connection writes; the second lets a backup read meanwhile.
    SqlitePoolOptions::new()
        .max_connections(2)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(|error| StoreError::from(error).at(path))
}

/// Makes the file if there is none: it holds hashes of secrets, and who is in which account.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(file) => {
            file.sync_all().map_err(|error| StoreError::io(path, error))?;
            backup::sync_folder(path)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io(path, error)),
    }
}
