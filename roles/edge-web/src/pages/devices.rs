use std::net::IpAddr;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;
use warren_proto::{
    CardAt, EdgeChange, EdgeChanged, EdgeSpec, LanSource, LanTarget, NewVirtualDevice, Ports,
};
use warren_scan::{Device, Listing, Port};
use warren_web::{Layout, When};

use super::{Frame, Section, frame, unbound, when};
use crate::desk::{Place, Refusal};
use crate::site::Site;
use crate::surround::{Answer, Form, Nothing, Oops, Shared, Visitor, page, pieces, told};
use crate::words;

/// The most rows of one page.
const ROWS: usize = 500;

#[derive(Debug, Default, Deserialize)]
pub(super) struct Search {
    #[serde(default)]
    q: String,
}

#[derive(Template)]
#[template(path = "devices.html")]
struct Devices {
    layout: Layout,
    frame: Frame,
    q: String,
    total: usize,
    found: usize,
    scanned: Option<When>,
    scanning: bool,
    rows: Vec<Row>,
}

/// A device in a list, or by itself.
struct Row {
    ip: IpAddr,
    ipv6: Vec<String>,
    name: String,
    names: Vec<(String, &'static str)>,
    mac: String,
    vendor: String,
    randomised: bool,
    kind: String,
    services: Vec<Service>,
    present: bool,
    first_seen: When,
    last_seen: When,
    rtt: String,
    /// Its virtual device, and that one's name in DNS.
    virtual_device: Option<(String, String)>,
    /// The forwards that lead to it.
    forwards: Vec<(String, String)>,
}

struct Service {
    port: String,
    says: String,
}

impl Row {
    fn of(device: &Device, spec: &EdgeSpec, place: &Place) -> Self {
        use warren_scan::NameSource as By;
        let is_it = |target: &LanTarget| match target.mac {
            Some(mac) => device.mac == Some(mac),
            None => device.ipv4() == Some(target.ip),
        };
        let by = |source: &By| match source {
            By::Dhcp => "DHCP lease",
            By::Ptr => "DNS",
            By::Mdns => "mDNS",
            By::Llmnr => "LLMNR",
            By::NetBios => "NetBIOS",
            By::Ssdp => "SSDP",
        };
        let said = |service: &warren_scan::Service| {
            let texts = [service.title.as_deref(), service.banner.as_deref()];
            texts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
        };
        let mine = spec.virtual_devices.iter().find(|it| is_it(&it.target));
        let forwards = spec.forwards.iter().filter(|it| is_it(&it.target));
        Self {
            ip: device.ip,
            ipv6: device.ipv6.iter().map(ToString::to_string).collect(),
            name: words::name_of(device).unwrap_or_default().to_owned(),
            names: device.names.iter().map(|(by_whom, it)| (it.to_string(), by(by_whom))).collect(),
            mac: device.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            vendor: device.vendor().unwrap_or_default(),
            randomised: device.is_randomised(),
            kind: words::kind(device.kind).to_owned(),
            services: device
                .services
                .iter()
                .map(|(port, service)| Service { port: port.to_string(), says: said(service) })
                .collect(),
            present: device.present,
            first_seen: when(device.first_seen_unix),
            last_seen: when(device.last_seen_unix),
            rtt: device
                .rtt_us
                .map(|us| format!("{:.1} ms", us as f64 / 1000.0))
                .unwrap_or_default(),
            virtual_device: mine
                .map(|it| (it.id.to_string(), format!("{}.{}", it.name, place.dns_name()))),
            forwards: forwards.map(|it| (it.id.to_string(), it.name.clone())).collect(),
        }
    }

    fn path(&self) -> String {
        format!("/devices/{}", self.ip)
    }

    fn called(&self) -> String {
        if self.name.is_empty() { self.ip.to_string() } else { self.name.clone() }
    }

    /// Whether something can lead to it.
    fn has_ipv4(&self) -> bool {
        self.ip.is_ipv4()
    }

    fn matches(&self, q: &str) -> bool {
        let texts = [self.ip.to_string(), self.mac.clone(), self.vendor.clone(), self.kind.clone()];
        let names = self.names.iter().map(|(name, _)| name).chain(&self.ipv6);
        let said = self.services.iter().flat_map(|it| [&it.port, &it.says]);
        texts.iter().chain(names).chain(said).any(|text| text.to_lowercase().contains(q))
    }
}

pub(super) async fn list(
    State(site): Shared,
    visitor: Visitor,
    Query(search): Query<Search>,
) -> Answer {
    let (layout, frame) = frame(&site, &visitor, "Devices", Section::Devices);
    let (spec, place) = (site.known().await.spec, site.place());
    let q = search.q.trim().to_lowercase();
    let (mut rows, mut found) = (Vec::new(), 0);
    let (total, scanned_unix) = site.tools.known(|inventory| {
        for device in inventory.devices.values() {
            let is_shown = rows.len() < ROWS;
            // What isn't shown is looked into only as far as it takes to count it.
            let row = (is_shown || !q.is_empty()).then(|| Row::of(device, &spec, &place));
            if row.as_ref().is_some_and(|row| !row.matches(&q)) {
                continue;
            }
            found += 1;
            rows.extend(row.filter(|_| is_shown));
        }
        (inventory.devices.len(), inventory.scanned_unix)
    });
    page(&Devices {
        layout,
        frame,
        q: search.q,
        total,
        found,
        scanned: scanned_unix.map(when),
        scanning: site.scanning().running,
        rows,
    })
}

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    layout: Layout,
    frame: Frame,
    row: Row,
    suggested: String,
    free_port: u16,
    target_port: String,
}

pub(super) async fn show(State(site): Shared, visitor: Visitor, Path(ip): Path<String>) -> Answer {
    let device = find(&site, &ip)?;
    let (spec, place) = (site.known().await.spec, site.place());
    let row = Row::of(&device, &spec, &place);
    let (layout, frame) = frame(&site, &visitor, &row.called(), Section::Devices);
    let taken: Vec<_> = spec.virtual_devices.iter().map(|it| it.name.clone()).collect();
    let free = |port: &u16| !spec.forwards.iter().any(|it| (it.port..=it.last_port).contains(port));
    let web = [80, 8080, 443, 554].map(Port::tcp);
    let served = web.into_iter().find(|port| device.services.contains_key(port));
    let served = served.or_else(|| device.services.keys().next().copied());
    page(&DevicePage {
        layout,
        frame,
        suggested: words::virtual_name(&device, &taken).to_string(),
        free_port: (8080..u16::MAX).find(free).unwrap_or(8080),
        target_port: served.map_or(80, |port| port.number).to_string(),
        row,
    })
}

pub(super) async fn make_virtual(
    State(site): Shared,
    visitor: Visitor,
    Path(ip): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let device = find(&site, &ip)?;
    let path = format!("/devices/{}", device.ip);
    let Some(ipv4) = device.ipv4() else {
        let text = "it has no IPv4 address, and what is opened leads to one";
        return told(&path, Err(Refusal::invalid(text)));
    };
    let spec = site.known().await.spec;
    let taken: Vec<_> = spec.virtual_devices.iter().map(|it| it.name.clone()).collect();
    let CardAt { mac, why } = site.card(&visitor.asker, ipv4).await?;
    let new = NewVirtualDevice {
        name: words::virtual_name(&device, &taken),
        target: LanTarget { ip: ipv4, mac },
        ports: vec![Ports::All],
        source: LanSource::default(),
        untested: false,
        enabled: true,
        note: String::new(),
        allow_public: false,
    };
    let made = site.change(&visitor.asker, EdgeChange::AddVirtualDevice(new)).await;
    let note = unbound(mac, &why);
    told(&path, made.map(|changed| format!("{}{note}", opened(&site.place(), &changed))))
}

fn opened(place: &Place, changed: &EdgeChanged) -> String {
    match changed {
        EdgeChanged::VirtualDevice(it) => {
            format!("It is reached at {}.{} now.", it.name, place.dns_name())
        }
        EdgeChanged::Forward(_) | EdgeChanged::Gateway(_) | EdgeChanged::Removed => {
            "Done.".to_owned()
        }
    }
}

pub(super) async fn wake(
    State(site): Shared,
    visitor: Visitor,
    Path(ip): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let device = find(&site, &ip)?;
    let path = format!("/devices/{}", device.ip);
    let Some(mac) = device.mac else {
        let text = "its card's address isn't known: a router is in between";
        return told(&path, Err(Refusal::invalid(text)));
    };
    let woken = site.wake(&visitor.asker, mac).await;
    told(
        &path,
        woken.map(|_| "It was called to wake. Whether it does, the next scan shows.".into()),
    )
}

pub(super) async fn csv(State(site): Shared, _: Visitor) -> Response {
    download(&site, "text/csv; charset=utf-8", "devices.csv", Listing::csv())
}

pub(super) async fn json(State(site): Shared, _: Visitor) -> Response {
    download(&site, "application/json", "devices.json", Listing::json())
}

fn download(site: &Site, kind: &'static str, name: &str, listing: Listing) -> Response {
    let file = format!("attachment; filename=\"{name}\"");
    let headers = [(CONTENT_TYPE, kind.to_owned()), (CONTENT_DISPOSITION, file)];
    (headers, pieces(&site.tools, listing)).into_response()
}

fn find(site: &Site, ip: &str) -> Result<Device, Oops> {
    let ip: Option<IpAddr> = ip.parse().ok();
    let device = ip.and_then(|ip| site.tools.known(|inventory| inventory.by_ip(ip).cloned()));
    device.ok_or_else(|| Refusal::not_found("device").into())
}
