//! Keeps the answer to 'which address do you see?' true.
//!
//! Of each family the first server is asked at the start, at every [`BindingClient::refresh`] and
//! then each [`REFRESH`], which also keeps the NAT's mapping alive (without a NAT more seldom). A second server is asked beside
//! it where the mapping behaviour is not known: one with another IP address, or the OTHER-ADDRESS
//! of the first (RFC 5780 §4.3), or at least another port.
//!
//! A request is repeated as RFC 8489 §6.2.1 has it, with two differences: the first retries come
//! sooner (200 ms, then 300), because a node that has just lost its path waits for this answer and
//! its server is its own broker or relay, and it is given up after 8 s instead of 39.5. While no
//! server answers, single requests go out by turns, each 5 s at first, ever more seldom.

mod server;
mod state;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Family, Transmit};
use crate::codec::Message;
use crate::random::Random;
use state::FamilyState;

/// Time from an answer to the next question to the same server: NATs must keep a UDP mapping for
/// two minutes (RFC 4787 REQ-5), but many keep it for 30 s.
const REFRESH: Duration = Duration::from_secs(25);

/// The same without a NAT: there is no mapping to keep alive, and what changes is seen on the
/// interface first.
const UNTRANSLATED_REFRESH: Duration = Duration::from_secs(100);

/// The most servers of one family that are used.
const MAX_SERVERS: usize = 8;

/// An address as a STUN server saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// The address.
    pub addr: SocketAddr,
    /// Whether it can be an address on the internet ([`super::is_public`]); if not, the server
    /// sits in the same private network, and the address means nothing outside of it.
    pub public: bool,
}

/// How the NATs in front of a node map one local port towards different destinations
/// (RFC 4787 §4.1), as far as the servers there are can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// Not told yet, or only one server address and port answers.
    #[default]
    Unknown,
    /// No translation: the servers see an address of the node itself.
    None,
    /// The same mapping for different server addresses.
    EndpointIndependent,
    /// The same mapping for two ports of one server address: endpoint-independent, or dependent on
    /// the address alone.
    EndpointIndependentOrAddressDependent,
    /// Different mappings: address-dependent, or address-and-port-dependent.
    AddressDependent,
}

/// Something about a family has changed; the accessors say what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientEvent {
    /// The mapped address, the mapping behaviour, or whether anybody answers at all.
    Changed(Family),
}

/// What became of a STUN response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// It answers a question of ours.
    Answered,
    /// It belongs to a question of ours, but is refused: an error, from elsewhere, or damaged.
    Refused,
    /// It answers nothing that we have asked.
    NotOurs,
}

/// What is known of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its address.
    pub server: SocketAddr,
    /// How it sees us, if it has answered since the last refresh.
    pub mapped: Option<Mapped>,
    /// The round trip of its last answer.
    pub rtt: Option<Duration>,
    /// When it answered last.
    pub answered: Option<Instant>,
    /// It has let all the repetitions of the last question go by.
    pub silent: bool,
}

/// Asks STUN servers for the node's address as seen from outside.
#[derive(Debug)]
pub struct BindingClient {
    ids: Random,
    v4: FamilyState,
    v6: FamilyState,
    transmits: VecDeque<Transmit>,
    events: VecDeque<ClientEvent>,
}

impl BindingClient {
    /// A client that knows neither servers nor local addresses yet, so asks nothing. `seed` must be
    /// secret and random: transaction ids come from it.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            ids: Random::new(&seed),
            v4: FamilyState::default(),
            v6: FamilyState::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Sets the servers, in order of preference; at most eight of a family are used. A family
    /// whose servers are others than before starts afresh.
    pub fn handle_servers(&mut self, servers: &[SocketAddr], now: Instant) {
        for family in Family::ALL {
            let mut of_family: Vec<SocketAddr> = Vec::new();
            for server in servers {
                let server = canonical(*server);
                if Family::of(&server.ip()) == family
                    && server.port() != 0
                    && !of_family.contains(&server)
                    && of_family.len() < MAX_SERVERS
                {
                    of_family.push(server);
                }
            }
            if self.state_mut(family).replace_servers(&of_family) {
                self.restart(family, now);
            }
        }
    }

    /// Sets the addresses of the node's own interfaces. A family without any is not asked about;
    /// one whose addresses are others than before starts afresh.
    pub fn handle_local_addresses(&mut self, local: &[IpAddr], now: Instant) {
        for family in Family::ALL {
            let mut of_family: Vec<IpAddr> = local
                .iter()
                .map(IpAddr::to_canonical)
                .filter(|ip| Family::of(ip) == family && leads_outside(ip))
                .collect();
            of_family.sort_unstable();
            of_family.dedup();
            if self.state_mut(family).replace_local(of_family) {
                self.restart(family, now);
            }
        }
    }

    /// Asks again from the beginning, at once: the network has changed, or a path has died.
    /// Answers to earlier questions no longer count.
    pub fn refresh(&mut self, now: Instant) {
        for family in Family::ALL {
            self.restart(family, now);
        }
    }

    /// Handles a STUN response; everything else is [`Handled::NotOurs`].
    pub fn handle_response(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Handled {
        let from = canonical(from);
        for family in Family::ALL {
            let (state, mut out) = self.split(family);
            let handled = state.handle_response(from, message, now, &mut out);
            if handled != Handled::NotOurs {
                return handled;
            }
        }
        Handled::NotOurs
    }

    /// Repeats, gives up and asks again what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for family in Family::ALL {
            let (state, mut out) = self.split(family);
            state.handle_timeout(now, &mut out);
        }
    }

    /// When [`Self::handle_timeout`] is wanted next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [&self.v4, &self.v6].into_iter().filter_map(FamilyState::poll_timeout).min()
    }

    /// The next datagram to send, from the node's one socket of that family.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next change.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// How the outside sees the node: the answer of the server that is asked regularly, or the
    /// latest of another one.
    pub fn mapped(&self, family: Family) -> Option<Mapped> {
        self.state(family).mapped()
    }

    /// The mapping behaviour of the NATs in front of the node, as far as it is known.
    pub fn mapping(&self, family: Family) -> Mapping {
        self.state(family).mapping()
    }

    /// Whether anybody answers; `None` before the first attempt has ended.
    pub fn reachable(&self, family: Family) -> Option<bool> {
        self.state(family).reachable()
    }

    /// What is known of each server, in order of preference, IPv4 first.
    pub fn servers(&self) -> impl Iterator<Item = ServerStatus> + '_ {
        self.v4.statuses().chain(self.v6.statuses())
    }

    fn restart(&mut self, family: Family, now: Instant) {
        let (state, mut out) = self.split(family);
        state.restart(now, &mut out);
    }

    fn state(&self, family: Family) -> &FamilyState {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn state_mut(&mut self, family: Family) -> &mut FamilyState {
        self.split(family).0
    }

    fn split(&mut self, family: Family) -> (&mut FamilyState, Out<'_>) {
        let state = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        let out = Out {
            family,
            ids: &mut self.ids,
            transmits: &mut self.transmits,
            events: &mut self.events,
        };
        (state, out)
    }
}

/// Where a family's state machine leaves its effects.
struct Out<'a> {
    family: Family,
    ids: &'a mut Random,
    transmits: &'a mut VecDeque<Transmit>,
    events: &'a mut VecDeque<ClientEvent>,
}

impl Out<'_> {
    fn changed(&mut self) {
        let event = ClientEvent::Changed(self.family);
        if !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn leads_outside(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}
