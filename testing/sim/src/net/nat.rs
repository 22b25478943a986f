//! NATs and stateful firewalls in the words of RFC 4787.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;

/// On what a mapping or a filter depends (RFC 4787 §4.1, §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behaviour {
    /// On nothing but the inside address and port.
    EndpointIndependent,
    /// On the outside address too.
    AddressDependent,
    /// On the outside address and port too.
    AddressAndPortDependent,
}

/// How outside ports are chosen (RFC 4787 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inside port where it is free, else a random one.
    Preserved,
    /// A random one.
    Random,
}

/// How a NAT behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatConfig {
    /// RFC 4787 §4.1.
    pub mapping: Behaviour,
    /// RFC 4787 §5.
    pub filtering: Behaviour,
    /// Whether hosts behind it reach each other by their outside addresses (RFC 4787 §6).
    pub hairpin: bool,
    /// RFC 4787 §4.2.1.
    pub ports: Ports,
    /// How long a mapping outlives its last use (RFC 4787 §4.3: two minutes or more).
    pub timeout: Duration,
    /// Whether inbound traffic keeps a mapping alive too; outbound always does.
    pub inbound_refresh: bool,
}

impl NatConfig {
    /// A NAT of these behaviours: no hairpinning, ports preserved (random where mappings depend on
    /// the destination), two minutes, refreshed by outbound traffic alone.
    pub const fn new(mapping: Behaviour, filtering: Behaviour) -> Self {
        let ports = match mapping {
            Behaviour::EndpointIndependent => Ports::Preserved,
            Behaviour::AddressDependent | Behaviour::AddressAndPortDependent => Ports::Random,
        };
        let timeout = Duration::from_secs(120);
        Self { mapping, filtering, hairpin: false, ports, timeout, inbound_refresh: false }
    }
}

/// A stateful firewall without translation, as before IPv6 homes (RFC 6092).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firewall {
    /// What an inbound packet must match of an earlier outbound one.
    pub filtering: Behaviour,
    /// How long an outbound packet opens it.
    pub timeout: Duration,
}

impl Default for Firewall {
    fn default() -> Self {
        Self { filtering: Behaviour::AddressAndPortDependent, timeout: Duration::from_secs(120) }
    }
}

/// What of a destination a behaviour looks at.
type Selector = (Option<IpAddr>, Option<u16>);

fn selector(behaviour: Behaviour, remote: SocketAddr) -> Selector {
    match behaviour {
        Behaviour::EndpointIndependent => (None, None),
        Behaviour::AddressDependent => (Some(remote.ip()), None),
        Behaviour::AddressAndPortDependent => (Some(remote.ip()), Some(remote.port())),
    }
}

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    key: Selector,
    expires: Instant,
    /// Until when the filter is open, by what of the remote it looks at.
    open_until: BTreeMap<Selector, Instant>,
}

/// The state of one NAT.
#[derive(Debug)]
pub(super) struct Nat {
    pub(super) config: NatConfig,
    by_port: BTreeMap<u16, Mapping>,
    port_by_inside: BTreeMap<(SocketAddr, Selector), u16>,
    /// Port mappings that a host has asked for (UPnP-IGD, NAT-PMP, PCP).
    forwards: BTreeMap<u16, SocketAddr>,
    /// Whoever came in by a forward is answered from its port.
    answers: BTreeMap<(SocketAddr, SocketAddr), (u16, Instant)>,
}

impl Nat {
    pub(super) fn new(config: NatConfig) -> Self {
        Self {
            config,
            by_port: BTreeMap::new(),
            port_by_inside: BTreeMap::new(),
            forwards: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    pub(super) fn forward(&mut self, port: u16, inside: SocketAddr) {
        self.forwards.insert(port, inside);
    }

    /// The outside port of a packet from inside; makes a mapping where there is none and opens the
    /// filter. `None`: out of ports.
    pub(super) fn translate_out(
        &mut self,
        inside: SocketAddr,
        remote: SocketAddr,
        now: Instant,
        rng: &mut StdRng,
    ) -> Option<u16> {
        if let Some((port, until)) = self.answers.get_mut(&(inside, remote))
            && *until > now
        {
            *until = now + self.config.timeout;
            return Some(*port);
        }
        let key = (inside, selector(self.config.mapping, remote));
        let live = |nat: &Self, port: &u16| nat.by_port.get(port).is_some_and(|m| m.expires > now);
        let port = match self.port_by_inside.get(&key).copied().filter(|port| live(self, port)) {
            Some(port) => port,
            None => self.map(inside, key.1, now, rng)?,
        };
        let until = now + self.config.timeout;
        let mapping = self.by_port.get_mut(&port)?;
        mapping.expires = until;
        mapping.open_until.retain(|_, open_until| *open_until > now);
        mapping.open_until.insert(selector(self.config.filtering, remote), until);
        Some(port)
    }

    fn map(
        &mut self,
        inside: SocketAddr,
        key: Selector,
        now: Instant,
        rng: &mut StdRng,
    ) -> Option<u16> {
        self.forget_expired(now);
        let preserved = match self.config.ports {
            Ports::Preserved => Some(inside.port()),
            Ports::Random => None,
        };
        let free =
            |port: &u16| !self.by_port.contains_key(port) && !self.forwards.contains_key(port);
        let port = preserved
            .filter(free)
            .or_else(|| (0..1000).map(|_| rng.random_range(20_000..60_000)).find(free))?;
        let expires = now + self.config.timeout;
        self.by_port.insert(port, Mapping { inside, key, expires, open_until: BTreeMap::new() });
        self.port_by_inside.insert((inside, key), port);
        Some(port)
    }

    fn forget_expired(&mut self, now: Instant) {
        let port_by_inside = &mut self.port_by_inside;
        self.by_port.retain(|_, mapping| {
            let live = mapping.expires > now;
            if !live {
                port_by_inside.remove(&(mapping.inside, mapping.key));
            }
            live
        });
    }

    /// Whom a packet from outside is for.
    pub(super) fn translate_in(
        &mut self,
        port: u16,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<SocketAddr, super::Loss> {
        if let Some(inside) = self.forwards.get(&port) {
            self.answers.retain(|_, (_, until)| *until > now);
            self.answers.insert((*inside, remote), (port, now + self.config.timeout));
            return Ok(*inside);
        }
        let selected = selector(self.config.filtering, remote);
        let live = self.by_port.get_mut(&port).filter(|mapping| mapping.expires > now);
        let mapping = live.ok_or(super::Loss::NoMapping)?;
        let open = mapping.open_until.get_mut(&selected).filter(|until| **until > now);
        let open_until = open.ok_or(super::Loss::Filtered)?;
        if self.config.inbound_refresh {
            *open_until = now + self.config.timeout;
            mapping.expires = now + self.config.timeout;
        }
        Ok(mapping.inside)
    }
}

/// The state of one firewall.
#[derive(Debug)]
pub(super) struct FirewallState {
    config: Firewall,
    open_until: BTreeMap<(SocketAddr, Selector), Instant>,
}

impl FirewallState {
    pub(super) fn new(config: Firewall) -> Self {
        Self { config, open_until: BTreeMap::new() }
    }

    pub(super) fn config(&self) -> Firewall {
        self.config
    }

    pub(super) fn passes_out(&mut self, inside: SocketAddr, remote: SocketAddr, now: Instant) {
        self.open_until.retain(|_, until| *until > now);
        let key = (inside, selector(self.config.filtering, remote));
        self.open_until.insert(key, now + self.config.timeout);
    }

    pub(super) fn lets_in(&self, inside: SocketAddr, remote: SocketAddr, now: Instant) -> bool {
        let key = (inside, selector(self.config.filtering, remote));
        self.open_until.get(&key).is_some_and(|until| *until > now)
    }
}
