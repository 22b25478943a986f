//! What one device of the mesh can't do to the edge and to the others.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use warren_edge::Problem;
use warren_lab::{isolated, wait_for};
use warren_proto::{EdgeDuty, ForwardProtocol, Gateway, GatewayId, LanSource};

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
        begin(TECHNICIAN, 10_000..14_200, 1)?;
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
