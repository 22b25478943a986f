use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::Ipv4Net;
use warren_coord::{Account, Ctx, DeviceEdit, LeaseEpoch, Refused, Snapshot};
use warren_proto::{DeviceName, EndpointKind, Pin, SessionEvent};

use crate::world::World;

fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

#[test]
fn a_rename_reaches_the_peers_and_the_device_itself() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let (on_pi, on_laptop) = (world.open(pi), world.open(laptop));
    world.settle();
    assert!(matches!(
        world.change(pi, DeviceEdit::rename(name("laptop"))),
        Err(Refused::NameTaken(taken)) if taken == name("laptop")
    ));
    let rename = world.change(pi, DeviceEdit::rename(name("kitchen"))).unwrap();
    world.commit(rename);
    assert_eq!(world.clients[&on_laptop].map.as_ref().unwrap().peers[0].name, name("kitchen"));
    assert_eq!(world.clients[&on_pi].map.as_ref().unwrap().this.name, name("kitchen"));
    assert_eq!(world.account.device_named(&name("kitchen")), Some(pi));
    assert_eq!(world.account.device_named(&name("pi")), None);
    let same = world.change(pi, DeviceEdit::rename(name("kitchen"))).unwrap();
    assert!(same.changes.is_empty(), "nothing to commit");
    world.assert_converged();
}

#[test]
fn several_changes_of_a_device_are_one_and_one_that_is_refused_refuses_all() {
    let mut world = World::new("home");
    let pi = world.join(1, "pi");
    let addr = "203.0.113.9:5555".parse().unwrap();
    let edit = DeviceEdit {
        owner: None,
        never_expires: None,
        name: Some(name("kitchen")),
        static_endpoint: Some(Some(addr)),
        tags: Some(BTreeSet::from(["server".parse().unwrap()])),
    };
    let change = world.change(pi, edit.clone()).unwrap();
    assert_eq!(change.changes.len(), 1, "one record, one commit");
    world.commit(change);
    let view = world.account.device(pi, world.now, world.unix).unwrap();
    assert_eq!((view.name.as_str(), view.static_endpoint), ("kitchen", Some(addr)));
    assert_eq!(view.tags.len(), 1);
    let tags = (0..17).map(|n| format!("tag-{n}").parse().unwrap()).collect();
    let bad = DeviceEdit { name: Some(name("attic")), tags: Some(tags), ..edit };
    assert!(matches!(world.change(pi, bad), Err(Refused::Invalid(_))));
    assert_eq!(world.account.device_named(&name("kitchen")), Some(pi));
}

#[test]
fn a_device_that_is_removed_or_logs_out_loses_its_session_and_its_peers_it() {
    for remove in [true, false] {
        let mut world = World::new("home");
        let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
        let (on_pi, on_laptop) = (world.open(pi), world.open(laptop));
        world.settle();
        let cut = if remove {
            world.account.prepare_remove(pi)
        } else {
            world.account.prepare_logout(pi)
        };
        world.commit(cut.unwrap());
        assert_eq!(world.clients[&on_pi].events.last(), Some(&SessionEvent::Revoked));
        assert!(world.clients[&on_laptop].map.as_ref().unwrap().peers.is_empty(), "at once");
        assert_eq!(world.account.session_device(on_pi), None);
        assert_eq!(world.check_in(pi, &[]), Err(Refused::Revoked));
        assert!(matches!(world.open_with(pi, None, None), Err(Refused::Revoked)));
        world.account.close_session(on_pi, world.now);
        world.advance(Duration::from_secs(60));
        world.assert_converged();
    }
}

#[test]
fn a_device_that_logs_out_must_join_again() {
    let mut world = World::new("home");
    let pi = world.join(1, "pi");
    let on_pi = world.open(pi);
    let logout = world.account.prepare_logout(pi).unwrap();
    world.commit(logout);
    assert_eq!(world.clients[&on_pi].events.last(), Some(&SessionEvent::Revoked));
    assert!(matches!(world.account.prepare_logout(pi), Err(Refused::Revoked)));
    assert_eq!(world.join(1, "pi"), pi);
}

#[test]
fn a_static_endpoint_is_published_first_and_told_to_the_device() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let (on_pi, on_laptop) = (world.open(pi), world.open(laptop));
    world.check_in(pi, &["198.51.100.7:4000", "203.0.113.9:5555"]).unwrap();
    let addr = "203.0.113.9:5555".parse().unwrap();
    let set = world.change(pi, DeviceEdit::static_endpoint(Some(addr))).unwrap();
    world.commit(set);
    world.settle();
    let endpoints = &world.clients[&on_laptop].map.as_ref().unwrap().peers[0].endpoints;
    assert_eq!((endpoints[0].addr, endpoints[0].kind), (addr, EndpointKind::Static));
    assert_eq!(endpoints.len(), 2, "what the device measured itself is not said twice");
    assert_eq!(world.clients[&on_pi].map.as_ref().unwrap().this.static_endpoint, Some(addr));
    let mesh = world.account.device(laptop, world.now, world.unix).unwrap().ipv4;
    for bad in [(mesh, 5).into(), "127.0.0.1:5".parse().unwrap()] {
        let refused = world.change(pi, DeviceEdit::static_endpoint(Some(bad)));
        assert!(matches!(refused, Err(Refused::Invalid(_))));
    }
    let clear = world.change(pi, DeviceEdit::static_endpoint(None)).unwrap();
    world.commit(clear);
    world.settle();
    world.assert_converged();
}

#[test]
fn settings_change_at_run_time_and_reach_every_session() {
    let mut world = World::new("home");
    let pi = world.join(1, "pi");
    let on_pi = world.open(pi);
    world.settings.stun = vec!["203.0.113.1:3478".parse().unwrap()];
    world.settings.next_pin = Some(Pin([4; 32]));
    world.settings.dns_suffix = "example.net".to_owned();
    world.account.handle_settings(&world.settings, world.now);
    world.drain();
    world.settle();
    let map = world.clients[&on_pi].map.as_ref().unwrap();
    assert_eq!(map.stun, world.settings.stun);
    assert_eq!(map.next_pin, Some(Pin([4; 32])));
    assert_eq!(map.dns.domain, "home.example.net");
    world.settings.next_pin = None;
    world.account.handle_settings(&world.settings, world.now);
    world.drain();
    world.settle();
    assert_eq!(world.clients[&on_pi].map.as_ref().unwrap().next_pin, None);
    world.assert_converged();
}

#[test]
fn when_a_device_was_seen_is_written_in_batches() {
    let mut world = World::new("home");
    let devices: Vec<_> = (0..20).map(|seed| world.join(seed, "pi")).collect();
    let joined = world.stored.devices[0].last_seen;
    world.advance(Duration::from_secs(1));
    for device in &devices {
        world.check_in(*device, &["198.51.100.7:4000"]).unwrap();
    }
    assert_eq!(world.stored.devices[0].last_seen, joined, "not for each check-in");
    let seen = world.unix.as_secs();
    world.advance(Duration::from_secs(11 * 60));
    for device in &world.stored.devices {
        assert_eq!(device.last_seen.unwrap().0, seen);
    }
    let ctx = world.ctx();
    assert!(world.account.prepare_housekeeping(&ctx).changes.is_empty());
    let view = world.account.device(devices[0], world.now, world.unix).unwrap();
    assert_eq!(view.last_seen.unwrap().0, seen);
    world.restart();
    let view = world.account.device(devices[0], world.now, world.unix).unwrap();
    assert_eq!((view.last_seen.unwrap().0, view.online), (seen, false));
}

#[test]
fn accounts_have_names_and_ranges_of_their_own() {
    let mut world = World::new("home");
    let taken = world.account.record().ipv4_range;
    let ctx = world.ctx();
    let again = world.directory.prepare_account(name("home"), None, &ctx);
    assert!(matches!(again, Err(Refused::NameTaken(_))));
    let overlapping = world.directory.prepare_account(name("office"), Some(taken), &ctx);
    assert!(matches!(overlapping, Err(Refused::RangeTaken(owner)) if owner == name("home")));
    let public: Ipv4Net = "8.8.0.0/16".parse().unwrap();
    let public = world.directory.prepare_account(name("office"), Some(public), &ctx);
    assert!(matches!(public, Err(Refused::InvalidRange(_))));
    let office = world.directory.prepare_account(name("office"), None, &ctx).unwrap();
    assert_ne!(office.ipv4_range, taken);
    world.directory.insert(&Snapshot::empty(office.clone()));
    assert_eq!(world.directory.account_named(&name("office")), Some(office.id));
    world.directory.remove(office.id);
    assert_eq!(world.directory.account_named(&name("office")), None);
}

#[test]
fn accounts_do_not_meet() {
    let mut world = World::new("home");
    let home = world.join(1, "pi");
    let ctx = Ctx { now: world.now, unix: world.unix, entropy: [9; 32] };
    let record = world.directory.prepare_account(name("office"), None, &ctx).unwrap();
    let mut office = Account::new(
        Snapshot::empty(record),
        LeaseEpoch(1),
        &world.settings,
        world.now,
        world.unix,
    );
    let request = warren_proto::ConnectRequest {
        peer: home,
        endpoints: Vec::new(),
        nat: Default::default(),
        relay: None,
    };
    assert_eq!(office.netmap(home), Err(Refused::Revoked));
    assert_eq!(office.handle_connect(home, &request, world.now), Err(Refused::Revoked));
    assert!(matches!(office.open_session(home, None, None, world.now), Err(Refused::Revoked)));
    let secret = world.reusable_key();
    let (account, _) = world.directory.join_key(&secret).unwrap();
    assert_eq!(account, world.account.id());
}

#[test]
fn removing_an_account_revokes_all_of_its_sessions() {
    let mut world = World::new("home");
    let ids = [1, 2].map(|seed| world.join(seed, "pi"));
    let sessions = ids.map(|id| world.open(id));
    world.account.revoke_all(world.now);
    world.drain();
    for session in sessions {
        assert_eq!(world.clients[&session].events.last(), Some(&SessionEvent::Revoked));
    }
    assert_eq!(world.account.session_count(), 0);
}
