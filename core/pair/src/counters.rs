use thiserror::Error;

use crate::wire::NotHandshake;

/// Why a datagram was not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Drop {
    /// Neither a handshake nor from a client that has a partner.
    #[error("from a socket without a partner")]
    Unpaired,
    /// It begins like a handshake but is shorter.
    #[error("a handshake cut short")]
    Short,
    /// A handshake with a GUID of zeros.
    #[error("a handshake without a GUID")]
    ZeroGuid,
    /// A handshake whose MAC is wrong.
    #[error("a handshake with a wrong MAC")]
    WrongMac,
    /// Longer than [`wire::MAX_DATAGRAM`](crate::wire::MAX_DATAGRAM).
    #[error("too long")]
    TooLong,
    /// From port 0, or from an address that can't be answered.
    #[error("from an impossible source")]
    Source,
    /// A handshake for a GUID that two others share.
    #[error("a third socket")]
    Full,
    /// A handshake whose timestamp isn't of this time.
    #[error("a handshake of another time")]
    Stale,
    /// A handshake that was seen before, or one older than that.
    #[error("a repeated handshake")]
    Replayed,
    /// A handshake beyond the total number of pairs.
    #[error("no room for another pair")]
    TotalLimit,
    /// A handshake beyond what one source may hold.
    #[error("too many from this source")]
    SourceLimit,
    /// A handshake that would make a new pair while the relay is draining.
    #[error("no new pairs while draining")]
    Draining,
    /// Beyond what goes to a socket that has said but one datagram.
    #[error("too much for a socket that is silent")]
    Silent,
}

impl Drop {
    /// Every reason, in the order of [`Counters::drops`].
    pub const ALL: [Self; 13] = [
        Self::Unpaired,
        Self::Short,
        Self::ZeroGuid,
        Self::WrongMac,
        Self::TooLong,
        Self::Source,
        Self::Full,
        Self::Stale,
        Self::Replayed,
        Self::TotalLimit,
        Self::SourceLimit,
        Self::Draining,
        Self::Silent,
    ];

    /// A short, stable name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unpaired => "unpaired",
            Self::Short => "short",
            Self::ZeroGuid => "zero_guid",
            Self::WrongMac => "wrong_mac",
            Self::TooLong => "too_long",
            Self::Source => "source",
            Self::Full => "full",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::TotalLimit => "total_limit",
            Self::SourceLimit => "source_limit",
            Self::Draining => "draining",
            Self::Silent => "silent",
        }
    }
}

impl From<NotHandshake> for Drop {
    fn from(reason: NotHandshake) -> Self {
        match reason {
            NotHandshake::Data => Self::Unpaired,
            NotHandshake::Short => Self::Short,
            NotHandshake::ZeroGuid => Self::ZeroGuid,
            NotHandshake::WrongMac => Self::WrongMac,
            NotHandshake::TooLong => Self::TooLong,
        }
    }
}

/// What happened since the relay began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that went to a partner, handshakes among them.
    pub forwarded: u64,
    /// Their bytes.
    pub forwarded_bytes: u64,
    /// Genuine handshakes.
    pub handshakes: u64,
    /// Pairs that were completed.
    pub paired: u64,
    /// Clients that came back from another address by a proof.
    pub rebound: u64,
    /// Pairs that ended after idleness.
    pub ended: u64,
    /// First sockets that waited in vain.
    pub waited: u64,
    dropped: [u64; Drop::ALL.len()],
}

impl Counters {
    /// Datagrams dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (Drop, u64)> {
        Drop::ALL.into_iter().zip(self.dropped)
    }

    /// Datagrams dropped for this reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.dropped[reason as usize]
    }

    pub(crate) fn drop(&mut self, reason: Drop, datagrams: usize) {
        self.dropped[reason as usize] += datagrams as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_in_its_own_place_under_its_own_name() {
        let mut counters = Counters::default();
        for (number, reason) in Drop::ALL.into_iter().enumerate() {
            counters.drop(reason, number);
        }
        for (number, (reason, count)) in counters.drops().enumerate() {
            assert_eq!((count, counters.dropped(reason)), (number as u64, number as u64));
            assert_eq!(Drop::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }
}
