use askama::Template;
use axum::extract::State;
use serde::Deserialize;
use warren_edge::{ScanPlan, ScanStatus};
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

/// The most changes that are shown.
const CHANGES: usize = 500;

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
    /// Networks that it stands in, too, and scans only if they are named.
    large: Vec<String>,
    error: String,
    status: ScanStatus,
    percent: u64,
    scanned: Option<When>,
    changes: Vec<(std::net::IpAddr, String)>,
    /// How many changes aren't shown.
    more: usize,
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
    let status = site.scanning();
    let adjacent = site.tools.adjacent().unwrap_or_default();
    let (scanned_unix, known, changes, more) = site.tools.known(|inventory| {
        let changes = inventory.changes.iter().take(CHANGES);
        let changes: Vec<_> = changes.map(|it| words::change(it, inventory)).collect();
        let more = inventory.changes.len() - changes.len();
        (inventory.scanned_unix, inventory.devices.len(), changes, more)
    });
    let progress = status.progress;
    ScanPage {
        layout,
        frame,
        typed,
        adjacent: adjacent.networks.iter().map(ToString::to_string).collect(),
        large: adjacent.too_large.iter().map(ToString::to_string).collect(),
        error,
        status,
        percent: (progress.walked * 100).checked_div(progress.total).unwrap_or(0).min(100),
        scanned: scanned_unix.map(when),
        changes,
        more,
        known,
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
    let asked = plan(&wanted).and_then(|plan| Ok((plan, every(&wanted)?)));
    let begun = match asked {
        Ok((plan, every_secs)) => site.scan(&visitor.asker, plan, every_secs).await,
        Err(refusal) => Err(refusal),
    };
    match begun {
        Ok(()) => told("/scan", Ok(begun_text(&site.scanning().left_out))),
        Err(refusal) => {
            let error = words::sentence(&refusal.text);
            let page = scan_page(&site, &visitor, wanted, error);
            page_with(status(refusal.why), &page)
        }
    }
}

fn begun_text(left_out: &[ipnet::Ipv4Net]) -> String {
    let large: Vec<String> = left_out.iter().map(ToString::to_string).collect();
    match large.is_empty() {
        true => "The scan has begun.".to_owned(),
        false => format!(
            "The scan has begun, but for {}: large networks are scanned if they are named.",
            large.join(", ")
        ),
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
    let ended = site.set_rescan(&visitor.asker, None).await;
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
