//! `warren admin`: the broker's local socket, from the command line.

mod account;
mod audit;
mod device;
mod edge;
mod join_key;
mod mail;
mod policy;
mod relay;
mod token;
mod user;
mod webhook;
mod why;

use std::future::Future;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use warren_broker::RESTORED_SECRETS;
use warren_broker::admin::{Client, Error};

use crate::cli::{Admin, AdminCommand, Global, Pins};
use crate::output::{self, Usage, say};
use crate::serve::data_folder;

pub(crate) async fn run(global: &Global, admin: Admin) -> anyhow::Result<()> {
    let (data, client) = broker(admin.data, admin.admin_socket)?;
    let json = global.json;
    match admin.command {
        AdminCommand::Accounts(command) => account::run(&client, command, json).await,
        AdminCommand::JoinKeys(command) => join_key::run(&client, command, json).await,
        AdminCommand::Devices(command) => device::run(&client, command, json).await,
        AdminCommand::Users(command) => user::run(&client, command, json).await,
        AdminCommand::Tokens(command) => token::run(&client, command, json).await,
        AdminCommand::Audit(command) => audit::run(&client, command, json).await,
        AdminCommand::Policy(command) => policy::run(&client, command, json).await,
        AdminCommand::Why(args) => why::run(&client, args, json).await,
        AdminCommand::Webhooks(command) => webhook::run(&client, command, json).await,
        AdminCommand::Edges(command) => edge::run(&client, command, json).await,
        AdminCommand::Mail(command) => mail::run(&client, command, json).await,
        AdminCommand::Relays(command) => relay::run(&client, command, json).await,
        AdminCommand::Status => status(&client, json).await,
        AdminCommand::Log(args) => {
            let set = client.set_log(args.filter).await?;
            let text = format!("Logging {} until the broker restarts.", set.filter);
            output::done(json, &text)
        }
        AdminCommand::Pins(command) => pins(&client, command, json).await,
        AdminCommand::Backup { file } => {
            let written = client.backup(&file).await?;
            if json {
                return output::json(&serde_json::json!({ "file": file, "bytes": written }));
            }
            say!("{} ({})", file.display(), output::bytes(written));
            Ok(())
        }
        AdminCommand::Restore { file, yes } => restore(&client, &data, &file, yes, json).await,
    }
}

/// The data folder that is meant, and the broker that runs on it if one does: the one that was
/// named, or one of one's own, or the machine's service.
fn broker(data: Option<PathBuf>, socket: Option<PathBuf>) -> anyhow::Result<(PathBuf, Client)> {
    let is_named = data.is_some();
    let data = data_folder(data)?;
    let client = match socket {
        Some(socket) => Client::at(socket),
        None if is_named => Client::new(&data),
        None => Client::find(&data),
    };
    Ok((data, client))
}

/// A running broker is given the backup; where none runs, the data folder is made from it.
async fn restore(
    client: &Client,
    data: &Path,
    file: &Path,
    yes: bool,
    json: bool,
) -> anyhow::Result<()> {
    let failed = || format!("can't restore {}", file.display());
    match client.status().await {
        Ok(status) => {
            let question = format!(
                "Replace all {} accounts with {} devices of the running broker by what {} holds? \
                 Devices that it doesn't know are cut off.",
                status.accounts,
                status.devices,
                file.display()
            );
            confirm(&question, yes)?;
            let manifest = client.restore(file).await.with_context(failed)?;
            let text = format!(
                "The running broker is as it was on {}. {RESTORED_SECRETS}",
                manifest.created
            );
            output::done(json, &text)
        }
        Err(Error::NotRunning { .. }) => {
            warren_broker::restore(file, data).await.with_context(failed)?;
            let folder = data.display();
            let text = format!(
                "Restored into {folder}. {RESTORED_SECRETS}\nNext: warren serve --data {folder}"
            );
            output::done(json, &text)
        }
        Err(error) => Err(error.into()),
    }
}

async fn status(client: &Client, json: bool) -> anyhow::Result<()> {
    let status = client.status().await?;
    if json {
        return output::json(&status);
    }
    say!("warren {} at {}", status.version, status.url);
    say!("  HTTPS     {}", status.listen);
    for (number, addr) in status.stun.iter().enumerate() {
        say!("  {:<9} {addr}", if number == 0 { "STUN" } else { "" });
    }
    say!("  data      {}", status.data.display());
    say!("  accounts  {}", status.accounts);
    say!("  devices   {} ({} online)", status.devices, status.online);
    for problem in &status.problems {
        say!("  !{}", &output::wrapped(problem, "    ")[3..]);
    }
    Ok(())
}

async fn pins(client: &Client, command: Pins, json: bool) -> anyhow::Result<()> {
    let pins = match command {
        Pins::Show => client.pins().await?,
        Pins::Prepare => client.prepare_pin().await?,
        Pins::Activate => client.activate_pin().await?,
    };
    if json {
        return output::json(&pins);
    }
    say!("In use:  {}", pins.current);
    match pins.next {
        None => say!("Next:    none (`warren admin pins prepare` makes one)"),
        Some(next) => say!("Next:    {next} (announced; `warren admin pins activate` uses it)"),
    }
    Ok(())
}

/// Asks before something that can't be undone; without a terminal it must be said by `--yes`.
fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Usage(format!("{question} Say so with --yes")).into());
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush().context("can't ask")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("can't read the answer")?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("nothing was changed");
    }
    Ok(())
}

/// Prints one thing as JSON or as text.
async fn show<T: serde::Serialize>(
    thing: impl Future<Output = Result<T, warren_broker::admin::Error>>,
    json: bool,
    text: impl FnOnce(&T),
) -> anyhow::Result<()> {
    let thing = thing.await?;
    if json {
        return output::json(&thing);
    }
    text(&thing);
    Ok(())
}
