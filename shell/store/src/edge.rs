//! Edges, and what they open.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use warren_coord::{EdgeItemId, EdgeItemRecord, EdgeRecord};
use warren_proto::DeviceId;

use crate::StoreError;
use crate::commit::seconds;
use crate::load::{parse, time};
use crate::people::{from_json, json};

pub(crate) async fn write(
    connection: &mut SqliteConnection,
    account: &str,
    edge: &EdgeRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO edges (account_id, device_id, enabled, asked) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (account_id, device_id) DO UPDATE SET enabled = excluded.enabled, \
         asked = excluded.asked",
    )
    .bind(account)
    .bind(edge.device.to_string())
    .bind(edge.enabled)
    .bind(edge.asked)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn write_item(
    connection: &mut SqliteConnection,
    account: &str,
    record: &EdgeItemRecord,
) -> Result<(), StoreError> {
    let id = record.item.id();
    sqlx::query(
        "INSERT INTO edge_items (account_id, device_id, kind, id, item, created) \
         VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (account_id, device_id, kind, id) DO UPDATE SET item = excluded.item, \
         created = excluded.created",
    )
    .bind(account)
    .bind(record.edge.to_string())
    .bind(id.kind())
    .bind(id.to_string())
    .bind(json(&record.item)?)
    .bind(seconds(record.created))
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn delete_item(
    connection: &mut SqliteConnection,
    account: &str,
    edge: DeviceId,
    id: EdgeItemId,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM edge_items \
         WHERE account_id = $1 AND device_id = $2 AND kind = $3 AND id = $4",
    )
    .bind(account)
    .bind(edge.to_string())
    .bind(id.kind())
    .bind(id.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn load(
    connection: &mut SqliteConnection,
    account: &str,
) -> Result<Vec<EdgeRecord>, StoreError> {
    let rows = sqlx::query("SELECT * FROM edges WHERE account_id = $1 ORDER BY device_id")
        .bind(account)
        .fetch_all(connection)
        .await?;
    let edge = |row: &SqliteRow| {
        Ok(EdgeRecord {
            device: parse(row, "device_id")?,
            enabled: row.try_get("enabled")?,
            asked: row.try_get("asked")?,
        })
    };
    rows.iter().map(edge).collect()
}

pub(crate) async fn load_items(
    connection: &mut SqliteConnection,
    account: &str,
) -> Result<Vec<EdgeItemRecord>, StoreError> {
    let rows = sqlx::query("SELECT * FROM edge_items WHERE account_id = $1")
        .bind(account)
        .fetch_all(connection)
        .await?;
    let item = |row: &SqliteRow| {
        Ok(EdgeItemRecord {
            edge: parse(row, "device_id")?,
            item: from_json(row, "item")?,
            created: time(row, "created")?,
        })
    };
    let mut items = rows.iter().map(item).collect::<Result<Vec<_>, StoreError>>()?;
    items.sort_by_key(|record| (record.edge, record.item.id()));
    Ok(items)
}
