//! Bad days of the kernel path: what must not be reached, and what must not stay.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::watch;
use warren_edge::kernel::opening::{OpenForward, Opening};
use warren_edge::kernel::path::{KernelPath, clean_up};
use warren_edge::{Edge, Problem, Scanner};
use warren_lab::{Host, isolated, wait_for};
use warren_proto::{
    DeviceName, EdgeDuty, Forward, ForwardId, ForwardProtocol, Gateway, GatewayId, INTERNET,
    LanSource, Ports, VirtualDevice, VirtualDeviceId,
};

use crate::common::{
    EDGE_LAN, LIMIT, MESH, Site, TECHNICIAN, ask, ask_tcp, ask_udp, config, connect, ip, serve,
    target,
};

const CAMERA: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);
const DEVICE: Ipv4Addr = Ipv4Addr::new(100, 80, 7, 1);

/// Ports of both kinds that lead to the camera, a virtual device and a gateway.
fn everything() -> EdgeDuty {
    let forward = |id, port, last_port| Forward {
        id: ForwardId(id),
        name: format!("forward {id}"),
        protocol: ForwardProtocol::Both,
        port,
        last_port,
        target: target(CAMERA),
        target_port: if port == last_port { 80 } else { port },
        source: LanSource::Masquerade,
        untested: false,
        schedule: None,
    };
    EdgeDuty {
        forwards: vec![forward(1, 8080, 8080), forward(2, 8000, 8010), forward(3, 9090, 9090)],
        virtual_devices: vec![VirtualDevice {
            id: VirtualDeviceId(1),
            name: DeviceName::from_free_text("camera"),
            ipv4: DEVICE,
            target: target(CAMERA),
            ports: vec![Ports::All],
            source: LanSource::Masquerade,
            untested: false,
        }],
        gateways: vec![Gateway {
            id: GatewayId(1),
            mesh: "100.80.16.0/24".parse().expect("a network"),
            lan: "192.168.1.0/24".parse().expect("a network"),
            source: LanSource::Masquerade,
        }],
        ..EdgeDuty::default()
    }
}

/// A camera in the LAN, and all of [`everything`] open.
fn office(world: &warren_lab::World) -> Result<(Site, crate::common::Running)> {
    let site = Site::build(world)?;
    let camera = site.device(world, "camera", CAMERA)?;
    serve(&camera, 80)?;
    let running = site.start(everything())?;
    running.until("the duty", |report| report.applied > 0)?;
    ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
    Ok((site, running))
}

/// Hears what is sent to the technician's port, from whatever address.
fn hears(technician: &Host, port: u16) -> Result<UdpSocket> {
    technician.enter(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    })?
}

#[test]
fn a_gateway_leads_to_the_lan_and_not_to_the_edge_itself() {
    isolated(|world| {
        let (site, running) = office(world)?;
        serve(&site.edge, 22)?;
        let laptop = &site.technician;
        let edge_mac = crate::common::mac_of(&site.edge, "w0")?;
        for last in [2, 255] {
            laptop.ip(&[format!("neigh replace 100.80.16.{last} lladdr {edge_mac} dev w0")])?;
        }
        ensure!(ask_tcp(laptop, MESH, 22)?.starts_with("edge"), "by its own address it is reached");
        ensure!(ask_tcp(laptop, [100, 80, 16, 9].into(), 80)?.starts_with("camera"));
        ensure!(ask_tcp(laptop, [100, 80, 16, 2].into(), 22).is_err(), "the edge's own port");
        ensure!(ask_udp(laptop, [100, 80, 16, 255].into(), 22).is_err(), "by broadcast");
        running.stop()
    });
}

#[test]
fn nobody_speaks_into_the_mesh_in_the_name_of_what_stands_behind_the_edge() {
    isolated(|world| {
        let (site, running) = office(world)?;
        // Another interface, which no target is reached by and which forwards by itself.
        let guest = world.host("guest")?;
        ip("link add g0 netns edge type veth peer name eth0 netns guest")?;
        site.edge.ip(&["link set g0 up", "addr add 10.9.0.1/24 dev g0"])?;
        for name in ["all", "g0"] {
            site.edge.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
        }
        site.edge.sysctl("net.ipv4.conf.g0.forwarding", "1")?;
        guest.ip(&[
            "link set eth0 up".to_owned(),
            "addr add 10.9.0.7/24 dev eth0".to_owned(),
            format!("addr add {DEVICE}/32 dev eth0"),
            "route add default via 10.9.0.1".to_owned(),
        ])?;
        let socket = hears(&site.technician, 5555)?;
        guest.enter(|| -> Result<()> {
            for source in [DEVICE, Ipv4Addr::new(10, 9, 0, 7)] {
                UdpSocket::bind((source, 0))?.send_to(b"?", (TECHNICIAN, 5555))?;
            }
            Ok(())
        })??;
        // What was routed before is none of the edge's business; a stolen name is.
        let (_, from) = socket.recv_from(&mut [0; 8])?;
        ensure!(from.ip() == Ipv4Addr::new(10, 9, 0, 7), "{from}");
        socket.set_read_timeout(Some(Duration::from_millis(700)))?;
        ensure!(socket.recv_from(&mut [0; 8]).is_err(), "in the virtual device's name");
        running.stop()
    });
}

#[test]
fn a_ruleset_that_was_saved_with_our_table_in_it_can_be_loaded() {
    isolated(|world| {
        let (site, running) = office(world)?;
        let saved = site.ruleset()?;
        ensure!(saved.contains("masked-tcp"), "{saved}");
        let output = site.edge.command("nft").args(["-c", "-f", "-"]).output_with(&saved)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        running.stop()
    });
}

#[test]
fn what_is_taken_away_is_closed_although_nft_fails() {
    isolated(|world| {
        let (site, running) = office(world)?;
        // `nft` is there no more, as in the midst of an upgrade.
        site.edge.run(&["mount", "--bind", "/dev/null", "/usr/sbin/nft"])?;
        let mut duty = everything();
        let fewer = duty.forwards.split_off(2);
        running.duty.send_replace(Some(duty));
        let report = running.until("the problem", |report| {
            report.problems.iter().any(|problem| matches!(problem, Problem::Nothing { .. }))
        })?;
        ensure!(report.open.is_empty(), "{report:?}");
        ensure!(ask_tcp(&site.technician, MESH, fewer[0].port).is_err(), "it stays open");
        running.stop()
    });
}

#[test]
fn the_hosts_own_published_ports_go_on_when_it_begins_to_forward_and_when_the_edge_ends() {
    isolated(|world| {
        let (site, running) = office(world)?;
        let container = world.host("container")?;
        ip("link add c0 netns edge type veth peer name eth0 netns container")?;
        site.edge.ip(&["link set c0 up", "addr add 172.17.0.1/16 dev c0"])?;
        container.ip(&[
            "link set eth0 up",
            "addr add 172.17.0.2/16 dev eth0",
            "route add default via 172.17.0.1",
        ])?;
        serve(&container, 80)?;
        let adjacent = site.edge.enter(|| Scanner::open(&site.state).adjacent())??;
        ensure!(adjacent.networks == ["192.168.1.0/24".parse()?], "{adjacent:?}");
        ensure!(adjacent.too_large == ["172.17.0.0/16".parse()?], "{adjacent:?}");
        site.edge.sysctl("net.ipv4.ip_forward", "1")?;
        site.edge.nft(
            "table ip docker {\n\tchain prerouting {\n\t\ttype nat hook prerouting priority -100;\n\t\tip \
             daddr 192.168.1.2 tcp dport 5000 dnat to 172.17.0.2:80\n\t}\n}\n",
        )?;
        let neighbour = site.device(world, "neighbour", [192, 168, 1, 30].into())?;
        ensure!(ask_tcp(&neighbour, EDGE_LAN, 5000)?.starts_with("container"));
        running.stop()?;
        ensure!(site.forwards("eth0")?, "forwarding was another's by then");
        ensure!(ask_tcp(&neighbour, EDGE_LAN, 5000)?.starts_with("container"));
        Ok(())
    });
}

#[test]
fn flows_that_began_while_the_table_was_away_are_led_where_they_should() {
    isolated(|world| {
        let (site, running) = office(world)?;
        let socket = site.technician.enter(|| -> Result<UdpSocket> {
            let socket = UdpSocket::bind((TECHNICIAN, 4444))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.connect((MESH, 9090))?;
            Ok(socket)
        })??;
        let answers = || {
            let _ = socket.send(b"?");
            let mut buffer = [0; 64];
            socket.recv(&mut buffer).is_ok()
        };
        site.edge.run(&["nft", "flush", "ruleset"])?;
        let _ = answers();
        wait_for("the same flow to be led again", LIMIT, || Ok(answers().then_some(())))?;
        running.stop()
    });
}

#[test]
fn another_table_of_the_same_shape_is_noticed() {
    isolated(|world| {
        let (site, running) = office(world)?;
        let ours = site.edge.run(&["nft", "list", "table", "inet", "warren-edge-w0"])?;
        let other = ours.replace("192.168.1.9", "192.168.1.20");
        let repaired = running.report.borrow().repaired;
        site.edge.nft(&format!("delete table inet warren-edge-w0\n{other}"))?;
        running.until("the repair", |report| report.repaired > repaired)?;
        wait_for("the camera", LIMIT, || {
            Ok(ask_tcp(&site.technician, MESH, 8080)
                .is_ok_and(|s| s.starts_with("camera"))
                .then_some(()))
        })?;
        running.stop()
    });
}

#[test]
fn forwarding_that_another_program_ends_is_switched_on_again() {
    isolated(|world| {
        let (site, running) = office(world)?;
        site.edge.sysctl("net.ipv4.conf.eth0.forwarding", "0")?;
        wait_for("forwarding", Duration::from_secs(15), || {
            Ok(site.forwards("eth0")?.then_some(()))
        })?;
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
        running.stop()
    });
}

#[test]
fn a_killed_edges_table_goes_although_the_note_of_it_is_damaged() {
    isolated(|world| {
        let site = Site::build(world)?;
        site.edge.nft("table inet warren-edge-warren0 {\n}\n")?;
        std::fs::write(site.state.join("edge-host.json"), b"{")?;
        site.edge.enter(|| clean_up(&site.state))??;
        ensure!(!site.ruleset()?.contains("warren-edge"), "it stays");
        Ok(())
    });
}

#[test]
fn what_the_hosts_own_rules_lead_on_from_a_public_address_is_no_part_of_the_internet() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let public = Ipv4Addr::new(198, 51, 100, 1);
        site.edge.ip(&[format!("addr add {public}/32 dev lo"), "link set lo up".to_owned()])?;
        // As Docker publishes a port, or a router leads one in.
        site.edge.nft(&format!(
            "table ip published {{\n\tchain prerouting {{\n\t\ttype nat hook prerouting priority dstnat;\n\t\t\
             ip daddr {{ {public}, {MESH} }} tcp dport 8443 dnat to {CAMERA}:80\n\t}}\n\t\
             chain postrouting {{\n\t\ttype nat hook postrouting priority srcnat;\n\t\t\
             ct status dnat masquerade\n\t}}\n}}\n"
        ))?;
        let edge_mac = crate::common::mac_of(&site.edge, "w0")?;
        site.technician.ip(&[
            format!("route add {public}/32 dev w0"),
            format!("neigh replace {public} lladdr {edge_mac} dev w0"),
        ])?;
        let mut duty = everything();
        duty.gateways.push(Gateway {
            id: GatewayId(2),
            mesh: INTERNET,
            lan: INTERNET,
            source: LanSource::Masquerade,
        });
        let running = site.start(duty)?;
        running.until("the duty", |report| report.applied > 0)?;
        // By its mesh address the edge is asked as itself: that is for the policy to judge.
        ensure!(ask_tcp(&site.technician, MESH, 8443)?.starts_with("camera"));
        ensure!(ask_tcp(&site.technician, public, 8443).is_err(), "the LAN is reached");
        running.stop()
    });
}

#[test]
fn what_is_taken_away_ends_although_an_interface_was_unplugged_meanwhile() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        site.edge.ip(&["link add d0 type bridge", "link set d0 up"])?;
        let opening = |ports: &[u16]| {
            let duty = everything().forwards;
            let forwards = ports.iter().map(|port| OpenForward {
                port: *port,
                last_port: *port,
                ..OpenForward::new(&duty[0], CAMERA)
            });
            Opening { forwards: forwards.collect(), ..Opening::nothing(MESH) }
        };
        let lan = ["eth0".to_owned(), "d0".to_owned()].into();
        let state = site.state.clone();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut path = site.edge.enter(|| -> Result<KernelPath> {
            let mut path = KernelPath::open(&state, "w0")?;
            runtime()?.block_on(path.apply(&opening(&[8080, 8081]), &opening(&[]), &lan))?;
            Ok(path)
        })??;
        let mut kept = connect(&site.technician, MESH, 8080)?;
        let mut removed = connect(&site.technician, MESH, 8081)?;
        ensure!(ask(&mut kept).is_ok() && ask(&mut removed).is_ok());
        site.edge.ip(&["link del d0"])?;
        site.edge.enter(|| -> Result<()> {
            let applied = runtime()?.block_on(path.apply(&opening(&[8080]), &opening(&[]), &lan));
            ensure!(applied.is_err(), "the interface is gone");
            ensure!(path.opening() == Some(&opening(&[8080])), "it says what is open");
            Ok(())
        })??;
        ensure!(ask(&mut kept)?.starts_with("camera"));
        ensure!(ask(&mut removed).is_err(), "it goes on");
        drop(path);
        Ok(())
    });
}

#[test]
fn nothing_that_the_edge_waits_for_holds_up_the_daemon() {
    isolated(|world| {
        let site = Site::build(world)?;
        site.drop_forwarding()?;
        // `nft` takes its time, as with tables of a hundred thousand blocked addresses.
        let slow = world.logs().join("nft");
        std::fs::copy("/usr/sbin/nft", world.logs().join("real-nft"))?;
        let real = world.logs().join("real-nft");
        std::fs::write(&slow, format!("#!/bin/sh\nsleep 1\nexec {} \"$@\"\n", real.display()))?;
        let slow = slow.display().to_string();
        site.edge.run(&["chmod", "+x", &slow])?;
        site.edge.run(&["mount", "--bind", &slow, "/usr/sbin/nft"])?;
        let state = site.state.clone();
        let longest = site.edge.enter(|| -> Result<Duration> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (_duty, receiver) = watch::channel(Some(everything()));
                let edge = Edge::start(config(&state), receiver);
                let mut report = edge.report();
                let (mut longest, mut last) = (Duration::ZERO, Instant::now());
                let mut beat = async || loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                };
                let told = report.wait_for(|report| !report.problems.is_empty());
                tokio::select! {
                    told = tokio::time::timeout(LIMIT, told) => drop(told??),
                    () = beat() => {}
                }
                tokio::select! {
                    () = edge.stop() => {}
                    () = beat() => {}
                }
                Ok(longest)
            })
        })??;
        println!("the longest wait was {longest:?}");
        ensure!(longest < Duration::from_millis(500), "{longest:?}");
        Ok(())
    });
}
