use askama::Template;
use axum::extract::State;
use serde::Deserialize;
use warren_edge::{Rescan, ScanPlan, ScanStatus};
use warren_web::{Layout, When};

use super::{Frame, Section, frame, list, when};
use crate::desk::Refusal;
use crate::surround::{Answer, Form, Nothing, Shared, Visitor, page, page_with, status, told};
use crate::words;

/// A scan as typed; all of it may be left out.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    networks: String,
    #[serde(default)]
    ports: String,
    public: Option<String>,
    /// How often it is repeated, in seconds; empty: it isn't.
    #[serde(default)]
    every: String,
}

/// The intervals to choose from, in seconds.
const EVERY: [u64; 5] = [3_600, 6 * 3_600, 12 * 3_600, 24 * 3_600, 7 * 24 * 3_600];

/// The scan that is repeated.
struct Repeated {
    what: String,
    every: String,
    next: When,
    problem: String,
}

#[derive(Template)]
#[template(path = "scan.html")]
struct ScanPage {
    layout: Layout,
    frame: Frame,
    typed: Wanted,
    adjacent: Vec<String>,
    error: String,
    status: ScanStatus,
    percent: u64,
    scanned: Option<When>,
    changes: Vec<(std::net::IpAddr, String)>,
    known: usize,
    repeated: Option<Repeated>,
    intervals: Vec<(u64, String)>,
}

pub(super) async fn show(State(site): Shared, visitor: Visitor) -> Answer {
    page(&scan_page(&site, &visitor, Wanted::default(), String::new()))
}

fn scan_page(
    site: &crate::site::Site,
    visitor: &Visitor,
    typed: Wanted,
    error: String,
) -> ScanPage {
    let (layout, frame) = frame(site, visitor, "Scan", Section::Scan);
    let (status, inventory) = (site.scanning(), site.tools.inventory());
    let adjacent = site.tools.adjacent().unwrap_or_default();
    let changes = inventory.changes.iter().map(|change| words::change(change, &inventory));
    let progress = status.progress;
    ScanPage {
        layout,
        frame,
        typed,
        adjacent: adjacent.iter().map(ToString::to_string).collect(),
        error,
        status,
        percent: (progress.walked * 100).checked_div(progress.total).unwrap_or(0).min(100),
        scanned: inventory.scanned_unix.map(when),
        changes: changes.collect(),
        known: inventory.devices.len(),
        repeated: site.tools.rescan().map(|it| Repeated {
            what: words::scanned(&it.rescan.plan),
            every: words::every(it.rescan.every_secs),
            next: when(it.next_unix),
            problem: it.problem.map(|it| words::sentence(&it)).unwrap_or_default(),
        }),
        intervals: EVERY.into_iter().map(|every| (every, words::every(every))).collect(),
    }
}

pub(super) async fn begin(
    State(site): Shared,
    visitor: Visitor,
    Form(wanted): Form<Wanted>,
) -> Answer {
    site.check(&visitor.asker)?;
    let begun = plan(&wanted).and_then(|plan| {
        if let Some(every_secs) = every(&wanted)? {
            let plan = plan.clone();
            site.set_rescan(&visitor.asker, Some(Rescan { every_secs, plan }))?;
        }
        site.scan(&visitor.asker, plan)
    });
    match begun {
        Ok(()) => told("/scan", Ok("The scan has begun.".to_owned())),
        Err(refusal) => {
            let error = words::sentence(&refusal.text);
            let page = scan_page(&site, &visitor, wanted, error);
            page_with(status(refusal.why), &page)
        }
    }
}

fn plan(wanted: &Wanted) -> Result<ScanPlan, Refusal> {
    let network = |text: &str| {
        let one = |_| text.parse::<std::net::Ipv4Addr>().map(ipnet::Ipv4Net::from);
        let net = text.parse::<ipnet::Ipv4Net>().or_else(one);
        net.map_err(|_| Refusal::invalid(format!("'{text}' is no network: write 192.168.1.0/24")))
    };
    let networks = list(&wanted.networks).map(network).collect::<Result<Vec<_>, _>>()?;
    let mut plan = ScanPlan::of(networks);
    plan.public_confirmed = wanted.public.is_some();
    let port = |text: &str| {
        text.parse().map_err(|_| Refusal::invalid(format!("'{text}' is no port: write 80, 443")))
    };
    let ports = list(&wanted.ports).map(port).collect::<Result<Vec<u16>, _>>()?;
    if !ports.is_empty() {
        plan.ports = ports;
    }
    Ok(plan)
}

fn every(wanted: &Wanted) -> Result<Option<u64>, Refusal> {
    match wanted.every.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Refusal::invalid("an interval is in seconds")),
    }
}

pub(super) async fn end_repeating(
    State(site): Shared,
    visitor: Visitor,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let ended = site.set_rescan(&visitor.asker, None);
    told("/scan", ended.map(|()| "No scan is repeated any more.".to_owned()))
}

pub(super) async fn cancel(
    State(site): Shared,
    visitor: Visitor,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let cancelled = site.cancel_scan(&visitor.asker);
    told("/scan", cancelled.map(|()| "The scan was cancelled; what it found is kept.".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_typed_as_people_type() {
        let wanted = |networks: &str, ports: &str| {
            let (networks, ports) = (networks.to_owned(), ports.to_owned());
            plan(&Wanted { networks, ports, ..Wanted::default() })
        };
        let typed = wanted("10.0.0.0/24, 192.168.1.9", "80 443").unwrap();
        let networks: Vec<String> = typed.networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/24", "192.168.1.9/32"]);
        assert_eq!(typed.ports, [80, 443]);
        assert!(wanted("", "").unwrap().networks.is_empty());
        assert!(wanted("home", "").unwrap_err().text.contains("192.168.1.0/24"));
        assert!(wanted("", "99999").is_err());
    }
}
