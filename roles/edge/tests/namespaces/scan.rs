use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use warren_edge::{Change, Inventory, ScanError, ScanPlan, Scanner};
use warren_lab::{Host, isolated, wait_until};
use warren_net::{DiscoverySocket, Lan};
use warren_scan::{Device, Port};

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
    Ok((scanner.known(Inventory::clone), begun.elapsed()))
}

fn banner(device: &Device, port: Port) -> Option<&str> {
    device.services.get(&port)?.banner.as_deref()
}

fn title(device: &Device, port: Port) -> Option<&str> {
    device.services.get(&port)?.title.as_deref()
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
        let device = |ip: Ipv4Addr| found.devices.get(&IpAddr::V4(ip)).context("found");
        let device_at = device(camera_ip)?;
        assert_eq!(device_at.mac, Some(mac_of(&camera, "eth0")?.parse()?));
        assert_eq!(title(device_at, Port::tcp(80)), Some("Front door"));
        assert_eq!(banner(device_at, Port::tcp(80)), Some("[31mcam"));
        assert_eq!(banner(device_at, Port::udp(161)), Some("UPS 1500"));
        let device_at = device([192, 168, 1, 20].into())?;
        assert_eq!(banner(device_at, Port::tcp(22)), Some("SSH-2.0-OpenSSH_9.2"));
        ensure!(device_at.names.values().any(|name| **name == *"FRONT-DESK"), "{device_at:?}");
        device(silent_ip)?;
        ensure!(found.devices.len() == 3, "{found:?}");

        camera.ip(&["addr flush dev eth0", "addr add 192.168.1.77/24 dev eth0"])?;
        silent.ip(&["link set eth0 down"])?;
        // Another process would find the same.
        let scanner = Scanner::open(&site.state);
        let (found, _) = scan(&site.edge, &scanner, plan)?;
        let moved = Change::Moved { from: camera_ip.into(), ip: IpAddr::from([192, 168, 1, 77]) };
        ensure!(found.changes.contains(&moved), "{:?}", found.changes);
        ensure!(
            found.changes.contains(&Change::Gone { ip: silent_ip.into() }),
            "{:?}",
            found.changes
        );
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
        let device = found.devices.get(&IpAddr::from([10, 50, 0, 7])).context("found")?;
        assert_eq!(title(device, Port::tcp(8080)), Some("DMZ"));
        ensure!(device.rtt_us.is_some() && device.mac.is_none(), "{device:?}");
        let quiet = found.devices.get(&IpAddr::from([10, 50, 0, 8])).context("found by UDP")?;
        assert_eq!(banner(quiet, Port::udp(161)), Some("UPS 1500"));
        Ok(())
    });
}

/// Has a host's IPv6 addresses ready to be used.
fn ready(host: &Host) -> Result<()> {
    wait_until("duplicate addresses to be ruled out", Duration::from_secs(10), || {
        let tentative = host.run(&["ip", "-6", "addr", "show", "dev", "eth0", "tentative"])?;
        let all = host.run(&["ip", "-6", "addr", "show", "dev", "eth0"])?;
        Ok(tentative.trim().is_empty() && all.contains("fe80"))
    })
    .map(drop)
}

/// The link-local address of a host.
fn local(host: &Host) -> Result<Ipv6Addr> {
    let shown = host.run(&["ip", "-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"])?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "inet6").skip(1);
    let address = words.next().and_then(|word| word.split('/').next());
    Ok(address.context("an address")?.parse()?)
}

/// Says to have a thousand addresses, some of them of other networks, again and again.
fn lie(host: &Host, edge: Ipv6Addr) -> Result<()> {
    let host = host.clone();
    std::thread::spawn(move || {
        host.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let interfaces = Lan::open()?.interfaces()?;
                let eth0 = interfaces.iter().find(|it| it.name == "eth0").context("eth0")?;
                let socket = DiscoverySocket::open(eth0.index, eth0.mac.context("a card")?)?;
                loop {
                    for n in 0..1000_u128 {
                        let network = if n % 2 == 0 { 0xfe80 } else { 0x2001 };
                        let invented = Ipv6Addr::from_bits(network << 112 | n);
                        let _ = socket.ask(invented, edge);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .and_then(|said: Result<()>| said)
    });
    Ok(())
}

#[test]
fn devices_are_found_by_ipv6_and_joined_by_their_card_and_liars_fill_nothing() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera_ip, liar_ip) = ([192, 168, 1, 9].into(), [192, 168, 1, 13].into());
        let camera = site.device(world, "camera", camera_ip)?;
        let quiet = site.device(world, "quiet", [192, 168, 1, 20].into())?;
        let lone = site.device(world, "lone", [192, 168, 1, 30].into())?;
        let liar = site.device(world, "liar", liar_ip)?;
        lone.ip(&["addr del 192.168.1.30/24 dev eth0", "addr add fd00:1::30/64 dev eth0"])?;
        camera.ip(&["addr add fd00:1::9/64 dev eth0"])?;
        site.edge.ip(&["addr add fd00:1::2/64 dev eth0"])?;
        quiet.nft("table ip6 quiet {\n\tchain input {\n\t\ttype filter hook input priority 0;\n\t\ticmpv6 type echo-request drop\n\t}\n}\n")?;
        for host in [&camera, &quiet, &lone, &liar, &site.edge] {
            ready(host)?;
        }
        lie(&liar, local(&site.edge)?)?;
        let scanner = Scanner::open(&site.state);
        let plan = ScanPlan { ports: vec![80], ..ScanPlan::of(vec!["192.168.1.0/24".parse()?]) };
        let (found, _) = scan(&site.edge, &scanner, plan.clone())?;
        let device = |ip: IpAddr| found.devices.get(&ip).with_context(|| format!("{found:?}"));
        let addresses = &device(IpAddr::V4(camera_ip))?.ipv6;
        ensure!(
            addresses.contains(&"fd00:1::9".parse()?) && addresses.contains(&local(&camera)?),
            "{addresses:?}"
        );
        let addresses = &device([192, 168, 1, 20].into())?.ipv6;
        ensure!(*addresses == [local(&quiet)?].into(), "asked by its card: {addresses:?}");
        let lone_ip = IpAddr::V6(local(&lone)?);
        let by_itself = device(lone_ip)?;
        ensure!(by_itself.mac == Some(mac_of(&lone, "eth0")?.parse()?), "{by_itself:?}");
        ensure!(by_itself.ipv6.len() == 2 && by_itself.ipv4().is_none(), "{by_itself:?}");
        let lies = &device(IpAddr::V4(liar_ip))?.ipv6;
        ensure!((1..=8).contains(&lies.len()), "{lies:?}");
        ensure!(lies.iter().all(Ipv6Addr::is_unicast_link_local), "of another network: {lies:?}");
        ensure!(found.devices.len() == 4, "{found:?}");
        ensure!(found.changes.contains(&Change::New { ip: lone_ip }), "{:?}", found.changes);

        // A scan of a part doesn't know who has no IPv4.
        let part = ScanPlan { networks: vec!["192.168.1.8/29".parse()?], ..plan.clone() };
        let (found, _) = scan(&site.edge, &scanner, part)?;
        ensure!(found.changes.is_empty() && found.devices[&lone_ip].present, "{found:?}");
        lone.ip(&["link set eth0 down"])?;
        let (found, _) = scan(&site.edge, &scanner, plan)?;
        ensure!(found.changes == [Change::Gone { ip: lone_ip }], "{:?}", found.changes);
        Ok(())
    });
}
