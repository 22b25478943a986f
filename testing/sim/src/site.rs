//! Where nodes stand: homes behind NATs of every kind, carriers, the open internet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::net::{
    Behaviour, Firewall, HostId, Link, NatConfig, Network, RouterConfig, RouterId, SegmentId,
};

/// The kinds of `testing/expectations/nat-matrix.tsv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nat {
    /// No NAT.
    Public,
    /// Endpoint-independent mapping and filtering.
    EimEif,
    /// Endpoint-independent mapping, address-dependent filtering.
    EimAdf,
    /// Endpoint-independent mapping, address-and-port-dependent filtering.
    EimApdf,
    /// Address-and-port-dependent mapping and filtering.
    Apdm,
    /// Two in a row, each endpoint-independent mapping, address-and-port-dependent filtering.
    Cgnat,
    /// No UDP passes.
    UdpBlocked,
}

impl Nat {
    /// All of them, in the table's order.
    pub const ALL: [Self; 7] = [
        Self::Public,
        Self::EimEif,
        Self::EimAdf,
        Self::EimApdf,
        Self::Apdm,
        Self::Cgnat,
        Self::UdpBlocked,
    ];

    /// How the home's own NAT behaves; `None` where there is none.
    fn config(self) -> Option<NatConfig> {
        use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        Some(match self {
            Self::Public => return None,
            Self::EimEif => NatConfig::new(EndpointIndependent, EndpointIndependent),
            Self::EimAdf => NatConfig::new(EndpointIndependent, AddressDependent),
            Self::EimApdf | Self::Cgnat | Self::UdpBlocked => {
                NatConfig::new(EndpointIndependent, AddressAndPortDependent)
            }
            Self::Apdm => NatConfig::new(AddressAndPortDependent, AddressAndPortDependent),
        })
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Public => "public",
            Self::EimEif => "eim-eif",
            Self::EimAdf => "eim-adf",
            Self::EimApdf => "eim-apdf",
            Self::Apdm => "apdm",
            Self::Cgnat => "cgnat",
            Self::UdpBlocked => "udp-blocked",
        })
    }
}

impl FromStr for Nat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|nat| nat.to_string() == s)
            .ok_or_else(|| format!("no NAT is called '{s}'"))
    }
}

/// Which families a site has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Families {
    fn has_v4(self) -> bool {
        self != Self::V6
    }

    fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// A place to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteId(usize);

/// A carrier's network, behind which homes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarrierId(usize);

#[derive(Debug)]
struct Site {
    segment: SegmentId,
    router: Option<RouterId>,
    /// The first half of the addresses inside, where there is a NAT; else they are public.
    inside: Option<[u8; 2]>,
    families: Families,
    leg: Link,
    index: u16,
    hosts: u16,
}

#[derive(Debug)]
struct Carrier {
    segment: SegmentId,
    homes: u16,
}

/// All sites, and the internet between them.
#[derive(Debug)]
pub struct Sites {
    /// The internet.
    pub internet: SegmentId,
    sites: Vec<Site>,
    carriers: Vec<Carrier>,
    addresses: u16,
}

/// What a site is built from.
#[derive(Debug, Clone, Copy)]
pub struct SiteConfig {
    /// What stands before it.
    pub nat: Nat,
    /// Its line to the internet (or to the carrier).
    pub leg: Link,
    /// What addresses it has.
    pub families: Families,
    /// How its own NAT behaves, if not as the kind says.
    pub config: Option<NatConfig>,
    /// The carrier whose customer it is, if any.
    pub carrier: Option<CarrierId>,
}

impl SiteConfig {
    /// A site with IPv4 alone, 20 ms from the internet.
    pub const fn new(nat: Nat) -> Self {
        Self { nat, leg: Link::ACCESS, families: Families::V4, config: None, carrier: None }
    }
}

impl Sites {
    pub(crate) fn new(internet: SegmentId) -> Self {
        Self { internet, sites: Vec::new(), carriers: Vec::new(), addresses: 0 }
    }

    /// A public IPv4 address that nobody has.
    fn public_v4(&mut self) -> IpNet {
        let n = self.addresses;
        self.addresses += 1;
        let [_, low] = (n % 250 + 1).to_be_bytes();
        let [_, high] = (n / 250).to_be_bytes();
        net(Ipv4Addr::new(198, 18, high, low), 32)
    }

    /// Adds a carrier: a network of 100.64.0.0/10 addresses behind one NAT.
    pub fn add_carrier(&mut self, network: &mut Network, nat: NatConfig, line: Link) -> CarrierId {
        let segment = network.add_segment();
        let outside = self.public_v4();
        network.add_router(&RouterConfig {
            inside: segment,
            inside_addrs: vec![net(Ipv4Addr::new(100, 64, 0, 1), 10)],
            outside: self.internet,
            outside_addrs: vec![outside],
            line,
            nat: Some(nat),
            ipv6: None,
            udp_blocked: false,
        });
        self.carriers.push(Carrier { segment, homes: 0 });
        CarrierId(self.carriers.len() - 1)
    }

    /// Adds a site. All homes use 192.168.1.0/24, as homes do.
    pub fn add(&mut self, network: &mut Network, config: SiteConfig) -> SiteId {
        let index = u16::try_from(self.sites.len()).expect("fewer than 65,536 sites");
        let id = SiteId(self.sites.len());
        let SiteConfig { nat, leg, families, .. } = config;
        let own = config.config.or(nat.config());
        let Some(own) = own else {
            let segment = self.internet;
            self.sites.push(Site {
                segment,
                router: None,
                inside: None,
                families,
                leg,
                index,
                hosts: 0,
            });
            return id;
        };
        let carrier = config.carrier.or_else(|| {
            let short = Link::with_latency(Duration::from_micros(500));
            (nat == Nat::Cgnat).then(|| self.add_carrier(network, own, short))
        });
        let (outside, outside_addr) = match carrier {
            None => (self.internet, self.public_v4()),
            Some(carrier) => {
                let carrier = &mut self.carriers[carrier.0];
                carrier.homes += 1;
                let [high, low] = (carrier.homes + 1).to_be_bytes();
                (carrier.segment, net(Ipv4Addr::new(100, 64, high, low), 10))
            }
        };
        let segment = network.add_segment();
        let prefix = IpNet::new(v6_prefix(index).into(), 64).expect("64 is a prefix length");
        let mut outside_addrs = Vec::new();
        if families.has_v4() {
            outside_addrs.push(outside_addr);
        }
        let router = network.add_router(&RouterConfig {
            inside: segment,
            inside_addrs: vec![net(Ipv4Addr::new(192, 168, 1, 1), 24)],
            outside,
            outside_addrs,
            line: leg,
            nat: families.has_v4().then_some(own),
            ipv6: families.has_v6().then(|| (prefix, Firewall::default())),
            udp_blocked: nat == Nat::UdpBlocked,
        });
        self.sites.push(Site {
            segment,
            router: Some(router),
            inside: Some([192, 168]),
            families,
            leg,
            index,
            hosts: 0,
        });
        id
    }

    /// Adds a site right in a carrier's network, as a phone stands in it: addresses of
    /// `prefix`.0.0/16 and no NAT but the carrier's.
    pub fn add_in_carrier(&mut self, carrier: CarrierId, prefix: [u8; 2]) -> SiteId {
        let index = u16::try_from(self.sites.len()).expect("fewer than 65,536 sites");
        self.sites.push(Site {
            segment: self.carriers[carrier.0].segment,
            router: None,
            inside: Some(prefix),
            families: Families::V4,
            leg: Link::LAN,
            index,
            hosts: 0,
        });
        SiteId(self.sites.len() - 1)
    }

    /// Puts a host into a site, with addresses of its own there.
    pub fn attach(&mut self, network: &mut Network, host: HostId, site: SiteId) {
        let inside = self.sites[site.0].inside;
        let public = inside.is_none().then(|| self.public_v4());
        let site = &mut self.sites[site.0];
        let [_, last] = (10 + site.hosts).to_be_bytes();
        site.hosts += 1;
        let mut addrs = Vec::new();
        if site.families.has_v4() {
            let [a, b] = inside.unwrap_or_default();
            addrs.push(public.unwrap_or(net(Ipv4Addr::new(a, b, 1, last), 24)));
        }
        if site.families.has_v6() {
            let mut ip = v6_prefix(site.index).segments();
            ip[7] = u16::from(last);
            let addr = IpAddr::V6(Ipv6Addr::from(ip));
            addrs.push(IpNet::new(addr, 64).expect("64 is a prefix length"));
        }
        let link = if inside.is_none() { site.leg } else { Link::LAN };
        network.attach(host, site.segment, &addrs, link);
    }

    /// The router before a site.
    pub fn router(&self, site: SiteId) -> Option<RouterId> {
        self.sites[site.0].router
    }
}

fn net(ip: Ipv4Addr, prefix_len: u8) -> IpNet {
    IpNet::new(IpAddr::V4(ip), prefix_len).expect("at most 32")
}

fn v6_prefix(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xDB8, 0x100, index, 0, 0, 0, 0)
}
