//! Relays: which there are, how quickly each is reached, and this device's allocation at it.
//!
//! A relay is *touched* (an allocation, data) only when a pair needs it: the mesh's `relay` files
//! say when. What is here knows nothing of paths or searches: the table of relays ([`Relays`]), the
//! round-trip times ([`measure`]), the choice of one for a pair ([`choice`]), and what carries
//! messages to it, a datagram or a stream ([`carrier`]).
//!
//! One allocation at a relay serves all peers that are reached through it. At relays of ours both
//! sides of a pair have one, and each binds a channel to the other's virtual address, which it can
//! compute. At other TURN servers one side has one, and the other sends plain datagrams to the
//! relayed address that it was told.

pub(crate) mod carrier;
pub(crate) mod choice;
pub(crate) mod measure;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{
    DeviceId, Relay as Info, RelayCredential, RelayId, RelayRtt, RelayState, RelayTransport,
};
use warren_turn::ChannelNumber;
use warren_turn::client::{Client, Credential, Failure};

use crate::path::{Path, RelayHandle, Via};
use crate::{Reason, Transmit};
pub(crate) use carrier::{Carriage, Carrier};
pub use carrier::{StreamId, StreamTarget};
use measure::Measurement;

/// The most relays that are known, those that have left the netmap among them.
const MAX_KNOWN: usize = 256;

/// The most allocations at a time.
pub(crate) const MAX_ALLOCATIONS: usize = 16;

/// A relay that failed isn't tried again for so long; it doubles with each failure in a row.
const FIRST_REST: Duration = Duration::from_secs(5);

/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What is known of one relay.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) info: Info,
    /// Whether the netmap has it.
    pub(crate) listed: bool,
    pub(crate) measurement: Measurement,
    pub(crate) allocation: Option<Allocation>,
    /// It failed, and isn't tried before.
    pub(crate) rest: Option<Instant>,
    failures: u32,
    failed: Option<Instant>,
    /// When datagrams to it went unanswered, so that a stream was opened.
    pub(crate) udp_failed: Option<Instant>,
    /// Why it failed last, until it works.
    pub(crate) problem: Option<Failure>,
}

/// This device's allocation, or the way to one.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) carrier: Carrier,
    /// `None` until a stream is open.
    pub(crate) client: Option<Client>,
    /// Whom each bound address belongs to.
    pub(crate) peers: BTreeMap<SocketAddr, crate::PeerHandle>,
    /// Peers that need it.
    pub(crate) users: BTreeSet<crate::PeerHandle>,
    /// When the present carrier was begun with.
    pub(crate) begun: Instant,
    /// Since when nobody needs it.
    pub(crate) idle: Option<Instant>,
    /// Peers with plain datagrams may send from here.
    pub(crate) permitted: BTreeSet<std::net::IpAddr>,
}

impl Allocation {
    pub(crate) fn new(carrier: Carrier, now: Instant) -> Self {
        Self {
            carrier,
            client: None,
            peers: BTreeMap::new(),
            users: BTreeSet::new(),
            begun: now,
            idle: None,
            permitted: BTreeSet::new(),
        }
    }

    /// The relayed address, once it stands.
    pub(crate) fn relayed(&self) -> Option<SocketAddr> {
        self.client.as_ref().and_then(Client::relayed)
    }

    fn channel(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        self.client.as_ref().and_then(|client| client.channel(peer))
    }
}

/// What is known of a peer beside its candidates, as far as relays go.
#[derive(Debug, Default)]
pub(crate) struct Relaying {
    /// What the peer reaches, as published; empty: unknown.
    pub(crate) reach: Vec<RelayRtt>,
    /// Where it is (to be) bound, or may send to.
    pub(crate) used: BTreeSet<RelayHandle>,
    /// What the peer has named, and when.
    pub(crate) named: Option<(RelayHandle, Instant)>,
    /// What this device has named.
    pub(crate) told: Option<RelayHandle>,
    /// Where the peer is reached by plain datagrams, at a relay of its own.
    pub(crate) relayed_there: Option<SocketAddr>,
    /// A path through this relay died, and when.
    pub(crate) avoid: Option<(RelayHandle, Instant)>,
    /// The state of the own endpoints in which a direct path was last sought in vain
    /// ([`Relays::generation`]).
    pub(crate) relay_only: Option<u64>,
    /// Why there was no direct path.
    pub(crate) reason: Option<Reason>,
    /// When direct paths were last tried beside a relayed one.
    pub(crate) retested: Option<Instant>,
    /// The way back to a better relay.
    pub(crate) returning: crate::mesh::Return,
}

impl Relaying {
    pub(crate) fn note_dead(&mut self, path: Path, now: Instant) {
        if let Via::Relay(relay) = path.via {
            self.avoid = Some((relay, now));
        }
    }

    pub(crate) fn note_relayed_there(&mut self, remote: SocketAddr) {
        self.relayed_there = Some(remote);
    }
}

/// All relays.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    /// By handle.
    entries: Vec<Relay>,
    /// As the netmap has them.
    pub(crate) order: Vec<RelayHandle>,
    /// Grows when the own endpoints change.
    pub(crate) generation: u64,
    streams: u64,
    /// As they were published last.
    pub(crate) published: Vec<RelayRtt>,
    /// When a relay last sent a datagram.
    pub(crate) heard: Option<Instant>,
    /// How this device does its own duty as a relay.
    pub(crate) own: Option<RelayState>,
}

impl Relays {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn get(&self, relay: RelayHandle) -> Option<&Relay> {
        self.entries.get(usize::from(relay.0))
    }

    pub(crate) fn get_mut(&mut self, relay: RelayHandle) -> Option<&mut Relay> {
        self.entries.get_mut(usize::from(relay.0))
    }

    pub(crate) fn allocation(&self, relay: RelayHandle) -> Option<&Allocation> {
        self.get(relay)?.allocation.as_ref()
    }

    pub(crate) fn allocation_mut(&mut self, relay: RelayHandle) -> Option<&mut Allocation> {
        self.get_mut(relay)?.allocation.as_mut()
    }

    /// All that were ever known, by handle.
    pub(crate) fn handles(&self) -> impl Iterator<Item = RelayHandle> + use<> {
        (0..u16::try_from(self.entries.len()).unwrap_or(u16::MAX)).map(RelayHandle)
    }

    pub(crate) fn by_id(&self, id: RelayId) -> Option<RelayHandle> {
        self.order.iter().copied().find(|relay| self.get(*relay).is_some_and(|r| r.info.id == id))
    }

    /// The relay whose allocation is carried by datagrams to and from `server`.
    pub(crate) fn by_server(&self, server: SocketAddr) -> Option<RelayHandle> {
        self.handles().find(|relay| {
            self.allocation(*relay).is_some_and(|allocation| match allocation.carrier {
                Carrier::Udp(present) => present == server,
                Carrier::Stream(_) => false,
            })
        })
    }

    pub(crate) fn by_stream(&self, stream: StreamId) -> Option<RelayHandle> {
        self.handles().find(|relay| {
            self.allocation(*relay).is_some_and(|allocation| match &allocation.carrier {
                Carrier::Udp(_) => false,
                Carrier::Stream(present) => present.id == stream,
            })
        })
    }

    pub(crate) fn allocations(&self) -> usize {
        self.entries.iter().filter(|relay| relay.allocation.is_some()).count()
    }

    /// Whether there can't be another allocation: as many as there may be, and all are needed.
    fn are_full(&self) -> bool {
        let is_needed = |allocation: &&Allocation| !allocation.users.is_empty();
        let allocations = self.entries.iter().filter_map(|relay| relay.allocation.as_ref());
        allocations.filter(is_needed).count() >= MAX_ALLOCATIONS
    }

    /// How many needs of peers all allocations together serve.
    pub(crate) fn users(&self) -> usize {
        let allocations = self.entries.iter().filter_map(|relay| relay.allocation.as_ref());
        allocations.map(|allocation| allocation.users.len()).sum()
    }

    /// Whether there are relays, all have been asked for a sign of life, and none has given one.
    pub(crate) fn are_silent(&self) -> bool {
        let is_silent = |relay: &RelayHandle| {
            self.get(*relay).is_some_and(|relay| {
                relay.measurement.is_settled() && relay.measurement.rtt().is_none()
            })
        };
        !self.order.is_empty() && self.order.iter().all(is_silent)
    }

    /// Whether the relay is one of ours, with virtual relayed addresses.
    pub(crate) fn is_virtual(&self, relay: RelayHandle) -> bool {
        self.get(relay).is_some_and(|relay| relay.info.virtual_addresses)
    }

    pub(crate) fn next_stream(&mut self) -> StreamId {
        self.streams += 1;
        StreamId(self.streams)
    }

    /// Takes the netmap's list. Returns those that have left it or are reached elsewhere: their
    /// allocations are void; and whether there is one to be measured.
    pub(crate) fn take(&mut self, list: &[Info]) -> (Vec<RelayHandle>, bool) {
        let mut order: Vec<RelayHandle> = Vec::new();
        let (mut void, mut news) = (Vec::new(), false);
        for info in list {
            let known = self
                .handles()
                .find(|relay| self.get(*relay).is_some_and(|relay| relay.info.id == info.id));
            let handle = match known {
                Some(handle) => {
                    if let Some(relay) = self.get_mut(handle) {
                        let moved = relay.take_info(info);
                        news |= moved;
                        if moved && relay.allocation.is_some() {
                            void.push(handle);
                        }
                    }
                    handle
                }
                None => {
                    let Some(handle) = self.add(info, list) else { continue };
                    news = true;
                    handle
                }
            };
            if !order.contains(&handle) {
                order.push(handle);
            }
        }
        for handle in self.handles() {
            let listed = order.contains(&handle);
            let Some(relay) = self.get_mut(handle) else { continue };
            relay.listed = listed;
            if !listed && relay.allocation.is_some() {
                void.push(handle);
            }
        }
        self.order = order;
        (void, news)
    }

    /// Gives a new relay a handle: at last those of relays that have left the list, of which nothing is
    /// left.
    fn add(&mut self, info: &Info, list: &[Info]) -> Option<RelayHandle> {
        if self.entries.len() < MAX_KNOWN {
            self.entries.push(Relay::new(info.clone()));
            return u16::try_from(self.entries.len() - 1).ok().map(RelayHandle);
        }
        let is_over = |relay: &Relay| {
            relay.allocation.is_none() && list.iter().all(|info| info.id != relay.info.id)
        };
        let place = self.entries.iter().position(is_over)?;
        self.entries[place] = Relay::new(info.clone());
        u16::try_from(place).ok().map(RelayHandle)
    }

    /// How a datagram for a path leaves; `None` while it can't.
    pub(crate) fn carriage(&self, path: Path) -> Option<Carriage> {
        let relay = match path.via {
            Via::Direct | Via::PeersRelay => {
                return Some(Carriage::Datagram { remote: path.remote, channel: None });
            }
            Via::Relay(relay) => relay,
        };
        let allocation = self.allocation(relay)?;
        let channel = allocation.channel(path.remote)?;
        Some(match allocation.carrier {
            Carrier::Udp(server) => Carriage::Datagram { remote: server, channel: Some(channel) },
            Carrier::Stream(_) => Carriage::Stream { relay, channel },
        })
    }

    /// Writes the header of a carriage into the headroom of a datagram, and gives it back, unless a
    /// stream has taken it.
    pub(crate) fn load(&mut self, carriage: Carriage, mut contents: Vec<u8>) -> Option<Transmit> {
        carriage.write_header(&mut contents);
        match carriage {
            Carriage::Datagram { remote, channel: _ } => {
                Some(Transmit { remote, contents, dont_fragment: false })
            }
            Carriage::Stream { relay, channel: _ } => {
                self.write_stream(relay, &contents);
                None
            }
        }
    }

    /// Puts one message into a relay's stream.
    pub(crate) fn write_stream(&mut self, relay: RelayHandle, message: &[u8]) -> bool {
        match self.allocation_mut(relay).map(|allocation| &mut allocation.carrier) {
            Some(Carrier::Stream(stream)) => stream.write(message),
            Some(Carrier::Udp(_)) | None => false,
        }
    }

    /// What this device reaches, as it is published: in the netmap's order. A time that has changed
    /// little is published as before, so that news is news.
    pub(crate) fn update_published(
        &mut self,
        udp_blocked: bool,
        broker_rtt: Option<Duration>,
        now: Instant,
    ) {
        let estimate = broker_rtt.map_or(0, micros);
        let rtts = self.order.iter().filter_map(|handle| {
            let relay = self.get(*handle)?;
            if !relay.is_rested(now) {
                return None;
            }
            let by_stream = udp_blocked || relay.is_stream_only();
            let (rtt_us, transport) = match relay.measurement.rtt() {
                Some(rtt) if !udp_blocked => (micros(rtt), RelayTransport::Udp),
                Some(_) | None if by_stream && !relay.info.tls.is_empty() => {
                    (estimate, RelayTransport::Tls)
                }
                Some(_) | None if by_stream && !relay.info.tcp.is_empty() => {
                    (estimate, RelayTransport::Tcp)
                }
                Some(_) | None => return None,
            };
            let present = RelayRtt { relay: relay.info.id, rtt_us, transport };
            let before = self.published.iter().find(|before| before.relay == present.relay);
            Some(before.filter(|before| is_alike(before, &present)).copied().unwrap_or(present))
        });
        self.published = rtts.collect();
    }
}

impl Relay {
    fn new(info: Info) -> Self {
        Self {
            info,
            listed: true,
            measurement: Measurement::default(),
            allocation: None,
            rest: None,
            failures: 0,
            failed: None,
            udp_failed: None,
            problem: None,
        }
    }

    /// Takes what the netmap says; whether it is reached elsewhere than before.
    fn take_info(&mut self, info: &Info) -> bool {
        let address = |info: &Info| (info.udp.clone(), info.tcp.clone(), info.tls.clone());
        let moved = address(&self.info) != address(info)
            || self.info.virtual_addresses != info.virtual_addresses;
        if self.info.credential != info.credential
            && let Some(client) =
                self.allocation.as_mut().and_then(|allocation| allocation.client.as_mut())
        {
            client.set_credential(credential(&info.credential));
        }
        let returned = !self.listed;
        self.listed = true;
        self.info = info.clone();
        if moved {
            self.measurement = Measurement::default();
            self.rest = None;
            self.failures = 0;
        }
        moved || returned
    }

    /// Whether it may be tried.
    pub(crate) fn is_rested(&self, now: Instant) -> bool {
        self.listed && self.rest.is_none_or(|rest| rest <= now)
    }

    /// Whether it has not failed for so long.
    pub(crate) fn is_steady(&self, time: Duration, now: Instant) -> bool {
        self.failed.is_none_or(|failed| now.saturating_duration_since(failed) >= time)
    }

    /// How its allocation is carried, if there is one.
    pub(crate) fn transport(&self) -> Option<RelayTransport> {
        let allocation = self.allocation.as_ref().filter(|there| there.relayed().is_some())?;
        Some(match &allocation.carrier {
            Carrier::Udp(_) => RelayTransport::Udp,
            Carrier::Stream(stream) if stream.is_tls => RelayTransport::Tls,
            Carrier::Stream(_) => RelayTransport::Tcp,
        })
    }

    /// Whether it takes no datagrams at all.
    pub(crate) fn is_stream_only(&self) -> bool {
        self.info.udp.is_empty() && self.has_streams()
    }

    pub(crate) fn has_streams(&self) -> bool {
        !self.info.tls.is_empty() || !self.info.tcp.is_empty()
    }

    /// Two devices that relay for each other share one 5-tuple, so each has its half of the channels.
    pub(crate) fn first_channel(&self, this: Option<DeviceId>) -> ChannelNumber {
        let is_second = self.info.device.is_some_and(|other| this.is_some_and(|this| this > other));
        let second = (ChannelNumber::MIN.number() + ChannelNumber::MAX.number()).div_ceil(2);
        ChannelNumber::new(second).filter(|_| is_second).unwrap_or(ChannelNumber::MIN)
    }

    /// It doesn't work; gives until when it is left alone.
    pub(crate) fn note_failure(&mut self, reason: Failure, now: Instant) -> Instant {
        let rest = LONGEST_REST.min(FIRST_REST * 2u32.saturating_pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        self.problem = Some(reason);
        self.failed = Some(now);
        self.rest = Some(now + rest);
        now + rest
    }

    /// A peer says that it works: it needs no longer rest than the shortest.
    pub(crate) fn forgive(&mut self, now: Instant) {
        if self.failed.is_none_or(|failed| now.saturating_duration_since(failed) >= FIRST_REST) {
            self.rest = None;
        }
    }

    pub(crate) fn note_success(&mut self) {
        self.failures = 0;
        self.rest = None;
        self.problem = None;
    }
}

pub(crate) fn credential(given: &RelayCredential) -> Credential {
    Credential {
        username: given.username.clone(),
        password: given.password.clone(),
        realm: given.realm.clone(),
        nonce: given.nonce.clone(),
    }
}

/// Whether a published time need not be published anew: within a quarter, or 10 ms.
fn is_alike(before: &RelayRtt, present: &RelayRtt) -> bool {
    let margin = (before.rtt_us / 4).max(10_000);
    before.transport == present.transport && before.rtt_us.abs_diff(present.rtt_us) <= margin
}

pub(crate) fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
