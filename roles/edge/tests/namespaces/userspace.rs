//! The way without the kernel. A TUN device of the technician's stands for the tunnel: what he sends
//! comes to the proxy, or nowhere.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use warren_edge::{Opened, Problem};
use warren_lab::{Host, isolated, wait_for, wait_until};
use warren_proto::{
    EdgeDuty, Forward, ForwardId, ForwardProtocol, Gateway, GatewayId, LanSource, LanTarget, Ports,
};

use crate::common::{EDGE_LAN, LIMIT, MESH, Site, ask, ask_tcp, ask_udp, connect, mac_of, serve};
use crate::engine::{CAMERA, PRINTER, device, forward, forwards};

const MIB: usize = 1 << 20;
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(100, 80, 7, 1);

fn is_by_userspace(problems: &std::collections::BTreeSet<Problem>) -> bool {
    problems.iter().any(|problem| matches!(problem, Problem::Userspace { .. }))
}

/// Hides `nft` from a host, or shows it again.
fn hide_nft(host: &Host, hidden: bool) -> Result<()> {
    if hidden {
        host.run(&["mount", "--bind", "/dev/null", "/usr/sbin/nft"])?;
    } else {
        host.run(&["umount", "/usr/sbin/nft"])?;
    }
    Ok(())
}

#[test]
fn the_proxy_opens_what_it_can_and_says_what_it_cannot() {
    isolated(|world| {
        let site = Site::without_kernel(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        let printer = site.device(world, "printer", PRINTER)?;
        for port in [80, 8000, 8001, 9100] {
            serve(&camera, port)?;
            serve(&printer, port)?;
        }
        let before = site.ruleset()?;
        let shifted =
            Forward { last_port: 7001, ..forward(3, ForwardProtocol::Both, 7000, PRINTER, 8000) };
        let duty = EdgeDuty {
            forwards: vec![
                forward(1, ForwardProtocol::Both, 8080, CAMERA, 80),
                forward(2, ForwardProtocol::Both, 8081, CAMERA, 81),
                shifted,
                Forward {
                    source: LanSource::Transparent,
                    ..forward(4, ForwardProtocol::Tcp, 6000, CAMERA, 80)
                },
            ],
            virtual_devices: vec![device(1, VIRTUAL.octets(), CAMERA, vec![Ports::Tcp(80, 9000)])],
            gateways: vec![Gateway {
                id: GatewayId(1),
                mesh: "100.80.16.0/24".parse()?,
                lan: "192.168.1.0/24".parse()?,
                source: LanSource::Masquerade,
            }],
            ..EdgeDuty::default()
        };
        let running = site.start_by_userspace(duty, true)?;
        let report = running.until("the duty", |report| report.applied > 0)?;
        let problems: Vec<String> = report.problems.iter().map(Problem::to_string).collect();
        println!("{problems:#?}");
        ensure!(problems.iter().any(|text| text.contains("because that was chosen")));
        ensure!(problems.iter().any(|text| text.contains("gateway to 192.168.1.0/24 isn't open")));
        ensure!(problems.iter().any(|text| text.contains("port 6000 isn't open")));

        let laptop = &site.technician;
        let from_edge = |name: &str| format!("{name} {EDGE_LAN}");
        wait_until("the forward", LIMIT, || Ok(ask_tcp(laptop, MESH, 8080).is_ok()))?;
        assert_eq!(ask_tcp(laptop, MESH, 8080)?, from_edge("camera:80"));
        assert_eq!(ask_udp(laptop, MESH, 8080)?, from_edge("camera:80"));
        assert_eq!(ask_tcp(laptop, MESH, 7001)?, from_edge("printer:8001"));
        assert_eq!(ask_udp(laptop, MESH, 7001)?, from_edge("printer:8001"));
        assert_eq!(ask_tcp(laptop, VIRTUAL, 8000)?, from_edge("camera:8000"));
        // A closed port of the device is one at once.
        let begun = Instant::now();
        let refused = connect(laptop, MESH, 8081).expect_err("nobody is there");
        let refused = refused.downcast::<std::io::Error>()?;
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        ensure!(begun.elapsed() < Duration::from_secs(1));
        let refused = ask_udp(laptop, MESH, 8081).expect_err("nobody is there");
        assert_eq!(refused.downcast::<std::io::Error>()?.kind(), ErrorKind::ConnectionRefused);
        // Not opened.
        for (ip, port) in
            [(VIRTUAL, 9100), (MESH, 6000), (MESH, 7002), ([100, 80, 16, 9].into(), 80)]
        {
            ensure!(ask_tcp(laptop, ip, port).is_err(), "{ip}:{port} is open");
        }
        ensure!(ask_udp(laptop, VIRTUAL, 8000).is_err(), "UDP of the virtual device is open");
        let used = running.until("a use", |report| {
            report.uses.get(&Opened::Forward(ForwardId(1))).is_some_and(|u| u.last_unix.is_some())
        })?;
        println!("{:?}", used.uses);
        assert_eq!(site.ruleset()?, before, "nothing of the host's filter is touched");
        ensure!(!site.forwards("eth0")? && !site.forwards("w0")?, "it forwards");

        let mut through = connect(laptop, MESH, 8080)?;
        ask(&mut through)?;
        running.stop()?;
        ensure!(ask(&mut through).is_err(), "it goes on");
        ensure!(ask_tcp(laptop, MESH, 8080).is_err(), "it is still open");
        Ok(())
    });
}

/// Takes one connection: sends the reverse of what it got, once that has ended.
fn reverse(host: &Host, port: u16) -> Result<()> {
    host.enter(|| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut got = Vec::new();
            stream.read_to_end(&mut got)?;
            got.reverse();
            stream.write_all(&got)
        });
        anyhow::Ok(())
    })?
}

#[test]
fn a_stream_keeps_its_bytes_and_its_end_and_a_datagram_its_size() {
    isolated(|world| {
        let site = Site::without_kernel(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        reverse(&camera, 80)?;
        camera.enter(|| {
            let echo = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 80))?;
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_535];
                while let Ok((len, peer)) = echo.recv_from(&mut buffer) {
                    // Three times as much: more than a packet of the tunnel.
                    let _ = echo.send_to(&buffer[..len].repeat(3), peer);
                }
            });
            anyhow::Ok(())
        })??;
        let duty = forwards(vec![forward(1, ForwardProtocol::Both, 8080, CAMERA, 80)]);
        let running = site.start_by_userspace(duty, true)?;
        running.until("the duty", |report| is_by_userspace(&report.problems))?;
        let data: Vec<u8> = (0..8 * MIB).map(|n| (n * 31 + n / 251) as u8).collect();
        let mut stream = connect(&site.technician, MESH, 8080)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(&data)?;
        stream.shutdown(Shutdown::Write)?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got)?;
        got.reverse();
        ensure!(got == data, "{} bytes came back", got.len());
        let said = site.technician.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(LIMIT))?;
            socket.connect((MESH, 8080))?;
            socket.send(&data[..1200])?;
            let mut buffer = vec![0; 65_535];
            let len = socket.recv(&mut buffer)?;
            anyhow::Ok(buffer[..len].to_vec())
        })??;
        ensure!(said == data[..1200].repeat(3), "{} bytes came back", said.len());
        running.stop()
    });
}

#[test]
fn the_proxy_follows_a_device_to_its_next_lease() {
    isolated(|world| {
        let site = Site::without_kernel(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let mac = mac_of(&camera, "eth0")?.parse()?;
        let duty = forwards(vec![Forward {
            target: LanTarget { ip: CAMERA, mac: Some(mac) },
            ..forward(1, ForwardProtocol::Both, 8080, CAMERA, 80)
        }]);
        let running = site.start_by_userspace(duty, true)?;
        let laptop = &site.technician;
        wait_until("the forward", LIMIT, || Ok(ask_tcp(laptop, MESH, 8080).is_ok()))?;
        let mut through = connect(laptop, MESH, 8080)?;
        ask(&mut through)?;
        let next = Ipv4Addr::new(192, 168, 1, 77);
        camera.ip(&["addr flush dev eth0".to_owned(), format!("addr add {next}/24 dev eth0")])?;
        let begun = Instant::now();
        let _ = camera.run(&["ping", "-c1", "-W1", "192.168.1.1"]);
        running.until("the camera's place", |report| {
            report.open.get(&Opened::Forward(ForwardId(1))) == Some(&next)
        })?;
        println!("followed after {:?}", begun.elapsed());
        ensure!(begun.elapsed() < Duration::from_secs(2));
        ensure!(ask_tcp(laptop, MESH, 8080)?.starts_with("camera"));
        ensure!(ask_udp(laptop, MESH, 8080)?.starts_with("camera"));
        ensure!(ask(&mut through).is_err(), "the old connection is cut");
        running.stop()
    });
}

#[test]
fn without_nft_the_proxy_stands_in_until_it_is_back() {
    isolated(|world| {
        let site = Site::without_kernel(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        hide_nft(&site.edge, true)?;
        let duty = forwards(vec![forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)]);
        let running = site.start_by_userspace(duty, false)?;
        let report = running.until("the proxy", |report| is_by_userspace(&report.problems))?;
        let text = report.problems.first().context("a problem")?.to_string();
        ensure!(text.contains("because `nft` can't be run"), "{text}");
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
        // What is taken away is closed, as by the kernel.
        running.change(forwards(vec![forward(1, ForwardProtocol::Tcp, 8081, CAMERA, 80)]))?;
        ensure!(ask_tcp(&site.technician, MESH, 8080).is_err(), "it is still open");
        ensure!(ask_tcp(&site.technician, MESH, 8081)?.starts_with("camera"));
        hide_nft(&site.edge, false)?;
        wait_for("the kernel's way", Duration::from_secs(15), || {
            let report = running.report.borrow().clone();
            Ok((!is_by_userspace(&report.problems)).then_some(()))
        })?;
        ensure!(site.edge.run(&["nft", "list", "tables"])?.contains("warren-edge"));
        ensure!(ask_tcp(&site.technician, MESH, 8081).is_err(), "the proxy is still there");
        running.stop()
    });
}

#[test]
fn where_the_hosts_firewall_drops_the_proxy_stands_in_until_it_does_not() {
    isolated(|world| {
        let site = Site::without_kernel(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        site.drop_forwarding()?;
        let duty = forwards(vec![forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)]);
        let running = site.start_by_userspace(duty, false)?;
        let report = running.until("the proxy", |report| is_by_userspace(&report.problems))?;
        println!("{:?}", report.problems);
        let drops = |problem: &Problem| matches!(problem, Problem::HostDrops { .. });
        ensure!(report.problems.iter().any(drops), "the remedy is still said");
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
        site.edge.run(&["nft", "delete", "table", "ip", "filter"])?;
        wait_for("the kernel's way", Duration::from_secs(15), || {
            Ok(running.report.borrow().problems.is_empty().then_some(()))
        })?;
        running.stop()
    });
}
