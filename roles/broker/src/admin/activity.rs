//! The API's operations on Activity.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warren_coord::{ChainedEntry, Right};
use warren_store::{ActivityCursor, ActivityFilter, ChainReport, StoreError};

use super::Time;
use super::operation::Operation;
use super::paged::Query;
use super::people_types::{
    ActivityEntry, ActivityPage, ActivityQuery, ChainHead, ChainState, ExportQuery, FieldChange,
    Named,
};
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::export::{Format, export};

const EXPORT: &str = "All entries, in the order of their chains, one JSON object on each line";
const EXPORT_CSV: &str = "All entries, in the order of their chains, for spreadsheets";
const USUAL_LIMIT: u32 = 100;
const LARGEST_LIMIT: u32 = 1_000;

type Shared = State<Arc<Broker>>;

/// Operations on Activity.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/activity", "listActivity", "Who changed what, the newest first", list)
            .needs(Right::ReadBroker)
            .asks::<ActivityQuery>()
            .gives::<ActivityPage>(),
        Operation::get(
            "/accounts/{account}/activity",
            "listAccountActivity",
            "Who changed what in the account, the newest first",
            list_of_account,
        )
        .needs(Right::ReadActivity)
        .asks::<ActivityQuery>()
        .gives::<ActivityPage>(),
        Operation::get("/activity.jsonl", "exportActivity", EXPORT, json_lines)
            .needs(Right::ReadBroker)
            .asks::<ExportQuery>()
            .gives_media(Format::JSON_LINES_TYPE),
        Operation::get("/activity.csv", "exportActivityAsCsv", EXPORT_CSV, csv)
            .needs(Right::ReadBroker)
            .asks::<ExportQuery>()
            .gives_media(Format::CSV_TYPE),
        Operation::get(
            "/accounts/{account}/activity.jsonl",
            "exportAccountActivity",
            EXPORT,
            json_lines_of_account,
        )
        .needs(Right::ReadActivity)
        .asks::<ExportQuery>()
        .gives_media(Format::JSON_LINES_TYPE),
        Operation::get(
            "/accounts/{account}/activity.csv",
            "exportAccountActivityAsCsv",
            EXPORT_CSV,
            csv_of_account,
        )
        .needs(Right::ReadActivity)
        .asks::<ExportQuery>()
        .gives_media(Format::CSV_TYPE),
        Operation::get(
            "/activity/chains",
            "verifyActivity",
            "Checks that nothing in Activity was changed",
            verify,
        )
        .needs(Right::ReadBroker)
        .gives::<Vec<ChainState>>(),
    ]
}

async fn list(
    State(broker): Shared,
    Query(query): Query<ActivityQuery>,
) -> ApiResult<Json<ActivityPage>> {
    page(&broker, query).await
}

async fn list_of_account(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(query): Query<ActivityQuery>,
) -> ApiResult<Json<ActivityPage>> {
    page(&broker, ActivityQuery { account: Some(account), ..query }).await
}

async fn json_lines(
    State(broker): Shared,
    Query(query): Query<ExportQuery>,
) -> ApiResult<Response> {
    Ok(export(broker.store.clone(), filter(&broker, query)?, Format::JsonLines))
}

async fn csv(State(broker): Shared, Query(query): Query<ExportQuery>) -> ApiResult<Response> {
    Ok(export(broker.store.clone(), filter(&broker, query)?, Format::Csv))
}

async fn json_lines_of_account(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(query): Query<ExportQuery>,
) -> ApiResult<Response> {
    let query = ExportQuery { account: Some(account), ..query };
    Ok(export(broker.store.clone(), filter(&broker, query)?, Format::JsonLines))
}

async fn csv_of_account(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(query): Query<ExportQuery>,
) -> ApiResult<Response> {
    let query = ExportQuery { account: Some(account), ..query };
    Ok(export(broker.store.clone(), filter(&broker, query)?, Format::Csv))
}

fn filter(broker: &Broker, query: ExportQuery) -> ApiResult<ActivityFilter> {
    let ExportQuery { account, actor, action, subject, since, until } = query;
    let account = account.as_deref().map(|text| broker.accounts.find(text)).transpose()?;
    Ok(ActivityFilter {
        account: account.map(|account| account.id()),
        actor,
        action,
        subject,
        about: None,
        since: since.map(|at| at.0.saturating_mul(1_000)),
        until: until.map(|at| at.0.saturating_mul(1_000)),
    })
}

async fn page(broker: &Broker, query: ActivityQuery) -> ApiResult<Json<ActivityPage>> {
    let (cursor, limit) = (query.cursor.clone(), query.limit);
    let filter = filter(broker, query.into())?;
    let cursor = cursor.as_deref().map(parse_cursor).transpose()?;
    let limit = limit.unwrap_or(USUAL_LIMIT).clamp(1, LARGEST_LIMIT);
    let page = broker.store.activity(&filter, cursor.as_ref(), limit).await.map_err(unread)?;
    let next = page.next.as_ref().map(cursor_text).transpose()?;
    Ok(Json(ActivityPage { entries: page.entries.into_iter().map(entry_view).collect(), next }))
}

async fn verify(State(broker): Shared) -> ApiResult<Json<Vec<ChainState>>> {
    let reports = broker.store.verify_activity().await.map_err(unread)?;
    Ok(Json(reports.iter().map(chain_view).collect()))
}

fn unread(error: StoreError) -> Failure {
    Failure::unavailable(&error.into())
}

/// A cursor is opaque to who gets it.
fn cursor_text(cursor: &ActivityCursor) -> ApiResult<String> {
    let json = serde_json::to_vec(cursor).map_err(|error| Failure::unavailable(&error.into()))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn parse_cursor(text: &str) -> ApiResult<ActivityCursor> {
    let json = URL_SAFE_NO_PAD.decode(text).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| Failure::invalid("this cursor isn't one that a page before gave"))
}

/// An entry as the API tells it.
pub(crate) fn entry_view(chained: ChainedEntry) -> ActivityEntry {
    let named =
        |named: warren_coord::Named| Named { kind: named.kind, id: named.id, name: named.name };
    let entry = chained.entry;
    let changes = entry.fields.into_iter().map(|it| FieldChange {
        field: it.field,
        before: it.before,
        after: it.after,
    });
    ActivityEntry {
        at: Time(entry.at / 1_000),
        at_millis: entry.at,
        actor: named(entry.actor),
        source: entry.source,
        account: entry.account,
        action: entry.action,
        subject: named(entry.subject),
        changes: changes.collect(),
        chain: chained.chain.to_string(),
        sequence: chained.sequence,
        previous: hex(&chained.previous),
        hash: hex(&chained.hash),
    }
}

fn chain_view(report: &ChainReport) -> ChainState {
    let head = report.head.map(|(sequence, hash)| ChainHead { sequence, hash: hex(&hash) });
    ChainState {
        chain: report.chain.to_string(),
        entries: report.entries,
        head,
        broken_at: report.broken.as_ref().map(|broken| broken.sequence),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
