//! Devices behind kernel NATs find each other: the real binary, the real kernel.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Lab, SECOND, in_parallel, kernel_ping, mesh_ipv4};
use warren_lab::warren::Node;
use warren_lab::{NatKind, NatSpec, Plug, Router, WireSpec, isolated};

#[test]
fn two_public_devices_ping_each_other() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (left, _) = lab.public_node("left")?;
        let (mut right, _) = lab.public_node("right")?;
        right.wait_peers(&["left"])?;
        let reply = left.ping_direct("right")?;
        println!("first reply after {:?} ms", reply.rtt_ms);
        kernel_ping(right.host(), mesh_ipv4(&left)?, 5 * SECOND)?;
        let v6 = left.status()?.node.ipv6.context("no mesh IPv6")?;
        kernel_ping(right.host(), v6, 5 * SECOND)?;
        Ok(())
    });
}

/// Where a device of the matrix stands. Kept: dropping a router's handle would end its links.
struct Site {
    node: Node,
    _routers: Vec<Router>,
}

fn site(lab: &Lab<'_>, kind: &str, side: &str) -> Result<Site> {
    let name = format!("{kind}-{side}");
    let mut routers = Vec::new();
    let host = lab.world.host(&name)?;
    let uplink = if kind == "cgnat" {
        let spec = NatSpec::carrier(NatKind::EimApdf);
        routers.push(lab.world.router(&format!("{name}-isp"), lab.world.internet(), spec)?);
        routers[0].lan()
    } else {
        lab.world.internet()
    };
    if kind == "public" {
        uplink.plug(&host, &Plug::ipv4())?;
    } else {
        let nat = NatKind::ALL.into_iter().find(|nat| nat.name() == kind);
        let spec = NatSpec::new(nat.unwrap_or(NatKind::EimApdf));
        let home = lab.world.router(&format!("{name}-nat"), uplink, spec)?;
        home.lan().plug(&host, &Plug::ipv4())?;
        routers.push(home);
    }
    Ok(Site { node: Node::start(&lab.warren, &host, &["--join", &lab.link])?, _routers: routers })
}

struct Expected {
    left: &'static str,
    right: &'static str,
    direct: bool,
}

/// `testing/expectations/nat-matrix.tsv`.
fn expectations() -> Vec<Expected> {
    let table = include_str!("../../expectations/nat-matrix.tsv");
    let rows = table.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [left, right, direct, _why] = columns[..] else { panic!("four columns: {line}") };
        assert!(["yes", "no"].contains(&direct), "yes or no: {line}");
        Expected { left, right, direct: direct == "yes" }
    })
    .collect()
}

#[test]
fn every_pair_of_nats_connects_directly_where_rfc_4787_allows_it() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let expected = expectations();
        let kinds: BTreeMap<&str, ()> = expected.iter().map(|it| (it.right, ())).collect();
        let mut sites = BTreeMap::new();
        for &kind in kinds.keys() {
            for side in ["a", "b"] {
                sites.insert((kind, side), site(&lab, kind, side)?);
            }
        }
        for site in sites.values_mut() {
            site.node.wait_connected()?;
        }
        let everybody = 2 * kinds.len() - 1;
        for site in sites.values_mut() {
            site.node.wait_status("sees everybody", 20 * SECOND, |status| {
                status.peers.iter().filter(|peer| peer.online).count() == everybody
            })?;
        }
        let jobs: Vec<_> = expected
            .iter()
            .map(|pair| {
                let from = &sites[&(pair.left, "a")].node;
                move || try_pair(from, pair)
            })
            .collect();
        let outcomes = in_parallel(6, jobs)?;
        let wrong: Vec<&String> = outcomes.iter().filter_map(|it| it.as_ref().err()).collect();
        for (pair, outcome) in expected.iter().zip(&outcomes) {
            let outcome = match outcome {
                Ok(words) => words.clone(),
                Err(words) => format!("WRONG: {words}"),
            };
            println!("{:>12} x {:<12} {outcome}", pair.left, pair.right);
        }
        ensure!(wrong.is_empty(), "{} of {} pairs: {wrong:#?}", wrong.len(), expected.len());
        Ok(())
    });
}

/// What came of a pair: words for the table, or what is wrong.
fn try_pair(from: &Node, pair: &Expected) -> Result<std::result::Result<String, String>> {
    let to = format!("{}-b", pair.right);
    if pair.direct {
        let replies = from.ping(&to, None)?;
        return Ok(match replies.iter().find(|reply| reply.rtt_ms.is_some()) {
            Some(first) if replies.last().is_some_and(|last| last.path == "direct") => {
                let lost = replies.iter().take_while(|reply| reply.rtt_ms.is_none()).count();
                Ok(format!(
                    "direct, first reply {:.0?} ms, {lost} lost",
                    first.rtt_ms.unwrap_or(0.0)
                ))
            }
            _ => Err(format!("{} x {}: not direct: {replies:?}", pair.left, pair.right)),
        });
    }
    let replies = from.ping(&to, Some(2))?;
    let view = from.peer(&to)?;
    let why = view.reason.clone().or_else(|| replies.last().and_then(|it| it.reason.clone()));
    Ok(match why {
        _ if view.path == "direct" => Err(format!("{} x {}: direct?!", pair.left, pair.right)),
        _ if replies.iter().any(|reply| reply.rtt_ms.is_some()) => {
            Err(format!("{} x {}: answered: {replies:?}", pair.left, pair.right))
        }
        Some(why) => Ok(format!("not direct: {why}")),
        None => Err(format!("{} x {}: no reason given: {view:?}", pair.left, pair.right)),
    })
}

#[test]
fn two_ipv6_firewalls_open_to_each_other() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut nodes = Vec::new();
        let mut routers = Vec::new();
        for name in ["left", "right"] {
            // Per-destination mapping on both sides: no IPv4 path can be found, so IPv6 must be.
            let spec = NatSpec::new(NatKind::Apdm).with_ipv6();
            let router = world.router(&format!("{name}-home"), world.internet(), spec)?;
            let (host, _) = lab.host(name, router.lan(), &Plug::dual())?;
            routers.push(router);
            nodes.push(lab.join(&host)?);
        }
        nodes[0].wait_peers(&["right"])?;
        let reply = nodes[0].ping_direct("right")?;
        let endpoint = reply.endpoint.context("a direct path has an endpoint")?;
        ensure!(endpoint.is_ipv6(), "the path goes over {endpoint}");
        Ok(())
    });
}

#[test]
fn an_ipv4_only_device_and_a_dual_one_meet_over_ipv4() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let spec = NatSpec::new(NatKind::EimApdf).with_ipv6();
        let dual_home = world.router("dual-home", world.internet(), spec)?;
        let (dual, _) = lab.host("dual", dual_home.lan(), &Plug::dual())?;
        let dual = lab.join(&dual)?;
        let (mut single, _, _home) = lab.home_node("single", NatKind::EimApdf)?;
        single.wait_peers(&["dual"])?;
        let reply = single.ping_direct("dual")?;
        ensure!(reply.endpoint.is_some_and(|it| it.is_ipv4()), "{reply:?}");
        dual.ping_direct("single")?;
        Ok(())
    });
}

#[test]
fn two_homes_behind_one_hairpinning_carrier_meet() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let spec = NatSpec::carrier(NatKind::EimApdf).hairpinning();
        let carrier = world.router("carrier", world.internet(), spec)?;
        let mut nodes = Vec::new();
        let mut homes = Vec::new();
        for name in ["left", "right"] {
            let home = world.router(
                &format!("{name}-home"),
                carrier.lan(),
                NatSpec::new(NatKind::EimApdf),
            )?;
            let (host, _) = lab.host(name, home.lan(), &Plug::ipv4())?;
            homes.push(home);
            nodes.push(lab.join(&host)?);
        }
        nodes[0].wait_peers(&["right"])?;
        let reply = nodes[0].ping_direct("right")?;
        let outside = std::net::IpAddr::V4(carrier.wan().v4()?);
        ensure!(reply.endpoint.is_some_and(|it| it.ip() == outside), "{reply:?}");
        Ok(())
    });
}

#[test]
fn two_devices_in_one_home_use_the_lan_even_where_the_router_does_not_hairpin() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let home = lab.home("home", NatKind::EimApdf)?;
        let (left, _) = lab.host("left", home.lan(), &Plug::ipv4())?;
        let (right, link) = lab.host("right", home.lan(), &Plug::ipv4())?;
        let (mut left, _right) = (lab.join(&left)?, lab.join(&right)?);
        left.wait_peers(&["right"])?;
        let reply = left.ping_direct("right")?;
        let lan = std::net::IpAddr::V4(link.v4()?);
        ensure!(reply.endpoint.is_some_and(|it| it.ip() == lan), "{reply:?}");
        Ok(())
    });
}

#[test]
fn the_first_reply_comes_soon_after_the_first_ping_over_20_ms_lines() {
    isolated(|world| {
        const DEVICES: usize = 6;
        let lab = Lab::start(world)?;
        let mut nodes = Vec::new();
        let mut homes = Vec::new();
        for number in 0..DEVICES {
            let spec =
                NatSpec::new(NatKind::EimApdf).wire(WireSpec::delay(Duration::from_millis(20)));
            let home = world.router(&format!("home{number}"), world.internet(), spec)?;
            let (host, _) = lab.host(&format!("device{number}"), home.lan(), &Plug::ipv4())?;
            homes.push(home);
            nodes.push(lab.join(&host)?);
        }
        for node in &mut nodes {
            node.wait_status("sees everybody", 20 * SECOND, |status| {
                status.peers.iter().filter(|peer| peer.online).count() == DEVICES - 1
            })?;
        }
        let mut times = Vec::new();
        for left in 0..DEVICES {
            for right in left + 1..DEVICES {
                let to = mesh_ipv4(&nodes[right])?;
                times.push(kernel_ping_once(&nodes[left], to)?);
            }
        }
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!(
            "first ping to first reply, 20 ms each way on each leg, {} pairs: p50 {:?}, p95 {:?}, worst {:?}",
            times.len(),
            at(50),
            at(95),
            at(100)
        );
        // The goal is 0.7 s and 1 s on a quiet machine; the bound is for a loaded one.
        ensure!(at(50) < 3 * SECOND, "half of the pairs took longer than {:?}", at(50));
        Ok(())
    });
}

/// One echo request that waits for its answer: the packet that woke the tunnel isn't lost.
fn kernel_ping_once(from: &Node, to: std::net::Ipv4Addr) -> Result<Duration> {
    let begun = Instant::now();
    from.host().run(&["ping", "-n", "-c", "1", "-W", "10", &to.to_string()])?;
    Ok(begun.elapsed())
}

#[test]
fn each_device_tells_its_own_nat_by_two_stun_addresses() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut public, _) = lab.public_node("public")?;
        let known =
            |status: &warren_lab::warren::Status, want: &str| status.node.nat["ipv4"] == want;
        public.wait_status("knows that it has no NAT", 20 * SECOND, |it| known(it, "none"))?;
        for kind in NatKind::ALL {
            let (mut node, _, _home) = lab.home_node(kind.name(), kind)?;
            let want = match kind {
                NatKind::EimEif | NatKind::EimAdf | NatKind::EimApdf => "endpoint-independent",
                // On the address alone or on the port too: for finding a path it is the same.
                NatKind::Apdm => "address-dependent",
                NatKind::UdpBlocked => {
                    node.wait_status("knows that UDP is blocked", 40 * SECOND, |status| {
                        status.node.nat["udp"] == false && status.health("udp-blocked").is_some()
                    })?;
                    continue;
                }
            };
            node.wait_status(&format!("knows its mapping: {want}"), 20 * SECOND, |it| {
                known(it, want)
            })?;
            let report: serde_json::Value =
                serde_json::from_str(&node.run(&["netcheck", "--json"])?)?;
            ensure!(report["nat"]["ipv4"] == want, "netcheck says {report}");
        }
        Ok(())
    });
}
