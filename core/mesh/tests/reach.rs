//! The broker's look at whether an endpoint is open to everybody.

mod common;

use common::*;
use warren_mesh::{Inbound, InboundDrop};
use warren_proto::{ReachCheck, ReachId};
use warren_turn::{Builder, Class, Integrity, Message, Method, Sha256Key, TransactionId};

const KEY: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQ";
const FROM: &str = "198.51.100.66:666";

fn check(key: &str) -> ReachCheck {
    ReachCheck { id: ReachId(0x00C0_FFEE), key: key.to_owned() }
}

fn ask(world: &mut World, key: &str) -> Inbound {
    let mut request = Vec::new();
    Builder::new(&mut request, Class::Request, Method::BINDING, TransactionId([3; 12]))
        .username(check(key).id.to_string().as_bytes())
        .integrity_sha256(&Sha256Key::new(key.as_bytes()))
        .fingerprint();
    let now = world.now;
    let inbound =
        world.nodes[1].mesh.handle_datagram(FROM.parse().expect("an address"), &mut request, now);
    world.drain(1);
    inbound
}

fn answers(world: &World) -> Vec<Vec<u8>> {
    let to = FROM.parse().expect("an address");
    world.log.iter().filter(|it| it.2 == to).map(|it| it.3.clone()).collect()
}

#[test]
fn who_the_broker_has_spoken_of_is_answered_for_a_while_and_learns_nothing_else() {
    let mut world = World::new(2);
    world.join(0, 1);
    world.log.clear();
    assert_eq!(ask(&mut world, KEY), Inbound::Dropped(InboundDrop::UnknownTag), "not yet");
    let now = world.now;
    world.nodes[1].mesh.expect_reach(&check(KEY), now);
    let _ = ask(&mut world, "another-key-of-a-stranger");
    assert!(answers(&world).is_empty(), "a guessed key");
    assert_eq!(ask(&mut world, KEY), Inbound::Consumed);
    let answer = answers(&world).pop().expect("an answer");
    let answer = Message::parse(&answer).unwrap();
    assert_eq!(answer.class(), Class::Success);
    assert_eq!(answer.xor_mapped_address(), Some(FROM.parse().expect("an address")));
    assert_eq!(answer.verify_sha256(&Sha256Key::new(KEY.as_bytes())), Integrity::Valid);
    for _ in 0..100 {
        let _ = ask(&mut world, KEY);
    }
    assert!(answers(&world).len() <= 16, "{}", answers(&world).len());
    world.run(secs(20));
    assert!(answers(&world).len() <= 16, "who asks is no peer: nobody probes back");
    assert_eq!(ask(&mut world, KEY), Inbound::Dropped(InboundDrop::UnknownTag), "too late");
}

#[test]
fn a_key_that_is_easily_guessed_is_not_believed() {
    let mut world = World::new(2);
    let now = world.now;
    world.nodes[1].mesh.expect_reach(&check("short"), now);
    assert_eq!(ask(&mut world, "short"), Inbound::Dropped(InboundDrop::UnknownTag));
}
