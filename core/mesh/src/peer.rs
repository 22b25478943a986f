use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;
use std::time::{Duration, Instant};

use warren_proto::{DeviceId, Endpoint, LanAddress, NatReport, Peer as Entry, WIREGUARD_ONLY};
use warren_wg::PeerIndex;

use crate::behind::{Behind, Exit, Networks};
use crate::candidates::Candidates;
use crate::filter::{Access, Watched};
use crate::mtu::PathMtu;
use crate::path::{Path, Via};
use crate::probe::budget::{Bucket, Rate};
use crate::probe::keys::{PairKeys, Tag};
use crate::random::Seeded;
use crate::relay::Relaying;
use crate::{PeerHandle, Reason};

/// How many of a peer's probes from where it is known to be are answered at once, and per second after.
const ANSWERS: Rate = Rate { burst: 240, per_second: 120 };

/// The same for those from elsewhere, so that whoever sends captured probes again can't use up the
/// others' share.
const STRANGE_ANSWERS: Rate = Rate { burst: 64, per_second: 32 };

/// The RTT that is assumed before one was measured.
const ASSUMED_RTT: Duration = Duration::from_millis(100);

/// One peer of the netmap.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: DeviceId,
    pub(crate) key: [u8; 32],
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
    pub(crate) behind: Behind,
    /// As of the last netmap, delta or connect signal.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) nat: NatReport,
    pub(crate) online: bool,
    /// It speaks WireGuard alone ([`WIREGUARD_ONLY`]).
    pub(crate) plain: bool,

    /// Derived when first needed.
    pub(crate) pair: Option<Pair>,
    pub(crate) tunnel: Option<PeerIndex>,
    /// There is a session that can be sent with.
    pub(crate) established: bool,
    pub(crate) candidates: Candidates,
    pub(crate) path: Option<InUse>,
    pub(crate) seek: Option<Seek>,
    pub(crate) failure: Option<Failure>,
    /// How many searches in a row were in vain since it was last reached, if it ever was.
    pub(crate) failures: Option<u32>,
    /// The newest WireGuard message that waits for a path.
    pub(crate) held: Option<Vec<u8>>,

    /// When the own host last wanted to talk to it (a packet, or `connect`).
    pub(crate) wanted: Option<Instant>,
    /// When a packet last went through the tunnel, either way, or was wanted to.
    pub(crate) traffic: Option<Instant>,
    /// When the peer last said, through the broker or by a handshake, that it wants to talk.
    pub(crate) wanted_there: Option<Instant>,
    /// When the broker was last asked to tell the peer.
    pub(crate) signalled: Option<Instant>,
    /// Along which path the last handshake was begun.
    pub(crate) shaking: Option<Path>,
    /// When a handshake was last begun because the peer said that it has no session.
    pub(crate) renewed: Option<Instant>,
    /// Where authenticated data last came from, when not along the path in use.
    pub(crate) elsewhere: Option<(Path, Instant)>,
    pub(crate) answers: Bucket,
    pub(crate) strange_answers: Bucket,
    /// The newest stamp of its probes.
    pub(crate) stamp: Duration,
    pub(crate) relaying: Relaying,
    /// What it may send without being asked.
    pub(crate) access: Access,
    /// Since when it may not send everything, and who has watched its flows until then.
    pub(crate) restricted: Option<(Instant, Watched)>,
}

/// The secrets of a pair, and the tags under which its probes are found.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) keys: PairKeys,
    /// In the table of tags: yesterday's, today's, tomorrow's.
    pub(crate) accepted: [Tag; 3],
    /// The day and tag of our own probes.
    pub(crate) own: (u32, Tag),
}

/// The path in use.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) path: Path,
    /// When something authenticated last came along it.
    pub(crate) heard: Instant,
    /// Since when something sent has not been followed by anything authenticated.
    pub(crate) unanswered: Option<Instant>,
    /// The timer that looks at `unanswered` is set.
    pub(crate) watched: bool,
    /// The last thing heard was the answer to a probe, although we are sending: traffic flows one
    /// way, and silence means little.
    pub(crate) one_way: bool,
    pub(crate) suspicion: Option<Suspicion>,
    /// It has stopped answering, and another is sought.
    pub(crate) dead: bool,
    pub(crate) mtu: PathMtu,
    /// How many refreshes there were.
    pub(crate) refreshes: u32,
    /// When the size was last proven again because something seemed lost.
    pub(crate) doubted: Option<Instant>,
}

/// A path in use that may be dead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspicion {
    pub(crate) since: Instant,
    pub(crate) sent: u32,
    /// Only a regular refresh so far.
    pub(crate) gentle: bool,
}

/// Who wants a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// The peer told us through the broker.
    Theirs,
    /// The own host.
    Ours,
}

/// A search for a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seek {
    pub(crate) wish: Wish,
    pub(crate) started: Instant,
    pub(crate) round: u32,
    pub(crate) probes: u32,
    /// A path answered at this time; only better ones are looked for.
    pub(crate) found: Option<Instant>,
}

/// A search that ended in vain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) retry: Instant,
}

impl Peer {
    /// Whether nothing speaks against reaching it: its path hasn't fallen silent, and the last search
    /// for one wasn't in vain.
    fn answers(&self) -> bool {
        self.failure.is_none() && self.path.as_ref().is_none_or(|path| !path.dead)
    }

    fn new(entry: &Entry, now: Instant) -> Self {
        Self {
            id: entry.id,
            key: entry.key.0,
            ipv4: entry.ipv4,
            ipv6: entry.ipv6,
            behind: Behind::default(),
            endpoints: entry.endpoints.clone(),
            nat: entry.nat,
            online: entry.online,
            plain: is_plain(entry),
            pair: None,
            tunnel: None,
            established: false,
            candidates: Candidates::default(),
            path: None,
            seek: None,
            failure: None,
            failures: None,
            held: None,
            wanted: None,
            traffic: None,
            wanted_there: None,
            signalled: None,
            shaking: None,
            renewed: None,
            elsewhere: None,
            answers: Bucket::new(ANSWERS, now),
            strange_answers: Bucket::new(STRANGE_ANSWERS, now),
            stamp: Duration::ZERO,
            relaying: Relaying { reach: entry.relays.clone(), ..Relaying::default() },
            access: Access::default(),
            restricted: None,
        }
    }

    pub(crate) fn owns(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.ipv4 || self.behind.has(ip),
            IpAddr::V6(ip) => ip == self.ipv6,
        }
    }

    /// The path in use, unless it is known to be dead.
    pub(crate) fn live_path(&self) -> Option<&InUse> {
        self.path.as_ref().filter(|path| !path.dead)
    }

    pub(crate) fn in_use(&self) -> Option<Path> {
        self.path.as_ref().map(|in_use| in_use.path)
    }

    /// A path as this peer's: what comes straight from its relayed address came through a relay.
    pub(crate) fn resolve(&self, from: Path) -> Path {
        match from.via {
            Via::Direct if self.relaying.relayed_there == Some(from.remote) => {
                Path { remote: from.remote, via: Via::PeersRelay }
            }
            Via::Direct | Via::Relay(_) | Via::PeersRelay => from,
        }
    }

    /// The path in use that works.
    pub(crate) fn live(&self) -> Option<Path> {
        self.live_path().map(|in_use| in_use.path)
    }

    /// The measured RTT of the path in use.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.candidates.get(&self.in_use()?)?.rtt
    }

    /// How long an answer along the path in use may take.
    pub(crate) fn patience(&self) -> Duration {
        let candidate = self.in_use().and_then(|path| self.candidates.get(&path));
        candidate.and_then(|candidate| candidate.slowest).unwrap_or(ASSUMED_RTT)
    }

    pub(crate) fn is_active(&self) -> bool {
        self.path.is_some() || self.seek.is_some() || self.failure.is_some()
    }
}

/// Whether a peer speaks nothing but WireGuard.
pub(crate) fn is_plain(entry: &Entry) -> bool {
    entry.capabilities.iter().any(|word| word == WIREGUARD_ONLY)
}

/// Whether `event` happened less than `age` before `now`.
pub(crate) fn is_recent(event: Option<Instant>, age: Duration, now: Instant) -> bool {
    event.is_some_and(|event| now.saturating_duration_since(event) < age)
}

/// All peers, and the tables that find them.
#[derive(Debug)]
pub(crate) struct PeerTable {
    /// By handle; a removed peer's slot stays empty, so that a stale handle means nobody.
    slots: Vec<Option<Box<Peer>>>,
    by_id: BTreeMap<DeviceId, PeerHandle>,
    by_address: HashMap<IpAddr, PeerHandle, Seeded>,
    networks: Networks,
    /// By whom traffic to the internet goes, the better first.
    exits: BTreeSet<(Exit, PeerHandle)>,
    by_tunnel: HashMap<PeerIndex, PeerHandle, Seeded>,
    /// The tunnel that was looked up last: datagrams come in runs.
    last_tunnel: Option<(PeerIndex, PeerHandle)>,
    by_tag: HashMap<Tag, PeerHandle, Seeded>,
    /// Peers with a path, a seek, or a failed one.
    active: BTreeSet<PeerHandle>,
    /// Peers whose pair secrets have not been derived.
    underived: BTreeSet<PeerHandle>,
}

impl PeerTable {
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self {
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            by_address: HashMap::with_hasher(hasher),
            networks: Networks::default(),
            exits: BTreeSet::new(),
            by_tunnel: HashMap::with_hasher(hasher),
            last_tunnel: None,
            by_tag: HashMap::with_hasher(hasher),
            active: BTreeSet::new(),
            underived: BTreeSet::new(),
        }
    }

    pub(crate) fn get(&self, handle: PeerHandle) -> Option<&Peer> {
        self.slots.get(handle.index())?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, handle: PeerHandle) -> Option<&mut Peer> {
        self.slots.get_mut(handle.index())?.as_deref_mut()
    }

    pub(crate) fn by_id(&self, id: DeviceId) -> Option<PeerHandle> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn by_address(&self, ip: IpAddr) -> Option<PeerHandle> {
        self.by_address.get(&ip).copied().or_else(|| self.in_front_of(ip))
    }

    pub(crate) fn by_tunnel(&self, tunnel: PeerIndex) -> Option<PeerHandle> {
        self.by_tunnel.get(&tunnel).copied()
    }

    /// The same on the hot path in.
    pub(crate) fn by_tunnel_of_run(&mut self, tunnel: PeerIndex) -> Option<PeerHandle> {
        match self.last_tunnel {
            Some((last, handle)) if last == tunnel => Some(handle),
            Some(_) | None => {
                let handle = self.by_tunnel(tunnel)?;
                self.last_tunnel = Some((tunnel, handle));
                Some(handle)
            }
        }
    }

    pub(crate) fn by_tag(&self, tag: &Tag) -> Option<PeerHandle> {
        self.by_tag.get(tag).copied()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = (DeviceId, PeerHandle)> {
        self.by_id.iter().map(|(id, handle)| (*id, *handle))
    }

    pub(crate) fn ids_from(
        &self,
        from: Bound<DeviceId>,
    ) -> impl Iterator<Item = (DeviceId, PeerHandle)> {
        self.by_id.range((from, Bound::Unbounded)).map(|(id, handle)| (*id, *handle))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn handles(&self) -> Vec<PeerHandle> {
        self.by_id.values().copied().collect()
    }

    pub(crate) fn active(&self) -> Vec<PeerHandle> {
        self.active.iter().copied().collect()
    }

    pub(crate) fn insert(&mut self, entry: &Entry, now: Instant) -> PeerHandle {
        let handle = PeerHandle(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
        self.slots.push(Some(Box::new(Peer::new(entry, now))));
        self.by_id.insert(entry.id, handle);
        self.by_address.insert(entry.ipv4.into(), handle);
        self.by_address.insert(entry.ipv6.into(), handle);
        self.underived.insert(handle);
        handle
    }

    /// The peer that leads to a network which has the address, or to the internet.
    fn in_front_of(&self, ip: IpAddr) -> Option<PeerHandle> {
        let IpAddr::V4(ip) = ip else { return None };
        match self.networks.find(ip) {
            Some(peers) => self.best(|| peers.iter()),
            None if LanAddress::of(ip) == LanAddress::Public => self.exit(),
            None => None,
        }
    }

    /// The peer by which traffic to the internet goes at present.
    pub(crate) fn exit(&self) -> Option<PeerHandle> {
        self.best(|| self.exits.iter().map(|(_, peer)| peer))
    }

    /// The first that is online and answers, else the first that is online, else the first.
    fn best<'p, I: Iterator<Item = &'p PeerHandle>>(
        &self,
        peers: impl Fn() -> I,
    ) -> Option<PeerHandle> {
        let first = |likes: fn(&Peer) -> bool| {
            peers().find(|peer| self.get(**peer).is_some_and(likes)).copied()
        };
        first(|peer| peer.online && peer.answers())
            .or_else(|| first(|peer| peer.online))
            .or_else(|| peers().next().copied())
    }

    /// Takes what stands behind a peer.
    pub(crate) fn set_behind(&mut self, handle: PeerHandle, behind: Behind) {
        let Some(peer) = self.get_mut(handle) else { return };
        if peer.behind == behind {
            return;
        }
        let before = std::mem::replace(&mut peer.behind, behind.clone());
        self.forget_behind(handle, &before);
        for ip in behind.addresses {
            let other = self.by_address.get(&ip.into()).and_then(|other| self.get(*other));
            if other.is_none_or(|other| other.ipv4 != ip) {
                self.by_address.insert(ip.into(), handle);
            }
        }
        for net in behind.networks {
            self.networks.insert(net, handle);
        }
        self.exits.extend(behind.internet.map(|exit| (exit, handle)));
    }

    fn forget_behind(&mut self, handle: PeerHandle, behind: &Behind) {
        for ip in &behind.addresses {
            let ip = IpAddr::V4(*ip);
            if self.by_address.get(&ip) == Some(&handle) {
                self.by_address.remove(&ip);
            }
        }
        for net in &behind.networks {
            self.networks.remove(*net, handle);
        }
        if let Some(exit) = behind.internet {
            self.exits.remove(&(exit, handle));
        }
    }

    pub(crate) fn remove(&mut self, handle: PeerHandle) -> Option<Box<Peer>> {
        let peer = self.slots.get_mut(handle.index())?.take()?;
        self.by_id.remove(&peer.id);
        for ip in [IpAddr::from(peer.ipv4), peer.ipv6.into()] {
            if self.by_address.get(&ip) == Some(&handle) {
                self.by_address.remove(&ip);
            }
        }
        self.forget_behind(handle, &peer.behind);
        if let Some(tunnel) = peer.tunnel {
            self.by_tunnel.remove(&tunnel);
            self.last_tunnel = None;
        }
        for tag in peer.pair.iter().flat_map(|pair| pair.accepted) {
            self.by_tag.remove(&tag);
        }
        self.active.remove(&handle);
        self.underived.remove(&handle);
        Some(peer)
    }

    pub(crate) fn set_tunnel(&mut self, handle: PeerHandle, tunnel: PeerIndex) {
        if let Some(peer) = self.get_mut(handle) {
            peer.tunnel = Some(tunnel);
            self.by_tunnel.insert(tunnel, handle);
        }
    }

    /// Files a pair's secrets and tags, replacing those of the day before.
    pub(crate) fn set_pair(&mut self, handle: PeerHandle, pair: Pair) {
        self.underived.remove(&handle);
        let Some(peer) = self.slots.get_mut(handle.index()).and_then(Option::as_deref_mut) else {
            return;
        };
        for tag in peer.pair.iter().flat_map(|pair| pair.accepted) {
            self.by_tag.remove(&tag);
        }
        for tag in pair.accepted {
            self.by_tag.insert(tag, handle);
        }
        peer.pair = Some(pair);
    }

    pub(crate) fn give_up_deriving(&mut self, handle: PeerHandle) {
        self.underived.remove(&handle);
    }

    pub(crate) fn next_underived(&self) -> Option<PeerHandle> {
        self.underived.first().copied()
    }

    /// Brings the set of active peers up to date with a peer's state.
    pub(crate) fn note_activity(&mut self, handle: PeerHandle) {
        if self.get(handle).is_some_and(Peer::is_active) {
            self.active.insert(handle);
        } else {
            self.active.remove(&handle);
        }
    }
}
