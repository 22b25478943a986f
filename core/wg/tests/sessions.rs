//! Sessions and timers on virtual time, over a perfect link.

mod common;

use common::{
    Pair, UNIX, epoch, events, is_to_peer, millis, only_transmit, packet, seal, secs, source,
    transmits,
};
use warren_wg::{
    Destination, DropReason, Event, HEADROOM, Interface, PeerConfig, Received, TAG, TAILROOM,
};

#[test]
fn without_a_session_there_is_no_sealer_and_nothing_is_sent() {
    let mut pair = Pair::new(PeerConfig::default());
    assert!(pair.a.sealer(pair.b_at_a, pair.now).is_none());
    assert_eq!(pair.pass(secs(3600)), 0);
}

#[test]
fn the_responder_sends_only_after_it_has_heard_from_the_initiator() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.initiate(pair.b_at_a, pair.now);
    let mut initiation = only_transmit(&mut pair.a);
    assert!(is_to_peer(&initiation, pair.b_at_a));
    let received = pair.b.handle_datagram(source(1), &mut initiation.contents, pair.now);
    assert_eq!(received, Received::Handshake { peer: pair.a_at_b });
    assert!(pair.b.sealer(pair.a_at_b, pair.now).is_none());
    assert_eq!(events(&mut pair.b), []);
    pair.settle();
    assert_eq!(events(&mut pair.b), [Event::Established { peer: pair.a_at_b }]);
    assert_eq!(pair.b_to_a(&packet(99, 1)), packet(99, 1));
}

#[test]
fn an_idle_session_sends_nothing_and_dies_in_silence() {
    let mut pair = Pair::connected(PeerConfig::default());
    assert_eq!(pair.pass(secs(3600)), 0);
    assert_eq!(events(&mut pair.a), [Event::Expired { peer: pair.b_at_a }]);
    assert_eq!(events(&mut pair.b), [Event::Expired { peer: pair.a_at_b }]);
    assert!(!pair.a.stats(pair.b_at_a).unwrap().has_session);
    assert_eq!((pair.a.poll_timeout(), pair.b.poll_timeout()), (None, None));
}

#[test]
fn data_without_an_answer_is_answered_by_one_keepalive() {
    let mut pair = Pair::connected(PeerConfig::default());
    pair.a_to_b(&packet(100, 1));
    assert_eq!(pair.pass(millis(9_999)), 0);
    assert_eq!(pair.pass(millis(2)), 1);
    assert_eq!(pair.b.counters().keepalives_sent, 1);
    // A heard of B, so nothing more is due.
    assert_eq!(pair.pass(secs(60)), 0);
}

#[test]
fn data_that_is_answered_by_data_needs_no_keepalive() {
    let mut pair = Pair::connected(PeerConfig::default());
    for n in 0..20 {
        pair.a_to_b(&packet(100, n));
        pair.b_to_a(&packet(100, n));
        pair.now += secs(1);
    }
    assert_eq!(pair.pass(millis(8_000)), 0);
}

#[test]
fn silence_after_data_begins_a_handshake_after_15_seconds() {
    let mut pair = Pair::connected(PeerConfig::default());
    seal(&mut pair.a, pair.b_at_a, &packet(100, 1), pair.now).unwrap();
    assert_eq!(pair.pass(millis(15_000 - 1)), 0);
    assert_eq!(pair.pass(millis(400)), 3, "initiation, response, keepalive");
}

#[test]
fn only_the_initiator_renews_a_session_in_use_and_only_when_sending() {
    let mut pair = Pair::connected(PeerConfig::default());
    let index = pair.b_at_a;
    for second in 0..1000 {
        pair.a_to_b(&packet(100, second));
        pair.b_to_a(&packet(100, second));
        pair.pass(secs(1));
    }
    assert_eq!(pair.a.counters().initiations_sent, 1 + 8, "each 120 s and a bit");
    assert_eq!(pair.b.counters().initiations_sent, 0);
    let established =
        events(&mut pair.a).into_iter().filter(|e| *e == Event::Established { peer: index });
    assert_eq!(established.count(), 8);
}

#[test]
fn a_responder_that_alone_sends_keeps_the_session_alive() {
    let mut pair = Pair::connected(PeerConfig::default());
    for n in 0..200 {
        assert_eq!(pair.b_to_a(&packet(100, n)), packet(100, n));
        pair.pass(secs(5));
    }
    assert_eq!(pair.b.counters().initiations_sent, 0, "the initiator's keepalives renew it");
}

#[test]
fn packets_under_way_survive_a_rekey_on_both_sides() {
    let mut pair = Pair::connected(PeerConfig::default());
    pair.pass(secs(121));
    let mut from_b = seal(&mut pair.b, pair.a_at_b, &packet(100, 1), pair.now).unwrap();
    let mut from_a = seal(&mut pair.a, pair.b_at_a, &packet(100, 2), pair.now).unwrap();
    assert_eq!(pair.settle(), 3);
    let mut again = from_a.clone();
    for (receiver, datagram) in [(&mut pair.a, &mut from_b), (&mut pair.b, &mut from_a)] {
        let received = receiver.handle_datagram(source(3), datagram, pair.now);
        assert!(matches!(received, Received::Data { .. }));
    }
    let received = pair.b.handle_datagram(source(3), &mut again, pair.now);
    assert_eq!(received, Received::Dropped(DropReason::Replay));
}

#[test]
fn after_180_seconds_a_session_neither_seals_nor_opens() {
    let mut pair = Pair::connected(PeerConfig::default());
    let mut early = seal(&mut pair.a, pair.b_at_a, &packet(100, 2), pair.now).unwrap();
    // The timers haven't run: the sessions are still there, and refused all the same.
    pair.now += secs(180);
    assert!(pair.a.sealer(pair.b_at_a, pair.now).is_none());
    let received = pair.b.handle_datagram(source(1), &mut early, pair.now);
    assert_eq!(received, Received::Dropped(DropReason::SessionExpired));
    pair.a.handle_timeout(pair.now);
    pair.b.handle_timeout(pair.now);
    let received = pair.b.handle_datagram(source(1), &mut early, pair.now);
    assert_eq!(received, Received::Dropped(DropReason::UnknownIndex));
}

#[test]
fn an_unanswered_handshake_is_retried_for_90_seconds() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.initiate(pair.b_at_a, pair.now);
    let mut sent_at = Vec::new();
    let mut failed_at = None;
    while failed_at.is_none() {
        for _ in transmits(&mut pair.a) {
            sent_at.push(pair.now - epoch());
        }
        failed_at = events(&mut pair.a).first().map(|event| {
            assert_eq!(*event, Event::HandshakeFailed { peer: pair.b_at_a });
            pair.now - epoch()
        });
        if let Some((at, why)) = pair.a.poll_timeout() {
            assert_eq!(why, "wg: handshake retry");
            pair.now = at;
            pair.a.handle_timeout(at);
        }
    }
    assert!((17..=19).contains(&sent_at.len()), "{sent_at:?}");
    for gap in sent_at.windows(2).map(|two| two[1] - two[0]) {
        assert!((secs(5)..=millis(5_333)).contains(&gap), "{gap:?}");
    }
    assert!((secs(90)..secs(96)).contains(&failed_at.unwrap()));
    assert_eq!(pair.a.poll_timeout(), None);

    pair.a.initiate(pair.b_at_a, pair.now);
    assert_eq!(pair.settle(), 3);
}

#[test]
fn quick_retries_double_up_to_5_seconds() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.set_handshake_retry(millis(250));
    pair.a.initiate(pair.b_at_a, pair.now);
    let mut sent_at = Vec::new();
    while pair.now < epoch() + secs(20) {
        for _ in transmits(&mut pair.a) {
            sent_at.push(pair.now);
        }
        let (at, _) = pair.a.poll_timeout().unwrap();
        pair.now = at;
        pair.a.handle_timeout(at);
    }
    let gaps: Vec<_> = sent_at.windows(2).map(|two| (two[1] - two[0]).as_millis() as u64).collect();
    for (gap, least) in gaps.iter().zip([250, 500, 1000, 2000, 4000, 5000]) {
        assert!((least..=least + least / 8 + 1).contains(gap), "{gaps:?}");
    }
}

#[test]
fn initiate_does_nothing_while_one_is_under_way_and_initiate_now_supersedes_it() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.initiate(pair.b_at_a, pair.now);
    let mut first = only_transmit(&mut pair.a);
    for _ in 0..10 {
        pair.now += millis(100);
        pair.a.initiate(pair.b_at_a, pair.now);
    }
    assert_eq!(transmits(&mut pair.a).len(), 0);

    pair.a.initiate_now(pair.b_at_a, pair.now);
    let mut second = only_transmit(&mut pair.a);
    pair.a.initiate_now(pair.b_at_a, pair.now + millis(10));
    assert_eq!(transmits(&mut pair.a).len(), 0, "not within 50 ms");
    pair.now += millis(50);
    pair.a.handle_timeout(pair.now);
    let mut third = only_transmit(&mut pair.a);

    let mut responses = Vec::new();
    for initiation in [&mut first, &mut second, &mut third] {
        pair.now += millis(20);
        let received = pair.b.handle_datagram(source(1), &mut initiation.contents, pair.now);
        assert_eq!(received, Received::Handshake { peer: pair.a_at_b });
        responses.push(only_transmit(&mut pair.b).contents);
    }
    let results: Vec<_> = responses
        .iter_mut()
        .map(|response| pair.a.handle_datagram(source(2), response, pair.now))
        .collect();
    assert_eq!(results[0], Received::Dropped(DropReason::UnknownIndex));
    assert_eq!(results[1], Received::Dropped(DropReason::UnknownIndex));
    assert_eq!(results[2], Received::Handshake { peer: pair.b_at_a });
}

#[test]
fn a_handshake_given_up_leaves_no_timer() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.initiate(pair.b_at_a, pair.now);
    pair.a.cancel_initiation(pair.b_at_a);
    assert_eq!(pair.a.poll_timeout(), None);
    let mut response_to_nobody = {
        let mut initiation = only_transmit(&mut pair.a);
        let _ = pair.b.handle_datagram(source(1), &mut initiation.contents, pair.now);
        only_transmit(&mut pair.b)
    };
    let received = pair.a.handle_datagram(source(2), &mut response_to_nobody.contents, pair.now);
    assert_eq!(received, Received::Dropped(DropReason::UnknownIndex));
}

#[test]
fn a_replayed_or_older_initiation_is_refused() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.initiate(pair.b_at_a, pair.now);
    let older = only_transmit(&mut pair.a).contents;
    pair.now += secs(1);
    pair.a.initiate_now(pair.b_at_a, pair.now);
    let newer = only_transmit(&mut pair.a).contents;
    let mut receive = |datagram: &[u8], at: std::time::Instant| {
        pair.b.handle_datagram(source(1), &mut datagram.to_vec(), at)
    };
    let from_a = Received::Handshake { peer: pair.a_at_b };
    assert_eq!(receive(&newer, pair.now), from_a);
    let replay = Received::Dropped(DropReason::HandshakeReplay);
    assert_eq!(receive(&newer, pair.now + secs(1)), replay);
    assert_eq!(receive(&older, pair.now + secs(1)), replay);
}

#[test]
fn initiations_of_one_peer_are_accepted_once_in_20_ms() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.initiate(pair.b_at_a, pair.now);
    let mut first = only_transmit(&mut pair.a).contents;
    pair.a.initiate_now(pair.b_at_a, pair.now + secs(1));
    let mut second = only_transmit(&mut pair.a).contents;
    let _ = pair.b.handle_datagram(source(1), &mut first, pair.now);
    let received = pair.b.handle_datagram(source(1), &mut second.clone(), pair.now + millis(19));
    assert_eq!(received, Received::Dropped(DropReason::HandshakeFlood));
    let received = pair.b.handle_datagram(source(1), &mut second, pair.now + millis(20));
    assert_eq!(received, Received::Handshake { peer: pair.a_at_b });
}

#[test]
fn a_machine_that_lost_its_clock_handshakes_after_its_clock_was_raised() {
    let mut pair = Pair::connected(PeerConfig::default());
    pair.pass(secs(200));
    let persisted = pair.a.clock(pair.now);

    let mut reborn = Interface::new([11; 32], [99; 32], pair.now, secs(0));
    let b = reborn.add_peer(pair.b.public_key(), PeerConfig::default(), pair.now);
    reborn.initiate(b, pair.now);
    let mut early = only_transmit(&mut reborn).contents;
    let received = pair.b.handle_datagram(source(1), &mut early, pair.now);
    assert_eq!(received, Received::Dropped(DropReason::HandshakeReplay));

    reborn.raise_clock(pair.now, persisted + secs(1));
    assert!(reborn.clock(pair.now) > persisted);
    pair.now += secs(1);
    reborn.initiate_now(b, pair.now);
    let mut late = only_transmit(&mut reborn).contents;
    let received = pair.b.handle_datagram(source(1), &mut late, pair.now);
    assert_eq!(received, Received::Handshake { peer: pair.a_at_b });
}

#[test]
fn glare_ends_in_one_session_that_the_side_with_the_higher_key_initiated() {
    let mut pair = Pair::connected(PeerConfig::default());
    pair.pass(secs(10));
    // Both initiate at once; packets of the old session are under way.
    let mut old_from_a = seal(&mut pair.a, pair.b_at_a, &packet(50, 1), pair.now).unwrap();
    let mut old_from_b = seal(&mut pair.b, pair.a_at_b, &packet(50, 2), pair.now).unwrap();
    pair.a.initiate_now(pair.b_at_a, pair.now);
    pair.b.initiate_now(pair.a_at_b, pair.now);
    for _ in 0..4 {
        let from_a = transmits(&mut pair.a);
        let from_b = transmits(&mut pair.b);
        pair.now += millis(30);
        for mut datagram in from_a {
            let received = pair.b.handle_datagram(source(1), &mut datagram, pair.now);
            assert!(!matches!(received, Received::Dropped(_)), "{received:?}");
        }
        for mut datagram in from_b {
            let received = pair.a.handle_datagram(source(2), &mut datagram, pair.now);
            assert!(!matches!(received, Received::Dropped(_)), "{received:?}");
        }
    }
    let received = pair.b.handle_datagram(source(1), &mut old_from_a, pair.now);
    assert!(matches!(received, Received::Data { .. }), "{received:?}");
    let received = pair.a.handle_datagram(source(2), &mut old_from_b, pair.now);
    assert!(matches!(received, Received::Data { .. }), "{received:?}");

    // From here on only the winner renews the session, and nothing is lost.
    let a_wins = pair.a.public_key() > pair.b.public_key();
    let before = [pair.a.counters().initiations_sent, pair.b.counters().initiations_sent];
    for n in 0..500 {
        pair.a_to_b(&packet(100, n));
        pair.b_to_a(&packet(100, n));
        pair.pass(secs(1));
    }
    let after = [pair.a.counters().initiations_sent, pair.b.counters().initiations_sent];
    let renewed = [after[0] - before[0], after[1] - before[1]];
    assert_eq!(renewed, if a_wins { [4, 0] } else { [0, 4] });
}

#[test]
fn a_peer_that_restarted_gets_through_at_once() {
    let mut pair = Pair::connected(PeerConfig::default());
    pair.pass(secs(30));
    pair.b = Interface::new([22; 32], [123; 32], pair.now, UNIX + secs(60));
    pair.a_at_b = pair.b.add_peer(pair.a.public_key(), PeerConfig::default(), pair.now);
    pair.b.initiate(pair.a_at_b, pair.now);
    pair.settle();
    assert_eq!(pair.b_to_a(&packet(77, 1)), packet(77, 1));
    assert_eq!(pair.a_to_b(&packet(77, 2)), packet(77, 2));
}

#[test]
fn persistent_keepalives_connect_and_go_on() {
    let every = secs(25);
    let config = PeerConfig { persistent_keepalive: Some(every), ..PeerConfig::default() };
    let mut pair = Pair::new(PeerConfig::default());
    let b = pair.b.public_key();
    assert_eq!(pair.a.add_peer(b, config, pair.now), pair.b_at_a);
    pair.pass(secs(0));
    assert!(pair.a.stats(pair.b_at_a).unwrap().has_session);
    let sent = pair.pass(secs(100));
    assert_eq!(sent, 4);
    pair.pass(secs(3600));
    assert!(pair.a.stats(pair.b_at_a).unwrap().has_session);
    assert_eq!(pair.b.counters().initiations_sent, 0);

    pair.a.add_peer(b, PeerConfig::default(), pair.now);
    pair.pass(secs(30));
    assert_eq!(pair.pass(secs(600)), 0, "switched off");
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut pair = Pair::connected(PeerConfig::default());
    let key = pair.b.public_key();
    let mut late = seal(&mut pair.b, pair.a_at_b, &packet(100, 1), pair.now).unwrap();
    seal(&mut pair.a, pair.b_at_a, &packet(100, 1), pair.now).unwrap();
    pair.a.initiate_now(pair.b_at_a, pair.now + secs(1));
    pair.a.remove_peer(pair.b_at_a);
    assert_eq!(pair.a.poll_timeout(), None);
    assert_eq!(pair.a.poll_transmit(), None);
    assert_eq!(pair.a.peer_by_key(&key), None);
    assert_eq!(pair.a.stats(pair.b_at_a), None);
    let received = pair.a.handle_datagram(source(2), &mut late, pair.now);
    assert_eq!(received, Received::Dropped(DropReason::UnknownIndex));

    let again = pair.a.add_peer(key, PeerConfig::default(), pair.now);
    assert_ne!(again, pair.b_at_a);
    assert!(pair.a.sealer(pair.b_at_a, pair.now).is_none());
    assert_eq!(pair.a.peer_by_key(&key), Some(again));
    assert_eq!(pair.a.key(again), Some(key));
}

#[test]
fn a_peer_key_of_small_order_fails_without_a_packet() {
    let now = epoch();
    let mut a = Interface::new([1; 32], [2; 32], now, UNIX);
    let zero = a.add_peer([0; 32], PeerConfig::default(), now);
    a.initiate(zero, now);
    assert_eq!(a.poll_transmit(), None);
    assert_eq!(events(&mut a), [Event::HandshakeFailed { peer: zero }]);
    assert_eq!(a.poll_timeout(), None);
}

#[test]
fn slots_decide_about_padding() {
    let mut pair = Pair::connected(PeerConfig::default());
    let content = packet(1420, 5);
    let mut tight = vec![0; HEADROOM + 1420 + TAG];
    tight[HEADROOM..][..1420].copy_from_slice(&content);
    let mut roomy = vec![0; HEADROOM + 1420 + TAILROOM];
    roomy[HEADROOM..][..1420].copy_from_slice(&content);
    let mut sealer = pair.a.sealer(pair.b_at_a, pair.now).unwrap();
    assert_eq!(sealer.peer(), pair.b_at_a);
    assert_eq!(sealer.seal(&mut tight, 1420), HEADROOM + 1420 + TAG);
    assert_eq!(sealer.seal(&mut roomy, 1420), HEADROOM + 1424 + TAG);
    assert_eq!(sealer.seal(&mut [0; 40], 20), 0, "too small");
    assert_eq!(sealer.seal(&mut [0; 10], 0), 0, "far too small");
    roomy.truncate(HEADROOM + 1424 + TAG);
    for datagram in [&mut roomy, &mut tight] {
        let received = pair.b.handle_datagram(source(1), datagram, pair.now);
        let range = common::data_range(received);
        assert_eq!(range, HEADROOM..HEADROOM + 1420);
        assert_eq!(datagram[range], content);
    }
    assert_eq!(pair.a.stats(pair.b_at_a).unwrap().tx_packets, 2);
    assert_eq!(pair.b.stats(pair.a_at_b).unwrap().rx_packets, 2);
}

#[test]
fn a_sealer_that_sealed_nothing_arms_no_timer() {
    let mut pair = Pair::connected(PeerConfig::default());
    assert!(pair.a.sealer(pair.b_at_a, pair.now).is_some());
    assert_eq!(pair.pass(secs(100)), 0);
}

#[test]
fn a_sealer_ends_after_65536_packets_and_the_next_goes_on() {
    let mut pair = Pair::connected(PeerConfig::default());
    let mut sealer = pair.a.sealer(pair.b_at_a, pair.now).unwrap();
    let mut slot = [0x45; HEADROOM + 20 + TAILROOM];
    let sealed = (0..70_000).filter(|_| sealer.seal(&mut slot, 20) != 0).count();
    assert_eq!(sealed, 65_536);
    assert_eq!(pair.a_to_b(&packet(100, 1)), packet(100, 1));
}

#[test]
fn what_is_not_an_ip_packet_is_authenticated_and_dropped() {
    let mut pair = Pair::connected(PeerConfig::default());
    let mut lying = packet(60, 1);
    lying[2..4].copy_from_slice(&500u16.to_be_bytes());
    let mut too_short = packet(60, 1);
    too_short[2..4].copy_from_slice(&19u16.to_be_bytes());
    for content in [vec![0; 100], vec![0x45; 10], vec![0x60; 39], lying, too_short] {
        let mut datagram = seal(&mut pair.a, pair.b_at_a, &content, pair.now).unwrap();
        let received = pair.b.handle_datagram(source(1), &mut datagram, pair.now);
        assert_eq!(received, Received::Dropped(DropReason::NotIp));
    }
    assert_eq!(pair.b.counters().dropped(DropReason::NotIp), 5);
    assert_eq!(pair.b.counters().dropped_total(), 5);
}

#[test]
fn under_load_both_ends_connect_by_cookie_within_one_round_trip_more() {
    let mut pair = Pair::new(PeerConfig::default());
    let mut stranger = Interface::new([77; 32], [78; 32], pair.now, UNIX);
    let b = stranger.add_peer(pair.b.public_key(), PeerConfig::default(), pair.now);
    stranger.initiate(b, pair.now);
    let initiation = only_transmit(&mut stranger).contents;
    for n in 0..2000 {
        let _ = pair.b.handle_datagram(source(100 + n), &mut initiation.clone(), pair.now);
    }
    let replies: Vec<_> = std::iter::from_fn(|| pair.b.poll_transmit()).collect();
    assert!(!replies.is_empty());
    for reply in &replies {
        assert!(reply.contents.len() <= initiation.len());
        assert!(matches!(reply.to, Destination::Source(_)));
    }
    pair.a.initiate(pair.b_at_a, pair.now);
    assert_eq!(pair.settle(), 2, "initiation and cookie");
    assert_eq!(pair.pass(millis(50)), 3, "initiation, response, keepalive");
    assert_eq!(pair.a.counters().cookies_received, 1);
    assert_eq!(pair.a_to_b(&packet(40, 1)), packet(40, 1));
}

#[test]
fn stats_tell_what_went_on() {
    let mut pair = Pair::new(PeerConfig::default());
    pair.a.initiate(pair.b_at_a, pair.now);
    assert!(pair.a.stats(pair.b_at_a).unwrap().initiating);
    let mut initiation = only_transmit(&mut pair.a).contents;
    let _ = pair.b.handle_datagram(source(1), &mut initiation, pair.now + millis(20));
    let mut response = only_transmit(&mut pair.b).contents;
    let _ = pair.a.handle_datagram(source(2), &mut response, pair.now + millis(45));
    let stats = pair.a.stats(pair.b_at_a).unwrap();
    assert_eq!(stats.handshake_rtt, Some(millis(45)));
    assert_eq!(stats.last_handshake, Some(pair.now + millis(45)));
    assert_eq!((stats.tx_bytes, stats.rx_bytes), (148 + 32, 92));
    assert!(stats.has_session && !stats.initiating);
}
