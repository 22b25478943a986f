//! The state machine's struct, its public API, and the dispatch of its timers.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use warren_proto::{CheckInState, DeviceId, Netmap};
use warren_wg::Interface;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::clock::Clock;
use crate::flows::Flows;
use crate::icmp::{self, Problem};
use crate::mtu::BASE;
use crate::outside::Outside;
use crate::path::Path;
use crate::peer::PeerTable;
use crate::probe::budget::{Bucket, Budget};
use crate::probe::transactions::Transactions;
use crate::queue::Queues;
use crate::random::{Random, Seeded, derive_seed};
use crate::relay::Relays;
use crate::timers::{PeerTimer, Timer, Timers};
use crate::{
    BrokerState, Config, Counters, Event, LocalAddress, MapSource, OutboundDrop, Transmit,
};

mod allocation;
mod cold;
mod edge;
mod exchange;
mod exit;
mod failback;
mod filter;
mod hopeless;
mod inbound;
mod netmap;
mod outbound;
mod reach;
mod relaying;
mod relays;
mod report;
mod retest;
mod roam;
mod seek;
mod size;
mod stream;
mod tunnel;
mod verify;

pub(crate) use failback::Return;

/// WireGuard's first repetition of a handshake (protocols.md §4); it doubles from there.
const HANDSHAKE_RETRY: Duration = Duration::from_millis(250);

/// One node. See the crate's documentation.
#[derive(Debug)]
pub struct Mesh {
    secret: Secret,
    public: [u8; 32],
    clock: Clock,
    random: Random,
    wg: Interface,
    netmap: Option<Netmap>,
    source: Option<MapSource>,
    ranges: Ranges,
    peers: PeerTable,
    outside: Outside,
    broker: Option<BrokerState>,
    /// Where the round through all peers, without the broker, goes on.
    cold_cursor: Option<DeviceId>,
    /// Relays are asked for the own address.
    stun_by_relays: bool,
    published: Option<CheckInState>,
    /// When any probe was last answered by a peer that isn't on the same link.
    answered: Option<Instant>,
    transactions: Transactions,
    /// The broker's word of a look at whether an endpoint is reached.
    reach: Option<reach::Expected>,
    timers: Timers,
    queues: Queues,
    budget: Budget,
    relays: Relays,
    /// Where the WireGuard message that is being handled came from.
    inbound: Option<Path>,
    icmp_limit: Bucket,
    filter: filter::State,
    edge: edge::State,
    /// The peer that the user has chosen as exit node.
    exit: Option<DeviceId>,
    fixed_mtu: bool,
    mtu: u16,
    counters: Counters,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    tun: VecDeque<Vec<u8>>,
}

/// The device's private key, which no debug output shows.
struct Secret(StaticSecret);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The account's own addresses, where no endpoint can be.
#[derive(Debug, Clone, Copy, Default)]
struct Ranges {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

impl Ranges {
    fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.is_some_and(|range| range.contains(&ip)),
            IpAddr::V6(ip) => self.v6.is_some_and(|range| range.contains(&ip)),
        }
    }
}

impl Mesh {
    /// Creates a node that knows nothing yet.
    #[expect(clippy::needless_pass_by_value, reason = "it holds a private key: not to be kept")]
    pub fn new(config: Config, now: Instant) -> Self {
        let Config { private_key, seed, unix, mtu } = config;
        let secret = StaticSecret::from(private_key);
        let mut random = Random::new(&derive_seed(&seed, "mesh"));
        let hasher = Seeded::new(&mut random);
        let mut wg = Interface::new(private_key, derive_seed(&seed, "wireguard"), now, unix);
        wg.set_handshake_retry(HANDSHAKE_RETRY);
        Self {
            public: PublicKey::from(&secret).to_bytes(),
            secret: Secret(secret),
            clock: Clock::new(now, unix),
            random,
            wg,
            netmap: None,
            source: None,
            ranges: Ranges::default(),
            peers: PeerTable::new(hasher),
            outside: Outside::new(derive_seed(&seed, "stun")),
            broker: None,
            cold_cursor: None,
            stun_by_relays: false,
            published: None,
            answered: None,
            transactions: Transactions::new(hasher),
            reach: None,
            timers: Timers::default(),
            queues: Queues::default(),
            budget: Budget::new(now),
            relays: Relays::default(),
            inbound: None,
            icmp_limit: Bucket::new(icmp::LIMIT, now),
            filter: filter::State::new(Flows::new(hasher)),
            edge: edge::State::default(),
            exit: None,
            fixed_mtu: mtu.is_some(),
            mtu: mtu.unwrap_or(BASE),
            counters: Counters::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            tun: VecDeque::new(),
        }
    }

    /// The device's public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// Tells the broker's time at `now`, as the time since 1970. Probe tags follow it both ways,
    /// because all devices must agree on the day; WireGuard's timestamps only ever rise, so there it
    /// is a floor.
    pub fn raise_clock(&mut self, unix: Duration, now: Instant) {
        let day = self.clock.day(now);
        self.clock.set(unix, now);
        self.wg.raise_clock(now, unix);
        if self.clock.day(now) != day {
            self.renew_tags(now);
        }
    }

    /// What the wall clock is at least, as the time since 1970; to be persisted and given, plus one
    /// second, to [`Config::unix`] after a restart.
    pub fn clock(&self, now: Instant) -> Duration {
        self.wg.clock(now).max(self.clock.unix(now))
    }

    /// The host's addresses (without those of the mesh's own interface) and the UDP port that the
    /// data sockets listen on: at the start and on every change.
    pub fn handle_local_addresses(
        &mut self,
        addresses: &[LocalAddress],
        listen_port: u16,
        now: Instant,
    ) {
        self.change_local_addresses(addresses, listen_port, now);
        self.pump(now);
    }

    /// What the port mapper has open in the router, all of it; empty when nothing.
    pub fn handle_mapping(&mut self, mapped: &[SocketAddr], now: Instant) {
        self.outside.port_mapped = mapped.to_vec();
        self.publish_changes(now);
        self.pump(now);
    }

    /// Seeks a path to a peer and builds the tunnel, without a packet (`warren ping`).
    /// Unknown peers are ignored.
    pub fn connect(&mut self, peer: DeviceId, now: Instant) {
        if let Some(handle) = self.peers.by_id(peer) {
            self.connect_peer(handle, now);
            self.pump(now);
        }
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wg.handle_timeout(now);
        self.outside.stun.handle_timeout(now);
        self.transactions.expire(now);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Peer(peer, timer) => self.handle_peer_timer(peer, timer, now),
                Timer::CheckIn => self.publish(now),
                Timer::Day => self.renew_tags(now),
                Timer::Derive => self.derive_some(now),
                Timer::Cold => self.cold_round(now),
                Timer::Measure => self.measure_relays(now),
                Timer::Relay(relay) => self.look_at_relay(relay, now),
            }
        }
        self.relays_timeout(now);
        self.pump(now);
    }

    fn handle_peer_timer(&mut self, peer: crate::PeerHandle, timer: PeerTimer, now: Instant) {
        match timer {
            PeerTimer::Seek => self.seek_round(peer, now),
            PeerTimer::Verify => self.verify_again(peer, now),
            PeerTimer::Silence => self.judge_silence(peer, now),
            PeerTimer::Refresh => self.refresh_path(peer, now),
            PeerTimer::Glare => self.initiate_after_glare(peer, now),
            PeerTimer::HandshakeLimit => self.give_handshake_up(peer, now),
            PeerTimer::Mtu => self.mtu_timed_out(peer, now),
            PeerTimer::Relay => self.begin_relaying(peer, now),
            PeerTimer::Retest => self.retest_relayed(peer, now),
            PeerTimer::RetestAgain => self.probe_direct(peer, now),
            PeerTimer::LeaveRelay => self.end_linger(peer, now),
            PeerTimer::Return => self.return_again(peer, now),
        }
    }

    /// When to call [`Self::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let own = self.timers.next().map(|(due, timer)| (due, timer.reason()));
        let parts = [self.wg.poll_timeout(), self.outside.stun.poll_timeout(), self.relays_due()];
        own.into_iter().chain(parts.into_iter().flatten()).min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.transmits.is_empty() {
            self.pump_wireguard_transmits();
        }
        self.transmits.pop_front()
    }

    /// The next thing that the shell should do or know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next IP packet for the own host: ICMP errors.
    pub fn poll_tun(&mut self) -> Option<Vec<u8>> {
        self.tun.pop_front()
    }

    /// Takes over what the parts have queued.
    fn pump(&mut self, now: Instant) {
        self.pump_stun(now);
        self.pump_wireguard(now);
    }

    fn pump_stun(&mut self, now: Instant) {
        while let Some(transmit) = self.outside.stun.poll_transmit() {
            self.send(Path::direct(transmit.to), transmit.contents, false);
        }
        let mut changed = false;
        while let Some(warren_turn::ClientEvent::Changed(_)) = self.outside.stun.poll_event() {
            changed = true;
        }
        if changed {
            self.outside_changed(now);
        }
    }

    /// Counts a dropped packet and tells the own host of it.
    fn refuse(&mut self, packet: &[u8], reason: OutboundDrop, now: Instant) {
        let problem = match reason {
            OutboundDrop::UnknownDestination | OutboundDrop::Unreachable => Problem::Unreachable,
            OutboundDrop::Denied => Problem::Prohibited,
            OutboundDrop::Malformed
            | OutboundDrop::ForeignSource
            | OutboundDrop::Multicast
            | OutboundDrop::OwnAddress
            | OutboundDrop::TooBig
            | OutboundDrop::QueueFull => {
                self.counters.drop_outbound(reason, 1);
                return;
            }
        };
        self.counters.drop_outbound(reason, 1);
        self.tell_host(packet, problem, now);
    }

    fn tell_host(&mut self, packet: &[u8], problem: Problem, now: Instant) {
        let Some(error) = icmp::error(packet, problem) else { return };
        if self.icmp_limit.take(now) {
            self.tun.push_back(error);
        } else {
            self.counters.icmp_withheld += 1;
        }
    }
}
