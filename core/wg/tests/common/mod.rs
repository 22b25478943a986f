//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "these are tests")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use warren_wg::{
    Destination, Event, HEADROOM, Interface, PeerConfig, PeerIndex, Received, TAILROOM, Transmit,
};

/// 2026-11-21, in seconds since 1970.
pub const UNIX: Duration = Duration::from_secs(1_795_219_200);

/// The instant that virtual time is counted from.
pub fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made otherwise")]
    *EPOCH.get_or_init(Instant::now)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A source address that carries a number.
pub fn source(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(198, 18, high, low), 51820).into()
}

/// An IPv4 packet of `len` bytes (at least 28) that carries a number.
pub fn packet(len: usize, number: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31)).collect();
    bytes[..20]
        .copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 100, 80, 0, 1, 100, 80, 0, 2]);
    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    bytes[20..28].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The number in a packet of [`packet`].
pub fn number(packet: &[u8]) -> u64 {
    u64::from_be_bytes(packet[20..28].try_into().unwrap())
}

/// A slot with a packet in it.
pub fn slot(packet: &[u8]) -> Vec<u8> {
    let mut slot = vec![0xee; HEADROOM + packet.len() + TAILROOM];
    slot[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
    slot
}

/// Seals one packet, if there is a session.
pub fn seal(
    interface: &mut Interface,
    peer: PeerIndex,
    packet: &[u8],
    now: Instant,
) -> Option<Vec<u8>> {
    let mut slot = slot(packet);
    let len = interface.sealer(peer, now)?.seal(&mut slot, packet.len());
    assert_ne!(len, 0);
    slot.truncate(len);
    Some(slot)
}

/// Everything that is to be sent, without where to.
pub fn transmits(interface: &mut Interface) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| interface.poll_transmit()).map(|transmit| transmit.contents).collect()
}

/// The only datagram that is to be sent.
pub fn only_transmit(interface: &mut Interface) -> Transmit {
    let transmit = interface.poll_transmit().expect("something to send");
    assert_eq!(interface.poll_transmit(), None);
    transmit
}

pub fn events(interface: &mut Interface) -> Vec<Event> {
    std::iter::from_fn(|| interface.poll_event()).collect()
}

/// Two interfaces that are each other's peer.
pub struct Pair {
    pub a: Interface,
    pub b: Interface,
    /// B, as A knows it.
    pub b_at_a: PeerIndex,
    /// A, as B knows it.
    pub a_at_b: PeerIndex,
    pub now: Instant,
}

impl Pair {
    pub fn new(config: PeerConfig) -> Self {
        Self::seeded(config, 1)
    }

    pub fn seeded(config: PeerConfig, seed: u8) -> Self {
        let now = epoch();
        let mut a = Interface::new([11; 32], [seed; 32], now, UNIX);
        let mut b = Interface::new([22; 32], [seed.wrapping_add(1); 32], now, UNIX);
        let b_at_a = a.add_peer(b.public_key(), config, now);
        let a_at_b = b.add_peer(a.public_key(), config, now);
        Self { a, b, b_at_a, a_at_b, now }
    }

    /// Two that have shaken hands, A having initiated.
    pub fn connected(config: PeerConfig) -> Self {
        let mut pair = Self::new(config);
        pair.a.initiate(pair.b_at_a, pair.now);
        pair.settle();
        assert_eq!(events(&mut pair.a), [Event::Established { peer: pair.b_at_a }]);
        assert_eq!(events(&mut pair.b), [Event::Established { peer: pair.a_at_b }]);
        pair
    }

    /// Carries datagrams to and fro until nobody has one, and says how many.
    pub fn settle(&mut self) -> usize {
        let mut count = 0;
        loop {
            let before = count;
            while let Some(mut transmit) = self.a.poll_transmit() {
                count += 1;
                let _ = self.b.handle_datagram(source(1), &mut transmit.contents, self.now);
            }
            while let Some(mut transmit) = self.b.poll_transmit() {
                count += 1;
                let _ = self.a.handle_datagram(source(2), &mut transmit.contents, self.now);
            }
            if count == before {
                return count;
            }
        }
    }

    /// Lets time pass, timers run and datagrams arrive at once; says how many there were.
    pub fn pass(&mut self, time: Duration) -> usize {
        let end = self.now + time;
        let mut count = self.settle();
        loop {
            let due = [self.a.poll_timeout(), self.b.poll_timeout()];
            let due = due.into_iter().flatten().map(|(at, _)| at).min();
            let Some(at) = due.filter(|&at| at <= end) else { break };
            self.now = self.now.max(at);
            self.a.handle_timeout(self.now);
            self.b.handle_timeout(self.now);
            count += self.settle();
            for interface in [&self.a, &self.b] {
                if let Some((at, why)) = interface.poll_timeout() {
                    assert!(at > self.now, "{why} is due at once again");
                }
            }
        }
        self.now = end;
        count
    }

    pub fn a_to_b(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut datagram = seal(&mut self.a, self.b_at_a, packet, self.now).expect("a session");
        let received = self.b.handle_datagram(source(1), &mut datagram, self.now);
        datagram[data_range(received)].to_vec()
    }

    pub fn b_to_a(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut datagram = seal(&mut self.b, self.a_at_b, packet, self.now).expect("a session");
        let received = self.a.handle_datagram(source(2), &mut datagram, self.now);
        datagram[data_range(received)].to_vec()
    }
}

pub fn data_range(received: Received) -> Range<usize> {
    match received {
        Received::Data { range, .. } => range,
        other => panic!("no data but {other:?}"),
    }
}

pub fn is_to_peer(transmit: &Transmit, peer: PeerIndex) -> bool {
    transmit.to == Destination::Peer(peer)
}
