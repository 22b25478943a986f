use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// How to open a TUN device.
#[derive(Debug, Clone)]
pub struct TunConfig {
    /// The interface's name, at most 15 bytes; `None` lets the system number one (`warren0`, …).
    pub name: Option<String>,
    /// Length of the transmit queue in packets (super-packets count once).
    pub txqueue: u32,
    /// Whether to ask for segmentation and checksum offload. Off only for comparison in tests.
    pub offload: bool,
}

impl Default for TunConfig {
    fn default() -> Self {
        Self { name: None, txqueue: 1_000, offload: true }
    }
}

/// How to open the sockets of a node.
#[derive(Debug, Clone)]
pub struct UdpConfig {
    /// The port in both families; `None` picks a random one of 49152–65535 that is free in both.
    pub port: Option<u16>,
    /// The mark on every datagram (`SO_MARK`); needs CAP_NET_ADMIN, else left out.
    pub mark: Option<u32>,
    /// Kernel buffer of each direction, in bytes.
    pub buffer: usize,
    /// Whether to use segmentation offload (GSO, GRO). Off only for comparison in tests.
    pub offload: bool,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { port: None, mark: Some(HostConfig::MARK), buffer: 8 << 20, offload: true }
    }
}

/// How to open one socket of a server.
#[derive(Debug, Clone)]
pub struct ServerSocketConfig {
    /// Where it listens; IPv6's unspecified address means IPv6 alone. Port 0 picks one.
    pub address: SocketAddr,
    /// Whether several sockets share the address, each getting its share of the sources
    /// (`SO_REUSEPORT`); every one of them has to say so.
    pub shared: bool,
    /// Kernel buffer to receive, in bytes.
    pub receive_buffer: usize,
    /// Kernel buffer to send, in bytes.
    pub send_buffer: usize,
    /// Whether to use segmentation offload (GSO, GRO). Off only for comparison in tests.
    pub offload: bool,
}

impl ServerSocketConfig {
    /// A socket of its own at `address`, with 8 MiB buffers.
    pub fn new(address: SocketAddr) -> Self {
        let buffer = 8 << 20;
        Self { address, shared: false, receive_buffer: buffer, send_buffer: buffer, offload: true }
    }
}

/// How the mesh's routes live beside the host's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostConfig {
    /// Mark of the daemon's sockets, which never look at the mesh's routing table.
    pub mark: u32,
    /// The bits of a mark that count.
    pub mark_mask: u32,
    /// Priority of the first policy rule; lower comes first, the main table's is 32766. With an exit node
    /// the two behind it are used, too.
    pub rule_priority: u32,
}

impl HostConfig {
    /// The mark of all sockets of every Warren daemon.
    pub const MARK: u32 = 0x7700_0000;
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { mark: Self::MARK, mark_mask: 0xff00_0000, rule_priority: 5180 }
    }
}

/// What the mesh interface should look like; `HostNetwork::configure`
/// makes it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The device's mesh address.
    pub ipv4: Ipv4Addr,
    /// The device's mesh address.
    pub ipv6: Ipv6Addr,
    /// The account's range (a /16), routed as a whole unless the host uses it otherwise.
    pub range4: Ipv4Net,
    /// The account's ULA /48.
    pub range6: Ipv6Net,
    /// The interface's MTU.
    pub mtu: u16,
    /// The peers' addresses, routed one by one where the whole range clashes.
    pub peers4: Vec<Ipv4Addr>,
    /// That all other IPv4 traffic goes into the mesh, too, and IPv6 nowhere.
    pub exit: Option<ExitRoutes>,
}

/// How traffic is led to an exit node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRoutes {
    /// Whether the private networks that the host stands in stay reachable beside it.
    pub lan: bool,
    /// Whether names are asked by the exit node alone: the ports of DNS lead there or nowhere, in those
    /// networks too.
    pub names: bool,
}

/// What of a crashed instance's rules is left in place for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare {
    /// Nothing.
    Nothing,
    /// What keeps traffic from leaving beside an exit node.
    Blocks,
}

/// An address of one of the host's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix in bits.
    pub prefix_len: u8,
    /// Index of its interface.
    pub interface: u32,
}

/// What the host's network looks like, without loopback, the mesh's own interface and interfaces
/// that are down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Addresses of interfaces that are up, in order; no link-local, tentative or deprecated ones.
    pub addresses: Vec<LocalAddress>,
    /// The default gateway of IPv4, by lowest metric.
    pub gateway4: Option<Ipv4Addr>,
    /// The default gateway of IPv6, by lowest metric; often link-local.
    pub gateway6: Option<Ipv6Addr>,
    /// Index of the interface of the IPv4 default route.
    pub default_interface4: Option<u32>,
    /// Index of the interface of the IPv6 default route.
    pub default_interface6: Option<u32>,
    /// How often another program has removed the policy rules of a mesh interface that is up, as
    /// systemd-networkd does when it starts; `HostNetwork::configure` brings them back.
    pub lost_rules: u64,
}

/// Something about the host that a user should know; the mesh works on with less.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Finding {
    /// An interface of the host uses addresses of the account's range.
    AddressClash {
        /// Its name.
        interface: String,
        /// Its network.
        network: IpNet,
        /// The account's range.
        range: IpNet,
    },
    /// The host has IPv6 switched off.
    NoIpv6,
    /// The daemon's sockets couldn't be marked.
    NoMark,
    /// An interface takes packets only from where it would send answers: with an exit node chosen, peers'
    /// packets are dropped there.
    StrictReversePath {
        /// Its name.
        interface: String,
    },
    /// A program that binds itself to an interface can pass the exit node by.
    ExitPassable {
        /// What the system says.
        reason: String,
    },
    /// The kernel granted smaller socket buffers than asked for.
    SmallBuffers {
        /// What it granted, in bytes.
        granted: usize,
    },
}

impl Finding {
    /// A short, stable name for `health[].code` in `status --json`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AddressClash { .. } => "address-clash",
            Self::NoIpv6 => "no-ipv6",
            Self::NoMark => "no-socket-mark",
            Self::StrictReversePath { .. } => "strict-reverse-path",
            Self::ExitPassable { .. } => "exit-node-passable",
            Self::SmallBuffers { .. } => "small-socket-buffers",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressClash { interface, network, range } => write!(
                f,
                "{interface} uses {network}, which overlaps the mesh's {range}: only the peers' own \
                 addresses are routed here. Nothing needs doing unless an address is used twice; \
                 then give that network another range, or make a new account with one \
                 ('warren admin accounts create NAME --ipv4-range') and join it"
            ),
            Self::NoIpv6 => write!(
                f,
                "IPv6 is switched off on this host: peers are reached by their IPv4 mesh addresses; \
                 `sysctl net.ipv6.conf.all.disable_ipv6=0` switches it on"
            ),
            Self::StrictReversePath { interface } => write!(
                f,
                "{interface} filters strictly by reverse path, so that with an exit node what peers send is \
                 dropped: `sysctl net.ipv4.conf.all.rp_filter=2` helps (and in /etc/sysctl.d, to last)"
            ),
            Self::ExitPassable { reason } => write!(
                f,
                "programs that bind themselves to an interface, as systemd-resolved may, can pass the exit \
                 node by: the table of nftables that holds them can't be written ({reason}). It is tried \
                 again; it takes a kernel with nf_tables and nft_reject_inet"
            ),
            Self::NoMark => write!(
                f,
                "the daemon's sockets couldn't be marked (no CAP_NET_ADMIN): a gateway or exit node \
                 could swallow the tunnel itself"
            ),
            Self::SmallBuffers { granted } => write!(
                f,
                "socket buffers are only {granted} bytes: bursts may be lost; \
                 `sysctl net.core.rmem_max=8388608 net.core.wmem_max=8388608` allows more"
            ),
        }
    }
}
