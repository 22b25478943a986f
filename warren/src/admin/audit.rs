use anyhow::bail;
use warren_broker::admin::{ActivityEntry, ActivityQuery, ChainState, Client};

use crate::cli::{Audit, Wanted};
use crate::output;

/// Entries of one request when all are wanted.
const PAGE: u32 = 1_000;

pub(crate) async fn run(client: &Client, command: Audit, json: bool) -> anyhow::Result<()> {
    match command {
        Audit::List { wanted, limit } => {
            let query = ActivityQuery { limit: Some(limit), ..query(wanted) };
            super::show(client.activity(&query), json, |page| list(&page.entries)).await
        }
        Audit::Verify => verify(client, json).await,
        Audit::Export { wanted } => {
            let mut query = ActivityQuery { limit: Some(PAGE), ..query(wanted) };
            loop {
                let page = client.activity(&query).await?;
                for entry in &page.entries {
                    output::json_line(entry)?;
                }
                query.cursor = page.next;
                if query.cursor.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

fn query(wanted: Wanted) -> ActivityQuery {
    let Wanted { account, actor, action, subject, since, until } = wanted;
    ActivityQuery { account, actor, action, subject, since, until, cursor: None, limit: None }
}

async fn verify(client: &Client, json: bool) -> anyhow::Result<()> {
    let chains = client.activity_chains().await?;
    if json {
        output::json(&chains)?;
    } else {
        table(&chains);
    }
    if chains.iter().any(|chain| chain.broken_at.is_some()) {
        bail!(
            "Activity was changed behind the broker's back: compare it with a backup of the time \
             before"
        );
    }
    Ok(())
}

fn table(chains: &[ChainState]) {
    let mut table = output::table(&["CHAIN", "ENTRIES", "STATE", "NEWEST HASH"]);
    for chain in chains {
        let state = match chain.broken_at {
            None => "whole".to_owned(),
            Some(sequence) => format!("broken at {sequence}"),
        };
        let hash = chain.head.as_ref().map(|head| head.hash.clone()).unwrap_or_default();
        table.add_row([chain.chain.clone(), chain.entries.to_string(), state, hash]);
    }
    output::print_table(&table);
}

fn list(entries: &[ActivityEntry]) {
    let mut table = output::table(&["TIME", "WHO", "FROM", "WHAT", "TO WHAT", "CHANGED"]);
    for entry in entries {
        let changes = entry.changes.iter().map(|it| match (&it.before, &it.after) {
            (None, None) => it.field.clone(),
            (before, after) => {
                let text = |it: &Option<String>| it.clone().unwrap_or_else(|| "-".to_owned());
                format!("{}: {} -> {}", it.field, text(before), text(after))
            }
        });
        table.add_row([
            entry.at.to_string(),
            entry.actor.name.clone(),
            entry.source.map(|source| source.to_string()).unwrap_or_default(),
            entry.action.clone(),
            entry.subject.name.clone(),
            one_line(&changes.collect::<Vec<_>>().join(", ")),
        ]);
    }
    output::print_table(&table);
}

/// A policy's text is no cell of a table.
fn one_line(text: &str) -> String {
    const WIDTH: usize = 80;
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.chars().count() <= WIDTH {
        return plain;
    }
    let mut short: String = plain.chars().take(WIDTH).collect();
    short.push('…');
    short
}
