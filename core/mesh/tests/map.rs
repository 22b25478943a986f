//! Netmaps and deltas.

mod common;

use common::*;
use warren_mesh::{Event, MapSource, PathState};
use warren_proto::{Apply, Change, Delta, MapVersion};

#[test]
fn the_same_map_again_disturbs_nothing() {
    let mut world = World::new(3);
    world.join(0, 1);
    let path = world.path(0, 1);
    let map = world.map_of(0);
    world.nodes[0].events.clear();
    let sent = world.nodes[0].sent;
    world.nodes[0].mesh.handle_netmap(map, MapSource::Broker, world.now);
    world.drain(0);
    assert_eq!(world.nodes[0].sent, sent);
    assert!(world.nodes[0].events.is_empty());
    assert_eq!(world.path(0, 1), path);
    assert!(world.nodes[0].mesh.peer(id(1)).unwrap().established);
}

#[test]
fn a_map_without_a_peer_cuts_it_off_and_leaves_the_others() {
    let mut world = World::new(3);
    world.join(0, 1);
    world.join(0, 2);
    let mut map = world.map_of(0);
    map.peers.retain(|peer| peer.id != id(1));
    map.version = MapVersion { epoch: 2, sequence: 0 };
    world.nodes[0].mesh.handle_netmap(map, MapSource::Broker, world.now);
    world.drain(0);
    assert!(world.nodes[0].mesh.peer(id(1)).is_none());
    assert!(matches!(world.path(0, 2), PathState::Direct { .. }));
    world.nodes[2].received.clear();
    world.send(0, 2, b"x");
    world.run(DELAY);
    assert_eq!(world.payloads(2), [b"x".to_vec()]);
}

#[test]
fn a_delta_that_does_not_fit_asks_for_the_whole_map_and_changes_nothing() {
    let mut world = World::new(2);
    let before = world.nodes[0].mesh.netmap().cloned();
    let delta = Delta {
        base: MapVersion { epoch: 9, sequence: 9 },
        version: MapVersion { epoch: 9, sequence: 10 },
        changes: vec![Change::Removed { id: id(1) }],
    };
    let mesh = &mut world.nodes[0].mesh;
    assert_eq!(mesh.handle_delta(&delta, world.now), Apply::BaseMismatch);
    assert_eq!(mesh.handle_delta(&delta, world.now), Apply::BaseMismatch);
    assert_eq!(mesh.netmap().cloned(), before);
    assert_eq!(mesh.poll_event(), Some(Event::FetchNetmap));
    assert_eq!(mesh.poll_event(), None);
}

#[test]
fn deltas_leave_the_same_map_as_proto_does() {
    let mut world = World::new(4);
    let mut expected = world.nodes[0].mesh.netmap().unwrap().clone();
    let mut peer = expected.peers[1].clone();
    peer.name = "renamed".parse().unwrap();
    let mut new = expected.peers[1].clone();
    new.id = warren_proto::DeviceId(77);
    new.ipv4 = "100.80.0.77".parse().unwrap();
    new.ipv6 = "fd12:3456:789a::77".parse().unwrap();
    let mut this = expected.this.clone();
    this.static_endpoint = Some("203.0.113.5:5".parse().unwrap());
    let delta = Delta {
        base: expected.version,
        version: MapVersion { epoch: 1, sequence: 1000 },
        changes: vec![
            Change::Peer { peer },
            Change::Peer { peer: new },
            Change::Removed { id: id(1) },
            Change::Presence {
                id: id(3),
                online: false,
                endpoints: Vec::new(),
                nat: Default::default(),
            },
            Change::This { this },
            Change::Stun { stun: vec!["198.51.100.7:3478".parse().unwrap()] },
        ],
    };
    assert_eq!(expected.apply(&delta), Apply::Applied);
    assert_eq!(world.nodes[0].mesh.handle_delta(&delta, world.now), Apply::Applied);
    assert_eq!(world.nodes[0].mesh.netmap(), Some(&expected));
    let endpoints = world.nodes[0].mesh.check_in_state().endpoints;
    assert_eq!(endpoints[0].addr, "203.0.113.5:5".parse().unwrap());
}

#[test]
fn a_cached_map_serves_until_the_broker_sends_one_and_never_after() {
    let mut world = World::new(2);
    let mut cached = world.map_of(0);
    cached.peers.clear();
    world.nodes[0].mesh.handle_netmap(cached, MapSource::Cache, world.now);
    assert!(world.nodes[0].mesh.peer(id(1)).is_some());
}

#[test]
fn a_changed_presence_of_an_idle_peer_sends_nothing() {
    let mut world = World::new(2);
    let sent = world.nodes[0].sent;
    let endpoint = warren_proto::Endpoint {
        addr: "203.0.113.5:5".parse().unwrap(),
        kind: warren_proto::EndpointKind::Reflexive,
    };
    world.change(
        |_| Change::Presence {
            id: id(1),
            online: true,
            endpoints: vec![endpoint],
            nat: Default::default(),
        },
        1,
    );
    assert_eq!(world.nodes[0].sent, sent);
}

#[test]
fn a_delta_from_before_the_map_is_applied_or_passed_over_and_an_overtaken_map_ignored() {
    let mut world = World::new(2);
    let mut map = world.map_of(0);
    map.version = MapVersion { epoch: 1, sequence: 10 };
    let mesh = &mut world.nodes[0].mesh;
    mesh.handle_netmap(map.clone(), MapSource::Broker, world.now);
    let renamed = |name: &str| {
        let mut peer = map.peers[0].clone();
        peer.name = name.parse().unwrap();
        Change::Peer { peer }
    };
    let delta = |base, sequence, name: &str| Delta {
        base: MapVersion { epoch: 1, sequence: base },
        version: MapVersion { epoch: 1, sequence },
        changes: vec![renamed(name)],
    };
    assert_eq!(mesh.handle_delta(&delta(7, 9, "old"), world.now), Apply::Applied);
    assert_eq!(mesh.peer(id(1)).unwrap().name.as_str(), "node-1");
    assert_eq!(mesh.handle_delta(&delta(9, 12, "new"), world.now), Apply::Applied);
    assert_eq!(mesh.peer(id(1)).unwrap().name.as_str(), "new");
    mesh.handle_netmap(map.clone(), MapSource::Broker, world.now);
    assert_eq!(mesh.peer(id(1)).unwrap().name.as_str(), "new");
    assert_eq!(mesh.handle_delta(&delta(13, 14, "gap"), world.now), Apply::BaseMismatch);
}
