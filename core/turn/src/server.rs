//! A TURN server (RFC 8656) with STUN Binding on the same sockets, for all its clients.
//!
//! # Who does what
//! The shell owns sockets: those that clients send to (each a [`Listener`]), streams (each a
//! [`StreamId`]), and one for each relayed port, which it opens and closes on [`Event`]s. The
//! server decides. Requests go in by [`Server::handle_datagram`], answers come out of
//! [`Server::poll_transmit`].
//!
//! # The hot path
//! Data never enters the server. The shell takes the head of a run of equal datagrams (same source,
//! same channel), asks once where it goes, and forwards the run from where it lies:
//!
//! ```text
//! from a client:  [head|data][head|data]…  Server::route_channel(client, channel, run) -> Route
//!                   to a peer: without the heads, from the socket of the relayed port
//!                   to another client of this server: with its channel's number in the heads
//! from a peer:    [data][data]…            Server::route_peer(port, peer, run) -> Delivery
//! ```
//!
//! Data between two clients of one server passes through no relayed socket, so that it works
//! whatever ranges are denied.
//!
//! # Virtual relayed addresses
//! A client that asks for one (REQUESTED-ADDRESS-FAMILY IPv6, and VIRTUAL-ADDRESS, which the server
//! echoes) gets the address in 100::/64 that belongs to its credential's id
//! ([`crate::rest::virtual_address`]): no port, no socket. Virtual talks only to virtual. An id
//! that comes from a new 5-tuple replaces itself.
//!
//! # Forged addresses
//! A nonce that a broker has minted saves a round trip, but proves nothing of the address that a
//! request came from. What an allocation made with one lets through to its client is no more than came
//! from there, until a request carries a nonce of the server's own: the answer to the Allocate has one.
//!
//! # Strangers
//! Before a request has proved its credential nothing is kept but rates: nonces are keyed hashes,
//! a reply is at most four times as long as what it answers, and counted against the sender's
//! prefix and a total.

mod allocate;
mod allocation;
mod auth;
mod channel_bind;
mod channel_data;
mod config;
mod counters;
mod create_permission;
mod expire;
mod nonces;
mod owner;
mod peer;
mod peers;
mod policy;
mod port;
mod refresh;
mod request;
mod send;
mod stream;
mod table;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

pub use allocate::PortError;
pub use config::{Config, Quotas, Settings, User};
pub use counters::{Counters, Gauges, Traffic};

use crate::binding::{BindingServer, Family};
use crate::codec::{
    ChannelNumber, Class, IndicationHeader, Message, Method, TransactionId, channel_data, is_stun,
};
use crate::random::Random;
use crate::timers::Timers;
use auth::Credentials;
use expire::Timer;
use nonces::Nonces;
use owner::Owners;
use policy::Policy;
use port::Reservations;
use stream::{Stream, Waiting};
use table::{Keyed, Table};

/// One of the shell's UDP sockets that clients send to, or one address of a socket that has several.
///
/// The first numbers are the sockets, in the order of [`Config::stun`]. A shell that answers from the
/// address that a client has sent to numbers each further address of a socket so: the socket's number
/// and a multiple of how many sockets there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener(pub u16);

/// A TCP or TLS connection; the shell's number, unique while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A client: what RFC 8656 calls its 5-tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientAddr {
    /// Over UDP.
    Udp {
        /// Which of the shell's sockets it talks to.
        listener: Listener,
        /// From where.
        addr: SocketAddr,
    },
    /// Over a stream.
    Stream(StreamId),
}

/// The socket of a relayed transport address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayedPort {
    /// Its family.
    pub family: Family,
    /// Its port.
    pub port: u16,
}

/// Datagrams that go the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How many.
    pub packets: u32,
    /// Their payload together, without heads.
    pub bytes: u64,
}

impl Run {
    /// A single datagram.
    pub const fn one(bytes: usize) -> Self {
        Self { packets: 1, bytes: bytes as u64 }
    }
}

/// Where data from a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To a peer, as it is.
    Peer {
        /// From this socket.
        from: RelayedPort,
        /// To there.
        to: SocketAddr,
        /// A lost packet is wanted rather than a fragmented one.
        dont_fragment: bool,
    },
    /// To another client of this server.
    Client(Delivery),
}

/// How data reaches a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The client.
    pub to: ClientAddr,
    /// What stands in front of the data.
    pub heading: Heading,
}

/// What stands in front of data for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// [`ChannelNumber::header`].
    Channel(ChannelNumber),
    /// A Data indication from this peer: [`Server::indication`].
    Indication(SocketAddr),
}

/// What became of a datagram from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// Its data goes on.
    Relay {
        /// Where to.
        route: Route,
        /// Where in the datagram the data lies.
        range: Range<usize>,
    },
    /// There is an answer, or will be.
    Consumed,
    /// Nothing comes of it.
    Dropped(Dropped),
}

/// Why something was dropped; each is counted ([`Counters::drops`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// Neither STUN nor ChannelData, or damaged.
    Malformed,
    /// A source that can't be answered: port 0, unspecified, multicast.
    Source,
    /// STUN that no server takes: responses, unknown methods and indications.
    Unexpected,
    /// An answer to an unproven request would be too much for its prefix.
    PrefixLimit,
    /// An answer to an unproven request would be too much in total.
    TotalLimit,
    /// An answer would be more than four times as long as the unproven request.
    Factor,
    /// A request where nobody may have an allocation: no credential would do.
    NoCredentials,
    /// Data from a client without an allocation, or for a relayed address without one.
    NoAllocation,
    /// The channel isn't bound.
    NoChannel,
    /// The peer has no permission.
    NoPermission,
    /// Data of a kind that this allocation can't send, or for an address that is denied.
    Peer,
    /// The credential's bandwidth, or the server's, is used up.
    Bandwidth,
    /// More than came from a client whose address is unproven: it may be forged.
    Unproven,
}

impl Dropped {
    /// All reasons.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::Source,
        Self::Unexpected,
        Self::PrefixLimit,
        Self::TotalLimit,
        Self::Factor,
        Self::NoCredentials,
        Self::NoAllocation,
        Self::NoChannel,
        Self::NoPermission,
        Self::Peer,
        Self::Bandwidth,
        Self::Unproven,
    ];

    /// A short name for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Source => "source",
            Self::Unexpected => "unexpected",
            Self::PrefixLimit => "prefix_limit",
            Self::TotalLimit => "total_limit",
            Self::Factor => "factor",
            Self::NoCredentials => "no_credentials",
            Self::NoAllocation => "no_allocation",
            Self::NoChannel => "no_channel",
            Self::NoPermission => "no_permission",
            Self::Peer => "peer",
            Self::Bandwidth => "bandwidth",
            Self::Unproven => "unproven",
        }
    }
}

/// A message for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Which client, and over what.
    pub to: ClientAddr,
    /// One STUN message.
    pub contents: Vec<u8>,
}

/// What the shell has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Open the socket of a relayed port, and answer with [`Server::handle_port`].
    OpenPort(RelayedPort),
    /// Close it.
    ClosePort(RelayedPort),
    /// Close a connection: it has had no allocation for too long or gives way to one of others, or
    /// its credential was revoked.
    CloseStream(StreamId),
}

/// A TURN server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    credentials: Credentials,
    nonces: Nonces,
    policy: Policy,
    binding: BindingServer,
    table: Table,
    owners: Owners,
    reservations: Reservations,
    streams: HashMap<StreamId, Stream, Keyed>,
    /// Those of them that have no allocation.
    waiting: Waiting,
    timers: Timers<Timer>,
    random: Random,
    counters: Counters,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    indications: u64,
    is_draining: bool,
    start: Instant,
    /// Wall-clock time at `start`.
    unix: Duration,
}

impl Server {
    /// A server that nobody has an allocation at. `seed` must be secret and random; `unix` is the
    /// time since 1970 at `now`.
    pub fn new(config: Config, seed: [u8; 32], now: Instant, unix: Duration) -> Self {
        let mut random = Random::new(&seed);
        let keyed = Keyed::new(random.bytes());
        Self {
            credentials: Credentials::new(&config.settings),
            nonces: Nonces::new(random.bytes(), &config.settings),
            policy: Policy::new(&config),
            binding: BindingServer::new(config.stun.clone(), config.limits, random.bytes(), now),
            table: Table::new(&config, keyed.clone()),
            owners: Owners::new(keyed.clone()),
            reservations: Reservations::new(keyed.clone()),
            streams: HashMap::with_hasher(keyed),
            waiting: Waiting::default(),
            timers: Timers::default(),
            counters: Counters::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            indications: u64::from_be_bytes(random.bytes()),
            is_draining: false,
            start: now,
            unix,
            random,
            config,
        }
    }

    /// Takes other credentials, live: secrets (two while rotating), users, revoked ids. An
    /// allocation of somebody who is now revoked, or a user no more, ends at once.
    pub fn set_settings(&mut self, settings: Settings, now: Instant) {
        self.credentials = Credentials::new(&settings);
        self.nonces.set_secrets(&settings);
        self.config.settings = settings;
        self.remove_revoked(now);
    }

    /// The secret that new credentials are made with: the first, where there are two.
    pub fn minting_secret(&self) -> Option<&[u8]> {
        self.config.settings.secrets.first().map(Vec::as_slice)
    }

    /// Corrects the wall clock: credentials expire by it.
    pub fn set_clock(&mut self, unix: Duration, now: Instant) {
        self.unix = unix.saturating_sub(self.elapsed(now));
    }

    /// From now on new allocations are refused (508); those that there are stay, refreshed or not.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Handles a datagram that a client sent to a listener, or one message of its stream.
    pub fn handle_datagram(
        &mut self,
        client: ClientAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Handled {
        let client = canonical_client(client);
        let handled = if is_stun(datagram) {
            self.handle_stun(client, datagram, now)
        } else {
            self.handle_channel_data(client, datagram, now)
        };
        match handled {
            Ok(handled) => handled,
            Err(dropped) => {
                self.counters.count_drop(dropped, 1);
                Handled::Dropped(dropped)
            }
        }
    }

    fn handle_channel_data(
        &mut self,
        client: ClientAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Handled, Dropped> {
        let (channel, range) = channel_data(datagram).ok_or(Dropped::Malformed)?;
        let route = self.find_channel_route(client, channel, Run::one(range.len()), now)?;
        Ok(Handled::Relay { route, range })
    }

    fn handle_stun(
        &mut self,
        client: ClientAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Handled, Dropped> {
        let message = Message::parse(datagram).map_err(|_| Dropped::Malformed)?;
        match (message.class(), message.method()) {
            (Class::Request, Method::BINDING) => self.handle_binding(client, datagram, now),
            (Class::Request, method) => self.handle_request(client, method, &message, now),
            (Class::Indication, Method::SEND) => self.handle_send(client, &message, now),
            // A keepalive (RFC 8489 §3).
            (Class::Indication, Method::BINDING) => Ok(Handled::Consumed),
            (Class::Indication | Class::Success | Class::Error, _) => Err(Dropped::Unexpected),
        }
    }

    /// Where a run of ChannelData goes: of one client, with one channel's number.
    ///
    /// # Errors
    /// Why the run is dropped; it is counted.
    pub fn route_channel(
        &mut self,
        client: ClientAddr,
        channel: ChannelNumber,
        run: Run,
        now: Instant,
    ) -> Result<Route, Dropped> {
        let client = canonical_client(client);
        self.find_channel_route(client, channel, run, now)
            .inspect_err(|dropped| self.counters.count_drop(*dropped, run.packets))
    }

    /// Where a run goes that a peer has sent to a relayed port.
    ///
    /// # Errors
    /// Why the run is dropped; it is counted.
    pub fn route_peer(
        &mut self,
        port: RelayedPort,
        peer: SocketAddr,
        run: Run,
        now: Instant,
    ) -> Result<Delivery, Dropped> {
        self.find_peer_route(port, canonical(peer), run, now)
            .inspect_err(|dropped| self.counters.count_drop(*dropped, run.packets))
    }

    /// The head of a Data indication for [`Heading::Indication`]; `None` when so much data doesn't
    /// fit into one.
    pub fn indication(&mut self, peer: SocketAddr, data_len: usize) -> Option<IndicationHeader> {
        self.indications = self.indications.wrapping_add(1);
        let mut id = [0; 12];
        id[4..].copy_from_slice(&self.indications.to_be_bytes());
        IndicationHeader::data(peer, data_len, TransactionId(id))
    }

    /// Repeats nothing, but lets expire what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
    }

    /// When [`Self::handle_timeout`] is wanted next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next().map(|(at, timer)| (at, timer.why()))
    }

    /// The next message for a client.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing for the shell to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What there is at the moment.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            allocations: self.table.len(),
            virtual_allocations: self.table.virtual_len(),
            channels: self.table.channels,
            credentials: self.owners.len(),
            streams: self.streams.len(),
        }
    }

    /// Whether a client has an allocation: who has none may send short messages only.
    pub fn has_allocation(&self, client: ClientAddr) -> bool {
        self.table.find(canonical_client(client)).is_some()
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    fn unix(&self, now: Instant) -> u64 {
        (self.unix + self.elapsed(now)).as_secs()
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn canonical_client(client: ClientAddr) -> ClientAddr {
    match client {
        ClientAddr::Udp { listener, addr } => ClientAddr::Udp { listener, addr: canonical(addr) },
        ClientAddr::Stream(_) => client,
    }
}
