use std::time::Duration;

use warren_coord::{DeviceEdit, DeviceLimit, JoinKeyStatus, NewJoinKey, Refused, UnixTime};
use warren_proto::{Admission, DeviceName, JoinKeyId, PROTOCOL, Register};

use crate::world::{BROKER, World, private_key, public_key};

fn status(world: &World, key: JoinKeyId) -> JoinKeyStatus {
    let now = UnixTime(world.unix.as_secs());
    world.account.join_keys(now).find(|view| view.id == key).unwrap().status
}

#[test]
fn names_are_dns_labels_and_the_second_of_a_name_is_numbered() {
    let mut world = World::new("home");
    let ids = [1, 2, 3].map(|seed| world.join(seed, "Kitchen Pi"));
    assert_eq!(ids.map(|id| world.name(id)), ["kitchen-pi", "kitchen-pi-2", "kitchen-pi-3"]);
    let view = world.account.device(ids[1], world.now, world.unix).unwrap();
    assert_eq!(view.dns_name, "kitchen-pi-2.home.warren.internal");
    assert!(world.account.record().ipv4_range.contains(&view.ipv4));
    assert!(world.account.record().ipv6_range.contains(&view.ipv6));
}

#[test]
fn a_one_time_key_admits_one_device_which_may_repeat_it() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey::default());
    assert_eq!(status(&world, key.id), JoinKeyStatus::Usable);
    let first = world.register(1, "pi", &key.secret).unwrap();
    assert_eq!(status(&world, key.id), JoinKeyStatus::Used);
    let home = world.account.id();
    assert_eq!(world.directory.authenticate(&first.token), Some((home, first.device)));

    let again = world.register(1, "pi", &key.secret).unwrap();
    assert_eq!((again.device, &again.name), (first.device, &first.name));
    assert_ne!(again.token, first.token);
    assert_eq!(world.directory.authenticate(&first.token), None, "only the newest token counts");
    assert_eq!(world.directory.authenticate(&again.token), Some((home, first.device)));

    assert_eq!(world.register(2, "pi", &key.secret), Err(Refused::JoinKeyUsed));
    assert_eq!(world.account.device_count(), 1);
}

#[test]
fn a_repeat_after_the_broker_crashed_gives_the_same_device() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey { expires_in: Some(60), ..Default::default() });
    let first = world.register(1, "pi", &key.secret).unwrap();
    world.restart();
    world.advance(Duration::from_secs(120));
    let again = world.register(1, "pi", &key.secret).unwrap();
    assert_eq!(again.device, first.device, "its key has run out since, but it was used in time");
}

#[test]
fn a_reusable_key_admits_many_until_it_expires_or_is_deleted() {
    let mut world = World::new("home");
    let key =
        world.join_key(NewJoinKey { reusable: true, expires_in: Some(3600), ..Default::default() });
    world.register(1, "a", &key.secret).unwrap();
    world.register(2, "b", &key.secret).unwrap();
    world.advance(Duration::from_secs(3599));
    world.register(3, "c", &key.secret).unwrap();
    world.advance(Duration::from_secs(1));
    assert_eq!(world.register(4, "d", &key.secret), Err(Refused::JoinKeyExpired));
    assert_eq!(status(&world, key.id), JoinKeyStatus::Expired);

    let key = world.join_key(NewJoinKey { reusable: true, ..Default::default() });
    assert!(world.directory.join_key(&key.secret).is_some());
    let removal = world.account.prepare_remove_join_key(key.id).unwrap();
    world.commit(removal);
    assert_eq!(world.directory.join_key(&key.secret), None);
    assert_eq!(world.register(4, "d", &key.secret), Err(Refused::JoinKeyUnknown));
    assert_eq!(world.register(4, "d", "no such key at all"), Err(Refused::JoinKeyUnknown));
}

#[test]
fn secrets_are_not_stored() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey::default());
    let joined = world.register(1, "pi", &key.secret).unwrap();
    let stored = format!("{:?}", world.stored);
    assert!(!stored.contains(&key.secret) && !stored.contains(&joined.token));
    assert!(!format!("{key:?}").contains(&key.secret));
}

#[test]
fn an_expired_device_needs_a_key_of_the_present_and_keeps_its_name_and_address() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey::default());
    let first = world.register(1, "Kitchen Pi", &key.secret).unwrap();
    let before = world.account.device(first.device, world.now, world.unix).unwrap();
    let expiry = world.expire(first.device).unwrap();
    world.commit(expiry);
    assert_eq!(world.admission(first.device), Admission::Expired);
    assert!(world.directory.authenticate(&first.token).is_some(), "it hears why");
    assert_eq!(world.register(1, "Kitchen Pi", &key.secret), Err(Refused::JoinKeyUsed));

    let neighbour = world.join(2, "Kitchen Pi");
    assert_eq!(world.name(neighbour), "kitchen-pi-2", "the name stays taken");

    let fresh = world.join_key(NewJoinKey::default());
    let back = world.register(1, "another name", &fresh.secret).unwrap();
    assert_eq!((back.device, back.name), (first.device, first.name));
    let after = world.account.device(first.device, world.now, world.unix).unwrap();
    assert_eq!((after.ipv4, after.ipv6), (before.ipv4, before.ipv6));
    assert!(after.admission.is_member());
    assert_eq!(world.register(3, "x", &fresh.secret), Err(Refused::JoinKeyUsed));
}

#[test]
fn a_removed_device_is_gone_and_its_key_joins_as_a_new_one() {
    let mut world = World::new("home");
    let old = world.join(1, "pi");
    let old_ipv4 = world.account.device(old, world.now, world.unix).unwrap().ipv4;
    let removal = world.account.prepare_remove(old).unwrap();
    world.commit(removal);
    assert_eq!(world.account.device_count(), 0);
    assert!(matches!(world.account.prepare_remove(old), Err(Refused::NotFound(_))));
    let new = world.join(1, "pi");
    assert_ne!(new, old);
    assert_eq!(world.name(new), "pi");
    let ipv4 = world.account.device(new, world.now, world.unix).unwrap().ipv4;
    assert_ne!(ipv4, old_ipv4, "an address is not used again");
}

#[test]
fn an_ephemeral_device_is_removed_after_half_an_hour_offline() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey { reusable: true, ephemeral: true, ..Default::default() });
    let device = world.register(1, "ci-runner", &key.secret).unwrap().device;
    let never_connected = world.register(2, "ci-runner", &key.secret).unwrap().device;
    let watcher = world.join(3, "laptop");
    let watching = world.open(watcher);
    let session = world.open(device);
    world.advance(Duration::from_secs(3600));
    assert!(world.account.device(device, world.now, world.unix).is_some(), "online");
    assert!(world.account.device(never_connected, world.now, world.unix).is_none());
    world.close(session);
    world.advance(Duration::from_secs(29 * 60));
    let session = world.open(device);
    world.advance(Duration::from_secs(5 * 60));
    world.close(session);
    world.advance(Duration::from_secs(29 * 60));
    assert!(world.account.device(device, world.now, world.unix).is_some());
    world.advance(Duration::from_secs(2 * 60));
    assert!(world.account.device(device, world.now, world.unix).is_none());
    world.settle();
    assert!(world.clients[&watching].map.as_ref().unwrap().peers.is_empty());
    assert_eq!(world.account.device_count(), 1, "a device of an ordinary key stays");
}

#[test]
fn an_ephemeral_device_is_also_removed_when_the_broker_restarts_meanwhile() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey { ephemeral: true, ..Default::default() });
    world.register(1, "ci-runner", &key.secret).unwrap();
    world.restart();
    world.advance(Duration::from_secs(31 * 60));
    assert_eq!(world.account.device_count(), 0);
    assert!(world.stored.devices.is_empty());
}

#[test]
fn an_ephemeral_device_that_joins_again_by_an_ordinary_key_stays() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey { ephemeral: true, ..Default::default() });
    let device = world.register(1, "ci-runner", &key.secret).unwrap().device;
    world.advance(Duration::from_secs(20 * 60));
    let key = world.join_key(NewJoinKey::default());
    world.register(1, "ci-runner", &key.secret).unwrap();
    world.advance(Duration::from_secs(3600));
    world.check_in(device, &[]).unwrap();
    let seen = world.unix.as_secs();
    world.advance(Duration::from_secs(3600));
    assert_eq!(world.stored.devices[0].last_seen.unwrap().0, seen);
}

#[test]
fn tags_come_from_the_join_key() {
    let mut world = World::new("home");
    let tags = ["server", "rack-2"].map(|tag| tag.parse().unwrap()).into();
    let key = world.join_key(NewJoinKey { tags, ..Default::default() });
    let device = world.register(1, "pi", &key.secret).unwrap().device;
    let view = world.account.device(device, world.now, world.unix).unwrap();
    let tags: Vec<String> = view.tags.into_iter().map(String::from).collect();
    assert_eq!(tags, ["rack-2", "server"]);
    assert_eq!(view.joined_by, Some(key.id));
}

#[test]
fn who_has_not_proven_to_hold_the_private_key_does_not_get_in() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey::default()).secret;
    let challenge = world.gate.challenge([0; 16], world.now);
    let stolen = Register {
        protocol: PROTOCOL,
        join_key: key.clone(),
        key: public_key(1),
        proof: warren_coord::prove(&private_key(2), &BROKER, &challenge, &key),
        challenge: challenge.challenge,
        name: "pi".to_owned(),
        os: String::new(),
        software: String::new(),
    };
    assert!(matches!(world.gate.verify(stolen, &BROKER, world.now), Err(Refused::ProofFailed)));
}

#[test]
fn what_a_device_says_of_itself_is_kept_short_and_printable() {
    let mut world = World::new("home");
    let key = world.join_key(NewJoinKey::default()).secret;
    let challenge = world.gate.challenge([0; 16], world.now);
    let register = Register {
        protocol: PROTOCOL + 1,
        join_key: key.clone(),
        key: public_key(1),
        proof: warren_coord::prove(&private_key(1), &BROKER, &challenge, &key),
        challenge: challenge.challenge,
        name: "\u{1b}[31m".to_owned() + &"ä".repeat(10_000),
        os: "linux\u{1b}[2J\r\n".to_owned(),
        software: "é".repeat(1000),
    };
    let proven = world.gate.verify(register, &BROKER, world.now).unwrap();
    let ctx = world.ctx();
    let prepared = world.account.prepare_register(&proven, &ctx).unwrap();
    let device = world.commit(prepared).device;
    let view = world.account.device(device, world.now, world.unix).unwrap();
    assert_eq!(view.os, "linux[2J");
    assert_eq!(view.software, "é".repeat(32));
    assert!(view.name.as_str().parse::<DeviceName>().is_ok());
}

#[test]
fn keys_that_are_long_dead_are_swept_away_with_the_next_one() {
    let mut world = World::new("home");
    let used = world.join_key(NewJoinKey::default());
    world.register(1, "pi", &used.secret).unwrap();
    let expired = world.join_key(NewJoinKey { expires_in: Some(60), ..Default::default() });
    let open = world.join_key(NewJoinKey::default());
    world.unix += Duration::from_secs(31 * 24 * 3600);
    let new = world.join_key(NewJoinKey::default());
    let left: Vec<JoinKeyId> = world.stored.join_keys.iter().map(|key| key.id).collect();
    assert!(left.contains(&open.id) && left.contains(&new.id));
    assert!(!left.contains(&used.id) && !left.contains(&expired.id));
}

#[test]
fn only_keys_that_a_device_could_join_with_count_against_the_limit() {
    let mut world = World::new("home");
    let one_time = |world: &mut World| {
        let key = world.join_key(NewJoinKey::default());
        world.register(1, "pi", &key.secret).unwrap();
        world.unix += Duration::from_secs(1);
        key.id
    };
    let first = one_time(&mut world);
    for _ in 0..1000 {
        one_time(&mut world);
    }
    let unused: Vec<_> = (0..1000).map(|_| world.join_key(NewJoinKey::default()).id).collect();
    assert_eq!(world.stored.join_keys.len(), 2000, "the last 1,000 that were used are listed");
    assert!(world.stored.join_keys.iter().all(|key| key.id != first));
    let ctx = world.ctx();
    let refused = world.account.prepare_join_key(NewJoinKey::default(), &ctx);
    assert!(matches!(refused, Err(Refused::Invalid(_))));
    let removal = world.account.prepare_remove_join_key(unused[0]).unwrap();
    world.commit(removal);
    world.join_key(NewJoinKey::default());
}

#[test]
fn a_full_range_refuses_new_devices_but_not_old_ones() {
    let mut world = World::new("home");
    world.stored.account.ipv4_range = "10.0.0.0/22".parse().unwrap();
    world.restart();
    let key = world.reusable_key();
    for seed in 0..3 * 254 {
        world.register(seed, "pi", &key).unwrap();
    }
    assert_eq!(world.register(9999, "pi", &key), Err(Refused::AccountFull));
    assert!(world.register(5, "pi", &key).is_ok());
    let gone = world.account.device_named(&"pi-100".parse().unwrap()).unwrap();
    let freed = world.account.device(gone, world.now, world.unix).unwrap().ipv4;
    let removal = world.account.prepare_remove(gone).unwrap();
    world.commit(removal);
    let device = world.register(9999, "pi", &key).unwrap().device;
    assert_eq!(world.account.device(device, world.now, world.unix).unwrap().ipv4, freed);
}

#[test]
fn an_account_has_as_many_devices_as_the_broker_allows_and_they_may_come_back() {
    let mut world = World::new("home");
    world.settings.device_limit = DeviceLimit(3);
    let settings = world.settings.clone();
    world.account.handle_settings(&settings, world.now);
    let key = world.reusable_key();
    let devices: Vec<_> = (0..3).map(|n| world.register(n, "pi", &key).unwrap().device).collect();
    assert_eq!(world.register(3, "pi", &key), Err(Refused::AccountFull));
    assert_eq!(world.register(2, "pi", &key).unwrap().device, devices[2]);
    let removed = world.account.prepare_remove(devices[0]).unwrap();
    world.commit(removed);
    world.register(3, "pi", &key).unwrap();
}

#[test]
fn a_device_is_not_called_what_programs_look_up_and_trust() {
    let mut world = World::new("home");
    let device = world.join(1, "wpad");
    assert_eq!(world.name(device), "wpad-2");
    let edit = DeviceEdit::rename("localhost".parse().unwrap());
    assert!(matches!(world.change(device, edit), Err(Refused::Invalid(_))));
    let ctx = world.ctx();
    let account = world.directory.prepare_account("isatap".parse().unwrap(), None, &ctx);
    assert!(matches!(account, Err(Refused::Invalid(_))));
}
