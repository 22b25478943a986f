//! What is shown, in words.

use std::net::IpAddr;

use warren_proto::{
    DeviceName, EdgeChange, EdgeChanged, ForwardProtocol, ForwardSpec, LanSource, LanTarget,
};
use warren_scan::{Change, Device, Inventory, Kind, ScanPlan};

use crate::desk::Place;

/// Bytes with the digits that matter: `1.2 MB`.
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if amount < 1000 {
        return format!("{amount} B");
    }
    let (mut value, mut unit) = (amount as f64 / 1000.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A text as a sentence.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// What a device is called best: the name that counts most, or nothing.
pub(crate) fn name_of(device: &Device) -> Option<&str> {
    device.names.values().map(|name| &**name).find(|name| !name.is_empty())
}

/// The device that a target means, where a scan has seen it.
pub(crate) fn device_of<'a>(inventory: &'a Inventory, target: &LanTarget) -> Option<&'a Device> {
    let has_card = |device: &&Device| target.mac.is_some() && device.mac == target.mac;
    let by_card = inventory.devices.values().filter(has_card).max_by_key(|it| it.last_seen_unix);
    by_card.or_else(|| inventory.by_ip(target.ip.into()).filter(|_| target.mac.is_none()))
}

/// `192.168.1.9 (front-door)`.
pub(crate) fn target(inventory: &Inventory, target: &LanTarget) -> String {
    match device_of(inventory, target).and_then(name_of) {
        Some(name) => format!("{} ({name})", target.ip),
        None => target.ip.to_string(),
    }
}

pub(crate) fn protocol(protocol: ForwardProtocol) -> &'static str {
    match protocol {
        ForwardProtocol::Tcp => "TCP",
        ForwardProtocol::Udp => "UDP",
        ForwardProtocol::Both => "TCP and UDP",
    }
}

fn ports(first: u16, last: u16) -> String {
    if first == last { format!("port {first}") } else { format!("ports {first} to {last}") }
}

/// A forward as one plain sentence.
pub(crate) fn forward(spec: &ForwardSpec, inventory: &Inventory) -> String {
    let more = spec.last_port.saturating_sub(spec.port);
    let verb = if more == 0 { "leads" } else { "lead" };
    let mut text = format!(
        "{} {} {verb} to {} of {}",
        protocol(spec.protocol),
        ports(spec.port, spec.last_port),
        ports(spec.target_port, spec.target_port.saturating_add(more)),
        target(inventory, &spec.target),
    );
    text.push_str(shown(spec.source, spec.untested));
    if !spec.allow.is_empty() {
        text.push_str(&format!(", for {}", spec.allow.join(", ")));
    }
    if let Some(schedule) = &spec.schedule {
        text.push_str(&format!(", {}", schedule.in_words()));
    }
    text.push('.');
    text
}

/// Whom the device sees.
pub(crate) fn shown(source: LanSource, untested: bool) -> &'static str {
    match (source, untested) {
        (LanSource::Masquerade, _) => "",
        (LanSource::Transparent, false) => ", which sees who asks",
        (LanSource::Transparent, true) => ", which sees who asks, without a test of the way back",
    }
}

/// Where it is opened: a URL that a browser takes, or host and port.
pub(crate) fn url(place: &Place, spec: &ForwardSpec) -> String {
    let (host, port) = (place.dns_name(), spec.port);
    match (spec.protocol, spec.target_port) {
        (ForwardProtocol::Udp, _) => format!("{host}:{port}"),
        (_, 443 | 8443) => format!("https://{host}:{port}/"),
        (_, 554) => format!("rtsp://{host}:{port}/"),
        (_, 22) => format!("ssh://{host}:{port}"),
        (_, 80 | 81 | 631 | 3000 | 5000 | 8000..=8999) => format!("http://{host}:{port}/"),
        (ForwardProtocol::Tcp | ForwardProtocol::Both, _) => format!("{host}:{port}"),
    }
}

/// What a device seems to be.
pub(crate) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Unknown => "",
        Kind::Camera => "Camera",
        Kind::Printer => "Printer",
        Kind::Router => "Router",
        Kind::Storage => "Storage",
        Kind::Controller => "Controller",
        Kind::Phone => "Phone",
        Kind::Computer => "Computer",
    }
}

/// A name for a virtual device: by what it is called, or what it seems to be. Not one of `taken`.
pub(crate) fn virtual_name(device: &Device, taken: &[DeviceName]) -> DeviceName {
    let called = name_of(device).and_then(|name| name.split('.').next());
    let kind = match kind(device.kind) {
        "" => "device".to_owned(),
        known => known.to_lowercase(),
    };
    let fallback = match device.ip {
        IpAddr::V4(ip) => format!("{kind}-{}", ip.octets()[3]),
        IpAddr::V6(_) => kind,
    };
    let usable = called.filter(|name| name.chars().any(char::is_alphanumeric));
    let first = DeviceName::from_free_text(usable.unwrap_or(&fallback));
    let again = (2_u32..).map(|n| DeviceName::from_free_text(&format!("{first}-{n}")));
    let mut names = std::iter::once(first.clone()).chain(again);
    names.find(|name| !taken.contains(name)).unwrap_or(first)
}

/// What a scan goes through.
pub(crate) fn scanned(plan: &ScanPlan) -> String {
    let networks: Vec<String> = plan.networks.iter().map(ToString::to_string).collect();
    match networks.is_empty() {
        true => "the networks that this device stands in".to_owned(),
        false => networks.join(", "),
    }
}

/// An interval, as it was set: `day`, `36 hours`.
pub(crate) fn every(seconds: u64) -> String {
    let units = [(604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute")];
    let whole = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, "second"));
    match seconds / unit {
        1 => name.to_owned(),
        count => format!("{count} {name}s"),
    }
}

/// What a scan has changed, in a sentence.
pub(crate) fn change(change: &Change, inventory: &Inventory) -> (IpAddr, String) {
    let called = |ip: &IpAddr| {
        let device = inventory.devices.get(ip).and_then(name_of);
        device.map_or_else(|| ip.to_string(), |name| format!("{name} ({ip})"))
    };
    match change {
        Change::New { ip } => (*ip, format!("{} is new", called(ip))),
        Change::Gone { ip } => (*ip, format!("{} is gone", called(ip))),
        Change::Moved { from, ip } => (*ip, format!("{} has moved here from {from}", called(ip))),
        Change::Opened { ip, port } => (*ip, format!("{} has opened {port}", called(ip))),
        Change::Closed { ip, port } => (*ip, format!("{} has closed {port}", called(ip))),
    }
}

/// What somebody has had changed, for the log.
pub(crate) fn done(change: &EdgeChange, changed: &EdgeChanged) -> String {
    let verb = match change {
        EdgeChange::AddForward(_) | EdgeChange::AddVirtualDevice(_) | EdgeChange::AddGateway(_) => {
            "added"
        }
        EdgeChange::SetForward { .. }
        | EdgeChange::SetVirtualDevice { .. }
        | EdgeChange::SetGateway { .. } => "changed",
        EdgeChange::RemoveForward { .. } => return "A port forward was removed.".to_owned(),
        EdgeChange::RemoveVirtualDevice { .. } => {
            return "A virtual device was removed.".to_owned();
        }
        EdgeChange::RemoveGateway { .. } => return "A gateway was removed.".to_owned(),
    };
    match changed {
        EdgeChanged::Forward(it) => format!("The port forward '{}' was {verb}.", it.name),
        EdgeChanged::VirtualDevice(it) => format!("The virtual device '{}' was {verb}.", it.name),
        EdgeChanged::Gateway(it) => format!("The gateway to {} was {verb}.", it.network()),
        EdgeChanged::Removed => "Something was removed.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use warren_proto::ForwardId;

    fn spec() -> ForwardSpec {
        ForwardSpec {
            id: ForwardId(1),
            name: "camera".to_owned(),
            enabled: true,
            protocol: ForwardProtocol::Tcp,
            port: 8080,
            last_port: 8080,
            target: LanTarget { ip: Ipv4Addr::new(192, 168, 1, 9), mac: None },
            target_port: 80,
            source: LanSource::Masquerade,
            untested: false,
            allow: Vec::new(),
            schedule: None,
            note: String::new(),
        }
    }

    #[test]
    fn a_forward_is_a_sentence() {
        let inventory = Inventory::default();
        assert_eq!(forward(&spec(), &inventory), "TCP port 8080 leads to port 80 of 192.168.1.9.");
        let spec = ForwardSpec {
            protocol: ForwardProtocol::Both,
            last_port: 8082,
            allow: vec!["tag:tools".to_owned()],
            ..spec()
        };
        let shown = ForwardSpec { source: LanSource::Transparent, untested: true, ..spec.clone() };
        assert!(
            forward(&shown, &inventory)
                .contains("192.168.1.9, which sees who asks, without a test of the way back, for"),
        );
        assert_eq!(
            forward(&spec, &inventory),
            "TCP and UDP ports 8080 to 8082 lead to ports 80 to 82 of 192.168.1.9, for tag:tools."
        );
    }

    #[test]
    fn amounts_have_the_digits_that_matter() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_234), "1.2 kB");
        assert_eq!(bytes(45_678_901), "46 MB");
        assert_eq!(sentence("no"), "No.");
        for (seconds, text) in
            [(604_800, "week"), (86_400, "day"), (129_600, "36 hours"), (901, "901 seconds")]
        {
            assert_eq!(every(seconds), text);
        }
    }
}
