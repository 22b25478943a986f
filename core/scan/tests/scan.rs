//! A scan through its public API, against made-up networks.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "one instant to begin with")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use warren_proto::MacAddr;
use warren_scan::{Ended, Finding, Probe, Scan, ScanEvent, ScanPlan};

/// How long a silent device keeps a probe waiting.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Devices by address, with their open ports.
type Network = BTreeMap<Ipv4Addr, BTreeSet<u16>>;

struct Run {
    found: BTreeSet<Ipv4Addr>,
    services: BTreeSet<(Ipv4Addr, u16)>,
    sent: Vec<(Instant, Probe)>,
    took: Duration,
    ended: usize,
}

/// Drives a scan to its end on virtual time; cancels it after `cancel_after` probes.
fn run(plan: &ScanPlan, adjacent: bool, network: &Network, cancel_after: Option<usize>) -> Run {
    let begun = Instant::now();
    let mut now = begun;
    let mut scan = Scan::new(plan.clone(), |_| adjacent, now).unwrap();
    let mut waiting: BTreeMap<(Instant, usize), (Probe, Ended)> = BTreeMap::new();
    let mut run = Run {
        found: BTreeSet::new(),
        services: BTreeSet::new(),
        sent: Vec::new(),
        took: Duration::ZERO,
        ended: 0,
    };
    loop {
        while let Some(probe) = scan.poll_probe(now) {
            run.sent.push((now, probe));
            if cancel_after == Some(run.sent.len()) {
                scan.cancel();
            }
            let there = probe.address().and_then(|ip| network.get(&ip));
            let answer = || Ended::Answer(Finding::default());
            let (after, ended) = match (probe, there) {
                (Probe::Arp(ip), Some(_)) => {
                    scan.handle_neighbour(ip, MacAddr([2, 0, 0, 0, 0, 1]), now);
                    continue;
                }
                (Probe::Arp(_) | Probe::Call(_) | Probe::Solicit(..), _) => continue,
                (Probe::Tcp(_, port), Some(ports)) if ports.contains(&port) => (1, answer()),
                (Probe::Udp(_, service), Some(ports)) if ports.contains(&service.port()) => {
                    (1, answer())
                }
                (Probe::Tcp(..) | Probe::Udp(..), Some(_)) => (1, Ended::Closed),
                (Probe::Ping(_), Some(_)) => (1, answer()),
                _ => (TIMEOUT.as_millis() as u64, Ended::Silence),
            };
            waiting.insert((now + Duration::from_millis(after), run.sent.len()), (probe, ended));
        }
        scan.handle_timeout(now);
        while let Some(event) = scan.poll_event() {
            match event {
                ScanEvent::Device { ip, .. } => drop(run.found.insert(ip)),
                ScanEvent::Service { ip, port, .. } => drop(run.services.insert((ip, port))),
                ScanEvent::Name { .. } | ScanEvent::Ipv6(_) => {}
                ScanEvent::Ended { .. } => run.ended += 1,
            }
        }
        let timer = scan.poll_timeout().map(|(due, _)| due);
        if let Some(due) = timer {
            assert!(due > now, "no busy loop");
        }
        let answer = waiting.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = [timer, answer].into_iter().flatten().min() else { break };
        now = next;
        while let Some(entry) = waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let (probe, ended) = entry.remove();
            scan.handle_ended(probe, ended, now);
        }
    }
    run.took = now - begun;
    run
}

fn lan() -> impl Strategy<Value = Network> {
    let ports = prop::collection::btree_set(
        prop::sample::select(vec![22_u16, 80, 443, 9100, 161, 5060]),
        0..4,
    );
    prop::collection::btree_map((1_u8..255).prop_map(|n| Ipv4Addr::new(10, 9, 8, n)), ports, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_device_and_service_is_found_once_and_the_rate_is_kept(
        network in lan(), adjacent: bool, rate in 50_u32..1000,
    ) {
        let mut plan = ScanPlan::of(vec!["10.9.8.0/24".parse().unwrap()]);
        plan.rate = rate;
        let run = run(&plan, adjacent, &network, None);
        prop_assert_eq!(run.ended, 1);
        prop_assert_eq!(&run.found, &network.keys().copied().collect::<BTreeSet<_>>());
        let services: BTreeSet<_> =
            network.iter().flat_map(|(ip, ports)| ports.iter().map(|port| (*ip, *port))).collect();
        prop_assert_eq!(run.services, services);
        // In no second more than the rate, but for what was saved up.
        for window in run.sent.windows(rate as usize + 16) {
            let span = window[window.len() - 1].0 - window[0].0;
            prop_assert!(span >= Duration::from_millis(990), "{:?}", span);
        }
        let is_of_port = |probe: &Probe| matches!(probe, Probe::Tcp(..) | Probe::Udp(..));
        let tried: Vec<_> = run.sent.iter().filter(|(_, probe)| is_of_port(probe)).collect();
        let distinct: BTreeSet<_> = tried.iter().map(|(_, probe)| *probe).collect();
        prop_assert_eq!(tried.len(), distinct.len(), "no port is tried twice");
    }

    #[test]
    fn a_cancelled_scan_asks_nothing_more(network in lan(), after in 1_usize..400) {
        let plan = ScanPlan::of(vec!["10.9.8.0/24".parse().unwrap()]);
        let run = run(&plan, true, &network, Some(after));
        prop_assert_eq!(run.ended, 1);
        prop_assert!(run.sent.len() <= after);
    }
}

#[test]
fn a_network_of_256_keeps_to_its_time() {
    let network: Network =
        (1..=40).map(|n| (Ipv4Addr::new(10, 9, 8, n), BTreeSet::from([80, 443]))).collect();
    let plan = ScanPlan::of(vec!["10.9.8.0/24".parse().unwrap()]);
    let near = run(&plan, true, &network, None);
    let far = run(&plan, false, &network, None);
    println!("adjacent {:?}, behind a router {:?}", near.took, far.took);
    assert!(near.took < Duration::from_secs(15) && far.took < Duration::from_secs(40));
}

#[test]
fn a_large_network_is_walked_without_being_listed() {
    let network: Network = (0..=255).map(|n| (Ipv4Addr::new(10, 9, n, 7), [443].into())).collect();
    let mut plan = ScanPlan::of(vec!["10.9.0.0/16".parse().unwrap()]);
    plan.rate = 1000;
    let run = run(&plan, false, &network, None);
    assert_eq!(run.found.len(), 256);
    assert!(run.sent.len() < 300_000, "{}", run.sent.len());
}

#[test]
fn a_card_that_claims_a_whole_large_network_is_not_believed_for_ever() {
    let plan = ScanPlan::of(vec!["10.7.0.0/20".parse().unwrap()]);
    let mut scan = Scan::new(plan, |_| true, Instant::now()).unwrap();
    let now = Instant::now();
    for number in 1..4000_u32 {
        let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 7, 0, 0).to_bits() + number);
        scan.handle_neighbour(ip, MacAddr([2, 0, 0, 0, 0, 1]), now);
    }
    let devices = std::iter::from_fn(|| scan.poll_event()).count();
    assert_eq!(devices, 1024);
    scan.handle_neighbour(Ipv4Addr::new(10, 7, 15, 9), MacAddr([2, 0, 0, 0, 0, 2]), now);
    assert!(scan.poll_event().is_some(), "others are");
}

#[test]
fn a_whole_link_is_called_twice_and_what_may_be_there_is_asked_within_the_rate() {
    let link: ipnet::Ipv4Net = "10.9.8.0/24".parse().unwrap();
    let mut now = Instant::now();
    let mut scan = Scan::new(ScanPlan::of(vec![link]), |_| true, now).unwrap();
    let known: std::net::Ipv6Addr = "fd00::7".parse().unwrap();
    scan.look_for_ipv6(vec![link], [known]);
    let (camera, lone) = (MacAddr([0x3c, 0, 0, 0, 0, 1]), MacAddr([0x3c, 0, 0, 0, 0, 2]));
    let (mut calls, mut solicited, mut told) = (0, Vec::new(), None);
    let begun = now;
    loop {
        while let Some(probe) = scan.poll_probe(now) {
            match probe {
                Probe::Arp(ip) if ip.octets()[3] == 9 => scan.handle_neighbour(ip, camera, now),
                Probe::Arp(_) => {}
                Probe::Call(on) => {
                    assert_eq!(on, link);
                    calls += 1;
                    scan.handle_ipv6_neighbour(link, "fe80::2".parse().unwrap(), lone, now);
                }
                Probe::Solicit(on, ip) => {
                    assert_eq!(on, link);
                    solicited.push(ip);
                    if ip != known {
                        scan.handle_ipv6_neighbour(link, ip, camera, now);
                    }
                }
                Probe::Ping(_) | Probe::Tcp(..) | Probe::Udp(..) | Probe::Name(..) => {
                    scan.handle_ended(probe, Ended::Silence, now);
                }
            }
        }
        scan.handle_timeout(now);
        while let Some(event) = scan.poll_event() {
            if let ScanEvent::Ipv6(neighbours) = event {
                assert!(told.replace(neighbours).is_none(), "told once");
            }
        }
        let Some((due, _)) = scan.poll_timeout() else { break };
        assert!(due > now, "no busy loop");
        now = due;
    }
    let its_own = "fe80::3e00:ff:fe00:1".parse().unwrap();
    assert_eq!((calls, solicited), (2, vec![known, its_own]));
    let told = told.unwrap();
    let heard: Vec<_> = told.iter().map(|it| (it.mac, it.addresses.len())).collect();
    assert_eq!(heard, [(camera, 1), (lone, 1)]);
    let progress = scan.progress();
    assert_eq!(progress.walked, progress.total);
    assert!(progress.sent as f64 <= (now - begun).as_secs_f64() * 300.0 + 16.0);

    let mut scan = Scan::new(ScanPlan::of(vec![link]), |_| true, now).unwrap();
    scan.look_for_ipv6(vec![link], []);
    scan.handle_ipv6_neighbour(link, "fe80::2".parse().unwrap(), lone, now);
    scan.cancel();
    let events: Vec<_> = std::iter::from_fn(|| scan.poll_event()).collect();
    assert_eq!(events, [ScanEvent::Ended { cancelled: true }], "who has no IPv4 isn't known");
}
