//! Pairs that need a relay: the way back to a direct path, relays that die, networks without UDP, and
//! a device that relays for its account.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::traffic::{Numbered, Stream};
use common::{Lab, SECOND, forward, mesh_ipv4};
use warren_lab::warren::{Node, PingReply, RelayServer};
use warren_lab::{NatKind, Plug, isolated, wait_for, wait_until};

/// Pings until an answer comes through that relay, and returns the first one.
fn ping_relayed(from: &Node, to: &str, relay: &str) -> Result<PingReply> {
    let replies = from.ping(to, Some(3))?;
    let first = replies.iter().find(|reply| reply.rtt_ms.is_some());
    let first = first.with_context(|| format!("{to} doesn't answer: {replies:?}"))?;
    ensure!(first.path == "relayed" && first.relay.as_deref() == Some(relay), "{replies:?}");
    Ok(first.clone())
}

/// Waits until so many devices have told the broker that they reach the relay.
fn wait_reached(lab: &Lab<'_>, relay: &str, devices: u64) -> Result<()> {
    wait_until(&format!("{devices} devices to reach {relay}"), 40 * SECOND, || {
        let shown = lab.broker.admin(&["relays", "show", relay])?;
        Ok(shown["reached_by"].as_u64() >= Some(devices))
    })?;
    Ok(())
}

fn is_relayed_by(node: &Node, peer: &str, relay: &str) -> Result<bool> {
    let view = node.peer(peer)?;
    Ok(view.path == "relayed" && view.relay.as_deref() == Some(relay))
}

#[test]
fn when_the_rule_at_the_nat_is_gone_a_relayed_pair_turns_direct_and_loses_nothing() {
    isolated(|world| {
        let lab = Lab::relaying(world)?;
        let left_home = lab.home("left-home", NatKind::EimApdf)?;
        left_home.fence(&lab.broker_ipv4())?;
        let (host, _) = lab.host("left", left_home.lan(), &Plug::ipv4())?;
        let mut left = lab.join(&host)?;
        let (right, _, _right_home) = lab.home_node("right", NatKind::EimApdf)?;
        left.wait_peers(&["right"])?;
        ping_relayed(&left, "right", "broker")?;
        let address = mesh_ipv4(&right)?;
        let stream = Stream::start(left.host(), right.host(), address)?;
        let numbered = Numbered::start(left.host(), right.host(), address)?;
        stream.flows("the stream to start", 10 * SECOND)?;
        wait_until("the search for a direct path to end", 30 * SECOND, || {
            Ok(left.peer("right")?.reason.is_some())
        })?;
        ensure!(is_relayed_by(&left, "right", "broker")?, "it is direct through the fence");

        stream.take_gap();
        let first = numbered.next();
        left_home.take_fence_down()?;
        let took = wait_until("both sides to go direct", 120 * SECOND, || {
            let ways = [left.peer("right")?.path, right.peer("left")?.path];
            Ok(ways.iter().all(|path| path == "direct"))
        })?;
        let switched = numbered.next();
        wait_until("datagrams on the new path", 20 * SECOND, || {
            Ok(numbered.next() > switched + 400)
        })?;
        stream.flows("the stream to go on", 10 * SECOND)?;
        let gap = stream.take_gap();
        let (sent, lost) = numbered.finish(first)?;
        println!(
            "rule removed: direct after {took:?}; {} of {sent} datagrams lost, longest gap in TCP \
             {gap:?}",
            lost.len()
        );
        ensure!(lost.is_empty(), "lost to the switch: {lost:?} of {first}..{}", first + sent);
        stream.finish()
    });
}

#[test]
fn when_the_relay_is_killed_traffic_takes_the_next_one_and_goes_on_when_the_broker_is_killed() {
    isolated(|world| {
        let mut lab = Lab::start(world)?;
        let mut relays = Vec::new();
        for name in ["first", "second"] {
            let (host, _) = lab.host(name, world.internet(), &Plug::ipv4())?;
            relays.push(RelayServer::start(&lab.warren, &lab.broker, &host)?);
        }
        lab.broker.change(&["relays", "set", "first", "second"])?;
        let (mut left, _, _left_home) = lab.home_node("left", NatKind::Apdm)?;
        let (right, _, _right_home) = lab.home_node("right", NatKind::Apdm)?;
        left.wait_peers(&["right"])?;
        for relay in ["first", "second"] {
            wait_reached(&lab, relay, 2)?;
        }
        let reply = ping_relayed(&left, "right", "first")?;
        println!("first reply through a relay server after {:?} ms", reply.rtt_ms);
        ensure!(relays[0].metric("allocations")? == 2, "the first relay is not used by both");
        ensure!(relays[1].metric("allocated_total")? == 0, "the second relay is used");
        let stream = Stream::start(left.host(), right.host(), mesh_ipv4(&right)?)?;
        stream.flows("the stream to start", 10 * SECOND)?;

        stream.take_gap();
        relays[0].kill()?;
        wait_until("the next relay", 30 * SECOND, || is_relayed_by(&left, "right", "second"))?;
        stream.flows("the stream to go on", 30 * SECOND)?;
        let gap = stream.take_gap();
        println!("relay killed: TCP stalled for {gap:?}");
        ensure!(gap < 15 * SECOND, "TCP stalled for {gap:?}");

        lab.broker.kill()?;
        left.wait_status("notices", 90 * SECOND, |it| it.node.state == "offline")?;
        let before = relays[1].metric("packets_total{direction=\"between_clients\"}")?;
        stream.flows("the stream to go on", 10 * SECOND)?;
        let after = relays[1].metric("packets_total{direction=\"between_clients\"}")?;
        let gap = stream.take_gap();
        println!("broker killed: the longest gap in a relayed stream was {gap:?}");
        ensure!(after > before, "the relay serves nobody: {before}, {after}");
        ensure!(gap < 5 * SECOND, "TCP stalled for {gap:?}");
        stream.finish()
    });
}

/// An HTTP proxy that connects (RFC 9110 §9.3.6) whoever asks, until the world ends.
fn serve_proxy(listener: TcpListener, at: warren_lab::Host) {
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let at = at.clone();
            std::thread::spawn(move || serve_client(client, &at));
        }
    });
}

fn serve_client(mut client: TcpStream, at: &warren_lab::Host) -> Result<()> {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let request = String::from_utf8(request)?;
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let target = target.with_context(|| format!("no CONNECT: {request}"))?;
    let server = at.enter(|| TcpStream::connect(target))??;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    forward::join(client, server)
}

#[test]
fn where_udp_is_blocked_the_path_goes_by_tls_at_the_https_port_also_through_a_proxy() {
    isolated(|world| {
        let lab = Lab::relaying(world)?;
        let (server, _, _server_home) = lab.home_node("server", NatKind::Apdm)?;
        let (laptop, _, laptop_home) = lab.home_node("laptop", NatKind::Apdm)?;
        let (blocked, _, _blocked_home) = lab.home_node("blocked", NatKind::UdpBlocked)?;
        let office = lab.home("office", NatKind::EimApdf)?;
        office.forward_nothing()?;
        let proxy = (Ipv4Addr::new(192, 168, 1, 1), 3128);
        let listener = office.host().enter(|| TcpListener::bind(proxy))??;
        serve_proxy(listener, office.host().clone());
        let (host, _) = lab.host("proxied", office.lan(), &Plug::ipv4())?;
        let environment = [("HTTPS_PROXY", format!("http://{}:{}", proxy.0, proxy.1))];
        let flags = ["--join", lab.link.as_str()];
        let proxied = Node::start_with_environment(&lab.warren, &host, &flags, &environment)?;
        let mut without_udp = [blocked, proxied];
        for node in &mut without_udp {
            let everybody = |status: &warren_lab::warren::Status| {
                status.node.nat["udp"] == false
                    && status.peers.iter().filter(|peer| peer.online).count() == 3
            };
            node.wait_status("knows that UDP is blocked, and its peers", 60 * SECOND, everybody)?;
            let name = node.host().name().to_owned();
            let reply = ping_relayed(node, "server", "broker")?;
            println!("UDP blocked, {name}: first reply by TLS after {:?} ms", reply.rtt_ms);
            let why = node.peer("server")?.reason.unwrap_or_default();
            ensure!(why.contains("UDP is blocked here"), "{name} says: {why}");
        }
        let [blocked, proxied] = without_udp;
        ping_relayed(&blocked, "proxied", "broker")?;
        let stream = Stream::start(proxied.host(), blocked.host(), mesh_ipv4(&blocked)?)?;
        stream.flows("a stream by TLS on both sides", 10 * SECOND)?;
        stream.finish()?;

        ping_relayed(&laptop, "server", "broker")?;
        let stream = Stream::start(laptop.host(), server.host(), mesh_ipv4(&server)?)?;
        stream.flows("a stream by UDP", 10 * SECOND)?;
        stream.take_gap();
        laptop_home.fence(&[])?;
        let begun = Instant::now();
        // More than was on its way, and than the relay's own buffers hold.
        wait_for("the stream to stall and go on", 60 * SECOND, || {
            let flowing = stream.flows("", Duration::from_millis(600)).is_ok();
            let stalled = stream.gap() > Duration::from_millis(400);
            Ok((flowing && stalled).then_some(()))
        })?;
        println!(
            "UDP blocked under traffic: TCP stalled for {:?}, on by TLS ({:?})",
            stream.take_gap(),
            begun.elapsed()
        );
        ensure!(is_relayed_by(&laptop, "server", "broker")?, "{:?}", laptop.peer("server")?);
        stream.finish()
    });
}

#[test]
fn a_device_with_a_forwarded_port_relays_for_its_account_until_it_is_removed() {
    const PORT: &str = "51820";
    isolated(|world| {
        let lab = Lab::relaying(world)?;
        let porch = lab.home("porch", NatKind::EimApdf)?;
        let (host, keeper_link) = lab.host("keeper", porch.lan(), &Plug::ipv4())?;
        let mut keeper = lab.join(&host)?;
        let (host, _) = lab.host("mate", porch.lan(), &Plug::ipv4())?;
        let _mate = lab.join(&host)?;
        keeper.run(&["lport", PORT])?;
        keeper.wait_status("on its port", 20 * SECOND, |status| {
            status.node.listen_port.to_string() == PORT && status.broker.connected
        })?;
        let outside = format!("{}:{PORT}", porch.wan().v4()?);
        lab.broker.change(&["devices", "set", "keeper", "--static-endpoint", &outside])?;

        let unreached = format!("no answer to the broker from {outside}");
        let said = lab.broker.change(&["relays", "set", "keeper", "broker"])?;
        for part in [unreached.as_str(), "forwarded", "same public address", "mate"] {
            ensure!(said.contains(part), "nothing of '{part}': {said}");
        }
        let shown = lab.broker.change(&["relays", "show", "keeper"])?;
        ensure!(shown.contains(&unreached), "show says: {shown}");
        let listed = lab.broker.change(&["relays", "list"])?;
        ensure!(listed.contains("see show"), "list says: {listed}");

        let reach = ["devices", "reach", "keeper"];
        let said = lab.broker.change(&reach).expect_err("nothing is forwarded").to_string();
        ensure!(said.contains("forwards UDP port 51820"), "reach says: {said}");

        porch.forward_port(PORT.parse()?, keeper_link.v4()?)?;
        let said = lab.broker.change(&reach)?;
        ensure!(said.contains(&format!("Reached: it answered at {outside}")), "{said}");
        let said = lab.broker.change(&["relays", "set", "keeper", "broker"])?;
        ensure!(!said.contains("no answer"), "it is reached, and yet: {said}");
        // Whoever was there before asks the keeper again after a minute.
        let (mut left, _, _left_home) = lab.home_node("left", NatKind::Apdm)?;
        let (right, _, _right_home) = lab.home_node("right", NatKind::Apdm)?;
        left.wait_peers(&["right"])?;
        wait_reached(&lab, "keeper", 2)?;
        ping_relayed(&left, "right", "keeper")?;
        let relayed = keeper.counter("relay-allocations")?;
        ensure!(relayed == 2, "the keeper has {relayed} allocations");
        let stream = Stream::start(left.host(), right.host(), mesh_ipv4(&right)?)?;
        stream.flows("a stream through the keeper", 10 * SECOND)?;

        stream.take_gap();
        let said = lab.broker.change(&["devices", "remove", "keeper", "--yes"])?;
        ensure!(said.contains("relay"), "nothing of the relay: {said}");
        wait_until("the next relay", 30 * SECOND, || is_relayed_by(&left, "right", "broker"))?;
        stream.flows("the stream to go on", 30 * SECOND)?;
        let gap = stream.take_gap();
        println!("the device that relayed was removed: TCP stalled for {gap:?}");
        ensure!(gap < 15 * SECOND, "TCP stalled for {gap:?}");
        stream.finish()
    });
}
