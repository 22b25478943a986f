//! The node's commands: the daemon, and what talks to it.

mod edge;
mod edge_lan;
mod edge_open;
mod edge_remote;
#[cfg(feature = "edge")]
mod edge_role;
mod exit_node;
mod lport;
mod netcheck;
mod ping;
pub(crate) mod status;
mod why;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use warren_node::local::{Client, HealthCode, NodeState, Status};
use warren_node::{DnsMode, NodeConfig};

use crate::cli::{self, Dns, Global, Join};
use crate::logging::SetFilter;
use crate::output::{self, Usage, say};
use crate::shutdown;

pub(crate) use edge::edge;
pub(crate) use exit_node::exit_node;
pub(crate) use lport::lport;
pub(crate) use netcheck::netcheck;
pub(crate) use ping::ping;
pub(crate) use status::status;
pub(crate) use why::why;

/// Where this machine's node keeps its things unless `--state` says otherwise.
pub(crate) fn state_folder(global: &Global) -> PathBuf {
    if let Some(folder) = &global.state {
        return folder.clone();
    }
    PathBuf::from("/var/lib/warren/node")
}

pub(crate) fn client(global: &Global) -> Client {
    Client::new(&state_folder(global))
}

/// `warren node`.
pub(crate) async fn run(
    global: &Global,
    args: cli::Node,
    set_log_filter: SetFilter,
) -> anyhow::Result<()> {
    if args.clean_up {
        // What systemd tells `ExecStopPost=` (systemd.exec(5)): after anything but a stop it restarts it.
        let result = std::env::var_os("SERVICE_RESULT");
        let until_restart = result.is_some_and(|result| result != "success");
        return Ok(warren_node::clean_up(&state_folder(global), until_restart, clean_up_roles)?);
    }
    let config = NodeConfig {
        state: state_folder(global),
        join: join_text(&args.join)?,
        name: args.join.name,
        listen_port: args.listen_port,
        tun: args.tun,
        mtu: args.mtu,
        dns: match args.dns {
            Dns::Auto => DnsMode::Auto,
            Dns::Off => DnsMode::Off,
        },
        set_log_filter: Some(set_log_filter),
        edge: None,
    };
    run_roles(config, shutdown::signal()?).await
}

/// The node, and what opens the LAN.
#[cfg(feature = "edge")]
async fn run_roles(
    config: NodeConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let (link, role) = warren_node::edge_link();
    let opening = tokio::spawn(edge_role::run(role, config.state.clone()));
    let ended = warren_node::run(NodeConfig { edge: Some(link), ..config }, shutdown).await;
    opening.await?;
    ended
}

#[cfg(feature = "edge")]
use edge_role::clean_up as clean_up_roles;

#[cfg(not(feature = "edge"))]
fn clean_up_roles(_: &Path) {}

#[cfg(not(feature = "edge"))]
use warren_node::run as run_roles;

/// `warren up`.
pub(crate) async fn up(global: &Global, args: cli::Up) -> anyhow::Result<()> {
    let client = client(global);
    let join = match &args.server {
        Some(server) => Some(ask(&client, server, args.join.name.as_deref()).await?),
        None => join_text(&args.join)?,
    };
    let is_chosen = exit_node::choose(global, &args.exit, false).await?;
    let mut status = client.up(join, args.join.name).await?;
    if !is_chosen {
        exit_node::choose(global, &args.exit, true).await?;
        status = client.status().await?;
    }
    if global.json {
        return crate::output::json(&status);
    }
    match status.node.state {
        NodeState::NotJoined => bail!(
            "this device has joined no account yet: warren up --server URL of the broker, or \
             warren up --join LINK   (the broker's admin gets a link with \
             `warren admin join-keys create`)"
        ),
        NodeState::MustJoinAgain => {
            bail!("this device was removed from its account: warren up --join LINK with a new link")
        }
        NodeState::Connected
        | NodeState::Offline
        | NodeState::Connecting
        | NodeState::Joining
        | NodeState::Down => print_up(&status),
    }
    Ok(())
}

/// Asks a broker to be let in, and waits for it. What is said goes to standard error: the result
/// may go elsewhere.
async fn ask(client: &Client, server: &str, name: Option<&str>) -> anyhow::Result<String> {
    let status = client.status().await?;
    let is_over = status.health.iter().any(|it| it.code == HealthCode::MembershipExpired);
    let is_out = matches!(status.node.state, NodeState::NotJoined | NodeState::MustJoinAgain);
    if !is_out && !is_over {
        bail!("this device has joined an account already; `warren logout` leaves it");
    }
    let request = warren_node::ask::ask(server, name).await?;
    eprintln!(
        "To let this device in, open\n\n  {}\n\nand compare the code there:  {}\n\nWaiting for \
         somebody to decide (Ctrl-C gives up) ...",
        request.link(),
        request.code
    );
    Ok(request.decided().await?.to_string())
}

fn print_up(status: &Status) {
    let node = &status.node;
    let address = node.ipv4.map_or_else(|| "no address yet".to_owned(), |ip| ip.to_string());
    say!("{} is up: {address}", node.name);
    if let Some(dns_name) = &node.dns_name {
        say!("Name: {dns_name}");
    }
    if node.exit_node.is_some() {
        say!("{}", exit_node::sentence(node.exit_node.as_ref()));
    }
    for health in &status.health {
        say!("Note: {}", health.text);
    }
}

/// `warren down`.
pub(crate) async fn down(global: &Global) -> anyhow::Result<()> {
    client(global).down().await?;
    output::done(global.json, "Disconnected. `warren up` connects again.")
}

/// `warren log LEVEL`.
pub(crate) async fn log(global: &Global, args: cli::Log) -> anyhow::Result<()> {
    client(global).log(&args.filter).await?;
    let text = format!("Logging {} until the daemon restarts.", args.filter);
    output::done(global.json, &text)
}

/// `warren logout`.
pub(crate) async fn logout(global: &Global, args: &cli::Logout) -> anyhow::Result<()> {
    let untold = client(global).logout(args.new_identity).await?;
    let text = "This device has left its account. `warren up --join LINK` joins one.";
    match untold {
        Some(untold) => output::done(global.json, &format!("{text}\nNote: {untold}")),
        None => output::done(global.json, text),
    }
}

/// The join link, from wherever it was given, without showing it.
fn join_text(join: &Join) -> anyhow::Result<Option<String>> {
    let text = match (&join.join, &join.join_file) {
        (Some(dash), _) if dash == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(4096)
                .read_to_string(&mut text)
                .context("can't read the join link from standard input")?;
            text
        }
        (Some(link), _) => link.clone(),
        (None, Some(file)) => read_link_file(file)?,
        (None, None) => return Ok(None),
    };
    // Not by the flag's own check, which would show the secret.
    let link: Result<warren_proto::JoinLink, _> = text.trim().parse();
    match link {
        Ok(link) => Ok(Some(link.to_string())),
        Err(error) => Err(Usage(format!(
            "{error}; a link looks like https://HOST:PORT/join#KEY.PIN, and the broker's admin gets \
             one with `warren admin join-keys create`"
        ))
        .into()),
    }
}

fn read_link_file(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file)
        .with_context(|| format!("can't read the join link from {}", file.display()))
}
