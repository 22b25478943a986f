//! What a host is plugged into: the internet's core router, or a LAN's bridge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::host::ip_batch;
use crate::{Host, Wire, WireSpec};

/// A place to plug into. Clones are handles to the same place.
#[derive(Clone, Debug)]
pub struct Segment(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    router: Host,
    kind: Kind,
    plugged: AtomicU32,
}

#[derive(Debug)]
enum Kind {
    /// A routed /30 and /64 for each link.
    Core,
    /// One bridge for all.
    Lan { bridge: String, v4: Ipv4Net, v6: Option<Ipv6Net> },
}

/// How a host is to be plugged in.
#[derive(Clone, Debug)]
pub struct Plug {
    interface: Option<String>,
    ipv4: bool,
    ipv6: bool,
    address: Option<Ipv4Addr>,
    wire: Option<WireSpec>,
}

impl Plug {
    /// IPv4 alone.
    #[must_use]
    pub fn ipv4() -> Self {
        Self { interface: None, ipv4: true, ipv6: false, address: None, wire: None }
    }

    /// IPv6 alone.
    #[must_use]
    pub fn ipv6() -> Self {
        Self { ipv4: false, ipv6: true, ..Self::ipv4() }
    }

    /// Both families (IPv6 where the segment has it).
    #[must_use]
    pub fn dual() -> Self {
        Self { ipv6: true, ..Self::ipv4() }
    }

    /// Names the host's interface; default `eth0`, `eth1`, …
    #[must_use]
    pub fn named(self, interface: &str) -> Self {
        Self { interface: Some(interface.to_owned()), ..self }
    }

    /// Chooses the IPv4 address; on the internet, the second of its /30.
    #[must_use]
    pub fn at(self, address: Ipv4Addr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// Puts a [`Wire`] in place of a veth pair.
    #[must_use]
    pub fn wire(self, spec: WireSpec) -> Self {
        Self { wire: Some(spec), ..self }
    }
}

/// What the two ends of a link are called and which addresses they have.
#[derive(Clone, Debug)]
struct Plan {
    host_interface: String,
    segment_interface: String,
    v4: Option<(Ipv4Net, Ipv4Addr)>,
    v6: Option<(Ipv6Net, Ipv6Addr)>,
}

/// A host's link to a segment. Dropping it changes nothing; see [`Link::unplug`].
#[derive(Debug)]
pub struct Link {
    host: Host,
    segment: Segment,
    plan: Plan,
    wire: Option<Wire>,
}

impl Segment {
    pub(crate) fn internet(router: Host) -> Self {
        Self(Arc::new(Inner { router, kind: Kind::Core, plugged: AtomicU32::new(0) }))
    }

    /// Makes a bridge on `router`, which becomes its gateway.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn lan(router: &Host, bridge: &str, v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<Self> {
        let gateway = nth_v4(v4, 1);
        let mut lines = vec![
            format!("link add {bridge} type bridge"),
            format!("addr add {gateway}/{} dev {bridge}", v4.prefix_len()),
            format!("link set {bridge} up"),
        ];
        if let Some(v6) = v6 {
            lines.push(format!("addr add {}/{} dev {bridge}", nth_v6(v6, 1), v6.prefix_len()));
        }
        router.ip(&lines)?;
        let kind = Kind::Lan { bridge: bridge.to_owned(), v4, v6 };
        Ok(Self(Arc::new(Inner { router: router.clone(), kind, plugged: AtomicU32::new(0) })))
    }

    /// The machine that routes for this segment.
    #[must_use]
    pub fn router(&self) -> &Host {
        &self.0.router
    }

    /// Plugs a host in: addresses and default routes as DHCP would give them.
    ///
    /// # Errors
    /// When `ip` fails or, for a wire, a TAP device can't be made.
    pub fn plug(&self, host: &Host, plug: &Plug) -> Result<Link> {
        let plan = self.plan(host, plug);
        let wire = match plug.wire {
            None => {
                self.make_veth(host, &plan)?;
                None
            }
            Some(spec) => {
                let left = (host, plan.host_interface.as_str());
                let right = (self.router(), plan.segment_interface.as_str());
                Some(Wire::lay(left, right, spec)?)
            }
        };
        self.router().ip(&self.router_lines(&plan))?;
        host.ip(&host_lines(&plan))?;
        Ok(Link { host: host.clone(), segment: self.clone(), plan, wire })
    }

    fn plan(&self, host: &Host, plug: &Plug) -> Plan {
        let number = self.0.plugged.fetch_add(1, Ordering::Relaxed);
        let serial = self.router().shared().next();
        let host_interface = plug.interface.clone().unwrap_or_else(|| host.next_interface());
        let (v4, v6) = match &self.0.kind {
            Kind::Core => {
                let net = match plug.address {
                    Some(address) => link_net(address),
                    None => public_net(number),
                };
                let v6 = Ipv6Net::new_assert(public_v6(number), 64);
                ((net, nth_v4(net, 1)), Some((v6, nth_v6(v6, 1))))
            }
            Kind::Lan { v4, v6, .. } => {
                ((*v4, nth_v4(*v4, 1)), v6.map(|net| (net, nth_v6(net, 1))))
            }
        };
        let host_number = match self.0.kind {
            Kind::Core => 2,
            Kind::Lan { .. } => 100 + number,
        };
        let with_v4 = |(net, gateway): (Ipv4Net, Ipv4Addr)| {
            let address = plug.address.unwrap_or_else(|| nth_v4(net, host_number));
            (Ipv4Net::new_assert(address, net.prefix_len()), gateway)
        };
        let with_v6 = |(net, gateway): (Ipv6Net, Ipv6Addr)| {
            (Ipv6Net::new_assert(nth_v6(net, host_number), net.prefix_len()), gateway)
        };
        Plan {
            host_interface,
            segment_interface: format!("port{serial}"),
            v4: plug.ipv4.then(|| with_v4(v4)),
            v6: v6.filter(|_| plug.ipv6).map(with_v6),
        }
    }

    fn make_veth(&self, host: &Host, plan: &Plan) -> Result<()> {
        let Plan { host_interface, segment_interface, .. } = plan;
        let (router, host) = (self.router().name(), host.name());
        ip_batch(
            None,
            &[format!(
                "link add {segment_interface} netns {router} type veth peer name {host_interface} netns {host}"
            )],
        )
    }

    fn router_lines(&self, plan: &Plan) -> Vec<String> {
        let port = &plan.segment_interface;
        let mut lines = Vec::new();
        match &self.0.kind {
            Kind::Core => {
                if let Some((net, gateway)) = plan.v4 {
                    lines.push(format!("addr add {gateway}/{} dev {port}", net.prefix_len()));
                }
                if let Some((net, gateway)) = plan.v6 {
                    lines.push(format!("addr add {gateway}/{} dev {port}", net.prefix_len()));
                }
                lines.push(format!("link set {port} up"));
            }
            Kind::Lan { bridge, .. } => lines.push(format!("link set {port} master {bridge} up")),
        }
        lines
    }
}

fn host_lines(plan: &Plan) -> Vec<String> {
    let device = &plan.host_interface;
    let mut lines = Vec::new();
    if let Some((address, _)) = plan.v4 {
        lines.push(format!("addr add {address} dev {device}"));
    }
    if let Some((address, _)) = plan.v6 {
        lines.push(format!("addr add {address} dev {device} nodad"));
    }
    lines.push(format!("link set {device} up"));
    if let Some((_, gateway)) = plan.v4 {
        lines.push(format!("route replace default via {gateway} dev {device}"));
    }
    if let Some((_, gateway)) = plan.v6 {
        lines.push(format!("route replace ::/0 via {gateway} dev {device}"));
    }
    lines
}

impl Link {
    /// The host's IPv4 address on this link.
    ///
    /// # Errors
    /// When the link is IPv6 alone.
    pub fn v4(&self) -> Result<Ipv4Addr> {
        self.plan.v4.map(|(net, _)| net.addr()).context("the link has no IPv4")
    }

    /// The host's IPv6 address on this link.
    ///
    /// # Errors
    /// When the link is IPv4 alone.
    pub fn v6(&self) -> Result<Ipv6Addr> {
        self.plan.v6.map(|(net, _)| net.addr()).context("the link has no IPv6")
    }

    /// All addresses of the host on this link.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.v4().ok().map(IpAddr::V4).into_iter().chain(self.v6().ok().map(IpAddr::V6)).collect()
    }

    /// The host's interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.plan.host_interface
    }

    /// The wire, if the link is one.
    #[must_use]
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Takes the cable out: the host loses interface, addresses and routes; its processes live on.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn unplug(self) -> Result<()> {
        match self.wire {
            Some(wire) => wire.remove(),
            None => self.host.ip(&[format!("link del {}", self.plan.host_interface)]),
        }
    }

    /// Moves the host elsewhere, as a laptop that is carried to another network: the old link vanishes,
    /// then the new one appears.
    ///
    /// # Errors
    /// As [`Link::unplug`] and [`Segment::plug`].
    pub fn roam(self, to: &Segment, plug: &Plug) -> Result<Link> {
        let host = self.host.clone();
        self.unplug()?;
        to.plug(&host, plug)
    }

    /// Stops the segment's port of a veth, so that nothing passes while the host sees its link go down.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_up(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.segment.router().ip(&[format!("link set {} {state}", self.plan.segment_interface)])
    }
}

/// The `number`th /30 of the three documentation networks (RFC 5737), which stand for public addresses.
fn public_net(number: u32) -> Ipv4Net {
    const NETWORKS: [Ipv4Addr; 3] = [
        Ipv4Addr::new(203, 0, 113, 0),
        Ipv4Addr::new(198, 51, 100, 0),
        Ipv4Addr::new(192, 0, 2, 0),
    ];
    let network = NETWORKS[(number / 64) as usize % NETWORKS.len()];
    Ipv4Net::new_assert(Ipv4Addr::from_bits(network.to_bits() + number % 64 * 4), 30)
}

fn link_net(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(address, 30).trunc()
}

/// The `number`th /64 of the documentation prefix (RFC 3849).
fn public_v6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (u128::from(number) << 64))
}

fn nth_v4(net: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.network().to_bits() + number)
}

fn nth_v6(net: Ipv6Net, number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(net.network().to_bits() + u128::from(number))
}
