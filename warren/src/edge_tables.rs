//! How what an edge opens is shown.

use std::net::{IpAddr, Ipv6Addr};

use warren_proto::{
    EdgeOpen, ForwardProtocol, ForwardSpec, GatewaySpec, LanSource, LanTarget, Schedule,
    VirtualDeviceSpec, Weekday,
};
use warren_scan::{Device, Inventory};

use crate::output;

/// Port forwards; `open`: what is in fact open, as far as that is known.
pub(crate) fn forwards(all: &[ForwardSpec], open: Option<&EdgeOpen>) {
    let mut table = output::table(&["NAME", "PORT", "TARGET", "STATE", "MORE", "ID"]);
    for it in all {
        table.add_row([
            it.name.clone(),
            port(it),
            format!(
                "{}:{}",
                target(it.target),
                ports(it.target_port, it.last_port.saturating_sub(it.port))
            ),
            state(it.enabled, open.map(|open| open.forwards.contains_key(&it.id))),
            more(it),
            it.id.to_string(),
        ]);
    }
    output::print_table(&table);
}

pub(crate) fn virtual_devices(all: &[VirtualDeviceSpec], open: Option<&EdgeOpen>) {
    let mut table = output::table(&["NAME", "ADDRESS", "TARGET", "PORTS", "STATE", "MORE", "ID"]);
    for it in all {
        let ports: Vec<String> = it.ports.iter().map(ToString::to_string).collect();
        table.add_row([
            it.name.to_string(),
            it.ipv4.to_string(),
            target(it.target),
            ports.join(", "),
            state(it.enabled, open.map(|open| open.virtual_devices.contains_key(&it.id))),
            words([source(it.source, it.untested), it.note.clone()]),
            it.id.to_string(),
        ]);
    }
    output::print_table(&table);
}

pub(crate) fn gateways(all: &[GatewaySpec], open: Option<&EdgeOpen>) {
    let mut table = output::table(&["NETWORK", "IN THE MESH", "STATE", "MORE", "ID"]);
    for it in all {
        let mesh =
            if it.is_internet() { "as an exit node".to_owned() } else { it.mesh.to_string() };
        let lan = it.network();
        let state = state(it.enabled, open.map(|open| open.gateways.contains_key(&it.id)));
        let more = words([source(it.source, false), it.note.clone()]);
        table.add_row([lan, mesh, state, more, it.id.to_string()]);
    }
    output::print_table(&table);
}

/// Those that are there, and after them those that were.
pub(crate) fn devices(found: &Inventory) {
    let mut table =
        output::table(&["ADDRESS", "IPV6", "MAC", "MAKER", "NAME", "KIND", "SERVICES", "STATE"]);
    let (present, gone): (Vec<&Device>, Vec<&Device>) =
        found.devices.values().partition(|device| device.present);
    for device in present.into_iter().chain(gone) {
        let made_up = if device.is_randomised() { " (made up)" } else { "" };
        let services: Vec<String> = device.services.keys().map(ToString::to_string).collect();
        table.add_row([
            device.ip.to_string(),
            ipv6(device),
            device.mac.map(|mac| format!("{mac}{made_up}")).unwrap_or_default(),
            device.vendor().unwrap_or_default(),
            device.names.values().next().map(ToString::to_string).unwrap_or_default(),
            format!("{:?}", device.kind).to_lowercase(),
            services.join(" "),
            if device.present { "there" } else { "gone" }.to_owned(),
        ]);
    }
    output::print_table(&table);
}

/// One of its IPv6 addresses, that of the widest reach, and how many there are beside it.
fn ipv6(device: &Device) -> String {
    let others = device.ipv6.iter().filter(|ip| IpAddr::V6(**ip) != device.ip);
    let (mut local, mut wide): (Vec<&Ipv6Addr>, Vec<&Ipv6Addr>) =
        others.partition(|ip| ip.is_unicast_link_local());
    wide.append(&mut local);
    match wide.as_slice() {
        [] => String::new(),
        [one] => one.to_string(),
        [one, more @ ..] => format!("{one} +{}", more.len()),
    }
}

fn port(it: &ForwardSpec) -> String {
    let protocol = match it.protocol {
        ForwardProtocol::Tcp => "tcp",
        ForwardProtocol::Udp => "udp",
        ForwardProtocol::Both => "tcp+udp",
    };
    format!("{protocol} {}", ports(it.port, it.last_port.saturating_sub(it.port)))
}

fn ports(first: u16, more: u16) -> String {
    if more == 0 { first.to_string() } else { format!("{first}-{}", first.saturating_add(more)) }
}

fn target(target: LanTarget) -> String {
    target.mac.map_or_else(|| target.ip.to_string(), |mac| format!("{} ({mac})", target.ip))
}

/// Whether something is to be open, and whether it is.
fn state(enabled: bool, open: Option<bool>) -> String {
    match (enabled, open) {
        (false, None | Some(false)) => "off",
        (true, None) => "on",
        (_, Some(true)) => "open",
        (true, Some(false)) => "closed",
    }
    .to_owned()
}

/// Who may use it, when, what the LAN sees, and what people noted.
fn more(it: &ForwardSpec) -> String {
    let allow =
        if it.allow.is_empty() { String::new() } else { format!("for {}", it.allow.join(", ")) };
    let hours = it.schedule.as_ref().map(hours).unwrap_or_default();
    words([allow, hours, source(it.source, it.untested), it.note.clone()])
}

/// As `--hours` takes them.
fn hours(it: &Schedule) -> String {
    let day = |day: &Weekday| format!("{day:?}").chars().take(3).collect::<String>().to_lowercase();
    let days: Vec<String> = it.days.iter().map(day).collect();
    let at = if days.is_empty() { "" } else { "@" };
    let (minutes, sign) = (it.utc_offset_minutes.unsigned_abs(), it.utc_offset_minutes < 0);
    let sign = if sign { '-' } else { '+' };
    let offset = format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
    format!("{}{at}{}-{}{offset}", days.join(","), it.from, it.to)
}

fn source(source: LanSource, untested: bool) -> String {
    match (source, untested) {
        (LanSource::Masquerade, _) => "",
        (LanSource::Transparent, false) => "transparent",
        (LanSource::Transparent, true) => "transparent, untested",
    }
    .to_owned()
}

fn words<const N: usize>(words: [String; N]) -> String {
    let said = words.into_iter().filter(|word| !word.is_empty());
    said.collect::<Vec<_>>().join("; ")
}
