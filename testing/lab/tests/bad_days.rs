//! What a machine can do to a node or a broker, and what its user sees.

mod common;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use common::{Lab, SECOND, kernel_ping, mesh_ipv4, refused};
use warren_lab::warren::Node;
use warren_lab::{Host, NatKind, NatSpec, Plug, isolated};

/// All that a node without an interface tells its user: by its log and, if it runs on, by its status.
fn complaint(node: &mut Node, needle: &str) -> Result<String> {
    let what = format!("a complaint about {needle}");
    warren_lab::wait_for(&what, 15 * SECOND, || {
        let status = node.status().ok();
        let health = status.iter().flat_map(|it| &it.health).map(|it| it.text.clone());
        let text = health.chain([node.process().log()]).find(|text| text.contains(needle));
        Ok(text)
    })
    .with_context(|| node.process().log())
}

#[test]
fn without_dev_net_tun_the_user_is_told_what_to_do() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (host, _) = lab.host("device", world.internet(), &Plug::ipv4())?;
        host.mount_tmpfs(Path::new("/dev/net"), 4096)?;
        let mut node = Node::start(&lab.warren, &host, &["--join", &lab.link])?;
        let text = complaint(&mut node, "/dev/net/tun")?;
        println!("{text}");
        Ok(())
    });
}

#[test]
fn without_privilege_the_user_is_told_what_to_do() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (host, _) = lab.host("device", world.internet(), &Plug::ipv4())?;
        let state = host.folder().join("node");
        let program = lab.warren.on(&host).words();
        let program = program.split_once(": ").context("host and program")?.1.to_owned();
        let state = state.to_string_lossy();
        let mut command = host.command("setpriv");
        // Root without any capability, as in a container that drops them all.
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--", &program, "node", "--state"]);
        let mut process =
            command.args([state.as_ref(), "--tun", "warren0", "--join", &lab.link]).spawn()?;
        let said = warren_lab::wait_for("a complaint", 15 * SECOND, || {
            let log = process.log();
            let ended = process.exited()?.is_some();
            let told = log.contains("root") && log.contains("CAP_NET_ADMIN");
            ensure!(told || !ended, "it ended with: {log}");
            Ok(told.then_some(log))
        });
        println!("{}", said.with_context(|| process.log())?);
        Ok(())
    });
}

#[test]
fn port_53_taken_leaves_the_mesh_working_and_says_so() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (host, _) = lab.host("device", world.internet(), &Plug::ipv4())?;
        let holders = host.enter(|| -> std::io::Result<_> {
            Ok((UdpSocket::bind("[::]:53")?, TcpListener::bind("[::]:53")?))
        })??;
        let before = fs::read_to_string(host.resolv_conf())?;
        let mut node = lab.join(&host)?;
        let (mut peer, _) = lab.public_node("peer")?;
        let status = node.wait_status("complains", 10 * SECOND, |status| {
            status.health("dns-port-taken").is_some()
        })?;
        println!("{:?}", status.health("dns-port-taken"));
        ensure!(fs::read_to_string(host.resolv_conf())? == before, "resolv.conf leads nowhere");
        peer.wait_peers(&["device"])?;
        peer.ping_direct("device")?;
        drop(holders);
        Ok(())
    });
}

#[test]
fn a_lan_that_uses_the_mesh_range_itself_keeps_working_and_so_does_the_mesh() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut peer, _) = lab.public_node("peer")?;
        // The LAN is the very /16 that the account has.
        let octets = mesh_ipv4(&peer)?.octets();
        let lan = ipnet::Ipv4Net::new(Ipv4Addr::new(octets[0], octets[1], 0, 0), 16)?;
        let spec = NatSpec::new(NatKind::EimApdf).lan(lan);
        let home = world.router("home", world.internet(), spec)?;
        let near = Ipv4Addr::new(octets[0], octets[1], 200, 1);
        let (neighbour, _) = lab.host("neighbour", home.lan(), &Plug::ipv4().at(near))?;
        let _listener = neighbour.enter(|| TcpListener::bind((near, 80)))??;
        let own = Ipv4Addr::new(octets[0], octets[1], 200, 2);
        let (host, _) = lab.host("device", home.lan(), &Plug::ipv4().at(own))?;
        let mut node = lab.join(&host)?;
        let status = node.wait_status("complains", 10 * SECOND, |status| {
            status.health("range-clash").is_some()
        })?;
        println!("{:?}", status.health("range-clash"));
        peer.wait_peers(&["device"])?;
        node.wait_peers(&["peer"])?;
        node.ping_direct("peer")?;
        kernel_ping(&host, mesh_ipv4(&peer)?, 5 * SECOND)?;
        host.enter(|| std::net::TcpStream::connect((near, 80)))?.context("the LAN's neighbour")?;
        Ok(())
    });
}

#[test]
fn the_listen_port_is_shown_set_and_refused_as_its_users_know_it() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut node, _) = lab.public_node("device")?;
        let (mut peer, _) = lab.public_node("peer")?;
        let automatic = node.status()?.node.listen_port;
        let shown = node.run(&["lport"])?;
        ensure!(shown.trim() == format!("Listen port: {automatic} (auto-assigned)"), "{shown}");
        let set = node.run(&["lport", "51820"])?;
        let lines: Vec<&str> = set.lines().collect();
        ensure!(
            lines == ["Listen port set to: 51820", "Tunnel restarting in background..."],
            "{lines:?}"
        );
        node.wait_status("the new port", 10 * SECOND, |it| it.node.listen_port == 51820)?;
        ensure!(node.run(&["lport"])?.trim() == "Listen port: 51820", "{}", node.run(&["lport"])?);
        peer.wait_peers(&["device"])?;
        let reply = peer.ping_direct("device")?;
        ensure!(reply.endpoint.is_some_and(|it| it.port() == 51820), "{reply:?}");

        let _holders = node.host().enter(|| -> std::io::Result<_> {
            Ok((UdpSocket::bind("0.0.0.0:40000")?, UdpSocket::bind("[::]:40001")?))
        })??;
        let text = refused(&node.cli(&["lport", "40000"])?, "40000")?;
        println!("{text}");
        ensure!(node.status()?.node.listen_port == 51820, "the old port was given up");
        peer.ping_direct("device")?;
        refused(&node.cli(&["lport", "99999"])?, "port")?;

        node.run(&["lport", "auto"])?;
        node.wait_status("the old automatic port", 10 * SECOND, |it| {
            it.node.listen_port == automatic
        })?;
        // Kept over a restart.
        node.restart()?;
        node.wait_connected()?;
        ensure!(node.status()?.node.listen_port == automatic, "another automatic port");
        Ok(())
    });
}

/// Fills the file system of `folder` to the last byte.
fn fill(host: &Host, folder: &Path) -> Result<PathBuf> {
    let file = folder.join("filler");
    let target = format!("of={}", file.display());
    let output = host.command("dd").args(["if=/dev/zero", &target, "bs=4k"]).output()?;
    ensure!(!output.status.success(), "the file system never got full");
    Ok(file)
}

#[test]
fn a_full_disk_at_the_broker_refuses_changes_and_keeps_what_there_is() {
    isolated(|world| {
        let mut lab = Lab::start(world)?;
        let host = world.host("small-broker")?;
        let address = world.internet().plug(&host, &Plug::ipv4())?.v4()?;
        let data = PathBuf::from("/srv");
        host.mount_tmpfs(&data, 8 << 20)?;
        let arguments = [
            "--listen",
            "[::]:443",
            "--public-url",
            &format!("https://{address}"),
            "--stun",
            &format!("{address}:3478"),
        ]
        .map(str::to_owned);
        lab.broker = warren_lab::warren::Broker::start_with(
            &lab.warren,
            &host,
            &data.join("broker"),
            arguments.into(),
        )?;
        lab.link = lab.broker.join_link()?;
        let (mut left, _) = lab.public_node("left")?;
        let (_right, _) = lab.public_node("right")?;
        left.wait_peers(&["right"])?;

        let filler = fill(&host, &data)?;
        let complaint = many_keys(&lab);
        let text = format!("{:#}", complaint.err().context("nothing was refused on a full disk")?);
        println!("{text}");
        let reason = "disk full: free space on /srv/broker, then repeat";
        ensure!(text.contains(reason), "it says: {text}");
        let log = lab.broker.process().log();
        ensure!(log.contains(reason), "the log doesn't say why:\n{log}");
        ensure!(left.status()?.broker.connected, "a node lost its broker over it");
        left.ping_direct("right")?;

        host.enter(|| fs::remove_file(&filler))??;
        lab.broker.join_link().context("after there was room again")?;
        lab.broker.kill()?;
        lab.broker.restart()?;
        let devices = lab.broker.admin(&["devices", "list"])?.to_string();
        ensure!(devices.contains("left") && devices.contains("right"), "lost: {devices}");
        Ok(())
    });
}

/// Whatever room a page of the database had left is used up by these.
fn many_keys(lab: &Lab<'_>) -> Result<()> {
    for _ in 0..200 {
        lab.broker.join_link()?;
    }
    Ok(())
}

#[test]
fn a_full_disk_at_a_node_is_told_and_the_mesh_goes_on() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (host, _) = lab.host("device", world.internet(), &Plug::ipv4())?;
        let disk = PathBuf::from("/srv");
        host.mount_tmpfs(&disk, 1 << 20)?;
        let flags = ["--join", &lab.link];
        let mut node = Node::start_in(&lab.warren, &host, &disk.join("node"), &flags)?;
        node.wait_connected()?;
        let filler = fill(&host, &disk)?;
        // A new peer is a change of the map, which wants to be written.
        let (mut peer, _) = lab.public_node("peer")?;
        node.wait_peers(&["peer"])?;
        peer.wait_peers(&["device"])?;
        peer.ping_direct("device")?;
        let status = node.wait_status("complains", 30 * SECOND, |status| {
            status.health("state-not-saved").is_some()
        })?;
        println!("{:?}", status.health("state-not-saved"));
        host.enter(|| fs::remove_file(&filler))??;
        let (_third, _) = lab.public_node("third")?;
        node.wait_status("is content again", 45 * SECOND, |status| {
            status.health("state-not-saved").is_none()
        })?;
        Ok(())
    });
}

#[test]
fn down_and_up_keep_the_device_and_logout_gives_it_up() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut node, _) = lab.public_node("device")?;
        let (mut peer, _) = lab.public_node("peer")?;
        peer.wait_peers(&["device"])?;
        let address = mesh_ipv4(&node)?;
        node.run(&["down"])?;
        let down = |status: &warren_lab::warren::Status| status.node.state == "down";
        node.wait_status("is down", 10 * SECOND, down)?;
        let links = node.host().run(&["ip", "-o", "link"])?;
        ensure!(!links.contains("warren0"), "the interface is left: {links}");
        peer.wait_status("sees it go", 10 * SECOND, |status| {
            status.peer("device").is_some_and(|peer| !peer.online)
        })?;
        // Also over a restart.
        node.restart()?;
        node.wait_status("stays down", 10 * SECOND, down)?;
        node.run(&["up"])?;
        node.wait_connected()?;
        ensure!(mesh_ipv4(&node)? == address, "another address");
        peer.wait_peers(&["device"])?;
        peer.ping_direct("device")?;
        node.run(&["logout"])?;
        node.wait_status("has joined nothing", 10 * SECOND, |status| {
            status.node.state == "not-joined"
        })?;
        peer.wait_status("forgets it", 10 * SECOND, |it| it.peer("device").is_none())?;
        Ok(())
    });
}

#[test]
fn nothing_of_the_hosts_network_stays_changed_after_kill_and_restart_and_down() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (host, _) = lab.host("device", world.internet(), &Plug::dual())?;
        let snapshot = |host: &Host| -> Result<String> {
            let mut text = String::new();
            for argv in [
                vec!["ip", "-o", "link"],
                vec!["ip", "-o", "addr"],
                vec!["ip", "route", "show", "table", "all"],
                vec!["ip", "-6", "route", "show", "table", "all"],
                vec!["ip", "rule"],
                vec!["ip", "-6", "rule"],
                vec!["nft", "list", "ruleset"],
                vec!["cat", "/etc/resolv.conf"],
            ] {
                // Routes learnt for a while carry a countdown.
                let output = host.run(&argv)?;
                let lines = output.lines().filter(|line| !line.contains("expires"));
                text.extend(lines.flat_map(|line| [line, "\n"]));
            }
            Ok(text)
        };
        fs::write(host.resolv_conf(), "nameserver 192.0.2.53\n")?;
        let before = snapshot(&host)?;
        let mut node = lab.join(&host)?;
        ensure!(snapshot(&host)? != before, "nothing was set up");
        node.kill()?;
        node.restart()?;
        node.wait_connected()?;
        node.run(&["down"])?;
        node.wait_status("is down", 10 * SECOND, |status| status.node.state == "down")?;
        let after = snapshot(&host)?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        node.run(&["up"])?;
        node.wait_connected()?;
        node.stop()?;
        let after = snapshot(&host)?;
        ensure!(after == before, "before:\n{before}\nafter a stop:\n{after}");
        Ok(())
    });
}
