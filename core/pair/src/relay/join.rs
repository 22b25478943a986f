use std::time::Instant;

use super::seat::{Pair, PairIndex, Place, Seat, Side};
use super::{ClientSocket, Event, Relay, Verdict};
use crate::counters::Drop;
use crate::wire::{Guid, Handshake, Nonce};

impl Relay {
    /// Gives out a seat if there is one, then forwards: whatever comes from a socket that has a
    /// partner goes to the partner, and that is how a client learns that it is connected.
    pub(super) fn handle_handshake(
        &mut self,
        from: ClientSocket,
        handshake: &Handshake,
        bytes: usize,
        now: Instant,
    ) -> Result<Verdict, Drop> {
        let seated = self.seat(from, handshake, now);
        self.counters.handshakes += 1;
        self.forward(from, 1, bytes, now).unwrap_or_else(|| seated.map(|()| Verdict::Waits))
    }

    fn seat(
        &mut self,
        from: ClientSocket,
        handshake: &Handshake,
        now: Instant,
    ) -> Result<(), Drop> {
        if !from.is_possible() {
            return Err(Drop::Source);
        }
        if let Some(proof) = &handshake.proof {
            self.proofs.accept(proof, now, self.clock)?;
        }
        let nonce = handshake.proof.map(|proof| proof.nonce);
        let Some(&index) = self.pair_by_guid.get(&handshake.guid) else {
            return self.open(handshake.guid, from, nonce, now);
        };
        if let Some(side) = self.side_where(index, |seat| seat.client == from) {
            self.repeat(index, side, nonce);
            return Ok(());
        }
        if nonce.is_some()
            && let Some(side) = self.side_where(index, |seat| seat.nonce == nonce)
        {
            return self.rebind(Place { pair: index, side }, from, now);
        }
        self.complete(index, from, nonce, now)
    }

    fn side_where(&self, index: PairIndex, is: impl Fn(&Seat) -> bool) -> Option<Side> {
        self.table.pair(index)?.seats().find(|(_, seat)| is(seat)).map(|(side, _)| side)
    }

    /// The first socket takes its seat.
    fn open(
        &mut self,
        guid: Guid,
        from: ClientSocket,
        nonce: Option<Nonce>,
        now: Instant,
    ) -> Result<(), Drop> {
        if self.draining {
            return Err(Drop::Draining);
        }
        if self.table.len() >= self.config.max_pairs {
            return Err(Drop::TotalLimit);
        }
        if !self.sources.take(from) {
            return Err(Drop::SourceLimit);
        }
        let seat = Seat::new(from, nonce, 1, now + self.config.silent_grace);
        let index = self.table.insert(Pair::new(guid, seat, now));
        self.pair_by_guid.insert(guid, index);
        self.watch(index, now);
        self.events.push_back(Event::Waits { guid, client: from });
        Ok(())
    }

    /// A seat's own socket says the same again. That doesn't make it wait longer: otherwise one
    /// that never stops would hold a GUID for ever.
    fn repeat(&mut self, index: PairIndex, side: Side, nonce: Option<Nonce>) {
        let Some(pair) = self.table.pair_mut(index) else { return };
        let waits = pair.second.is_none();
        let Some(seat) = pair.seat_mut(side) else { return };
        seat.nonce = nonce.or(seat.nonce);
        if waits {
            seat.hear();
        }
    }

    /// The second socket takes its seat, and both talk here from now on.
    fn complete(
        &mut self,
        index: PairIndex,
        from: ClientSocket,
        nonce: Option<Nonce>,
        now: Instant,
    ) -> Result<(), Drop> {
        let Some(pair) = self.table.pair_mut(index) else { return Err(Drop::Full) };
        if pair.second.is_some() {
            return Err(Drop::Full);
        }
        if self.draining {
            return Err(Drop::Draining);
        }
        if !self.sources.take(from) {
            return Err(Drop::SourceLimit);
        }
        let grace_ends = now + self.config.silent_grace;
        // Its handshake is about to be forwarded, and is heard there.
        pair.second = Some(Seat::new(from, nonce, 0, grace_ends));
        pair.first.start_grace(grace_ends);
        pair.active = now;
        let (guid, first) = (pair.guid, pair.first.client);
        self.place_by_client.insert(first, Place { pair: index, side: Side::First });
        self.place_by_client.insert(from, Place { pair: index, side: Side::Second });
        self.paired += 1;
        self.counters.paired += 1;
        self.events.push_back(Event::Paired { guid, clients: [first, from] });
        Ok(())
    }

    /// A client is back from another address, and has proved it.
    fn rebind(&mut self, place: Place, from: ClientSocket, now: Instant) -> Result<(), Drop> {
        let Some(pair) = self.table.pair_mut(place.pair) else { return Err(Drop::Full) };
        let (guid, complete) = (pair.guid, pair.second.is_some());
        let Some(seat) = pair.seat_mut(place.side) else { return Err(Drop::Full) };
        if !self.sources.exchange(seat.client, from) {
            return Err(Drop::SourceLimit);
        }
        let old = std::mem::replace(&mut seat.client, from);
        if complete {
            pair.active = now;
            self.leave(old, place);
            self.place_by_client.insert(from, place);
        }
        self.counters.rebound += 1;
        self.events.push_back(Event::Rebound { guid, from: old, to: from });
        Ok(())
    }

    /// Forgets where `client` talks, if it is there.
    pub(super) fn leave(&mut self, client: ClientSocket, place: Place) {
        if self.place_by_client.get(&client) == Some(&place) {
            self.place_by_client.remove(&client);
        }
    }
}
