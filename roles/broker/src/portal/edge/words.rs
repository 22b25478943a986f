//! What an edge opens, in sentences.

use std::net::Ipv4Addr;

use warren_coord::EdgeView;
use warren_proto::{
    EdgeSpec, ForwardProtocol, ForwardSpec, GatewaySpec, LanSource, LanTarget, Ports,
    VirtualDeviceSpec,
};

use super::super::answer::sentence;
use super::form::{Kind, range};

/// One thing that an edge opens.
pub(super) struct Line {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) sentence: String,
    /// Where it is reached.
    pub(super) place: String,
    /// The same as a link, where a browser understands it.
    pub(super) url: Option<String>,
    pub(super) note: String,
    pub(super) enabled: bool,
}

/// The cards of what it opens, and what people call them.
pub(super) fn cards(spec: &EdgeSpec) -> Vec<(String, String)> {
    let forwards = spec.forwards.iter().map(|it| (it.target.mac, it.name.clone()));
    let devices = spec.virtual_devices.iter().map(|it| (it.target.mac, it.name.to_string()));
    let cards = devices.chain(forwards).filter_map(|(mac, name)| Some((mac?, name)));
    // The names of virtual devices go before those of forwards.
    let mut by_card = std::collections::BTreeMap::new();
    for (mac, name) in cards {
        by_card.entry(mac).or_insert(name);
    }
    by_card.into_iter().map(|(mac, name)| (mac.to_string(), name)).collect()
}

/// All of one kind.
pub(super) fn lines(kind: Kind, edge: &EdgeView) -> Vec<Line> {
    let (spec, dns) = (&edge.spec, edge.dns_name.as_str());
    match kind {
        Kind::Forward => spec.forwards.iter().map(|it| forward(it, edge)).collect(),
        Kind::VirtualDevice => {
            spec.virtual_devices.iter().map(|it| virtual_device(it, dns)).collect()
        }
        Kind::Gateway => spec.gateways.iter().map(gateway).collect(),
    }
}

fn forward(it: &ForwardSpec, edge: &EdgeView) -> Line {
    let ports = range(it.port, it.last_port);
    let protocol = match it.protocol {
        ForwardProtocol::Tcp => "TCP",
        ForwardProtocol::Udp => "UDP",
        ForwardProtocol::Both => "TCP and UDP",
    };
    let last = it.target_port.saturating_add(it.last_port.saturating_sub(it.port));
    let target = range(it.target_port, last);
    let mut sentence = format!(
        "{protocol} {ports} of {} leads to port {target} of {}.",
        edge.name,
        named(it.target)
    );
    if !it.allow.is_empty() {
        sentence.push_str(&format!(" It is for {} alone.", it.allow.join(", ")));
    }
    if let Some(hours) = &it.schedule {
        sentence.push_str(&format!(" It is open {}.", hours.in_words()));
    }
    push_source(&mut sentence, it.source, it.untested);
    let place = format!("{}:{ports}", edge.dns_name);
    let is_tcp = it.protocol != ForwardProtocol::Udp && it.port == it.last_port;
    let url =
        scheme(it.target_port).filter(|_| is_tcp).map(|scheme| format!("{scheme}://{place}/"));
    Line {
        id: it.id.to_string(),
        name: it.name.clone(),
        sentence,
        place,
        url,
        note: it.note.clone(),
        enabled: it.enabled,
    }
}

fn virtual_device(it: &VirtualDeviceSpec, edge: &str) -> Line {
    let mut sentence = sentence(&format!("{} is reached as {}", named(it.target), it.ipv4));
    if it.ports != [Ports::All] {
        let ports: Vec<String> = it.ports.iter().map(ToString::to_string).collect();
        sentence.push_str(&format!(" Only {} is let through.", ports.join(", ")));
    }
    push_source(&mut sentence, it.source, it.untested);
    let place = format!("{}.{edge}", it.name);
    Line {
        id: it.id.to_string(),
        name: it.name.to_string(),
        sentence,
        url: Some(format!("http://{place}/")),
        place,
        note: it.note.clone(),
        enabled: it.enabled,
    }
}

fn gateway(it: &GatewaySpec) -> Line {
    if it.is_internet() {
        return Line {
            id: it.id.to_string(),
            name: "The internet".to_owned(),
            sentence:
                "Devices that choose this edge as their exit node reach the internet by it, and \
                       nothing of its LAN."
                    .to_owned(),
            place: "internet".to_owned(),
            url: None,
            note: it.note.clone(),
            enabled: it.enabled,
        };
    }
    let example = |net: ipnet::Ipv4Net| Ipv4Addr::from(u32::from(net.network()).saturating_add(1));
    let mut sentence = format!(
        "{} is reached as {}, address by address: {} as {}.",
        it.lan,
        it.mesh,
        example(it.lan),
        example(it.mesh)
    );
    push_source(&mut sentence, it.source, false);
    Line {
        id: it.id.to_string(),
        name: it.lan.to_string(),
        sentence,
        place: it.mesh.to_string(),
        url: None,
        note: it.note.clone(),
        enabled: it.enabled,
    }
}

fn named(target: LanTarget) -> String {
    match target.mac {
        Some(mac) => format!("the LAN device {} (known by its card, {mac})", target.ip),
        None => format!("the LAN device {}", target.ip),
    }
}

fn push_source(sentence: &mut String, source: LanSource, untested: bool) {
    sentence.push_str(match (source, untested) {
        (LanSource::Masquerade, _) => "",
        (LanSource::Transparent, false) => {
            " The LAN sees who asks, and needs a route back by the edge."
        }
        (LanSource::Transparent, true) => {
            " The LAN sees who asks, and needs a route back by the edge; whether it has one isn't tested."
        }
    });
}

/// What browsers and systems open a well-known port with.
fn scheme(port: u16) -> Option<&'static str> {
    match port {
        80 | 8000 | 8080 | 8123 => Some("http"),
        443 | 8443 => Some("https"),
        22 => Some("ssh"),
        554 => Some("rtsp"),
        3389 => Some("rdp"),
        5900 => Some("vnc"),
        _ => None,
    }
}
