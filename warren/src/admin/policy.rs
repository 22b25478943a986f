use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use warren_broker::admin::{Client, Error, PolicyText, Report, Row, Severity, Side};
use warren_proto::ErrorCode;

use crate::cli::Policy;
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: Policy, json: bool) -> anyhow::Result<()> {
    match command {
        Policy::Show(account) => {
            let policy = client.policy(&account.account);
            super::show(policy, json, |policy| output::raw(policy.text.as_bytes())).await
        }
        Policy::Edit { account, yes } => edit(client, &account.account, yes, json).await,
        Policy::Set { account, file, if_version } => {
            let text = read(&file)?;
            let report = client.check_policy(&account.account, &text).await?;
            if !report.is_good() {
                return refuse(&report, json);
            }
            let saved = client.set_policy(&account.account, &text, if_version).await?;
            if json {
                return output::json(&saved);
            }
            print(&saved.report);
            say!("Version {} is in force.", saved.version);
            Ok(())
        }
        Policy::Check { account, file } => {
            let report = client.check_policy(&account.account, &read(&file)?).await?;
            if !report.is_good() {
                return refuse(&report, json);
            }
            if json {
                return output::json(&report);
            }
            print(&report);
            say!("The text could be put in force: warren admin policy set {}", file.display());
            Ok(())
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("can't read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))
}

async fn edit(client: &Client, account: &str, yes: bool, json: bool) -> anyhow::Result<()> {
    let PolicyText { version, text } = client.policy(account).await?;
    let folder = tempfile::tempdir().context("can't make a file to edit")?;
    let file = folder.path().join("policy.toml");
    std::fs::write(&file, &text).context("can't make a file to edit")?;
    open_editor(&file)?;
    let edited = read(&file)?;
    if edited == text {
        return output::done(json, "Nothing was changed.");
    }
    let outcome = put_edited(client, account, version, &edited, yes, json).await;
    if outcome.is_err() {
        let kept = keep(&edited)?;
        eprintln!("Your text is kept in {}.", kept.display());
    }
    outcome
}

async fn put_edited(
    client: &Client,
    account: &str,
    version: u64,
    text: &str,
    yes: bool,
    json: bool,
) -> anyhow::Result<()> {
    let report = client.check_policy(account, text).await?;
    if !report.is_good() {
        return refuse(&report, json);
    }
    if !json {
        print(&report);
    }
    super::confirm("Put this policy in force?", yes)?;
    match client.set_policy(account, text, Some(version)).await {
        Ok(saved) => output::done(json, &format!("Version {} is in force.", saved.version)),
        Err(Error::Problem(problem)) if problem.code == ErrorCode::Conflict => {
            bail!("{}; `warren admin policy show` prints what is in force now", problem.title)
        }
        Err(error) => Err(error.into()),
    }
}

fn open_editor(file: &Path) -> anyhow::Result<()> {
    let named = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor = named.filter(|it| !it.trim().is_empty()).unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program).args(words).arg(file).status();
    let status = status.with_context(|| {
        format!("can't start the editor {program}; name another one in EDITOR, or use `policy set`")
    })?;
    if !status.success() {
        bail!("the editor ended with {status}; nothing was changed");
    }
    Ok(())
}

/// Keeps a text that was not taken where its author finds it.
fn keep(text: &str) -> anyhow::Result<PathBuf> {
    let file = tempfile::Builder::new().prefix("warren-policy-").suffix(".toml").tempfile()?;
    std::fs::write(file.path(), text)?;
    Ok(file.keep()?.1)
}

fn refuse(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(report)?;
    } else {
        print(report);
    }
    bail!("the text has errors; nothing was changed")
}

fn print(report: &Report) {
    for problem in &report.problems {
        let word = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        say!("line {}, column {}: {word}: {}", problem.line, problem.column, problem.message);
    }
    if !report.tests.is_empty() {
        let held = report.tests.iter().filter(|test| test.holds).count();
        say!("{held} of {} tests hold.", report.tests.len());
    }
    side("Loses access:", &report.difference.losses);
    side("Gains access:", &report.difference.gains);
    if report.is_good() && report.difference.is_empty() {
        say!("Nobody gains or loses access.");
    }
}

fn side(title: &str, side: &Side) {
    if side.rows.is_empty() {
        return;
    }
    say!("{title}");
    for row in &side.rows {
        say!(
            "  {} to {}: {}",
            many(&row.from, row.from_devices),
            target(row),
            row.ports.join(", ")
        );
    }
    if side.more > 0 {
        say!("  and {} more", side.more);
    }
}

fn target(row: &Row) -> String {
    many(&row.to, row.to_devices)
}

fn many(what: &str, count: usize) -> String {
    if count > 1 { format!("{what} ({count} devices)") } else { what.to_owned() }
}
