//! The pair relay: a script of what clients and strangers send, and of time that passes.

use std::net::SocketAddr;
use std::time::Duration;

use warren_pair::{Authenticator, ClientSocket, Config, Guid, Key, Proof, Relay, Verdict};

use crate::input::Input;
use crate::world::{address, epoch};

const UNIX: Duration = Duration::from_secs(1_800_000_000);

/// A script: each step sends a run (raw bytes, handshakes with and without proofs, data), passes
/// time, or drains.
pub fn fuzz_pair(data: &[u8]) {
    let mut input = Input::new(data);
    let start = epoch();
    let config = Config { max_pairs: 6, max_seats_per_source: 5, ..Config::default() };
    let keyed = Authenticator::new(Key::from_bytes(b"fuzz").ok());
    let authenticator = if input.u8() & 1 == 0 { keyed } else { Authenticator::new(None) };
    let mut world = World {
        relay: Relay::new(config, [3; 16], start, UNIX),
        authenticator,
        now: start,
        sent: 0,
    };
    while !input.is_empty() {
        world.step(&mut input, start);
        world.check();
    }
}

struct World {
    relay: Relay,
    authenticator: Authenticator,
    now: std::time::Instant,
    sent: u64,
}

impl World {
    fn step(&mut self, input: &mut Input<'_>, start: std::time::Instant) {
        let (what, from) = (input.u8(), address(input.u8()));
        match what % 6 {
            0 => {
                let stride = usize::from(input.u8()) + 1;
                let run = input.take(usize::from(what) * 8).to_vec();
                self.send(from, &run, stride);
            }
            1 | 2 => {
                let Some(guid) = Guid::from_words([0, 0, 0, u32::from(input.u8() % 5)]) else {
                    return;
                };
                let unix = UNIX + (self.now - start) + Duration::from_millis(u64::from(input.u8()));
                let time = u64::try_from(unix.as_micros()).unwrap_or(u64::MAX);
                let proof = Proof { time, nonce: [input.u8() % 4; 16] }.to_bytes();
                let extensions = if what % 6 == 1 { &[][..] } else { &proof };
                let mut datagram = self.authenticator.write(guid, extensions);
                let (at, change) = (usize::from(input.u8()), input.u8());
                if change & 0xc0 == 0xc0
                    && let Some(byte) = datagram.get_mut(at)
                {
                    *byte ^= change;
                }
                self.send(from, &datagram, datagram.len());
            }
            3 => self.send(from, &[what; 300], 100),
            4 => {
                self.now += Duration::from_millis(u64::from(input.u8()) * 100);
                self.relay.handle_timeout(self.now);
                if let Some((at, why)) = self.relay.poll_timeout() {
                    assert!(at > self.now, "{why} is due at once again");
                }
            }
            _ => {
                if input.u8() == 0xff {
                    self.relay.handle_drain();
                }
            }
        }
    }

    fn send(&mut self, from: SocketAddr, run: &[u8], stride: usize) {
        let mut at = 0;
        let authenticator = self.authenticator.clone();
        for part in authenticator.parts(run, stride) {
            assert_eq!(part.range.start, at, "a gap");
            at = part.range.end;
            self.sent += part.datagrams as u64;
            let from = ClientSocket::new(from);
            if let Verdict::Forward(to) = self.relay.handle_part(from, &part, self.now) {
                assert_ne!(to, from, "an echo");
            }
        }
        assert_eq!(at, run.len(), "an end is missing");
    }

    fn check(&mut self) {
        while self.relay.poll_event().is_some() {}
        let (pairs, waiting) = (self.relay.pairs(), self.relay.waiting());
        assert!(pairs + waiting <= 6, "{pairs} pairs, {waiting} waiting");
        assert!(!self.relay.is_draining() || waiting == 0, "waits while draining");
        let counters = self.relay.counters();
        let dropped: u64 = counters.drops().map(|(_, count)| count).sum();
        assert!(counters.forwarded + dropped <= self.sent, "more came out than went in");
        if pairs + waiting > 0 {
            assert!(self.relay.poll_timeout().is_some(), "nothing ends the pairs");
        }
    }
}

/// Scripts of what clients send; see [`World::step`]. A handshake is what, from, GUID,
/// milliseconds and nonce of its proof, and which byte to change by what.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let old = |from, guid| vec![1, from, guid, 0, 0, 0, 0];
    let fresh = |from, guid, ms, nonce| vec![2, from, guid, ms, nonce, 0, 0];
    let data = |from| vec![3, from];
    let pass = |tenths| vec![4, 0, tenths];
    let script = |open: u8, steps: &[Vec<u8>]| [vec![open], steps.concat()].concat();
    let join = [old(0, 1), old(1, 1)].concat();
    vec![
        ("join", script(0, &[join.clone(), data(0), data(1), old(4, 1), data(4)])),
        ("open", script(1, &[join.clone(), data(0)])),
        ("move", script(0, &[join.clone(), old(0, 2), data(0), old(2, 2), data(0)])),
        ("idle", script(0, &[join.clone(), pass(250), data(0), pass(250), pass(100)])),
        (
            "rebind",
            script(
                0,
                &[
                    fresh(0, 1, 1, 1),
                    fresh(1, 1, 2, 2),
                    fresh(2, 1, 9, 2),
                    data(2),
                    fresh(1, 1, 2, 2),
                ],
            ),
        ),
        ("drain", script(0, &[join, old(2, 2), vec![5, 0, 0xff], old(3, 2), data(1)])),
        ("raw", vec![0, 6, 0, 55, 4, 0xb2, 0x80, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("changed", vec![0, 1, 0, 1, 0, 0, 30, 0xff]),
    ]
}
