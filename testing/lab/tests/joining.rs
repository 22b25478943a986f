//! Joining, and what goes wrong with it.

mod common;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use common::{Lab, SECOND, mesh_ipv4, refused};
use warren_lab::warren::{Broker, Node};
use warren_lab::{Plug, isolated};

/// Starts a node that can't join with `link`, and returns what `up` and the status say of it.
fn joining_fails(lab: &Lab<'_>, name: &str, link: &str) -> Result<String> {
    let (host, _) = lab.host(name, lab.world.internet(), &Plug::ipv4())?;
    let mut node = Node::start(&lab.warren, &host, &[])?;
    node.wait_status("runs", 10 * SECOND, |_| true)?;
    let output = node.cli(&["up", "--join", link])?;
    let text = refused(&output, "")?;
    ensure!(node.process().exited()?.is_none(), "the daemon ended over it");
    Ok(text)
}

#[test]
fn a_wrong_pin_is_told_and_nothing_is_joined() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (front, pin) = lab.link.rsplit_once('.').context("a link has a pin")?;
        let swapped = if pin.starts_with('A') { "B" } else { "A" };
        let text = joining_fails(&lab, "victim", &format!("{front}.{swapped}{}", &pin[1..]))?;
        ensure!(text.contains("certificate") || text.contains("pin"), "it says: {text}");
        let devices = lab.broker.admin(&["devices", "list"])?.to_string();
        ensure!(!devices.contains("victim"), "it joined all the same: {devices}");
        Ok(())
    });
}

#[test]
fn a_one_time_key_works_once_and_an_expired_key_not_at_all() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let once = lab.broker.new_join_link(&[])?;
        let (host, _) = lab.host("first", world.internet(), &Plug::ipv4())?;
        let _first = Node::join(&lab.warren, &host, &once)?;
        let text = joining_fails(&lab, "second", &once)?;
        ensure!(text.contains("used"), "it says: {text}");

        let expired = lab.broker.new_join_link(&["--expires", "1s"])?;
        // Past the expiry that was asked for.
        std::thread::sleep(SECOND * 2);
        let text = joining_fails(&lab, "third", &expired)?;
        ensure!(text.contains("expired"), "it says: {text}");
        Ok(())
    });
}

#[test]
fn two_devices_with_one_name_get_a_number() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut names = Vec::new();
        for host in ["one", "two"] {
            let (host, _) = lab.host(host, world.internet(), &Plug::ipv4())?;
            let flags = ["--join", &lab.link, "--name", "Kitchen Pi"];
            let mut node = Node::start(&lab.warren, &host, &flags)?;
            names.push(node.wait_connected()?.node.name);
        }
        ensure!(names == ["kitchen-pi", "kitchen-pi-2"], "they are called {names:?}");
        Ok(())
    });
}

#[test]
fn a_second_daemon_on_one_state_folder_is_refused() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (node, _) = lab.public_node("device")?;
        let state = node.state().to_string_lossy();
        let second = ["node", "--state", state.as_ref(), "--tun", "warren1"];
        let output = lab.warren.on(node.host()).args(second).output()?;
        let text = refused(&output, "another warren node")?;
        ensure!(text.contains(state.as_ref()), "the folder isn't named: {text}");
        ensure!(node.status()?.node.state == "connected", "the first one was disturbed");
        Ok(())
    });
}

#[test]
fn a_cloned_state_folder_is_noticed_and_a_new_identity_mends_it() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut original, _) = lab.public_node("original")?;
        let (host, _) = lab.host("clone", world.internet(), &Plug::ipv4())?;
        let state = host.folder().join("node");
        let copied = Command::new("cp").arg("-a").arg(original.state()).arg(&state).status()?;
        ensure!(copied.success(), "cannot copy the state folder");
        let _ = fs::remove_file(state.join("node.sock"));
        let mut clone = Node::start(&lab.warren, &host, &[])?;
        let told =
            |status: &warren_lab::warren::Status| status.health("duplicate-identity").is_some();
        clone
            .wait_status("is told of its double", 60 * SECOND, told)
            .or_else(|_| original.wait_status("is told of its double", 60 * SECOND, told))?;
        clone.run(&["logout", "--new-identity"])?;
        clone.run(&["up", "--join", &lab.link])?;
        clone.wait_connected()?;
        original.wait_connected()?;
        ensure!(mesh_ipv4(&clone)? != mesh_ipv4(&original)?, "they share an address");
        original.wait_peers(&[&clone.status()?.node.name])?;
        original.ping_direct(&clone.status()?.node.name)?;
        Ok(())
    });
}

#[test]
fn two_accounts_do_not_see_each_other() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        lab.broker.change(&["accounts", "create", "office"])?;
        let office = lab.broker.new_join_link(&["--account", "office", "--reusable"])?;
        let (home_one, _) = lab.public_node("home-one")?;
        let (mut home_two, _) = lab.public_node("home-two")?;
        let (host, _) = lab.host("office-one", world.internet(), &Plug::ipv4())?;
        let office_one = Node::join(&lab.warren, &host, &office)?;
        home_two.wait_peers(&["home-one"])?;
        ensure!(office_one.status()?.peers.is_empty(), "the office sees a home");
        ensure!(home_one.status()?.peers.len() == 1, "a home sees the office");
        refused(&home_one.cli(&["ping", "office-one"])?, "office-one")?;
        Ok(())
    });
}

/// A TCP proxy, which is all that the internet sees of the broker.
fn forward(
    listener: std::net::TcpListener,
    connect: impl Fn() -> Result<std::net::TcpStream> + Send + 'static,
) {
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Ok(server) = connect() {
                let _ = common::forward::join(client, server);
            }
        }
    });
}

#[test]
fn a_broker_behind_a_reverse_proxy_with_stun_elsewhere_serves_devices_behind_nats() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        // Another broker, in a network that only the proxy reaches.
        let proxy = world.host("proxy")?;
        let front = world.internet().plug(&proxy, &Plug::ipv4())?.v4()?;
        let net = "10.9.0.0/24".parse()?;
        let inner = warren_lab::Segment::lan(&proxy, "dmz", net, None)?;
        let host = world.host("hidden-broker")?;
        let hidden = inner.plug(&host, &Plug::ipv4())?.v4()?;
        let stun = world.internet().plug(&host, &Plug::ipv4())?.v4()?;
        let arguments = [
            "--listen".to_owned(),
            format!("{hidden}:8443"),
            "--public-url".to_owned(),
            format!("https://{front}"),
            "--stun".to_owned(),
            format!("{stun}:3478"),
            "--stun-public".to_owned(),
            format!("{stun}:3478"),
        ];
        let data = host.folder().join("broker");
        let broker = Broker::start_with(&lab.warren, &host, &data, arguments.into())?;
        let listener = proxy.enter(|| std::net::TcpListener::bind((front, 443)))??;
        let through = proxy.clone();
        forward(listener, move || {
            Ok(through.enter(|| std::net::TcpStream::connect((hidden, 8443)))??)
        });
        let link = broker.join_link()?;
        ensure!(link.contains(&front.to_string()), "the link leads elsewhere: {link}");
        let mut nodes = Vec::new();
        let mut homes = Vec::new();
        for name in ["left", "right"] {
            let home = lab.home(&format!("{name}-home"), warren_lab::NatKind::EimApdf)?;
            let (host, _) = lab.host(name, home.lan(), &Plug::ipv4())?;
            homes.push(home);
            nodes.push(Node::join(&lab.warren, &host, &link)?);
        }
        nodes[0].wait_peers(&["right"])?;
        nodes[0].ping_direct("right")?;
        Ok(())
    });
}
