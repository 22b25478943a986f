//! The relay against a model that says the same in the plainest way, on random histories.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::world::{World, client};
use proptest::prelude::*;
use warren_pair::Verdict;

#[derive(Debug, Clone)]
enum Step {
    Hello { from: u16, pair: u32 },
    Data { from: u16 },
    Pass { ms: u64 },
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_u16, 0..4_u32).prop_map(|(from, pair)| Step::Hello { from, pair }),
        8 => (0..6_u16).prop_map(|from| Step::Data { from }),
        3 => (0..20_000_u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Drain),
    ]
}

/// What the issue says, in maps that are searched from end to end.
#[derive(Default)]
struct Model {
    pairs: BTreeMap<u32, Pair>,
    talks_in: BTreeMap<u16, u32>,
    draining: bool,
}

struct Pair {
    seats: Vec<u16>,
    active: Instant,
}

impl Model {
    fn hello(&mut self, from: u16, pair: u32, now: Instant) -> Option<u16> {
        match self.pairs.get_mut(&pair) {
            None if !self.draining => {
                self.pairs.insert(pair, Pair { seats: vec![from], active: now });
            }
            Some(found) if found.seats.len() == 1 && found.seats[0] != from && !self.draining => {
                found.seats.push(from);
                found.active = now;
                for seat in &found.seats {
                    self.talks_in.insert(*seat, pair);
                }
            }
            Some(_) | None => {}
        }
        self.data(from, now)
    }

    fn data(&mut self, from: u16, now: Instant) -> Option<u16> {
        let pair = self.pairs.get_mut(self.talks_in.get(&from)?)?;
        pair.active = now;
        pair.seats.iter().copied().find(|seat| *seat != from)
    }

    fn sweep(&mut self, now: Instant) {
        self.pairs.retain(|_, pair| now - pair.active <= Duration::from_secs(30));
        let pairs = &self.pairs;
        self.talks_in.retain(|_, pair| pairs.contains_key(pair));
    }

    fn drain(&mut self) {
        self.draining = true;
        self.pairs.retain(|_, pair| pair.seats.len() == 2);
    }
}

fn target(verdict: Verdict) -> Option<u16> {
    match verdict {
        Verdict::Forward(to) => (0..6).find(|number| client(*number) == to),
        Verdict::Waits | Verdict::Dropped(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_datagram_goes_where_the_model_says(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Hello { from, pair } => {
                    let expected = model.hello(from, pair, world.now);
                    prop_assert_eq!(target(world.hello(from, pair)), expected);
                }
                Step::Data { from } => {
                    let expected = model.data(from, world.now);
                    prop_assert_eq!(target(world.data(from)), expected);
                }
                Step::Pass { ms } => {
                    let (interval, end) = (1800, world.now + Duration::from_millis(ms));
                    let mut sweep = world.start;
                    while sweep <= end {
                        if sweep > world.now {
                            model.sweep(sweep);
                        }
                        sweep += Duration::from_millis(interval);
                    }
                    world.pass_ms(ms);
                }
                Step::Drain => {
                    model.drain();
                    world.relay.handle_drain();
                }
            }
            let complete = model.pairs.values().filter(|pair| pair.seats.len() == 2).count();
            prop_assert_eq!(world.relay.pairs(), complete);
            prop_assert_eq!(world.relay.waiting(), model.pairs.len() - complete);
        }
    }

    #[test]
    fn any_bytes_from_strangers_are_dropped(
        datagram in prop::collection::vec(any::<u8>(), 0..200),
        genuine_beginning: bool,
    ) {
        let mut world = World::new();
        let mut datagram = datagram;
        if genuine_beginning {
            datagram.splice(..datagram.len().min(4), [4, 0xb2, 0x80, 0]);
        }
        prop_assert!(matches!(world.send(1, &datagram), Verdict::Dropped(_)));
        prop_assert_eq!(world.relay.waiting(), 0);
        prop_assert_eq!(world.relay.poll_timeout(), None);
    }

    #[test]
    fn parts_cover_a_run_without_gaps(
        run in prop::collection::vec(prop_oneof![Just(4_u8), Just(0xb2), Just(0x80), Just(0)], 0..400),
        stride in 1..80_usize,
    ) {
        let world = World::new();
        let (mut at, mut datagrams) = (0, 0);
        for part in world.authenticator.parts(&run, stride) {
            prop_assert_eq!(part.range.start, at);
            at = part.range.end;
            datagrams += part.datagrams;
        }
        prop_assert_eq!((at, datagrams), (run.len(), run.len().div_ceil(stride).max(1)));
    }
}
