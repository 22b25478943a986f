//! The broker's flags: `warren serve`, and `warren admin`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use warren_proto::{DeviceName, JoinKeyId};

use super::Log;
use super::admin_edges::Edges;
use super::admin_people::{Audit, Tokens, Users};
use super::admin_policy::{Policy, Why};
use super::admin_relays::Relays;
use super::admin_webhooks::Webhooks;
use super::values::{
    Expiry, Number, StaticEndpoint, parse_days, parse_device_limit, parse_expiry,
    parse_join_key_id, parse_kept, parse_name, parse_network, parse_static_endpoint, parse_switch,
    parse_user_limit,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tls {
    /// The broker's own authority, pinned by the join links
    SelfSigned,
    /// A public certificate for the public URL's domain (Let's Encrypt or another ACME server)
    Acme,
    /// Plain HTTP: on loopback for a proxy on this machine, or behind one named by --trusted-proxy
    Off,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    warren serve\n  \
    warren serve --public-url https://203.0.113.7:8443    (behind a forwarded port, or a cloud's NAT)\n  \
    warren serve --public-url https://mesh.example.org --tls acme")]
pub(crate) struct Serve {
    /// Where the database and the broker's keys are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where HTTPS is served.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        help = "HTTPS address [default: [::]:443 where permitted, else [::]:8443]"
    )]
    pub(crate) listen: Option<SocketAddr>,
    /// How devices reach this broker [default: guessed from this machine's address]
    #[arg(long, value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// Where the HTTPS certificate comes from
    #[arg(long, value_enum, default_value = "self-signed")]
    pub(crate) tls: Tls,
    /// Where STUN is served.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        help = "STUN address, served with the next port beside it [default: [::]:3478]"
    )]
    pub(crate) stun: Vec<SocketAddr>,
    /// STUN address to tell devices, where this machine's own isn't the one that they reach
    /// [default: its public addresses; those of an IP address in --public-url]
    #[arg(long, value_name = "ADDR:PORT", value_delimiter = ',')]
    pub(crate) stun_public: Vec<SocketAddr>,
    /// Where `warren admin` reaches this broker [default: admin.sock in the data folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_socket: Option<PathBuf>,
    /// Don't relay for accounts that have named no relay of their own
    #[arg(long)]
    pub(crate) no_relay: bool,
    /// Reverse proxy whose X-Forwarded-For is believed: 127.0.0.1, or a network of them [default:
    /// this machine with --tls off on loopback, else none]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_network)]
    pub(crate) trusted_proxy: Vec<ipnet::IpNet>,
    /// Domain below which accounts get their names
    #[arg(long, value_name = "DOMAIN", default_value = "warren.internal")]
    pub(crate) suffix: String,
    /// How many devices an account may have, 1 to 10000; a map of more than 1800 may grow larger
    /// than devices take, if they make their entries long on purpose
    #[arg(long, value_name = "N", default_value_t = warren_broker::DeviceLimit::DEFAULT.0,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(warren_broker::DeviceLimit::MAX.0)))]
    pub(crate) max_devices: u32,
    /// Where webhooks may lead besides the internet, also without TLS: an address, or a network
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_network)]
    pub(crate) allow_webhook: Vec<ipnet::IpNet>,
    /// ACME directory [default: Let's Encrypt]
    #[arg(long, value_name = "URL")]
    pub(crate) acme_directory: Option<String>,
    /// PEM file of an authority that the ACME directory's own certificate comes from
    #[arg(long, value_name = "FILE")]
    pub(crate) acme_root: Option<PathBuf>,
    /// E-mail address for the ACME account
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) acme_email: Option<String>,
    #[command(flatten)]
    pub(crate) single_sign_on: super::SingleSignOn,
    #[command(flatten)]
    pub(crate) smtp: super::Smtp,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    warren admin join-keys create --reusable --expires 7d\n  \
    warren admin devices list\n  \
    warren admin devices set kitchen-pi --static-endpoint 203.0.113.7:51820")]
pub(crate) struct Admin {
    /// The broker's data folder [default: as `serve`]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The broker's socket [default: that of the service, or admin.sock in the data folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) admin_socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
}

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
    /// People: who signs in, and what they are in which account
    #[command(subcommand)]
    Users(Users),
    /// API tokens: what lets programs use the API over HTTPS
    #[command(subcommand)]
    Tokens(Tokens),
    /// Activity: who changed what, when and from where
    #[command(subcommand)]
    Audit(Audit),
    /// Policy: who may reach what
    #[command(subcommand)]
    Policy(Policy),
    /// Why two devices do or don't talk: policy, keys, NATs, candidates, relays, path
    Why(Why),
    /// Webhooks: what happens in an account, sent to an address as it happens
    #[command(subcommand)]
    Webhooks(Webhooks),
    /// Edges: devices that open the LAN they stand in
    #[command(subcommand)]
    Edges(Edges),
    /// Mail: whether it works
    #[command(subcommand)]
    Mail(super::Mail),
    /// Relays: what carries traffic where no direct path exists
    #[command(subcommand)]
    Relays(Relays),
    /// Write everything into one new file while the broker runs
    Backup {
        /// The new file
        file: PathBuf,
    },
    /// Change what the broker logs while it runs
    Log(Log),
    /// The keys by which devices know the broker, and changing them
    #[command(subcommand)]
    Pins(Pins),
    /// Show the broker as a whole
    Status,
    /// Put back what a backup holds: into the running broker, or into a new data folder
    Restore {
        /// The file that `backup` has written
        file: PathBuf,
        /// Don't ask before the running broker's accounts and devices are replaced
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Pins {
    /// Show the pins in use and to come
    Show,
    /// Make the next authority and announce its pin to the devices
    Prepare,
    /// Put the announced authority to use
    Activate,
}

/// Whether a device expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceExpiry {
    /// Never
    Never,
    /// As the account says
    Default,
}

/// The account that a command is about.
#[derive(Debug, Args)]
pub(crate) struct AccountArg {
    /// The account
    #[arg(long, value_name = "NAME", default_value = "home")]
    pub(crate) account: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Accounts {
    /// List all accounts
    List,
    /// Show an account
    Show {
        /// The account's name
        name: String,
    },
    /// Create an account
    Create {
        /// The account's name, e.g. `family`
        #[arg(value_parser = parse_name)]
        name: DeviceName,
        /// Its IPv4 range [default: a free /16 of 100.64.0.0/10]
        #[arg(long, value_name = "CIDR")]
        ipv4_range: Option<ipnet::Ipv4Net>,
    },
    /// Change an account's settings and limits
    #[command(group = ArgGroup::new("change").required(true).multiple(true)
        .args(["device_approval", "key_expiry", "activity", "max_devices", "max_users"]))]
    #[command(after_help = "Examples:\n  \
        warren admin accounts set home --device-approval on --key-expiry 180\n  \
        warren admin accounts set acme --max-devices 50 --max-users 5")]
    Set {
        /// The account's name
        name: String,
        /// Whether new devices wait until an admin approves them: on or off
        #[arg(long, value_name = "ON|OFF", value_parser = parse_switch)]
        device_approval: Option<bool>,
        /// After how many days devices must be renewed, or `never`; counts from now on
        #[arg(long, value_name = "DAYS", value_parser = parse_days)]
        key_expiry: Option<Number<u16>>,
        /// For how many days its Activity is kept, or `forever`
        #[arg(long, value_name = "DAYS", value_parser = parse_kept)]
        activity: Option<Number<u16>>,
        /// How many devices it may have, or `default`: as many as the broker allows
        #[arg(long, value_name = "N", value_parser = parse_device_limit)]
        max_devices: Option<Number<u32>>,
        /// How many people it may have, or `any`
        #[arg(long, value_name = "N", value_parser = parse_user_limit)]
        max_users: Option<Number<u32>>,
    },
    /// Suspend an account: its devices have no mesh, its people are locked out, all is kept
    Suspend {
        /// The account's name
        name: String,
    },
    /// Let a suspended account go on as it was
    Resume {
        /// The account's name
        name: String,
    },
    /// Remove an account with all its devices
    Remove {
        /// The account's name
        name: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JoinKeys {
    /// List an account's join keys
    List(AccountArg),
    /// Show a join key
    Show {
        #[command(flatten)]
        account: AccountArg,
        /// The key's id
        #[arg(value_parser = parse_join_key_id)]
        id: JoinKeyId,
    },
    /// Create a join key and print its join link
    #[command(after_help = "Examples:\n  \
        warren admin join-keys create                            (one device, within a day)\n  \
        warren admin join-keys create --reusable --expires 7d\n  \
        warren admin join-keys create --account family --json")]
    Create {
        #[command(flatten)]
        account: AccountArg,
        /// For any number of devices
        #[arg(long)]
        reusable: bool,
        /// Devices that join by it are removed when they have been offline for a while
        #[arg(long)]
        ephemeral: bool,
        /// Its devices need no approval, where the account asks for that
        #[arg(long)]
        approved: bool,
        /// How long it is valid, e.g. 30m, 24h, 7d; `never`
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_expiry)]
        expires: Expiry,
        /// Tag for the devices that join by it
        #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
        tags: Vec<String>,
    },
    /// Remove a join key; devices that joined by it stay
    Remove {
        #[command(flatten)]
        account: AccountArg,
        /// The key's id
        #[arg(value_parser = parse_join_key_id)]
        id: JoinKeyId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Devices {
    /// List an account's devices
    List(AccountArg),
    /// Show a device
    Show {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
    },
    /// Change a device
    #[command(group = ArgGroup::new("change").required(true).multiple(true)
        .args(["rename", "static_endpoint", "tags", "owner", "expiry"]))]
    #[command(after_help = "Examples:\n  \
        warren admin devices set kitchen-pi --rename attic-pi\n  \
        warren admin devices set office --static-endpoint 203.0.113.7:51820")]
    Set {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
        /// Its new name
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        rename: Option<DeviceName>,
        /// Where it can always be reached; `none` clears it
        #[arg(long, value_name = "ADDR:PORT", value_parser = parse_static_endpoint)]
        static_endpoint: Option<StaticEndpoint>,
        /// Its tags, instead of those it has; an empty one clears them
        #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
        tags: Option<Vec<String>>,
        /// E-mail address of the person whose device it is; `none`: nobody's
        #[arg(long, value_name = "E-MAIL")]
        owner: Option<String>,
        /// Whether it never expires, or as the account says
        #[arg(long, value_enum, value_name = "WHEN")]
        expiry: Option<DeviceExpiry>,
    },
    /// Let the device in that shows this code (`warren up --server URL`)
    LetIn {
        #[command(flatten)]
        account: AccountArg,
        /// The code
        code: String,
        /// Tag that it gets; several by commas
        #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
        tags: Vec<String>,
    },
    /// Turn the device away that shows this code
    TurnAway {
        #[command(flatten)]
        account: AccountArg,
        /// The code
        code: String,
    },
    /// Let a device into the mesh that waits for approval
    Approve {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
    },
    /// Turn a device away that waits for approval: it is removed
    Refuse {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
    },
    /// Let a device's time begin anew, whether it was over or not
    Renew {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
    },
    /// Look whether a device is reached at its static endpoint, by a STUN request from the broker
    Reach {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
    },
    /// Take a device out of the mesh until it is renewed or joins again
    Expire {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
    },
    /// Remove a device for good
    Remove {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name
        name: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}
