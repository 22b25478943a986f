//! Whatever comes from the network: no panic, nothing delivered twice, nothing delivered forged.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::collections::BTreeSet;

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use common::{Pair, number, packet, seal, secs, source, transmits};
use proptest::collection::vec;
use proptest::prelude::*;
use warren_wg::{DropReason, PeerConfig, Received};

/// Every kind of message that B would accept of A at this moment: initiation, response, data,
/// keepalive.
fn genuine(pair: &mut Pair) -> Vec<Vec<u8>> {
    pair.pass(secs(1));
    let data = seal(&mut pair.a, pair.b_at_a, &packet(200, 1), pair.now).unwrap();
    let keepalive = seal(&mut pair.a, pair.b_at_a, &[], pair.now).unwrap();
    pair.b.initiate_now(pair.a_at_b, pair.now);
    let mut to_a = transmits(&mut pair.b);
    let _ = pair.a.handle_datagram(source(2), &mut to_a[0], pair.now);
    let response = transmits(&mut pair.a).remove(0);
    pair.now += secs(1);
    pair.a.initiate_now(pair.b_at_a, pair.now);
    let initiation = transmits(&mut pair.a).remove(0);
    vec![initiation, response, data, keepalive]
}

#[test]
fn a_single_flipped_bit_anywhere_is_noticed() {
    let mut pair = Pair::connected(PeerConfig::default());
    for original in genuine(&mut pair) {
        for bit in 0..original.len() * 8 {
            // MAC2 is only looked at under load.
            let is_handshake = original[0] <= 2;
            if is_handshake && bit / 8 >= original.len() - 16 {
                continue;
            }
            let mut damaged = original.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let received = pair.b.handle_datagram(source(1), &mut damaged, pair.now);
            assert!(matches!(received, Received::Dropped(_)), "bit {bit}: {received:?}");
        }
        let received = pair.b.handle_datagram(source(1), &mut original.clone(), pair.now);
        assert!(!matches!(received, Received::Dropped(_)), "{received:?}");
        let received = pair.b.handle_datagram(source(1), &mut original.clone(), pair.now);
        assert!(matches!(received, Received::Dropped(_)), "again: {received:?}");
    }
}

#[test]
fn a_truncated_or_prolonged_message_is_dropped() {
    let mut pair = Pair::connected(PeerConfig::default());
    for original in genuine(&mut pair) {
        for len in 0..original.len() {
            let received =
                pair.b.handle_datagram(source(1), &mut original[..len].to_vec(), pair.now);
            assert!(matches!(received, Received::Dropped(_)), "{len}: {received:?}");
        }
        let mut longer = original.clone();
        longer.push(0);
        let received = pair.b.handle_datagram(source(1), &mut longer, pair.now);
        assert!(matches!(received, Received::Dropped(_)), "{received:?}");
    }
}

#[test]
fn a_message_is_of_no_use_to_its_sender() {
    let mut pair = Pair::connected(PeerConfig::default());
    for mut reflected in genuine(&mut pair) {
        let received = pair.a.handle_datagram(source(1), &mut reflected, pair.now);
        assert!(matches!(received, Received::Dropped(_)), "{received:?}");
    }
}

/// Makes a handshake message's MAC1 right, as anyone can who knows the receiver's public key.
fn sign_mac1(message: &mut [u8], receiver: &[u8; 32]) {
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver).finalize();
    let at = message.len() - 32;
    let mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).unwrap();
    let mac = mac.chain_update(&message[..at]).finalize();
    message[at..at + 16].copy_from_slice(&mac.into_bytes());
}

#[test]
fn forged_responses_do_not_end_the_handshake_and_are_soon_not_looked_at() {
    for (forgeries, outcome) in [(63, true), (64, false)] {
        let mut pair = Pair::new(PeerConfig::default());
        pair.a.initiate(pair.b_at_a, pair.now);
        let mut initiation = transmits(&mut pair.a).remove(0);
        let _ = pair.b.handle_datagram(source(1), &mut initiation, pair.now);
        let mut response = transmits(&mut pair.b).remove(0);
        let mut forged = response.clone();
        forged[20] ^= 1;
        sign_mac1(&mut forged, &pair.a.public_key());
        for _ in 0..forgeries {
            let received = pair.a.handle_datagram(source(2), &mut forged.clone(), pair.now);
            assert_eq!(received, Received::Dropped(DropReason::HandshakeCrypto));
        }
        let received = pair.a.handle_datagram(source(2), &mut response, pair.now);
        assert_eq!(received == Received::Handshake { peer: pair.b_at_a }, outcome);
        // In any case the handshake comes to its end.
        pair.pass(secs(6));
        assert_eq!(pair.a_to_b(&packet(60, 1)), packet(60, 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_dropped(
        kind in 0u8..6,
        mut content in vec(any::<u8>(), 0..300),
    ) {
        let mut pair = Pair::connected(PeerConfig::default());
        if content.len() >= 4 {
            content[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        match kind {
            1 => content.resize(148, 7),
            2 => content.resize(92, 7),
            _ => {}
        }
        if content.len() >= 32 {
            sign_mac1(&mut content, &pair.b.public_key());
        }
        let received = pair.b.handle_datagram(source(9), &mut content, pair.now);
        prop_assert!(matches!(received, Received::Dropped(_)));
        prop_assert!(transmits(&mut pair.b).is_empty());
        prop_assert_eq!(pair.a_to_b(&packet(60, 1)), packet(60, 1));
    }

    #[test]
    fn in_any_order_and_any_number_each_packet_is_delivered_once(
        order in vec(0usize..300, 1..900),
        rekey_at in 0usize..300,
    ) {
        let mut pair = Pair::connected(PeerConfig::default());
        let sealed: Vec<_> = (0..300).map(|n| {
            if n == rekey_at {
                pair.now += secs(1);
                pair.a.initiate_now(pair.b_at_a, pair.now);
                pair.settle();
            }
            seal(&mut pair.a, pair.b_at_a, &packet(100, n as u64), pair.now).unwrap()
        }).collect();
        let mut delivered = BTreeSet::new();
        for n in order {
            let mut datagram = sealed[n].clone();
            match pair.b.handle_datagram(source(1), &mut datagram, pair.now) {
                Received::Data { range, .. } => {
                    prop_assert_eq!(number(&datagram[range]), n as u64);
                    prop_assert!(delivered.insert(n));
                }
                Received::Dropped(reason) => {
                    prop_assert_eq!(reason, DropReason::Replay);
                    prop_assert!(delivered.contains(&n));
                }
                other @ (Received::Keepalive { .. }
                | Received::Handshake { .. }
                | Received::Cookie { .. }) => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn a_damaged_genuine_message_is_dropped_and_the_session_lives(
        which in 0usize..4,
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0usize..40,
    ) {
        let mut pair = Pair::connected(PeerConfig::default());
        let original = genuine(&mut pair).remove(which);
        let mut damaged = original.clone();
        for (at, value) in edits {
            let at = at.index(damaged.len());
            damaged[at] = value;
        }
        damaged.truncate(damaged.len() - cut.min(damaged.len()));
        let only_mac2_differs = damaged.len() == original.len()
            && original[0] <= 2
            && damaged[..damaged.len() - 16] == original[..damaged.len() - 16];
        let received = pair.b.handle_datagram(source(1), &mut damaged.clone(), pair.now);
        if damaged != original && !only_mac2_differs {
            prop_assert!(matches!(received, Received::Dropped(_)));
        }
        prop_assert_eq!(pair.a_to_b(&packet(60, 1)), packet(60, 1));
    }
}
