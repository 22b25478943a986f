use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use crate::binding::Limits;

/// What a server is, for its whole life.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who may use it; this part can be changed ([`super::Server::set_settings`]).
    pub settings: Settings,
    /// The address of relayed IPv4 ports as peers see it; `None`: no ordinary IPv4 allocations.
    pub relayed_ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub relayed_ipv6: Option<Ipv6Addr>,
    /// The relayed ports (RFC 8656 §7.2: 49152–65535).
    pub ports: RangeInclusive<u16>,
    /// Whether virtual relayed addresses are given. Without relayed addresses it gives nothing
    /// else: that is a private relay.
    pub virtual_addresses: bool,
    /// The host's own addresses; others later by [`super::Server::set_own`]. They are no peers, unless
    /// the allow-list names them one by one.
    pub own: Vec<IpAddr>,
    /// Peers that are allowed although their range is denied by default.
    pub allow_peers: Vec<IpNet>,
    /// How much of what.
    pub quotas: Quotas,
    /// How much for strangers.
    pub limits: Limits,
    /// How the listeners are reached from outside, by their number, for OTHER-ADDRESS and
    /// CHANGE-REQUEST (RFC 5780); may be empty.
    pub stun: Vec<SocketAddr>,
}

impl Config {
    /// A server of virtual addresses only.
    pub fn private(settings: Settings) -> Self {
        Self {
            settings,
            relayed_ipv4: None,
            relayed_ipv6: None,
            ports: 49_152..=65_535,
            virtual_addresses: true,
            own: Vec::new(),
            allow_peers: Vec::new(),
            quotas: Quotas::default(),
            limits: Limits::default(),
            stun: Vec::new(),
        }
    }
}

/// Who may use a server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Sent to those who don't know it. At most 32 bytes, or replies to the shortest requests
    /// leave out what makes them modern.
    pub realm: String,
    /// Secrets for TURN REST credentials ([`crate::rest`]): one, or two while rotating.
    pub secrets: Vec<Vec<u8>>,
    /// Users with fixed passwords.
    pub users: Vec<User>,
    /// Ids of REST credentials that are no longer welcome.
    pub revoked: Vec<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("realm", &self.realm)
            .field("secrets", &self.secrets.len())
            .field("users", &self.users.len())
            .field("revoked", &self.revoked.len())
            .finish()
    }
}

/// A user with a fixed password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Name, as in USERNAME.
    pub name: String,
    /// Password.
    pub password: String,
    /// Realm that the password is for; `None` for the server's.
    pub realm: Option<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({:?})", self.name)
    }
}

/// How much of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Allocations of one credential, and ports that are reserved for it (486 beyond).
    pub allocations: u32,
    /// Allocations and reserved ports in total (508 beyond).
    pub total_allocations: u32,
    /// Payload bytes a second of one credential, in both directions together.
    pub bandwidth: Option<NonZeroU64>,
    /// Payload bytes a second in total.
    pub total_bandwidth: Option<NonZeroU64>,
    /// The longest time between two refreshes; at least ten minutes.
    pub max_lifetime: Duration,
    /// Permissions of one allocation, and as many channels (508 beyond).
    pub peers: u16,
    /// Connections that have no allocation yet, in total; beyond, the prefix that has most loses one.
    pub waiting_streams: u32,
    /// The same of one /24 (IPv4) or /56 (IPv6), so that nobody keeps all others out.
    pub waiting_streams_per_prefix: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            allocations: 100,
            total_allocations: 1_000_000,
            bandwidth: None,
            total_bandwidth: None,
            max_lifetime: Duration::from_secs(3600),
            peers: 4096,
            waiting_streams: 1000,
            waiting_streams_per_prefix: 125,
        }
    }
}
