//! The schema's versions, and whether a file is what it should be.

use std::path::Path;

use sqlx::sqlite::SqlitePool;
use sqlx::{Executor as _, Row as _};

use crate::StoreError;

/// The steps from an empty database to the present schema. They are never changed once released.
const MIGRATIONS: [&str; 10] = [
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_relays.sql"),
    include_str!("../migrations/0003_policy.sql"),
    include_str!("../migrations/0004_people.sql"),
    include_str!("../migrations/0005_admission.sql"),
    include_str!("../migrations/0006_activity.sql"),
    include_str!("../migrations/0007_webhooks.sql"),
    include_str!("../migrations/0008_edges.sql"),
    include_str!("../migrations/0009_invitation_creators.sql"),
    include_str!("../migrations/0010_edges_asked.sql"),
];

/// The newest schema that this build knows.
const KNOWN: i64 = MIGRATIONS.len() as i64;

pub(crate) async fn check_integrity(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let row = sqlx::query("PRAGMA integrity_check(1)")
        .fetch_one(pool)
        .await
        .map_err(|error| StoreError::from(error).at(path))?;
    let verdict: String = row.try_get(0)?;
    if verdict != "ok" {
        return Err(damaged(verdict));
    }
    let orphans = sqlx::query("PRAGMA foreign_key_check").fetch_optional(pool).await?;
    if orphans.is_some() {
        return Err(damaged("entries that belong to nothing".to_owned()));
    }
    Ok(())
}

/// Brings the schema up to date in one transaction.
pub(crate) async fn migrate(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    run_steps(pool, path).await.map_err(|error| error.on_disk_of(path))
}

async fn run_steps(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    transaction
        .execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
        .await?;
    let row = sqlx::query("SELECT COALESCE(MAX(version), 0) FROM schema_version")
        .fetch_one(&mut *transaction)
        .await?;
    let found: i64 = row.try_get(0)?;
    if found > KNOWN {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known: KNOWN });
    }
    for (step, version) in MIGRATIONS.into_iter().zip(1i64..) {
        if version > found {
            transaction.execute(step).await?;
            sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
                .bind(version)
                .execute(&mut *transaction)
                .await?;
            tracing::info!(version, "database schema brought up to date");
        }
    }
    Ok(transaction.commit().await?)
}
