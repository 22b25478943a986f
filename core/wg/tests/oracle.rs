//! boringtun as the other side.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "these are tests")]

mod common;

use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use common::{UNIX, data_range, epoch, events, number, packet, seal, secs, source, transmits};
use warren_wg::{DropReason, Event, Interface, PeerConfig, PeerIndex, Received};

const OURS: [u8; 32] = [0x11; 32];
const THEIRS: [u8; 32] = [0x22; 32];

struct Oracle {
    us: Interface,
    peer: PeerIndex,
    tunn: Tunn,
    now: std::time::Instant,
}

/// What boringtun did with a datagram.
#[derive(Debug, PartialEq)]
enum Theirs {
    Nothing,
    Sent(Vec<u8>),
    Delivered(Vec<u8>),
    Refused(String),
}

impl Oracle {
    fn new(psk: Option<[u8; 32]>, limiter: Option<u64>) -> Self {
        let our_private = x25519::StaticSecret::from(OURS);
        let their_private = x25519::StaticSecret::from(THEIRS);
        let our_public = x25519::PublicKey::from(&our_private);
        let their_public = x25519::PublicKey::from(&their_private);
        let limiter = RateLimiter::new(&their_public, limiter.unwrap_or(u64::MAX));
        let limiter = Some(Arc::new(limiter));
        let tunn = Tunn::new(their_private, our_public, psk, None, 7, limiter);
        let now = epoch();
        let mut us = Interface::new(OURS, [3; 32], now, UNIX);
        assert_eq!(us.public_key(), our_public.to_bytes());
        let config = PeerConfig { preshared_key: psk, persistent_keepalive: None };
        let peer = us.add_peer(their_public.to_bytes(), config, now);
        Self { us, peer, tunn, now }
    }

    fn they_receive(&mut self, datagram: &[u8]) -> Theirs {
        let mut out = vec![0; 65_536];
        match self.tunn.decapsulate(Some(source(0).ip()), datagram, &mut out) {
            TunnResult::Done => Theirs::Nothing,
            TunnResult::Err(error) => Theirs::Refused(format!("{error:?}")),
            TunnResult::WriteToNetwork(datagram) => Theirs::Sent(datagram.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Theirs::Delivered(packet.to_vec())
            }
        }
    }

    fn they_seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 65_536];
        match self.tunn.encapsulate(packet, &mut out) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn they_initiate(&mut self) -> Vec<u8> {
        let mut out = vec![0; 2048];
        match self.tunn.format_handshake_initiation(&mut out, true) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn we_receive(&mut self, mut datagram: Vec<u8>) -> Received {
        self.us.handle_datagram(source(0), &mut datagram, self.now)
    }

    fn we_send_one(&mut self) -> Vec<u8> {
        let mut all = transmits(&mut self.us);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    fn handshake_of_ours(&mut self) {
        self.us.initiate(self.peer, self.now);
        let initiation = self.we_send_one();
        let Theirs::Sent(response) = self.they_receive(&initiation) else { panic!() };
        assert_eq!(self.we_receive(response), Received::Handshake { peer: self.peer });
        assert_eq!(events(&mut self.us), [Event::Established { peer: self.peer }]);
        let keepalive = self.we_send_one();
        assert_eq!(self.they_receive(&keepalive), Theirs::Nothing);
    }

    fn handshake_of_theirs(&mut self) {
        let initiation = self.they_initiate();
        assert_eq!(self.we_receive(initiation), Received::Handshake { peer: self.peer });
        let response = self.we_send_one();
        let Theirs::Sent(keepalive) = self.they_receive(&response) else { panic!() };
        assert_eq!(self.we_receive(keepalive), Received::Keepalive { peer: self.peer });
        assert_eq!(events(&mut self.us), [Event::Established { peer: self.peer }]);
    }

    /// Packets of many sizes, both ways.
    fn talk(&mut self) {
        for len in [28, 29, 63, 64, 65, 1280, 1419, 1420, 1500, 9000, 65_000] {
            let sent = packet(len, len as u64);
            let datagram = seal(&mut self.us, self.peer, &sent, self.now).expect("a session");
            assert_eq!(datagram.len(), 32 + len.next_multiple_of(16));
            assert_eq!(self.they_receive(&datagram), Theirs::Delivered(sent.clone()));
            assert!(matches!(self.they_receive(&datagram), Theirs::Refused(_)), "a replay");

            let mut datagram = self.they_seal(&sent);
            let mut replay = datagram.clone();
            let received = self.us.handle_datagram(source(0), &mut datagram, self.now);
            assert_eq!(datagram[data_range(received)], sent);
            let received = self.us.handle_datagram(source(0), &mut replay, self.now);
            assert_eq!(received, Received::Dropped(DropReason::Replay));
        }
    }
}

#[test]
fn we_initiate_and_both_talk() {
    for psk in [None, Some([9; 32])] {
        let mut oracle = Oracle::new(psk, None);
        oracle.handshake_of_ours();
        oracle.talk();
    }
}

#[test]
fn they_initiate_and_both_talk() {
    for psk in [None, Some([9; 32])] {
        let mut oracle = Oracle::new(psk, None);
        oracle.handshake_of_theirs();
        oracle.talk();
    }
}

#[test]
fn with_different_preshared_keys_there_is_no_session() {
    let mut oracle = Oracle::new(Some([9; 32]), None);
    let config = PeerConfig { preshared_key: Some([8; 32]), ..PeerConfig::default() };
    let key = oracle.us.key(oracle.peer).unwrap();
    assert_eq!(oracle.us.add_peer(key, config, oracle.now), oracle.peer);
    oracle.us.initiate(oracle.peer, oracle.now);
    let initiation = oracle.we_send_one();
    let Theirs::Sent(response) = oracle.they_receive(&initiation) else { panic!() };
    assert_eq!(oracle.we_receive(response), Received::Dropped(DropReason::HandshakeCrypto));

    oracle.now += secs(1);
    let initiation = oracle.they_initiate();
    assert_eq!(oracle.we_receive(initiation), Received::Handshake { peer: oracle.peer });
    let response = oracle.we_send_one();
    assert!(matches!(oracle.they_receive(&response), Theirs::Refused(_)));
}

#[test]
fn our_rekey_replaces_the_session_and_packets_under_way_arrive() {
    let mut oracle = Oracle::new(None, None);
    oracle.handshake_of_ours();
    oracle.talk();
    let early = oracle.they_seal(&packet(100, 1));

    oracle.now += secs(121);
    let sealed = seal(&mut oracle.us, oracle.peer, &packet(100, 2), oracle.now).unwrap();
    let initiation = oracle.we_send_one();
    let Theirs::Sent(response) = oracle.they_receive(&initiation) else { panic!() };
    assert_eq!(oracle.we_receive(response), Received::Handshake { peer: oracle.peer });
    let keepalive = oracle.we_send_one();
    assert_eq!(oracle.they_receive(&keepalive), Theirs::Nothing);

    assert_eq!(oracle.they_receive(&sealed), Theirs::Delivered(packet(100, 2)));
    assert!(matches!(oracle.we_receive(early), Received::Data { .. }));
    oracle.talk();
}

#[test]
fn their_rekey_replaces_the_session() {
    let mut oracle = Oracle::new(None, None);
    oracle.handshake_of_theirs();
    for _ in 0..20 {
        oracle.talk_a_little();
        oracle.now += secs(1);
        oracle.handshake_of_theirs();
    }
    oracle.talk();
}

impl Oracle {
    fn talk_a_little(&mut self) {
        let datagram = seal(&mut self.us, self.peer, &packet(40, 3), self.now).unwrap();
        assert_eq!(self.they_receive(&datagram), Theirs::Delivered(packet(40, 3)));
        let datagram = self.they_seal(&packet(40, 4));
        assert!(matches!(self.we_receive(datagram), Received::Data { .. }));
    }
}

#[test]
fn keepalives_go_both_ways() {
    let mut oracle = Oracle::new(None, None);
    oracle.handshake_of_ours();
    let empty = oracle.they_seal(&[]);
    assert_eq!(empty.len(), 32);
    assert_eq!(oracle.we_receive(empty), Received::Keepalive { peer: oracle.peer });

    let data = oracle.they_seal(&packet(100, 1));
    assert!(matches!(oracle.we_receive(data), Received::Data { .. }));
    let (at, why) = oracle.us.poll_timeout().unwrap();
    assert_eq!((at, why), (oracle.now + secs(10), "wg: keepalive"));
    oracle.now = at;
    oracle.us.handle_timeout(at);
    let keepalive = oracle.we_send_one();
    assert_eq!(keepalive.len(), 32);
    assert_eq!(oracle.they_receive(&keepalive), Theirs::Nothing);
}

#[test]
fn under_their_load_our_second_initiation_carries_their_cookie() {
    let mut oracle = Oracle::new(None, Some(0));
    oracle.us.initiate(oracle.peer, oracle.now);
    let initiation = oracle.we_send_one();
    let Theirs::Sent(cookie) = oracle.they_receive(&initiation) else { panic!() };
    assert_eq!(cookie.len(), 64);
    assert_eq!(oracle.we_receive(cookie.clone()), Received::Cookie { peer: oracle.peer });
    let again = oracle.we_receive(cookie);
    assert_eq!(again, Received::Dropped(DropReason::Cookie), "one reply per initiation counts");

    // The second one follows as soon as the gap between initiations allows.
    let (at, _) = oracle.us.poll_timeout().unwrap();
    assert!(at <= oracle.now + common::millis(50));
    oracle.now = at;
    oracle.us.handle_timeout(at);
    let initiation = oracle.we_send_one();
    let Theirs::Sent(response) = oracle.they_receive(&initiation) else { panic!() };
    assert_eq!(response.len(), 92);
    assert_eq!(oracle.we_receive(response), Received::Handshake { peer: oracle.peer });
    let keepalive = oracle.we_send_one();
    assert_eq!(oracle.they_receive(&keepalive), Theirs::Nothing);
    oracle.talk();
}

/// Floods the interface with initiations of a stranger, until it wants cookies.
fn flood(us: &mut Interface, now: std::time::Instant) {
    let mut stranger = Interface::new([77; 32], [78; 32], now, UNIX);
    let us_there = stranger.add_peer(us.public_key(), PeerConfig::default(), now);
    stranger.initiate(us_there, now);
    let initiation = stranger.poll_transmit().unwrap().contents;
    for n in 100..500 {
        let received = us.handle_datagram(source(n), &mut initiation.clone(), now);
        assert!(matches!(received, Received::Dropped(_)));
    }
    assert!(us.counters().dropped(DropReason::CookieRequired) > 0);
    assert!(us.counters().dropped(DropReason::UnknownPeer) > 0);
    transmits(us);
}

#[test]
fn under_our_load_they_get_a_cookie_and_come_back_with_it() {
    let mut oracle = Oracle::new(None, None);
    flood(&mut oracle.us, oracle.now);
    let initiation = oracle.they_initiate();
    let refused = oracle.we_receive(initiation.clone());
    assert_eq!(refused, Received::Dropped(DropReason::CookieRequired));
    let cookie = oracle.we_send_one();
    assert_eq!(cookie.len(), 64);
    assert_eq!(oracle.they_receive(&cookie), Theirs::Nothing);
    oracle.handshake_of_theirs();
    oracle.talk();
}

#[test]
fn a_cookie_is_bound_to_its_address() {
    let mut oracle = Oracle::new(None, None);
    flood(&mut oracle.us, oracle.now);
    let initiation = oracle.they_initiate();
    let _ = oracle.we_receive(initiation);
    let cookie = oracle.we_send_one();
    assert_eq!(oracle.they_receive(&cookie), Theirs::Nothing);
    let mut with_cookie = oracle.they_initiate();
    let elsewhere = oracle.us.handle_datagram(source(5), &mut with_cookie.clone(), oracle.now);
    assert_eq!(elsewhere, Received::Dropped(DropReason::CookieRequired));
    // Two minutes later the secret is another one.
    flood(&mut oracle.us, oracle.now + secs(121));
    oracle.now += secs(121);
    let late = oracle.us.handle_datagram(source(0), &mut with_cookie, oracle.now);
    assert_eq!(late, Received::Dropped(DropReason::CookieRequired));
}

#[test]
fn the_numbers_in_packets_survive() {
    assert_eq!(number(&packet(40, 12345)), 12345);
}
