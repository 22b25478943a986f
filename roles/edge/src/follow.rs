//! Follows devices that are bound to their card's address (MAC) when their IP address changes.
//!
//! A card that nobody has heard yet is awaited first: it is asked for at the address at which it was last,
//! and nothing leads there before it has answered, since a stranger may have that address by now. When
//! nobody at all answers for [`AWAIT`], it counts as there: many a device sleeps, and a stranger who
//! comes later is heard. It is asked several times, at 0, 0.2, 0.6, 1.4, 2.2 and 3 s: a card on Wi-Fi that saves
//! power misses some.
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
/// How long a card that was never heard is awaited.
pub const AWAIT: Duration = Duration::from_secs(3);
/// After how long it is asked for once more; from then on after twice as long each time, ...
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// ... but so long at most.
const ASK_EACH: Duration = Duration::from_millis(800);
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

/// Where devices are that aren't where they were chosen, by card and that address.
pub type Moves = BTreeMap<(MacAddr, Ipv4Addr), Ipv4Addr>;

/// Where a bound device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this address, as far as is known.
    At(Ipv4Addr),
    /// Expected at this address; its card has yet to be heard.
    Awaited(Ipv4Addr),
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
    /// Some device is elsewhere, or found to be where it was: look at [`Follower::place`] anew.
    Moved,
}

/// The devices that are followed.
#[derive(Debug, Default)]
pub struct Follower {
    bound: BTreeMap<Key, Bound>,
    /// Whose card has yet to be heard, and until when that is waited for.
    awaited: BTreeMap<Key, Instant>,
    /// Where those were who aren't followed at present: in an earlier life, or out of their forward's hours.
    last: Moves,
    timers: BTreeSet<(Instant, Key)>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Bound {
    current: Ipv4Addr,
    /// Whether its card could be heard at all.
    audible: bool,
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
    /// Of nobody yet; in an earlier life some had moved.
    pub fn new(last: Moves) -> Self {
        Self { last, ..Self::default() }
    }

    /// Follows these targets, as far as they are bound to a card, and no others. `is_audible`: whether a
    /// card could be heard at an address; one that can't counts as there.
    pub fn watch<'a>(
        &mut self,
        targets: impl Iterator<Item = &'a LanTarget>,
        is_audible: impl Fn(Ipv4Addr) -> bool,
        now: Instant,
    ) {
        let wanted: BTreeSet<Key> =
            targets.filter_map(|target| Some((target.mac?, target.ip))).collect();
        let last = &mut self.last;
        self.bound.retain(|key, bound| {
            let is_wanted = wanted.contains(key);
            if !is_wanted && bound.current != key.1 {
                last.insert(*key, bound.current);
            }
            is_wanted
        });
        self.awaited.retain(|key, _| wanted.contains(key));
        for key in wanted {
            let last = self.last.remove(&key);
            let bound =
                self.bound.entry(key).or_insert_with(|| Bound::at(last.unwrap_or(key.1), now));
            let was_audible = std::mem::replace(&mut bound.audible, is_audible(key.1));
            if bound.audible && !was_audible {
                self.awaited.insert(key, now + AWAIT);
                bound.due = now;
            }
        }
        self.timers = self.bound.iter().map(|(key, bound)| (bound.due, *key)).collect();
    }

    /// Whether some card that was asked for in the last `patience` hasn't been heard yet.
    pub fn awaits(&self, patience: Duration, now: Instant) -> bool {
        self.awaited.values().any(|until| *until > now + AWAIT.saturating_sub(patience))
    }

    /// Who isn't where he was chosen, those too who aren't followed at present.
    pub fn moves(&self) -> Moves {
        let moved = self.bound.iter().filter(|(key, bound)| bound.current != key.1);
        let moved = moved.map(|(key, bound)| (*key, bound.current));
        moved.chain(self.last.iter().map(|(key, at)| (*key, *at))).collect()
    }

    /// Whether a card, chosen at an address, is followed at present.
    pub fn follows(&self, mac: MacAddr, chosen: Ipv4Addr) -> bool {
        self.bound.contains_key(&(mac, chosen))
    }

    /// Forgets where a card was that isn't followed any more.
    pub fn forget(&mut self, mac: MacAddr, chosen: Ipv4Addr) {
        self.last.remove(&(mac, chosen));
    }

    /// Where a target is.
    pub fn place(&self, target: &LanTarget) -> Place {
        let key = target.mac.map(|mac| (mac, target.ip));
        let Some((key, bound)) = key.and_then(|key| Some((key, self.bound.get(&key)?))) else {
            return Place::At(target.ip);
        };
        match bound.taken {
            Some(by) => Place::Taken { ip: bound.current, by },
            None if self.awaited.contains_key(&key) => Place::Awaited(bound.current),
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
            bound.asked = false;
            if bound.candidate.take().is_some() {
                bound.both_until = Some(now + BOTH);
            }
            let was_taken = bound.taken.take().is_some();
            if self.awaited.remove(&key).is_some() || was_taken {
                self.events.push_back(Event::Moved);
            }
            self.schedule(key, now + REASSURE - spread(key.0));
            return;
        }
        // Back where it was chosen it is welcome; what else somebody has chosen is another's.
        if is_anothers && ip != key.1 {
            return;
        }
        bound.asked = false;
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
            let awaited_until = self.awaited.get(&key).copied();
            let next = if let Some(candidate) = bound.candidate.take() {
                if bound.others.len() > 1 {
                    bound.both_until = Some(now + BOTH);
                } else {
                    bound.current = candidate;
                    bound.taken = None;
                    bound.others.clear();
                    self.awaited.remove(&key);
                    self.events.push_back(Event::Moved);
                }
                if self.awaited.contains_key(&key) { SETTLE } else { REASSURE - spread(key.0) }
            } else if let Some(until) = awaited_until {
                self.await_more(key, until, now)
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

    /// Asks once more for a card that was never heard, from the third time on everywhere; or gives that
    /// up. How long until the next time.
    fn await_more(&mut self, key: Key, until: Instant, now: Instant) -> Duration {
        let Some(bound) = self.bound.get_mut(&key) else { return REASSURE };
        self.events.push_back(Event::Ask(bound.current));
        if bound.current != key.1 {
            self.events.push_back(Event::Ask(key.1));
        }
        let asked_for = AWAIT.saturating_sub(until.saturating_duration_since(now));
        if asked_for >= SETTLE * 2 && bound.swept.is_none() {
            bound.swept = Some(now);
            self.events.push_back(Event::Sweep(bound.current));
        }
        if until <= now {
            self.awaited.remove(&key);
            bound.asked = true;
            self.events.push_back(Event::Moved);
            return REASSURE - spread(key.0);
        }
        (asked_for + ASK_AGAIN).min(ASK_EACH)
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

impl Bound {
    fn at(current: Ipv4Addr, now: Instant) -> Self {
        Self {
            current,
            audible: false,
            candidate: None,
            others: BTreeMap::new(),
            both_until: None,
            taken: None,
            asked: false,
            swept: None,
            due: now,
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

    /// One that has just been asked for.
    fn awaited(last: Moves) -> (Follower, Instant) {
        let (mut follower, now) = (Follower::new(last), Instant::now());
        follower.watch([TARGET].iter(), |_| true, now);
        assert!(follower.awaits(AWAIT, now));
        follower.handle_timeout(now);
        assert_eq!(events(&mut follower)[0], Event::Ask(follower.bound[&(CAMERA, OLD)].current));
        (follower, now)
    }

    fn followed() -> (Follower, Instant) {
        let (mut follower, now) = awaited(Moves::new());
        heard(&mut follower, CAMERA, OLD, now);
        assert_eq!(events(&mut follower), [Event::Moved]);
        (follower, now)
    }

    /// Goes on to `until`; what was to be done meanwhile.
    fn pass(follower: &mut Follower, until: Instant) -> Vec<Event> {
        while let Some((due, _)) = follower.poll_timeout().filter(|(due, _)| *due <= until) {
            follower.handle_timeout(due);
        }
        events(follower)
    }

    #[test]
    fn nothing_leads_to_an_address_before_its_card_was_heard_there() {
        let (mut follower, now) = awaited(Moves::new());
        assert_eq!(follower.place(&TARGET), Place::Awaited(OLD));
        heard(&mut follower, OTHER, OLD, now);
        assert_eq!(follower.place(&TARGET), Place::Taken { ip: OLD, by: OTHER });
        heard(&mut follower, CAMERA, NEW, now);
        follower.handle_timeout(now + SETTLE);
        assert_eq!(follower.place(&TARGET), Place::At(NEW));
        assert!(!follower.awaits(AWAIT, now + SETTLE));
    }

    #[test]
    fn a_silent_card_is_looked_for_and_then_counts_as_there() {
        let (mut follower, now) = awaited(Moves::new());
        let asked = pass(&mut follower, now + AWAIT - Duration::from_millis(1));
        assert!(asked.contains(&Event::Sweep(OLD)) && !asked.contains(&Event::Moved), "{asked:?}");
        assert_eq!(follower.place(&TARGET), Place::Awaited(OLD));
        assert!(pass(&mut follower, now + AWAIT).contains(&Event::Moved));
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
        // Who comes later is heard.
        heard(&mut follower, OTHER, OLD, now + AWAIT);
        assert_eq!(follower.place(&TARGET), Place::Taken { ip: OLD, by: OTHER });
    }

    #[test]
    fn after_a_restart_a_card_is_awaited_where_it_was_last() {
        let last = Moves::from([((CAMERA, OLD), NEW)]);
        let (mut follower, now) = awaited(last.clone());
        assert_eq!(follower.place(&TARGET), Place::Awaited(NEW));
        assert_eq!(follower.moves(), last);
        heard(&mut follower, OTHER, OLD, now);
        assert_eq!(follower.place(&TARGET), Place::Awaited(NEW), "a stranger where it was chosen");
        heard(&mut follower, CAMERA, NEW, now);
        assert_eq!(follower.place(&TARGET), Place::At(NEW));
    }

    #[test]
    fn a_card_that_answers_late_is_asked_several_times() {
        let (mut follower, now) = awaited(Moves::new());
        let mut asked = vec![0];
        while let Some((due, _)) = follower.poll_timeout().filter(|(due, _)| *due <= now + AWAIT) {
            follower.handle_timeout(due);
            if events(&mut follower).contains(&Event::Ask(OLD)) {
                asked.push((due - now).as_millis());
            }
        }
        assert_eq!(asked, [0, 200, 600, 1400, 2200, 3000]);
    }

    #[test]
    fn who_is_not_followed_for_a_while_is_awaited_where_he_was_last() {
        let (mut follower, now) = followed();
        heard(&mut follower, CAMERA, NEW, now);
        follower.handle_timeout(now + SETTLE);
        let moves = Moves::from([((CAMERA, OLD), NEW)]);
        assert_eq!(follower.moves(), moves);
        // Its forward is out of its hours.
        follower.watch([].iter(), |_| true, now + SETTLE);
        assert!(!follower.follows(CAMERA, OLD));
        assert_eq!(follower.moves(), moves);
        follower.watch([TARGET].iter(), |_| true, now + AWAIT);
        assert_eq!(follower.place(&TARGET), Place::Awaited(NEW));
        follower.watch([].iter(), |_| true, now + AWAIT);
        follower.forget(CAMERA, OLD);
        assert_eq!(follower.moves(), Moves::new());
    }

    #[test]
    fn what_cannot_be_heard_counts_as_there_until_it_can() {
        let (mut follower, now) = (Follower::default(), Instant::now());
        follower.watch([TARGET].iter(), |_| false, now);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
        follower.watch([TARGET].iter(), |_| true, now);
        assert_eq!(follower.place(&TARGET), Place::Awaited(OLD));
        follower.watch([TARGET].iter(), |_| true, now + AWAIT * 2);
        pass(&mut follower, now + AWAIT * 2);
        assert_eq!(follower.place(&TARGET), Place::At(OLD));
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
        follower.watch([TARGET, second].iter(), |_| true, now);
        heard(&mut follower, CAMERA, OLD, now);
        heard(&mut follower, CAMERA, NEW, now);
        events(&mut follower);
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
