//! The node's flags: the daemon, and the commands that talk to it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use warren_node::local::ListenPort;

use super::values::parse_listen_port;

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Join link; `-` reads it from standard input
    #[arg(long, value_name = "LINK", hide_env_values = true)]
    pub(crate) join: Option<String>,
    /// File with the join link
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    pub(crate) join_file: Option<PathBuf>,
    /// The device's name in the account [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    sudo warren node --join-file link.txt\n  \
    sudo warren --state /var/lib/warren/second node --name second")]
pub(crate) struct Node {
    #[command(flatten)]
    pub(crate) join: Join,
    /// UDP port [default: chosen once and kept]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) listen_port: Option<u16>,
    /// Name of the network interface [default: the first free of warren0, warren1, …]
    #[arg(long, value_name = "NAME")]
    pub(crate) tun: Option<String>,
    /// Undo what a killed daemon has left in the host's configuration, and end
    #[arg(long)]
    pub(crate) clean_up: bool,
    /// Fixed MTU of the interface, 1280 to 65000 [default: found out]
    #[arg(long, value_name = "BYTES",
          value_parser = clap::value_parser!(u16).range(1280..=65000))]
    pub(crate) mtu: Option<u16>,
    /// Whether the system resolves the mesh's names
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) dns: Dns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dns {
    /// Through systemd-resolved where it runs, otherwise /etc/resolv.conf
    Auto,
    /// Leave the system's resolver alone
    Off,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    warren up --join 'https://broker.example.org/join#…'\n  \
    warren up --server https://broker.example.org\n  \
    warren up --exit-node attic\n  \
    warren up")]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) join: Join,
    /// Ask this broker to be let in: shows a link and a code by which somebody who is signed in
    /// there does so
    #[arg(long, value_name = "URL", conflicts_with_all = ["join", "join_file"])]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) exit: UpExit,
}

#[derive(Debug, Args)]
pub(crate) struct UpExit {
    /// Send traffic to the internet by this device, and by nothing else while it is away; kept until
    /// `warren exit-node off`
    #[arg(long, value_name = "NAME")]
    pub(crate) exit_node: Option<String>,
    /// Whether the private networks that this device stands in stay reachable beside the exit node
    #[arg(long, value_name = "on|off", default_value = "on", action = clap::ArgAction::Set,
          value_parser = super::values::parse_switch)]
    pub(crate) exit_node_lan: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    warren exit-node use attic\n  \
    warren exit-node use attic --lan off\n  \
    warren exit-node off\n\
    The choice is kept over restarts. While the exit node can't be reached nothing goes out beside it. \
    IPv6 goes nowhere while one is used; names are asked of the exit node.")]
pub(crate) struct ExitNodeArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ExitNode>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ExitNode {
    /// List the devices that offer this one a way to the internet
    List,
    /// Send traffic to the internet by one of them, and by nothing else while it is away
    Use {
        /// Its name or mesh address
        name: String,
        /// Whether the private networks that this device stands in stay reachable beside it
        #[arg(long, value_name = "on|off", default_value = "on", action = clap::ArgAction::Set,
              value_parser = super::values::parse_switch)]
        lan: bool,
    },
    /// Send traffic to the internet by this device's own network again
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// Throw the key pair away too: the next `up --join` makes a new device (for a cloned disk)
    #[arg(long)]
    pub(crate) new_identity: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    warren status --all\n  \
    warren status --json | jq -r '.peers[] | select(.online) | .dns_name'")]
pub(crate) struct Status {
    /// Also show peers that are offline
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Show the daemon's internal counters instead, for whoever looks for a fault
    #[arg(long)]
    pub(crate) counters: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    warren ping kitchen-pi\n  \
    warren ping --count 0 100.81.1.3")]
pub(crate) struct Ping {
    /// A device's name or mesh address
    pub(crate) peer: String,
    /// Stop after this many attempts; 0 never stops [default: when the path is direct, at most 20, or
    /// 3 that fail alike]
    #[arg(long, short, value_name = "N")]
    pub(crate) count: Option<u32>,
}

/// Why this device and another one do or don't talk.
#[derive(Debug, Args)]
#[command(after_help = "Examples, on the device `laptop`:\n  \
    warren why laptop nas\n  \
    warren why laptop nas 22\n  \
    warren why phone laptop udp:53\n\
    Of two other devices an admin is told: warren admin why phone nas")]
pub(crate) struct WhyHere {
    /// The device that asks
    pub(crate) from: String,
    /// The device that is asked; one of the two is this one
    pub(crate) to: String,
    /// Where: 22 (TCP), tcp:22, udp:53, icmp
    pub(crate) port: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Lport {
    /// A port, or `auto`
    #[arg(value_name = "PORT|auto", value_parser = parse_listen_port)]
    pub(crate) port: Option<ListenPort>,
}
