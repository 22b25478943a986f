use std::time::Duration;

use warren_turn::codec::{PasswordAlgorithm, UDP_TRANSPORT};
use warren_turn::server::{Config, Dropped, Handled, Settings};
use warren_turn::{AttributeType, Builder, Message, Method, rest};

use crate::world::{REALM, SECRET, UNIX, Who, World, client, config, settings};

fn challenge(world: &mut World) -> Vec<u8> {
    let request = world.bare(Method::ALLOCATE, |b| {
        b.requested_transport(UDP_TRANSPORT);
    });
    world.ask(client(1), &request)
}

#[test]
fn who_shows_nothing_is_told_realm_nonce_and_algorithms() {
    let mut world = World::new(config());
    let answer = challenge(&mut world);
    let message = Message::parse(&answer).unwrap();
    assert_eq!(message.error_code(), Some(401));
    assert_eq!(message.realm(), Some(REALM.as_bytes()));
    assert!(message.nonce().unwrap().starts_with(b"obMatJos2gAAA"));
    assert!(message.nonce().unwrap().len() <= 32);
    let algorithms = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
    assert_eq!(algorithms, Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    assert!(!message.has_sha1() && !message.has_sha256());
    assert_eq!(world.server.gauges().allocations, 0);
}

#[test]
fn old_and_new_ways_to_sign_are_taken() {
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        for sha256 in [false, true] {
            for sends_algorithms in [false, true] {
                if !sends_algorithms && algorithm == PasswordAlgorithm::Sha256 {
                    continue;
                }
                let mut world = World::new(config());
                for who in [Who::rest("device", client(1)), Who::alice(client(2))] {
                    let mut who = Who { algorithm, sha256, sends_algorithms, ..who };
                    world.allocated(&mut who);
                }
            }
        }
    }
}

#[test]
fn a_wrong_password_name_realm_or_secret_is_a_401_with_a_new_nonce() {
    let (_, other_password) = rest::mint(b"another secret", UNIX + 3600, "device");
    let right = Who::rest("device", client(1));
    for mut who in [
        Who { password: other_password, ..right.clone() },
        Who { password: String::new(), ..right.clone() },
        Who { realm: "elsewhere".to_owned(), ..right.clone() },
        Who { username: "device".to_owned(), ..right.clone() },
        Who { username: "mallory".to_owned(), ..Who::alice(client(1)) },
        Who { username: "alice".to_owned(), ..right.clone() },
    ] {
        let mut world = World::new(config());
        assert_eq!(world.allocate(&mut who, |_| {}), Err(401), "{who:?}");
        assert_eq!(world.server.counters().auth_failures, 1);
        assert_eq!(world.server.gauges().allocations, 0);
    }
}

#[test]
fn a_request_that_was_changed_on_the_way_is_a_401() {
    let mut world = World::new(config());
    let mut who = Who { sha256: false, ..Who::rest("device", client(1)) };
    let request = world.signed(&mut who, Method::ALLOCATE, |b| {
        b.requested_transport(UDP_TRANSPORT).lifetime(1000);
    });
    let at = request.windows(4).position(|bytes| bytes == 1000_u32.to_be_bytes()).unwrap();
    let mut changed = request[..request.len() - 8].to_vec();
    changed[at + 3] ^= 1;
    let length = u16::try_from(changed.len() - 20).unwrap();
    changed[2..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(world.exchange(&who, &changed), Err(401));
    assert!(world.exchange(&who, &request).is_ok());
}

#[test]
fn who_leaves_out_what_belongs_to_a_signature_is_told_400() {
    let mut world = World::new(config());
    let key = warren_turn::Sha1Key::new(b"any");
    type Fill = fn(&mut Builder<'_>);
    let fills: [Fill; 3] = [
        |b| _ = b.realm(b"r").nonce(b"n"),
        |b| _ = b.username(b"u").nonce(b"n"),
        |b| _ = b.username(b"u").realm(b"r"),
    ];
    for fill in fills {
        let request = world.bare(Method::ALLOCATE, |b| {
            fill(b);
            b.integrity_sha1(&key);
        });
        let answer = world.ask(client(1), &request);
        assert_eq!(Message::parse(&answer).unwrap().error_code(), Some(400));
    }
}

#[test]
fn algorithms_that_were_tampered_with_are_a_400() {
    let mut world = World::new(config());
    let mut who = Who { sends_algorithms: false, ..Who::rest("device", client(1)) };
    for (list, chosen) in [
        (Some(&[0, 1, 0, 0][..]), Some(PasswordAlgorithm::Md5)),
        (Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]), None),
        (None, Some(PasswordAlgorithm::Md5)),
    ] {
        let answer = world.allocate(&mut who, |b| {
            if let Some(list) = list {
                b.attribute(AttributeType::PASSWORD_ALGORITHMS, list);
            }
            if let Some(chosen) = chosen {
                b.password_algorithm(chosen);
            }
        });
        assert_eq!(answer, Err(400));
    }
}

#[test]
fn a_nonce_that_is_old_or_of_another_address_is_stale() {
    let mut world = World::new(config());
    let mut who = Who::rest("device", client(1));
    world.signed(&mut who, Method::ALLOCATE, |_| {});
    let mut elsewhere = Who { at: client(2), ..who.clone() };
    assert_eq!(world.allocate(&mut elsewhere, |_| {}), Err(438));
    let mut invented = Who { nonce: Some(b"nonce".to_vec()), ..who.clone() };
    assert_eq!(world.allocate(&mut invented, |_| {}), Err(438));
    world.pass(Duration::from_secs(3000));
    world.allocated(&mut who);
    world.pass(Duration::from_secs(500));
    assert_eq!(world.refresh(&mut who, None), Ok(600));
    world.pass(Duration::from_secs(101));
    let request = world.signed(&mut who, Method::REFRESH, |_| {});
    let answer = world.ask(who.at, &request);
    let message = Message::parse(&answer).unwrap();
    assert_eq!(message.error_code(), Some(438));
    who.learn(&message);
    assert_eq!(world.refresh(&mut who, None), Ok(600), "and the allocation is still there");
}

#[test]
fn a_credential_expires_but_a_live_allocation_outlives_it() {
    let mut world = World::new(config());
    let (username, password) = rest::mint(SECRET, UNIX + 100, "device");
    let mut who = Who { username, password, ..Who::rest("device", client(1)) };
    let mut late = Who { at: client(2), ..who.clone() };
    world.allocated(&mut who);
    world.pass(Duration::from_secs(101));
    assert_eq!(world.refresh(&mut who, None), Ok(600));
    assert_eq!(world.allocate(&mut late, |_| {}), Err(401));
    let mut renewed = Who { nonce: who.nonce.clone(), ..Who::rest("device", client(1)) };
    assert_eq!(world.refresh(&mut renewed, None), Ok(600), "the id counts, not the name");
}

#[test]
fn the_brokers_clock_decides_what_is_expired() {
    let mut world = World::new(config());
    let (username, password) = rest::mint(SECRET, UNIX - 5000, "device");
    let mut who = Who { username, password, ..Who::rest("device", client(1)) };
    assert_eq!(world.allocate(&mut who, |_| {}), Err(401));
    world.server.set_clock(Duration::from_secs(UNIX - 6000), world.now);
    who.nonce = None;
    world.allocated(&mut who);
}

#[test]
fn two_secrets_are_good_while_rotating() {
    let mut world = World::new(config());
    let new_secret = b"the next secret".to_vec();
    let (username, password) = rest::mint(&new_secret, UNIX + 3600, "new");
    let mut old = Who::rest("old", client(1));
    let mut new = Who { username, password, ..Who::rest("new", client(2)) };
    assert_eq!(world.allocate(&mut new, |_| {}), Err(401));
    let both = Settings { secrets: vec![new_secret.clone(), SECRET.to_vec()], ..settings() };
    world.server.set_settings(both, world.now);
    world.allocated(&mut old);
    world.allocated(&mut new);
    let only_new = Settings { secrets: vec![new_secret], ..settings() };
    world.server.set_settings(only_new, world.now);
    assert_eq!(world.refresh(&mut old, None), Err(401));
    assert_eq!(world.refresh(&mut new, None), Ok(600));
}

#[test]
fn a_revoked_id_is_cut_off_at_once() {
    let mut world = World::new(config());
    let mut gone = Who::rest("gone", client(1));
    let mut stays = Who::rest("stays", client(2));
    world.allocated(&mut gone);
    world.allocated(&mut stays);
    assert_eq!(world.open.len(), 2);
    let revoked = Settings { revoked: vec!["gone".to_owned()], ..settings() };
    world.server.set_settings(revoked, world.now);
    world.drain();
    assert_eq!(world.open.len(), 1);
    assert_eq!(world.server.gauges().allocations, 1);
    assert_eq!(world.allocate(&mut gone, |_| {}), Err(401));
    assert_eq!(world.refresh(&mut stays, None), Ok(600));
}

#[test]
fn a_user_of_another_realm_is_known_there() {
    let mut config = config();
    config.settings.users[0].realm = Some("wonderland".to_owned());
    let mut world = World::new(config);
    assert_eq!(world.allocate(&mut Who::alice(client(1)), |_| {}), Err(401));
    let mut alice = Who { realm: "wonderland".to_owned(), ..Who::alice(client(1)) };
    world.allocated(&mut alice);
}

#[test]
fn a_minted_nonce_saves_the_first_round() {
    let mut world = World::new(config());
    let nonce = rest::nonce(SECRET, UNIX - 1000).into_bytes();
    let mut who = Who { nonce: Some(nonce), ..Who::rest("device", client(1)) };
    world.allocated_virtual(&mut who);
    assert_eq!(world.refresh(&mut who, None), Ok(600));
    let stale = rest::nonce(SECRET, UNIX - 9 * 24 * 3600).into_bytes();
    let mut late = Who { nonce: Some(stale), ..Who::rest("late", client(2)) };
    assert_eq!(world.allocate(&mut late, |_| {}), Err(438));
}

#[test]
fn unknown_attributes_that_must_be_understood_are_named() {
    let mut world = World::new(config());
    let mut who = Who::rest("device", client(1));
    let request = world.signed(&mut who, Method::ALLOCATE, |b| {
        b.requested_transport(UDP_TRANSPORT)
            .attribute(AttributeType(0x7001), &[])
            .attribute(AttributeType(0x8801), &[]);
    });
    let answer = world.ask(who.at, &request);
    let message = Message::parse(&answer).unwrap();
    assert_eq!(message.error_code(), Some(420));
    assert_eq!(message.unknown_attributes().collect::<Vec<_>>(), [AttributeType(0x7001)]);
}

#[test]
fn where_nobody_may_have_an_allocation_none_is_talked_about() {
    let mut world = World::new(Config { settings: Settings::default(), ..config() });
    let request = world.bare(Method::ALLOCATE, |b| {
        b.requested_transport(17);
    });
    let handled = world.send(client(1), &request);
    assert_eq!(handled, Handled::Dropped(Dropped::NoCredentials));
    assert!(world.out.is_empty());
    let binding = world.bare(Method::BINDING, |_| {});
    assert_eq!(world.send(client(1), &binding), Handled::Consumed);
    world.out.clear();
    world.server.set_settings(settings(), world.now);
    world.allocated(&mut Who::alice(client(1)));
}
