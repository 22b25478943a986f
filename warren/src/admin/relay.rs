use std::path::Path;

use anyhow::Context as _;
use warren_broker::admin::{Client, NewRelay, NewTurn, Relay, RelayOrigin, SetRelays};

use crate::cli::{Relays, TurnSecret};
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: Relays, json: bool) -> anyhow::Result<()> {
    match command {
        Relays::List(owner) => {
            super::show(client.relays(owner.account()), json, |relays| list(relays)).await
        }
        Relays::Show { owner, name } => {
            super::show(client.relay(owner.account(), &name), json, one).await
        }
        Relays::Create { owner, name } => {
            let created = client.create_relay(owner.account(), &NewRelay { name }).await?;
            if json {
                return output::json(&created);
            }
            say!("{}", created.token);
            // What follows is for people; the token alone is for `> FILE`.
            let pin = created.pin.map(|pin| format!(" --pin {pin}")).unwrap_or_default();
            eprintln!(
                "Keep it in a file on the relay's machine, and run there:\n  \
                 warren relay --broker {}{pin} --token-file FILE",
                created.url
            );
            Ok(())
        }
        Relays::AddTurn { owner, url, name, secret } => {
            let (username, secret) = read_secret(secret)?;
            let new = NewTurn { url, name, username, secret };
            super::show(client.add_turn(owner.account(), &new), json, one).await
        }
        Relays::Set { account, names, default: _ } => {
            let group = |names: &String| names.split('=').map(str::to_owned).collect();
            let relays = SetRelays { relays: names.iter().map(group).collect() };
            let used = client.set_relays(&account, &relays);
            super::show(used, json, |used| {
                list(used);
                for relay in used {
                    warn(relay);
                }
            })
            .await
        }
        Relays::Rotate { owner, name } => {
            super::show(client.rotate_relay(owner.account(), &name), json, |relay| {
                say!("{} has a new secret; its devices hear of it at once.", relay.name);
            })
            .await
        }
        Relays::Remove { owner, name, yes } => {
            let relay = client.relay(owner.account(), &name).await?;
            super::confirm(&removal_question(&relay), yes)?;
            client.remove_relay(owner.account(), &name).await?;
            output::done(json, &format!("{} is a relay no more.", relay.name))
        }
    }
}

fn removal_question(relay: &Relay) -> String {
    match relay.origin {
        RelayOrigin::Device => {
            format!("Take the device {} from the account's relays?", relay.name)
        }
        RelayOrigin::Server => {
            format!(
                "Remove the relay {}? Its token is void at once, what it carries ends.",
                relay.name
            )
        }
        RelayOrigin::Turn | RelayOrigin::Broker => format!("Remove the relay {}?", relay.name),
    }
}

/// The user, if there is one, and the secret or password.
fn read_secret(given: TurnSecret) -> anyhow::Result<(Option<String>, String)> {
    let TurnSecret { secret, secret_file, username, password, password_file } = given;
    let file = secret_file.or(password_file);
    let secret = match (secret.or(password), file) {
        (Some(secret), _) => secret,
        (None, Some(file)) => read(&file)?,
        (None, None) => anyhow::bail!("give --secret-file FILE, or --username and --password-file"),
    };
    Ok((username, secret))
}

fn read(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("can't read the secret from {}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn kind(relay: &Relay) -> &'static str {
    match (relay.origin, relay.shared) {
        (RelayOrigin::Device, _) => "device",
        (RelayOrigin::Server, false) => "server",
        (RelayOrigin::Server, true) => "server, for all",
        (RelayOrigin::Turn, false) => "TURN",
        (RelayOrigin::Turn, true) => "TURN, for all",
        (RelayOrigin::Broker, _) => "the broker",
    }
}

fn state(relay: &Relay) -> &'static str {
    match (relay.online, relay.warnings.is_empty()) {
        (Some(false), _) => "offline",
        (Some(true) | None, false) => "see show",
        (Some(true), true) => "online",
        (None, true) => "ok",
    }
}

fn addresses(relay: &Relay) -> Vec<String> {
    let named = |kind: &str, addresses: &[std::net::SocketAddr]| -> Vec<String> {
        addresses.iter().map(|addr| format!("{addr} {kind}")).collect()
    };
    let tls = relay.tls.iter().map(|tls| format!("{tls} TLS")).collect();
    [named("UDP", &relay.udp), named("TCP", &relay.tcp), tls].concat()
}

fn list(relays: &[Relay]) {
    if relays.is_empty() {
        say!("No relay. Name a device: warren admin relays set NAME");
        say!("or make a relay server's token: warren admin relays create NAME");
        return;
    }
    let mut table = output::table(&["USE", "RELAY", "KIND", "STATE", "REACHED BY", "ADDRESS"]);
    for relay in relays {
        let reached = match relay.devices {
            0 => String::new(),
            devices => format!("{} of {devices}", relay.reached_by),
        };
        table.add_row([
            relay.rank.map_or_else(|| "-".to_owned(), |rank| (rank + 1).to_string()),
            relay.name.to_string(),
            kind(relay).to_owned(),
            state(relay).to_owned(),
            reached,
            addresses(relay).into_iter().next().unwrap_or_default(),
        ]);
    }
    output::print_table(&table);
}

fn one(relay: &Relay) {
    say!("{}  {}", relay.name, kind(relay));
    say!("  id          {}", relay.id);
    match relay.rank {
        Some(rank) => say!("  preference  {}", rank + 1),
        None => say!("  preference  - (not in use)"),
    }
    if let Some(url) = &relay.url {
        say!("  URL         {url}");
    }
    for addr in addresses(relay) {
        say!("  address     {addr}");
    }
    if let Some(online) = relay.online {
        say!("  state       {}", if online { "online" } else { "offline" });
    }
    if let Some(heard) = relay.last_heard {
        say!("  last heard  {heard}");
    }
    if relay.devices > 0 {
        say!("  reached by  {} of {} devices that are online", relay.reached_by, relay.devices);
    }
    if relay.load.packets > 0 || relay.load.allocations > 0 {
        let bytes = output::bytes(relay.load.bytes);
        say!("  carries     {} allocations, {bytes} since its start", relay.load.allocations);
    }
    warn(relay);
}

fn warn(relay: &Relay) {
    for warning in &relay.warnings {
        say!("  ! {}: {warning}", relay.name);
    }
}
