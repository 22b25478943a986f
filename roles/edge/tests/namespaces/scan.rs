use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use warren_edge::{Change, Inventory, ScanError, ScanPlan, Scanner};
use warren_lab::{Host, isolated};

use crate::common::{Site, ip, mac_of};

/// Runs a scan on a host to its end.
fn scan(host: &Host, scanner: &Scanner, plan: ScanPlan) -> Result<(Inventory, Duration)> {
    let begun = Instant::now();
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            scanner.start(plan.clone())?;
            ensure!(matches!(scanner.start(plan), Err(ScanError::UnderWay)));
            let mut status = scanner.status();
            status.wait_for(|status| !status.running).await?;
            anyhow::Ok(())
        })
    })??;
    Ok((scanner.inventory(), begun.elapsed()))
}

/// Answers each connection with `answer`, after what it was asked if it `waits`.
fn answer(host: &Host, port: u16, waits: bool, answer: &'static str) -> Result<()> {
    host.enter(move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if waits {
                    let _ = stream.read(&mut [0; 512]);
                }
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        anyhow::Ok(())
    })?
}

/// Answers questions of SNMP with what it is.
fn answer_snmp(host: &Host, at: Ipv4Addr) -> Result<()> {
    host.enter(|| {
        let socket = UdpSocket::bind((at, 161))?;
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((len, peer)) = socket.recv_from(&mut question) {
                // The question with the value in the place of nothing.
                let mut answer = question[..len - 2].to_vec();
                answer.extend(b"\x04\x08UPS 1500");
                let _ = socket.send_to(&answer, peer);
            }
        });
        anyhow::Ok(())
    })?
}

/// Answers node status requests as a Windows machine does.
fn answer_netbios(host: &Host) -> Result<()> {
    host.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 137))?;
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((_, peer)) = socket.recv_from(&mut question) {
                let mut answer = vec![0; 56];
                answer.push(1);
                answer.extend(b"FRONT-DESK     \0\x04\0");
                answer.extend([0; 6]);
                let _ = socket.send_to(&answer, peer);
            }
        });
        anyhow::Ok(())
    })?
}

#[test]
fn an_adjacent_network_is_scanned_in_time_and_changes_are_told() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera_ip, silent_ip) = ([192, 168, 1, 9].into(), [192, 168, 1, 30].into());
        let camera = site.device(world, "camera", camera_ip)?;
        let pc = site.device(world, "pc", [192, 168, 1, 20].into())?;
        let silent = site.device(world, "silent", silent_ip)?;
        silent.nft("table ip quiet {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n}\n")?;
        answer(
            &camera,
            80,
            true,
            "HTTP/1.0 200 OK\r\nServer: \x1b[31mcam\r\n\r\n<title>Front\u{202e} door</title>",
        )?;
        answer(&pc, 22, false, "SSH-2.0-OpenSSH_9.2\r\n")?;
        answer_netbios(&pc)?;
        answer_snmp(&camera, camera_ip)?;
        let scanner = Scanner::open(&site.state);
        let plan = ScanPlan::of(vec!["192.168.1.0/24".parse()?]);
        let (found, took) = scan(&site.edge, &scanner, plan.clone())?;
        println!("{} devices of a /24 in {took:?}", found.devices.len());
        ensure!(took < Duration::from_secs(15));
        let device = |ip: Ipv4Addr| found.devices.get(&ip).context("found");
        let device_at = device(camera_ip)?;
        assert_eq!(device_at.mac, Some(mac_of(&camera, "eth0")?.parse()?));
        assert_eq!(device_at.services["tcp:80"].title.as_deref(), Some("Front door"));
        assert_eq!(device_at.services["tcp:80"].banner.as_deref(), Some("[31mcam"));
        assert_eq!(device_at.services["udp:161"].banner.as_deref(), Some("UPS 1500"));
        let device_at = device([192, 168, 1, 20].into())?;
        assert_eq!(device_at.services["tcp:22"].banner.as_deref(), Some("SSH-2.0-OpenSSH_9.2"));
        ensure!(device_at.names.values().any(|name| name == "FRONT-DESK"), "{device_at:?}");
        device(silent_ip)?;
        ensure!(found.devices.len() == 3, "{found:?}");

        camera.ip(&["addr flush dev eth0", "addr add 192.168.1.77/24 dev eth0"])?;
        silent.ip(&["link set eth0 down"])?;
        // Another process would find the same.
        let scanner = Scanner::open(&site.state);
        let (found, _) = scan(&site.edge, &scanner, plan)?;
        let moved = Change::Moved { from: camera_ip, ip: [192, 168, 1, 77].into() };
        ensure!(found.changes.contains(&moved), "{:?}", found.changes);
        ensure!(found.changes.contains(&Change::Gone { ip: silent_ip }), "{:?}", found.changes);
        Ok(())
    });
}

#[test]
fn a_network_behind_a_router_is_scanned_in_time() {
    isolated(|world| {
        let site = Site::build(world)?;
        let router = site.device(world, "router", [192, 168, 1, 1].into())?;
        let dmz = world.host("dmz")?;
        ip("link add d0 netns router type veth peer name eth0 netns dmz")?;
        router.ip(&["link set d0 up"])?;
        router.ip(&["addr add 10.50.0.1/24 dev d0"])?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        dmz.ip(&[
            "link set eth0 up",
            "addr add 10.50.0.7/24 dev eth0",
            "route add default via 10.50.0.1",
        ])?;
        dmz.ip(&["addr add 10.50.0.8/24 dev eth0"])?;
        // It answers nothing but questions of SNMP.
        dmz.nft(
            "table ip quiet {\n\tchain input {\n\t\ttype filter hook input priority 0;\n\t\t\
             ip daddr 10.50.0.8 udp dport != 161 drop\n\t\tip daddr 10.50.0.8 meta l4proto != udp drop\n\t}\n}\n",
        )?;
        answer_snmp(&dmz, [10, 50, 0, 8].into())?;
        answer(&dmz, 8080, true, "HTTP/1.0 200 OK\r\n\r\n<title>DMZ</title>")?;
        site.edge.ip(&["route add default via 192.168.1.1"])?;
        let scanner = Scanner::open(&site.state);
        let plan = ScanPlan::of(vec!["10.50.0.0/24".parse()?]);
        let (found, took) = scan(&site.edge, &scanner, plan)?;
        println!("{} devices behind a router in {took:?}", found.devices.len());
        ensure!(took < Duration::from_secs(40));
        let device = found.devices.get(&[10, 50, 0, 7].into()).context("found")?;
        assert_eq!(device.services["tcp:8080"].title.as_deref(), Some("DMZ"));
        ensure!(device.rtt_us.is_some() && device.mac.is_none(), "{device:?}");
        let quiet = found.devices.get(&[10, 50, 0, 8].into()).context("found by UDP")?;
        assert_eq!(quiet.services["udp:161"].banner.as_deref(), Some("UPS 1500"));
        Ok(())
    });
}
