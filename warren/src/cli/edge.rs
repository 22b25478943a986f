//! The flags of `warren edge`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use warren_proto::{
    DeviceName, ForwardProtocol, LanSource, MacAddr, NewGateway, ParseScheduleError, Ports,
    Schedule,
};
use warren_scan::{MAX_EVERY, MIN_EVERY};

use crate::output::parse_duration;

/// The LAN that this device stands in, or another edge of the account.
#[derive(Debug, Args)]
pub(crate) struct EdgeArgs {
    /// Another edge of the account, by its name: it is asked through the tunnel
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) on: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Edge,
}

/// Opens the LAN that this device stands in.
#[derive(Debug, Subcommand)]
pub(crate) enum Edge {
    /// Let this device be an edge: what the account sets for it is open from now on
    Enable {
        /// By the userspace proxy, though the kernel might do it: slower, but nothing of this host's
        /// packet filter is touched, and gateways aren't open. `warren edge enable` alone takes it back
        #[arg(long)]
        userspace: bool,
        /// While the account asks for it, in its portal or by `warren admin edges ask`: its admins and this
        /// device's person decide from now on. `warren edge enable` alone takes it back
        #[arg(long, conflicts_with = "userspace")]
        when_asked: bool,
        /// These networks alone, and `internet` to be an exit node: what leads elsewhere isn't opened, scanned,
        /// checked or woken, whatever the account sets. It holds, over `disable` too, until other networks are
        /// named; `everything` lifts it. Without `--userspace` and `--when-asked` those stay as they are
        #[arg(long, value_name = "NETWORK|everything", value_delimiter = ',')]
        only: Vec<Lan>,
    },
    /// Be no edge any more: nothing is open, what is set is kept
    Disable,
    /// Whether this device is an edge, and what is open
    Status,
    /// Port forwards: ports of this device's mesh address that lead to devices of its LAN
    #[command(subcommand)]
    Forwards(Forwards),
    /// Virtual devices: devices of the LAN with a mesh address and a name of their own
    #[command(subcommand)]
    VirtualDevices(VirtualDevices),
    /// Gateways: networks behind this device
    #[command(subcommand)]
    Gateways(Gateways),
    /// Look for devices: in the LANs that this device stands in, or in networks behind their routers
    Scan(Scan),
    /// The devices that scans have found
    Devices(LanDevices),
    /// Wake a device of the LAN, by a magic packet (Wake-on-LAN)
    Wake {
        /// Its name, address or MAC, as `warren edge devices` shows them
        device: String,
    },
}

/// What a device may open as an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lan {
    /// All that the account sets.
    Everything,
    /// A network of a LAN, an address of one, or the internet.
    Network(Ipv4Net),
}

impl std::str::FromStr for Lan {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "everything" {
            return Ok(Self::Everything);
        }
        let address = || s.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
        NewGateway::parse_network(s).or_else(address).map(Self::Network).ok_or_else(|| {
            format!(
                "'{s}' is no network: write 192.168.1.0/24, 192.168.1.9, internet or everything"
            )
        })
    }
}

/// What is to be scanned.
#[derive(Debug, Args)]
#[command(
    after_help = "Ctrl-C cancels the scan; what was found until then is kept.\n\nExamples:\n  \
        warren edge scan\n  \
        warren edge scan 10.50.0.0/24 --ports 80,443,8080\n  \
        warren edge scan --every 24h\n  \
        warren edge scan --every off"
)]
pub(crate) struct Scan {
    /// Networks, as 10.50.0.0/24; without any, those that this device stands in
    pub(crate) networks: Vec<Ipv4Net>,
    /// TCP ports to try at each device; without any, 20 common ones
    #[arg(long, value_delimiter = ',')]
    pub(crate) ports: Vec<u16>,
    /// Probes in a second, at most 1,000
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Scans now, and has the edge do the same again and again by itself: 15m to 30d, as 6h or 24h, from
    /// one beginning to the next and a little more by chance. `off`: it doesn't any more, and nothing is
    /// scanned. `warren edge status` says when the next one is
    #[arg(long, value_name = "INTERVAL|off")]
    pub(crate) every: Option<Every>,
    /// Confirms that addresses of the internet may be scanned
    #[arg(long)]
    pub(crate) yes: bool,
}

/// How often a scan is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Every {
    /// Never.
    Off,
    /// Each so many seconds.
    Seconds(u64),
}

impl std::str::FromStr for Every {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "off" {
            return Ok(Self::Off);
        }
        let seconds = parse_duration(s).map_err(|error| format!("{error}, or `off`"))?.as_secs();
        match (MIN_EVERY..=MAX_EVERY).contains(&seconds) {
            true => Ok(Self::Seconds(seconds)),
            false => Err(format!("'{s}': a scan is repeated each 15m to 30d, or `off`")),
        }
    }
}

/// How they are shown.
#[derive(Debug, Args)]
pub(crate) struct LanDevices {
    /// As CSV, for spreadsheets
    #[arg(long)]
    pub(crate) csv: bool,
}

/// The first and last port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("'{text}' is no port: write 8080 or 8080-8090")),
            Ok(port) => Ok(port),
        };
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first <= range.last {
            Ok(range)
        } else {
            Err(format!("'{s}': the last port is below the first"))
        }
    }
}

/// A LAN device and, perhaps, a port of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LanAddress {
    pub(crate) ip: Ipv4Addr,
    pub(crate) port: Option<u16>,
}

impl std::str::FromStr for LanAddress {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("'{s}' is no LAN device: write 192.168.1.9 or 192.168.1.9:80");
        let (ip, port) = match s.split_once(':') {
            Some((ip, port)) => (ip, Some(port.parse().map_err(|_| wrong())?)),
            None => (s, None),
        };
        Ok(Self { ip: ip.parse().map_err(|_| wrong())?, port })
    }
}

/// A card that a target is bound to, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Card(pub(crate) Option<MacAddr>);

impl std::str::FromStr for Card {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "none" {
            return Ok(Self(None));
        }
        s.parse().map(|mac| Self(Some(mac))).map_err(|error| format!("{error}, or `none`"))
    }
}

/// Hours of the week, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hours(pub(crate) Option<Schedule>);

impl std::str::FromStr for Hours {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "always" {
            return Ok(Self(None));
        }
        let wrong = |error: ParseScheduleError| format!("'{s}': {error}; or 'always'");
        s.parse().map(|hours| Self(Some(hours))).map_err(wrong)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// TCP alone
    Tcp,
    /// UDP alone
    Udp,
    /// TCP and UDP
    Both,
}

impl From<Protocol> for ForwardProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Both => Self::Both,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// This device's LAN address: answers find back by themselves
    Masquerade,
    /// The mesh address of who asks: the LAN needs a route to the mesh by this device. A forward or virtual
    /// device is opened once an answer of its device has come back by it
    Transparent,
    /// The same, opened without that test: for a device that answers none, where the route is known to be there
    TransparentUntested,
}

impl From<Source> for LanSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Masquerade => Self::Masquerade,
            Source::Transparent | Source::TransparentUntested => Self::Transparent,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    /// In force
    On,
    /// Kept, and not in force
    Off,
}

/// What all kinds have.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Whether it is in force
    #[arg(long = "enabled", value_enum)]
    pub(crate) switch: Option<OnOff>,
    /// What the LAN device sees as the source
    #[arg(long, value_enum)]
    pub(crate) source: Option<Source>,
    /// Something to remember of it
    #[arg(long)]
    pub(crate) note: Option<String>,
}

impl Common {
    pub(crate) fn enabled(&self) -> Option<bool> {
        self.switch.map(|switch| switch == OnOff::On)
    }

    /// What the LAN device sees as the source.
    pub(crate) fn source(&self) -> Option<LanSource> {
        self.source.map(Into::into)
    }

    /// Whether nobody looks whether answers come back, if something is said of the source.
    pub(crate) fn untested(&self) -> Option<bool> {
        self.source.map(|source| source == Source::TransparentUntested)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Forwards {
    /// List them
    List,
    /// Lead a port to a device of the LAN
    #[command(after_help = "Examples:\n  \
        warren edge forwards add 8080 192.168.1.9:80 --name camera\n  \
        warren edge forwards add 5000-5010 192.168.1.20 --protocol udp --mac 3c:52:82:01:02:03")]
    Add {
        /// Port of this device's mesh address, or ports: 8080, 8080-8090
        port: PortRange,
        /// The device, with the port that the first one leads to, if it is another:
        /// 192.168.1.9, 192.168.1.9:80
        target: LanAddress,
        /// What it takes
        #[arg(long, value_enum, default_value = "tcp")]
        protocol: Protocol,
        /// What to call it [default: by its port]
        #[arg(long)]
        name: Option<String>,
        /// The device's MAC address: the forward follows it to another IP address; `none`: it stays [default:
        /// as a scan saw it within the hour, or as it answers now]
        #[arg(long)]
        mac: Option<Card>,
        /// Who may use it, of those whom the policy lets: user:anna@example.org, group:NAME, tag:NAME,
        /// device:NAME, role:admin [default: all of them]
        #[arg(long, value_name = "WHO", value_delimiter = ',')]
        allow: Vec<String>,
        /// When it is in force: 08:00-18:00, mon,tue,fri@08:00-18:00+01:00 (local time's offset from
        /// UTC) [default: always]
        #[arg(long)]
        hours: Option<Hours>,
        /// Take a target that has a public address, too
        #[arg(long)]
        allow_public: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Change one
    Set {
        /// Its name or id
        forward: String,
        /// Who may use it; `anybody`: whoever the policy lets
        #[arg(long, value_name = "WHO", value_delimiter = ',')]
        allow: Option<Vec<String>>,
        /// When it is in force; `always`: at all hours
        #[arg(long)]
        hours: Option<Hours>,
        /// Another port, or ports
        #[arg(long)]
        port: Option<PortRange>,
        /// Another device
        #[arg(long)]
        target: Option<LanAddress>,
        /// The device's MAC address, or `none` [default: as before, if the address is the same; else as a
        /// scan saw it within the hour, or as it answers now]
        #[arg(long, requires = "target")]
        mac: Option<Card>,
        /// What it takes
        #[arg(long, value_enum)]
        protocol: Option<Protocol>,
        /// Another name
        #[arg(long)]
        name: Option<String>,
        /// Take a target that has a public address, too
        #[arg(long)]
        allow_public: bool,
        #[command(flatten)]
        common: Common,
    },
    /// See whether the device answers, at the first of the ports
    Check {
        /// Its name or id
        forward: String,
    },
    /// Remove one
    Remove {
        /// Its name or id
        forward: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VirtualDevices {
    /// List them
    List,
    /// Give a device of the LAN a mesh address and a name
    #[command(after_help = "Examples:\n  \
        warren edge virtual-devices add camera-2 192.168.1.9\n  \
        warren edge virtual-devices add printer 192.168.1.20 --ports tcp:631,tcp:9100")]
    Add {
        /// Its name in the mesh: NAME.THIS-DEVICE
        name: DeviceName,
        /// The device's LAN address
        ip: Ipv4Addr,
        /// The device's MAC address: it is followed to another IP address; `none`: it stays [default: as a
        /// scan saw it within the hour, or as it answers now]
        #[arg(long)]
        mac: Option<Card>,
        /// What is let through: tcp:80, tcp:8000-8100, udp:53, icmp [default: everything]
        #[arg(long, value_delimiter = ',')]
        ports: Vec<Ports>,
        /// Take a target that has a public address, too
        #[arg(long)]
        allow_public: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Change one
    Set {
        /// Its name or id
        device: String,
        /// Another name
        #[arg(long)]
        name: Option<DeviceName>,
        /// Another LAN address
        #[arg(long)]
        ip: Option<Ipv4Addr>,
        /// The device's MAC address, or `none` [default: as before, if the address is the same; else as a
        /// scan saw it within the hour, or as it answers now]
        #[arg(long, requires = "ip")]
        mac: Option<Card>,
        /// What is let through, instead of what was
        #[arg(long, value_delimiter = ',')]
        ports: Option<Vec<Ports>>,
        /// Take a target that has a public address, too
        #[arg(long)]
        allow_public: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Remove one
    Remove {
        /// Its name or id
        device: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Gateways {
    /// List them
    List,
    /// Lead to a network behind this device, or to the internet
    #[command(
        after_help = "The mesh knows the network by a part of the account's own range, address \
        by address, so that sites may have the same one. With --internet this device is an exit node: \
        others use it once their own user has chosen it (`warren exit-node use NAME`), and reach public \
        addresses by it, none of its LAN. Examples:\n  \
        warren edge gateways add 192.168.1.0/24\n  \
        warren edge gateways add --internet"
    )]
    Add {
        /// The network as the LAN knows it
        #[arg(required_unless_present = "internet")]
        lan: Option<Ipv4Net>,
        /// Lead to the internet: be an exit node
        #[arg(long, conflicts_with = "lan")]
        internet: bool,
        /// Stand by for another edge's gateway to this network: the mesh reaches it through the one that
        /// answers. Both edges are of one person and have the same tags
        #[arg(long, value_name = "EDGE")]
        standby_for: Option<DeviceName>,
        #[command(flatten)]
        common: Common,
    },
    /// Change one
    Set {
        /// Its network (`internet`) or id
        gateway: String,
        #[command(flatten)]
        common: Common,
    },
    /// Remove one
    Remove {
        /// Its network (`internet`) or id
        gateway: String,
    },
}
