//! Fifty places that all have 192.168.1.0/24, and a technician who looks after them.

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::impostors::{Impostor, SAYS};
use common::{Lab, SECOND, in_parallel, lan};
use serde_json::Value;
use warren_lab::warren::Node;
use warren_lab::{Host, NatKind, Plug, isolated, wait_for};

const SITES: usize = 50;
/// Sites that are built, and scanned, at the same time.
const AT_ONCE: usize = 4;
const DEVICE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);

/// A place with an edge, and one device.
struct Place {
    edge: Node,
    device: Host,
    plays: Impostor,
}

impl Place {
    fn build(lab: &Lab<'_>, number: usize) -> Result<Self> {
        let name = format!("site-{number}");
        let plays = Impostor::ALL[number % Impostor::ALL.len()];
        let router = lab.home(&format!("{name}-nat"), NatKind::EimApdf)?;
        let (device, _) =
            lab.host(&format!("{name}-dev"), router.lan(), &Plug::ipv4().at(DEVICE))?;
        plays.play(&device, DEVICE)?;
        let (host, _) = lab.host(&name, router.lan(), &Plug::ipv4())?;
        let edge = lab.join(&host)?;
        lan::enable(&edge)?;
        Ok(Self { edge, device, plays })
    }

    /// Scans the LAN, and gives what was found a name in the mesh.
    fn open(&self) -> Result<Duration> {
        let begun = Instant::now();
        let found: Value = serde_json::from_str(&self.edge.run(&["--json", "edge", "scan"])?)?;
        let took = begun.elapsed();
        let device = found["devices"].get(DEVICE.to_string()).context("the device wasn't found")?;
        self.plays.check(device)?;
        self.edge.run(&["edge", "virtual-devices", "add", "thing", &DEVICE.to_string()])?;
        Ok(took)
    }

    /// The technician reaches the device by its name.
    fn is_reached_from(&self, technician: &Host) -> Result<()> {
        let (site, device) = (self.edge.host().name(), self.device.name());
        let name = format!("thing.{site}.home.warren.internal");
        let ip = wait_for(&format!("{name} to resolve"), 20 * SECOND, || {
            lan::resolve(technician, &name)
        })?;
        wait_for(&format!("{name} to answer"), 20 * SECOND, || {
            let said = lan::datagram(technician, (ip, SAYS));
            Ok(said.is_ok_and(|said| said.contains(&format!("{device}:"))).then_some(()))
        })?;
        if self.plays == Impostor::Camera {
            let page = lan::page(technician, (ip, 80))?;
            ensure!(page.contains(device), "another's page at {name}: {page}");
        }
        Ok(())
    }
}

#[test]
fn fifty_sites_with_one_range_are_told_apart_by_name() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let begun = Instant::now();
        let jobs = (1..=SITES).map(|number| {
            let lab = &lab;
            move || Place::build(lab, number)
        });
        let places = in_parallel(AT_ONCE, jobs.collect())?;
        println!("{SITES} sites stand after {:?}", begun.elapsed());

        let jobs = places.iter().map(|place| move || place.open());
        let took = in_parallel(AT_ONCE, jobs.collect())?;
        let longest = took.iter().max().context("fifty of them")?;
        println!(
            "all are scanned and open after {:?}; the longest scan took {longest:?}",
            begun.elapsed()
        );

        let home = lab.home("technician-home", NatKind::EimApdf)?;
        let (own, _) = lab.host("own-printer", home.lan(), &Plug::ipv4().at(DEVICE))?;
        lan::serve(&own, SAYS)?;
        let (host, _) = lab.host("technician", home.lan(), &Plug::ipv4())?;
        let _technician = lab.join(&host)?;
        let asked = Instant::now();
        for place in &places {
            place.is_reached_from(&host)?;
        }
        println!("the technician has reached all of them after {:?}", asked.elapsed());
        let own = lan::datagram(&host, (DEVICE, SAYS))?;
        ensure!(own.contains("own-printer"), "his own LAN is as it was: {own}");
        Ok(())
    });
}
