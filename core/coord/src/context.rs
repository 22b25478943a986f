use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ring::hmac;
use serde::{Deserialize, Serialize};
use warren_proto::Pin;

use crate::RelayRecord;

/// What a decision needs from outside: the time and fresh randomness.
#[derive(Clone)]
pub struct Ctx {
    /// Monotonic time.
    pub now: Instant,
    /// The wall clock: time since the Unix epoch.
    pub unix: Duration,
    /// 32 random bytes, used for this one decision and no other: ids, tokens and keys are derived
    /// from them.
    pub entropy: [u8; 32],
}

impl Ctx {
    /// Derives 32 bytes for one purpose.
    pub(crate) fn bytes(&self, purpose: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.entropy);
        let tag = hmac::sign(&key, purpose.as_bytes());
        tag.as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
    }

    /// Derives an id that `is_taken` doesn't know.
    pub(crate) fn fresh_id(&self, purpose: &str, is_taken: impl Fn(u64) -> bool) -> u64 {
        (0u32..)
            .map(|n| {
                let bytes = self.bytes(&format!("{purpose} {n}"));
                u64::from_be_bytes(*bytes.first_chunk().expect("32 bytes hold 8"))
            })
            .find(|&id| id != 0 && !is_taken(id))
            .expect("2^32 draws of 64 bits do not all collide")
    }

    pub(crate) fn unix_time(&self) -> UnixTime {
        UnixTime(self.unix.as_secs())
    }
}

/// A moment in wall-clock time, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixTime(pub u64);

/// Which process's turn at an account it is. It grows with each take-over; a commit under an older
/// one is refused by the store, and it is the epoch of the netmaps that are served meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseEpoch(pub u64);

/// How many devices an account may have, gone ones that may return included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceLimit(pub u32);

impl DeviceLimit {
    /// As many as surely fit into one netmap: a node takes no larger one than 8 MiB, and no entry
    /// has more than 4,500 bytes, whatever a device says of itself.
    pub const DEFAULT: Self = Self(1_800);

    /// The most that may be set. Entries usually have 600 bytes, so that a netmap of as many devices
    /// fits as long as they don't make theirs long on purpose.
    pub const MAX: Self = Self(10_000);
}

impl Default for DeviceLimit {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the broker's shell decides for all accounts; it may change at run time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerSettings {
    /// The STUN servers that the netmaps name, in order of preference.
    pub stun: Vec<SocketAddr>,
    /// The pin that will replace the present one, announced ahead of the change.
    pub next_pin: Option<Pin>,
    /// The suffix of all names, without dots at its ends, e.g. `warren.internal`: a device is
    /// `<device>.<account>.<suffix>`.
    pub dns_suffix: String,
    /// The relays that are offered to all accounts: the operator's, and the broker's own.
    pub relays: Vec<RelayRecord>,
    /// How many devices an account may have. Those above a limit that was lowered stay.
    pub device_limit: DeviceLimit,
}
