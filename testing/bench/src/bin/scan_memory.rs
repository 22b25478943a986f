//! What a scan of a whole /16 holds in memory, of which a quarter answers.
//!
//! `cargo run --release -p warren-bench --bin scan_memory`
//!
//! 16,383 devices, each with a card, two names and three services, go through the real scan on
//! virtual time, into what is known and onto disk; then all of it once more, as a repeated scan
//! does. Bytes are counted by the allocator.

use std::alloc::System;
use std::fs;
use std::io::{BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use warren_proto::MacAddr;
use warren_scan::{
    Ended, Finding, Inventory, Known, Listing, NameSource, Probe, Scan, ScanEvent, ScanPlan, Scope,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A /18 of the /16, but for the network's own address.
const DEVICES: usize = 16_383;

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("warren-scan-memory-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = measure(&folder.join("edge-devices.json"));
    fs::remove_dir_all(&folder)?;
    result
}

fn measure(file: &Path) -> Result<()> {
    let start = held();
    println!("{:.1} MiB resident to begin with", resident("VmRSS:")?);
    let mut known = Known::default();
    for round in 1..=2 {
        let before = held();
        let own = scan(|event| known.take(event, round))?;
        println!(
            "scan {round}: {} bytes a device more at its end, and {} of the scan itself",
            (held() - before) / DEVICES,
            own / DEVICES
        );
        let network = "10.60.0.0/16".parse()?;
        known.end(&Scope { networks: vec![network], links: vec![network] }, Vec::new(), round);
        keep(known.inventory(), file)?;
        warren_net::release_freed_memory();
        let devices = known.inventory().devices.len();
        ensure!(devices == DEVICES, "{devices} devices");
        println!(
            "kept: {} bytes a device ({} on disk); {:.1} MiB resident, at most {:.1}",
            (held() - start) / DEVICES,
            fs::metadata(file)?.len() as usize / DEVICES,
            resident("VmRSS:")?,
            resident("VmHWM:")?
        );
    }
    drop(known);
    let read: Inventory = serde_json::from_reader(BufReader::new(fs::File::open(file)?))?;
    ensure!(read.devices.len() == DEVICES, "{} devices were read", read.devices.len());
    println!("read: {} bytes a device", (held() - start) / DEVICES);
    Ok(())
}

/// As the edge does.
fn keep(known: &Inventory, file: &Path) -> Result<()> {
    let (mut listing, mut file) = (Listing::json(), fs::File::create(file)?);
    while let Some(piece) = listing.next(known) {
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

/// Scans on virtual time, to the end; returns how many bytes the scan itself held then.
fn scan(mut take: impl FnMut(ScanEvent)) -> Result<usize> {
    let mut now = Instant::now();
    let plan = ScanPlan { rate: 1000, ..ScanPlan::of(vec!["10.60.0.0/16".parse()?]) };
    let mut scan = Scan::new(plan, |_| true, now)?;
    loop {
        while let Some(probe) = scan.poll_probe(now) {
            answer(&mut scan, probe, now);
        }
        scan.handle_timeout(now);
        while let Some(event) = scan.poll_event() {
            take(event);
        }
        let Some((due, _)) = scan.poll_timeout() else { break };
        now = due.max(now + Duration::from_micros(1));
    }
    let with_it = held();
    drop(scan);
    Ok(with_it - held())
}

fn answer(scan: &mut Scan, probe: Probe, now: Instant) {
    let Some(ip) = probe.address() else { return };
    let number = ip.to_bits() - Ipv4Addr::new(10, 60, 0, 0).to_bits();
    let is_there = (1..=DEVICES as u32).contains(&number);
    let said = |text: String| Some(text).filter(|_| is_there);
    let answered = |finding| if is_there { Ended::Answer(finding) } else { Ended::Silence };
    let ended = match probe {
        Probe::Arp(_) | Probe::Call(_) | Probe::Solicit(..) => {
            let [_, _, high, low] = number.to_be_bytes();
            if is_there {
                scan.handle_neighbour(ip, MacAddr([0x54, 0x8c, 0x81, 1, high, low]), now);
            }
            return;
        }
        Probe::Tcp(_, 80) => answered(Finding {
            rtt: Some(Duration::from_micros(800)),
            banner: said("lighttpd/1.4.59 (Debian)".to_owned()),
            title: said(format!("IP camera {number}: live view")),
            ..Finding::default()
        }),
        Probe::Tcp(_, 443 | 554) => {
            answered(Finding { rtt: Some(Duration::from_micros(700)), ..Finding::default() })
        }
        Probe::Name(_, NameSource::Mdns) => {
            answered(Finding { name: said(format!("camera-{number}.local")), ..Finding::default() })
        }
        Probe::Name(_, NameSource::NetBios) => {
            answered(Finding { name: said(format!("CAMERA-{number}")), ..Finding::default() })
        }
        Probe::Name(..) | Probe::Ping(_) => Ended::Silence,
        Probe::Tcp(..) | Probe::Udp(..) if is_there => Ended::Closed,
        Probe::Tcp(..) | Probe::Udp(..) => Ended::Silence,
    };
    scan.handle_ended(probe, ended, now);
}

/// Bytes that are allocated at this moment.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated)
}

/// A figure of /proc/self/status, in MiB.
fn resident(name: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such figure")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
