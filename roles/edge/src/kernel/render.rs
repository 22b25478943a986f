//! The nftables table of an edge, as text: the same opening gives the same text.
//!
//! ```text
//! from the mesh ── prerouting ── translated ── forward ── from-mesh ── postrouting ── LAN
//!                     │ DNAT by map              │ counted, helpers,     │ masquerade
//!                     ▼ not opened: not ours     ▼ not opened: dropped   ▼
//! LAN ── forward ── to-mesh: established and related pass, new connections don't
//! ```
//!
//! What was opened passes `accepted`, where a device of the mesh that has too many connections already
//! is refused its new ones, and a part of the mesh when it has too many together ([`super::bounds`]).
//!
//! Translation is by maps, so that a thousand forwards cost one look-up: one map of single ports (and
//! of ranges whose ports shift, port by port, since nftables spreads a range instead of shifting it)
//! and one of ranges whose ports stay. Every map is part of its rule, so that nobody else can change
//! one without that showing in the rule.
//!
//! The text replaces the table in one transaction: made if it wasn't there, deleted, made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use warren_proto::{ForwardId, GatewayId, LanSource, Ports, VirtualDeviceId};

use super::bounds::{AT_ONCE, PARTS, PER_SECOND, Shares};
use super::opening::{OpenDevice, OpenGateway, Opening, TCP, UDP};

/// Counts what was let through from the mesh, before the host's own chains.
pub const LET_IN: &str = "let-in";
/// Counts what was refused to those who have too many connections.
pub const REFUSED: &str = "refused";
/// Counts what was refused since a part of the mesh together has too many.
pub const REFUSED_PART: &str = "refused-part";
/// Counts what of that has passed them.
pub const WENT_OUT: &str = "went-out";

/// Where the internet is not: RFC 6890's special ranges that a LAN or a host may use.
const NOT_THE_INTERNET: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, \
     169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3";

/// The host's side of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surface {
    /// The table's name, of family `inet`.
    pub table: String,
    /// The mesh interface.
    pub mesh: String,
    /// Interfaces by which targets are reached: nothing new comes from them into the mesh.
    pub lan: BTreeSet<String>,
    /// Those of them that didn't forward before: nothing new comes from them at all.
    pub switched_on: BTreeSet<String>,
    /// How many connections may be open at a time, where the kernel can count them.
    pub shares: Option<Shares>,
    /// Whether the kernel has helpers for FTP's and SIP's second connections.
    pub helpers: bool,
}

/// The name of a table that no other instance on this host uses.
pub fn table_name(mesh_interface: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    format!("warren-edge-{}", mesh_interface.chars().map(plain).collect::<String>())
}

/// The counter of a forward.
pub fn forward_counter(id: ForwardId) -> String {
    format!("forward-{id}")
}

/// The counter of a virtual device.
pub fn device_counter(id: VirtualDeviceId) -> String {
    format!("device-{id}")
}

/// The counter of a gateway.
pub fn gateway_counter(id: GatewayId) -> String {
    format!("gateway-{id}")
}

/// The text for `nft -f`.
pub fn render(opening: &Opening, surface: &Surface) -> String {
    let table = &surface.table;
    let mut text = format!("table inet {table} {{\n}}\ndelete table inet {table}\n");
    let mut out = Writer { text: &mut text };
    out.open(&format!("table inet {table}"));
    objects(&mut out, opening, surface);
    prerouting(&mut out, opening, surface);
    bounded(&mut out, surface);
    input(&mut out, opening, surface);
    forward(&mut out, opening, surface);
    postrouting(&mut out, opening, surface);
    out.close(0);
    text
}

/// Lines with tabs.
struct Writer<'a> {
    text: &'a mut String,
}

impl Writer<'_> {
    fn open(&mut self, head: &str) {
        let depth = usize::from(!head.starts_with("table"));
        self.line(depth, &format!("{head} {{"));
    }

    fn close(&mut self, depth: usize) {
        self.line(depth, "}");
    }

    fn rule(&mut self, rule: &str) {
        self.line(2, rule);
    }

    fn line(&mut self, depth: usize, line: &str) {
        // Writing to a string doesn't fail.
        let _ = writeln!(self.text, "{}{line}", "\t".repeat(depth));
    }

    /// A rule with a set or map, unless that would be empty.
    fn lookup(&mut self, before: &str, elements: &[String], after: &str) {
        if !elements.is_empty() {
            self.rule(&format!("{before} {{ {} }}{after}", elements.join(", ")));
        }
    }
}

fn objects(out: &mut Writer<'_>, opening: &Opening, surface: &Surface) {
    let forwards = opening.forwards.iter().map(|forward| forward_counter(forward.id));
    let devices = opening.devices.iter().map(|device| device_counter(device.id));
    let gateways = opening.gateways.iter().map(|gateway| gateway_counter(gateway.id));
    let names: BTreeSet<String> = forwards.chain(devices).chain(gateways).collect();
    for name in
        [LET_IN, REFUSED, REFUSED_PART, WENT_OUT].into_iter().map(str::to_owned).chain(names)
    {
        out.open(&format!("counter {name}"));
        out.close(1);
    }
    if surface.shares.is_some() {
        sources(out);
    }
    if surface.helpers {
        for (name, protocol) in [("ftp", "tcp"), ("sip", "udp")] {
            out.open(&format!("ct helper {name}"));
            out.rule(&format!("type \"{name}\" protocol {protocol}"));
            out.rule("l3proto ip");
            out.close(1);
        }
    }
}

/// Who has begun how much.
fn sources(out: &mut Writer<'_>) {
    for (suffix, kind) in [("", "ipv4_addr"), ("6", "ipv6_addr")] {
        out.open(&format!("set begun{suffix}"));
        out.rule(&format!("type {kind}"));
        out.rule("size 65535");
        out.rule("flags dynamic,timeout");
        out.rule("timeout 1m");
        out.close(1);
        // No time-out here: who is forgotten would have nothing, whatever he has.
        for (name, size) in [("held", 65_535), ("part", u32::from(PARTS))] {
            out.open(&format!("set {name}{suffix}"));
            out.rule(&format!("type {kind}"));
            out.rule(&format!("size {size}"));
            out.rule("flags dynamic");
            out.close(1);
        }
    }
}

fn bounded(out: &mut Writer<'_>, surface: &Surface) {
    if let Some(shares) = surface.shares {
        bounded_by(out, shares);
    }
    out.open("chain accepted");
    if surface.shares.is_some() {
        out.rule(FIRST);
    }
    out.rule(&format!("counter name \"{LET_IN}\" accept"));
    out.close(1);
}

fn bounded_by(out: &mut Writer<'_>, Shares { one, part, one6, part6 }: Shares) {
    out.open("chain bounded");
    let mask = PARTS - 1;
    for (suffix, source, mask, one, part) in [
        ("", "ip saddr", format!("0.0.0.{mask}"), one, part),
        ("6", "ip6 saddr", format!("::{mask}"), one6, part6),
    ] {
        let refused = |counter: &str| format!("counter name \"{counter}\" drop");
        let rate = format!("limit rate over {PER_SECOND}/second burst {AT_ONCE} packets");
        let (held, together) = (format!("ct count over {one}"), format!("ct count over {part}"));
        let (one, all) = (refused(REFUSED), refused(REFUSED_PART));
        out.rule(&format!("add @begun{suffix} {{ {source} {rate} }} {one}"));
        out.rule(&format!("add @held{suffix} {{ {source} {held} }} {one}"));
        // Also for those for whom there is no room in the sets.
        out.rule(&format!("add @part{suffix} {{ {source} & {mask} {together} }} {all}"));
    }
    out.close(1);
}

/// The first packet of a connection alone: what UDP sends on without an answer stays `new`, too.
const FIRST: &str = "ct status ! confirmed jump bounded";

fn prerouting(out: &mut Writer<'_>, opening: &Opening, surface: &Surface) {
    let devices = Devices::of(opening);
    let limited: Vec<String> = devices.limited.iter().map(|device| to_target(device)).collect();
    if !limited.is_empty() {
        out.open("chain limited");
        out.lookup("dnat ip to ip daddr map", &limited, "");
        out.close(1);
    }
    out.open("chain prerouting");
    out.rule("type nat hook prerouting priority dstnat; policy accept;");
    out.rule(&format!("iifname != \"{}\" return", surface.mesh));
    for (protocol, name) in [(TCP, "tcp"), (UDP, "udp")] {
        let ports = ForwardPorts::of(opening, protocol);
        let to = format!("ip daddr {} dnat ip to {name} dport map", opening.mesh);
        out.lookup(&to, &ports.single, "");
        out.lookup(&to, &ports.ranges, "");
    }
    out.lookup("ip daddr . meta l4proto . th dport", &devices.open_ports(), " goto limited");
    out.lookup("ip daddr . meta l4proto", &devices.open_protocols(), " goto limited");
    let all: Vec<String> = devices.whole.iter().map(|device| to_target(device)).collect();
    out.lookup("dnat ip to ip daddr map", &all, "");
    let remapped = opening.gateways.iter().filter(|gateway| gateway.mesh != gateway.lan);
    let prefixes: Vec<String> =
        remapped.map(|gateway| format!("{} : {}", gateway.mesh, gateway.lan)).collect();
    out.lookup("dnat ip prefix to ip daddr map", &prefixes, "");
    out.close(1);
}

/// What stands behind the edge is never the edge itself: neither by the address that it has in a network
/// behind it, nor where a target's address has become its own.
fn input(out: &mut Writer<'_>, opening: &Opening, surface: &Surface) {
    out.open("chain input");
    out.rule("type filter hook input priority filter - 10; policy accept;");
    let from_mesh = format!("iifname \"{}\"", surface.mesh);
    let behind = behind(opening);
    out.lookup(&format!("{from_mesh} ct status dnat ct original ip daddr"), &behind, " drop");
    let plain: Vec<String> =
        opening.gateways.iter().filter(|g| g.is_plain()).map(|g| g.lan.to_string()).collect();
    out.lookup(&format!("{from_mesh} ip daddr"), &plain, " drop");
    if opening.gateways.iter().any(OpenGateway::is_internet) {
        out.rule(&format!("{from_mesh} ip daddr != {{ {NOT_THE_INTERNET} }} drop"));
    }
    if surface.shares.is_some() {
        out.rule(&format!("{from_mesh} ct state new {FIRST}"));
    }
    out.close(1);
}

/// The mesh's addresses of what stands behind the edge.
fn behind(opening: &Opening) -> Vec<String> {
    let devices = opening.devices.iter().map(|device| device.ipv4.to_string());
    let gateways = opening.gateways.iter().filter(|gateway| !gateway.is_internet());
    devices.chain(gateways.map(|gateway| gateway.mesh.to_string())).collect()
}

fn count(out: &mut Writer<'_>, opening: &Opening) {
    out.open("chain count");
    for (protocol, name) in [(TCP, "tcp"), (UDP, "udp")] {
        let elements = opening.forwards.iter().filter(|f| f.protocols().contains(&protocol));
        let elements: Vec<String> = elements
            .map(|f| format!("{} : \"{}\"", range(f.port, f.last_port), forward_counter(f.id)))
            .collect();
        let original = format!("ct original ip daddr {} meta l4proto {name}", opening.mesh);
        out.lookup(&format!("{original} counter name ct original proto-dst map"), &elements, "");
    }
    let devices = opening.devices.iter();
    let devices: Vec<String> =
        devices.map(|d| format!("{} : \"{}\"", d.ipv4, device_counter(d.id))).collect();
    out.lookup("counter name ct original ip daddr map", &devices, "");
    let gateways = opening.gateways.iter().filter(|gateway| !gateway.is_internet());
    let gateways: Vec<String> =
        gateways.map(|g| format!("{} : \"{}\"", g.mesh, gateway_counter(g.id))).collect();
    out.lookup("counter name ct original ip daddr map", &gateways, "");
    if let Some(internet) = opening.gateways.iter().find(|gateway| gateway.is_internet()) {
        out.rule(&format!(
            "ct original ip daddr != {{ {NOT_THE_INTERNET} }} counter name \"{}\"",
            gateway_counter(internet.id)
        ));
    }
    out.close(1);
}

fn forward(out: &mut Writer<'_>, opening: &Opening, surface: &Surface) {
    count(out, opening);
    from_mesh(out, opening, surface);
    to_mesh(out, opening, surface);
    out.open("chain forward");
    out.rule("type filter hook forward priority filter - 10; policy accept;");
    out.rule(&format!("iifname \"{}\" goto from-mesh", surface.mesh));
    out.rule(&format!("oifname \"{}\" goto to-mesh", surface.mesh));
    let opened = quoted(&surface.switched_on);
    // What another of the host's rules has translated is meant to come in, as from the mesh.
    out.lookup("iifname", &opened, " ct status dnat accept");
    out.lookup("iifname", &opened, " ct state != { established, related } drop");
    out.close(1);
}

fn from_mesh(out: &mut Writer<'_>, opening: &Opening, surface: &Surface) {
    out.open("chain from-mesh");
    if surface.helpers {
        out.rule("ct state new ct status dnat tcp dport 21 ct helper set \"ftp\"");
        out.rule("ct state new ct status dnat udp dport 5060 ct helper set \"sip\"");
    }
    out.rule("tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu");
    out.rule("jump count");
    out.rule(&format!("ct state established,related counter name \"{LET_IN}\" accept"));
    // What the host's own rules lead on from its other addresses, a public one among them, isn't ours to open.
    let mut own: Vec<String> = opening.devices.iter().map(|it| it.ipv4.to_string()).collect();
    own.push(opening.mesh.to_string());
    out.lookup("ct status dnat ct original ip daddr", &own, " goto accepted");
    // A network is wide: of the ways that its parts may have, those to other interfaces (containers,
    // virtual machines) aren't meant.
    let lan = format!("oifname {{ {} }}", quoted(&surface.lan).join(", "));
    let (plain, mapped): (Vec<&OpenGateway>, Vec<&OpenGateway>) = opening
        .gateways
        .iter()
        .filter(|gateway| !gateway.is_internet())
        .partition(|gateway| gateway.is_plain());
    let mapped: Vec<String> = mapped.iter().map(|gateway| gateway.mesh.to_string()).collect();
    out.lookup(&format!("{lan} ct status dnat ct original ip daddr"), &mapped, " goto accepted");
    let plain: Vec<String> = plain.iter().map(|gateway| gateway.lan.to_string()).collect();
    out.lookup(&format!("{lan} ip daddr"), &plain, " goto accepted");
    if opening.gateways.iter().any(OpenGateway::is_internet) {
        out.rule(&format!("ip daddr != {{ {NOT_THE_INTERNET} }} goto accepted"));
    }
    out.rule("drop");
    out.close(1);
}

fn to_mesh(out: &mut Writer<'_>, opening: &Opening, surface: &Surface) {
    out.open("chain to-mesh");
    // Nobody speaks into the mesh in the name of what stands here, by whatever interface he comes.
    let mut own = behind(opening);
    own.push(opening.mesh.to_string());
    out.lookup("ct state new ip saddr", &own, " drop");
    out.rule("tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu");
    out.rule("jump count");
    out.rule("ct state established,related accept");
    out.lookup("iifname", &quoted(&surface.lan), " drop");
    out.close(1);
}

fn postrouting(out: &mut Writer<'_>, opening: &Opening, surface: &Surface) {
    let mesh = &surface.mesh;
    out.open("chain passed");
    out.rule("type filter hook postrouting priority srcnat - 10; policy accept;");
    out.rule(&format!("iifname \"{mesh}\" oifname != \"{mesh}\" counter name \"{WENT_OUT}\""));
    out.close(1);
    for (protocol, name) in [(TCP, "tcp"), (UDP, "udp")] {
        out.open(&format!("chain masked-{name}"));
        // One rule for each range: sets of `proto-dst` are listed in a form that can't be loaded
        // again, which would keep a host that saves its ruleset from all of it.
        for (first, last) in masked_ports(opening, protocol) {
            let ports = range(first, last);
            out.rule(&format!("meta l4proto {name} ct original proto-dst {ports} masquerade"));
        }
        out.close(1);
    }
    out.open("chain postrouting");
    out.rule("type nat hook postrouting priority srcnat; policy accept;");
    out.rule(&format!("iifname != \"{mesh}\" return"));
    out.rule(&format!("oifname \"{mesh}\" return"));
    for name in ["tcp", "udp"] {
        let original = format!("ct original ip daddr {}", opening.mesh);
        out.rule(&format!("{original} meta l4proto {name} jump masked-{name}"));
    }
    let devices = opening.devices.iter().filter(|d| d.source == LanSource::Masquerade);
    let devices: Vec<String> = devices.map(|device| device.ipv4.to_string()).collect();
    out.lookup("ct original ip daddr", &devices, " masquerade");
    let masked = || opening.gateways.iter().filter(|g| g.source == LanSource::Masquerade);
    let gateways: Vec<String> =
        masked().filter(|g| !g.is_internet()).map(|g| g.mesh.to_string()).collect();
    out.lookup("ct original ip daddr", &gateways, " masquerade");
    if masked().any(OpenGateway::is_internet) {
        out.rule(&format!("ct original ip daddr != {{ {NOT_THE_INTERNET} }} masquerade"));
    }
    out.close(1);
}

/// The ports of one protocol's forwards whose source is masqueraded.
fn masked_ports(opening: &Opening, protocol: u8) -> Vec<(u16, u16)> {
    let masked = opening.forwards.iter().filter(|forward| {
        forward.protocols().contains(&protocol) && forward.source == LanSource::Masquerade
    });
    joined(masked.map(|forward| (forward.port, forward.last_port)).collect())
}

/// The maps of one protocol's forwards.
#[derive(Default)]
struct ForwardPorts {
    /// Port to address and port.
    single: Vec<String>,
    /// Ranges of ports to an address, each port to the same one.
    ranges: Vec<String>,
}

impl ForwardPorts {
    fn of(opening: &Opening, protocol: u8) -> Self {
        let mut ports = Self::default();
        for forward in opening.forwards.iter().filter(|f| f.protocols().contains(&protocol)) {
            let kept = forward.port == forward.target_port && forward.port < forward.last_port;
            if kept {
                let range = range(forward.port, forward.last_port);
                ports.ranges.push(format!("{range} : {}", forward.target));
            } else {
                let pairs = (forward.port..=forward.last_port).zip(forward.target_port..);
                ports.single.extend(
                    pairs.map(|(port, there)| format!("{port} : {} . {there}", forward.target)),
                );
            }
        }
        ports
    }
}

/// Virtual devices by whether all their ports are open.
struct Devices<'a> {
    whole: Vec<&'a OpenDevice>,
    limited: Vec<&'a OpenDevice>,
}

impl<'a> Devices<'a> {
    fn of(opening: &'a Opening) -> Self {
        let (whole, limited) =
            opening.devices.iter().partition(|device| device.ports.contains(&Ports::All));
        Self { whole, limited }
    }

    fn open_ports(&self) -> Vec<String> {
        let mut elements = Vec::new();
        for device in &self.limited {
            let mut ranges: BTreeMap<u8, Vec<(u16, u16)>> = BTreeMap::new();
            for ports in &device.ports {
                match *ports {
                    Ports::Tcp(first, last) => ranges.entry(TCP).or_default().push((first, last)),
                    Ports::Udp(first, last) => ranges.entry(UDP).or_default().push((first, last)),
                    Ports::All | Ports::Icmp | Ports::Protocol(_) | Ports::Unknown => {}
                }
            }
            for (protocol, ranges) in ranges {
                elements.extend(joined(ranges).into_iter().map(|(first, last)| {
                    format!("{} . {protocol} . {}", device.ipv4, range(first, last))
                }));
            }
        }
        elements
    }

    fn open_protocols(&self) -> Vec<String> {
        let pairs = self.limited.iter().flat_map(|device| {
            device.ports.iter().filter_map(|ports| match *ports {
                Ports::Icmp => Some((device.ipv4, 1)),
                Ports::Protocol(number) => Some((device.ipv4, number)),
                Ports::All | Ports::Tcp(..) | Ports::Udp(..) | Ports::Unknown => None,
            })
        });
        let pairs: BTreeSet<(Ipv4Addr, u8)> = pairs.collect();
        pairs.into_iter().map(|(ipv4, protocol)| format!("{ipv4} . {protocol}")).collect()
    }
}

/// Ranges of ports without overlaps: a set takes none.
fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn to_target(device: &OpenDevice) -> String {
    format!("{} : {}", device.ipv4, device.target)
}

fn quoted(interfaces: &BTreeSet<String>) -> Vec<String> {
    interfaces.iter().map(|name| format!("\"{name}\"")).collect()
}

fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
