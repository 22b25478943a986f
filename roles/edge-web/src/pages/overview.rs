use askama::Template;
use axum::extract::State;
use warren_proto::EdgeSpec;
use warren_web::{Layout, When};

use super::{Frame, Section, frame, when};
use crate::surround::{Answer, Shared, Visitor, page};
use crate::words;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    layout: Layout,
    frame: Frame,
    dns_name: String,
    ipv4: String,
    ipv6: String,
    networks: Vec<String>,
    /// What the device's owner lets it open; empty: everything.
    only: String,
    problems: Vec<String>,
    devices: usize,
    present: usize,
    scanned: Option<When>,
    scanning: bool,
    forwards: usize,
    virtual_devices: usize,
    gateways: usize,
    traffic: String,
}

pub(super) async fn show(State(site): Shared, visitor: Visitor) -> Answer {
    let (layout, frame) = frame(&site, &visitor, "Overview", Section::Overview);
    let (place, report) = (site.place(), site.report());
    let (devices, present, scanned_unix) = site.tools.known(|inventory| {
        let present = inventory.devices.values().filter(|it| it.present).count();
        (inventory.devices.len(), present, inventory.scanned_unix)
    });
    // Whoever doesn't manage it is shown nothing that stands behind it.
    let (mut problems, mut spec) = (Vec::new(), EdgeSpec::default());
    let mut networks: Vec<ipnet::Ipv4Net> = Vec::new();
    if frame.manages {
        let adjacent = site.tools.adjacent().unwrap_or_default();
        networks = adjacent.networks.into_iter().chain(adjacent.too_large).collect();
        problems = report.problems.iter().map(|it| words::sentence(&it.to_string())).collect();
        spec = site.known().await.spec;
    }
    let frame_manages = frame.manages;
    page(&Overview {
        layout,
        frame,
        dns_name: place.dns_name(),
        ipv4: place.ipv4.to_string(),
        ipv6: place.ipv6.to_string(),
        only: match frame_manages && !site.tools.cap().is_everything() {
            true => site.tools.cap().to_string(),
            false => String::new(),
        },
        networks: networks.iter().map(ToString::to_string).collect(),
        problems,
        devices,
        present,
        scanned: scanned_unix.map(when),
        scanning: site.scanning().running,
        forwards: spec.forwards.len(),
        virtual_devices: spec.virtual_devices.len(),
        gateways: spec.gateways.len(),
        traffic: words::bytes(report.uses.values().map(|it| it.bytes).sum()),
    })
}
