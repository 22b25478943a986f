//! What one device of the mesh can't do to the edge and to the others.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use warren_edge::Problem;
use warren_edge::kernel::bounds::{Shares, shares};
use warren_edge::kernel::opening::{OpenDevice, OpenForward, OpenGateway, Opening};
use warren_edge::kernel::render::{Surface, render, table_name};
use warren_lab::{Host, isolated, wait_for};
use warren_net::Connections;
use warren_proto::{
    EdgeDuty, Forward, ForwardProtocol, Gateway, GatewayId, LanSource, Ports, VirtualDeviceId,
};

use crate::common::{MESH, Site, TECHNICIAN, ask, ask_tcp, connect, ip, mac_of, serve};
use crate::engine::{CAMERA, forward, forwards};

#[test]
fn one_device_of_the_mesh_does_not_fill_the_kernels_table_of_connections() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let other = Ipv4Addr::new(100, 80, 0, 6);
        let mac = mac_of(&site.technician, "w0")?;
        site.technician.ip(&[format!("addr add {other}/32 dev w0")])?;
        site.edge.ip(&[format!("neigh replace {other} lladdr {mac} dev w0")])?;
        remember(&site)?;
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Both, 8080, CAMERA, 80)]))?;
        running.until("the duty", |report| report.applied > 0)?;
        let laptop = &site.technician;
        let mut before = connect(laptop, MESH, 8080)?;
        ask(&mut before)?;
        // One that nobody answers is one connection, however much it sends.
        let begin = |source: Ipv4Addr, ports: std::ops::Range<u16>, times: u32| {
            laptop.enter(|| -> Result<()> {
                for (index, port) in ports.enumerate() {
                    let socket = UdpSocket::bind((source, port))?;
                    for _ in 0..times {
                        socket.send_to(b"?", (MESH, 8081))?;
                        socket.send_to(b"?", (MESH, 8080))?;
                    }
                    // Beyond 1,000 at once, 500 a second.
                    if index > 800 && index % 4 == 3 {
                        std::thread::sleep(Duration::from_millis(8));
                    }
                }
                Ok(())
            })?
        };
        begin(TECHNICIAN, 2000..2001, 5000)?;
        ensure!(ask_tcp(laptop, MESH, 8080)?.starts_with("camera"), "it counts as one");
        begin(TECHNICIAN, 10_000..12_200, 1)?;
        ensure!(ask_tcp(laptop, MESH, 8080).is_err(), "there is no end to it");
        ensure!(ask(&mut before)?.starts_with("camera"), "what ran before is cut");
        laptop.ip(&["route replace 100.80.0.0/16 dev w0 src 100.80.0.6"])?;
        ensure!(ask_tcp(laptop, MESH, 8080)?.starts_with("camera"), "others suffer by it");
        let told = wait_for("the problem", Duration::from_secs(15), || {
            let report = running.report.borrow().clone();
            let mut problems = report.problems.into_iter();
            Ok(problems.find(|problem| matches!(problem, Problem::TooMany { .. })))
        })?;
        let Problem::TooMany { by, held, share } = told else { anyhow::bail!("{told}") };
        ensure!(by == TECHNICIAN && held >= share, "{told}");
        println!("{told}");
        let saved = site.ruleset()?;
        let output = site.edge.command("nft").args(["-c", "-f", "-"]).output_with(&saved)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        running.stop()
    });
}

#[test]
fn many_devices_of_the_mesh_leave_room_in_the_kernels_table_of_connections() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let mac = mac_of(&site.technician, "w0")?;
        let laptop = &site.technician;
        // Each within its own share, and counted together.
        let others: Vec<Ipv4Addr> = (0..3).map(|n| [100, 80, 3, 12 + n * 8].into()).collect();
        for other in &others {
            laptop.ip(&[format!("addr add {other}/32 dev w0")])?;
            site.edge.ip(&[format!("neigh replace {other} lladdr {mac} dev w0")])?;
        }
        remember(&site)?;
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Both, 8080, CAMERA, 80)]))?;
        running.until("the duty", |report| report.applied > 0)?;
        let shares = site.edge.enter(shares)?;
        laptop.ip(&["route replace 100.80.0.0/16 dev w0 src 100.80.3.12"])?;
        let mut before = connect(laptop, MESH, 8080)?;
        ask(&mut before)?;
        let begun = Instant::now();
        let ports = 10_000..10_000 + u16::try_from(shares.one - 100)?;
        std::thread::scope(|scope| {
            let begin = |other: &Ipv4Addr| {
                let (other, ports) = (*other, ports.clone());
                scope.spawn(move || begin(laptop, other, ports))
            };
            let threads: Vec<_> = others.iter().map(begin).collect();
            threads.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| panic!("it sends")))
        })?;
        println!("{} were tried in {:?}: {shares:?}", ports.len() * 3, begun.elapsed());
        ensure!(ask_tcp(laptop, MESH, 8080).is_err(), "there is no end to it");
        ensure!(ask(&mut before)?.starts_with("camera"), "what ran before is cut");
        let counts = site.edge.enter(|| Connections::open()?.count_by_source())??;
        let held: u32 = others.iter().filter_map(|other| counts.get(other)).sum();
        ensure!((shares.part - 100..=shares.part + 100).contains(&held), "{held} of {shares:?}");
        laptop.ip(&[format!("route replace 100.80.0.0/16 dev w0 src {TECHNICIAN}")])?;
        ensure!(ask_tcp(laptop, MESH, 8080)?.starts_with("camera"), "all others suffer by it");
        let told = wait_for("the problem", Duration::from_secs(15), || {
            let report = running.report.borrow().clone();
            let mut problems = report.problems.into_iter();
            Ok(problems.find(|problem| matches!(problem, Problem::TooManyTogether { .. })))
        })?;
        println!("{told}");
        running.stop()
    });
}

/// Has the edge's kernel keep flows over UDP as long as a busy computer takes to begin them all.
fn remember(site: &Site) -> Result<()> {
    site.edge.sysctl("net.netfilter.nf_conntrack_udp_timeout", "600")?;
    site.edge.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", "600")
}

/// Begins a connection from each of some ports, as fast as one device may.
fn begin(from: &Host, source: Ipv4Addr, ports: std::ops::Range<u16>) -> Result<()> {
    from.enter(|| {
        for (index, port) in ports.enumerate() {
            UdpSocket::bind((source, port))?.send_to(b"?", (MESH, 8080))?;
            // Beyond 1,000 at once, 500 a second.
            if index > 900 && index % 4 == 3 {
                std::thread::sleep(Duration::from_millis(8));
            }
        }
        Ok(())
    })?
}

/// A table with all that one may have.
fn table(shares: Option<Shares>, helpers: bool) -> String {
    let duty = forwards(vec![
        forward(1, ForwardProtocol::Both, 8080, CAMERA, 80),
        Forward { last_port: 8010, ..forward(2, ForwardProtocol::Tcp, 8000, CAMERA, 8000) },
        Forward { last_port: 7002, ..forward(3, ForwardProtocol::Udp, 7000, CAMERA, 8000) },
    ]);
    let device = |id, last, ports| OpenDevice {
        id: VirtualDeviceId(id),
        ipv4: [100, 80, 7, last].into(),
        target: CAMERA,
        ports,
        source: LanSource::Masquerade,
    };
    let gateway = |id, network: &str| {
        let lan = network.parse().expect("a network");
        OpenGateway { id: GatewayId(id), mesh: lan, lan, source: LanSource::Masquerade }
    };
    let opening = Opening {
        forwards: duty.forwards.iter().map(|it| OpenForward::new(it, CAMERA)).collect(),
        devices: vec![
            device(1, 1, vec![Ports::All]),
            device(2, 2, vec![Ports::Tcp(80, 90), Ports::Icmp]),
        ],
        gateways: vec![gateway(1, "192.168.1.0/24"), gateway(2, "0.0.0.0/0")],
        ..Opening::nothing(MESH)
    };
    let surface = Surface {
        table: table_name("w0"),
        mesh: "w0".to_owned(),
        lan: ["eth0".to_owned()].into(),
        switched_on: ["eth0".to_owned()].into(),
        shares,
        helpers,
    };
    render(&opening, &surface)
}

#[test]
fn a_table_without_what_a_kernel_may_lack_loads_too() {
    isolated(|world| {
        let site = Site::build(world)?;
        for shares in [None, Some(Shares { one: 512, part: 1024, one6: 128, part6: 256 })] {
            for helpers in [false, true] {
                site.edge.nft(&table(shares, helpers))?;
                let loaded = site.ruleset()?;
                ensure!(loaded.contains("ct count over") == shares.is_some(), "{loaded}");
                ensure!(loaded.contains("ct helper") == helpers, "{loaded}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_kernel_that_cannot_count_connections_opens_all_the_same_and_says_so() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        // As `nft` says it where the module is missing.
        let (real, picky) = (world.logs().join("real-nft"), world.logs().join("nft"));
        std::fs::copy("/usr/sbin/nft", &real)?;
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = -f ] || exec {real} \"$@\"\ntext=$(cat)\ncase $text in *'ct count'*) echo 'Error: Could \
             not process rule: No such file or directory' >&2; exit 1;; esac\nprintf '%s\\n' \"$text\" | {real} \"$@\"\n",
            real = real.display()
        );
        std::fs::write(&picky, script)?;
        let picky = picky.display().to_string();
        site.edge.run(&["chmod", "+x", &picky])?;
        site.edge.run(&["mount", "--bind", &picky, "/usr/sbin/nft"])?;
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)]))?;
        let report = running.until("the duty", |report| !report.open.is_empty())?;
        ensure!(report.problems == [Problem::NoShares].into(), "{report:?}");
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
        ensure!(!site.ruleset()?.contains("ct count"));
        running.stop()
    });
}

#[test]
fn a_gateway_leads_out_by_the_lan_alone() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        // Virtual machines on the edge's host, whose network is a part of the gateway's.
        let machine = world.host("machine")?;
        ip("link add virbr0 netns edge type veth peer name eth0 netns machine")?;
        site.edge.ip(&["link set virbr0 up", "addr add 192.168.122.1/24 dev virbr0"])?;
        site.edge.sysctl("net.ipv4.ip_forward", "1")?;
        machine.ip(&[
            "link set eth0 up",
            "addr add 192.168.122.9/24 dev eth0",
            "route add default via 192.168.122.1",
        ])?;
        serve(&machine, 80)?;
        // As the router that the rest of the network is behind.
        site.edge.ip(&["route add 192.168.0.0/17 via 192.168.1.1"])?;
        let edge_mac = mac_of(&site.edge, "w0")?;
        let inside = |last: [u8; 2]| Ipv4Addr::new(100, 80, 128 + last[0], last[1]);
        for last in [[1, 9], [122, 9]] {
            let address = inside(last);
            site.technician.ip(&[format!("neigh replace {address} lladdr {edge_mac} dev w0")])?;
        }
        let running = site.start(EdgeDuty {
            gateways: vec![Gateway {
                id: GatewayId(1),
                mesh: "100.80.128.0/17".parse()?,
                lan: "192.168.0.0/17".parse()?,
                source: LanSource::Masquerade,
            }],
            ..EdgeDuty::default()
        })?;
        running.until("the duty", |report| report.applied > 0)?;
        ensure!(ask_tcp(&site.edge, [192, 168, 122, 9].into(), 80)?.starts_with("machine"));
        ensure!(ask_tcp(&site.technician, inside([1, 9]), 80)?.starts_with("camera"));
        ensure!(ask_tcp(&site.technician, inside([122, 9]), 80).is_err(), "the machine is open");
        running.stop()
    });
}
