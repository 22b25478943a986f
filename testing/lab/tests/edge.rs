//! An edge from the broker to the LAN device: a technician whose own LAN has the addresses of the sites
//! that he looks after.

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::lan::{CAMERA, Site, datagram, page, resolve, serve, shows};
use common::{Lab, SECOND, lan, mesh_ipv4};
use warren_lab::warren::Node;
use warren_lab::{Host, NatKind, Plug, isolated, wait_for, wait_until};

/// A laptop in a LAN like the sites', with a device of its own where theirs have the camera.
fn technician(lab: &Lab<'_>) -> Result<Node> {
    let home = lab.home("technician-home", NatKind::EimApdf)?;
    let (own, _) = lab.host("own-printer", home.lan(), &Plug::ipv4().at(CAMERA))?;
    serve(&own, 80)?;
    let (host, _) = lab.host("technician", home.lan(), &Plug::ipv4())?;
    lab.join(&host)
}

/// Opens a port of the edge, and returns how long that took until the device answered there.
fn forward_takes(technician: &Host, site: &Site, mesh: Ipv4Addr, port: u16) -> Result<Duration> {
    let (ready, name) = (port.to_string(), site.camera.name().to_owned());
    let begun = Instant::now();
    site.add(&["forwards", "add", &ready, "192.168.1.9:80"])?;
    let saved = begun.elapsed();
    wait_until("the forward", 5 * SECOND, || {
        Ok(lan::page_within(technician, (mesh, port), SECOND / 10)
            .is_ok_and(|page| page.contains(&name)))
    })?;
    let all = begun.elapsed();
    println!("forward: {saved:?} to save (one run of the command line), {all:?} until it answers");
    Ok(all.saturating_sub(saved))
}

/// The device's name at an address that may need a moment.
fn resolves(host: &Host, name: &str) -> Result<Ipv4Addr> {
    wait_for(&format!("{name} to resolve"), 10 * SECOND, || resolve(host, name))
}

/// Whether a packet with the card's address sixteen times in a row comes in, while `call` is made.
fn is_called(host: &Host, mac: [u8; 6], call: impl FnOnce() -> Result<()>) -> Result<()> {
    let socket = host.enter(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)))??;
    socket.set_read_timeout(Some(5 * SECOND))?;
    call()?;
    let mut packet = [0; 200];
    let length = socket.recv(&mut packet).context("nobody called")?;
    ensure!(packet[..length].ends_with(&mac.repeat(16)), "{:?}", &packet[..length]);
    Ok(())
}

#[test]
fn an_edge_wakes_a_device_when_the_broker_is_asked() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let site = Site::build(&lab, "site-7")?;
        let mac = [2, 0, 0, 0, 0x77, 9];
        is_called(&site.camera, mac, || {
            lab.broker.admin(&["edges", "wake", "site-7", "02:00:00:00:77:09"]).map(drop)
        })
    });
}

#[test]
fn an_edge_whose_owner_leaves_it_to_the_account_is_one_while_it_is_asked() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let home = lab.home("home", NatKind::EimApdf)?;
        let (host, _) = lab.host("attic", home.lan(), &Plug::ipv4())?;
        let mut attic = lab.join(&host)?;
        let enabled = |node: &Node| -> Result<bool> {
            let status = node.run(&["--json", "edge", "status"])?;
            Ok(serde_json::from_str::<serde_json::Value>(&status)?["enabled"] == true)
        };
        lab.broker.admin(&["edges", "ask", "attic"])?;
        attic.wait_status("the question", 10 * SECOND, |status| {
            status.health("edge-asked").is_some()
        })?;
        ensure!(!enabled(&attic)?, "not without its owner's word");
        attic.run(&["edge", "enable", "--when-asked"])?;
        ensure!(enabled(&attic)?, "it is asked");
        attic.wait_status("an answer", 10 * SECOND, |status| {
            status.health("edge-asked").is_none()
        })?;
        lab.broker.admin(&["edges", "ask", "attic", "--off"])?;
        wait_until("the end of it", 10 * SECOND, || Ok(!enabled(&attic)?))?;
        attic.kill()?;
        attic.restart()?;
        lab.broker.admin(&["edges", "ask", "attic"])?;
        wait_until("the account's word", 10 * SECOND, || enabled(&attic))?;
        Ok(())
    });
}

#[test]
fn sites_with_the_technicians_own_addresses_are_told_apart() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut technician = technician(&lab)?;
        let laptop = technician.host().clone();
        let sites = [Site::build(&lab, "site-7")?, Site::build(&lab, "site-8")?];
        technician.wait_peers(&["site-7", "site-8"])?;
        for site in &sites {
            let name = site.edge.host().name().to_owned();
            let camera = format!("{name}-camera");
            technician.ping_direct(&name)?;
            let mesh = mesh_ipv4(&site.edge)?;

            let took = forward_takes(&laptop, site, mesh, 8080)?;
            ensure!(took < SECOND, "a forward took {took:?}");
            site.add(&["forwards", "add", "7001", "192.168.1.9:7000", "--protocol", "udp"])?;
            wait_until("the UDP forward", 5 * SECOND, || {
                Ok(datagram(&laptop, (mesh, 7001)).is_ok_and(|said| said.contains(&camera)))
            })?;

            site.add(&["virtual-devices", "add", "camera-2", "192.168.1.9"])?;
            let full = format!("camera-2.{name}.home.warren.internal");
            let device = resolves(&laptop, &full)?;
            let said = shows(&laptop, (device, 80), &camera)?;
            ensure!(said.contains("asked by 192.168.1.2"), "the LAN sees the edge: {said}");
            ensure!(datagram(&laptop, (device, 7000))?.contains(&camera));

            let ftp = lan::start_ftp(&site.camera)?;
            for active in [false, true] {
                let fetched = lan::fetch_by_ftp(&laptop, &full, 21, active)?;
                ensure!(fetched.trim() == camera, "FTP (active: {active}): {fetched}");
            }
            drop(ftp);
            lan::start_phone(&site.camera)?;
            let sound = lan::call(&laptop, mesh_ipv4(&technician)?, device)?;
            ensure!(sound.contains("192.168.1.2:"), "the phone speaks to the edge: {sound}");

            let gateway = site.add(&["gateways", "add", "192.168.1.0/24"])?;
            let part = gateway["mesh"].as_str().context("its part of the range")?;
            let part: ipnet::Ipv4Net = part.parse()?;
            let through = Ipv4Addr::from_bits(part.network().to_bits() + 9);
            shows(&laptop, (through, 80), &camera)?;
        }
        // His own LAN is as it was.
        let own = page(&laptop, (CAMERA, 80))?;
        ensure!(own.contains("own-printer"), "the technician's own device: {own}");
        // And nothing of the LAN reaches into the mesh.
        let own = mesh_ipv4(&technician)?;
        serve(&laptop, 9000)?;
        sites[0].camera.ip(&[format!("route add {own}/32 via 192.168.1.2")])?;
        ensure!(page(&sites[0].camera, (own, 9000)).is_err(), "the LAN reaches the technician");
        Ok(())
    });
}

#[test]
fn what_an_edge_opened_outlives_a_kill_and_nothing_stays_when_it_goes() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut technician = technician(&lab)?;
        let laptop = technician.host().clone();
        let mut site = Site::build(&lab, "site-7")?;
        technician.wait_peers(&["site-7"])?;
        let mesh = mesh_ipv4(&site.edge)?;
        ensure!(!site.has_table()? && !site.forwards()?, "nothing is open yet");
        site.add(&["forwards", "add", "8080", "192.168.1.9:80"])?;
        shows(&laptop, (mesh, 8080), "site-7-camera")?;

        site.edge.kill()?;
        let begun = Instant::now();
        site.edge.restart()?;
        shows(&laptop, (mesh, 8080), "site-7-camera")?;
        println!("after kill -9 the forward answers {:?} after the restart", begun.elapsed());

        site.edge.kill()?;
        ensure!(site.has_table()?, "a killed edge leaves its table");
        site.edge.run(&["node", "--clean-up"])?;
        ensure!(!site.has_table()? && !site.forwards()?, "the clean-up leaves nothing");

        site.edge.restart()?;
        shows(&laptop, (mesh, 8080), "site-7-camera")?;
        site.edge.run(&["down"])?;
        ensure!(
            !site.has_table()? && !site.forwards()?,
            "`down` closes before it says that it is done"
        );
        site.edge.run(&["up"])?;
        shows(&laptop, (mesh, 8080), "site-7-camera")?;
        site.edge.kill()?;
        let off = site.edge.state().join("node.json");
        let identity = std::fs::read_to_string(&off)?;
        ensure!(identity.contains("\"edge\": true"), "{identity}");
        std::fs::write(&off, identity.replace("\"edge\": true", "\"edge\": false"))?;
        site.edge.restart()?;
        wait_until("what the killed edge has left to go", 20 * SECOND, || {
            Ok(!site.has_table()? && !site.forwards()?)
        })?;
        lan::enable(&site.edge)?;
        shows(&laptop, (mesh, 8080), "site-7-camera")?;
        site.edge.stop()?;
        ensure!(!site.has_table()? && !site.forwards()?, "a stop leaves nothing");
        let log = site.edge.process().log();
        ensure!(!log.contains("not all that the edge opened is closed"), "{log}");
        Ok(())
    });
}

#[test]
fn scans_problems_and_waking_go_by_the_command_line_and_reach_the_broker() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut site = Site::build(&lab, "site-7")?;
        let refused = site.edge.cli(&["edge", "scan", "8.8.8.0/24"])?;
        common::refused(&refused, "no private network")?;
        let mesh = mesh_ipv4(&site.edge)?;
        for own in [format!("{mesh}/24"), format!("{mesh}/32"), "192.168.1.2/32".to_owned()] {
            let refused = site.edge.cli(&["edge", "scan", &own])?;
            common::refused(&refused, "no LAN")?;
        }
        let begun = Instant::now();
        let found = site.add(&["scan", "--ports", "80,7000"])?;
        println!("a /24 scanned with two ports in {:?}", begun.elapsed());
        let camera = &found["devices"]["192.168.1.9"];
        ensure!(camera["services"]["tcp:80"]["title"].is_string(), "{found}");
        let mac = camera["mac"].as_str().context("its card")?;
        let table = site.edge.run(&["edge", "devices", "--csv"])?;
        ensure!(table.contains(mac), "{table}");
        let edges = |what: &str, accept: &dyn Fn(&serde_json::Value) -> bool| {
            wait_for(what, 10 * SECOND, || {
                let edges = lab.broker.admin(&["edges", "list"])?;
                Ok(accept(&edges[0]).then_some(()))
            })
        };
        edges("the broker to know of the scan", &|edge| edge["found"] == 2)?;

        is_repeated_over_restarts(&mut site)?;
        keeps_to_what_its_owner_lets_it(&site, &edges)?;

        let listener = site.camera.enter(|| std::net::UdpSocket::bind("0.0.0.0:9"))??;
        listener.set_read_timeout(Some(5 * SECOND))?;
        site.edge.run(&["edge", "wake", mac])?;
        let mut packet = [0; 128];
        let (len, _) = listener.recv_from(&mut packet).context("a magic packet")?;
        ensure!(len == 102 && packet[..6] == [0xff; 6], "{:?}", &packet[..len]);

        site.add(&["forwards", "add", "8080", "192.168.1.9:80", "--name", "camera"])?;
        site.add(&["forwards", "add", "8081", "192.168.1.9:81", "--name", "nothing"])?;
        let answers = |name: &str, wanted: &str| {
            wait_for("the check", 5 * SECOND, || {
                let output = site.edge.cli(&["edge", "forwards", "check", name])?;
                Ok(String::from_utf8_lossy(&output.stdout).contains(wanted).then_some(()))
            })
        };
        answers("camera", "it answers")?;
        answers("nothing", "nothing serves the port")?;
        site.edge.host().nft(
            "table inet host {\n  chain forward {\n    type filter hook forward priority 0; policy drop;\n  }\n}\n",
        )?;
        edges("the broker to know of the host's firewall", &|edge| {
            edge["problems"][0].as_str().is_some_and(|text| text.contains("firewall"))
        })
    });
}

/// Waits for something until what the broker says of the edge is so.
type WaitForEdge<'a> = dyn Fn(&str, &dyn Fn(&serde_json::Value) -> bool) -> Result<()> + 'a;

/// The owner's word on the device holds against what the account sets, and is named as the reason.
fn keeps_to_what_its_owner_lets_it(site: &Site, edges: &WaitForEdge<'_>) -> Result<()> {
    site.add(&["forwards", "add", "8090", "192.168.1.9:80", "--name", "capped"])?;
    let only = site.add(&["enable", "--only", "10.0.0.0/8,internet"])?;
    ensure!(only["only"] == serde_json::json!(["10.0.0.0/8", "0.0.0.0/0"]), "{only}");
    let is_capped = |edge: &serde_json::Value| {
        let mut problems = edge["problems"].as_array().into_iter().flatten();
        problems.any(|it| it.as_str().is_some_and(|it| it.contains("owner lets it open")))
    };
    edges("the broker to know of the cap", &is_capped)?;
    let status = site.edge.run(&["edge", "status"])?;
    ensure!(status.contains("nothing but 10.0.0.0/8, the internet"), "{status}");
    ensure!(status.contains("Problem: forward 'capped': 192.168.1.9 is outside"), "{status}");
    common::refused(&site.edge.cli(&["edge", "scan"])?, "owner lets it open")?;
    let kept = site.add(&["enable"])?;
    ensure!(kept["only"] == only["only"], "it is lifted without a word: {kept}");
    site.edge.run(&["edge", "enable", "--only", "everything"])?;
    edges("the cap to be lifted", &|edge| !is_capped(edge))?;
    site.edge.run(&["edge", "forwards", "remove", "capped"])?;
    Ok(())
}

/// What is scanned again and again is set by a scan, outlives a restart, and ends when that is said.
fn is_repeated_over_restarts(site: &mut Site) -> Result<()> {
    common::refused(&site.edge.cli(&["edge", "scan", "--every", "5m"])?, "each 15m to 30d")?;
    let own = ["edge", "scan", "192.168.1.2/32", "--every", "6h"];
    common::refused(&site.edge.cli(&own)?, "no LAN")?;
    ensure!(site.add(&["status"])?["rescan"].is_null(), "what was refused isn't repeated");
    let found = site.add(&["scan", "192.168.1.0/24", "--every", "36h", "--ports", "80"])?;
    ensure!(found["devices"]["192.168.1.9"]["present"] == true, "it scans at once, too: {found}");
    site.edge.restart()?;
    let rescan = wait_for("the edge after its restart", 20 * SECOND, || {
        let status = site.add(&["status"]).unwrap_or_default();
        Ok(Some(status["rescan"].clone()).filter(|rescan| !rescan.is_null()))
    })?;
    ensure!(rescan["every_secs"] == 36 * 3600 && rescan["plan"]["ports"][0] == 80, "{rescan}");
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
    let hours = (rescan["next_unix"].as_u64().context("when")? - now) / 3600;
    ensure!((35..=37).contains(&hours), "in {hours} h");
    let text = site.edge.run(&["edge", "status"])?;
    ensure!(text.contains("scans 192.168.1.0/24 each 36h; next in 1d"), "{text}");
    site.edge.run(&["edge", "scan", "--every", "off"])?;
    ensure!(site.add(&["status"])?["rescan"].is_null(), "it is over");
    Ok(())
}

/// The answers of a device to a question each 100 ms, and the longest time without one.
fn longest_gap(
    from: &Host,
    at: (Ipv4Addr, u16),
    happens: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let ask = || {
        from.enter(|| -> Result<()> {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            socket.connect(at)?;
            socket.send(b"?")?;
            socket.recv(&mut [0; 128])?;
            Ok(())
        })?
    };
    happens()?;
    let begun = Instant::now();
    let (mut last, mut gap) = (begun, Duration::ZERO);
    while begun.elapsed() < 8 * SECOND {
        if ask().is_ok() {
            gap = gap.max(last.elapsed());
            last = Instant::now();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    ensure!(last.elapsed() < SECOND, "nothing answers after {:?}", last.duration_since(begun));
    Ok(gap)
}

#[test]
fn a_second_edge_takes_over_when_the_first_goes() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut technician = technician(&lab)?;
        let laptop = technician.host().clone();
        let mut site = Site::build(&lab, "site-7")?;
        let (host, second_link) = site.device(&lab, "site-7b", [192, 168, 1, 3].into())?;
        let second = lab.join(&host)?;
        lan::enable(&second)?;
        technician.wait_peers(&["site-7", "site-7b"])?;
        let gateway = site.add(&["gateways", "add", "192.168.1.0/24"])?;
        second.run(&["edge", "gateways", "add", "192.168.1.0/24", "--standby-for", "site-7"])?;
        let part = gateway["mesh"].as_str().context("its part of the range")?;
        let part: ipnet::Ipv4Net = part.parse()?;
        let camera = Ipv4Addr::from_bits(part.network().to_bits() + 9);
        shows(&laptop, (camera, 80), "site-7-camera")?;
        wait_until("both edges to have it open", 5 * SECOND, || {
            Ok(host.run(&["nft", "list", "tables"])?.contains("warren-edge"))
        })?;

        let killed = longest_gap(&laptop, (camera, 7000), || site.edge.kill())?;
        println!("failover: {killed:?} after kill -9 of the first edge");
        ensure!(killed < 5 * SECOND, "failover took {killed:?}");
        site.edge.restart()?;
        site.edge.wait_connected()?;
        shows(&laptop, (camera, 80), "site-7-camera")?;
        let cut = longest_gap(&laptop, (camera, 7000), || second_link.set_up(false))?;
        println!("failover: {cut:?} after the cable of the second was cut");
        ensure!(cut < 5 * SECOND, "failover took {cut:?}");
        let cut = longest_gap(&laptop, (camera, 7000), || {
            second_link.set_up(true)?;
            wait_until("the second to be back", 20 * SECOND, || {
                Ok(technician.peer("site-7b")?.online)
            })?;
            site.link.set_up(false)
        })?;
        println!("failover: {cut:?} after the cable of the first was cut");
        ensure!(cut < 5 * SECOND, "failover took {cut:?}");
        Ok(())
    });
}

#[test]
fn an_edge_with_everything_on_is_small_and_idle() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut site = Site::build(&lab, "site-7")?;
        site.add(&["scan"])?;
        site.add(&["forwards", "add", "8080", "192.168.1.9:80"])?;
        site.add(&["virtual-devices", "add", "camera-2", "192.168.1.9"])?;
        site.add(&["gateways", "add", "192.168.1.0/24"])?;
        std::thread::sleep(3 * SECOND);
        let pid = site.edge.process().pid();
        let (_, before) = lan::usage(pid)?;
        std::thread::sleep(10 * SECOND);
        let (resident, after) = lan::usage(pid)?;
        let percent = f64::from(u32::try_from(after - before)?) / 10.0;
        println!("an idle edge: {resident} KiB resident, {percent:.2} % of a core");
        ensure!(percent < 5.0, "it is busy with nothing");
        Ok(())
    });
}
