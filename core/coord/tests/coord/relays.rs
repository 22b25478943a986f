use std::time::Duration;

use warren_coord::{
    CREDENTIAL_LIFETIME, DeviceEdit, NewTurn, Refused, RelayFace, RelayGroups, RelayProbe,
    RelayRecord, RelayView, RelayWarning, relay_update,
};
use warren_proto::{
    CheckIn, CheckInState, DeviceId, Netmap, RelayEvent, RelayId, RelayReport, RelayRtt,
    RelayScope, RelayTransport, SessionEvent,
};

use crate::world::{World, endpoint};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn groups(text: &str) -> RelayGroups {
    let group = |group: &str| group.split('=').map(str::to_owned).collect();
    text.split_whitespace().map(group).collect()
}

fn face(addr: &str) -> RelayFace {
    RelayFace { udp: vec![addr.parse().unwrap()], ..RelayFace::default() }
}

impl World {
    fn set_relays(&mut self, list: &str) -> Result<(), Refused> {
        let ctx = self.ctx();
        let prepared = self.account.prepare_relay_list(&groups(list), &ctx)?;
        self.commit(prepared);
        self.settle();
        Ok(())
    }

    fn server(&mut self, name: &str, addr: &str) -> RelayId {
        let ctx = self.ctx();
        let prepared = self.account.prepare_relay_server(name.parse().unwrap(), &ctx).unwrap();
        let id = self.commit(prepared).id;
        let prepared = self.account.prepare_relay_face(id, &face(addr)).unwrap();
        self.commit(prepared);
        self.settle();
        id
    }

    fn map(&self, device: DeviceId) -> Netmap {
        self.account.netmap(device).unwrap()
    }

    fn names(&self, device: DeviceId) -> Vec<(String, u16)> {
        self.map(device).relays.iter().map(|relay| (relay.name.clone(), relay.rank)).collect()
    }

    fn view(&self, name: &str) -> RelayView {
        let views = self.account.relays(self.now, self.unix);
        views.into_iter().find(|view| view.name.as_str() == name).unwrap()
    }

    fn warnings(&self, name: &str) -> Vec<RelayWarning> {
        self.view(name).warnings
    }

    fn offer(&mut self, relays: Vec<RelayRecord>) {
        self.settings.relays = relays;
        self.account.handle_settings(&self.settings, self.now);
        self.drain();
        self.settle();
    }

    fn report_rtts(&mut self, device: DeviceId, rtts: &[(RelayId, u32)]) {
        let rtt = |&(relay, rtt_us)| RelayRtt { relay, rtt_us, transport: RelayTransport::Udp };
        let state = CheckInState {
            endpoints: vec![endpoint("198.51.100.7:4000")],
            relay_rtts: rtts.iter().map(rtt).collect(),
            ..CheckInState::default()
        };
        let check_in = CheckIn { state: Some(state) };
        self.account.handle_check_in(device, &check_in, self.now).unwrap();
        self.drain();
        self.settle();
    }
}

fn own() -> RelayRecord {
    let name = "broker".parse().unwrap();
    RelayRecord::own(RelayId(0xb0), name, "own secret".to_owned(), face("203.0.113.1:3478"))
}

#[test]
fn a_device_named_as_a_relay_is_told_its_duty_and_the_others_how_to_use_it() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let (on_pi, on_laptop) = (world.open(pi), world.open(laptop));
    let addr = "203.0.113.9:51820".parse().unwrap();
    let set = world.change(pi, DeviceEdit::static_endpoint(Some(addr))).unwrap();
    world.commit(set);
    world.set_relays("pi").unwrap();
    let relays = &world.clients[&on_laptop].map.as_ref().unwrap().relays;
    assert_eq!((relays.len(), relays[0].device, &relays[0].udp), (1, Some(pi), &vec![addr]));
    assert!(relays[0].virtual_addresses);
    assert_eq!(relays[0].name, "pi");
    let map = world.clients[&on_pi].map.as_ref().unwrap();
    assert!(map.relays.is_empty(), "it is no relay of its own");
    let duty = map.relay_duty.clone().unwrap();
    assert_eq!((duty.public, duty.secrets.len(), duty.revoked.len()), (vec![addr], 1, 0));
    let credential = &relays[0].credential;
    let (expiry, id) = warren_turn::rest::parse_username(&credential.username).unwrap();
    assert_eq!(id, laptop.to_string());
    assert_eq!(Some(expiry), credential.expires_unix);
    let password =
        warren_turn::rest::password(duty.secrets[0].as_bytes(), credential.username.as_bytes());
    assert_eq!(credential.password, password);
    let unix = world.unix.as_secs();
    assert!(
        (unix + CREDENTIAL_LIFETIME - 24 * 3600..=unix + CREDENTIAL_LIFETIME).contains(&expiry)
    );

    world.set_relays("").unwrap();
    assert_eq!(world.clients[&on_pi].map.as_ref().unwrap().relay_duty, None);
    assert!(world.clients[&on_laptop].map.as_ref().unwrap().relays.is_empty());
    world.assert_converged();
}

#[test]
fn the_list_is_an_order_of_preference_with_equal_ranks() {
    let mut world = World::new("home");
    let (laptop, _pi) = (world.join(1, "laptop"), world.join(2, "pi"));
    world
        .check_in(world.account.device_named(&"pi".parse().unwrap()).unwrap(), &["198.51.100.7:1"])
        .unwrap();
    world.server("berlin", "203.0.113.10:3478");
    let paris = world.server("paris", "203.0.113.11:3478");
    world.offer(vec![own()]);
    let expected = |list: &[(&str, u16)]| -> Vec<(String, u16)> {
        list.iter().map(|(name, rank)| ((*name).to_owned(), *rank)).collect()
    };
    let mut unnamed = world.names(laptop);
    unnamed.sort();
    assert_eq!(unnamed, expected(&[("berlin", 0), ("broker", 2), ("paris", 0)]));
    world.set_relays("pi paris=berlin broker").unwrap();
    let list = expected(&[("pi", 0), ("paris", 1), ("berlin", 1), ("broker", 2)]);
    assert_eq!(world.names(laptop), list);
    let removal = world.account.prepare_remove_relay(paris).unwrap();
    world.commit(removal);
    assert_eq!(world.names(laptop), expected(&[("pi", 0), ("berlin", 1), ("broker", 2)]));
    for (list, error) in [
        ("nobody", Refused::NoRelay("nobody".to_owned())),
        ("berlin pi=berlin", Refused::Invalid("a relay is named twice")),
    ] {
        assert_eq!(world.set_relays(list), Err(error));
    }
    world.join(3, "berlin");
    assert_eq!(world.set_relays("berlin"), Err(Refused::AmbiguousRelay("berlin".to_owned())));
    world.restart();
    assert_eq!(
        world.names(laptop),
        expected(&[("berlin", 1), ("broker", 2)]),
        "pi is not seen yet"
    );
}

#[test]
fn removing_the_device_that_is_the_relay_takes_it_from_the_list() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    world.check_in(pi, &["198.51.100.7:1"]).unwrap();
    world.offer(vec![own()]);
    world.set_relays("pi").unwrap();
    let on_laptop = world.open(laptop);
    let removal = world.account.prepare_remove(pi).unwrap();
    world.commit(removal);
    world.settle();
    let map = world.clients[&on_laptop].map.as_ref().unwrap();
    assert_eq!(map.relays.len(), 1);
    assert_eq!(map.relays[0].name, "broker", "with none named, the broker relays");
    assert!(!world.account.has_relay_list());
    world.assert_converged();
}

#[test]
fn credentials_are_renewed_each_day_by_one_delta_and_are_the_same_until_then() {
    let mut world = World::new("home");
    let (laptop, pi) = (world.join(1, "laptop"), world.join(2, "pi"));
    world.offer(vec![own()]);
    let session = world.open(laptop);
    world.settle();
    let credential = |world: &World| world.map(laptop).relays[0].credential.clone();
    let first = credential(&world);
    assert_ne!(first.username, world.map(pi).relays[0].credential.username);
    let mut ends = vec![first.expires_unix.unwrap()];
    for _ in 0..24 * 10 {
        world.advance(Duration::from_secs(3600));
        let expiry = credential(&world).expires_unix.unwrap();
        let left = expiry - world.unix.as_secs();
        assert!(left > CREDENTIAL_LIFETIME - 24 * 3600 && left <= CREDENTIAL_LIFETIME, "{left}");
        if ends.last() != Some(&expiry) {
            ends.push(expiry);
        }
    }
    assert_eq!(ends.len(), 11, "once a day");
    assert_eq!(world.clients[&session].deltas(), 10);
    world.restart();
    assert_eq!(credential(&world).expires_unix, ends.last().copied(), "another process, the same");
}

#[test]
fn what_must_be_refused_is_told_to_every_relay_until_its_credentials_are_over() {
    let mut world = World::new("home");
    let devices = [1, 2, 3, 4].map(|n| world.join(n, &format!("device-{n}")));
    let [relay, removed, expired, _] = devices;
    world.check_in(relay, &["198.51.100.7:1"]).unwrap();
    let server = world.server("berlin", "203.0.113.10:3478");
    world.set_relays("device-1 berlin").unwrap();
    let session = world.open(relay);
    world.settle();
    let news = world.account.relay_news();
    let removal = world.account.prepare_remove(removed).unwrap();
    world.commit(removal);
    let expiry = world.expire(expired).unwrap();
    world.commit(expiry);
    world.settle();
    let mut both = vec![removed, expired];
    both.sort_unstable();
    let init = |world: &World| world.account.relay_init(server, world.unix).unwrap();
    assert!(world.account.relay_news() > news);
    assert_eq!(init(&world).revoked, both);
    assert_eq!(
        init(&world).scope,
        RelayScope::Account { id: world.account.id(), name: "home".parse().unwrap() }
    );
    let duty = world.clients[&session].map.as_ref().unwrap().relay_duty.clone().unwrap();
    assert_eq!(duty.revoked, both);

    let key = world.reusable_key();
    assert_eq!(world.register(3, "device-3", &key).unwrap().device, expired);
    assert_eq!(init(&world).revoked, [removed], "it joined again");
    world.restart();
    assert_eq!(init(&world).revoked, [removed], "another process knows, too");
    world.advance(DAY * 9);
    assert_eq!(init(&world).revoked, [], "its credentials are over");
    assert!(world.stored.revoked.is_empty());
}

#[test]
fn a_relay_server_is_told_what_changed_and_nothing_else() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let server = world.server("berlin", "203.0.113.10:3478");
    let init = |world: &World| world.account.relay_init(server, world.unix).unwrap();
    let first = init(&world);
    world.advance(Duration::from_secs(60));
    assert_eq!(relay_update(&first, &init(&world)), None, "a clock goes on by itself");
    let mut told = first;
    for device in [pi, laptop] {
        let removal = world.account.prepare_remove(device).unwrap();
        world.commit(removal);
        let now = init(&world);
        assert_eq!(relay_update(&told, &now), Some(RelayEvent::Revoke(vec![device])));
        told = now;
    }
    world.advance(DAY * 9);
    let now = init(&world);
    assert_eq!(relay_update(&told, &now), Some(RelayEvent::Init(now.clone())), "fewer to refuse");
    let removal = world.account.prepare_remove_relay(server).unwrap();
    world.commit(removal);
    assert_eq!(world.account.relay_init(server, world.unix), None);
}

#[test]
fn a_rotated_secret_is_used_at_once_and_the_old_one_goes_on_being_taken() {
    let mut world = World::new("home");
    let laptop = world.join(1, "laptop");
    let server = world.server("berlin", "203.0.113.10:3478");
    let before = world.account.relay_init(server, world.unix).unwrap().secrets;
    let password = world.map(laptop).relays[0].credential.password.clone();
    let ctx = world.ctx();
    let rotation = world.account.prepare_rotate_relay(server, &ctx).unwrap();
    world.commit(rotation);
    let after = world.account.relay_init(server, world.unix).unwrap().secrets;
    assert_eq!((after.len(), &after[1]), (2, &before[0]));
    assert_ne!(after[0], before[0]);
    assert_ne!(world.map(laptop).relays[0].credential.password, password);
}

#[test]
fn a_turn_server_is_used_with_its_user_or_with_its_shared_secret() {
    let mut world = World::new("home");
    let laptop = world.join(1, "laptop");
    for (name, username) in [("shared", None), ("users", Some("bob".to_owned()))] {
        let new = NewTurn {
            name: name.parse().unwrap(),
            url: "turn:203.0.113.20".to_owned(),
            username,
            secret: "s3cret".to_owned(),
            face: face("203.0.113.20:3478"),
        };
        let ctx = world.ctx();
        let prepared = world.account.prepare_turn(new, &ctx).unwrap();
        let id = world.commit(prepared);
        assert!(world.account.relay_init(id, world.unix).is_none(), "it isn't ours to tell");
        assert!(world.account.prepare_rotate_relay(id, &ctx).is_err());
    }
    world.set_relays("shared users").unwrap();
    let relays = world.map(laptop).relays;
    assert!(relays.iter().all(|relay| !relay.virtual_addresses));
    let minted = &relays[0].credential;
    assert_eq!(minted.password, warren_turn::rest::password(b"s3cret", minted.username.as_bytes()));
    assert!(minted.nonce.is_none() && minted.realm.is_none());
    let user = &relays[1].credential;
    assert_eq!((user.username.as_str(), user.password.as_str()), ("bob", "s3cret"));
    assert_eq!(user.expires_unix, None);
}

#[test]
fn round_trip_times_reach_the_peers_when_they_matter() {
    let mut world = World::new("home");
    let (laptop, pi) = (world.join(1, "laptop"), world.join(2, "pi"));
    let server = world.server("berlin", "203.0.113.10:3478");
    let session = world.open(laptop);
    world.open(pi);
    world.settle();
    let seen =
        |world: &World| world.clients[&session].map.as_ref().unwrap().peers[0].relays.clone();
    world.report_rtts(pi, &[(server, 20_000), (RelayId(0x666), 1)]);
    assert_eq!(seen(&world).len(), 1, "of relays that there are");
    let deltas = world.clients[&session].deltas();
    for rtt in [21_000, 24_900, 15_100] {
        world.report_rtts(pi, &[(server, rtt)]);
    }
    assert_eq!(world.clients[&session].deltas(), deltas, "nobody would choose otherwise");
    world.report_rtts(pi, &[(server, 40_000)]);
    assert_eq!(seen(&world)[0].rtt_us, 40_000);
    let last = world.clients[&session].events.last().unwrap();
    let SessionEvent::Delta(delta) = last else { panic!("{last:?}") };
    assert_eq!(delta.changes.len(), 1, "and nothing else is said again");
    assert_eq!((world.view("berlin").reached_by, world.view("berlin").devices), (1, 2));
    world.report_rtts(pi, &[]);
    assert!(seen(&world).is_empty());
    world.assert_converged();
}

#[test]
fn a_relay_that_cannot_help_says_why() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    world.open(pi);
    world.check_in(pi, &["198.51.100.7:4000"]).unwrap();
    world.check_in(laptop, &["198.51.100.7:5000"]).unwrap();
    world.set_relays("pi").unwrap();
    let name = || "pi".parse().unwrap();
    let same = RelayWarning::SameAddress {
        ip: "198.51.100.7".parse().unwrap(),
        peers: vec!["laptop".parse().unwrap()],
    };
    let seen = Some("198.51.100.7:4000".parse().unwrap());
    assert_eq!(
        world.warnings("pi"),
        [
            RelayWarning::NoStaticEndpoint { name: name(), seen },
            RelayWarning::AutomaticPort { name: name() },
            same.clone(),
        ]
    );
    let addr = "198.51.100.7:51820".parse().unwrap();
    let set = world.change(pi, DeviceEdit::static_endpoint(Some(addr))).unwrap();
    world.commit(set);
    let state = CheckInState {
        endpoints: vec![endpoint("198.51.100.7:4000")],
        capabilities: vec![warren_proto::FIXED_PORT.to_owned()],
        ..CheckInState::default()
    };
    let check_in = CheckIn { state: Some(state) };
    world.account.handle_check_in(pi, &check_in, world.now).unwrap();
    assert_eq!(world.warnings("pi"), std::slice::from_ref(&same));
    let id = world.view("pi").id;
    world.account.handle_relay_probes(id, vec![RelayProbe { addr, answered: false }]);
    assert_eq!(world.warnings("pi"), [same.clone(), RelayWarning::Unreachable { addr }]);
    world.account.handle_relay_probes(id, vec![RelayProbe { addr, answered: true }]);
    assert_eq!(world.warnings("pi"), [same]);
    for warning in world.warnings("pi") {
        assert!(warning.to_string().contains("laptop"), "{warning}");
    }
}

#[test]
fn a_relay_server_is_shown_silent_until_it_reports_and_leaves_the_maps_when_it_drains() {
    let mut world = World::new("home");
    let laptop = world.join(1, "laptop");
    let server = world.server("berlin", "203.0.113.10:3478");
    assert_eq!(world.warnings("berlin"), [RelayWarning::Silent]);
    let report = RelayReport {
        protocol: 1,
        account: None,
        udp: Vec::new(),
        tcp: Vec::new(),
        tls: Vec::new(),
        limits: Default::default(),
        load: Default::default(),
        software: String::new(),
        draining: false,
    };
    world.account.handle_relay_report(server, report.clone(), world.now);
    assert_eq!(world.warnings("berlin"), []);
    assert_eq!(world.names(laptop).len(), 1);
    let draining = RelayReport { draining: true, ..report };
    world.account.handle_relay_report(server, draining, world.now);
    assert_eq!(world.warnings("berlin"), [RelayWarning::Draining]);
    assert!(world.names(laptop).is_empty());
    world.advance(Duration::from_secs(200));
    assert_eq!(world.warnings("berlin")[0], RelayWarning::Silent);
}

#[test]
fn addresses_that_nobody_could_use_are_not_passed_on() {
    let given = RelayFace {
        udp: ["0.0.0.0:1", "127.0.0.1:3478", "[::ffff:203.0.113.5]:3478", "203.0.113.6:3478"]
            .map(|addr| addr.parse().unwrap())
            .to_vec(),
        ..RelayFace::default()
    };
    assert_eq!(given.clean().udp, ["203.0.113.5:3478".parse().unwrap()]);
}

#[test]
fn a_relay_server_behind_its_devices_nat_says_so() {
    let mut world = World::new("home");
    let laptop = world.join(1, "laptop");
    world.open(laptop);
    world.check_in(laptop, &["198.51.100.7:5000"]).unwrap();
    world.server("attic", "198.51.100.7:3478");
    world.server("berlin", "203.0.113.10:3478");
    let is_same = |warning: &RelayWarning| matches!(warning, RelayWarning::SameAddress { .. });
    let same = |world: &World, relay| world.warnings(relay).into_iter().filter(is_same).count();
    assert_eq!((same(&world, "attic"), same(&world, "berlin")), (1, 0));
}
