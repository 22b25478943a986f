use askama::Template;
use axum::extract::State;
use warren_edge::Opened;
use warren_web::{Layout, When, chart};

use super::{Frame, Section, frame, when};
use crate::surround::{Answer, Shared, Visitor, page};
use crate::words;

#[derive(Template)]
#[template(path = "traffic.html")]
struct TrafficPage {
    layout: Layout,
    frame: Frame,
    chart: Option<String>,
    now: String,
    rows: Vec<Row>,
}

struct Row {
    href: String,
    name: String,
    kind: &'static str,
    bytes: String,
    packets: u64,
    last: Option<When>,
}

fn network(lan: ipnet::Ipv4Net) -> String {
    if lan == warren_proto::INTERNET { "the internet".to_owned() } else { lan.to_string() }
}

pub(super) async fn show(State(site): Shared, visitor: Visitor) -> Answer {
    let (layout, frame) = frame(&site, &visitor, "Traffic", Section::Traffic);
    let report = site.report();
    let open = site.place().open();
    let forwards = open.forwards.iter().map(|it| {
        let href = format!("/forwards/{}", it.id);
        (Opened::Forward(it.id), href, it.name.clone(), "Port forward")
    });
    let devices = open.virtual_devices.iter().map(|it| {
        let href = format!("/virtual-devices/{}", it.id);
        (Opened::Device(it.id), href, it.name.to_string(), "Virtual device")
    });
    let gateways = open
        .gateways
        .iter()
        .map(|it| (Opened::Gateway(it.id), "/gateways".to_owned(), network(it.lan), "Gateway"));
    let mut rows: Vec<(u64, Row)> = forwards
        .chain(devices)
        .chain(gateways)
        .map(|(opened, href, name, kind)| {
            let used = report.uses.get(&opened).copied().unwrap_or_default();
            let (bytes, packets) = (words::bytes(used.bytes), used.packets);
            let last = used.last_unix.map(when);
            (used.bytes, Row { href, name, kind, bytes, packets, last })
        })
        .collect();
    rows.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let rates = site.traffic.rates();
    let now = format!("{}/s", words::bytes(rates.last().copied().unwrap_or_default()));
    let points: Vec<Option<f64>> = rates.iter().map(|rate| Some(*rate as f64)).collect();
    let chart = chart::line(&points, &format!("Traffic of the last hour, {now} at last"));
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    page(&TrafficPage { layout, frame, chart, now, rows })
}
