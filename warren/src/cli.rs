//! Every command and flag, once: help, man pages, completions, environment variables and the
//! configuration file's keys all come from here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "relay")]
mod relay;
#[cfg(feature = "relay")]
pub(crate) use relay::{PairProbe, PairRelay, PairRelayCommand, PairRelayServe, PairSecret};

/// Your own private network between all your devices, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "warren", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Try it without touching this machine: warren demo\n\
    Every flag can also be set as WARREN_<FLAG>, or in a TOML file given by --config \
    (a table for each command, e.g. [serve] listen = \"[::]:443\").")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the node keeps its key, cached map and socket; one folder for each node on a machine
    #[arg(long, global = true, env = "WARREN_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true, env = "WARREN_JSON")]
    pub(crate) json: bool,
    /// What to log: error, warn, info, debug, trace, or e.g. info,warren_mesh=trace
    #[arg(long, global = true, env = "WARREN_LOG", value_name = "LEVEL", default_value = "info")]
    pub(crate) log: String,
    /// Read flags from a TOML file
    #[arg(long, global = true, env = "WARREN_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker: devices meet here; it never sees their traffic
    #[cfg(feature = "broker")]
    Serve(Serve),
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
    /// Show what this network allows: UDP, IPv4, IPv6, NAT, port mapping
    #[cfg(feature = "node")]
    Netcheck,
    /// Show or set the UDP listen port
    #[cfg(feature = "node")]
    Lport(Lport),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tls {
    /// The broker's own authority, pinned by the join links
    SelfSigned,
    /// A public certificate for the public URL's domain (Let's Encrypt or another ACME server)
    Acme,
    /// Plain HTTP: on loopback, or behind a proxy named by --trusted-proxy
    Off,
}

#[cfg(feature = "broker")]
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the database and the broker's keys are kept
    #[arg(long, env = "WARREN_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where HTTPS is served.
    #[arg(
        long,
        env = "WARREN_LISTEN",
        value_name = "ADDR:PORT",
        help = "HTTPS address [default: [::]:443 where permitted, else [::]:8443]"
    )]
    pub(crate) listen: Option<SocketAddr>,
    /// How devices reach this broker [default: guessed from this machine's address]
    #[arg(long, env = "WARREN_PUBLIC_URL", value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// Where the HTTPS certificate comes from
    #[arg(long, env = "WARREN_TLS", value_enum, default_value = "self-signed")]
    pub(crate) tls: Tls,
    /// Where STUN is served.
    #[arg(
        long,
        env = "WARREN_STUN",
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        help = "STUN address, served with the next port beside it [default: [::]:3478]"
    )]
    pub(crate) stun: Vec<SocketAddr>,
    /// STUN address to tell devices, where it differs from the one listened on
    #[arg(long, env = "WARREN_STUN_PUBLIC", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub(crate) stun_public: Vec<SocketAddr>,
    /// Where `warren admin` reaches this broker [default: admin.sock in the data folder]
    #[arg(long, env = "WARREN_ADMIN_SOCKET", value_name = "FILE")]
    pub(crate) admin_socket: Option<PathBuf>,
    /// Reverse proxy whose X-Forwarded-For is believed, e.g. 127.0.0.1/32
    #[arg(long, env = "WARREN_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) trusted_proxy: Vec<ipnet::IpNet>,
    /// Domain below which accounts get their names
    #[arg(long, env = "WARREN_SUFFIX", value_name = "DOMAIN", default_value = "warren.internal")]
    pub(crate) suffix: String,
    /// ACME directory [default: Let's Encrypt]
    #[arg(long, env = "WARREN_ACME_DIRECTORY", value_name = "URL")]
    pub(crate) acme_directory: Option<String>,
    /// PEM file of an authority that the ACME directory's own certificate comes from
    #[arg(long, env = "WARREN_ACME_ROOT", value_name = "FILE")]
    pub(crate) acme_root: Option<PathBuf>,
    /// E-mail address for the ACME account
    #[arg(long, env = "WARREN_ACME_EMAIL", value_name = "ADDRESS")]
    pub(crate) acme_email: Option<String>,
}

#[cfg(feature = "node")]
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Join link; `-` reads it from standard input
    #[arg(long, env = "WARREN_JOIN", value_name = "LINK", hide_env_values = true)]
    pub(crate) join: Option<String>,
    /// File with the join link
    #[arg(long, env = "WARREN_JOIN_FILE", value_name = "FILE", conflicts_with = "join")]
    pub(crate) join_file: Option<PathBuf>,
    /// The device's name in the account [default: the host name]
    #[arg(long, env = "WARREN_NAME", value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[cfg(feature = "node")]
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(flatten)]
    pub(crate) join: Join,
    /// UDP port [default: chosen once and kept]
    #[arg(long, env = "WARREN_LISTEN_PORT", value_name = "PORT")]
    pub(crate) listen_port: Option<u16>,
    /// Name of the network interface [default: the first free of warren0, warren1, …]
    #[arg(long, env = "WARREN_TUN", value_name = "NAME")]
    pub(crate) tun: Option<String>,
    /// Undo what a killed daemon has left in the host's configuration, and end
    #[arg(long)]
    pub(crate) clean_up: bool,
    /// Fixed MTU of the interface, 1280 to 65000 [default: found out]
    #[arg(long, env = "WARREN_MTU", value_name = "BYTES",
          value_parser = clap::value_parser!(u16).range(1280..=65000))]
    pub(crate) mtu: Option<u16>,
    /// Whether the system resolves the mesh's names
    #[arg(long, env = "WARREN_DNS", value_enum, default_value = "auto")]
    pub(crate) dns: Dns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dns {
    /// Through systemd-resolved where it runs, otherwise /etc/resolv.conf
    Auto,
    /// Leave the system's resolver alone
    Off,
}

#[cfg(feature = "node")]
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) join: Join,
}

#[cfg(feature = "node")]
#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// Throw the key pair away too: the next `up --join` makes a new device (for a cloned disk)
    #[arg(long)]
    pub(crate) new_identity: bool,
}

#[cfg(feature = "node")]
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Also show peers that are offline
    #[arg(long, short)]
    pub(crate) all: bool,
}

#[cfg(feature = "node")]
#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// A device's name or mesh address
    pub(crate) peer: String,
    /// Stop after this many answers; 0 never stops [default: when the path is direct, at most 20]
    #[arg(long, short, env = "WARREN_COUNT", value_name = "N")]
    pub(crate) count: Option<u32>,
}

#[cfg(feature = "node")]
#[derive(Debug, Args)]
pub(crate) struct Lport {
    /// A port, or `auto`
    #[arg(value_name = "PORT|auto")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The node daemon
    Node,
    /// The broker
    Broker,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Install, enable and start a hardened unit
    Install(ServiceInstall),
    /// Stop, disable and remove the unit; keys and data stay
    Uninstall {
        /// Which one
        #[arg(long, value_enum, default_value = "node")]
        role: Role,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServiceInstall {
    /// Which one
    #[arg(long, value_enum, default_value = "node")]
    pub(crate) role: Role,
    /// Print the unit instead
    #[arg(long)]
    pub(crate) print: bool,
    /// Flags for the service's command, after `--`
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

#[cfg(feature = "broker")]
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// The broker's data folder [default: as `serve`]
    #[arg(long, global = true, env = "WARREN_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The broker's socket [default: that of the service, or admin.sock in the data folder]
    #[arg(long, global = true, env = "WARREN_ADMIN_SOCKET", value_name = "FILE")]
    pub(crate) admin_socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
}

#[cfg(feature = "broker")]
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Accounts: each is one private network
    #[command(subcommand)]
    Accounts(Accounts),
    /// Join keys: what lets a device in
    #[command(subcommand)]
    JoinKeys(JoinKeys),
    /// Devices
    #[command(subcommand)]
    Devices(Devices),
    /// Write everything into one file while the broker runs
    Backup {
        /// The file
        file: PathBuf,
    },
    /// The keys by which devices know the broker, and changing them
    #[command(subcommand)]
    Pins(Pins),
    /// Show the broker as a whole
    Status,
    /// Put back what a backup holds: into the running broker, or into a new data folder
    Restore {
        /// The file
        file: PathBuf,
        /// Don't ask before the running broker's accounts and devices are replaced
        #[arg(long, short)]
        yes: bool,
    },
}

#[cfg(feature = "broker")]
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Pins {
    /// Show the pins in use and to come
    Show,
    /// Make the next authority and announce its pin to the devices
    Prepare,
    /// Put the announced authority to use
    Activate,
}

/// The account that a command is about.
#[cfg(feature = "broker")]
#[derive(Debug, Args)]
pub(crate) struct AccountArg {
    /// The account
    #[arg(long, env = "WARREN_ACCOUNT", value_name = "NAME", default_value = "home")]
    pub(crate) account: String,
}

#[cfg(feature = "broker")]
#[derive(Debug, Subcommand)]
pub(crate) enum Accounts {
    /// List them
    List,
    /// Show one
    Show {
        /// Its name
        name: String,
    },
    /// Create one
    Create {
        /// Its name
        name: String,
        /// Its IPv4 range [default: a free /16 of 100.64.0.0/10]
        #[arg(long, value_name = "CIDR")]
        ipv4_range: Option<ipnet::Ipv4Net>,
    },
    /// Remove one with all its devices
    Remove {
        /// Its name
        name: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[cfg(feature = "broker")]
#[derive(Debug, Subcommand)]
pub(crate) enum JoinKeys {
    /// List them
    List(AccountArg),
    /// Create one and print its join link
    Create {
        #[command(flatten)]
        account: AccountArg,
        /// For any number of devices
        #[arg(long)]
        reusable: bool,
        /// Devices that join by it are removed when they have been offline for a while
        #[arg(long)]
        ephemeral: bool,
        /// How long it is valid, e.g. 30m, 24h, 7d; `never`
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        expires: String,
        /// Tag for the devices that join by it
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
    },
    /// Remove one; devices that joined by it stay
    Remove {
        #[command(flatten)]
        account: AccountArg,
        /// Its id
        id: String,
    },
}

#[cfg(feature = "broker")]
#[derive(Debug, Subcommand)]
pub(crate) enum Devices {
    /// List them
    List(AccountArg),
    /// Show one
    Show {
        #[command(flatten)]
        account: AccountArg,
        /// Its name
        name: String,
    },
    /// Change one
    Set {
        #[command(flatten)]
        account: AccountArg,
        /// Its name
        name: String,
        /// A new name
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        /// Where it can always be reached; `none` clears it
        #[arg(long, value_name = "ADDR:PORT")]
        static_endpoint: Option<String>,
        /// Its tags, instead of those it has
        #[arg(long = "tag", value_name = "TAG")]
        tags: Option<Vec<String>>,
    },
    /// Cut one off until it joins again
    Expire {
        #[command(flatten)]
        account: AccountArg,
        /// Its name
        name: String,
    },
    /// Remove one for good
    Remove {
        #[command(flatten)]
        account: AccountArg,
        /// Its name
        name: String,
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
