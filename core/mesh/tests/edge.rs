//! What stands behind an edge: who is asked for it, who may speak for it, who is let through to it.

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::*;
use warren_mesh::{InboundDrop, OutboundDrop};
use warren_proto::{
    Change, Delta, DeviceName, EDGE, EdgeDuty, EdgeOffer, EdgeState, Filter, FilterRule, Gateway,
    GatewayId, INTERNET, InternetOffer, LanSource, LanTarget, MapVersion, Peer, Ports, Sources,
    Target, VirtualDevice, VirtualDeviceId, VirtualPeer,
};

const CAMERA: Ipv4Addr = Ipv4Addr::new(100, 80, 1, 99);
const PRINTER: Ipv4Addr = Ipv4Addr::new(100, 80, 254, 7);

fn name() -> DeviceName {
    "camera".parse().expect("a name")
}

fn tell(world: &mut World, node: usize, changes: Vec<Change>) {
    let now = world.now;
    let base = world.nodes[node].mesh.netmap().expect("a map").version;
    let version = MapVersion { sequence: base.sequence + 1, ..base };
    let delta = Delta { base, version, changes };
    assert_eq!(world.nodes[node].mesh.handle_delta(&delta, now), warren_proto::Apply::Applied);
    world.drain(node);
}

fn duty() -> EdgeDuty {
    let target = LanTarget { ip: Ipv4Addr::new(192, 168, 1, 9), mac: None };
    EdgeDuty {
        forwards: Vec::new(),
        virtual_devices: vec![VirtualDevice {
            id: VirtualDeviceId(1),
            name: name(),
            ipv4: CAMERA,
            target,
            ports: vec![Ports::All],
            source: LanSource::Masquerade,
            untested: false,
        }],
        gateways: vec![Gateway {
            id: GatewayId(1),
            mesh: "100.80.254.0/24".parse().expect("a network"),
            lan: "192.168.1.0/24".parse().expect("a network"),
            source: LanSource::Masquerade,
        }],
        managers: Vec::new(),
    }
}

fn edge_entry(world: &World, subnets: &[&str]) -> Peer {
    let offer = EdgeOffer {
        virtual_devices: vec![VirtualPeer { name: name(), ipv4: CAMERA }],
        subnets: subnets.iter().map(|net| net.parse().expect("a network")).collect(),
        internet: None,
    };
    Peer { edge: Some(offer), ..entry(0, &world.nodes[0].mesh) }
}

/// Node 0 is an edge, node 1 is told what stands behind it, node 2 isn't.
fn office() -> World {
    let mut world = World::new(3);
    world.join(0, 1);
    world.join(0, 2);
    let now = world.now;
    world.nodes[0].mesh.handle_edge(Some(EdgeState::default()), now);
    tell(&mut world, 0, vec![Change::Edge { duty: Some(duty()), asked: false }]);
    let peer = edge_entry(&world, &["100.80.254.0/24", "192.168.7.0/24"]);
    tell(&mut world, 1, vec![Change::Peer { peer }]);
    world
}

/// Sends a UDP packet and says whether it arrived.
fn passes(world: &mut World, (from, source): (usize, Ipv4Addr), to: usize, ip: Ipv4Addr) -> bool {
    let payload = [0x9c, 0x40, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4];
    let before = world.nodes[to].received.len();
    world.send_packet(from, &ip_packet(source, ip, &payload));
    world.run(DELAY * 3);
    world.nodes[to].received.len() > before
}

#[test]
fn packets_for_what_stands_behind_an_edge_go_to_it_and_answers_come_back() {
    let mut world = office();
    for ip in [CAMERA, PRINTER] {
        assert!(passes(&mut world, (1, mesh_v4(1)), 0, ip), "{ip}");
        assert!(passes(&mut world, (0, ip), 1, mesh_v4(1)), "{ip} answers");
    }
    let nowhere = Ipv4Addr::new(192, 168, 7, 7);
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, nowhere), "outside the account's range");
    assert!(!passes(&mut world, (2, mesh_v4(2)), 0, CAMERA), "who isn't told doesn't find it");
    assert!(!passes(&mut world, (0, CAMERA), 2, mesh_v4(2)));
    assert_eq!(world.nodes[2].drops.last(), Some(&InboundDrop::ForeignSource));
    assert!(!passes(&mut world, (1, CAMERA), 0, mesh_v4(0)), "nobody else speaks for it");
}

#[test]
fn an_edge_that_is_none_any_more_opens_nothing_whatever_its_map_says() {
    let mut world = office();
    let state = world.nodes[0].mesh.check_in_state();
    assert!(state.capabilities.iter().any(|it| it == EDGE) && state.edge.is_some());
    let now = world.now;
    world.nodes[0].mesh.handle_edge(None, now);
    world.drain(0);
    let state = world.nodes[0].mesh.check_in_state();
    assert!(state.capabilities.is_empty() && state.edge.is_none());
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, CAMERA));
    assert_eq!(world.nodes[0].drops.last(), Some(&InboundDrop::ForeignDestination));
    assert!(!passes(&mut world, (0, CAMERA), 1, mesh_v4(1)));
}

#[test]
fn what_a_peer_offers_no_more_is_not_sent_to_it() {
    let mut world = office();
    assert!(passes(&mut world, (1, mesh_v4(1)), 0, CAMERA));
    let peer = entry(0, &world.nodes[0].mesh);
    tell(&mut world, 1, vec![Change::Peer { peer }]);
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, CAMERA));
    let now = world.now;
    let packet = ip_packet(mesh_v4(1), PRINTER, &[0; 12]);
    let outcome = world.nodes[1].mesh.handle_outbound(&packet, packet.len(), now);
    assert!(
        matches!(outcome, warren_mesh::Outbound::Dropped(OutboundDrop::UnknownDestination)),
        "{outcome:?}"
    );
    assert!(!passes(&mut world, (0, PRINTER), 1, mesh_v4(1)));
}

#[test]
fn a_filter_lets_through_to_what_it_names_alone() {
    let mut world = office();
    let rule = |to, ports: &str| FilterRule {
        from: Sources::Devices(vec![id(1)]),
        ports: vec![ports.parse().expect("ports")],
        to: vec![to],
    };
    let filter = Filter {
        rules: vec![rule(Target::This, "*"), rule(Target::Virtual(name()), "udp:80")],
        limits: Vec::new(),
    };
    tell(&mut world, 0, vec![Change::Filter { filter: Some(filter) }]);
    assert!(passes(&mut world, (1, mesh_v4(1)), 0, CAMERA));
    assert!(passes(&mut world, (0, CAMERA), 1, mesh_v4(1)), "and back");
    assert!(passes(&mut world, (1, mesh_v4(1)), 0, mesh_v4(0)), "the edge itself");
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, PRINTER));
    let net = "100.80.254.0/29".parse().expect("a network");
    let filter = Filter { rules: vec![rule(Target::Subnet(net), "udp")], limits: Vec::new() };
    tell(&mut world, 0, vec![Change::Filter { filter: Some(filter) }]);
    assert!(passes(&mut world, (1, mesh_v4(1)), 0, PRINTER));
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, CAMERA));
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, mesh_v4(0)));
}

#[test]
fn of_two_edges_of_one_network_the_one_that_answers_is_asked() {
    let mut world = World::new(3);
    world.join(0, 1);
    world.join(1, 2);
    let offer = |node: usize, online: bool, world: &World| {
        let subnets = vec!["100.80.254.0/24".parse().expect("a network")];
        let edge = Some(EdgeOffer { subnets, ..EdgeOffer::default() });
        Change::Peer { peer: Peer { edge, online, ..entry(node, &world.nodes[node].mesh) } }
    };
    for node in [0, 2] {
        let now = world.now;
        world.nodes[node].mesh.handle_edge(Some(EdgeState::default()), now);
        tell(&mut world, node, vec![Change::Edge { duty: Some(duty()), asked: false }]);
        let change = offer(node, true, &world);
        tell(&mut world, 1, vec![change]);
    }
    assert!(passes(&mut world, (1, mesh_v4(1)), 0, PRINTER), "the first");
    world.nodes[0].alive = false;
    let begun = world.now;
    while !passes(&mut world, (1, mesh_v4(1)), 2, PRINTER) {
        assert!(world.now - begun < Duration::from_secs(3), "nobody takes over");
        world.run(Duration::from_millis(50));
    }
    let change = offer(2, false, &world);
    tell(&mut world, 1, vec![change]);
    world.nodes[0].alive = true;
    let begun = world.now;
    while !passes(&mut world, (1, mesh_v4(1)), 0, PRINTER) {
        assert!(world.now - begun < Duration::from_secs(10), "the first is back");
        world.run(Duration::from_millis(200));
    }
}

const WEBSITE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Nodes 0 and 2 are exit nodes, the second stands by for the first; node 1 is told of them.
fn two_exits() -> World {
    let mut world = World::new(4);
    for (a, b) in [(0, 1), (1, 2), (1, 3), (0, 3)] {
        world.join(a, b);
    }
    for node in [0, 2] {
        let now = world.now;
        world.nodes[node].mesh.handle_edge(Some(EdgeState::default()), now);
        let mut duty = duty();
        duty.gateways[0].mesh = INTERNET;
        duty.gateways[0].lan = INTERNET;
        tell(&mut world, node, vec![Change::Edge { duty: Some(duty), asked: false }]);
        let standby_for = (node == 2).then(|| id(0));
        let edge = Some(EdgeOffer {
            internet: Some(InternetOffer { standby_for }),
            ..EdgeOffer::default()
        });
        let peer = Peer { edge, online: true, ..entry(node, &world.nodes[node].mesh) };
        tell(&mut world, 1, vec![Change::Peer { peer }]);
    }
    world
}

fn choose(world: &mut World, exit: Option<usize>) {
    let now = world.now;
    world.nodes[1].mesh.handle_exit(exit.map(id), now);
    world.drain(1);
}

#[test]
fn the_internet_is_reached_by_the_exit_node_that_was_chosen_and_by_nobody_unasked() {
    let mut world = two_exits();
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, WEBSITE), "nobody has chosen it");
    assert!(!passes(&mut world, (0, WEBSITE), 1, mesh_v4(1)), "nor is anything taken from there");
    assert_eq!(world.nodes[1].drops.last(), Some(&InboundDrop::ForeignSource));
    choose(&mut world, Some(0));
    assert!(passes(&mut world, (1, mesh_v4(1)), 0, WEBSITE));
    assert!(passes(&mut world, (0, WEBSITE), 1, mesh_v4(1)), "the answer");
    for private in [[192, 168, 7, 7], [10, 0, 0, 1], [169, 254, 169, 254], [100, 81, 0, 1]] {
        assert!(!passes(&mut world, (1, mesh_v4(1)), 0, private.into()), "{private:?}");
        assert!(!passes(&mut world, (0, private.into()), 1, mesh_v4(1)), "{private:?}");
    }
    assert!(!passes(&mut world, (3, WEBSITE), 1, mesh_v4(1)), "another peer doesn't speak for it");
    assert!(!passes(&mut world, (1, WEBSITE), 0, mesh_v4(0)), "nor does this device");
    choose(&mut world, None);
    assert!(!passes(&mut world, (1, mesh_v4(1)), 0, WEBSITE));
    assert!(!passes(&mut world, (0, WEBSITE), 1, mesh_v4(1)));
}

#[test]
fn an_exit_node_lets_out_what_its_filter_says() {
    let mut world = two_exits();
    choose(&mut world, Some(0));
    let rule = |to| FilterRule {
        from: Sources::Devices(vec![id(1)]),
        ports: vec!["udp:80".parse().expect("ports")],
        to: vec![to],
    };
    for (to, is_open) in [
        (Target::This, false),
        (Target::Subnet("0.0.0.0/0".parse().expect("a network")), true),
        (Target::Internet, true),
        (Target::Virtual(name()), false),
        (Target::Everything, true),
    ] {
        let filter = Filter { rules: vec![rule(to.clone())], limits: Vec::new() };
        tell(&mut world, 0, vec![Change::Filter { filter: Some(filter) }]);
        let passed = passes(&mut world, (1, mesh_v4(1)), 0, WEBSITE);
        assert_eq!(passed, is_open, "{to:?}");
    }
}

#[test]
fn the_edge_that_stands_by_is_used_while_the_chosen_one_is_away_and_no_other() {
    let mut world = two_exits();
    choose(&mut world, Some(0));
    assert!(passes(&mut world, (1, mesh_v4(1)), 0, WEBSITE));
    let mut away = Peer { online: false, ..entry(0, &world.nodes[0].mesh) };
    away.edge =
        Some(EdgeOffer { internet: Some(InternetOffer::default()), ..EdgeOffer::default() });
    tell(&mut world, 1, vec![Change::Peer { peer: away }]);
    assert!(passes(&mut world, (1, mesh_v4(1)), 2, WEBSITE), "the one that stands by");
    assert!(passes(&mut world, (2, WEBSITE), 1, mesh_v4(1)));
    let used = world.nodes[1].mesh.exit_in_use().expect("one");
    assert_eq!(used.id, id(2));
    choose(&mut world, Some(2));
    assert!(passes(&mut world, (1, mesh_v4(1)), 2, WEBSITE));
    assert!(!passes(&mut world, (0, WEBSITE), 1, mesh_v4(1)), "it stands by for nobody");
    // What is offered no more leads nowhere.
    let peer = entry(2, &world.nodes[2].mesh);
    tell(&mut world, 1, vec![Change::Peer { peer }]);
    assert!(!passes(&mut world, (1, mesh_v4(1)), 2, WEBSITE));
    assert!(world.nodes[1].mesh.exit_in_use().is_none());
}
