//! How the outside sees this device: its endpoints and NATs.
//!
//! STUN (`warren_turn::BindingClient`) asks from the data socket, each 25 s, so that the mapping
//! stays what was published. While it asks anew after a change, its last answer stands, until the
//! new one is there or nobody answers: so that one roam is published once.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use warren_proto::{
    CheckInState, Endpoint, EndpointKind, MAX_ENDPOINTS, MappingBehaviour, NatReport,
    is_usable_endpoint,
};
use warren_turn::{BindingClient, Family, Mapping, is_public};

use crate::LocalAddress;
use crate::candidates::canonical;

/// The most IPv6 addresses of the own interfaces that are published: some hosts have dozens.
const MAX_HOST_V6: usize = 4;

/// What STUN last said of one family.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    mapped: Option<SocketAddr>,
    mapping: MappingBehaviour,
    reachable: Option<bool>,
}

/// Own addresses, of every origin.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) stun: BindingClient,
    pub(crate) local: Vec<LocalAddress>,
    pub(crate) listen_port: u16,
    pub(crate) port_mapped: Vec<SocketAddr>,
    pub(crate) static_endpoint: Option<SocketAddr>,
    pub(crate) refreshed: Option<Instant>,
    servers: Vec<SocketAddr>,
    v4: Seen,
    v6: Seen,
}

impl Outside {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            stun: BindingClient::new(seed),
            local: Vec::new(),
            listen_port: 0,
            port_mapped: Vec::new(),
            static_endpoint: None,
            refreshed: None,
            servers: Vec::new(),
            v4: Seen::default(),
            v6: Seen::default(),
        }
    }

    pub(crate) fn set_servers(&mut self, servers: &[SocketAddr], now: Instant) {
        if self.servers != servers {
            self.servers = servers.to_vec();
            self.stun.handle_servers(servers, now);
            self.update();
        }
    }

    /// Takes the host's addresses; returns whether they differ from those before.
    pub(crate) fn set_local(&mut self, local: Vec<LocalAddress>, port: u16, now: Instant) -> bool {
        if self.local == local && self.listen_port == port {
            return false;
        }
        let new_socket = self.listen_port != port;
        self.local = local;
        self.listen_port = port;
        let ips: Vec<IpAddr> = self.local.iter().map(|address| address.ip).collect();
        self.stun.handle_local_addresses(&ips, now);
        if new_socket {
            self.stun.refresh(now);
        }
        self.refreshed = Some(now);
        true
    }

    /// Takes over what STUN says by now.
    pub(crate) fn update(&mut self) {
        for family in Family::ALL {
            let expected = self.is_asked(family);
            let mapped = self.stun.mapped(family);
            let mapping = self.stun.mapping(family);
            let reachable = self.stun.reachable(family);
            let seen = self.seen_mut(family);
            if !expected || reachable == Some(false) {
                *seen = Seen { reachable: reachable.filter(|_| expected), ..Seen::default() };
                continue;
            }
            if let Some(mapped) = mapped {
                seen.mapped = mapped.public.then_some(canonical(mapped.addr));
                seen.reachable = Some(true);
            }
            match mapping {
                Mapping::Unknown => {}
                Mapping::None => seen.mapping = MappingBehaviour::None,
                Mapping::EndpointIndependent => {
                    seen.mapping = MappingBehaviour::EndpointIndependent;
                }
                Mapping::AddressDependent => seen.mapping = MappingBehaviour::AddressDependent,
                Mapping::EndpointIndependentOrAddressDependent => {
                    seen.mapping = MappingBehaviour::Unknown;
                }
            }
        }
    }

    /// Forgets an earlier mapping behaviour that the present answers don't tell: enough has been
    /// waited for more of them.
    pub(crate) fn settle(&mut self) {
        for family in Family::ALL {
            if self.stun.mapped(family).is_some() && self.stun.mapping(family) == Mapping::Unknown {
                self.seen_mut(family).mapping = MappingBehaviour::Unknown;
            }
        }
    }

    fn seen_mut(&mut self, family: Family) -> &mut Seen {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Whether STUN has said all that it will say soon.
    pub(crate) fn is_resolved(&self) -> bool {
        Family::ALL.into_iter().all(|family| {
            if !self.is_asked(family) || self.stun.reachable(family) == Some(false) {
                return true;
            }
            let servers =
                self.servers.iter().filter(|server| Family::of(&server.ip()) == family).count();
            self.stun.mapped(family).is_some_and(|mapped| {
                !mapped.public || servers < 2 || self.stun.mapping(family) != Mapping::Unknown
            })
        })
    }

    /// Whether STUN has said anything since it was last asked.
    pub(crate) fn is_partly_resolved(&self) -> bool {
        Family::ALL.into_iter().any(|family| self.stun.mapped(family).is_some())
    }

    fn is_asked(&self, family: Family) -> bool {
        let leads_outside =
            |ip: &IpAddr| Family::of(ip) == family && is_usable_endpoint(&SocketAddr::new(*ip, 1));
        self.servers.iter().any(|server| Family::of(&server.ip()) == family)
            && self.local.iter().any(|address| leads_outside(&address.ip))
    }

    pub(crate) fn mapped(&self, family: Family) -> Option<SocketAddr> {
        match family {
            Family::V4 => self.v4.mapped,
            Family::V6 => self.v6.mapped,
        }
    }

    pub(crate) fn nat(&self) -> NatReport {
        let udp = match (self.v4.reachable, self.v6.reachable) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), None) if self.is_asked(Family::V6) => None,
            (None, Some(false)) if self.is_asked(Family::V4) => None,
            (Some(false), _) | (_, Some(false)) => Some(false),
            (None, None) => None,
        };
        NatReport { udp, ipv4: self.v4.mapping, ipv6: self.v6.mapping }
    }

    pub(crate) fn check_in_state(&self) -> CheckInState {
        CheckInState { endpoints: self.endpoints(), nat: self.nat(), ..CheckInState::default() }
    }

    /// The own endpoints as they are published: static, mapped, reflexive, then the host's own,
    /// IPv6 before IPv4, public before private.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let mut add = |addr: SocketAddr, kind| {
            let addr = canonical(addr);
            if is_usable_endpoint(&addr)
                && endpoints.len() < MAX_ENDPOINTS
                && endpoints.iter().all(|present| present.addr != addr)
            {
                endpoints.push(Endpoint { addr, kind });
            }
        };
        if let Some(addr) = self.static_endpoint {
            add(addr, EndpointKind::Static);
        }
        for addr in &self.port_mapped {
            add(*addr, EndpointKind::Mapped);
        }
        for addr in [self.v4.mapped, self.v6.mapped].into_iter().flatten() {
            let own = self.local.iter().any(|local| local.ip == addr.ip());
            add(addr, if own { EndpointKind::Host } else { EndpointKind::Reflexive });
        }
        for ip in self.host_addresses() {
            add(SocketAddr::new(ip, self.listen_port), EndpointKind::Host);
        }
        endpoints
    }

    fn host_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let of = |family: Family, public: bool| {
            self.local
                .iter()
                .map(|address| address.ip.to_canonical())
                .filter(move |ip| Family::of(ip) == family && is_public(ip) == public)
        };
        let v6 = of(Family::V6, true).chain(of(Family::V6, false)).filter(|ip| match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        });
        v6.take(MAX_HOST_V6).chain(of(Family::V4, true)).chain(of(Family::V4, false))
    }

    /// Whether a probe could leave for an address of this family at all.
    pub(crate) fn has_family(&self, remote: SocketAddr) -> bool {
        self.local.is_empty()
            || self.local.iter().any(|address| match (address.ip, remote) {
                (IpAddr::V4(_), SocketAddr::V4(_)) => true,
                (IpAddr::V6(ip), SocketAddr::V6(_)) => !ip.is_unicast_link_local(),
                (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => false,
            })
    }

    /// Whether a port leads in that somebody has opened.
    pub(crate) fn is_opened(&self) -> bool {
        self.static_endpoint.is_some() || !self.port_mapped.is_empty()
    }

    /// Whether an address is that of the own socket.
    pub(crate) fn is_own(&self, remote: SocketAddr) -> bool {
        remote.port() == self.listen_port
            && self.local.iter().any(|address| address.ip.to_canonical() == remote.ip())
    }
}
