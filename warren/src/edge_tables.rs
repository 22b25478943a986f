//! How what an edge opens is shown.

use std::net::{IpAddr, Ipv6Addr};

use warren_proto::{ForwardProtocol, ForwardSpec, GatewaySpec, LanTarget, VirtualDeviceSpec};
use warren_scan::{Device, Inventory};

use crate::output;

pub(crate) fn forwards(all: &[ForwardSpec]) {
    let mut table = output::table(&["NAME", "PORT", "TARGET", "STATE", "ID"]);
    for it in all {
        table.add_row([
            it.name.clone(),
            port(it),
            format!(
                "{}:{}",
                target(it.target),
                ports(it.target_port, it.last_port.saturating_sub(it.port))
            ),
            state(it.enabled),
            it.id.to_string(),
        ]);
    }
    output::print_table(&table);
}

pub(crate) fn virtual_devices(all: &[VirtualDeviceSpec]) {
    let mut table = output::table(&["NAME", "ADDRESS", "TARGET", "PORTS", "STATE", "ID"]);
    for it in all {
        let ports: Vec<String> = it.ports.iter().map(ToString::to_string).collect();
        table.add_row([
            it.name.to_string(),
            it.ipv4.to_string(),
            target(it.target),
            ports.join(", "),
            state(it.enabled),
            it.id.to_string(),
        ]);
    }
    output::print_table(&table);
}

pub(crate) fn gateways(all: &[GatewaySpec]) {
    let mut table = output::table(&["NETWORK", "IN THE MESH", "STATE", "ID"]);
    for it in all {
        let mesh =
            if it.is_internet() { "as an exit node".to_owned() } else { it.mesh.to_string() };
        let lan = it.network();
        table.add_row([lan, mesh, state(it.enabled), it.id.to_string()]);
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
        let made_up = if device.randomised { " (made up)" } else { "" };
        let services: Vec<&str> = device.services.keys().map(String::as_str).collect();
        table.add_row([
            device.ip.to_string(),
            ipv6(device),
            device.mac.map(|mac| format!("{mac}{made_up}")).unwrap_or_default(),
            device.vendor.clone().unwrap_or_default(),
            device.names.values().next().cloned().unwrap_or_default(),
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

fn state(enabled: bool) -> String {
    if enabled { "on" } else { "off" }.to_owned()
}
