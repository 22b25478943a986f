//! Two interfaces on virtual time over a link that delays, loses, duplicates and reorders.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use common::{UNIX, epoch, millis, number, packet, seal, secs, source};
use warren_wg::{Event, Interface, PeerConfig, PeerIndex, Received};

/// A small generator (SplitMix64): one seed, one trace.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

#[derive(Clone, Copy)]
struct Link {
    delay: Duration,
    jitter: Duration,
    loss_percent: u64,
    duplicate_percent: u64,
    /// Each so many ms on average one side initiates for no reason, half the time both at once.
    meddle_ms: u64,
    retry: Duration,
}

/// An end of the link, with the queue that the mesh keeps in front of a session.
struct End {
    interface: Interface,
    peer: PeerIndex,
    waiting: VecDeque<Vec<u8>>,
    sent: u64,
    delivered: BTreeSet<u64>,
    last_delivery: Instant,
    longest_stall: Duration,
}

struct World {
    now: Instant,
    dice: Dice,
    link: Link,
    ends: [End; 2],
    /// Datagrams under way, by arrival and serial number: to which end, and what.
    under_way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    serial: u64,
    trace: u64,
}

impl World {
    fn new(seed: u64, link: Link) -> Self {
        let now = epoch();
        let mut interfaces = [[11; 32], [22; 32]].map(|private| {
            let mut random = [0; 32];
            random[..8].copy_from_slice(&seed.to_le_bytes());
            random[8] = private[0];
            let mut interface = Interface::new(private, random, now, UNIX);
            interface.set_handshake_retry(link.retry);
            interface
        });
        let keys = [interfaces[1].public_key(), interfaces[0].public_key()];
        let peers =
            [0, 1].map(|i: usize| interfaces[i].add_peer(keys[i], PeerConfig::default(), now));
        let mut peers = peers.into_iter();
        let ends = interfaces.map(|interface| End {
            interface,
            peer: peers.next().unwrap(),
            waiting: VecDeque::new(),
            sent: 0,
            delivered: BTreeSet::new(),
            last_delivery: now,
            longest_stall: Duration::ZERO,
        });
        let under_way = BTreeMap::new();
        Self { now, dice: Dice(seed), link, ends, under_way, serial: 0, trace: 0 }
    }

    fn carry(&mut self, to: usize, datagram: &[u8]) {
        if self.dice.below(100) < self.link.loss_percent {
            return;
        }
        let copies = if self.dice.below(100) < self.link.duplicate_percent { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = self.dice.below(self.link.jitter.as_micros() as u64 + 1);
            let at = self.now + self.link.delay + Duration::from_micros(jitter);
            self.serial += 1;
            self.under_way.insert((at, self.serial), (to, datagram.to_vec()));
        }
    }

    fn send(&mut self, from: usize) {
        let end = &mut self.ends[from];
        let content = packet(28 + self.dice.below(1300) as usize, end.sent);
        end.sent += 1;
        match seal(&mut end.interface, end.peer, &content, self.now) {
            Some(datagram) => self.carry(1 - from, &datagram),
            None => {
                end.waiting.push_back(content);
                end.interface.initiate(end.peer, self.now);
            }
        }
        self.drain(from);
    }

    fn drain(&mut self, i: usize) {
        while let Some(event) = self.ends[i].interface.poll_event() {
            match event {
                Event::Established { .. } => {
                    while let Some(content) = self.ends[i].waiting.pop_front() {
                        let end = &mut self.ends[i];
                        let sealed = seal(&mut end.interface, end.peer, &content, self.now);
                        self.carry(1 - i, &sealed.expect("established"));
                    }
                }
                Event::Expired { .. } | Event::HandshakeFailed { .. } => {}
            }
        }
        while let Some(transmit) = self.ends[i].interface.poll_transmit() {
            self.carry(1 - i, &transmit.contents);
        }
        if let Some((at, why)) = self.ends[i].interface.poll_timeout() {
            assert!(at > self.now, "{why} is due at once again");
        }
    }

    fn arrive(&mut self, to: usize, mut datagram: Vec<u8>) {
        let end = &mut self.ends[to];
        let received = end.interface.handle_datagram(source(to as u16), &mut datagram, self.now);
        if let Received::Data { range, .. } = received {
            let n = number(&datagram[range]);
            assert!(end.delivered.insert(n), "{n} was delivered twice");
            end.longest_stall = end.longest_stall.max(self.now - end.last_delivery);
            end.last_delivery = self.now;
            let mixed = n ^ (self.now - epoch()).as_nanos() as u64;
            self.trace = self.trace.rotate_left(7) ^ mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        // Timers first: at one instant a due timer runs before the drain is judged.
        self.ends[to].interface.handle_timeout(self.now);
        self.drain(to);
    }

    /// Runs for `time`, both ends sending about each `every`.
    fn run(&mut self, time: Duration, every: Duration) {
        let end = self.now + time;
        let mut next_send = self.now;
        let mut next_meddle = self.now + millis(self.link.meddle_ms);
        while self.now < end {
            let arrival = self.under_way.keys().next().map(|&(at, _)| at);
            let timers = [0, 1].map(|i| self.ends[i].interface.poll_timeout().map(|(at, _)| at));
            let all = [arrival, timers[0], timers[1], Some(next_send), Some(next_meddle)];
            self.now = all.into_iter().flatten().min().unwrap().max(self.now);
            for i in 0..2 {
                self.ends[i].interface.handle_timeout(self.now);
                self.drain(i);
            }
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (to, datagram)) = self.under_way.pop_first().unwrap();
                self.arrive(to, datagram);
            } else if next_send <= self.now {
                next_send =
                    self.now + every / 2 + every.mul_f64(self.dice.below(100) as f64 / 100.);
                let from = self.dice.below(2) as usize;
                self.send(from);
            } else if next_meddle <= self.now {
                next_meddle = self.now + millis(self.dice.below(2 * self.link.meddle_ms) + 1);
                let first = self.dice.below(2) as usize;
                let both = self.dice.below(2) == 0;
                for i in if both { vec![first, 1 - first] } else { vec![first] } {
                    let peer = self.ends[i].peer;
                    self.ends[i].interface.initiate_now(peer, self.now);
                    self.drain(i);
                }
            }
        }
    }

    /// Lets what is under way arrive.
    fn finish(&mut self) {
        while let Some(((at, _), (to, datagram))) = self.under_way.pop_first() {
            self.now = self.now.max(at);
            self.arrive(to, datagram);
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const NEVER_MS: u64 = 1 << 40;

#[test]
fn over_a_bad_link_two_peers_keep_talking_for_an_hour() {
    let link = Link {
        delay: millis(40),
        jitter: millis(60),
        loss_percent: 10,
        duplicate_percent: 5,
        meddle_ms: NEVER_MS,
        retry: millis(250),
    };
    for seed in 0..3 {
        let mut world = World::new(seed, link);
        world.run(HOUR, millis(100));
        world.finish();
        for end in 0..2 {
            let (sent, got) = (world.ends[end].sent, world.ends[1 - end].delivered.len() as u64);
            assert!(got * 100 >= sent * 87, "seed {seed}: {got} of {sent}");
            let stall = world.ends[1 - end].longest_stall;
            assert!(stall < secs(6), "seed {seed}: {stall:?}");
        }
    }
}

#[test]
fn with_long_pauses_over_a_bad_link_sessions_come_back() {
    let link = Link {
        delay: millis(40),
        jitter: millis(60),
        loss_percent: 20,
        duplicate_percent: 10,
        meddle_ms: NEVER_MS,
        retry: millis(250),
    };
    let mut world = World::new(7, link);
    world.run(10 * HOUR, secs(100));
    world.finish();
    for end in 0..2 {
        let (sent, got) = (world.ends[end].sent, world.ends[1 - end].delivered.len() as u64);
        assert!(got * 100 >= sent * 75, "{got} of {sent}");
    }
}

#[test]
fn over_a_clean_link_no_packet_is_lost_in_an_hour_of_glare() {
    for (seed, delay) in [(1, 5), (2, 40), (3, 150), (4, 600)] {
        let link = Link {
            delay: millis(delay),
            jitter: Duration::ZERO,
            loss_percent: 0,
            duplicate_percent: 0,
            meddle_ms: 4_000,
            retry: millis(250),
        };
        let mut world = World::new(seed, link);
        world.run(HOUR, millis(50));
        world.finish();
        for end in 0..2 {
            let (sent, got) = (world.ends[end].sent, world.ends[1 - end].delivered.len() as u64);
            assert_eq!(got, sent, "delay {delay} ms");
        }
        let handshakes = world.ends[0].interface.counters().initiations_received;
        assert!(handshakes > 100, "{handshakes}");
    }
}

#[test]
fn glare_over_a_bad_link_leaves_no_lasting_damage() {
    for seed in 10..13 {
        let link = Link {
            delay: millis(30),
            jitter: millis(50),
            loss_percent: 10,
            duplicate_percent: 5,
            meddle_ms: 2_000,
            retry: millis(250),
        };
        let mut world = World::new(seed, link);
        world.run(HOUR / 2, millis(100));
        world.finish();
        for end in 0..2 {
            let (sent, got) = (world.ends[end].sent, world.ends[1 - end].delivered.len() as u64);
            assert!(got * 100 >= sent * 85, "seed {seed}: {got} of {sent}");
            let stall = world.ends[1 - end].longest_stall;
            assert!(stall < secs(6), "seed {seed}: {stall:?}");
        }
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let link = Link {
        delay: millis(40),
        jitter: millis(60),
        loss_percent: 10,
        duplicate_percent: 5,
        meddle_ms: 5_000,
        retry: millis(250),
    };
    let trace = |seed| {
        let mut world = World::new(seed, link);
        world.run(secs(600), millis(100));
        world.finish();
        (world.trace, world.serial, world.ends.map(|end| end.interface.counters().clone()))
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5).0, trace(6).0);
}
