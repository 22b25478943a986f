//! Allocate (RFC 8656 §7.2): a virtual address at once, ports when the shell has opened them.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::allocation::{Allocation, Relayed};
use super::auth::Proven;
use super::expire::Timer;
use super::nonces::Proof;
use super::owner::Identity;
use super::peers::Peers;
use super::port::Wanted;
use super::request::{Refused, Reply};
use super::table::Handle;
use super::{ClientAddr, Event, RelayedPort, Server};
use crate::binding::Family;
use crate::codec::{AttributeType, Message, UDP_TRANSPORT};
use crate::rest;

/// What a client gets that doesn't ask for more (RFC 8656 §3.2).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

/// How many ports are tried for one allocation.
const TRIES: u8 = 16;

/// Why the shell couldn't open a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PortError {
    /// Somebody else has it: another is tried.
    #[error("the port is in use")]
    InUse,
    /// The host can't open any of this family now.
    #[error("no port of this family can be opened")]
    Unavailable,
}

/// What an Allocate asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Virtual,
    Ports { families: [bool; 2], wanted: Wanted },
    Reserved([u8; 8]),
}

/// An allocation whose ports are being opened.
#[derive(Debug)]
pub(super) struct Opening {
    reply: Reply,
    identity: Identity,
    lifetime: Duration,
    wanted: Wanted,
    tries: u8,
    /// IPv4, IPv6.
    families: [Progress; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    NotAsked,
    /// The port, and the next one of a pair.
    Waiting {
        port: bool,
        next: bool,
    },
    Open,
    Failed(u16),
}

impl Server {
    pub(super) fn allocate(
        &mut self,
        reply: &Reply,
        message: &Message<'_>,
        proven: &Proven,
        now: Instant,
    ) -> Result<(), Refused> {
        let there = self.table.find(reply.client());
        if let Some(handle) = there
            && self.is_repetition(handle, reply, proven)
        {
            self.succeed_allocate(handle, reply, now);
            return Ok(());
        }
        let kind = self.kind(message)?;
        // A virtual one gives way to whoever has proved that the 5-tuple is his now.
        let gives_way = there.is_none_or(|there| {
            let allocation = self.table.get(there);
            kind == Kind::Virtual && allocation.is_some_and(|there| there.relayed.is_virtual())
        });
        if !gives_way {
            return Err(Refused::Code(437));
        }
        if self.is_draining {
            return Err(Refused::Code(508));
        }
        let lifetime = self.granted_lifetime(message);
        match kind {
            Kind::Virtual => self.allocate_virtual(there, reply, proven, lifetime, now),
            Kind::Ports { families, wanted } => {
                self.check_quotas(&proven.identity, 0)?;
                let opening = Opening {
                    reply: reply.clone(),
                    identity: proven.identity.clone(),
                    lifetime,
                    wanted,
                    tries: TRIES,
                    families: families.map(|is_asked| match is_asked {
                        true => Progress::Waiting { port: false, next: false },
                        false => Progress::NotAsked,
                    }),
                };
                self.allocate_ports(opening, now)
            }
            Kind::Reserved(token) => {
                // What is reserved is counted already.
                let port =
                    self.fetch_reservation(token, &proven.identity).ok_or(Refused::Code(508))?;
                let mut relayed = Relayed::Ports { ipv4: None, ipv6: None };
                relayed.set_port(port.family, Some(port.port));
                let handle = self.add(reply, &proven.identity, relayed, lifetime, now);
                self.hold(handle, port);
                self.succeed_allocate(handle, reply, now);
                Ok(())
            }
        }
    }

    /// Whether it is the request again that made the allocation; while ports are being opened,
    /// there is nothing to say yet.
    fn is_repetition(&self, handle: Handle, reply: &Reply, proven: &Proven) -> bool {
        let Some(allocation) = self.table.get(handle) else { return false };
        allocation.transaction == reply.id
            && self.owners.identity(allocation.owner) == Some(&proven.identity)
    }

    fn kind(&self, message: &Message<'_>) -> Result<Kind, Refused> {
        match message.requested_transport() {
            None => return Err(Refused::Code(400)),
            Some(UDP_TRANSPORT) => {}
            Some(_) => return Err(Refused::Code(442)),
        }
        let unknown_family = |_| Refused::Code(440);
        let family = message.requested_address_family().map_err(unknown_family)?;
        let additional = message.additional_address_family().map_err(|_| Refused::Code(400))?;
        let has_token = message.attribute(AttributeType::RESERVATION_TOKEN).is_some();
        let has_even = message.attribute(AttributeType::EVEN_PORT).is_some();
        if has_token && (has_even || family.is_some() || additional.is_some())
            || family.is_some() && additional.is_some()
            || additional == Some(Family::V4)
            || additional.is_some() && message.even_port() == Some(true)
        {
            return Err(Refused::Code(400));
        }
        if has_token {
            let token = message.reservation_token().ok_or(Refused::Code(400))?;
            return Ok(Kind::Reserved(token));
        }
        if message.has_virtual_address()
            && family == Some(Family::V6)
            && !has_even
            && self.config.virtual_addresses
        {
            return Ok(Kind::Virtual);
        }
        let first = family.unwrap_or(Family::V4);
        if self.table.ports(first).is_none() && additional.is_none() {
            // Of virtual addresses there are IPv6 ones: the family isn't what is missing.
            let has_family = first == Family::V6 && self.config.virtual_addresses;
            return Err(Refused::Code(if has_family { 508 } else { 440 }));
        }
        let wanted = match (has_even, message.even_port()) {
            (false, _) => Wanted::Any,
            (true, Some(false)) => Wanted::Even,
            (true, Some(true)) => Wanted::Pair,
            (true, None) => return Err(Refused::Code(400)),
        };
        let families = Family::ALL.map(|one| one == first || additional == Some(one));
        Ok(Kind::Ports { families, wanted })
    }

    /// 486 or 508 where there would be too many allocations; `replaced` of them go.
    fn check_quotas(&self, identity: &Identity, replaced: u32) -> Result<(), Refused> {
        let owner = self.owners.find(identity.source, &identity.name);
        let has = owner.map_or(0, |owner| self.owners.holdings(owner));
        if has.saturating_sub(replaced) >= self.config.quotas.allocations {
            return Err(Refused::Code(486));
        }
        let total = self.config.quotas.total_allocations as usize;
        let there = self.table.len() + self.reservations.len();
        if there.saturating_sub(replaced as usize) >= total {
            return Err(Refused::Code(508));
        }
        Ok(())
    }

    fn allocate_virtual(
        &mut self,
        there: Option<Handle>,
        reply: &Reply,
        proven: &Proven,
        lifetime: Duration,
        now: Instant,
    ) -> Result<(), Refused> {
        let ip = rest::virtual_address(proven.identity.id());
        let elsewhere = self.table.find_virtual(ip).filter(|holder| Some(*holder) != there);
        let is_own = |holder: Handle| {
            let owner = self.table.get(holder).map(|allocation| allocation.owner);
            owner.and_then(|owner| self.owners.identity(owner)) == Some(&proven.identity)
        };
        if elsewhere.is_some_and(|holder| !is_own(holder)) {
            return Err(Refused::Code(508));
        }
        let replaced: Vec<Handle> = there.into_iter().chain(elsewhere).collect();
        if !replaced.is_empty() && proven.proof == Proof::Nothing {
            return Err(Refused::Unproven);
        }
        let own = replaced.iter().filter(|holder| is_own(**holder)).count();
        self.check_quotas(&proven.identity, u32::try_from(own).unwrap_or(0))?;
        for handle in replaced {
            self.release(handle, now);
        }
        let handle = self.add(reply, &proven.identity, Relayed::Virtual(ip), lifetime, now);
        self.succeed_allocate(handle, reply, now);
        Ok(())
    }

    fn add(
        &mut self,
        reply: &Reply,
        identity: &Identity,
        relayed: Relayed,
        lifetime: Duration,
        now: Instant,
    ) -> Handle {
        let client = reply.client();
        let expires = now + lifetime;
        let handle = self.table.insert(Allocation {
            client,
            owner: self.owners.add_allocation(identity),
            relayed,
            transaction: reply.id,
            token: None,
            expires,
            peers: Peers::default(),
            credit: reply.credit,
            opening: None,
        });
        self.timers.set(expires, Timer::Allocation(handle));
        if let ClientAddr::Stream(stream) = client {
            self.stream_has_allocation(stream);
        }
        self.counters.allocated += 1;
        handle
    }

    fn allocate_ports(&mut self, opening: Opening, now: Instant) -> Result<(), Refused> {
        let relayed = Relayed::Ports { ipv4: None, ipv6: None };
        let reply = opening.reply.clone();
        let handle = self.add(&reply, &opening.identity, relayed, opening.lifetime, now);
        let asked = opening.families.map(|progress| progress != Progress::NotAsked);
        if let Some(allocation) = self.table.get_mut(handle) {
            allocation.opening = Some(Box::new(opening));
        }
        for (family, is_asked) in Family::ALL.into_iter().zip(asked) {
            if is_asked {
                self.open_port(handle, family, now);
            }
        }
        self.conclude_opening(handle, now);
        Ok(())
    }

    /// Picks a port of a family and has it opened.
    fn open_port(&mut self, handle: Handle, family: Family, now: Instant) {
        let random = self.random.number();
        let Some(opening) =
            self.table.get_mut(handle).and_then(|allocation| allocation.opening.as_mut())
        else {
            return;
        };
        let wanted = opening.wanted;
        let tries_left = opening.tries.checked_sub(1);
        opening.tries = tries_left.unwrap_or(0);
        let Some(ports) = self.table.ports_mut(family) else {
            self.set_progress(handle, family, Progress::Failed(440));
            return;
        };
        let Some(port) = tries_left.and_then(|_| ports.pick(wanted, random, now)) else {
            self.set_progress(handle, family, Progress::Failed(508));
            return;
        };
        let next = wanted == Wanted::Pair;
        self.hold(handle, RelayedPort { family, port });
        self.set_progress(handle, family, Progress::Waiting { port: true, next });
        if let Some(allocation) = self.table.get_mut(handle) {
            allocation.relayed.set_port(family, Some(port));
        }
        self.events.push_back(Event::OpenPort(RelayedPort { family, port }));
        if next {
            let port = RelayedPort { family, port: port + 1 };
            self.hold(handle, port);
            self.events.push_back(Event::OpenPort(port));
        }
    }

    fn hold(&mut self, handle: Handle, port: RelayedPort) {
        if let Some(ports) = self.table.ports_mut(port.family) {
            ports.hold(port.port, handle.index);
        }
    }

    fn set_progress(&mut self, handle: Handle, family: Family, progress: Progress) {
        if let Some(opening) =
            self.table.get_mut(handle).and_then(|allocation| allocation.opening.as_mut())
        {
            opening.families[place(family)] = progress;
        }
    }

    /// The shell has opened a port ([`Event::OpenPort`]), or couldn't. To be called before anything
    /// else is asked of the server, so that ports can't be mistaken for others.
    pub fn handle_port(&mut self, port: RelayedPort, result: Result<(), PortError>, now: Instant) {
        let family = port.family;
        let Some(handle) = self.table.find_port(port) else { return };
        let Some(allocation) = self.table.get(handle) else { return };
        let (Some(first), Some(opening)) = (allocation.relayed.port(family), &allocation.opening)
        else {
            return;
        };
        let Progress::Waiting { port: mut waits, next: mut waits_next } =
            opening.families[place(family)]
        else {
            return;
        };
        let wanted = opening.wanted;
        let was_next = port.port != first;
        if was_next {
            waits_next = false;
        } else {
            waits = false;
        }
        match result {
            Ok(()) => {
                let progress = match waits || waits_next {
                    true => Progress::Waiting { port: waits, next: waits_next },
                    false => Progress::Open,
                };
                self.set_progress(handle, family, progress);
            }
            Err(error) => {
                self.rest_port(port, now);
                let other = if was_next { first } else { first + 1 };
                let other_waits = if was_next { waits } else { waits_next };
                if wanted == Wanted::Pair {
                    self.let_go_of_other(RelayedPort { family, port: other }, other_waits, now);
                }
                if let Some(allocation) = self.table.get_mut(handle) {
                    allocation.relayed.set_port(family, None);
                }
                match error {
                    PortError::InUse => {
                        self.counters.ports_taken += 1;
                        self.open_port(handle, family, now);
                    }
                    PortError::Unavailable => {
                        self.set_progress(handle, family, Progress::Failed(508));
                    }
                }
            }
        }
        self.conclude_opening(handle, now);
    }

    /// The other port of a pair that didn't come about: open, or about to be opened.
    fn let_go_of_other(&mut self, port: RelayedPort, is_waiting: bool, now: Instant) {
        let asked = Event::OpenPort(port);
        if is_waiting && self.events.contains(&asked) {
            self.events.retain(|event| *event != asked);
            self.rest_port(port, now);
        } else {
            self.close_port(port, now);
        }
    }

    /// An allocation ends while its ports are being opened.
    pub(super) fn abandon_opening(
        &mut self,
        opening: &Opening,
        family: Family,
        port: u16,
        now: Instant,
    ) {
        let (waits, waits_next) = match opening.families[place(family)] {
            Progress::Waiting { port, next } => (port, next),
            Progress::NotAsked | Progress::Open | Progress::Failed(_) => (false, false),
        };
        self.let_go_of_other(RelayedPort { family, port }, waits, now);
        if opening.wanted == Wanted::Pair {
            self.let_go_of_other(RelayedPort { family, port: port + 1 }, waits_next, now);
        }
    }

    /// Answers, once nothing is being opened any more.
    fn conclude_opening(&mut self, handle: Handle, now: Instant) {
        let Some(allocation) = self.table.get_mut(handle) else { return };
        let Some(opening) = &allocation.opening else { return };
        let is_waiting = |progress: &Progress| matches!(progress, Progress::Waiting { .. });
        if opening.families.iter().any(is_waiting) {
            return;
        }
        let Some(opening) = allocation.opening.take() else { return };
        if !opening.families.contains(&Progress::Open) {
            let code = opening.families.iter().find_map(|progress| match progress {
                Progress::Failed(code) => Some(*code),
                Progress::NotAsked | Progress::Waiting { .. } | Progress::Open => None,
            });
            self.release(handle, now);
            self.refuse(&opening.reply, code.unwrap_or(508));
            return;
        }
        if opening.wanted == Wanted::Pair {
            self.reserve_next(handle, now);
        }
        self.write_success(handle, &opening.reply, &opening.families, now);
    }

    fn reserve_next(&mut self, handle: Handle, now: Instant) {
        let Some(allocation) = self.table.get(handle) else { return };
        let (relayed, owner) = (allocation.relayed, allocation.owner);
        for family in Family::ALL {
            if let Some(port) = relayed.port(family) {
                let next = RelayedPort { family, port: port + 1 };
                let token = self.reserve(next, owner, now);
                if let Some(allocation) = self.table.get_mut(handle) {
                    allocation.token = Some(token);
                }
            }
        }
    }

    /// Answers an Allocate whose allocation stands; also its repetition.
    fn succeed_allocate(&mut self, handle: Handle, reply: &Reply, now: Instant) {
        self.write_success(handle, reply, &[Progress::NotAsked; 2], now);
    }

    fn write_success(
        &mut self,
        handle: Handle,
        reply: &Reply,
        families: &[Progress; 2],
        now: Instant,
    ) {
        let Some(allocation) = self.table.get(handle) else { return };
        if allocation.opening.is_some() {
            return;
        }
        let Some(mapped) = self.remote(reply.client()) else { return };
        let (relayed, token) = (allocation.relayed, allocation.token);
        let is_unproven = allocation.credit.is_some();
        let lifetime = allocation.expires.saturating_duration_since(now).as_secs();
        let addresses = self.relayed_addresses(relayed);
        // Whoever repeats it has heard it.
        let nonce = is_unproven.then(|| self.nonces.issue(mapped, self.unix(now)));
        self.succeed(reply, |builder| {
            for address in addresses.into_iter().flatten() {
                builder.xor_relayed_address(address);
            }
            builder.lifetime(u32::try_from(lifetime).unwrap_or(u32::MAX));
            builder.xor_mapped_address(mapped);
            if relayed.is_virtual() {
                builder.virtual_address();
            }
            if let Some(token) = token {
                builder.reservation_token(token);
            }
            if let Some(nonce) = nonce {
                builder.nonce(nonce.as_bytes());
            }
            for (family, progress) in Family::ALL.into_iter().zip(families) {
                if let Progress::Failed(code) = progress {
                    builder.address_error_code(family, *code);
                }
            }
        });
    }

    /// What a client gets: what it asks for, between ten minutes and the longest allowed
    /// (RFC 8656 §7.2).
    pub(super) fn granted_lifetime(&self, message: &Message<'_>) -> Duration {
        let asked = message
            .lifetime()
            .map_or(DEFAULT_LIFETIME, |seconds| Duration::from_secs(seconds.into()));
        asked.min(self.config.quotas.max_lifetime).max(DEFAULT_LIFETIME)
    }
}

fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
