//! A virtual internet: hosts, LANs, NATs, links with latency and faults, on virtual time.
//!
//! [`Network`] moves UDP datagrams between hosts. It is driven like a core: [`Network::send`] puts
//! a datagram on the wire, [`Network::poll_timeout`] says when something arrives, and
//! [`Network::handle_timeout`] lets it arrive: at a router, which forwards or drops it, or at a
//! host, which gets it as a [`Delivery`]. All chance comes from one seed, and every event is
//! folded into [`Network::trace`]: one seed, one trace.
//!
//! A [`Segment`](SegmentId) is a wire that everything attached to it hears: the internet is one, a
//! LAN another. Latency and faults sit at each attachment, so the way from one host to another
//! costs both attachments' latencies, and 'the leg' of a host is what its [`Link`] says.

mod link;
mod nat;
mod router;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub use link::Link;
pub use nat::{Behaviour, Firewall, NatConfig, Ports};
use router::Router;
pub use router::{RouterConfig, RouterId};
use wire::{InFlight, Trace};

/// A wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId(usize);

/// An end system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// An attachment of a host or router to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IfaceId(usize);

/// A UDP datagram with its addresses as they are at this point of its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whence.
    pub src: SocketAddr,
    /// Whither.
    pub dst: SocketAddr,
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// How many routers it may still pass.
    pub(crate) hops: u8,
}

/// A datagram that has reached a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The host.
    pub host: HostId,
    /// The sender, as the host sees it.
    pub from: SocketAddr,
    /// The host's own address and port.
    pub to: SocketAddr,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// Why the network dropped a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The sender has no interface that leads there.
    NoRoute,
    /// Nobody on the segment has that address, and it has no gateway.
    NobodyThere,
    /// The link lost it.
    Link,
    /// The interface was detached while it was on its way.
    Detached,
    /// The NAT has no mapping for it.
    NoMapping,
    /// The NAT's or firewall's filter let it not in.
    Filtered,
    /// The router drops UDP.
    UdpBlocked,
    /// It was meant for a host behind the same NAT, which does not hairpin.
    NoHairpin,
    /// It went around in circles.
    HopLimit,
    /// It is longer than the link carries.
    TooBig,
}

/// What a host has sent and received, headers of IP and UDP included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Datagrams sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Datagrams received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
}

/// What lies between a host and the middle of the internet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathToCore {
    /// One way.
    pub latency: Duration,
    /// The share of packets that is lost, 0 to 1.
    pub loss: f64,
}

impl PathToCore {
    fn add(&mut self, link: Link) -> Option<()> {
        self.latency += link.latency + link.jitter / 2;
        self.loss = 1.0 - (1.0 - self.loss) * (1.0 - link.loss);
        (link.loss < 1.0).then_some(())
    }
}

#[derive(Debug)]
struct Segment {
    ifaces: BTreeSet<IfaceId>,
    gateway: Option<IfaceId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Host(HostId),
    Inside(RouterId),
    Outside(RouterId),
}

#[derive(Debug)]
struct Iface {
    owner: Owner,
    segment: SegmentId,
    /// Own addresses with the on-link prefix.
    addrs: Vec<IpNet>,
    /// Prefixes behind it, beside its own addresses.
    routes: Vec<IpNet>,
    link: Link,
    attached: bool,
}

#[derive(Debug, Default)]
struct Host {
    ifaces: Vec<IfaceId>,
    counters: HostCounters,
}

/// The virtual internet.
#[derive(Debug)]
pub struct Network {
    start: Instant,
    now: Instant,
    rng: StdRng,
    segments: Vec<Segment>,
    ifaces: Vec<Iface>,
    hosts: Vec<Host>,
    routers: Vec<Router>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    /// When the last in-order packet arrives, by sender and receiver.
    last_arrival: BTreeMap<(IfaceId, IfaceId), Instant>,
    sequence: u64,
    losses: BTreeMap<Loss, u64>,
    trace: Trace,
    /// What has reached hosts since [`Network::start_capture`].
    captured: Option<Vec<Delivery>>,
}

impl Network {
    /// An empty world at `start`.
    pub fn new(seed: u64, start: Instant) -> Self {
        Self {
            start,
            now: start,
            rng: StdRng::seed_from_u64(seed),
            segments: Vec::new(),
            ifaces: Vec::new(),
            hosts: Vec::new(),
            routers: Vec::new(),
            in_flight: BinaryHeap::new(),
            last_arrival: BTreeMap::new(),
            sequence: 0,
            losses: BTreeMap::new(),
            trace: Trace::default(),
            captured: None,
        }
    }

    /// Adds a wire.
    pub fn add_segment(&mut self) -> SegmentId {
        self.segments.push(Segment { ifaces: BTreeSet::new(), gateway: None });
        SegmentId(self.segments.len() - 1)
    }

    /// Adds a host without any interface.
    pub fn add_host(&mut self) -> HostId {
        self.hosts.push(Host::default());
        HostId(self.hosts.len() - 1)
    }

    /// Gives a host an interface with addresses (each with the length of its on-link prefix). The
    /// first interface of a family leads everywhere that no interface is on-link with.
    pub fn attach(
        &mut self,
        host: HostId,
        segment: SegmentId,
        addrs: &[IpNet],
        link: Link,
    ) -> IfaceId {
        let iface = self.add_iface(Owner::Host(host), segment, addrs, link);
        self.hosts[host.0].ifaces.push(iface);
        iface
    }

    /// Takes all interfaces from a host; what is on its way to them is lost.
    pub fn detach(&mut self, host: HostId) {
        for iface in std::mem::take(&mut self.hosts[host.0].ifaces) {
            self.ifaces[iface.0].attached = false;
            let segment = self.ifaces[iface.0].segment;
            self.segments[segment.0].ifaces.remove(&iface);
        }
    }

    fn add_iface(
        &mut self,
        owner: Owner,
        segment: SegmentId,
        addrs: &[IpNet],
        link: Link,
    ) -> IfaceId {
        let id = IfaceId(self.ifaces.len());
        let addrs = addrs.to_vec();
        self.ifaces.push(Iface { owner, segment, addrs, routes: Vec::new(), link, attached: true });
        self.segments[segment.0].ifaces.insert(id);
        id
    }

    /// Changes a host's links, e.g. to lose everything for a while.
    pub fn set_link(&mut self, host: HostId, link: Link) {
        for iface in &self.hosts[host.0].ifaces {
            self.ifaces[iface.0].link = link;
        }
    }

    /// The addresses of a host's interfaces.
    pub fn addresses(&self, host: HostId) -> impl Iterator<Item = IpNet> + '_ {
        self.hosts[host.0]
            .ifaces
            .iter()
            .flat_map(|iface| self.ifaces[iface.0].addrs.iter().copied())
    }

    /// The way from a host to the edge of the internet, through its links and the routers before
    /// it; `None` while it is attached to nothing or something on the way is cut.
    pub fn path_to_core(&self, host: HostId) -> Option<PathToCore> {
        let mut path = PathToCore { latency: Duration::ZERO, loss: 0.0 };
        let mut iface = *self.hosts[host.0].ifaces.first()?;
        for _ in 0..8 {
            let here = &self.ifaces[iface.0];
            path.add(here.link)?;
            let Some(gateway) = self.segments[here.segment.0].gateway else { break };
            let Owner::Inside(router) = self.ifaces[gateway.0].owner else { break };
            path.add(self.ifaces[gateway.0].link)?;
            iface = self.routers[router.index()].outside;
        }
        Some(path)
    }

    /// What a host has sent and received.
    pub fn counters(&self, host: HostId) -> HostCounters {
        self.hosts[host.0].counters
    }

    /// How many datagrams were dropped, by reason.
    pub fn losses(&self) -> &BTreeMap<Loss, u64> {
        &self.losses
    }

    /// A digest of every event so far: equal for equal seeds and inputs.
    pub fn trace(&self) -> u64 {
        self.trace.digest()
    }

    /// Folds something that happened outside of the network into its trace.
    pub fn note(&mut self, what: &str, value: u64) {
        let at = self.now - self.start;
        self.trace.note(at, what, value);
    }

    /// Begins to copy everything that reaches a host, as an attacker on the path could.
    pub fn start_capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// Ends the capture; what was captured.
    pub fn end_capture(&mut self) -> Vec<Delivery> {
        self.captured.take().unwrap_or_default()
    }

    /// The virtual time of the last event.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// When the next datagram arrives somewhere.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.in_flight.peek().map(|Reverse(next)| next.at)
    }

    /// Sends a datagram from a host's port; the interface that leads there gives the source.
    pub fn send(
        &mut self,
        host: HostId,
        port: u16,
        dst: SocketAddr,
        payload: Vec<u8>,
        now: Instant,
    ) {
        self.now = now;
        let Some((iface, ip)) = self.route(host, dst.ip()) else {
            self.lose(Loss::NoRoute);
            return;
        };
        let src = SocketAddr::new(ip, port);
        self.transmit(host, iface, &Packet { src, dst, payload, hops: 16 });
    }

    /// Sends a datagram with any source address at all, from a host's first interface.
    pub fn send_spoofed(
        &mut self,
        host: HostId,
        src: SocketAddr,
        dst: SocketAddr,
        payload: Vec<u8>,
        now: Instant,
    ) {
        self.now = now;
        if let Some(iface) = self.hosts[host.0].ifaces.first().copied() {
            self.transmit(host, iface, &Packet { src, dst, payload, hops: 16 });
        }
    }

    /// Sends a datagram from one of a host's own addresses.
    pub fn send_from(
        &mut self,
        host: HostId,
        src: SocketAddr,
        dst: SocketAddr,
        payload: Vec<u8>,
        now: Instant,
    ) {
        self.now = now;
        let has_it = |iface: &&IfaceId| {
            self.ifaces[iface.0].addrs.iter().any(|addr| addr.addr() == src.ip())
        };
        let Some(iface) = self.hosts[host.0].ifaces.iter().find(has_it).copied() else {
            self.lose(Loss::NoRoute);
            return;
        };
        self.transmit(host, iface, &Packet { src, dst, payload, hops: 16 });
    }

    fn transmit(&mut self, host: HostId, iface: IfaceId, packet: &Packet) {
        let counters = &mut self.hosts[host.0].counters;
        counters.tx_packets += 1;
        counters.tx_bytes += wire::size(packet);
        self.emit(iface, packet);
    }

    /// The interface and source address that a host uses towards a destination.
    fn route(&self, host: HostId, dst: IpAddr) -> Option<(IfaceId, IpAddr)> {
        let candidates = || {
            let of_iface = |iface: &IfaceId| {
                let id = *iface;
                self.ifaces[id.0].addrs.iter().map(move |addr| (id, *addr))
            };
            let all = self.hosts[host.0].ifaces.iter().flat_map(of_iface);
            all.filter(|(_, addr)| addr.addr().is_ipv4() == dst.is_ipv4())
        };
        let chosen =
            candidates().find(|(_, addr)| addr.contains(&dst)).or_else(|| candidates().next());
        chosen.map(|(iface, addr)| (iface, addr.addr()))
    }

    fn lose(&mut self, loss: Loss) {
        *self.losses.entry(loss).or_default() += 1;
        self.note("lost", loss as u64);
    }
}
