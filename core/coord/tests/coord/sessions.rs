use std::time::Duration;

use warren_coord::{DeviceEdit, Refused};
use warren_proto::{
    Change, CheckIn, CheckInState, ConnectRequest, Endpoint, EndpointKind, MapVersion, NatReport,
    ReachCheck, ReachId, RelayId, RelayRtt, RelayTransport, SessionEvent,
};

use crate::world::{Client, World, endpoint};

fn request(peer: warren_proto::DeviceId, endpoints: &[&str]) -> ConnectRequest {
    let endpoints = endpoints.iter().map(|text| endpoint(text)).collect();
    ConnectRequest { peer, endpoints, nat: NatReport::default(), relay: None }
}

#[test]
fn the_first_change_goes_out_at_once_and_those_after_it_together() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let on_laptop = world.open(laptop);
    world.open(pi);
    world.advance(Duration::from_secs(1));
    let before = world.clients[&on_laptop].deltas();
    world.check_in(pi, &["198.51.100.7:4000"]).unwrap();
    assert_eq!(world.clients[&on_laptop].deltas(), before + 1, "at once");
    for port in 4001..4010 {
        world.check_in(pi, &[&format!("198.51.100.7:{port}")]).unwrap();
    }
    assert_eq!(world.clients[&on_laptop].deltas(), before + 1);
    world.advance(Duration::from_millis(50));
    assert_eq!(world.clients[&on_laptop].deltas(), before + 2, "together");
    world.advance(Duration::from_secs(10));
    assert_eq!(world.clients[&on_laptop].deltas(), before + 2, "and no more");
    world.assert_converged();
}

#[test]
fn a_reconnect_within_the_grace_is_seen_by_nobody_and_a_longer_absence_costs_a_delta_each_way() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let (on_pi, on_laptop) = (world.open(pi), world.open(laptop));
    world.advance(Duration::from_secs(1));
    let before = world.clients[&on_laptop].deltas();
    world.close(on_pi);
    world.advance(Duration::from_secs(2));
    let on_pi = world.open(pi);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.clients[&on_laptop].deltas(), before);
    world.close(on_pi);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.clients[&on_laptop].deltas(), before + 1);
    assert!(!world.clients[&on_laptop].map.as_ref().unwrap().peers[0].online);
    world.open(pi);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.clients[&on_laptop].deltas(), before + 2);
    assert!(world.clients[&on_laptop].map.as_ref().unwrap().peers[0].online);
}

#[test]
fn an_unchanged_check_in_costs_nobody_anything_and_a_new_broker_asks_for_the_state() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let on_laptop = world.open(laptop);
    world.open(pi);
    assert_eq!(world.check_in(pi, &["198.51.100.7:4000"]), Ok(false));
    world.settle();
    let before = world.clients[&on_laptop].events.len();
    let unchanged = CheckIn { state: None };
    let reply = world.account.handle_check_in(pi, &unchanged, world.now).unwrap();
    assert!(!reply.resend);
    assert_eq!(world.check_in(pi, &["198.51.100.7:4000"]), Ok(false));
    world.settle();
    assert_eq!(world.clients[&on_laptop].events.len(), before);
    world.restart();
    let reply = world.account.handle_check_in(pi, &unchanged, world.now).unwrap();
    assert!(reply.resend);
}

#[test]
fn endpoints_that_nobody_should_send_to_are_dropped() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let on_laptop = world.open(laptop);
    let mesh = world.account.device(laptop, world.now, world.unix).unwrap();
    let mut endpoints: Vec<String> = [
        "127.0.0.1:1000",
        "[::ffff:127.0.0.1]:1000",
        "224.0.0.1:1000",
        "198.51.100.7:0",
        "[fe80::1]:1000",
        "[ff02::1]:1000",
        "198.51.100.7:1000",
        "198.51.100.7:1000",
        "[::ffff:198.51.100.7]:1000",
        "10.0.0.7:1000",
        "100.64.0.9:1000",
    ]
    .map(str::to_owned)
    .to_vec();
    endpoints.push(format!("{}:1000", mesh.ipv4));
    endpoints.push(format!("[{}]:1000", mesh.ipv6));
    endpoints.extend((0..50).map(|n| format!("203.0.113.{n}:1000")));
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    world.check_in(pi, &endpoints).unwrap();
    world.settle();
    let peer = world.clients[&on_laptop].map.as_ref().unwrap().peers[0].clone();
    let seen: Vec<String> = peer.endpoints.iter().map(|it| it.addr.to_string()).collect();
    assert_eq!(seen.len(), 12);
    assert_eq!(
        seen[..4],
        ["198.51.100.7:1000", "10.0.0.7:1000", "100.64.0.9:1000", "203.0.113.0:1000"]
    );

    world.open(pi);
    world.account.handle_connect(pi, &request(laptop, &endpoints), world.now).unwrap();
    world.drain();
    let Some(SessionEvent::Connect(signal)) = world.clients[&on_laptop].events.last() else {
        panic!("a connect signal")
    };
    assert_eq!((signal.from, &signal.endpoints), (pi, &peer.endpoints));
}

#[test]
fn observed_endpoints_and_too_many_capabilities_are_not_published() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let on_laptop = world.open(laptop);
    let mut learned = endpoint("198.51.100.7:1000");
    learned.kind = EndpointKind::Observed;
    let first = ["x".repeat(1000), warren_proto::WIREGUARD_ONLY.to_owned()];
    let capabilities = first.into_iter().chain((0..100).map(|n| format!("word-{n}"))).collect();
    let state = CheckInState { endpoints: vec![learned], capabilities, ..CheckInState::default() };
    world.account.handle_check_in(pi, &CheckIn { state: Some(state) }, world.now).unwrap();
    world.drain();
    world.settle();
    let peer = &world.clients[&on_laptop].map.as_ref().unwrap().peers[0];
    assert!(peer.endpoints.is_empty());
    assert_eq!(peer.capabilities.len(), 16);
    assert_eq!(peer.capabilities[0], "word-0", "none that is too long or not its to claim");
    world.assert_converged();
}

#[test]
fn a_session_that_resumes_gets_only_what_it_missed() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    world.join(3, "desktop");
    let on_laptop = world.open(laptop);
    world.open(pi);
    world.settle();
    let map = world.close(on_laptop).map.unwrap();
    let again = world.reopen(laptop, map.clone());
    assert_eq!(world.clients[&again].events, [SessionEvent::Current(map.version)]);
    world.close(again);
    world.check_in(pi, &["198.51.100.7:4000"]).unwrap();
    world.settle();
    let again = world.reopen(laptop, map);
    let [SessionEvent::Delta(delta)] = &world.clients[&again].events[..] else {
        panic!("one delta: {:?}", world.clients[&again].events)
    };
    assert!(matches!(&delta.changes[..], [Change::Presence { id, .. }] if *id == pi));
    world.assert_converged();
}

#[test]
fn what_deltas_can_not_bridge_is_answered_with_the_whole_map() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let version = world.account.version();
    let strange = [
        MapVersion { epoch: version.epoch + 1, ..version },
        MapVersion { sequence: version.sequence + 100, ..version },
        MapVersion { sequence: u64::MAX, ..version },
    ];
    for last in strange {
        let session = world.open_with(laptop, None, Some(last)).unwrap().session;
        assert_eq!(world.clients[&session].whole_maps(), 1, "{last}");
    }
    for port in 0..5000u32 {
        world.check_in(pi, &[&format!("198.51.100.7:{}", 1000 + port)]).unwrap();
        world.advance(Duration::from_secs(1));
    }
    let session = world.open_with(laptop, None, Some(version)).unwrap().session;
    assert_eq!(world.clients[&session].whole_maps(), 1, "the log is bounded");
}

#[test]
fn a_new_epoch_means_the_whole_map() {
    let mut world = World::new("home");
    let laptop = world.join(2, "laptop");
    let session = world.open(laptop);
    let map = world.close(session).map.unwrap();
    world.restart();
    let session = world.open_with(laptop, None, Some(map.version)).unwrap().session;
    assert_eq!(world.clients[&session].whole_maps(), 1);
    assert_ne!(world.clients[&session].map.as_ref().unwrap().version.epoch, map.version.epoch);
}

#[test]
fn a_newer_session_replaces_the_older_one_without_a_flap() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let on_laptop = world.open(laptop);
    let old = world.open(pi);
    world.settle();
    let before = world.clients[&on_laptop].events.len();
    let opened = world.open_with(pi, None, None).unwrap();
    assert_eq!(opened.replaced, Some(old));
    world.account.close_session(old, world.now);
    world.advance(Duration::from_secs(60));
    assert_eq!(world.clients[&on_laptop].events.len(), before);
    assert_eq!(world.account.session_device(opened.session), Some(pi));
}

#[test]
fn two_machines_with_one_identity_are_noticed_and_a_restart_is_not() {
    let mut world = World::new("home");
    let pi = world.join(1, "pi");
    let cloned = |world: &World| world.account.device(pi, world.now, world.unix).unwrap().cloned;
    for instance in [10, 10, 11, 12, 12, 13] {
        world.open_with(pi, Some(instance), None).unwrap();
        world.advance(Duration::from_secs(5));
    }
    assert!(!cloned(&world), "restarts, each a new instance");
    world.open_with(pi, Some(20), None).unwrap();
    world.open_with(pi, Some(13), None).unwrap();
    assert!(cloned(&world), "13 came back after 20 had its place");
    world.advance(Duration::from_secs(3600));
    assert!(!cloned(&world), "the notice fades when it has stopped");
}

#[test]
fn a_connect_request_reaches_the_peers_session_and_no_other() {
    let mut world = World::new("home");
    let [pi, laptop, desktop] = [1, 2, 3].map(|seed| world.join(seed, "device"));
    let [_, on_laptop, on_desktop] = [pi, laptop, desktop].map(|id| world.open(id));
    world.settle();
    let quiet = world.clients[&on_desktop].events.len();
    world.account.handle_connect(pi, &request(laptop, &["198.51.100.7:1"]), world.now).unwrap();
    world.drain();
    let last = world.clients[&on_laptop].events.last();
    assert!(matches!(last, Some(SessionEvent::Connect(signal)) if signal.from == pi));
    assert_eq!(world.clients[&on_desktop].events.len(), quiet);
    world.close(on_laptop);
    let offline = world.account.handle_connect(pi, &request(laptop, &[]), world.now);
    assert_eq!(offline, Err(Refused::PeerOffline));
    let nobody = request(warren_proto::DeviceId(1), &[]);
    assert_eq!(
        world.account.handle_connect(pi, &nobody, world.now),
        Err(Refused::NotFound("peer"))
    );
    let itself = request(pi, &[]);
    assert_eq!(
        world.account.handle_connect(pi, &itself, world.now),
        Err(Refused::NotFound("peer"))
    );
}

#[test]
fn a_device_with_a_static_endpoint_is_told_of_a_look_at_it() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let (on_pi, on_laptop) = (world.open(pi), world.open(laptop));
    world.settle();
    let check = ReachCheck { id: ReachId(7), key: "c2VjcmV0LXNlY3JldA".to_owned() };
    let look = |world: &mut World| world.account.handle_reach(pi, check.clone(), world.now);
    assert!(matches!(look(&mut world), Err(Refused::Invalid(_))), "there is nothing to look at");
    let endpoint = "203.0.113.9:51820".parse().unwrap();
    let edit = DeviceEdit::static_endpoint(Some(endpoint));
    let prepared = world.change(pi, edit).unwrap();
    world.commit(prepared);
    world.settle();
    let quiet = world.clients[&on_laptop].events.len();
    assert_eq!(look(&mut world), Ok(endpoint));
    world.drain();
    assert!(
        matches!(world.clients[&on_pi].events.last(), Some(SessionEvent::Reach(it)) if *it == check)
    );
    assert_eq!(world.clients[&on_laptop].events.len(), quiet);
    let looks = (0..20).filter(|_| look(&mut world).is_ok()).count();
    assert_eq!(looks, 4, "somebody else's address isn't to be flooded");
    world.close(on_pi);
    assert_eq!(look(&mut world), Err(Refused::PeerOffline));
}

#[test]
fn a_signal_does_not_overtake_the_entry_of_the_device_that_it_comes_from() {
    let mut world = World::new("home");
    let laptop = world.join(2, "laptop");
    let on_laptop = world.open(laptop);
    let key = world.reusable_key();
    world.settle();
    world.join(3, "opens the window");
    let pi = world.register(1, "pi", &key).unwrap().device;
    assert!(!world.clients[&on_laptop].map.as_ref().unwrap().peers.iter().any(|p| p.id == pi));
    world.account.handle_connect(pi, &request(laptop, &["198.51.100.7:1"]), world.now).unwrap();
    world.drain();
    let [.., SessionEvent::Delta(delta), SessionEvent::Connect(signal)] =
        &world.clients[&on_laptop].events[..]
    else {
        panic!("a delta, then the signal")
    };
    assert_eq!(signal.from, pi);
    assert!(delta.changes.iter().any(|it| matches!(it, Change::Peer { peer } if peer.id == pi)));
}

#[test]
fn a_device_cannot_aim_the_others_at_who_knows_nothing_of_it() {
    let mut world = World::new("home");
    let pi = world.join(1, "pi");
    let laptops: Vec<_> = (0..200).map(|n| world.join(100 + n, "laptop")).collect();
    for laptop in &laptops {
        world.open(*laptop);
    }
    world.settle();
    world.check_in(pi, &["198.51.100.7:4000"]).unwrap();
    let aimed = |world: &mut World, endpoints: &[&str]| {
        let sent = laptops.iter().map(|laptop| request(*laptop, endpoints));
        sent.filter(|it| world.account.handle_connect(pi, it, world.now).is_ok()).count()
    };
    assert_eq!(aimed(&mut world, &["203.0.113.9:53"]), 32, "the victim");
    assert_eq!(
        aimed(&mut world, &["203.0.113.77:53", "203.0.113.78:53"]),
        0,
        "the victim's neighbours"
    );
    world.advance(Duration::from_secs(60));
    assert_eq!(aimed(&mut world, &["198.51.100.7:4000"]), 200, "its own address");
}

#[test]
fn the_entries_of_as_many_devices_as_there_may_be_fit_into_one_map() {
    const NODE_TAKES: usize = 8 << 20;
    const ENTRY: usize = 4_500;
    const REST: usize = 256 * 1024;
    let mut world = World::new("home");
    let (loud, viewer) = (world.join(1, &"x".repeat(200)), world.join(2, "viewer"));
    world.open(loud);
    let endpoint = |n: u16| Endpoint {
        addr: format!("[2001:ddb8:aaaa:bbbb:cccc:dddd:eeee:{:x}]:65535", 0xf000 + n)
            .parse()
            .unwrap(),
        kind: EndpointKind::Reflexive,
    };
    let words = ["\u{1}", "\"", "\\", "w", "ü"].map(|c| c.repeat(32 / c.len()));
    let state = CheckInState {
        endpoints: (0..100).map(endpoint).collect(),
        capabilities: (0..100).map(|n| words[n % 5].clone()).collect(),
        ..CheckInState::default()
    };
    world.account.handle_check_in(loud, &CheckIn { state: Some(state) }, world.now).unwrap();
    let map = world.account.netmap(viewer).unwrap();
    let peer = map.peers.iter().find(|peer| peer.id == loud).unwrap();
    assert_eq!(peer.endpoints.len(), warren_proto::MAX_ENDPOINTS);
    let rtt =
        RelayRtt { relay: RelayId(u64::MAX), rtt_us: u32::MAX, transport: RelayTransport::Tcp };
    let relays = 32 * (serde_json::to_vec(&rtt).unwrap().len() + 1) + "\"relays\":[],".len();
    let length = serde_json::to_vec(peer).unwrap().len() + relays;
    assert!((1_000..ENTRY).contains(&length), "{length}");
    let all = ENTRY * warren_coord::DeviceLimit::DEFAULT.0 as usize;
    assert!(all + REST < NODE_TAKES);
}

#[test]
fn floods_are_refused_and_bounded() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let on_laptop = world.open(laptop);
    world.open(pi);
    world.settle();
    let mut passed = 0;
    for _ in 0..10_000 {
        match world.account.handle_connect(pi, &request(laptop, &[]), world.now) {
            Ok(()) => passed += 1,
            Err(refused) => assert_eq!(refused, Refused::RateLimited),
        }
    }
    assert_eq!(passed, 256);
    let before = world.clients[&on_laptop].events.len();
    world.drain();
    assert_eq!(world.clients[&on_laptop].events.len(), before + 1, "one signal says it all");

    let refused =
        (0..1000u32).filter(|n| world.check_in(pi, &[&format!("198.51.100.7:{}", n + 1)]).is_err());
    assert_eq!(refused.count(), 970);
    let reply = world.account.handle_check_in(pi, &CheckIn { state: None }, world.now).unwrap();
    assert!(reply.resend, "what was refused is asked for again");
    let opens = (0..100).filter(|_| world.open_with(pi, None, None).is_ok()).count();
    assert_eq!(opens, 19);
    world.advance(Duration::from_secs(1));
    assert!(world.open_with(pi, None, None).is_ok());
}

#[test]
fn a_stream_that_does_not_keep_up_gets_the_whole_map_when_it_has_drained() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let on_laptop = world.open(laptop);
    world.open(pi);
    world.settle();
    world.account.handle_overflow(on_laptop);
    let before = world.clients[&on_laptop].events.len();
    world.check_in(pi, &["198.51.100.7:4000"]).unwrap();
    world.settle();
    let stalled = world.account.handle_connect(pi, &request(laptop, &[]), world.now);
    assert_eq!(stalled, Err(Refused::PeerOffline));
    assert_eq!(world.clients[&on_laptop].events.len(), before);
    world.account.handle_drained(on_laptop);
    world.drain();
    assert_eq!(world.clients[&on_laptop].events.len(), before + 1);
    assert_eq!(world.clients[&on_laptop].whole_maps(), 2);
    world.check_in(pi, &["198.51.100.7:4001"]).unwrap();
    world.settle();
    world.assert_converged();
}

#[test]
fn a_session_that_never_reads_costs_no_memory_of_signals() {
    let mut world = World::new("home");
    let laptop = world.join(0, "laptop");
    let on_laptop = world.open(laptop);
    let senders: Vec<_> = (1..=200).map(|seed| world.join(seed, "pi")).collect();
    world.settle();
    for sender in senders {
        world.account.handle_connect(sender, &request(laptop, &[]), world.now).unwrap();
    }
    let before = world.clients[&on_laptop].events.len();
    world.drain();
    let Client { events, .. } = &world.clients[&on_laptop];
    assert_eq!(events.len() - before, 64);
}
