use std::time::Instant;

use super::{ClientSocket, Relay, Verdict};
use crate::counters::Drop;
use crate::wire::NotHandshake;

impl Relay {
    /// Data: one look-up, whatever number of datagrams it is.
    pub(super) fn handle_data(
        &mut self,
        from: ClientSocket,
        reason: NotHandshake,
        datagrams: usize,
        bytes: usize,
        now: Instant,
    ) -> Result<Verdict, Drop> {
        if reason == NotHandshake::TooLong {
            return Err(Drop::TooLong);
        }
        self.forward(from, datagrams, bytes, now).unwrap_or_else(|| Err(reason.into()))
    }

    /// To the partner of `from`; `None` if it has none.
    pub(super) fn forward(
        &mut self,
        from: ClientSocket,
        datagrams: usize,
        bytes: usize,
        now: Instant,
    ) -> Option<Result<Verdict, Drop>> {
        let place = self.place_by_client.get(&from)?;
        let pair = self.table.pair_mut(place.pair)?;
        pair.active = now;
        let (own, other) = pair.own_and_other(place.side)?;
        own.hear();
        if let Some(rate) = self.config.silent_rate
            && other.is_silent()
            && !other.allows(bytes, rate, now)
        {
            return Some(Err(Drop::Silent));
        }
        let to = other.client;
        pair.datagrams += datagrams as u64;
        pair.bytes += bytes as u64;
        self.counters.forwarded += datagrams as u64;
        self.counters.forwarded_bytes += bytes as u64;
        Some(Ok(Verdict::Forward(to)))
    }
}
