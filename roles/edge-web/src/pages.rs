//! The pages, one file each, its template in `templates/`.

mod devices;
mod events;
mod forwards;
mod gateways;
mod log;
mod overview;
mod reference;
mod scan;
mod traffic;
mod virtual_devices;

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use serde::Deserialize;
use warren_proto::{CardAt, EdgeChange, LanSource, LanTarget, MacAddr};
use warren_web::{Layout, NavItem, Theme, When};

use crate::desk::Refusal;
use crate::journal::unix_now;
use crate::site::Site;
use crate::surround::{Answer, Form, Visitor, inside, to, told};

/// All of them.
pub(crate) fn routes() -> Router<Arc<Site>> {
    let device = "/devices/{ip}";
    let forward = "/forwards/{id}";
    let virtual_device = "/virtual-devices/{id}";
    let gateway = "/gateways/{id}";
    Router::new()
        .route("/", get(overview::show))
        .route("/events", get(events::stream))
        .route("/theme", post(change_theme))
        .route("/devices", get(devices::list))
        .route("/devices.csv", get(devices::csv))
        .route("/devices.json", get(devices::json))
        .route(device, get(devices::show))
        .route(&format!("{device}/virtual-device"), post(devices::make_virtual))
        .route(&format!("{device}/wake"), post(devices::wake))
        .route("/scan", get(scan::show).post(scan::begin))
        .route("/scan/cancel", post(scan::cancel))
        .route("/scan/schedule/end", post(scan::end_repeating))
        .route("/forwards", get(forwards::list).post(forwards::add))
        .route(forward, get(forwards::show).post(forwards::change))
        .route(&format!("{forward}/switch"), post(forwards::switch))
        .route(&format!("{forward}/check"), post(forwards::check))
        .route(&format!("{forward}/remove"), post(forwards::remove))
        .route("/virtual-devices", get(virtual_devices::list).post(virtual_devices::add))
        .route(virtual_device, get(virtual_devices::show).post(virtual_devices::change))
        .route(&format!("{virtual_device}/switch"), post(virtual_devices::switch))
        .route(&format!("{virtual_device}/remove"), post(virtual_devices::remove))
        .route("/gateways", get(gateways::list).post(gateways::add))
        .route(&format!("{gateway}/switch"), post(gateways::switch))
        .route(&format!("{gateway}/remove"), post(gateways::remove))
        .route("/traffic", get(traffic::show))
        .route("/log", get(log::show))
        .route("/api", get(reference::show))
}

/// The entries of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Overview,
    Devices,
    Scan,
    Forwards,
    VirtualDevices,
    Gateways,
    Traffic,
    Log,
    Api,
}

impl Section {
    const GROUPS: &[&[Self]] = &[
        &[Self::Overview, Self::Devices, Self::Scan],
        &[Self::Forwards, Self::VirtualDevices, Self::Gateways],
        &[Self::Traffic, Self::Log],
    ];

    fn item(self, current: Self) -> NavItem {
        let (href, label, icon) = match self {
            Self::Overview => ("/", "Overview", "edge"),
            Self::Devices => ("/devices", "Devices", "devices"),
            Self::Scan => ("/scan", "Scan", "search"),
            Self::Forwards => ("/forwards", "Port forwards", "relay"),
            Self::VirtualDevices => ("/virtual-devices", "Virtual devices", "link"),
            Self::Gateways => ("/gateways", "Gateways", "map"),
            Self::Traffic => ("/traffic", "Traffic", "activity"),
            Self::Log => ("/log", "Log", "clock"),
            Self::Api => ("/api", "API", "key"),
        };
        NavItem { href: href.to_owned(), label, icon, current: self == current }
    }
}

/// What stands around a page.
struct Frame {
    edge: String,
    from: String,
    manages: bool,
    is_connected: bool,
}

impl Frame {
    /// Whether what is open may be changed at this moment.
    fn may_change(&self) -> bool {
        self.manages && self.is_connected
    }
}

fn frame(site: &Site, visitor: &Visitor, title: &str, section: Section) -> (Layout, Frame) {
    let place = site.place();
    let item = |of: &Section| of.item(section);
    let groups: &[&[Section]] =
        if visitor.asker.manages { Section::GROUPS } else { &[&[Section::Overview]] };
    let layout = Layout {
        nav: groups.iter().map(|group| group.iter().map(item).collect()).collect(),
        live: Some("/events".to_owned()),
        ..visitor.layout(format!("{title} · {}", place.name))
    };
    let frame = Frame {
        edge: place.name.to_string(),
        from: visitor.asker.name.to_string(),
        manages: visitor.asker.manages,
        is_connected: place.is_connected,
    };
    (layout, frame)
}

fn when(at: u64) -> When {
    When { at, now: unix_now() }
}

/// How it should look, and where to come back to.
#[derive(Debug, Deserialize)]
struct Appearance {
    theme: String,
    back: String,
}

async fn change_theme(Form(form): Form<Appearance>) -> Answer {
    let mut response = to(inside(&form.back))?;
    response.extensions_mut().insert(Theme::from_word(&form.theme));
    Ok(response)
}

/// A switch beside something.
#[derive(Debug, Deserialize)]
struct Switch {
    enabled: bool,
}

impl Switch {
    /// What it has done, for people.
    fn text(&self) -> &'static str {
        if self.enabled { "It is open." } else { "It is closed." }
    }
}

/// Changes something, and goes on to the list, which says how it went.
async fn changed(
    site: &Site,
    visitor: &Visitor,
    list: &str,
    change: EdgeChange,
    text: &str,
) -> Answer {
    let done = site.change(&visitor.asker, change).await;
    told(list, done.map(|_| text.to_owned()))
}

/// A LAN device as typed: its address, and its card's if it is to be followed.
fn target(ip: &str, mac: &str) -> Result<LanTarget, Refusal> {
    let ip = ip.trim().parse().map_err(|_| {
        Refusal::invalid(format!("'{}' is no address: write 192.168.1.9", ip.trim()))
    })?;
    let mac: Option<MacAddr> = match mac.trim() {
        "" => None,
        mac => Some(mac.parse().map_err(Refusal::invalid)?),
    };
    Ok(LanTarget { ip, mac })
}

/// Binds a LAN device as typed to the card that the edge has seen at its address, unless another was typed; a
/// sentence more for people, where there is something to say.
async fn follow(site: &Site, visitor: &Visitor, ip: &str, mac: &mut String) -> String {
    let Some(ip) = ip.trim().parse().ok().filter(|_| mac.trim().is_empty()) else {
        return String::new();
    };
    let CardAt { mac: card, why } = site.card(&visitor.asker, ip).await.unwrap_or_default();
    if let Some(card) = card {
        *mac = card.to_string();
    }
    unbound(card, &why)
}

/// The same for a form that was filled in with what is set: another address is bound to its own card.
async fn follow_to(
    site: &Site,
    visitor: &Visitor,
    ip: &str,
    mac: &mut String,
    before: LanTarget,
) -> String {
    let is_elsewhere = ip.trim().parse::<Ipv4Addr>().is_ok_and(|ip| ip != before.ip);
    if is_elsewhere && before.mac.is_some() && mac.trim().parse().ok() == before.mac {
        mac.clear();
        return follow(site, visitor, ip, mac).await;
    }
    String::new()
}

/// That something is bound to no card, and why, if there is something to say.
fn unbound(card: Option<MacAddr>, why: &str) -> String {
    match card {
        None if !why.is_empty() => format!(" It is bound to its address and to no card: {why}."),
        None | Some(_) => String::new(),
    }
}

fn source(transparent: Option<&str>) -> LanSource {
    if transparent.is_some() { LanSource::Transparent } else { LanSource::Masquerade }
}

/// Words that are separated by commas or blanks.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\n', '\r']).filter(|word| !word.is_empty())
}
