//! Routers that translate addresses, in nftables, by the words of RFC 4787.
//!
//! Masquerading keeps a source port wherever it is free, and so maps independently of the endpoint;
//! its connection tracking filters by address and port. The two more open filters are made beside it: after
//! translation a chain records which inside address a WAN port stands for (and whom it has talked
//! to), and arriving datagrams that no connection claims are sent there. What nobody claims is
//! dropped before the router itself sees it: it would leave a connection-tracking entry that takes the
//! port away from the host behind.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::{Host, Link, Plug, Segment, WireSpec};

/// How a NAT maps and filters UDP (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NatKind {
    /// Endpoint-independent mapping, endpoint-independent filtering.
    EimEif,
    /// Endpoint-independent mapping, address-dependent filtering.
    EimAdf,
    /// Endpoint-independent mapping, address-and-port-dependent filtering.
    EimApdf,
    /// Address-and-port-dependent mapping, address-and-port-dependent filtering.
    Apdm,
    /// As [`NatKind::EimApdf`] for TCP; no UDP passes at all.
    UdpBlocked,
}

impl NatKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::EimEif, Self::EimAdf, Self::EimApdf, Self::Apdm, Self::UdpBlocked];

    /// The name in `testing/expectations`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EimEif => "eim-eif",
            Self::EimAdf => "eim-adf",
            Self::EimApdf => "eim-apdf",
            Self::Apdm => "apdm",
            Self::UdpBlocked => "udp-blocked",
        }
    }
}

impl fmt::Display for NatKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A router to be made: `NatSpec::new(kind)` and what differs from an ordinary home.
#[derive(Clone, Debug)]
pub struct NatSpec {
    kind: NatKind,
    lan: Ipv4Net,
    hairpin: bool,
    ipv6: bool,
    wan: Plug,
}

impl NatSpec {
    /// A home router: LAN 192.168.1.0/24, no IPv6, no hairpinning.
    #[must_use]
    pub fn new(kind: NatKind) -> Self {
        let lan = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 1, 0), 24);
        Self { kind, lan, hairpin: false, ipv6: false, wan: Plug::ipv4().named("wan") }
    }

    /// A carrier's: its customers get 100.72.0.0/16.
    #[must_use]
    pub fn carrier(kind: NatKind) -> Self {
        Self::new(kind).lan(Ipv4Net::new_assert(Ipv4Addr::new(100, 72, 0, 0), 16))
    }

    /// Sets the LAN's network.
    #[must_use]
    pub fn lan(self, lan: Ipv4Net) -> Self {
        Self { lan, ..self }
    }

    /// Two inside hosts reach each other by their outside addresses (RFC 4787 §6), whatever the filter.
    #[must_use]
    pub fn hairpinning(self) -> Self {
        Self { hairpin: true, ..self }
    }

    /// Adds IPv6 behind a stateful firewall: nothing comes in that wasn't asked for.
    #[must_use]
    pub fn with_ipv6(self) -> Self {
        Self { ipv6: true, wan: Plug::dual().named("wan"), ..self }
    }

    /// Sets the WAN address.
    #[must_use]
    pub fn at(self, address: Ipv4Addr) -> Self {
        Self { wan: self.wan.at(address), ..self }
    }

    /// Makes the WAN link a wire.
    #[must_use]
    pub fn wire(self, spec: WireSpec) -> Self {
        Self { wan: self.wan.wire(spec), ..self }
    }
}

/// A router with a WAN link and a LAN.
#[derive(Debug)]
pub struct Router {
    host: Host,
    wan: Link,
    lan: Segment,
    spec: NatSpec,
}

impl Router {
    pub(crate) fn create(host: Host, uplink: &Segment, spec: NatSpec) -> Result<Self> {
        host.forward_packets()?;
        let wan = uplink.plug(&host, &spec.wan)?;
        let v6 = if spec.ipv6 { Some(delegate_prefix(&host, uplink, &wan)?) } else { None };
        let lan = Segment::lan(&host, "lan", spec.lan, v6)?;
        let router = Self { host, wan, lan, spec };
        router.host.nft(&router.rules()?)?;
        Ok(router)
    }

    /// The router as a machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The link to the outside.
    #[must_use]
    pub fn wan(&self) -> &Link {
        &self.wan
    }

    /// What hosts behind it plug into.
    #[must_use]
    pub fn lan(&self) -> &Segment {
        &self.lan
    }

    /// How it maps and filters.
    #[must_use]
    pub fn kind(&self) -> NatKind {
        self.spec.kind
    }

    /// Lets UDP pass to and from these addresses alone, until [`Router::take_fence_down`].
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn fence(&self, allowed: &[Ipv4Addr]) -> Result<()> {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let passes = match allowed.join(", ") {
            none if none.is_empty() => String::new(),
            some => format!("ip saddr {{ {some} }} accept\nip daddr {{ {some} }} accept"),
        };
        self.host.nft(&format!(
            r"
table inet fence {{
  chain forward {{
    type filter hook forward priority -10; policy accept;
    {passes}
    meta l4proto udp drop
  }}
}}
"
        ))
    }

    /// Ends a [`Router::fence`].
    ///
    /// # Errors
    /// When there is none.
    pub fn take_fence_down(&self) -> Result<()> {
        self.host.nft("delete table inet fence\n")
    }

    /// Lets nothing pass but to and from the router itself: what is behind it has a proxy there, or
    /// nothing.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn forward_nothing(&self) -> Result<()> {
        self.host.nft("insert rule inet firewall forward drop\n")
    }

    /// Forwards a UDP port of the WAN address.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn forward_port(&self, port: u16, to: Ipv4Addr) -> Result<()> {
        self.host.nft(&format!(
            r#"
table ip forwarded {{
  chain prerouting {{
    type nat hook prerouting priority -110; policy accept;
    iifname "wan" udp dport {port} dnat to {to}:{port}
  }}
}}
"#
        ))
    }

    fn rules(&self) -> Result<String> {
        let hairpin = self.spec.hairpin.then_some(self.wan.v4()?);
        Ok(rules(self.spec.kind, self.spec.lan, hairpin))
    }
}

/// Routes a /64 for the LAN to the router, as DHCPv6 prefix delegation does.
fn delegate_prefix(router: &Host, uplink: &Segment, wan: &Link) -> Result<Ipv6Net> {
    let number = 0x1000 + u128::from(router.shared().next());
    let base = (0x2001_0db8_u128 << 96) | (number << 64);
    let prefix = Ipv6Net::new(base.into(), 64).context("64 bits fit")?;
    uplink.router().ip(&[format!("route add {prefix} via {}", wan.v6()?)])?;
    Ok(prefix)
}

/// Renders the whole table; `hairpin` is the WAN address where hairpinning is wanted.
fn rules(kind: NatKind, lan: Ipv4Net, hairpin: Option<Ipv4Addr>) -> String {
    let udp = "meta l4proto udp";
    let inbound = match kind {
        NatKind::EimEif => format!("iifname \"wan\" {udp} dnat ip to udp dport map @mapped"),
        NatKind::EimAdf => {
            r#"iifname "wan" ip saddr . udp dport @talked dnat ip to udp dport map @mapped"#
                .to_owned()
        }
        NatKind::EimApdf | NatKind::Apdm | NatKind::UdpBlocked => String::new(),
    };
    let (turn_in, turn_out) = match hairpin {
        Some(wan) => (
            format!("iifname \"lan\" ip daddr {wan} {udp} dnat ip to udp dport map @mapped"),
            format!("oifname \"lan\" ct status dnat ip saddr {lan} snat to {wan}"),
        ),
        None => (String::new(), String::new()),
    };
    let outbound = match kind {
        NatKind::Apdm => format!(
            "oifname \"wan\" {udp} masquerade to :20000-60000 fully-random\noifname \"wan\" masquerade"
        ),
        NatKind::EimEif | NatKind::EimAdf | NatKind::EimApdf | NatKind::UdpBlocked => {
            "oifname \"wan\" masquerade".to_owned()
        }
    };
    let blocked = match kind {
        NatKind::UdpBlocked => "meta l4proto udp drop",
        NatKind::EimEif | NatKind::EimAdf | NatKind::EimApdf | NatKind::Apdm => "",
    };
    format!(
        r#"
table ip nat {{
  map mapped {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; }}
  set talked {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    {inbound}
    {turn_in}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {outbound}
    {turn_out}
  }}
  chain record {{
    type filter hook postrouting priority 150; policy accept;
    oifname "wan" {udp} ct direction original update @mapped {{ ct reply proto-dst : ct original ip saddr . ct original proto-src }}
    oifname "wan" {udp} ct direction original update @talked {{ ip daddr . ct reply proto-dst }}
    oifname "wan" {udp} ct direction reply update @mapped {{ ct original proto-dst : ct reply ip saddr . ct reply proto-src }}
    oifname "wan" {udp} ct direction reply update @talked {{ ip daddr . ct original proto-dst }}
  }}
}}
table inet firewall {{
  chain input {{
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname {{ "lo", "lan" }} accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    {blocked}
    ct state established,related accept
    iifname "lan" accept
    ct status dnat accept
  }}
}}
"#
    )
}
