//! Follows devices that are bound to their card's address (MAC) when their IP address changes.
//!
//! Whoever speaks ARP says which address his card has. A card that is heard at another address than
//! the known one may have moved, or have both: the known address is asked for once more, and only
//! when its card stays silent there for [`SETTLE`] has it moved. It moves within the network in which
//! it was chosen and is heard, and nowhere else: a stranger on the LAN can speak in a card's name, but
//! lead nobody out of the LAN by it. A card that speaks from several other addresses answers for
//! others (a repeater, a bridge), and stays. A card that says nothing is asked
//! for each [`REASSURE`]; when it doesn't answer, its whole network is asked, at most each
//! [`SWEEP`].
//!
//! Pure: no clock, no socket. The five names are those of `docs/sans-io.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use warren_proto::{LanTarget, MacAddr};

/// How long a card may take to answer at the known address, when it was heard at another.
pub const SETTLE: Duration = Duration::from_millis(600);
/// How often a silent card is asked for.
pub const REASSURE: Duration = Duration::from_secs(20);
/// How often the whole network is asked for a card that is lost.
pub const SWEEP: Duration = Duration::from_secs(60);
/// How long a card that has answered at its known address may speak from others unquestioned.
const BOTH: Duration = Duration::from_secs(60);

/// How long an address counts from which a card has spoken beside its own.
const REMEMBER: Duration = Duration::from_secs(600);
/// The most of them that are kept.
const MAX_OTHERS: usize = 4;

/// A card, and the address at which it was chosen: one card may have several.
type Key = (MacAddr, Ipv4Addr);

/// Where a bound device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this address, as far as is known.
    At(Ipv4Addr),
    /// Its address has another card now, and it hasn't been heard elsewhere.
    Taken {
        /// The address.
        ip: Ipv4Addr,
        /// Who has it.
        by: MacAddr,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Ask by ARP who has this address.
    Ask(Ipv4Addr),
    /// Ask the whole network in which this address is.
    Sweep(Ipv4Addr),
    /// Some device is elsewhere: look at [`Follower::place`] anew.
    Moved,
}

/// The devices that are followed.
#[derive(Debug, Default)]
pub struct Follower {
    bound: BTreeMap<Key, Bound>,
    timers: BTreeSet<(Instant, Key)>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Bound {
    current: Ipv4Addr,
    heard: Option<Instant>,
    /// Another address at which it was heard.
    candidate: Option<Ipv4Addr>,
    /// From where else it has spoken, and when.
    others: BTreeMap<Ipv4Addr, Instant>,
    /// Until when other addresses don't count.
    both_until: Option<Instant>,
    taken: Option<MacAddr>,
    asked: bool,
    swept: Option<Instant>,
    due: Instant,
}

impl Follower {
    /// Follows these targets, as far as they are bound to a card, and no others.
    pub fn watch<'a>(&mut self, targets: impl Iterator<Item = &'a LanTarget>, now: Instant) {
        let wanted: BTreeSet<Key> =
            targets.filter_map(|target| Some((target.mac?, target.ip))).collect();
        self.bound.retain(|key, _| wanted.contains(key));
        for key in wanted {
            self.bound.entry(key).or_insert_with(|| Bound {
                current: key.1,
                heard: None,
                candidate: None,
                others: BTreeMap::new(),
                both_until: None,
                taken: None,
                asked: false,
                swept: None,
                due: now,
            });
        }
        self.timers = self.bound.iter().map(|(key, bound)| (bound.due, *key)).collect();
    }

    /// Where a target is.
    pub fn place(&self, target: &LanTarget) -> Place {
        let bound = target.mac.and_then(|mac| self.bound.get(&(mac, target.ip)));
        let Some(bound) = bound else {
            return Place::At(target.ip);
        };
        match bound.taken {
            Some(by) => Place::Taken { ip: bound.current, by },
            None => Place::At(bound.current),
        }
    }

    /// Takes what a card said of itself in `network`, of which `ip` is an address.
    pub fn handle_heard(&mut self, mac: MacAddr, ip: Ipv4Addr, network: Ipv4Net, now: Instant) {
        self.note_taken(mac, ip, network);
        let keys: Vec<Key> = self.bound.range(keys_of(mac)).map(|(key, _)| *key).collect();
        let is_anothers = keys.iter().any(|key| {
            let current = self.bound.get(key).map(|bound| bound.current);
            key.1 == ip || current == Some(ip)
        });
        for key in keys.into_iter().filter(|(_, chosen)| network.contains(chosen)) {
            self.note_heard(key, ip, is_anothers, now);
        }
    }

    /// Notes where a card is; one that is there for another target too hasn't moved there.
    fn note_heard(&mut self, key: Key, ip: Ipv4Addr, is_anothers: bool, now: Instant) {
        let Some(bound) = self.bound.get_mut(&key) else { return };
        if ip == bound.current {
            (bound.heard, bound.asked) = (Some(now), false);
            if bound.candidate.take().is_some() {
                bound.both_until = Some(now + BOTH);
            }
            if bound.taken.take().is_some() {
                self.events.push_back(Event::Moved);
            }
            self.schedule(key, now + REASSURE - spread(key.0));
            return;
        }
        // Back where it was chosen it is welcome; what else somebody has chosen is another's.
        if is_anothers && ip != key.1 {
            return;
        }
        (bound.heard, bound.asked) = (Some(now), false);
        bound.others.retain(|_, at| now.saturating_duration_since(*at) < REMEMBER);
        if bound.others.len() < MAX_OTHERS {
            bound.others.insert(ip, now);
        }
        if bound.candidate.is_none() && bound.both_until.is_none_or(|until| until <= now) {
            bound.candidate = Some(ip);
            self.events.push_back(Event::Ask(bound.current));
            self.schedule(key, now + SETTLE);
        }
    }

    /// Notes that another card than the bound one speaks from a bound address.
    fn note_taken(&mut self, mac: MacAddr, ip: Ipv4Addr, network: Ipv4Net) {
        let others = self.bound.iter_mut().filter(|((other, chosen), bound)| {
            *other != mac && bound.current == ip && network.contains(chosen)
        });
        for (_, bound) in others {
            if bound.taken.is_none() && bound.candidate.is_none() {
                bound.taken = Some(mac);
                self.events.push_back(Event::Moved);
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, key)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, key));
            let Some(bound) = self.bound.get_mut(&key).filter(|bound| bound.due == due) else {
                continue;
            };
            let next = if let Some(candidate) = bound.candidate.take() {
                if bound.others.len() > 1 {
                    bound.both_until = Some(now + BOTH);
                } else {
                    bound.current = candidate;
                    bound.taken = None;
                    bound.others.clear();
                    self.events.push_back(Event::Moved);
                }
                REASSURE - spread(key.0)
            } else if bound.asked && bound.swept.is_none_or(|at| now >= at + SWEEP) {
                bound.swept = Some(now);
                self.events.push_back(Event::Sweep(bound.current));
                REASSURE - spread(key.0)
            } else {
                // The first question comes soon after the start, to learn what the table doesn't say.
                bound.asked = true;
                self.events.push_back(Event::Ask(bound.current));
                if bound.swept.is_none() { SETTLE * 2 } else { REASSURE - spread(key.0) }
            };
            self.schedule(key, now + next);
        }
    }

    /// When [`Self::handle_timeout`] is to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.first().map(|(due, _)| (*due, "a followed device"))
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn schedule(&mut self, key: Key, due: Instant) {
        if let Some(bound) = self.bound.get_mut(&key) {
            self.timers.remove(&(bound.due, key));
            bound.due = due;
            self.timers.insert((due, key));
        }
    }
}

fn keys_of(mac: MacAddr) -> std::ops::RangeInclusive<Key> {
    (mac, Ipv4Addr::UNSPECIFIED)..=(mac, Ipv4Addr::BROADCAST)
}

/// Cards aren't all asked for in the same moment: up to four seconds apart, by their last byte.
fn spread(mac: MacAddr) -> Duration {
    Duration::from_millis(u64::from(mac.0[5]) * 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: MacAddr = MacAddr([0x3c, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([0x3c, 0, 0, 0, 0, 2]);
    const OLD: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);
    const NEW: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 77);
    const TARGET: LanTarget = LanTarget { ip: OLD, mac: Some(CAMERA) };

    fn events(follower: &mut Follower) -> Vec<Event> {
        std::iter::from_fn(|| follower.poll_event()).collect()
    }

    fn heard(follower: &mut Follower, mac: MacAddr, ip: Ipv4Addr, now: Instant) {
        follower.handle_heard(mac, ip, Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 1, 0), 24), now);
    }

    fn followed() -> (Follower, Instant) {
        let (mut follower, now) = (Follower::default(), Instant::now());
        follower.watch([TARGET].iter(), now);
        heard(&mut follower, CAMERA, OLD, now);
        assert_eq!(events(&mut follower), []);
        (follower, now)
    }

    #[test]
    fn a_card_that_is_silent_at_its_old_address_has_moved() {
        let (mut follower, now) = followed();
        heard(&mut follower, CAMERA, NEW, now);
        assert_eq!(events(&mut follower), [Event::Ask(OLD)]);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
        follower.handle_timeout(now + SETTLE);
        assert_eq!(events(&mut follower), [Event::Moved]);
        assert_eq!(follower.place(&TARGET), Place::At(NEW));
    }

    #[test]
    fn a_card_with_two_addresses_stays_where_it_was_chosen() {
        let (mut follower, now) = followed();
        heard(&mut follower, CAMERA, NEW, now);
        heard(&mut follower, CAMERA, OLD, now + SETTLE / 2);
        assert_eq!(events(&mut follower), [Event::Ask(OLD)]);
        heard(&mut follower, CAMERA, NEW, now + SETTLE);
        follower.handle_timeout(now + SETTLE * 3);
        assert_eq!(events(&mut follower), []);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
    }

    #[test]
    fn an_address_that_another_card_has_leads_to_nobody_until_the_right_one_is_heard() {
        let (mut follower, now) = followed();
        heard(&mut follower, OTHER, OLD, now);
        assert_eq!(events(&mut follower), [Event::Moved]);
        assert_eq!(follower.place(&TARGET), Place::Taken { ip: OLD, by: OTHER });
        heard(&mut follower, CAMERA, NEW, now);
        follower.handle_timeout(now + SETTLE / 2);
        assert_eq!(events(&mut follower), [Event::Ask(OLD)], "its answer is awaited");
        follower.handle_timeout(now + SETTLE);
        assert_eq!(events(&mut follower), [Event::Moved]);
        assert_eq!(follower.place(&TARGET), Place::At(NEW));
    }

    #[test]
    fn a_card_moves_within_its_network_alone() {
        let (mut follower, now) = followed();
        let elsewhere = Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 0), 16);
        let container = Ipv4Addr::new(172, 17, 0, 2);
        follower.handle_heard(CAMERA, container, elsewhere, now);
        follower.handle_heard(OTHER, OLD, elsewhere, now);
        follower.handle_timeout(now + SETTLE);
        assert_eq!(events(&mut follower), []);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
    }

    #[test]
    fn targets_behind_one_card_stay_apart() {
        let second = LanTarget { ip: NEW, ..TARGET };
        let (mut follower, now) = (Follower::default(), Instant::now());
        follower.watch([TARGET, second].iter(), now);
        heard(&mut follower, CAMERA, OLD, now);
        heard(&mut follower, CAMERA, NEW, now);
        follower.handle_timeout(now + SETTLE * 2);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
        assert_eq!(follower.place(&second), Place::At(NEW));
        assert!(!events(&mut follower).contains(&Event::Moved));
    }

    #[test]
    fn a_card_that_answers_for_many_has_not_moved() {
        let (mut follower, now) = followed();
        heard(&mut follower, CAMERA, NEW, now);
        heard(&mut follower, CAMERA, Ipv4Addr::new(192, 168, 1, 78), now);
        follower.handle_timeout(now + SETTLE);
        assert_eq!(events(&mut follower), [Event::Ask(OLD)]);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
    }

    #[test]
    fn a_silent_card_is_asked_for_and_then_looked_for() {
        let (mut follower, now) = followed();
        follower.handle_timeout(now + REASSURE);
        assert_eq!(events(&mut follower), [Event::Ask(OLD)]);
        let (due, _) = follower.poll_timeout().unwrap();
        follower.handle_timeout(due);
        assert_eq!(events(&mut follower), [Event::Sweep(OLD)]);
        let mut at = due;
        for _ in 0..20 {
            let (due, _) = follower.poll_timeout().unwrap();
            assert!(due > at, "no busy loop");
            follower.handle_timeout(due);
            at = due;
        }
        let sweeps = events(&mut follower);
        let sweeps = sweeps.iter().filter(|event| matches!(event, Event::Sweep(_))).count();
        assert!((2..=7).contains(&sweeps), "{sweeps}");
    }
}
