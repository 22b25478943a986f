//! Every command and flag, once: help, man pages, completions, environment variables and the
//! configuration file's keys all come from here.

#[cfg(feature = "broker")]
mod admin;
#[cfg(feature = "broker")]
mod admin_edges;
#[cfg(feature = "broker")]
mod admin_people;
#[cfg(feature = "broker")]
mod admin_policy;
#[cfg(feature = "broker")]
mod admin_relays;
#[cfg(feature = "broker")]
mod admin_webhooks;
#[cfg(feature = "node")]
mod edge;
#[cfg(feature = "node")]
mod mail;
mod node;
#[cfg(feature = "relay")]
mod relay;
mod service;
#[cfg(feature = "broker")]
mod sign_in;
#[cfg(feature = "relay")]
mod turn;
pub(crate) mod values;

use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Args, CommandFactory as _, Parser, Subcommand};

#[cfg(feature = "broker")]
pub(crate) use admin::{
    Accounts, Admin, AdminCommand, DeviceExpiry, Devices, JoinKeys, Pins, Serve, Tls,
};
#[cfg(feature = "broker")]
pub(crate) use admin_edges::Edges;
#[cfg(feature = "broker")]
pub(crate) use admin_people::{Audit, ExportFormat, ReachArg, RoleChange, Tokens, Users, Wanted};
#[cfg(feature = "broker")]
pub(crate) use admin_policy::{Policy, Why};
#[cfg(feature = "broker")]
pub(crate) use admin_relays::{Relays, TurnSecret};
#[cfg(feature = "broker")]
pub(crate) use admin_webhooks::{Switch, Webhooks};
#[cfg(all(feature = "node", test))]
pub(crate) use edge::Source;
#[cfg(feature = "node")]
pub(crate) use edge::{
    Card, Common, Edge, EdgeArgs, Every, Forwards, Gateways, Lan, LanDevices, Scan, VirtualDevices,
};
#[cfg(feature = "broker")]
pub(crate) use mail::{Mail, Smtp};
#[cfg(feature = "node")]
pub(crate) use node::{
    Dns, ExitNode, ExitNodeArgs, Join, Logout, Lport, Node, Ping, Status, Up, UpExit, WhyHere,
};
#[cfg(feature = "relay")]
pub(crate) use relay::{PairProbe, PairRelay, PairRelayCommand, PairRelayServe, PairSecret};
pub(crate) use service::{Role, Service, ServiceInstall};
pub(crate) use sign_in::SingleSignOn;
#[cfg(feature = "relay")]
pub(crate) use turn::{Relay, RelayCommand, RelayServe};

const GLOBAL: &str = "Global options";

/// Your own private network between all your devices, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "warren", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Try it without touching this machine: warren demo\n\
    Every flag can also be set as WARREN_<FLAG>, or in a TOML file given by --config: \
    a table for each command, e.g. [serve] listen = \"[::]:443\".")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where a node keeps its key, cached map and socket, a relay its socket and ACME certificate; one
    /// folder for each on a machine
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    /// What to log: error, warn, info, debug, trace, or e.g. info,warren_mesh=trace
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "LEVEL", default_value = "info",
          value_parser = crate::logging::valid)]
    pub(crate) log: String,
    /// Read flags from a TOML file
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What a running program is to log.
#[cfg(any(feature = "broker", feature = "node"))]
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// What to log: error, warn, info, debug, trace, or e.g. info,warren_mesh=trace
    #[arg(value_name = "LEVEL", value_parser = crate::logging::valid)]
    pub(crate) filter: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker: devices meet here; it never sees their traffic
    #[cfg(feature = "broker")]
    Serve(Box<Serve>),
    /// Run the node daemon in the foreground; connects if this device has joined
    #[cfg(feature = "node")]
    Node(Node),
    /// Connect, and join an account first with --join
    #[cfg(feature = "node")]
    Up(Up),
    /// Disconnect until the next `up`, also over restarts
    #[cfg(feature = "node")]
    Down,
    /// Leave the account
    #[cfg(feature = "node")]
    Logout(Logout),
    /// Show this device, its broker and its peers
    #[cfg(feature = "node")]
    Status(Status),
    /// Find the path to a peer and measure it; ends when it is direct
    #[cfg(feature = "node")]
    Ping(Ping),
    /// Say why this device and another one do or don't talk, and how
    #[cfg(feature = "node")]
    Why(WhyHere),
    /// Show what this network allows: UDP, IPv4, IPv6, NAT, port mapping
    #[cfg(feature = "node")]
    Netcheck,
    /// Change what the running daemon logs
    #[cfg(feature = "node")]
    Log(Log),
    /// Show or set the UDP listen port
    #[cfg(feature = "node")]
    Lport(Lport),
    /// Show or choose by which device traffic to the internet goes
    #[cfg(feature = "node")]
    ExitNode(ExitNodeArgs),
    /// Open the LAN that this device stands in: port forwards, virtual devices, gateways
    #[cfg(feature = "node")]
    Edge(EdgeArgs),
    /// Run a relay server: STUN and TURN over UDP, TCP and TLS
    #[cfg(feature = "relay")]
    Relay(Box<Relay>),
    /// Run a pair relay: joins two UDP clients that present the same GUID
    #[cfg(feature = "relay")]
    PairRelay(PairRelay),
    /// Install or remove the systemd service
    #[command(subcommand)]
    Service(Service),
    /// Manage a broker's accounts, join keys and devices
    #[cfg(feature = "broker")]
    Admin(Admin),
    /// Try it: a whole warren with NATs on this machine, without root
    #[cfg(feature = "demo")]
    Demo(Demo),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Demo {
    /// End as soon as all devices have found each other
    #[arg(long)]
    pub(crate) once: bool,
    #[command(subcommand)]
    pub(crate) command: Option<DemoCommand>,
}

#[cfg(feature = "demo")]
#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Open a shell on a device of the running demo, or run a command there
    Shell {
        /// laptop, desktop, phone or broker
        host: String,
        /// A command and its arguments instead of a shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Whose things `--state` doesn't name.
const WITHOUT_STATE: &[&str] = &["serve", "admin", "demo", "completions", "man"];

/// The whole command line.
pub(crate) fn command() -> clap::Command {
    equipped(Cli::command()).mut_subcommands(|command| {
        let has_state = !WITHOUT_STATE.contains(&command.get_name());
        if has_state { command } else { command.arg(no_state()) }
    })
}

/// Gives every flag its environment variable, and lets switches be set as people set them there.
fn equipped(command: clap::Command) -> clap::Command {
    let equip = |arg: Arg| {
        let Some(long) = arg.get_long() else { return arg };
        let variable = format!("WARREN_{}", long.to_ascii_uppercase().replace('-', "_"));
        let arg = arg.env(variable);
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg.value_parser(ValueParser::new(values::parse_switch));
        }
        arg
    };
    command.mut_args(equip).mut_subcommands(equipped)
}

/// Takes the place of the global `--state` where that would mean nothing.
fn no_state() -> Arg {
    let refuse = |_: &str| -> Result<PathBuf, String> {
        Err("this command has nothing to do with a node's or relay's folder".to_owned())
    };
    Arg::new("state").long("state").hide(true).global(true).value_parser(ValueParser::new(refuse))
}
