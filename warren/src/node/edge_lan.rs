//! `warren edge scan`, `devices`, `wake`: the LAN that this device stands in.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;
use warren_node::local::{EdgeFound, EdgeReply, EdgeRequest, EdgeWork};
use warren_proto::{ForwardId, MacAddr};
use warren_scan::{Change, Inventory, Rescan, RescanStatus, ScanPlan, ScanStatus};

use super::edge::strange;
use super::edge_remote::Asked;
use crate::cli::{Every, LanDevices, Scan};
use crate::output::{self, say};
use crate::{edge_tables, shutdown};

/// How often a scan is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn work(client: &Asked, work: EdgeWork) -> anyhow::Result<EdgeFound> {
    match client.edge(EdgeRequest::Work(work)).await? {
        EdgeReply::Found(found) => Ok(found),
        EdgeReply::Status(_) | EdgeReply::Spec(_) | EdgeReply::Changed(_) => Err(strange()),
    }
}

async fn status(client: &Asked, ask: EdgeWork) -> anyhow::Result<ScanStatus> {
    match work(client, ask).await? {
        EdgeFound::Scanning(status) => Ok(status),
        EdgeFound::Rescan(_)
        | EdgeFound::Devices { .. }
        | EdgeFound::Woken(_)
        | EdgeFound::Looked(_)
        | EdgeFound::Open(_)
        | EdgeFound::Card(_) => Err(strange()),
    }
}

async fn rescan(client: &Asked, ask: EdgeWork) -> anyhow::Result<Option<RescanStatus>> {
    match work(client, ask).await? {
        EdgeFound::Rescan(rescan) => Ok(rescan),
        EdgeFound::Scanning(_)
        | EdgeFound::Devices { .. }
        | EdgeFound::Woken(_)
        | EdgeFound::Looked(_)
        | EdgeFound::Open(_)
        | EdgeFound::Card(_) => Err(strange()),
    }
}

/// The scan that an edge repeats, if it does and can be asked.
pub(super) async fn repeated(client: &Asked) -> Option<RescanStatus> {
    rescan(client, EdgeWork::Rescan).await.ok().flatten()
}

/// All devices that are known; many are told bit by bit.
pub(super) async fn inventory(client: &Asked) -> anyhow::Result<Inventory> {
    let mut all = Inventory::default();
    loop {
        let last = all.devices.keys().next_back().copied();
        let EdgeFound::Devices { part, more } = work(client, EdgeWork::Devices(last)).await? else {
            return Err(strange());
        };
        all.devices.extend(part.devices);
        if !more {
            return Ok(Inventory { devices: all.devices, ..part });
        }
    }
}

/// `warren edge scan`: shows how far it is, and what it found; interrupted, it cancels the scan.
pub(super) async fn scan(client: &Asked, args: Scan, json: bool) -> anyhow::Result<()> {
    let plan = ScanPlan::of(args.networks);
    let ports = if args.ports.is_empty() { plan.ports } else { args.ports };
    let rate = args.rate.unwrap_or(plan.rate);
    let plan = ScanPlan { ports, rate, public_confirmed: args.yes, ..plan };
    let ask = match args.every {
        Some(Every::Off) => {
            let none = rescan(client, EdgeWork::EndRescan).await?;
            return match json {
                true => output::json(&none),
                false => output::done(false, "Nothing is scanned by itself any more."),
            };
        }
        Some(Every::Seconds(every_secs)) => EdgeWork::ScanAndRepeat(Rescan { every_secs, plan }),
        None => EdgeWork::Scan(plan),
    };
    let begun = status(client, ask).await?;
    for network in &begun.left_out {
        eprintln!("warren: note: {}", left_out(*network, client.elsewhere()));
    }
    if args.every.is_some()
        && !json
        && let Some(set) = rescan(client, EdgeWork::Rescan).await?
    {
        say!("{}", sentence(&set));
    }
    let cancelled = follow(client).await?;
    let found = inventory(client).await?;
    if json {
        return output::json(&found);
    }
    edge_tables::devices(&found);
    if cancelled {
        say!("Cancelled: what was found until then is kept.");
    } else {
        show_changes(&found.changes);
    }
    Ok(())
}

/// A large network in which the edge stands; `on`: the edge's name, of another device.
fn left_out(network: Ipv4Net, on: Option<&str>) -> String {
    let command = ScanPlan::command(network);
    let command = match on {
        Some(name) => command.replacen("edge", &format!("edge --on {name}"), 1),
        None => command,
    };
    let what = if network.prefix_len() < 16 { "the first part of it" } else { "it" };
    format!("{network} is left out, as it is large: `{command}` scans {what}")
}

/// What is repeated, and when.
pub(super) fn sentence(rescan: &RescanStatus) -> String {
    let RescanStatus { rescan: Rescan { every_secs, plan }, next_unix, .. } = rescan;
    let networks: Vec<String> = plan.networks.iter().map(ToString::to_string).collect();
    let what = match networks.is_empty() {
        true => "the networks that it stands in".to_owned(),
        false => networks.join(", "),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let next = Duration::from_secs(next_unix.saturating_sub(now.as_secs()));
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let whole = units.into_iter().find(|(unit, _)| every_secs % unit == 0);
    let (unit, name) = whole.unwrap_or((1, "s"));
    let every = format!("{}{name}", every_secs / unit);
    format!("The edge scans {what} each {every}; next in {}.", output::age(next))
}

/// Waits for the end of a scan; returns whether it was cancelled.
async fn follow(client: &Asked) -> anyhow::Result<bool> {
    let interrupted = shutdown::signal()?;
    tokio::pin!(interrupted);
    let mut cancelled = false;
    let is_watched = std::io::stderr().is_terminal();
    loop {
        let now = status(client, EdgeWork::Scanning).await?;
        if is_watched {
            let end = if now.running { "\r" } else { "\n" };
            let _ = write!(std::io::stderr(), "\x1b[2K{}{end}", progress(&now));
        }
        if !now.running {
            return Ok(cancelled);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = &mut interrupted, if !cancelled => {
                cancelled = true;
                status(client, EdgeWork::CancelScan).await?;
            }
        }
    }
}

fn progress(status: &ScanStatus) -> String {
    let progress = status.progress;
    let percent = (progress.walked * 100).checked_div(progress.total).unwrap_or(100);
    format!(
        "{percent} % of the addresses asked, {} probes, {} devices",
        progress.sent, progress.devices
    )
}

fn show_changes(changes: &[Change]) {
    for change in changes {
        match change {
            Change::New { ip } => say!("New: {ip}"),
            Change::Gone { ip } => say!("Gone: {ip}"),
            Change::Moved { from, ip } => say!("Moved: {from} is at {ip}"),
            Change::Opened { ip, port } => say!("Opened: {port} of {ip}"),
            Change::Closed { ip, port } => say!("Closed: {port} of {ip}"),
        }
    }
}

/// `warren edge devices`.
pub(super) async fn devices(client: &Asked, args: LanDevices, json: bool) -> anyhow::Result<()> {
    let found = inventory(client).await?;
    if json {
        return output::json(&found);
    }
    if args.csv {
        output::raw(found.to_csv().as_bytes());
    } else if found.devices.is_empty() {
        say!("No device is known: `warren edge scan` looks for them.");
    } else {
        edge_tables::devices(&found);
    }
    Ok(())
}

/// The card of the device that somebody means.
pub(super) fn card(inventory: &Inventory, who: &str) -> Result<MacAddr, String> {
    if let Ok(mac) = who.parse() {
        return Ok(mac);
    }
    match inventory.find(who)[..] {
        [] => Err(format!("no scan has seen '{who}': see `warren edge devices`, or name its MAC")),
        [device] => device.mac.ok_or_else(|| {
            format!("the MAC of '{who}' isn't known: across a router nobody can be woken")
        }),
        [..] => Err(format!("several devices are called '{who}': name one by its MAC")),
    }
}

/// `warren edge wake`.
pub(super) async fn wake(client: &Asked, who: String, json: bool) -> anyhow::Result<()> {
    let EdgeFound::Woken(woken) = work(client, EdgeWork::Wake(who)).await? else {
        return Err(strange());
    };
    if json {
        return output::json(&woken);
    }
    let interfaces = woken.interfaces.join(", ");
    say!("Called {} on {interfaces}. Whether it wakes shows in a while.", woken.mac);
    Ok(())
}

/// `warren edge forwards check`: fails if nothing answers.
pub(super) async fn check(client: &Asked, forward: ForwardId, json: bool) -> anyhow::Result<()> {
    let EdgeFound::Looked(looked) = work(client, EdgeWork::Check(forward)).await? else {
        return Err(strange());
    };
    if json {
        return output::json(&looked);
    }
    say!("{looked}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said_with_what_to_type() {
        let left_out = |on| left_out("10.0.0.0/16".parse().unwrap(), on);
        let said = left_out(None);
        assert!(said.ends_with("`warren edge scan 10.0.0.0/16` scans it"), "{said}");
        assert!(left_out(Some("site-7")).contains("`warren edge --on site-7 scan 10.0.0.0/16`"));
    }

    #[test]
    fn what_is_repeated_is_said_with_its_interval_as_it_was_set() {
        for (every_secs, every) in [(86_400, "1d"), (129_600, "36h"), (5_400, "90m"), (901, "901s")]
        {
            let plan = ScanPlan::of(vec!["10.50.0.0/24".parse().unwrap()]);
            let rescan = Rescan { every_secs, plan };
            let said = sentence(&RescanStatus { rescan, next_unix: 0, problem: None });
            assert_eq!(said, format!("The edge scans 10.50.0.0/24 each {every}; next in 0s."));
        }
    }
}
