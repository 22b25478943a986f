//! Devices that move, brokers that go away, and what runs on through it.

mod common;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use common::traffic::Stream;
use common::{Lab, SECOND, kernel_ping, mesh_ipv4};
use warren_lab::warren::Node;
use warren_lab::{NatKind, Plug, isolated, wait_until};

/// A laptop at home, a server in another home, and a running TCP connection between them.
fn pair<'w>(
    lab: &Lab<'w>,
    server_kind: NatKind,
) -> Result<(Node, warren_lab::Link, Node, Stream, Vec<warren_lab::Router>)> {
    let (mut laptop, link, home) = lab.home_node("laptop", NatKind::EimApdf)?;
    let (server, _, server_home) = lab.home_node("server", server_kind)?;
    laptop.wait_peers(&["server"])?;
    laptop.ping_direct("server")?;
    let stream = Stream::start(laptop.host(), server.host(), mesh_ipv4(&server)?)?;
    stream.flows("the stream to start", 10 * SECOND)?;
    Ok((laptop, link, server, stream, vec![home, server_home]))
}

#[test]
fn a_laptop_roams_to_another_nat_and_its_tcp_connection_runs_on() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (laptop, link, server, stream, _homes) = pair(&lab, NatKind::EimApdf)?;
        let cafe = lab.home("cafe", NatKind::EimApdf)?;
        stream.take_gap();
        let _link = link.roam(cafe.lan(), &Plug::ipv4())?;
        let healed = stream.flows("the stream to go on", 30 * SECOND)?;
        let gap = stream.take_gap();
        println!("roamed to another NAT: TCP stalled for {gap:?} (50 bytes later: {healed:?})");
        ensure!(gap < 15 * SECOND, "TCP stalled for {gap:?}");
        let outside = std::net::IpAddr::V4(cafe.wan().v4()?);
        wait_until("the server to use the new endpoint", 10 * SECOND, || {
            Ok(server.peer("laptop")?.endpoint.is_some_and(|it| it.ip() == outside))
        })?;
        ensure!(laptop.peer("server")?.path == "direct", "the path isn't direct");
        stream.finish()
    });
}

#[test]
fn a_line_that_is_dead_for_a_while_does_not_end_a_connection() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (_laptop, link, _server, stream, _homes) = pair(&lab, NatKind::EimApdf)?;
        stream.take_gap();
        link.set_up(false)?;
        // The outage itself, not a hope: as long as a person needs to plug a cable back in.
        std::thread::sleep(3 * SECOND);
        link.set_up(true)?;
        let back = Instant::now();
        stream.flows("the stream to go on", 30 * SECOND)?;
        println!(
            "line dead for 3 s: TCP stalled for {:?}, {:?} after it came back",
            stream.take_gap(),
            back.elapsed()
        );
        stream.finish()
    });
}

#[test]
fn a_broker_killed_and_restarted_keeps_names_addresses_and_keys() {
    isolated(|world| {
        let mut lab = Lab::start(world)?;
        let (mut left, _) = lab.public_node("left")?;
        let (mut right, _) = lab.public_node("right")?;
        left.wait_peers(&["right"])?;
        let address = mesh_ipv4(&right)?;
        for _ in 0..3 {
            lab.broker.kill()?;
            lab.broker.restart()?;
        }
        for node in [&mut left, &mut right] {
            node.wait_connected()?;
        }
        left.wait_peers(&["right"])?;
        ensure!(mesh_ipv4(&right)? == address, "the address changed");
        left.ping_direct("right")?;
        // The join link from before the crash still works.
        let (third, _) = lab.public_node("third")?;
        third.ping_direct("left")?;
        Ok(())
    });
}

#[test]
fn with_the_broker_down_tunnels_go_on_and_status_says_how_old_the_map_is() {
    isolated(|world| {
        let mut lab = Lab::start(world)?;
        let (mut laptop, _link, server, stream, _homes) = pair(&lab, NatKind::EimApdf)?;
        lab.broker.kill()?;
        stream.take_gap();
        let limit = 90 * SECOND;
        let status = laptop.wait_status("notices", limit, |it| it.node.state == "offline")?;
        ensure!(!status.broker.connected, "offline, and connected to its broker");
        ensure!(status.health("broker-away").is_some(), "no complaint: {:?}", status.health);
        stream.flows("the stream to go on", 5 * SECOND)?;
        let gap = stream.take_gap();
        println!("broker killed: the longest gap in a running stream was {gap:?}");
        ensure!(gap < 2 * SECOND, "the stream stalled for {gap:?}");
        laptop.wait_status("an age", 10 * SECOND, |status| {
            status.broker.netmap_age_s.is_some_and(|age| age > 0)
        })?;
        lab.broker.restart()?;
        laptop.wait_connected()?;
        ensure!(server.peer("laptop")?.path == "direct", "the path isn't direct");
        stream.finish()
    });
}

#[test]
fn nodes_started_cold_without_the_broker_reach_each_other_from_their_caches() {
    isolated(|world| {
        let mut lab = Lab::start(world)?;
        let (mut left, _, _left_home) = lab.home_node("left", NatKind::EimApdf)?;
        let (mut right, _, _right_home) = lab.home_node("right", NatKind::EimApdf)?;
        left.wait_peers(&["right"])?;
        right.wait_peers(&["left"])?;
        let address = mesh_ipv4(&right)?;
        left.ping_direct("right")?;
        for (node, other) in [(&left, "right"), (&right, "left")] {
            wait_until("the map is on disk", 10 * SECOND, || Ok(mentions(node.state(), other)))?;
        }
        lab.broker.kill()?;
        left.kill()?;
        right.kill()?;
        let begun = Instant::now();
        left.restart()?;
        right.restart()?;
        left.wait_status("the cached map", 10 * SECOND, |status| status.peer("right").is_some())?;
        kernel_ping(left.host(), address, 40 * SECOND)?;
        let took = begun.elapsed();
        println!("both started cold, no broker: first reply after {took:?}");
        ensure!(took <= 25 * SECOND, "it took {took:?}");
        Ok(())
    });
}

#[test]
fn without_the_broker_a_laptop_that_roams_still_reaches_a_public_peer() {
    isolated(|world| {
        let mut lab = Lab::start(world)?;
        let (laptop, link, _home) = lab.home_node("laptop", NatKind::EimApdf)?;
        let (server, _) = lab.public_node("server")?;
        laptop.ping_direct("server")?;
        let stream = Stream::start(laptop.host(), server.host(), mesh_ipv4(&server)?)?;
        stream.flows("the stream to start", 10 * SECOND)?;
        lab.broker.kill()?;
        let cafe = lab.home("cafe", NatKind::EimApdf)?;
        stream.take_gap();
        let _link = link.roam(cafe.lan(), &Plug::ipv4())?;
        stream.flows("the stream to go on", 30 * SECOND)?;
        let gap = stream.take_gap();
        println!("roamed without a broker, public peer: TCP stalled for {gap:?}");
        ensure!(gap < 15 * SECOND, "TCP stalled for {gap:?}");
        stream.finish()
    });
}

/// Whether a file of the folder mentions the name.
fn mentions(folder: &std::path::Path, name: &str) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let quoted = format!("\"{name}\"");
    entries
        .filter_map(|entry| std::fs::read(entry.path()).ok())
        .any(|bytes| String::from_utf8_lossy(&bytes).contains(&quoted))
}

#[test]
fn a_removed_device_is_cut_off_within_a_second() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut left, _) = lab.public_node("left")?;
        let (mut right, _) = lab.public_node("right")?;
        left.wait_peers(&["right"])?;
        left.ping_direct("right")?;
        let address = mesh_ipv4(&right)?;
        lab.broker.change(&["devices", "remove", "right", "--yes"])?;
        let removed = Instant::now();
        let gone = |status: &warren_lab::warren::Status| status.peer("right").is_none();
        left.wait_status("forgets it", 5 * SECOND, gone)?;
        let took = removed.elapsed();
        println!("removed device forgotten by its peer after {took:?}");
        ensure!(took <= SECOND, "it took {took:?}");
        ensure!(kernel_ping(left.host(), address, SECOND).is_err(), "it still answers");
        let status = right.wait_status("learns of it", 10 * SECOND, |status| {
            status.node.state == "must-join-again"
        })?;
        ensure!(status.health("must-join-again").is_some(), "no complaint: {:?}", status.health);
        let link = lab.broker.join_link()?;
        right.run(&["up", "--join", &link]).context("joining again")?;
        right.wait_connected()?;
        left.wait_status("sees it again", 10 * SECOND, |status| {
            status.peers.iter().any(|peer| peer.online)
        })?;
        Ok(())
    });
}

#[test]
fn a_device_that_crashed_and_came_back_is_reached_again_soon() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (left, _) = lab.public_node("left")?;
        let (mut right, _) = lab.public_node("right")?;
        left.ping_direct("right")?;
        let address = mesh_ipv4(&right)?;
        right.kill()?;
        right.restart()?;
        right.wait_connected()?;
        // The other side still has its half of the old session.
        let begun = Instant::now();
        kernel_ping(left.host(), address, 20 * SECOND)?;
        let took = begun.elapsed();
        println!("after a crash and a restart: first reply after {took:?}");
        ensure!(took < 3 * SECOND, "it took {took:?}");
        Ok(())
    });
}
