//! What a client gains that proves its handshakes fresh, and what a replay doesn't.

use std::time::Duration;

use crate::world::{World, client, dropped, guid, to};
use warren_pair::{Drop, Event, Proof, Verdict};

#[test]
fn a_client_that_comes_back_from_another_address_has_its_seat_at_once() {
    let mut world = World::new();
    assert_eq!(world.fresh(1, 7, 1).0, Verdict::Waits);
    assert_eq!(world.fresh(2, 7, 2).0, to(1));
    world.pass_ms(10);
    assert_eq!(world.fresh(3, 7, 2).0, to(1));
    world.assert_paired(1, 3);
    assert_eq!(world.data(2), dropped(Drop::Unpaired));
    world.pass_ms(10);
    assert_eq!(world.fresh(4, 7, 1).0, to(3));
    world.assert_paired(4, 3);
    let rebound = Event::Rebound { guid: guid(7), from: client(1), to: client(4) };
    assert_eq!(world.events().pop(), Some(rebound));
    assert_eq!(world.relay.pairs(), 1);
}

#[test]
fn a_client_that_moves_while_it_waits_is_not_paired_with_itself() {
    let mut world = World::new();
    assert_eq!(world.fresh(1, 7, 1).0, Verdict::Waits);
    world.pass_ms(10);
    assert_eq!(world.fresh(2, 7, 1).0, Verdict::Waits);
    assert_eq!(world.hello(3, 7), to(2));
    world.assert_paired(2, 3);
}

#[test]
fn a_third_client_with_a_proof_of_its_own_never_joins() {
    let mut world = World::new();
    assert_eq!(world.fresh(1, 7, 1).0, Verdict::Waits);
    assert_eq!(world.hello(2, 7), to(1));
    assert_eq!(world.fresh(3, 7, 3).0, dropped(Drop::Full));
    world.assert_paired(1, 2);
}

#[test]
fn a_replayed_proof_moves_nothing_and_takes_no_seat() {
    let mut world = World::new();
    let (_, first) = world.fresh(1, 7, 1);
    assert_eq!(world.send(9, &first), dropped(Drop::Replayed));
    world.pass_ms(10);
    let (_, second) = world.fresh(2, 7, 2);
    for handshake in [&first, &second] {
        assert_eq!(world.send(9, handshake), dropped(Drop::Replayed));
    }
    world.assert_paired(1, 2);
    // From its own address it goes to the partner like any datagram.
    assert_eq!(world.send(1, &first), to(2));
}

#[test]
fn a_proof_is_remembered_longer_than_its_seat() {
    let mut world = World::new();
    let ahead = Proof { time: world.unix_us() + 25_000_000, nonce: [1; 16] };
    let handshake = world.authenticator.write(guid(7), &ahead.to_bytes());
    assert_eq!(world.send(1, &handshake), Verdict::Waits);
    world.pass_ms(33_000);
    assert_eq!(world.relay.waiting(), 0);
    assert_eq!(world.send(9, &handshake), dropped(Drop::Replayed));
    world.pass_ms(30_000);
    assert_eq!(world.relay.poll_timeout(), None);
    assert_eq!(world.send(9, &handshake), dropped(Drop::Stale));
}

#[test]
fn proofs_of_another_time_count_for_nothing() {
    let mut world = World::new();
    world.pass_ms(100_000);
    for (offset, verdict) in [
        (-31_000_000, dropped(Drop::Stale)),
        (31_000_000, dropped(Drop::Stale)),
        (29_000_000, Verdict::Waits),
    ] {
        let time = world.unix_us().checked_add_signed(offset).unwrap();
        let proof = Proof { time, nonce: [1; 16] };
        let handshake = world.authenticator.write(guid(7), &proof.to_bytes());
        assert_eq!(world.send(1, &handshake), verdict, "{offset} µs");
    }
}

#[test]
fn a_relay_that_has_just_started_takes_no_proof_from_before() {
    let mut world = World::new();
    let proof = Proof { time: world.unix_us() - 1, nonce: [1; 16] };
    let handshake = world.authenticator.write(guid(7), &proof.to_bytes());
    assert_eq!(world.send(1, &handshake), dropped(Drop::Stale));
}

#[test]
fn a_corrected_clock_is_what_counts() {
    let mut world = World::new();
    let hour = Duration::from_secs(3600);
    let proof = Proof { time: world.unix_us() + 3_600_000_000, nonce: [1; 16] };
    let handshake = world.authenticator.write(guid(7), &proof.to_bytes());
    assert_eq!(world.send(1, &handshake), dropped(Drop::Stale));
    world.relay.handle_clock(world.now, crate::world::UNIX + hour);
    assert_eq!(world.send(1, &handshake), Verdict::Waits);
}

#[test]
fn while_draining_a_client_may_still_come_back() {
    let mut world = World::new();
    assert_eq!(world.fresh(1, 7, 1).0, Verdict::Waits);
    assert_eq!(world.fresh(2, 7, 2).0, to(1));
    world.relay.handle_drain();
    world.pass_ms(10);
    assert_eq!(world.fresh(3, 7, 1).0, to(2));
    world.assert_paired(3, 2);
}

#[test]
fn who_proves_his_seat_may_be_silent() {
    let mut world = World::new();
    assert_eq!(world.hello(1, 7), Verdict::Waits);
    assert_eq!(world.fresh(2, 7, 2).0, to(1));
    world.pass_ms(20_000);
    for _ in 0..1000 {
        assert_eq!(world.send(1, &[1; 1000]), to(2));
    }
}
