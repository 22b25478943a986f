//! Two WireGuard interfaces whose link the fuzzer is: it may repeat, damage, invent, delay.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use warren_wg::{HEADROOM, Interface, PeerConfig, PeerIndex, Received, TAILROOM};

use crate::input::Input;
use crate::world::{UNIX, address, epoch, number, packet, sign_mac1};

const MAX_STEPS: usize = 48;
const MAX_POOL: usize = 32;

struct End {
    interface: Interface,
    peer: PeerIndex,
    delivered: BTreeSet<u64>,
}

struct World {
    now: Instant,
    ends: [End; 2],
    /// Datagrams that were really sent, and by whom.
    pool: VecDeque<(usize, Vec<u8>)>,
    sealed: u64,
}

/// A script of what happens on the link between two peers. Whatever it is: nothing panics, no
/// packet is delivered that wasn't sent, none twice, and no timer spins.
pub fn fuzz_wg(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
}

impl World {
    /// Bit 0: they have shaken hands; bit 1: with a pre-shared key; bit 2 alone of bits 2 to 4 (it costs
    /// time): B is under load.
    fn new(options: u8) -> Self {
        let now = epoch();
        let mut a = Interface::new([1; 32], [3; 32], now, UNIX);
        let mut b = Interface::new([2; 32], [4; 32], now, UNIX);
        let preshared_key = (options & 2 != 0).then_some([5; 32]);
        let config = PeerConfig { preshared_key, persistent_keepalive: None };
        let b_at_a = a.add_peer(b.public_key(), config, now);
        let a_at_b = b.add_peer(a.public_key(), config, now);
        let ends = [(a, b_at_a), (b, a_at_b)].map(|(interface, peer)| End {
            interface,
            peer,
            delivered: BTreeSet::new(),
        });
        let mut world = Self { now, ends, pool: VecDeque::new(), sealed: 0 };
        if options & 1 != 0 {
            world.ends[0].interface.initiate(b_at_a, now);
            world.carry_all();
            world.now += Duration::from_secs(1);
        }
        if options & 0x1c == 4 {
            let mut stranger = vec![7; 148];
            stranger[..4].copy_from_slice(&[1, 0, 0, 0]);
            sign_mac1(&mut stranger, &world.ends[1].interface.public_key());
            for _ in 0..130 {
                world.deliver(1, 0, stranger.clone());
            }
        }
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let end = usize::from(what >> 7);
        match what & 0x0f {
            0 => {
                let len = input.u8();
                let from = input.u8();
                let datagram = input.take(len.into()).to_vec();
                self.deliver(end, from, datagram);
            }
            1 => self.invent(end, input),
            2 | 3 => self.damage(end, input),
            4 | 5 => self.seal(end, usize::from(input.u16() % 1500)),
            6 => {
                let end = &mut self.ends[end];
                end.interface.initiate(end.peer, self.now);
            }
            7 => {
                let end = &mut self.ends[end];
                end.interface.initiate_now(end.peer, self.now);
            }
            8 => self.pass(Duration::from_millis(input.u8().into())),
            9 => self.pass(Duration::from_secs(input.u8().into())),
            10 => self.carry_all(),
            11 => self.replace_peer(end),
            12 => {
                let unix = UNIX + Duration::from_secs(input.u16().into());
                self.ends[end].interface.raise_clock(self.now, unix);
            }
            13 => self.index_of_a_session(end, input),
            14 => {
                let end = &mut self.ends[end];
                end.interface.cancel_initiation(end.peer);
            }
            _ => {
                let retry = Duration::from_millis(u64::from(input.u8()) * 20);
                self.ends[end].interface.set_handshake_retry(retry);
            }
        }
        self.collect();
    }

    /// A message with the right type, length and MAC1, and the fuzzer's content.
    fn invent(&mut self, to: usize, input: &mut Input<'_>) {
        let (kind, len) = match input.u8() % 3 {
            0 => (1, 148),
            1 => (2, 92),
            _ => (3, 64),
        };
        let mut message = vec![kind, 0, 0, 0];
        message.extend_from_slice(input.take(len - 4));
        message.resize(len, 0);
        if kind != 3 {
            sign_mac1(&mut message, &self.ends[to].interface.public_key());
        }
        self.deliver(to, 0, message);
    }

    /// A datagram out of the pool: whole, damaged, cut or prolonged, to either end.
    fn damage(&mut self, to: usize, input: &mut Input<'_>) {
        let which = usize::from(input.u8());
        let how = input.u8();
        let (at, value) = (usize::from(input.u16()), input.u8());
        if self.pool.is_empty() {
            return;
        }
        let mut datagram = self.pool[which % self.pool.len()].1.clone();
        match how % 5 {
            0 | 1 => {}
            2 => {
                let at = at % datagram.len();
                datagram[at] ^= value;
            }
            3 => datagram.truncate(at % datagram.len()),
            _ => datagram.resize(datagram.len() + usize::from(value), value),
        }
        if how & 0x80 != 0 {
            sign_mac1(&mut datagram, &self.ends[to].interface.public_key());
        }
        self.deliver(to, how >> 3, datagram);
    }

    /// The start of a datagram out of the pool (its index and counter), and the fuzzer's content.
    fn index_of_a_session(&mut self, to: usize, input: &mut Input<'_>) {
        let Some((_, datagram)) = self.pool.back() else { return };
        let keep = usize::from(input.u8() % 17).min(datagram.len());
        let mut datagram = datagram[..keep].to_vec();
        let len = input.u8();
        datagram.extend_from_slice(input.take(len.into()));
        self.deliver(to, 0, datagram);
    }

    fn seal(&mut self, from: usize, len: usize) {
        self.sealed += 1;
        let content = packet(ip(from), ip(1 - from), len, self.sealed);
        let end = &mut self.ends[from];
        let Some(mut sealer) = end.interface.sealer(end.peer, self.now) else {
            end.interface.initiate(end.peer, self.now);
            return;
        };
        let mut slot = vec![0; HEADROOM + content.len() + TAILROOM];
        slot[HEADROOM..HEADROOM + content.len()].copy_from_slice(&content);
        let sealed_len = sealer.seal(&mut slot, content.len());
        assert!(sealed_len > content.len() + HEADROOM);
        slot.truncate(sealed_len);
        self.keep(from, slot);
    }

    fn deliver(&mut self, to: usize, from: u8, mut datagram: Vec<u8>) {
        let sealed = self.sealed;
        let end = &mut self.ends[to];
        match end.interface.handle_datagram(address(from), &mut datagram, self.now) {
            Received::Data { range, .. } => {
                let content = &datagram[range];
                let n = number(content);
                assert!((1..=sealed).contains(&n), "{n} was never sent");
                assert_eq!(content, packet(ip(1 - to), ip(to), content.len(), n), "forged");
                assert!(end.delivered.insert(n), "{n} was delivered twice");
            }
            Received::Keepalive { peer }
            | Received::Handshake { peer }
            | Received::Cookie { peer } => assert_eq!(peer, end.peer),
            Received::Dropped(_) => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for end in &mut self.ends {
            end.interface.handle_timeout(self.now);
            if let Some((at, why)) = end.interface.poll_timeout() {
                assert!(at > self.now, "{why} is due at once again");
            }
        }
    }

    /// Forgets the peer and adds it again.
    fn replace_peer(&mut self, of: usize) {
        let key = self.ends[1 - of].interface.public_key();
        let end = &mut self.ends[of];
        let before = end.peer;
        end.interface.remove_peer(before);
        end.peer = end.interface.add_peer(key, PeerConfig::default(), self.now);
        assert_ne!(end.peer, before);
        assert!(end.interface.sealer(before, self.now).is_none());
    }

    fn collect(&mut self) {
        for from in 0..2 {
            while let Some(transmit) = self.ends[from].interface.poll_transmit() {
                self.keep(from, transmit.contents);
            }
            while self.ends[from].interface.poll_event().is_some() {}
        }
    }

    fn carry_all(&mut self) {
        for _ in 0..4 {
            self.collect();
            for (from, datagram) in std::mem::take(&mut self.pool) {
                self.deliver(1 - from, 0, datagram);
            }
        }
        self.collect();
    }

    fn keep(&mut self, from: usize, datagram: Vec<u8>) {
        if self.pool.len() == MAX_POOL {
            self.pool.pop_front();
        }
        self.pool.push_back((from, datagram));
    }
}

fn ip(end: usize) -> Ipv4Addr {
    Ipv4Addr::new(100, 80, 0, end as u8)
}
