//! Activity: appended with what it tells of, read page by page, checked.

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row as _};
use warren_coord::{
    CHAIN_START, Chain, ChainBroken, ChainCheck, ChainedEntry, Entry, FieldChange, LeaseEpoch,
    Named,
};
use warren_proto::AccountId;

use crate::commit::{fence, hex_bytes};
use crate::load::{number, parse, parse_optional, secret_hash};
use crate::people::{from_json, json};
use crate::{Store, StoreError};

/// Entries that are read at a time ...
const BATCH: i64 = 1_000;
/// ... and bytes, by how much they say; the last entry of them may go beyond.
const BATCH_BYTES: usize = 1 << 20;

/// Which entries are wanted: those that fit all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActivityFilter {
    /// Those that concern this account, from its own chain and the broker's.
    pub account: Option<AccountId>,
    /// Whose actor has this id or name.
    pub actor: Option<String>,
    /// Whose action begins with this: `device`, `device.renamed`.
    pub action: Option<String>,
    /// Whose subject has this id or name.
    pub subject: Option<String>,
    /// Whose actor or subject is called something with this in it, whatever the case.
    pub about: Option<String>,
    /// Not before this, in milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Before this, in milliseconds since the Unix epoch.
    pub until: Option<u64>,
}

/// A place in the list: behind the last entry of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityCursor {
    at: u64,
    chain: String,
    sequence: u64,
}

/// Some entries, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityPage {
    /// They.
    pub entries: Vec<ChainedEntry>,
    /// Where older ones begin; `None`: there are none.
    pub next: Option<ActivityCursor>,
}

/// A chain that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Which.
    pub chain: Chain,
    /// How many entries there are.
    pub entries: u64,
    /// The number and hash of the newest one, if all is well.
    pub head: Option<(u64, [u8; 32])>,
    /// Where it is broken.
    pub broken: Option<ChainBroken>,
}

impl Store {
    /// Adds entries about the broker itself, on their own: where what they tell of is no change in
    /// the database (a backup, a restore).
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn append_activity(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        let written = append_alone(&mut connection, entries).await;
        self.settle(connection, written).await
    }

    /// Entries, the newest first: `limit` at most, and fewer where they are long.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn activity(
        &self,
        filter: &ActivityFilter,
        after: Option<&ActivityCursor>,
        limit: u32,
    ) -> Result<ActivityPage, StoreError> {
        let mut query = select(filter, after);
        query.push(" ORDER BY at DESC, chain DESC, sequence DESC LIMIT ");
        query.push_bind(i64::from(limit) + 1);
        let (entries, has_more) = self.read_some(query, limit as usize).await?;
        let next = entries.last().filter(|_| has_more).map(|last| ActivityCursor {
            at: last.entry.at,
            chain: last.chain.to_string(),
            sequence: last.sequence,
        });
        Ok(ActivityPage { entries, next })
    }

    /// Entries in the order of their chains, the oldest of each first, behind the place given: as
    /// many as are read at a time. None: there are no more.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn activity_in_order(
        &self,
        filter: &ActivityFilter,
        after: Option<(Chain, u64)>,
    ) -> Result<Vec<ChainedEntry>, StoreError> {
        let mut query = select(filter, None);
        if let Some((chain, sequence)) = after {
            query.push(" AND (chain, sequence) > (").push_bind(chain.to_string());
            query.push(", ").push_bind(millis(sequence)).push(")");
        }
        query.push(" ORDER BY chain, sequence LIMIT ").push_bind(BATCH);
        Ok(self.read_some(query, usize::MAX).await?.0)
    }

    /// Reads entries up to so many, or so much; says whether there are more.
    async fn read_some(
        &self,
        mut query: QueryBuilder<Sqlite>,
        most: usize,
    ) -> Result<(Vec<ChainedEntry>, bool), StoreError> {
        let mut rows = query.build().fetch(&self.pool);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            if entries.len() >= most || bytes >= BATCH_BYTES {
                return Ok((entries, true));
            }
            let entry = chained(&row)?;
            let said = |it: &FieldChange| {
                [&it.before, &it.after].into_iter().flatten().map(String::len).sum::<usize>()
            };
            bytes += entry.entry.fields.iter().map(said).sum::<usize>();
            entries.push(entry);
        }
        Ok((entries, false))
    }

    /// Forgets what an account's own chain says of the time before `before` (in milliseconds since
    /// the Unix epoch), from its beginning up to the first entry that is younger; the newest entry
    /// always stays, so that the chain goes on from it. Says how many entries are gone.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn prune_activity(
        &self,
        account: AccountId,
        lease: LeaseEpoch,
        before: u64,
    ) -> Result<u64, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let pruned = prune(&mut connection, account, lease, before).await;
        self.settle(connection, pruned).await
    }

    /// Checks every chain from its oldest entry on.
    ///
    /// # Errors
    /// As [`Store::load`]. A broken chain is none: the report says so.
    pub async fn verify_activity(&self) -> Result<Vec<ChainReport>, StoreError> {
        let rows = sqlx::query("SELECT DISTINCT chain FROM activity ORDER BY chain")
            .fetch_all(&self.pool)
            .await?;
        let mut reports = Vec::new();
        for row in &rows {
            reports.push(self.verify_chain(parse(row, "chain")?).await?);
        }
        Ok(reports)
    }

    async fn verify_chain(&self, chain: Chain) -> Result<ChainReport, StoreError> {
        let mut check = ChainCheck::new(chain);
        let mut report = ChainReport { chain, entries: 0, head: None, broken: None };
        let mut last = 0i64;
        loop {
            let mut rows = sqlx::query(
                "SELECT * FROM activity WHERE chain = $1 AND sequence > $2 \
                 ORDER BY sequence LIMIT $3",
            )
            .bind(chain.to_string())
            .bind(last)
            .bind(BATCH)
            .fetch(&self.pool);
            let before = report.entries;
            while let Some(row) = rows.try_next().await? {
                let row = &row;
                last = row.try_get("sequence")?;
                report.entries += 1;
                let sequence = number(row, "sequence")?;
                // What can't even be read was changed, too.
                let checked = chained(row)
                    .map_err(|_| ChainBroken { chain, sequence })
                    .and_then(|entry| check.next(&entry));
                report.broken = report.broken.or(checked.err());
            }
            if report.entries == before {
                report.head = check.head().filter(|_| report.broken.is_none());
                return Ok(report);
            }
        }
    }
}

fn select<'a>(
    filter: &'a ActivityFilter,
    after: Option<&'a ActivityCursor>,
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("SELECT * FROM activity WHERE 1 = 1");
    if let Some(account) = filter.account {
        query.push(" AND account_id = ").push_bind(account.to_string());
    }
    if let Some(actor) = &filter.actor {
        query.push(" AND (actor_id = ").push_bind(actor.clone());
        query.push(" OR actor_name = ").push_bind(actor.clone()).push(")");
    }
    if let Some(action) = &filter.action {
        let length = i64::try_from(action.chars().count()).unwrap_or(i64::MAX);
        query.push(" AND substr(action, 1, ").push_bind(length).push(") = ");
        query.push_bind(action.clone());
    }
    if let Some(subject) = &filter.subject {
        query.push(" AND (subject_id = ").push_bind(subject.clone());
        query.push(" OR subject_name = ").push_bind(subject.clone()).push(")");
    }
    if let Some(about) = &filter.about {
        let about = about.to_lowercase();
        query.push(" AND (instr(lower(actor_name), ").push_bind(about.clone()).push(") > 0");
        query.push(" OR instr(lower(subject_name), ").push_bind(about).push(") > 0)");
    }
    if let Some(since) = filter.since {
        query.push(" AND at >= ").push_bind(millis(since));
    }
    if let Some(until) = filter.until {
        query.push(" AND at < ").push_bind(millis(until));
    }
    if let Some(ActivityCursor { at, chain, sequence }) = after {
        query.push(" AND (at, chain, sequence) < (").push_bind(millis(*at)).push(", ");
        query.push_bind(chain.clone()).push(", ").push_bind(millis(*sequence)).push(")");
    }
    query
}

async fn prune(
    connection: &mut SqliteConnection,
    account: AccountId,
    lease: LeaseEpoch,
    before: u64,
) -> Result<u64, StoreError> {
    use sqlx::Connection as _;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    fence(&mut transaction, account, lease).await?;
    let pruned = sqlx::query(
        "DELETE FROM activity WHERE chain = $1 AND sequence < COALESCE( \
         (SELECT MIN(sequence) FROM activity WHERE chain = $1 AND at >= $2), \
         (SELECT MAX(sequence) FROM activity WHERE chain = $1))",
    )
    .bind(Chain::Account(account).to_string())
    .bind(millis(before))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(pruned.rows_affected())
}

async fn append_alone(
    connection: &mut SqliteConnection,
    entries: &[Entry],
) -> Result<(), StoreError> {
    use sqlx::Connection as _;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    append(&mut transaction, Chain::Broker, entries).await?;
    Ok(transaction.commit().await?)
}

/// Puts entries behind the last one of their chain; inside the transaction of what they tell of.
pub(crate) async fn append(
    connection: &mut SqliteConnection,
    chain: Chain,
    entries: &[Entry],
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let row = sqlx::query(
        "SELECT sequence, hash FROM activity WHERE chain = $1 ORDER BY sequence DESC LIMIT 1",
    )
    .bind(chain.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    let mut last = match &row {
        Some(row) => (number(row, "sequence")?, secret_hash(row.try_get("hash")?)?.0),
        None => (0, CHAIN_START),
    };
    for entry in entries {
        let chained = ChainedEntry::append(chain, last.0, last.1, entry.clone());
        last = (chained.sequence, chained.hash);
        insert(connection, &chained).await?;
    }
    Ok(())
}

async fn insert(
    connection: &mut SqliteConnection,
    chained: &ChainedEntry,
) -> Result<(), StoreError> {
    let entry = &chained.entry;
    let fields: Vec<StoredField<'_>> =
        entry.fields.iter().map(|it| (&it.field, &it.before, &it.after)).collect();
    sqlx::query(
        "INSERT INTO activity (chain, sequence, at, actor_kind, actor_id, actor_name, source, \
         account_id, action, subject_kind, subject_id, subject_name, fields, previous, hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(chained.chain.to_string())
    .bind(millis(chained.sequence))
    .bind(millis(entry.at))
    .bind(&entry.actor.kind)
    .bind(&entry.actor.id)
    .bind(&entry.actor.name)
    .bind(entry.source.map(|source| source.to_string()))
    .bind(entry.account.map(|account| account.to_string()))
    .bind(&entry.action)
    .bind(&entry.subject.kind)
    .bind(&entry.subject.id)
    .bind(&entry.subject.name)
    .bind(json(&fields)?)
    .bind(hex_bytes(&chained.previous))
    .bind(hex_bytes(&chained.hash))
    .execute(connection)
    .await?;
    Ok(())
}

type StoredField<'a> = (&'a String, &'a Option<String>, &'a Option<String>);

pub(crate) fn chained(row: &SqliteRow) -> Result<ChainedEntry, StoreError> {
    let named = |kind: &str, id: &str, name: &str| {
        Ok::<_, StoreError>(Named {
            kind: row.try_get(kind)?,
            id: row.try_get(id)?,
            name: row.try_get(name)?,
        })
    };
    let fields: Vec<(String, Option<String>, Option<String>)> = from_json(row, "fields")?;
    let fields =
        fields.into_iter().map(|(field, before, after)| FieldChange { field, before, after });
    Ok(ChainedEntry {
        chain: parse(row, "chain")?,
        sequence: number(row, "sequence")?,
        entry: Entry {
            at: number(row, "at")?,
            actor: named("actor_kind", "actor_id", "actor_name")?,
            source: parse_optional(row, "source")?,
            account: parse_optional(row, "account_id")?,
            action: row.try_get("action")?,
            subject: named("subject_kind", "subject_id", "subject_name")?,
            fields: fields.collect(),
        },
        previous: secret_hash(row.try_get("previous")?)?.0,
        hash: secret_hash(row.try_get("hash")?)?.0,
    })
}

pub(crate) fn millis(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
