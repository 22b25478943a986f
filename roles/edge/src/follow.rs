//! Follows devices that are bound to their card's address (MAC) when their IP address changes.
//!
//! Whoever speaks ARP says which address his card has. A card that is heard at another address than
//! the known one may have moved, or have both: the known address is asked for once more, and only
//! when its card stays silent there for [`SETTLE`] has it moved. A card that says nothing is asked
//! for each [`REASSURE`]; when it doesn't answer, its whole network is asked, at most each
//! [`SWEEP`].
//!
//! Pure: no clock, no socket. The five names are those of `docs/sans-io.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use warren_proto::{LanTarget, MacAddr};

/// How long a card may take to answer at the known address, when it was heard at another.
pub const SETTLE: Duration = Duration::from_millis(600);
/// How often a silent card is asked for.
pub const REASSURE: Duration = Duration::from_secs(20);
/// How often the whole network is asked for a card that is lost.
pub const SWEEP: Duration = Duration::from_secs(60);
/// How long a card that has answered at its known address may speak from others unquestioned.
const BOTH: Duration = Duration::from_secs(60);

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
    bound: BTreeMap<MacAddr, Bound>,
    timers: BTreeSet<(Instant, MacAddr)>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Bound {
    chosen: Ipv4Addr,
    current: Ipv4Addr,
    heard: Option<Instant>,
    /// Another address at which it was heard.
    candidate: Option<Ipv4Addr>,
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
        let wanted: BTreeMap<MacAddr, Ipv4Addr> =
            targets.filter_map(|target| Some((target.mac?, target.ip))).collect();
        self.bound.retain(|mac, bound| wanted.get(mac) == Some(&bound.chosen));
        for (mac, chosen) in wanted {
            self.bound.entry(mac).or_insert_with(|| Bound {
                chosen,
                current: chosen,
                heard: None,
                candidate: None,
                both_until: None,
                taken: None,
                asked: false,
                swept: None,
                due: now,
            });
        }
        self.timers = self.bound.iter().map(|(mac, bound)| (bound.due, *mac)).collect();
    }

    /// Where a target is.
    pub fn place(&self, target: &LanTarget) -> Place {
        let Some(bound) = target.mac.and_then(|mac| self.bound.get(&mac)) else {
            return Place::At(target.ip);
        };
        match bound.taken {
            Some(by) => Place::Taken { ip: bound.current, by },
            None => Place::At(bound.current),
        }
    }

    /// Takes what a card said of itself.
    pub fn handle_heard(&mut self, mac: MacAddr, ip: Ipv4Addr, now: Instant) {
        self.note_taken(mac, ip);
        let Some(bound) = self.bound.get_mut(&mac) else { return };
        bound.heard = Some(now);
        bound.asked = false;
        if ip == bound.current {
            if bound.candidate.take().is_some() {
                bound.both_until = Some(now + BOTH);
            }
            if bound.taken.take().is_some() {
                self.events.push_back(Event::Moved);
            }
            self.schedule(mac, now + REASSURE);
        } else if bound.candidate.is_none() && bound.both_until.is_none_or(|until| until <= now) {
            bound.candidate = Some(ip);
            // Another card there: no need to wait for this one's answer.
            let wait = if bound.taken.is_some() { Duration::ZERO } else { SETTLE };
            self.events.push_back(Event::Ask(bound.current));
            self.schedule(mac, now + wait);
        }
    }

    /// Notes that another card than the bound one speaks from a bound address.
    fn note_taken(&mut self, mac: MacAddr, ip: Ipv4Addr) {
        let others = self.bound.iter_mut().filter(|(other, _)| **other != mac);
        for (_, bound) in others.filter(|(_, bound)| bound.current == ip) {
            if bound.taken.is_none() && bound.candidate.is_none() {
                bound.taken = Some(mac);
                self.events.push_back(Event::Moved);
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, mac)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, mac));
            let Some(bound) = self.bound.get_mut(&mac).filter(|bound| bound.due == due) else {
                continue;
            };
            let next = if let Some(candidate) = bound.candidate.take() {
                bound.current = candidate;
                bound.taken = None;
                self.events.push_back(Event::Moved);
                REASSURE
            } else if bound.asked && bound.swept.is_none_or(|at| now >= at + SWEEP) {
                bound.swept = Some(now);
                self.events.push_back(Event::Sweep(bound.current));
                REASSURE
            } else {
                // The first question comes soon after the start, to learn what the table doesn't say.
                bound.asked = true;
                self.events.push_back(Event::Ask(bound.current));
                if bound.swept.is_none() { SETTLE * 2 } else { REASSURE }
            };
            self.schedule(mac, now + next);
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

    fn schedule(&mut self, mac: MacAddr, due: Instant) {
        if let Some(bound) = self.bound.get_mut(&mac) {
            self.timers.remove(&(bound.due, mac));
            bound.due = due;
            self.timers.insert((due, mac));
        }
    }
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

    fn followed() -> (Follower, Instant) {
        let (mut follower, now) = (Follower::default(), Instant::now());
        follower.watch([TARGET].iter(), now);
        follower.handle_heard(CAMERA, OLD, now);
        assert_eq!(events(&mut follower), []);
        (follower, now)
    }

    #[test]
    fn a_card_that_is_silent_at_its_old_address_has_moved() {
        let (mut follower, now) = followed();
        follower.handle_heard(CAMERA, NEW, now);
        assert_eq!(events(&mut follower), [Event::Ask(OLD)]);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
        follower.handle_timeout(now + SETTLE);
        assert_eq!(events(&mut follower), [Event::Moved]);
        assert_eq!(follower.place(&TARGET), Place::At(NEW));
    }

    #[test]
    fn a_card_with_two_addresses_stays_where_it_was_chosen() {
        let (mut follower, now) = followed();
        follower.handle_heard(CAMERA, NEW, now);
        follower.handle_heard(CAMERA, OLD, now + SETTLE / 2);
        assert_eq!(events(&mut follower), [Event::Ask(OLD)]);
        follower.handle_heard(CAMERA, NEW, now + SETTLE);
        follower.handle_timeout(now + SETTLE * 3);
        assert_eq!(events(&mut follower), []);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
    }

    #[test]
    fn an_address_that_another_card_has_leads_to_nobody_until_the_right_one_is_heard() {
        let (mut follower, now) = followed();
        follower.handle_heard(OTHER, OLD, now);
        assert_eq!(events(&mut follower), [Event::Moved]);
        assert_eq!(follower.place(&TARGET), Place::Taken { ip: OLD, by: OTHER });
        follower.handle_heard(CAMERA, NEW, now);
        follower.handle_timeout(now);
        assert_eq!(events(&mut follower), [Event::Ask(OLD), Event::Moved]);
        assert_eq!(follower.place(&TARGET), Place::At(NEW));
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
