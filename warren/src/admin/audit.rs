use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use warren_broker::admin::{
    ActivityEntry, ActivityQuery, ChainState, Client, FileChain, verify_activity,
};

use crate::cli::{Audit, ExportFormat, Wanted};
use crate::output;

pub(crate) async fn run(client: &Client, command: Audit, json: bool) -> anyhow::Result<()> {
    match command {
        Audit::List { wanted, limit } => {
            let query = ActivityQuery { limit: Some(limit), ..query(wanted) };
            super::show(client.activity(&query), json, |page| list(&page.entries)).await
        }
        Audit::Verify { file: None } => verify(client, json).await,
        Audit::Verify { file: Some(file) } => verify_file(&file, json),
        Audit::Export { wanted, format } => {
            let query = query(wanted).into();
            let stdout = std::io::stdout().as_fd().try_clone_to_owned();
            let stdout = std::fs::File::from(stdout.context("can't write to standard output")?);
            let mut out = tokio::fs::File::from_std(stdout);
            client.export_activity(&query, format == ExportFormat::Csv, &mut out).await?;
            Ok(())
        }
    }
}

/// Checks exported JSON lines without the broker.
fn verify_file(file: &Path, json: bool) -> anyhow::Result<()> {
    let failed = || format!("can't check {}", file.display());
    let opened = std::fs::File::open(file).with_context(failed)?;
    let chains = verify_activity(std::io::BufReader::new(opened)).with_context(failed)?;
    if json {
        output::json(&chains)?;
    } else {
        file_table(&chains);
    }
    if chains.iter().any(|chain| !chain.is_whole()) {
        bail!(
            "entries were changed or are missing (a filter takes some out, too): export it again \
             and compare"
        );
    }
    Ok(())
}

fn file_table(chains: &[FileChain]) {
    let mut table = output::table(&["CHAIN", "ENTRIES", "FROM", "TO", "STATE", "NEWEST HASH"]);
    for chain in chains {
        let state = match (chain.broken_at, chain.gaps) {
            (Some(sequence), _) => format!("broken at {sequence}"),
            (None, 0) => "whole".to_owned(),
            (None, _) if chain.is_part => "this account's part".to_owned(),
            (None, gaps) => format!("{gaps} gaps"),
        };
        table.add_row([
            chain.chain.clone(),
            chain.entries.to_string(),
            chain.first.to_string(),
            chain.last.to_string(),
            state,
            chain.hash.clone(),
        ]);
    }
    output::print_table(&table);
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
