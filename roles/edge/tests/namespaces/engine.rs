use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use warren_edge::kernel::opening::{OpenForward, Opening};
use warren_edge::kernel::path::KernelPath;
use warren_edge::{Opened, Problem};
use warren_lab::{isolated, wait_for};
use warren_proto::{
    DeviceName, EdgeDuty, Forward, ForwardId, ForwardProtocol, Gateway, GatewayId, LanSource,
    LanTarget, Ports, Schedule, VirtualDevice, VirtualDeviceId,
};

use crate::common::{
    EDGE_LAN, LIMIT, MESH, Site, TECHNICIAN, ask, ask_tcp, ask_udp, connect, mac_of, serve, target,
};

pub(crate) const CAMERA: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);
pub(crate) const PRINTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

pub(crate) fn forward(
    id: u64,
    protocol: ForwardProtocol,
    port: u16,
    to: Ipv4Addr,
    there: u16,
) -> Forward {
    Forward {
        id: ForwardId(id),
        name: format!("forward {id}"),
        protocol,
        port,
        last_port: port,
        target: target(to),
        target_port: there,
        source: LanSource::Masquerade,
        untested: false,
        schedule: None,
    }
}

/// Three hours, the first of which begins so many from this one.
fn hours(from_now: i64) -> Result<Schedule> {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let hour = i64::try_from(unix)? / 3600 + from_now;
    let time = |hour: i64| format!("{:02}:00", hour.rem_euclid(24)).parse();
    let (from, to) = (time(hour)?, time(hour + 3)?);
    Ok(Schedule { days: BTreeSet::new(), from, to, utc_offset_minutes: 0 })
}

pub(crate) fn device(id: u64, ipv4: [u8; 4], to: Ipv4Addr, ports: Vec<Ports>) -> VirtualDevice {
    VirtualDevice {
        id: VirtualDeviceId(id),
        name: DeviceName::from_free_text(&format!("device-{id}")),
        ipv4: ipv4.into(),
        target: target(to),
        ports,
        source: LanSource::Masquerade,
        untested: false,
    }
}

pub(crate) fn forwards(forwards: Vec<Forward>) -> EdgeDuty {
    EdgeDuty { forwards, ..EdgeDuty::default() }
}

#[test]
fn a_duty_opens_what_it_says_and_nothing_else_and_all_goes_when_the_edge_stops() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        let printer = site.device(world, "printer", PRINTER)?;
        for port in [80, 8000, 8001, 9100] {
            serve(&camera, port)?;
            serve(&printer, port)?;
        }
        site.edge.nft("table ip mine {\n}\n")?;
        let before = site.ruleset()?;
        let duty = EdgeDuty {
            forwards: vec![
                forward(1, ForwardProtocol::Both, 8080, CAMERA, 80),
                Forward {
                    last_port: 8001,
                    ..forward(2, ForwardProtocol::Tcp, 8000, PRINTER, 8000)
                },
                Forward {
                    last_port: 7001,
                    ..forward(3, ForwardProtocol::Udp, 7000, PRINTER, 8000)
                },
                forward(4, ForwardProtocol::Tcp, 80, CAMERA, 80),
                forward(5, ForwardProtocol::Tcp, 6000, EDGE_LAN, 80),
                forward(6, ForwardProtocol::Tcp, 6001, Ipv4Addr::new(9, 9, 9, 9), 80),
                Forward {
                    schedule: Some(hours(-1)?),
                    ..forward(7, ForwardProtocol::Tcp, 6002, CAMERA, 80)
                },
                Forward {
                    schedule: Some(hours(2)?),
                    ..forward(8, ForwardProtocol::Tcp, 6003, CAMERA, 80)
                },
            ],
            virtual_devices: vec![
                device(1, [100, 80, 7, 1], CAMERA, vec![Ports::All]),
                device(2, [100, 80, 7, 2], PRINTER, vec![Ports::Tcp(9000, 9200)]),
            ],
            gateways: vec![Gateway {
                id: GatewayId(1),
                mesh: "100.80.16.0/24".parse()?,
                lan: "192.168.1.0/24".parse()?,
                source: LanSource::Masquerade,
            }],
            ..EdgeDuty::default()
        };
        let running = site.start(duty)?;
        let report = running.until("the duty", |report| report.applied > 0)?;
        println!("in force after {:?}", report.took);
        ensure!(report.problems.len() >= 3, "{:?}", report.problems);

        let laptop = &site.technician;
        let from_edge = |name: &str| format!("{name} {EDGE_LAN}");
        assert_eq!(ask_tcp(laptop, MESH, 8080)?, from_edge("camera:80"));
        assert_eq!(ask_udp(laptop, MESH, 8080)?, from_edge("camera:80"));
        assert_eq!(ask_tcp(laptop, MESH, 8001)?, from_edge("printer:8001"));
        assert_eq!(ask_udp(laptop, MESH, 7001)?, from_edge("printer:8001"));
        let (first, second) = ([100, 80, 7, 1].into(), [100, 80, 7, 2].into());
        assert_eq!(ask_tcp(laptop, first, 9100)?, from_edge("camera:9100"));
        assert_eq!(ask_udp(laptop, first, 8000)?, from_edge("camera:8000"));
        assert_eq!(ask_tcp(laptop, second, 9100)?, from_edge("printer:9100"));
        assert_eq!(ask_tcp(laptop, [100, 80, 16, 9].into(), 80)?, from_edge("camera:80"));
        laptop.run(&["ping", "-c1", "-W2", "100.80.7.1"])?;

        // The broker may be away when the hours of a forward end.
        assert_eq!(ask_tcp(laptop, MESH, 6002)?, from_edge("camera:80"));
        // Not opened: other ports, the LAN's own addresses, the LAN's way into the mesh.
        for (ip, port) in [(second, 80), (MESH, 80), (MESH, 6000), (MESH, 6003), (MESH, 8002)] {
            ensure!(ask_tcp(laptop, ip, port).is_err(), "{ip}:{port} is open");
        }
        laptop.ip(&[format!("route add 192.168.1.0/24 via {MESH} dev w0 onlink")])?;
        ensure!(ask_tcp(laptop, CAMERA, 80).is_err(), "the LAN is open");
        serve(laptop, 5555)?;
        camera.ip(&[format!("route add 100.80.0.0/16 via {EDGE_LAN}")])?;
        ensure!(ask_tcp(&camera, TECHNICIAN, 5555).is_err(), "the mesh is open to the LAN");

        let used = running.until("a use", |report| {
            report.uses.get(&Opened::Forward(ForwardId(1))).is_some_and(|u| u.last_unix.is_some())
        })?;
        println!("{:?}", used.uses);
        running.stop()?;
        assert_eq!(site.ruleset()?, before);
        ensure!(!site.forwards("eth0")? && !site.forwards("w0")?, "it still forwards");
        ensure!(!site.state.join("edge-host.json").exists());
        Ok(())
    });
}

#[test]
fn connections_outlive_a_change_and_end_with_their_forward() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        let printer = site.device(world, "printer", PRINTER)?;
        serve(&camera, 80)?;
        serve(&printer, 80)?;
        let kept = forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80);
        let removed = forward(2, ForwardProtocol::Tcp, 8081, CAMERA, 80);
        let moved = forward(3, ForwardProtocol::Both, 8082, CAMERA, 80);
        let running = site.start(forwards(vec![kept.clone(), removed, moved.clone()]))?;
        running.until("the duty", |report| report.applied > 0)?;
        let laptop = &site.technician;
        let mut through_kept = connect(laptop, MESH, 8080)?;
        let mut through_removed = connect(laptop, MESH, 8081)?;
        ask(&mut through_kept)?;
        ask(&mut through_removed)?;
        ensure!(ask_udp(laptop, MESH, 8082)?.starts_with("camera"));
        let moved = Forward { target: target(PRINTER), ..moved };
        let begun = Instant::now();
        running.change(forwards(vec![kept, moved]))?;
        println!("changed in {:?}", begun.elapsed());
        ensure!(ask(&mut through_kept)?.starts_with("camera"), "it was cut");
        ensure!(ask(&mut through_removed).is_err(), "it goes on");
        ensure!(ask_udp(laptop, MESH, 8082)?.starts_with("printer"));
        running.duty.send_replace(None);
        running.until("nothing open", |report| report.open.is_empty())?;
        ensure!(ask(&mut through_kept).is_err(), "it goes on");
        running.stop()
    });
}

#[test]
fn a_bound_target_is_followed_to_its_next_lease_within_two_seconds() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let mac = mac_of(&camera, "eth0")?.parse()?;
        let bound = LanTarget { ip: CAMERA, mac: Some(mac) };
        let running = site.start(forwards(vec![Forward {
            target: bound,
            ..forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)
        }]))?;
        running.until("the duty", |report| report.applied > 0)?;
        let laptop = &site.technician;
        ensure!(ask_tcp(laptop, MESH, 8080)?.starts_with("camera"));
        let next = Ipv4Addr::new(192, 168, 1, 77);
        camera.ip(&["addr flush dev eth0".to_owned(), format!("addr add {next}/24 dev eth0")])?;
        // As a DHCP client does after a new lease: it speaks to its router.
        let begun = Instant::now();
        let _ = camera.run(&["ping", "-c1", "-W1", "192.168.1.1"]);
        let spoken = begun.elapsed();
        running.until("the camera's place", |report| {
            report.open.get(&Opened::Forward(ForwardId(1))) == Some(&next)
        })?;
        println!("followed after {:?} (its ping took {spoken:?})", begun.elapsed());
        ensure!(begun.elapsed() < Duration::from_secs(2));
        ensure!(ask_tcp(laptop, MESH, 8080)?.starts_with("camera"));
        // Another device takes its address while it is gone: nobody is sent there.
        camera.ip(&["link set eth0 down"])?;
        let stranger = site.device(world, "stranger", next)?;
        serve(&stranger, 80)?;
        let _ = stranger.run(&["ping", "-c1", "-W1", "192.168.1.1"]);
        running.until("the problem", |report| {
            report.problems.iter().any(|problem| matches!(problem, Problem::Vanished { .. }))
        })?;
        ensure!(ask_tcp(laptop, MESH, 8080).is_err(), "the stranger gets the traffic");
        running.stop()
    });
}

#[test]
fn what_another_program_flushes_is_made_anew() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)]))?;
        running.until("the duty", |report| report.applied > 0)?;
        site.edge.run(&["nft", "add", "table", "ip", "theirs"])?;
        site.edge.run(&["nft", "flush", "ruleset"])?;
        let begun = Instant::now();
        running.until("the repair", |report| report.repaired == 1)?;
        wait_for("the forward", LIMIT, || Ok(ask_tcp(&site.technician, MESH, 8080).ok()))?;
        println!("repaired after {:?}", begun.elapsed());
        // A change elsewhere is nobody's business.
        site.edge.run(&["nft", "add", "table", "ip", "theirs"])?;
        std::thread::sleep(Duration::from_millis(2500));
        ensure!(running.report.borrow().repaired == 1);
        running.stop()
    });
}

#[test]
fn a_firewall_that_drops_is_named_with_its_remedy_and_the_remedy_helps() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        site.drop_forwarding()?;
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)]))?;
        let report = running.until("the problem", |report| !report.problems.is_empty())?;
        let Some(Problem::HostDrops { remedy, .. }) = report.problems.first() else {
            anyhow::bail!("{:?}", report.problems);
        };
        ensure!(ask_tcp(&site.technician, MESH, 8080).is_err());
        site.edge.run(&["sh", "-c", remedy])?;
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
        // A firewall that says no in a rule, not by its policy, shows by what doesn't come out.
        site.edge.nft(
            "table inet other {\n\tchain forward {\n\t\ttype filter hook forward priority 10; \
             policy accept;\n\t\treject\n\t}\n}\n",
        )?;
        let noticed = wait_for("the other problem", Duration::from_secs(25), || {
            let _ = ask_udp(&site.technician, MESH, 8080);
            let _ = ask_tcp(&site.technician, MESH, 8080);
            let report = running.report.borrow().clone();
            let found = report
                .problems
                .into_iter()
                .find(|problem| matches!(problem, Problem::SomethingDrops { .. }));
            Ok(found)
        })?;
        println!("{noticed}");
        running.stop()
    });
}

#[test]
fn a_thousand_forwards_are_in_force_within_a_second() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let first = forward(1, ForwardProtocol::Tcp, 10_000, CAMERA, 80);
        let running = site.start(forwards(vec![first.clone()]))?;
        running.until("the duty", |report| report.applied > 0)?;
        let mut open = connect(&site.technician, MESH, 10_000)?;
        ask(&mut open)?;
        let many = (0..1000).map(|n| Forward {
            id: ForwardId(u64::from(n) + 1),
            port: 10_000 + n,
            last_port: 10_000 + n,
            ..first.clone()
        });
        let report = running.change(forwards(many.collect()))?;
        println!("a thousand forwards took {:?}", report.took);
        ensure!(ask(&mut open)?.starts_with("camera"));
        ensure!(ask_tcp(&site.technician, MESH, 10_999)?.starts_with("camera"));
        ensure!(report.took < Duration::from_secs(1), "too slow");
        running.stop()
    });
}

#[test]
fn what_a_killed_engine_left_behind_goes_at_the_next_start() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let opening = Opening {
            forwards: vec![OpenForward::new(
                &forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80),
                CAMERA,
            )],
            ..Opening::nothing(MESH)
        };
        let state = site.state.clone();
        site.edge.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut path = KernelPath::open(&state, "w0")?;
            runtime.block_on(path.apply(
                &opening,
                &Opening::nothing(MESH),
                &["eth0".to_owned()].into(),
            ))?;
            std::mem::forget(path);
            anyhow::Ok(())
        })??;
        let mut open = connect(&site.technician, MESH, 8080)?;
        ask(&mut open)?;
        ensure!(site.forwards("eth0")? && site.ruleset()?.contains("warren-edge-w0"));
        // Again with another duty: the old connection goes too.
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Tcp, 8081, CAMERA, 80)]))?;
        running.until("the duty", |report| report.applied > 0)?;
        ensure!(ask_tcp(&site.technician, MESH, 8080).is_err());
        ensure!(ask(&mut open).is_err(), "it goes on");
        ensure!(ask_tcp(&site.technician, MESH, 8081)?.starts_with("camera"));
        running.stop()?;
        ensure!(!site.forwards("eth0")? && !site.ruleset()?.contains("warren-edge"));
        Ok(())
    });
}
