//! The flags of `warren service`.

use clap::{Args, Subcommand, ValueEnum};

use super::values::parse_instance;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The node daemon
    Node,
    /// The broker
    Broker,
    /// A STUN and TURN server, `warren relay`
    Relay,
    /// `warren pair-relay`
    PairRelay,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Install, enable and start a hardened unit
    Install(ServiceInstall),
    /// Stop, disable and remove the unit; keys and data stay
    Uninstall {
        /// Which service
        #[arg(long, value_enum, default_value = "node")]
        role: Role,
        /// Which of several, as at `install`
        #[arg(long, value_name = "NAME", value_parser = parse_instance)]
        instance: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    sudo warren service install\n  \
    sudo warren service install --role broker -- --public-url https://203.0.113.7:8443\n  \
    sudo warren service install --role relay -- --broker https://203.0.113.7:8443 \\\n      \
    --pin PIN --token-file /etc/warren/relay.token\n  \
    sudo warren service install --role pair-relay -- --key-file /etc/warren/pair.key")]
pub(crate) struct ServiceInstall {
    /// Which service
    #[arg(long, value_enum, default_value = "node")]
    pub(crate) role: Role,
    /// A name that tells this one from others of its role on this machine
    #[arg(long, value_name = "NAME", value_parser = parse_instance)]
    pub(crate) instance: Option<String>,
    /// Print the unit instead
    #[arg(long)]
    pub(crate) print: bool,
    /// Flags for the service's command, after `--`
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}
