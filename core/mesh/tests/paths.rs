//! Finding, keeping and replacing paths.

mod common;

use std::net::SocketAddr;

use common::*;
use warren_mesh::{BrokerState, Event, PathState, Rank, Reason};

#[test]
fn the_first_packet_arrives_after_probe_and_handshake() {
    let mut world = World::new(2);
    world.send(0, 1, b"ping");
    let took = world.run_until(secs(1), |world| !world.nodes[1].received.is_empty());
    // A round trip each for the probe and the handshake, and one way for the packet.
    assert_eq!(took, DELAY * 5);
    assert_eq!(world.payloads(1), [b"ping".to_vec()]);
    assert!(matches!(world.path(0, 1), PathState::Direct { .. }));
}

#[test]
fn behind_firewalls_on_both_sides_the_first_packet_waits_for_the_signal() {
    let mut world = World::new(2);
    for node in &mut world.nodes {
        node.firewall = true;
    }
    world.send(0, 1, b"ping");
    let took = world.run_until(secs(1), |world| !world.nodes[1].received.is_empty());
    // 40 ms until the peer knows, its own probe, then the next round of ours at most 100 ms later.
    assert!(took <= DELAY * 7 + ms(100), "{took:?}");
}

#[test]
fn a_packet_asks_the_broker_to_tell_the_peer_at_once() {
    let mut world = World::new(2);
    world.nodes[0].events.clear();
    world.send(0, 1, b"ping");
    let Some((at, Event::Connect(request))) = world.nodes[0].events.first() else {
        panic!("{:?}", world.nodes[0].events)
    };
    assert_eq!((*at, request.peer), (world.now, id(1)));
    assert_eq!(request.endpoints[0].addr, world.nodes[0].addr);
}

#[test]
fn connect_builds_a_tunnel_without_a_packet() {
    let mut world = World::new(2);
    world.nodes[0].mesh.connect(id(1), world.now);
    world.drain(0);
    world.run_until(secs(1), |world| world.nodes[0].mesh.peer(id(1)).unwrap().established);
    assert_eq!(world.send(0, 1, b"at once"), None);
    world.run(DELAY);
    assert_eq!(world.payloads(1), [b"at once".to_vec()]);
}

#[test]
fn when_both_sides_want_to_talk_at_once_both_get_through() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut world = World::new(2);
        for node in &mut world.nodes {
            node.firewall = true;
        }
        world.send(first, second, b"a");
        world.run(ms(5));
        world.send(second, first, b"b");
        let took = world
            .run_until(secs(1), |world| world.nodes.iter().all(|node| node.received.len() == 1));
        assert!(took <= ms(500), "{took:?}");
    }
}

#[test]
fn in_glare_the_side_with_the_lower_key_waits_200_ms() {
    let mut world = World::new(2);
    // Both know that the other wants to talk, and what the higher one says first is lost.
    world.send(0, 1, b"a");
    world.send(1, 0, b"b");
    let public = |node: usize| world.nodes[node].mesh.public_key();
    let (lower, higher) = if public(0) < public(1) { (0, 1) } else { (1, 0) };
    let higher_addr = world.nodes[higher].addr;
    world.filter = Box::new(move |mail| match mail {
        Mail::Datagram(from, _, contents, _) => {
            *from != higher_addr || contents[..4] != [1, 0, 0, 0]
        }
        Mail::Signal(..) | Mail::Presence(_) => true,
    });
    let begin = world.now;
    world.run(secs(1));
    let first_initiation = |world: &World, node: usize| {
        let addr = world.nodes[node].addr;
        let mut log = world.log.iter();
        log.find(|(_, from, _, contents)| *from == addr && contents[..4] == [1, 0, 0, 0])
            .map(|(at, ..)| *at - begin)
    };
    let waited = first_initiation(&world, lower).expect("it initiates in the end");
    let prompt = first_initiation(&world, higher).expect("it initiates");
    assert!(prompt <= ms(60), "{prompt:?}");
    assert!((ms(200)..ms(320)).contains(&waited), "{waited:?}");
    assert!(world.nodes.iter().all(|node| node.received.len() == 1));
}

#[test]
fn one_lost_probe_or_handshake_costs_little() {
    for lost in 0..12 {
        let mut world = World::new(2);
        let mut count = 0;
        world.filter = Box::new(move |mail| {
            match mail {
                // A packet itself is nobody's to repeat.
                Mail::Datagram(_, _, contents, _) if contents[0] != 4 => {
                    count += 1;
                    count != lost + 1
                }
                Mail::Datagram(..) | Mail::Signal(..) | Mail::Presence(_) => true,
            }
        });
        world.send(0, 1, b"ping");
        let took = world.run_until(secs(2), |world| !world.nodes[1].received.is_empty());
        assert!(took <= ms(450), "datagram {lost} lost: {took:?}");
    }
}

#[test]
fn nothing_is_sent_without_traffic() {
    let mut world = World::new(3);
    let before: Vec<usize> = world.nodes.iter().map(|node| node.sent).collect();
    world.log.clear();
    world.run(secs(24 * 3600));
    let servers: Vec<SocketAddr> = STUN.iter().map(|addr| addr.parse().unwrap()).collect();
    assert!(world.log.iter().all(|(_, _, to, _)| servers.contains(to)));
    // One STUN request each 25 s.
    for (node, before) in world.nodes.iter().zip(before) {
        assert!(node.sent - before <= 24 * 3600 / 25 + 1, "{}", node.sent - before);
    }
}

#[test]
fn a_pair_falls_silent_after_traffic_ends_and_wakes_again() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.run(secs(330));
    assert_eq!(world.path(0, 1), PathState::Idle);
    assert_eq!(world.path(1, 0), PathState::Idle);
    world.log.clear();
    world.run(secs(3600));
    let between = world.log.iter().filter(|(_, from, to, _)| from.ip() != to.ip());
    let servers: Vec<SocketAddr> = STUN.iter().map(|addr| addr.parse().unwrap()).collect();
    assert_eq!(between.filter(|(_, _, to, _)| !servers.contains(to)).count(), 0);
    world.join(1, 0);
}

#[test]
fn a_path_in_use_is_probed_each_20_seconds_from_both_ends() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.run(secs(20));
    for node in 0..2 {
        let before = world.nodes[node].mesh.counters().probes_sent;
        world.run(secs(100));
        let probes = world.nodes[node].mesh.counters().probes_sent - before;
        assert!((5..=6).contains(&probes), "{probes}");
    }
}

#[test]
fn a_roam_of_one_side_is_healed_and_published_once() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.nodes[1].events.clear();
    world.nodes[0].events.clear();
    world.set_address(0, "203.0.113.9:4000");
    world.send(0, 1, b"from my new place");
    world.send(1, 0, b"where are you");
    let took = world.run_until(secs(3), |world| {
        world.remote(1, 0) == Some("203.0.113.9:4000".parse().unwrap())
    });
    assert!(took <= ms(300), "{took:?}");
    world.run(secs(5));
    let check_ins = world.nodes[0].events.iter();
    assert_eq!(check_ins.filter(|(_, event)| matches!(event, Event::CheckIn(_))).count(), 1);
    world.send(1, 0, b"there you are");
    world.run(DELAY);
    assert!(world.payloads(0).contains(&b"there you are".to_vec()));
}

#[test]
fn a_roam_heals_behind_firewalls_with_the_brokers_help() {
    let mut world = World::new(2);
    for node in &mut world.nodes {
        node.firewall = true;
    }
    world.join(0, 1);
    world.set_address(0, "203.0.113.9:4000");
    let took = world.run_until(secs(3), |world| {
        world.remote(1, 0) == Some("203.0.113.9:4000".parse().unwrap())
    });
    assert!(took <= ms(1500), "{took:?}");
}

#[test]
fn a_roam_that_the_host_does_not_notice_heals_within_a_second_and_a_half() {
    for firewall in [false, true] {
        let mut world = World::new(2);
        for node in &mut world.nodes {
            node.firewall = firewall;
        }
        world.join(0, 1);
        // The NAT in front of it got a new address: only the outside sees it.
        let new: SocketAddr = "203.0.113.9:4000".parse().unwrap();
        world.nodes[0].addr = new;
        let begin = world.now;
        while world.remote(1, 0) != Some(new) || world.nodes[1].received.len() < 3 {
            assert!(world.now - begin < ms(1500), "not healed");
            world.send(0, 1, b"data");
            world.send(1, 0, b"data");
            world.run(ms(50));
        }
    }
}

#[test]
fn both_sides_roam_at_once() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.set_address(0, "203.0.113.9:4000");
    world.set_address(1, "203.0.113.10:4000");
    world.send(0, 1, b"x");
    let took = world.run_until(secs(3), |world| {
        world.remote(1, 0) == Some("203.0.113.9:4000".parse().unwrap())
            && world.remote(0, 1) == Some("203.0.113.10:4000".parse().unwrap())
    });
    assert!(took <= ms(1500), "{took:?}");
}

#[test]
fn packets_of_the_stall_arrive_in_order_once_the_path_is_healed() {
    let mut world = World::new(2);
    world.join(0, 1);
    let new: SocketAddr = "203.0.113.9:4000".parse().unwrap();
    world.nodes[1].addr = new;
    world.nodes[1].received.clear();
    for i in 0..20u8 {
        world.send(0, 1, &[i]);
        world.run(ms(100));
    }
    world.run(secs(1));
    let got: Vec<u8> = world.payloads(1).iter().map(|payload| payload[0]).collect();
    assert!(got.is_sorted() && got.last() == Some(&19), "{got:?}");
    assert!(got.len() >= 10, "{got:?}");
}

#[test]
fn traffic_one_way_is_no_death() {
    let mut world = World::new(2);
    world.join(0, 1);
    let remote = world.remote(0, 1);
    world.nodes[0].events.clear();
    let before = world.nodes[0].mesh.counters().probes_sent;
    for _ in 0..600 {
        assert_eq!(world.send(0, 1, b"one way"), None);
        world.run(ms(100));
        assert_eq!(world.remote(0, 1), remote);
    }
    assert!(!world.nodes[0].events.iter().any(|(_, e)| matches!(e, Event::PathChanged { .. })));
    // About one a second, and the refreshes.
    let probes = world.nodes[0].mesh.counters().probes_sent - before;
    assert!((40..=75).contains(&probes), "{probes}");
}

#[test]
fn a_peer_that_restarted_is_talked_to_again_within_a_second() {
    let mut world = World::new(2);
    world.join(0, 1);
    let now = world.now;
    let mut fresh = warren_mesh::Mesh::new(
        warren_mesh::Config { unix: NOON + secs(60), ..config(1, Some(1280), 77) },
        now,
    );
    std::mem::swap(&mut world.nodes[1].mesh, &mut fresh);
    world.set_address(1, "192.0.2.2:4000");
    let map = world.map_of(1);
    world.nodes[1].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, now);
    world.drain(1);
    world.nodes[1].received.clear();
    let begin = world.now;
    while world.nodes[1].received.is_empty() {
        world.send(0, 1, b"are you there");
        world.run(ms(50));
        assert!(world.now - begin < secs(1));
    }
}

#[test]
fn a_lan_path_is_preferred_and_found_again() {
    let mut world = World::at(&["192.168.1.1:4000", "192.168.1.2:4000"], Some(1280));
    for node in &mut world.nodes {
        let local = warren_mesh::LocalAddress { ip: node.addr.ip(), prefix_len: 24 };
        node.mesh.handle_local_addresses(&[local], 4000, world.now);
    }
    world.join(0, 1);
    assert!(matches!(world.path(0, 1), PathState::Direct { rank: Rank::Lan, .. }));
}

#[test]
fn a_peer_that_does_not_answer_is_unreachable_with_a_reason_and_icmp() {
    let mut world = World::new(2);
    world.nodes[1].alive = false;
    assert_eq!(world.send(0, 1, b"hello"), None);
    assert_eq!(world.path(0, 1), PathState::Connecting);
    world.run(secs(6));
    let status = world.nodes[0].mesh.peer(id(1)).unwrap();
    assert_eq!(status.path, PathState::Unreachable);
    assert!(matches!(status.reason, Some(Reason::NoAnswer { endpoints: 1, probes: 20.. })));
    assert_eq!(world.nodes[0].icmp.len(), 1);
    assert!(world.send(0, 1, b"again").is_some());
    assert_eq!(world.nodes[0].icmp.len(), 2);
    // Traffic tries again after 25 s, silence doesn't.
    let sent = world.nodes[0].mesh.counters().probes_sent;
    world.run(secs(60));
    assert_eq!(world.nodes[0].mesh.counters().probes_sent, sent);
    assert_eq!(world.send(0, 1, b"again"), None);
    assert!(world.nodes[0].mesh.counters().probes_sent > sent);
}

#[test]
fn an_offline_peer_fails_sooner_and_is_sought_when_it_comes_online() {
    let mut world = World::new(2);
    world.nodes[1].alive = false;
    let offline = |endpoints: Vec<_>, online| warren_proto::Change::Presence {
        id: id(1),
        online,
        endpoints,
        nat: Default::default(),
    };
    let endpoints = world.nodes[1].mesh.check_in_state().endpoints;
    world.change(|_| offline(endpoints.clone(), false), 1);
    world.send(0, 1, b"hello");
    world.run(ms(2200));
    assert_eq!(world.nodes[0].mesh.peer(id(1)).unwrap().reason, Some(Reason::PeerOffline));
    world.nodes[1].alive = true;
    world.change(|_| offline(endpoints.clone(), true), 1);
    world.run_until(secs(1), |world| world.remote(0, 1).is_some());
    assert_eq!(world.nodes[0].mesh.peer(id(1)).unwrap().reason, None);
}

#[test]
fn without_the_broker_nodes_behind_firewalls_reach_each_other_within_25_seconds() {
    let mut world = World::new(3);
    world.broker = false;
    for node in &mut world.nodes {
        node.firewall = true;
        node.mesh.handle_broker(BrokerState::Lost, world.now);
    }
    for i in 0..3 {
        world.drain(i);
    }
    let begin = world.now;
    while world.nodes[2].received.is_empty() {
        world.send(0, 2, b"hello");
        world.run(ms(500));
        assert!(world.now - begin < secs(25));
    }
}

#[test]
fn a_path_found_without_the_broker_ends_with_its_return() {
    let mut world = World::new(2);
    for node in &mut world.nodes {
        node.mesh.handle_broker(BrokerState::Lost, world.now);
    }
    for i in 0..2 {
        world.drain(i);
    }
    world.run(secs(60));
    assert!(world.remote(0, 1).is_some());
    for node in &mut world.nodes {
        node.mesh.handle_broker(BrokerState::Connected { rtt: DELAY }, world.now);
    }
    world.run(secs(60));
    assert_eq!(world.path(0, 1), PathState::Idle);
    let sent = world.nodes[0].mesh.counters().probes_sent;
    world.run(secs(600));
    assert_eq!(world.nodes[0].mesh.counters().probes_sent, sent);
}

#[test]
fn a_short_idle_session_is_renewed_by_the_next_packet() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.run(secs(200));
    assert!(world.remote(0, 1).is_some());
    world.nodes[1].received.clear();
    world.send(0, 1, b"still there");
    let took = world.run_until(secs(1), |world| !world.nodes[1].received.is_empty());
    assert_eq!(took, DELAY * 3);
}

#[test]
fn after_an_outage_the_next_attempts_come_soon() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.nodes[1].alive = false;
    let begin = world.now;
    while world.now - begin < secs(12) {
        world.send(0, 1, b"x");
        world.run(ms(200));
    }
    assert_eq!(world.remote(0, 1), None);
    world.nodes[1].alive = true;
    let begin = world.now;
    while world.remote(0, 1).is_none() {
        world.send(0, 1, b"x");
        world.run(ms(200));
        assert!(world.now - begin < secs(5));
    }
}

#[test]
fn two_sides_that_seek_each_other_in_vain_both_give_up() {
    let mut world = World::new(2);
    world.filter = Box::new(|mail| match mail {
        Mail::Datagram(_, to, ..) => STUN.iter().any(|server| server.parse() == Ok(*to)),
        Mail::Signal(..) | Mail::Presence(_) => true,
    });
    world.send(0, 1, b"x");
    world.run(secs(1));
    world.send(1, 0, b"x");
    world.run(secs(7));
    assert_eq!(world.path(0, 1), PathState::Unreachable);
    assert_eq!(world.path(1, 0), PathState::Unreachable);
}

#[test]
fn a_plain_wireguard_peer_is_talked_to_without_probes_and_followed() {
    let mut world = World::new(2);
    for i in 0..2 {
        let mut map = world.map_of(i);
        map.peers[0].capabilities = vec![warren_proto::WIREGUARD_ONLY.into()];
        world.nodes[i].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, world.now);
        world.drain(i);
    }
    world.send(0, 1, b"handshake first");
    let took = world.run_until(secs(1), |world| !world.nodes[1].received.is_empty());
    assert_eq!(took, DELAY * 3);
    let new: SocketAddr = "203.0.113.9:4000".parse().unwrap();
    world.nodes[0].addr = new;
    world.send(0, 1, b"moved");
    world.run(DELAY);
    assert_eq!(world.remote(1, 0), Some(new));
    world.send(1, 0, b"followed");
    world.run(DELAY);
    assert_eq!(world.payloads(0), [b"followed".to_vec()]);
    for node in &world.nodes {
        assert_eq!(node.mesh.counters().probes_sent, 0);
    }
}

#[test]
fn when_broker_and_stun_return_after_an_hour_the_own_endpoint_is_known_at_once() {
    let mut world = World::new(2);
    let to_stun = |mail: &Mail| match mail {
        Mail::Datagram(_, to, ..) => STUN.iter().any(|server| server.parse() == Ok(*to)),
        Mail::Signal(..) | Mail::Presence(_) => false,
    };
    world.filter = Box::new(move |mail| !to_stun(mail));
    for node in &mut world.nodes {
        node.mesh.handle_broker(BrokerState::Lost, world.now);
    }
    world.run(secs(3600));
    assert_eq!(world.nodes[0].mesh.check_in_state().nat.udp, Some(false));
    world.filter = Box::new(|_| true);
    world.nodes[0].events.clear();
    world.nodes[0].mesh.handle_broker(BrokerState::Connected { rtt: DELAY }, world.now);
    world.drain(0);
    world.run(secs(1));
    assert_eq!(world.nodes[0].mesh.check_in_state().nat.udp, Some(true));
    let check_ins = world.nodes[0].events.iter();
    assert_eq!(check_ins.filter(|(_, event)| matches!(event, Event::CheckIn(_))).count(), 1);
}

#[test]
fn a_tunnel_moves_to_the_lan_when_both_come_home_and_away_again_without_losing_a_packet() {
    let mut world = World::new(2);
    world.join(0, 1);
    for node in &mut world.nodes {
        node.received.clear();
    }
    let lan = ["192.168.1.10:4000", "192.168.1.11:4000"];
    let mut count = 0usize;
    let mut talk = |world: &mut World, rounds: usize| {
        for _ in 0..rounds {
            world.send(0, 1, &count.to_be_bytes());
            world.send(1, 0, &count.to_be_bytes());
            count += 1;
            world.run(ms(20));
        }
    };
    for (node, addr) in lan.iter().enumerate() {
        world.join_lan(node, addr);
    }
    talk(&mut world, 100);
    assert!(matches!(world.path(0, 1), PathState::Direct { rank: Rank::Lan, .. }));
    assert!(matches!(world.path(1, 0), PathState::Direct { rank: Rank::Lan, .. }));
    world.run(secs(1));
    for node in &world.nodes {
        assert_eq!(node.received.len(), 100, "none lost, none twice");
    }

    // One leaves: the other learns it from the broker, and both are back on the public path.
    world.nodes[1].lan = None;
    world.set_address(1, "192.0.2.2:4000");
    talk(&mut world, 100);
    assert_eq!(world.remote(0, 1), Some(world.nodes[1].addr));
    assert_eq!(world.remote(1, 0), Some(world.nodes[0].addr));
}

#[test]
fn a_cached_map_after_the_loss_of_the_broker_is_knocked_at_once() {
    let mut world = World::new(2);
    let now = world.now;
    world.nodes[1].mesh = warren_mesh::Mesh::new(
        warren_mesh::Config { unix: NOON + secs(60), ..config(1, Some(1280), 77) },
        now,
    );
    world.nodes[1].mesh.handle_broker(BrokerState::Lost, now);
    world.set_address(1, "192.0.2.2:4000");
    world.run(secs(3));
    let map = world.map_of(1);
    world.nodes[1].mesh.handle_netmap(map, warren_mesh::MapSource::Cache, world.now);
    world.drain(1);
    world.run(DELAY * 2);
    assert_eq!(world.remote(1, 0), Some(world.nodes[0].addr));
}

#[test]
fn a_pair_of_nats_that_cannot_meet_is_explained() {
    use warren_proto::{Change, MappingBehaviour, NatReport};
    let nat = |ipv4| NatReport { udp: Some(true), ipv4, ipv6: MappingBehaviour::Unknown };
    for (there, reason) in [
        (MappingBehaviour::AddressDependent, Reason::OneMapsPerDestination { here: false }),
        (MappingBehaviour::Unknown, Reason::NoAnswer { probes: 21, endpoints: 1 }),
    ] {
        let mut world = World::new(2);
        world.nodes[1].alive = false;
        let endpoints = world.nodes[1].mesh.check_in_state().endpoints;
        // The world's STUN shows each node its own address: no NAT. So hide it from this one.
        let no_stun = Change::Stun { stun: Vec::new() };
        world.change(|_| no_stun.clone(), 1);
        let presence = |_| Change::Presence {
            id: id(1),
            online: true,
            endpoints: endpoints.clone(),
            nat: nat(there),
        };
        world.change(presence, 1);
        world.send(0, 1, b"x");
        world.run(secs(6));
        let status = world.nodes[0].mesh.peer(id(1)).unwrap();
        match (reason, status.reason) {
            (Reason::NoAnswer { .. }, Some(Reason::NoAnswer { .. })) => {}
            (expected, actual) => assert_eq!(actual, Some(expected)),
        }
    }
}

#[test]
fn a_full_buffer_on_the_way_is_not_taken_for_death() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.nodes[0].events.clear();
    world.nodes[1].events.clear();
    world.delay = ms(20);
    for round in 0..300u64 {
        // The delay grows to 300 ms each way and falls again, as a router's buffer does.
        world.delay = ms(20 + (round % 60) * 5);
        world.send(0, 1, b"x");
        if round % 10 == 0 {
            world.send(1, 0, b"y");
        }
        world.run(ms(50));
    }
    let changed = |event: &Event| matches!(event, Event::PathChanged { .. });
    assert!(!world.nodes[0].events.iter().any(|(_, event)| changed(event)));
    let dead = |event: &Event| matches!(event, Event::Connect(_));
    let deaths = world.nodes[0].events.iter().filter(|(_, event)| dead(event)).count();
    assert!(deaths <= 1, "{deaths}");
}

#[test]
fn a_peer_sought_in_vain_is_told_as_soon_as_the_broker_is_back() {
    let mut world = World::new(2);
    for node in &mut world.nodes {
        node.firewall = true;
    }
    world.join(0, 1);
    // The line is cut for long enough that the peer gives up and its holes close.
    world.filter = Box::new(|_| false);
    world.nodes[0].mesh.handle_broker(BrokerState::Lost, world.now);
    world.drain(0);
    let begin = world.now;
    while world.now - begin < secs(400) {
        world.send(0, 1, b"x");
        world.run(ms(500));
    }
    world.nodes[1].holes.clear();
    world.filter = Box::new(|_| true);
    world.nodes[0].mesh.handle_broker(BrokerState::Connected { rtt: DELAY }, world.now);
    world.drain(0);
    let begin = world.now;
    while world.remote(0, 1).is_none() {
        world.send(0, 1, b"x");
        world.run(ms(100));
        assert!(world.now - begin < secs(1));
    }
}

/// A peer crashes and is back after `away`, without its sessions; the other sends all the while.
/// Returns how long after its return a packet got through.
fn crash(
    away: std::time::Duration,
    pace: std::time::Duration,
    firewall: bool,
) -> std::time::Duration {
    let mut world = World::new(2);
    for node in &mut world.nodes {
        node.firewall = firewall;
    }
    world.join(0, 1);
    world.nodes[1].alive = false;
    let begin = world.now;
    while world.now - begin < away {
        world.send(0, 1, b"are you there");
        world.run(pace.min(away));
    }
    world.nodes[1].mesh = warren_mesh::Mesh::new(
        warren_mesh::Config { unix: NOON + secs(60), ..config(1, Some(1280), 77) },
        world.now,
    );
    world.nodes[1].alive = true;
    world.nodes[1].holes.clear();
    world.set_address(1, "192.0.2.2:4000");
    let map = world.map_of(1);
    world.nodes[1].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, world.now);
    world.drain(1);
    let state = world.nodes[1].mesh.check_in_state();
    let online = |online| warren_proto::Change::Presence {
        id: id(1),
        online,
        endpoints: state.endpoints.clone(),
        nat: state.nat,
    };
    world.change(|_| online(false), 1);
    world.change(|_| online(true), 1);
    world.nodes[1].received.clear();
    let back = world.now;
    while world.nodes[1].received.is_empty() {
        world.send(0, 1, b"are you there");
        let next = world.now + pace;
        while world.now < next && world.nodes[1].received.is_empty() {
            world.run(ms(10));
        }
        assert!(world.now - back < secs(30), "never");
    }
    world.now - back
}

#[test]
fn after_a_crash_of_the_peer_at_most_the_packet_that_found_out_is_lost() {
    for firewall in [false, true] {
        for away in [200, 500, 1000, 2000, 4000, 8000] {
            for pace in [50, 200, 1000, 5000] {
                let took = crash(ms(away), ms(pace), firewall);
                // Away for less than a probe takes to fail, the path never died.
                let limit = if away < 1000 { ms(pace + 400) } else { ms(200) };
                assert!(took <= limit, "away {away}, pace {pace}, firewall {firewall}: {took:?}");
            }
        }
    }
}
