//! The filter: what peers may send here, and which answers come back.

mod common;

use common::*;
use warren_mesh::{InboundDrop, MapSource, OutboundDrop};
use warren_proto::{Change, Delta, Filter, FilterRule, MapVersion, Sources, Target};

fn filter(rules: &[(Sources, &str)]) -> Option<Filter> {
    let rules = rules.iter().map(|(from, ports)| FilterRule {
        from: from.clone(),
        ports: ports.split(' ').map(|it| it.parse().expect("ports")).collect(),
        to: vec![Target::This],
    });
    Some(Filter { rules: rules.collect(), limits: Vec::new() })
}

fn only(node: usize, ports: &str) -> Option<Filter> {
    filter(&[(Sources::Devices(vec![id(node)]), ports)])
}

fn set(world: &mut World, node: usize, filter: Option<Filter>) {
    let now = world.now;
    let base = world.nodes[node].mesh.netmap().expect("a map").version;
    let version = MapVersion { sequence: base.sequence + 1, ..base };
    let delta = Delta { base, version, changes: vec![Change::Filter { filter }] };
    assert_eq!(world.nodes[node].mesh.handle_delta(&delta, now), warren_proto::Apply::Applied);
    world.drain(node);
}

fn segment(protocol: u8, source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.resize(if protocol == 6 { 20 } else { 12 }, 0);
    if protocol == 6 {
        (bytes[12], bytes[13]) = (0x50, flags);
    }
    bytes
}

/// Sends a packet and says whether it arrived.
fn passes(world: &mut World, from: usize, to: usize, protocol: u8, payload: &[u8]) -> bool {
    let mut packet = ip_packet(mesh_v4(from), mesh_v4(to), payload);
    packet[9] = protocol;
    let before = world.nodes[to].received.len();
    world.send_packet(from, &packet);
    world.run(DELAY * 3);
    world.nodes[to].received.len() > before
}

const SYN: u8 = 2;
const ACK: u8 = 16;

fn joined() -> World {
    let mut world = World::new(3);
    world.join(0, 1);
    world.join(0, 2);
    world
}

#[test]
fn ports_that_no_rule_names_are_refused_and_the_sender_is_told() {
    let mut world = joined();
    set(&mut world, 1, only(0, "tcp:80"));
    assert!(passes(&mut world, 0, 1, 6, &segment(6, 50_000, 80, SYN)));
    let told = world.nodes[0].received.len() + world.nodes[0].icmp.len();
    assert!(!passes(&mut world, 0, 1, 6, &segment(6, 50_000, 81, SYN)));
    assert_eq!(world.nodes[1].drops.last(), Some(&InboundDrop::Filtered));
    world.run(secs(1));
    let after = world.nodes[0].received.len() + world.nodes[0].icmp.len();
    assert_eq!(after, told + 1, "prohibited");
    assert!(world.nodes[1].mesh.counters().inbound(InboundDrop::Filtered) == 1);
}

#[test]
fn answers_come_back_and_nothing_else_does() {
    let mut world = joined();
    set(&mut world, 0, Some(Filter::default()));
    assert!(!passes(&mut world, 1, 0, 17, &segment(17, 53, 40_000, 0)), "nobody has asked");
    assert!(passes(&mut world, 0, 1, 17, &segment(17, 40_000, 53, 0)));
    assert!(passes(&mut world, 1, 0, 17, &segment(17, 53, 40_000, 0)));
    assert!(!passes(&mut world, 1, 0, 17, &segment(17, 54, 40_000, 0)), "another port");
    assert!(passes(&mut world, 0, 1, 6, &segment(6, 40_000, 22, SYN)));
    assert!(passes(&mut world, 1, 0, 6, &segment(6, 22, 40_000, SYN | ACK)));
    assert!(!passes(&mut world, 1, 0, 6, &segment(6, 22, 40_000, SYN)), "a connection of its own");
    let echo = |kind: u8| vec![kind, 0, 0, 0, 0, 9, 0, 1];
    assert!(passes(&mut world, 0, 1, 1, &echo(8)));
    assert!(passes(&mut world, 1, 0, 1, &echo(0)));
    assert!(!passes(&mut world, 1, 0, 1, &echo(8)), "its own question under the same number");
    world.run(secs(200));
    world.send(0, 1, b"the tunnel stands again");
    world.run(secs(2));
    assert!(!passes(&mut world, 1, 0, 17, &segment(17, 53, 40_000, 0)), "too late");
}

#[test]
fn a_permission_that_is_taken_away_ends_what_runs_and_answers_do_not_keep_it_alive() {
    let mut world = joined();
    set(&mut world, 1, only(0, "udp:53 tcp:22"));
    assert!(passes(&mut world, 0, 1, 17, &segment(17, 40_000, 53, 0)));
    assert!(passes(&mut world, 0, 1, 6, &segment(6, 40_000, 22, SYN)));
    set(&mut world, 1, only(0, "icmp"));
    assert!(passes(&mut world, 1, 0, 17, &segment(17, 53, 40_000, 0)), "an answer under way");
    assert!(passes(&mut world, 1, 0, 6, &segment(6, 22, 40_000, ACK)));
    assert!(!passes(&mut world, 0, 1, 17, &segment(17, 40_000, 53, 0)));
    assert!(!passes(&mut world, 0, 1, 6, &segment(6, 40_000, 22, ACK)));
    set(&mut world, 1, None);
    assert!(passes(&mut world, 0, 1, 17, &segment(17, 40_000, 53, 0)));
}

#[test]
fn what_ran_before_there_was_a_filter_is_cut_and_what_this_device_began_goes_on() {
    let mut world = joined();
    assert!(passes(&mut world, 0, 1, 17, &segment(17, 40_000, 53, 0)));
    assert!(passes(&mut world, 1, 0, 6, &segment(6, 45_000, 22, SYN)));
    set(&mut world, 1, Some(Filter::default()));
    assert!(passes(&mut world, 1, 0, 17, &segment(17, 53, 40_000, 0)), "an answer under way");
    assert!(!passes(&mut world, 0, 1, 17, &segment(17, 40_000, 53, 0)));
    assert!(passes(&mut world, 1, 0, 6, &segment(6, 45_000, 22, ACK)));
    assert!(passes(&mut world, 0, 1, 6, &segment(6, 22, 45_000, ACK)), "our own session");
}

#[test]
fn an_error_about_a_flow_of_ours_is_let_in_and_one_about_nothing_is_not() {
    let mut world = joined();
    set(&mut world, 0, Some(Filter::default()));
    let sent = ip_packet(mesh_v4(0), mesh_v4(1), &segment(17, 40_000, 53, 0));
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend_from_slice(&sent);
    assert!(!passes(&mut world, 1, 0, 1, &error));
    assert!(passes(&mut world, 0, 1, 17, &segment(17, 40_000, 53, 0)));
    assert!(passes(&mut world, 1, 0, 1, &error));
}

#[test]
fn fragments_follow_their_first() {
    let mut world = joined();
    set(&mut world, 1, only(0, "udp:53"));
    let fragment = |id: u8, bits: u16, payload: &[u8]| {
        let mut packet = ip_packet(mesh_v4(0), mesh_v4(1), payload);
        packet[5] = id;
        packet[6..8].copy_from_slice(&bits.to_be_bytes());
        packet
    };
    let mut arrives = |packet: Vec<u8>| {
        let before = world.nodes[1].received.len();
        world.send_packet(0, &packet);
        world.run(DELAY * 3);
        world.nodes[1].received.len() > before
    };
    assert!(!arrives(fragment(1, 2, &[0; 16])), "before its first");
    assert!(arrives(fragment(1, 0x2000, &segment(17, 9, 53, 0))));
    assert!(arrives(fragment(1, 2, &[0; 16])));
    assert!(!arrives(fragment(2, 0x2000, &segment(17, 9, 54, 0))));
    assert!(!arrives(fragment(2, 2, &[0; 16])), "of one that was refused");
}

#[test]
fn an_address_that_is_hidden_and_one_that_nobody_has_are_answered_alike() {
    let mut world = joined();
    let unknown = ip_packet(mesh_v4(0), mesh_v4(77), &segment(17, 1, 2, 0));
    assert_eq!(world.send_packet(0, &unknown), Some(OutboundDrop::UnknownDestination));
    let mut map = world.map_of(0);
    map.peers.retain(|peer| peer.id != id(2));
    map.filter = only(1, "*");
    map.version.sequence += 1;
    let now = world.now;
    world.nodes[0].mesh.handle_netmap(map, MapSource::Broker, now);
    world.drain(0);
    let hidden = ip_packet(mesh_v4(0), mesh_v4(2), &segment(17, 1, 2, 0));
    assert_eq!(world.send_packet(0, &hidden), Some(OutboundDrop::Denied));
    assert_eq!(world.send_packet(0, &unknown), Some(OutboundDrop::Denied));
}
