//! Relayed ports: which are free, and those that are reserved (RFC 8656 §7.2).

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::expire::Timer;
use super::owner::{Identity, OwnerId};
use super::table::Keyed;
use super::{RelayedPort, Server};

/// How long a port that was closed, or that somebody else has, isn't given again, unless there is
/// no other: what is still on its way to it belongs to its last holder (RFC 8656 §8.2).
const REST: Duration = Duration::from_secs(120);

/// How long a reserved port waits to be fetched (RFC 8656 §7.2).
const RESERVATION: Duration = Duration::from_secs(30);

/// What a port must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    Even,
    /// Even, and the next one free too.
    Pair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Held(u32),
    Reserved,
    Resting,
}

/// The ports of one family.
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    states: Vec<State>,
    /// In the order of their coming back.
    resting: VecDeque<(Instant, u16)>,
}

impl Ports {
    pub(super) fn new(range: &RangeInclusive<u16>) -> Self {
        let first = (*range.start()).max(1);
        let count = usize::from(*range.end()).saturating_add(1).saturating_sub(first.into());
        Self { first, states: vec![State::Free; count], resting: VecDeque::new() }
    }

    pub(super) fn holder(&self, port: u16) -> Option<u32> {
        match self.states.get(self.place(port)?)? {
            State::Held(index) => Some(*index),
            State::Free | State::Reserved | State::Resting => None,
        }
    }

    /// A free port, or the one that has rested longest; the search begins at a random place.
    pub(super) fn pick(&mut self, wanted: Wanted, random: u32, now: Instant) -> Option<u16> {
        while self.resting.front().is_some_and(|(at, _)| *at <= now) {
            self.wake();
        }
        loop {
            if let Some(port) = self.search(wanted, random) {
                return Some(port);
            }
            if self.resting.is_empty() {
                return None;
            }
            match wanted {
                Wanted::Any => self.wake(),
                Wanted::Even | Wanted::Pair => (0..self.resting.len()).for_each(|_| self.wake()),
            }
        }
    }

    fn wake(&mut self) {
        let Some((_, port)) = self.resting.pop_front() else { return };
        if let Some(state) = self.state_mut(port)
            && *state == State::Resting
        {
            *state = State::Free;
        }
    }

    fn search(&self, wanted: Wanted, random: u32) -> Option<u16> {
        let count = self.states.len();
        let start = (random as usize).checked_rem(count)?;
        let place = (start..count).chain(0..start).find(|place| self.suits(*place, wanted))?;
        u16::try_from(usize::from(self.first) + place).ok()
    }

    fn suits(&self, place: usize, wanted: Wanted) -> bool {
        let is_free = |place: usize| self.states.get(place) == Some(&State::Free);
        let is_even = || (usize::from(self.first) + place).is_multiple_of(2);
        is_free(place)
            && match wanted {
                Wanted::Any => true,
                Wanted::Even => is_even(),
                Wanted::Pair => is_even() && is_free(place + 1),
            }
    }

    pub(super) fn hold(&mut self, port: u16, index: u32) {
        if let Some(state) = self.state_mut(port) {
            *state = State::Held(index);
        }
    }

    fn reserve(&mut self, port: u16) {
        if let Some(state) = self.state_mut(port) {
            *state = State::Reserved;
        }
    }

    fn rest(&mut self, port: u16, now: Instant) {
        if let Some(state) = self.state_mut(port) {
            *state = State::Resting;
            self.resting.push_back((now + REST, port));
        }
    }

    fn place(&self, port: u16) -> Option<usize> {
        port.checked_sub(self.first).map(usize::from)
    }

    fn state_mut(&mut self, port: u16) -> Option<&mut State> {
        let place = self.place(port)?;
        self.states.get_mut(place)
    }
}

#[derive(Debug)]
struct Reservation {
    port: RelayedPort,
    owner: OwnerId,
    expires: Instant,
}

/// Ports that are open and wait for the Allocate that fetches them, by token.
#[derive(Debug)]
pub(super) struct Reservations(HashMap<[u8; 8], Reservation, Keyed>);

impl Reservations {
    pub(super) fn new(keyed: Keyed) -> Self {
        Self(HashMap::with_hasher(keyed))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Server {
    pub(super) fn rest_port(&mut self, port: RelayedPort, now: Instant) {
        if let Some(ports) = self.table.ports_mut(port.family) {
            ports.rest(port.port, now);
        }
    }

    /// Keeps an open port for its owner; gives the token that fetches it.
    pub(super) fn reserve(&mut self, port: RelayedPort, owner: OwnerId, now: Instant) -> [u8; 8] {
        let token = self.random.bytes();
        let expires = now + RESERVATION;
        if let Some(ports) = self.table.ports_mut(port.family) {
            ports.reserve(port.port);
        }
        self.owners.add_reservation(owner);
        self.reservations.0.insert(token, Reservation { port, owner, expires });
        self.timers.set(expires, Timer::Reservation(token));
        token
    }

    /// Takes a reserved port, if it is the owner's, who makes an allocation of it at once.
    pub(super) fn fetch_reservation(
        &mut self,
        token: [u8; 8],
        owner: &Identity,
    ) -> Option<RelayedPort> {
        if self.owners.identity(self.reservations.0.get(&token)?.owner)? != owner {
            return None;
        }
        let reservation = self.reservations.0.remove(&token)?;
        self.owners.remove_reservation(reservation.owner);
        self.timers.remove(reservation.expires, Timer::Reservation(token));
        Some(reservation.port)
    }

    pub(super) fn expire_reservation(&mut self, token: [u8; 8], now: Instant) {
        if let Some(reservation) = self.reservations.0.remove(&token) {
            self.owners.remove_reservation(reservation.owner);
            self.let_go_of_owner(reservation.owner, now);
            self.close_port(reservation.port, now);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_given_once() {
        let now = Instant::now();
        let mut ports = Ports::new(&(50_000..=50_009));
        let mut given = Vec::new();
        while let Some(port) = ports.pick(Wanted::Any, 7 * given.len() as u32, now) {
            ports.hold(port, 1);
            given.push(port);
        }
        given.sort_unstable();
        assert_eq!(given, (50_000..=50_009).collect::<Vec<_>>());
        assert_eq!(ports.holder(50_005), Some(1));
        assert_eq!(ports.holder(49_999), None);
        assert_eq!(ports.holder(50_010), None);
    }

    #[test]
    fn pairs_are_even_and_whole() {
        let now = Instant::now();
        let mut ports = Ports::new(&(50_001..=50_006));
        ports.hold(50_003, 1);
        assert_eq!(ports.pick(Wanted::Pair, 0, now), Some(50_004));
        ports.hold(50_004, 1);
        ports.hold(50_005, 1);
        assert_eq!(ports.pick(Wanted::Pair, 0, now), None);
        assert_eq!(ports.pick(Wanted::Even, 0, now), Some(50_002));
    }

    #[test]
    fn a_closed_port_rests_unless_it_is_needed() {
        let now = Instant::now();
        let mut ports = Ports::new(&(50_000..=50_001));
        ports.hold(50_000, 1);
        ports.rest(50_000, now);
        for random in 0..8 {
            assert_eq!(ports.pick(Wanted::Any, random, now), Some(50_001));
        }
        ports.hold(50_001, 1);
        assert_eq!(ports.pick(Wanted::Any, 0, now), Some(50_000));
        ports.hold(50_000, 2);
        ports.rest(50_001, now);
        assert_eq!(ports.pick(Wanted::Even, 0, now), None);
        assert_eq!(ports.pick(Wanted::Any, 0, now + REST), Some(50_001));
    }

    #[test]
    fn an_empty_range_has_no_ports() {
        let mut ports = Ports::new(&RangeInclusive::new(2, 1));
        assert_eq!(ports.pick(Wanted::Any, 3, Instant::now()), None);
    }
}
