//! One allocation at one server (RFC 8656), over UDP or a stream.
//!
//! It allocates when it is made, binds channels that are asked for (also before there is an
//! allocation), keeps everything refreshed, and ends with [`Event::Closed`] or [`Event::Failed`],
//! after which it does nothing. A server that forgot the allocation (437) is asked for another one,
//! and the channels are bound again.
//!
//! Requests go out at once where a nonce is known, channels right behind the Allocate; without
//! one, a first Allocate without credentials fetches it (RFC 8489 §9.2.3). Over UDP a request is
//! repeated as RFC 8489 §6.2.1 has it.
//!
//! Data isn't copied: what came in is said as a range of the caller's buffer, and in front of what
//! goes out the caller writes [`ChannelNumber::header`] (4 bytes), or sends an
//! [`IndicationHeader`].

mod allocation;
mod channel;
mod permission;
mod request;
mod response;
mod timers;
mod transaction;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::binding::Family;
use crate::codec::{
    AttributeType, ChannelNumber, Class, IndicationHeader, Message, Method, TransactionId,
    channel_data, is_stun,
};
use crate::random::Random;
use crate::timers::Timers;
use channel::Channels;
use permission::Permission;
use request::Auth;
use timers::Timer;
use transaction::{Request, Transaction};

/// What carries the messages to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: lost ones are repeated.
    Udp,
    /// TCP or TLS: the caller frames what comes in ([`crate::stream::StreamDecoder`]), and pads
    /// ChannelData that goes out to a multiple of four bytes (RFC 8656 §12.5).
    Stream,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As in USERNAME.
    pub username: String,
    /// The secret that goes with it.
    pub password: String,
    /// The server's realm, if it is known before.
    pub realm: Option<String>,
    /// A nonce that the server will take, if one is known before; with the realm it saves the
    /// first round trip.
    pub nonce: Option<String>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({:?})", self.username)
    }
}

/// What is asked for, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// What carries the messages.
    pub transport: Transport,
    /// Who asks.
    pub credential: Credential,
    /// Asks for a virtual relayed address (servers of this crate alone; others would give an
    /// ordinary IPv6 one). Implies [`Family::V6`].
    pub virtual_address: bool,
    /// The relayed address's family.
    pub family: Family,
    /// For how long the server shall keep the allocation between refreshes; `None` for its default.
    pub lifetime: Option<Duration>,
    /// First time-out over UDP (RFC 8489 §6.2.1): 500 ms, or less where the round trip is known.
    pub rto: Duration,
    /// How often a Binding request keeps the NAT's mapping alive and shows that the server is
    /// there, once allocated; `None` for never.
    pub keepalive: Option<Duration>,
    /// The number of the first channel; later ones follow it. Two that are each other's servers at one
    /// 5-tuple begin at different ones, to tell whose a message is.
    pub first_channel: ChannelNumber,
}

impl Config {
    /// UDP, an ordinary IPv4 address, the RFC's time-outs, a keepalive each 25 s.
    pub fn new(credential: Credential) -> Self {
        Self {
            transport: Transport::Udp,
            credential,
            virtual_address: false,
            family: Family::V4,
            lifetime: None,
            rto: Duration::from_millis(500),
            keepalive: Some(Duration::from_secs(25)),
            first_channel: ChannelNumber::MIN,
        }
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is an allocation: the first, or another one after the server lost it.
    Allocated {
        /// Where peers reach this client.
        relayed: SocketAddr,
        /// How the server sees it.
        mapped: SocketAddr,
        /// For how long without a refresh, which is the client's business.
        lifetime: Duration,
        /// Whether `relayed` is a virtual address.
        virtual_address: bool,
    },
    /// What has this channel's header is sent to the peer, and it may send.
    ChannelReady {
        /// As given to [`Client::bind`].
        peer: SocketAddr,
        /// Its channel.
        number: ChannelNumber,
    },
    /// The server refuses this peer; the channel is gone.
    ChannelFailed {
        /// As given to [`Client::bind`].
        peer: SocketAddr,
        /// Why.
        reason: Failure,
    },
    /// Whatever a peer with this IP address sends arrives.
    Permitted(IpAddr),
    /// The server refuses this IP address.
    PermissionFailed {
        /// As given to [`Client::permit`].
        ip: IpAddr,
        /// Why.
        reason: Failure,
    },
    /// A round trip to the server: of a [`Client::ping`], or of a keepalive.
    Rtt(Duration),
    /// There is no allocation, and there won't be one.
    Failed {
        /// Why.
        reason: Failure,
    },
    /// The server has let go of the allocation, as asked, or can't be reached for it.
    Closed,
}

/// Why something didn't come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    /// The server doesn't answer.
    #[error("no answer")]
    Timeout,
    /// The server doesn't take the credential (401).
    #[error("the credential isn't accepted")]
    Unauthorized,
    /// Another allocation holds this address and can't be removed (437, 441).
    #[error("this address already has an allocation of somebody else")]
    Mismatch,
    /// Too many allocations for this credential (486).
    #[error("the credential's quota is used up")]
    Quota,
    /// The server is full (508).
    #[error("the server has no capacity left")]
    Capacity,
    /// Not to this peer (403).
    #[error("forbidden")]
    Forbidden,
    /// Another error.
    #[error("refused with error {0}")]
    Refused(u16),
    /// The server's answer lacks what it must have.
    #[error("the answer makes no sense")]
    Malformed,
}

impl Failure {
    fn of_code(code: u16) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            437 | 441 => Self::Mismatch,
            486 => Self::Quota,
            508 => Self::Capacity,
            code => Self::Refused(code),
        }
    }
}

/// What became of a datagram from the server, or of one whole message of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Inbound {
    /// A peer's data.
    Data {
        /// Who sent it.
        peer: SocketAddr,
        /// Where in the datagram.
        range: Range<usize>,
    },
    /// An answer to a request.
    Consumed,
    /// Nothing that this client has asked for: somebody else's, of no channel of its own, or too late.
    NotOurs,
    /// From the server, but refused: damaged, or forged.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Allocating,
    Allocated(Allocated),
    Closing,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allocated {
    relayed: SocketAddr,
    mapped: SocketAddr,
    lifetime: Duration,
    virtual_address: bool,
    /// When it was asked for, and when it was given.
    asked: Instant,
    since: Instant,
}

/// A client of one server with one allocation.
#[derive(Debug)]
pub struct Client {
    config: Config,
    /// For the next allocation, or when the present credential isn't taken any more.
    next_credential: Option<Credential>,
    auth: Option<Auth>,
    state: State,
    channels: Channels,
    permissions: BTreeMap<IpAddr, Permission>,
    transactions: BTreeMap<TransactionId, Transaction>,
    timers: Timers<Timer>,
    /// When the next refresh is due.
    refresh: Option<Instant>,
    /// How often a 437 was answered by removing what is there.
    clearings: u8,
    rtt: Option<Duration>,
    random: Random,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Client {
    /// Begins to allocate. `seed` must be secret and random: transaction ids come from it.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let mut config = config;
        if config.virtual_address {
            config.family = Family::V6;
        }
        let mut client = Self {
            auth: Auth::known(&config),
            channels: Channels::new(config.first_channel),
            config,
            next_credential: None,
            state: State::Allocating,
            permissions: BTreeMap::new(),
            transactions: BTreeMap::new(),
            timers: Timers::default(),
            refresh: None,
            clearings: 0,
            rtt: None,
            random: Random::new(&seed),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        client.request(Request::Allocate, now);
        client
    }

    /// Notes a newer credential. The allocation goes on with the one that it was made with, as
    /// servers tie it to the user name; the newer one counts for the next one, or when the server
    /// no longer takes the old one.
    pub fn set_credential(&mut self, credential: Credential) {
        if credential != self.config.credential {
            self.next_credential = Some(credential);
        }
    }

    /// Wants a channel to a peer: gives its number, which may be used after
    /// [`Event::ChannelReady`]. A peer that has one keeps it. `None` when all 4,096 are taken.
    pub fn bind(&mut self, peer: SocketAddr, now: Instant) -> Option<ChannelNumber> {
        self.bind_channel(canonical(peer), now)
    }

    /// Lets go of a channel: it is no longer refreshed, and its number rests until the server has
    /// forgotten it (RFC 8656 §12).
    pub fn unbind(&mut self, peer: SocketAddr) {
        self.channels.unwant(canonical(peer));
    }

    /// Wants to hear from any port of an IP address; what comes before there is a channel arrives
    /// as [`Inbound::Data`] all the same. [`Self::bind`] permits its peer by itself.
    pub fn permit(&mut self, ip: IpAddr, now: Instant) {
        self.permit_ip(ip.to_canonical(), now);
    }

    /// Lets a permission expire.
    pub fn forbid(&mut self, ip: IpAddr) {
        self.drop_permission(ip.to_canonical());
    }

    /// The channel to a peer, once it may be used.
    pub fn channel(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        self.channels.usable(canonical(peer))
    }

    /// The relayed address, while there is one.
    pub fn relayed(&self) -> Option<SocketAddr> {
        match self.state {
            State::Allocated(allocated) => Some(allocated.relayed),
            State::Allocating | State::Closing | State::Ended => None,
        }
    }

    /// How the server sees this client, while there is an allocation.
    pub fn mapped(&self) -> Option<SocketAddr> {
        match self.state {
            State::Allocated(allocated) => Some(allocated.mapped),
            State::Allocating | State::Closing | State::Ended => None,
        }
    }

    /// The latest round trip of an answered request that wasn't repeated.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// For how long the oldest open request has gone unanswered; a caller may give a server up
    /// sooner than [`Failure::Timeout`] does.
    pub fn unanswered_for(&self, now: Instant) -> Option<Duration> {
        let oldest = self.transactions.values().map(|transaction| transaction.begun).min()?;
        Some(now.saturating_duration_since(oldest))
    }

    /// Whether it has ended: [`Event::Closed`] or [`Event::Failed`] was its last word.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Asks for a round trip by a Binding request, unless one is on its way.
    pub fn ping(&mut self, now: Instant) {
        let is_asking = self.transactions.values().any(|open| open.request == Request::Binding);
        if !is_asking && self.state != State::Ended {
            self.request(Request::Binding, now);
        }
    }

    /// Asks at once, by a Refresh, whether the server still knows the allocation, unless one is on
    /// its way: one that was restarted answers Binding requests, but has forgotten it (437).
    pub fn verify(&mut self, now: Instant) {
        let is_asking = self.transactions.values().any(|open| open.request == Request::Refresh);
        if !is_asking && matches!(self.state, State::Allocated(_)) {
            self.request(Request::Refresh, now);
        }
    }

    /// Asks the server to let go of the allocation (Refresh with a lifetime of zero).
    pub fn close(&mut self, now: Instant) {
        match self.state {
            State::Closing | State::Ended => {}
            State::Allocating | State::Allocated(_) => {
                self.forget_requests();
                if self.auth.is_some() {
                    self.state = State::Closing;
                    self.request(Request::Remove, now);
                } else {
                    self.end(Event::Closed);
                }
            }
        }
    }

    /// The head of a Send indication: for a peer without a channel, whose IP address is permitted.
    /// `None` when so much data doesn't fit.
    pub fn indication(&mut self, peer: SocketAddr, data_len: usize) -> Option<IndicationHeader> {
        IndicationHeader::send(canonical(peer), data_len, false, self.random.transaction_id())
    }

    /// Handles a datagram that came from the server, or one message of its stream.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> Inbound {
        if !is_stun(datagram) {
            return self.handle_channel_data(datagram);
        }
        let Ok(message) = Message::parse(datagram) else { return Inbound::Refused };
        match (message.class(), message.method()) {
            (Class::Success | Class::Error, _) => self.handle_response(&message, now),
            (Class::Indication, Method::DATA) => self.handle_data_indication(&message),
            (Class::Indication | Class::Request, _) => Inbound::NotOurs,
        }
    }

    fn handle_channel_data(&self, datagram: &[u8]) -> Inbound {
        let Some((number, range)) = channel_data(datagram) else { return Inbound::Refused };
        match self.channels.peer(number) {
            Some(peer) => Inbound::Data { peer, range },
            None => Inbound::NotOurs,
        }
    }

    fn handle_data_indication(&self, message: &Message<'_>) -> Inbound {
        let range = message.attribute_range(AttributeType::DATA);
        let (Some(peer), Some(range)) = (message.xor_peer_address(), range) else {
            return Inbound::Refused;
        };
        match self.state {
            State::Allocated(_) => Inbound::Data { peer: canonical(peer), range },
            State::Allocating | State::Closing | State::Ended => Inbound::Refused,
        }
    }

    /// Repeats, refreshes and gives up what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Transaction(id) => self.handle_transaction_timeout(id, now),
                Timer::Refresh => {
                    self.refresh = None;
                    self.request(Request::Refresh, now);
                }
                Timer::Channel(peer) => self.handle_channel_timeout(peer, now),
                Timer::Permission(ip) => self.handle_permission_timeout(ip, now),
                Timer::Keepalive => {
                    self.ping(now);
                    self.schedule_keepalive(now);
                }
            }
        }
    }

    /// When [`Self::handle_timeout`] is wanted next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next().map(|(at, timer)| (at, timer.why()))
    }

    /// The next message for the server.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The next thing that has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn end(&mut self, event: Event) {
        self.forget_requests();
        self.timers.clear();
        self.channels.clear();
        self.permissions.clear();
        self.state = State::Ended;
        self.events.push_back(event);
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
