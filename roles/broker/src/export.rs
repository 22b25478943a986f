//! Activity as a file: entries in the order of their chains, streamed page by page.
//!
//! JSON lines say all that there is, so that the chains can be checked later without the broker
//! ([`crate::admin::verify_activity`]). CSV is for spreadsheets.

use std::collections::VecDeque;
use std::io;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use warren_coord::{Chain, ChainedEntry};
use warren_store::{ActivityFilter, Store};

use crate::admin::ActivityEntry;
use crate::admin::activity::entry_view;

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Comma-separated values (RFC 4180), with a line of names.
    Csv,
    /// One JSON object on each line.
    JsonLines,
}

impl Format {
    pub(crate) const CSV_TYPE: &str = "text/csv; charset=utf-8";
    pub(crate) const JSON_LINES_TYPE: &str = "application/jsonl";

    fn media_type(self) -> &'static str {
        match self {
            Self::Csv => Self::CSV_TYPE,
            Self::JsonLines => Self::JSON_LINES_TYPE,
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Csv => "attachment; filename=\"activity.csv\"",
            Self::JsonLines => "attachment; filename=\"activity.jsonl\"",
        }
    }

    fn begin(self) -> String {
        match self {
            Self::Csv => format!("{}\r\n", COLUMNS.join(",")),
            Self::JsonLines => String::new(),
        }
    }

    fn write(self, entry: &ActivityEntry) -> io::Result<String> {
        match self {
            Self::Csv => csv(entry),
            Self::JsonLines => Ok(format!("{}\n", serde_json::to_string(entry)?)),
        }
    }
}

const COLUMNS: [&str; 15] = [
    "time",
    "actor_kind",
    "actor_id",
    "actor",
    "source",
    "action",
    "subject_kind",
    "subject_id",
    "subject",
    "changes",
    "account",
    "chain",
    "sequence",
    "previous",
    "hash",
];

/// What of it is still to be sent.
struct Export {
    store: Store,
    filter: ActivityFilter,
    format: Format,
    after: Option<(Chain, u64)>,
    text: VecDeque<Bytes>,
    is_over: bool,
}

/// All entries that fit, as a file to be downloaded.
pub(crate) fn export(store: Store, filter: ActivityFilter, format: Format) -> Response {
    let text = VecDeque::from([Bytes::from(format.begin())]);
    let export = Export { store, filter, format, after: None, text, is_over: false };
    let stream = unfold(export, |mut this| async move {
        let piece = this.next().await.transpose()?;
        // A broken file must not look whole: after an error nothing follows.
        this.is_over |= piece.is_err();
        Some((piece, this))
    });
    let headers = [
        (CONTENT_TYPE, format.media_type()),
        (CONTENT_DISPOSITION, format.file()),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

impl Export {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(text) = self.text.pop_front().filter(|text| !text.is_empty()) {
            return Ok(Some(text));
        }
        if self.is_over {
            return Ok(None);
        }
        let read = self.store.activity_in_order(&self.filter, self.after).await;
        let entries = read.map_err(io::Error::other)?;
        let Some(last) = entries.last() else {
            self.is_over = true;
            return Ok(None);
        };
        self.after = Some((last.chain, last.sequence));
        let write = |entry: ChainedEntry| self.format.write(&entry_view(entry));
        let lines = entries.into_iter().map(write).collect::<io::Result<Vec<String>>>()?;
        Ok(Some(lines.concat().into()))
    }
}

fn csv(entry: &ActivityEntry) -> io::Result<String> {
    let cells = [
        entry.at.to_string(),
        entry.actor.kind.clone(),
        entry.actor.id.clone(),
        entry.actor.name.clone(),
        entry.source.map(|source| source.to_string()).unwrap_or_default(),
        entry.action.clone(),
        entry.subject.kind.clone(),
        entry.subject.id.clone(),
        entry.subject.name.clone(),
        serde_json::to_string(&entry.changes)?,
        entry.account.map(|account| account.to_string()).unwrap_or_default(),
        entry.chain.clone(),
        entry.sequence.to_string(),
        entry.previous.clone(),
        entry.hash.clone(),
    ];
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
    Ok(format!("{}\r\n", cells.join(",")))
}

/// A cell. What a spreadsheet would take for a formula is marked as text: somebody else has chosen
/// the names.
fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let mark = if is_formula { "'" } else { "" };
    format!("\"{mark}{}\"", cell.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_text_whatever_is_in_it() {
        assert_eq!(quoted("kitchen"), "\"kitchen\"");
        assert_eq!(quoted("a \"b\",\nc"), "\"a \"\"b\"\",\nc\"");
        assert_eq!(quoted("=HYPERLINK(1)"), "\"'=HYPERLINK(1)\"");
    }
}
