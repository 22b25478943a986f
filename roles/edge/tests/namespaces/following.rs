//! Devices that are bound to their card: where they are led to, and what the LAN hears of it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use warren_edge::{Opened, Problem};
use warren_lab::{Host, World, isolated, wait_for};
use warren_net::ArpSocket;
use warren_proto::{Forward, ForwardId, ForwardProtocol, LanSource, LanTarget, MacAddr};

use crate::common::{EDGE_LAN, MESH, Running, Site, TECHNICIAN, ask_tcp, mac_of, serve};
use crate::engine::{CAMERA, forward, forwards};

pub(crate) const NEXT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 77);
const ONE: Opened = Opened::Forward(ForwardId(1));

pub(crate) fn bound(id: u64, mac: MacAddr) -> Forward {
    let forward =
        forward(id, ForwardProtocol::Tcp, 8079 + u16::try_from(id).unwrap_or(0), CAMERA, 80);
    Forward { target: LanTarget { ip: CAMERA, mac: Some(mac) }, ..forward }
}

/// A camera in the LAN at an address, and its card's.
fn camera(site: &Site, world: &World, ip: Ipv4Addr) -> Result<(Host, MacAddr)> {
    let camera = site.device(world, "camera", ip)?;
    serve(&camera, 80)?;
    let mac = mac_of(&camera, "eth0")?.parse()?;
    Ok((camera, mac))
}

/// Gives a host another address, which it tells the LAN.
pub(crate) fn move_to(host: &Host, ip: Ipv4Addr) -> Result<()> {
    host.ip(&["addr flush dev eth0".to_owned(), format!("addr add {ip}/24 dev eth0")])?;
    let _ = host.run(&["ping", "-c1", "-W1", "192.168.1.1"]);
    Ok(())
}

/// Waits until the camera's forward leads to `ip`; how long that took.
pub(crate) fn until_at(running: &Running, ip: Ipv4Addr) -> Result<Duration> {
    let begun = Instant::now();
    running.until("the camera's place", |report| report.open.get(&ONE) == Some(&ip))?;
    Ok(begun.elapsed())
}

/// Does something with a socket for ARP that speaks with a card's address of one's choice.
fn with_arp<T: Send>(
    host: &Host,
    mac: MacAddr,
    run: impl AsyncFnOnce(ArpSocket) -> Result<T> + Send,
) -> Result<T> {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let index = std::fs::read_to_string("/sys/class/net/eth0/ifindex")?.trim().parse()?;
        runtime.block_on(async { run(ArpSocket::open(index, mac.0)?).await })
    })?
}

#[test]
fn a_device_that_is_there_is_opened_within_a_second() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (_camera, mac) = camera(&site, world, CAMERA)?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        let took = until_at(&running, CAMERA)?;
        ensure!(took < Duration::from_secs(1), "{took:?}");
        let mut all = vec![bound(1, mac)];
        for id in 2..6 {
            all.push(bound(id, mac));
            let begun = Instant::now();
            running.duty.send_replace(Some(forwards(all.clone())));
            running.until("the next", |report| {
                report.open.contains_key(&Opened::Forward(ForwardId(id)))
            })?;
            println!("opened {:?} after it was saved", begun.elapsed());
            ensure!(begun.elapsed() < Duration::from_secs(1));
        }
        ensure!(running.report.borrow().problems.is_empty());
        running.stop()
    });
}

#[test]
fn each_next_lease_is_followed_in_time() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, mac) = camera(&site, world, CAMERA)?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        until_at(&running, CAMERA)?;
        let mut took = Vec::new();
        for last in 70..77 {
            let next = Ipv4Addr::new(192, 168, 1, last);
            camera
                .ip(&["addr flush dev eth0".to_owned(), format!("addr add {next}/24 dev eth0")])?;
            let begun = Instant::now();
            // As a DHCP client announces its lease (RFC 5227, section 2.3).
            with_arp(&camera, mac, async |arp| Ok(arp.ask(next, next)?))?;
            until_at(&running, next)?;
            took.push(begun.elapsed());
        }
        took.sort();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("followed to {} leases: median {median:?}, longest {longest:?}", took.len());
        ensure!(longest < Duration::from_secs(2), "{took:?}");
        running.stop()
    });
}

#[test]
fn after_a_restart_no_stranger_at_the_chosen_address_gets_the_traffic() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, mac) = camera(&site, world, CAMERA)?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        until_at(&running, CAMERA)?;
        running.stop()?;
        move_to(&camera, NEXT)?;
        let stranger = site.device(world, "stranger", CAMERA)?;
        serve(&stranger, 80)?;
        // It begins at the address that was chosen, where somebody else answers by now.
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        let begun = Instant::now();
        let mut said = String::new();
        while said.is_empty() && begun.elapsed() < Duration::from_secs(10) {
            said = ask_tcp(&site.technician, MESH, 8080).unwrap_or_default();
        }
        ensure!(said.starts_with("camera"), "{said:?}");
        println!("found after {:?}", begun.elapsed());
        running.stop()?;
        // From then on it begins where the device was last.
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        let took = until_at(&running, NEXT)?;
        println!("known again after {took:?}");
        ensure!(took < Duration::from_secs(1), "{took:?}");
        running.stop()
    });
}

#[test]
fn a_device_that_answers_nobody_is_opened_all_the_same_after_a_while() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, mac) = camera(&site, world, CAMERA)?;
        camera.ip(&["link set eth0 arp off"])?;
        site.edge.ip(&[format!("neigh replace {CAMERA} lladdr {mac} dev eth0")])?;
        let edge_mac = mac_of(&site.edge, "eth0")?;
        camera.ip(&[format!("neigh replace {EDGE_LAN} lladdr {edge_mac} dev eth0")])?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        running.until("that it waits", |report| {
            report.problems.iter().any(|problem| matches!(problem, Problem::Awaited { .. }))
        })?;
        ensure!(ask_tcp(&site.technician, MESH, 8080).is_err(), "it has yet to be heard");
        until_at(&running, CAMERA)?;
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
        ensure!(running.report.borrow().problems.is_empty());
        running.stop()
    });
}

#[test]
fn a_device_is_followed_after_the_edges_cable_was_out() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, mac) = camera(&site, world, CAMERA)?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        until_at(&running, CAMERA)?;
        site.edge.ip(&["link set eth0 down", "link set eth0 up"])?;
        std::thread::sleep(Duration::from_millis(1500));
        move_to(&camera, NEXT)?;
        let took = until_at(&running, NEXT)?;
        println!("followed after {took:?}");
        ensure!(took < Duration::from_secs(2), "{took:?}");
        running.stop()
    });
}

#[test]
fn chatter_on_the_lan_makes_the_table_anew_once_a_second_at_most() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, mac) = camera(&site, world, CAMERA)?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        until_at(&running, CAMERA)?;
        let stranger = site.device(world, "stranger", [192, 168, 1, 66].into())?;
        let own: MacAddr = mac_of(&stranger, "eth0")?.parse()?;
        let before = running.report.borrow().applied;
        let begun = Instant::now();
        // In its own name at the camera's address, and in the camera's.
        for _ in 0..100 {
            for speaker in [own, mac] {
                with_arp(&stranger, speaker, async |arp| Ok(arp.ask(CAMERA, EDGE_LAN)?))?;
            }
        }
        let spoken = begun.elapsed();
        std::thread::sleep(Duration::from_millis(1500));
        let applied = running.report.borrow().applied - before;
        println!("made anew {applied} times in {spoken:?} of chatter");
        ensure!(applied >= 1 && u128::from(applied) <= spoken.as_millis() / 1000 + 3, "{applied}");
        move_to(&camera, CAMERA)?;
        until_at(&running, CAMERA)?;
        running.stop()
    });
}

#[test]
fn cards_that_are_lost_are_looked_for_together() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (listener, _) = camera(&site, world, CAMERA)?;
        let edge_mac: MacAddr = mac_of(&site.edge, "eth0")?.parse()?;
        let lost = (0..60).map(|n| {
            let mac = MacAddr([2, 0, 0, 0, 0, n]);
            let forward = bound(u64::from(n) + 1, mac);
            Forward {
                target: LanTarget { ip: [192, 168, 1, 100 + n].into(), mac: Some(mac) },
                ..forward
            }
        });
        let running = site.start(forwards(lost.collect()))?;
        let heard = with_arp(&listener, MacAddr([2, 0, 0, 0, 1, 1]), async |arp| {
            let mut heard = 0_u32;
            let listening = async {
                while let Ok(word) = arp.hear().await {
                    heard += u32::from(word.mac == edge_mac.0);
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(6), listening).await;
            Ok(heard)
        })?;
        println!("{heard} questions in six seconds");
        // Each is asked for six times, and the network once.
        ensure!((60..=60 * 6 + 254 + 60).contains(&heard), "{heard}");
        let report = running.report.borrow().clone();
        ensure!(report.open.len() == 60, "{report:?}");
        running.stop().context("it ends")
    });
}

#[test]
fn what_shows_the_lan_who_asks_is_opened_once_answers_come_back() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, _) = camera(&site, world, CAMERA)?;
        let shown = Forward {
            source: LanSource::Transparent,
            ..forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)
        };
        let absent = Forward {
            source: LanSource::Transparent,
            ..forward(2, ForwardProtocol::Tcp, 8081, NEXT, 80)
        };
        let masked = forward(3, ForwardProtocol::Tcp, 8082, CAMERA, 80);
        // Somebody knows that the way back is there.
        let trusted = Forward {
            source: LanSource::Transparent,
            untested: true,
            ..forward(4, ForwardProtocol::Udp, 8083, NEXT, 80)
        };
        let running = site.start(forwards(vec![shown, absent, masked, trusted]))?;
        let report = running.until("both problems", |report| {
            let mut problems = report.problems.iter();
            problems.any(|it| matches!(it, Problem::NoWayBack { target: CAMERA, .. }))
                && problems.any(|it| matches!(it, Problem::NoAnswer { target: NEXT, .. }))
        })?;
        let open = [3, 4].map(|id| Opened::Forward(ForwardId(id)));
        ensure!(report.open.keys().eq(&open), "{report:?}");
        ensure!(ask_tcp(&site.technician, MESH, 8080).is_err(), "it is open");
        ensure!(ask_tcp(&site.technician, MESH, 8082)?.ends_with(&EDGE_LAN.to_string()));
        // As the problem says.
        camera.ip(&[format!("route add 100.80.0.0/16 via {EDGE_LAN}")])?;
        let begun = Instant::now();
        let open = wait_for("the forward", Duration::from_secs(15), || {
            Ok(running.report.borrow().open.get(&ONE).copied())
        })?;
        println!("open {:?} after there was a way back", begun.elapsed());
        ensure!(open == CAMERA);
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.ends_with(&TECHNICIAN.to_string()));
        running.stop()
    });
}

#[test]
fn a_forward_at_a_port_of_the_edges_own_is_told_of() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (_camera, _) = camera(&site, world, CAMERA)?;
        serve(&site.edge, 22)?;
        let over = forward(1, ForwardProtocol::Both, 22, CAMERA, 80);
        let beside = forward(2, ForwardProtocol::Tcp, 2222, CAMERA, 80);
        let running = site.start(forwards(vec![over, beside]))?;
        let report = running.until("the duty", |report| report.applied > 0)?;
        ensure!(report.open.len() == 2, "{report:?}");
        let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        ensure!(
            told.len() == 1 && told[0].starts_with("forward 'forward 1': a program"),
            "{told:?}"
        );
        ensure!(ask_tcp(&site.technician, MESH, 22)?.starts_with("camera"));
        running.stop()
    });
}
