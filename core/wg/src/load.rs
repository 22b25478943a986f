//! How busy handshakes keep us, and what one source may ask for meanwhile.
//!
//! All counts are of the present second. What an unproven source can make us remember is an array
//! of fixed size; proven sources are told apart exactly, up to a limit.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::constants::{INITIATIONS_PER_SECOND, INITIATIONS_PER_SOURCE, MAX_SOURCES};

const SECOND: Duration = Duration::from_secs(1);
/// Sources without a proven address share this many buckets of cookie replies, so that who floods
/// from one network keeps few others waiting.
const REPLY_BUCKETS: usize = 256;
/// Cookie replies a bucket gives away in a second: at most 8,192 in all, 0.5 MB.
const REPLIES_PER_BUCKET: u8 = 32;

pub(crate) struct Load {
    second: Instant,
    initiations: u32,
    loaded_until: Option<Instant>,
    initiations_by_source: BTreeMap<u128, u8>,
    replies: [u8; REPLY_BUCKETS],
    bucket_key: [u8; 16],
}

impl Load {
    pub(crate) fn new(now: Instant, bucket_key: [u8; 16]) -> Self {
        Self {
            second: now,
            initiations: 0,
            loaded_until: None,
            initiations_by_source: BTreeMap::new(),
            replies: [0; REPLY_BUCKETS],
            bucket_key,
        }
    }

    /// Counts an initiation; tells whether it came under load.
    pub(crate) fn count(&mut self, now: Instant) -> bool {
        if now >= self.second + SECOND {
            self.second = now;
            self.initiations = 0;
            self.initiations_by_source.clear();
            self.replies = [0; REPLY_BUCKETS];
        }
        self.initiations = self.initiations.saturating_add(1);
        if self.initiations > INITIATIONS_PER_SECOND {
            self.loaded_until = Some(now + SECOND);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Whether a source that has proven its address may handshake under load.
    pub(crate) fn admit(&mut self, source: SocketAddr) -> bool {
        let key = network(source.ip());
        let is_full = self.initiations_by_source.len() >= MAX_SOURCES;
        if is_full && !self.initiations_by_source.contains_key(&key) {
            return false;
        }
        let count = self.initiations_by_source.entry(key).or_default();
        *count = count.saturating_add(1);
        *count <= INITIATIONS_PER_SOURCE
    }

    /// Whether one more cookie reply may go to `source`.
    pub(crate) fn may_reply(&mut self, source: SocketAddr) -> bool {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.bucket_key);
        hasher.write_u128(network(source.ip()));
        let replies = &mut self.replies[hasher.finish() as usize % REPLY_BUCKETS];
        if *replies >= REPLIES_PER_BUCKET {
            return false;
        }
        *replies += 1;
        true
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64.
fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() & !(u128::from(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    fn source(n: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(n.into()), 1)
    }

    #[test]
    fn load_begins_with_many_initiations_and_ends_with_few() {
        let start = epoch();
        let mut load = Load::new(start, [0; 16]);
        for _ in 0..INITIATIONS_PER_SECOND {
            assert!(!load.count(start));
        }
        assert!(load.count(start));
        assert!(load.count(start + Duration::from_millis(900)));
        assert!(!load.count(start + Duration::from_millis(2000)));
    }

    #[test]
    fn a_source_and_the_number_of_sources_are_limited() {
        let mut load = Load::new(epoch(), [0; 16]);
        for _ in 0..INITIATIONS_PER_SOURCE {
            assert!(load.admit(source(0)));
        }
        assert!(!load.admit(source(0)));
        for n in 1..MAX_SOURCES as u32 {
            assert!(load.admit(source(n)));
        }
        assert!(!load.admit(source(u32::MAX)));
        assert!(load.admit(source(1)));
        load.count(epoch() + Duration::from_secs(2));
        assert!(load.admit(source(u32::MAX)));
    }

    #[test]
    fn replies_to_one_network_are_limited_and_leave_others_theirs() {
        let mut load = Load::new(epoch(), [0; 16]);
        let to_one = (0..1000).filter(|_| load.may_reply(source(0))).count();
        assert_eq!(to_one, usize::from(REPLIES_PER_BUCKET));
        assert!((1..100).filter(|&n| load.may_reply(source(n))).count() > 90);
        let in_all = (0..100_000).filter(|&n| load.may_reply(source(n))).count();
        assert!(in_all < REPLY_BUCKETS * usize::from(REPLIES_PER_BUCKET));
    }
}
