//! Which relay a pair uses: the first of the account's list that both sides reach. Among entries of
//! equal rank it is the one with the smallest sum of both round-trip times, then the first
//! (protocols.md §7). Both sides come to the same result from what both have published, but where one of
//! them has as many allocations as it may: then it takes one of those, and names that to the other.

use std::time::Instant;

use warren_proto::{DeviceId, RelayRtt};

use super::Relays;
use crate::path::RelayHandle;

/// For whom a relay is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) this: DeviceId,
    pub(crate) peer: DeviceId,
    /// What the peer reaches; empty: unknown.
    pub(crate) theirs: &'a [RelayRtt],
    /// A relay through which the pair's path has just died: used only if there is no other.
    pub(crate) avoid: Option<RelayHandle>,
    /// Whether this device's UDP is blocked.
    pub(crate) udp_blocked: bool,
}

impl Relays {
    /// The relay for a pair, if there is one.
    pub(crate) fn choose(&self, pair: Pair<'_>, now: Instant) -> Option<RelayHandle> {
        let full = self.are_full();
        let has_room = |relay: &RelayHandle| !full || self.allocation(*relay).is_some();
        let usable = || self.order.iter().copied().filter(has_room);
        let candidates = || usable().filter_map(|relay| self.figure(relay, pair, now));
        candidates()
            .filter(|(_, relay)| pair.avoid != Some(*relay))
            .min_by_key(|(figure, _)| *figure)
            .or_else(|| candidates().min_by_key(|(figure, _)| *figure))
            .map(|(_, relay)| relay)
    }

    /// What a relay is compared by: its rank, the sum of both round trips.
    fn figure(
        &self,
        handle: RelayHandle,
        pair: Pair<'_>,
        now: Instant,
    ) -> Option<((u16, u64), RelayHandle)> {
        let relay = self.get(handle)?;
        // Whoever reaches a private relay reaches the device that it is.
        let is_of_pair =
            relay.info.device.is_some_and(|device| device == pair.this || device == pair.peer);
        if is_of_pair || !relay.is_rested(now) {
            return None;
        }
        let ours = self.published.iter().find(|rtt| rtt.relay == relay.info.id);
        let is_reached = match (ours, pair.udp_blocked) {
            (Some(_), _) => true,
            (None, true) => relay.has_streams(),
            (None, false) => !relay.measurement.is_settled() || relay.is_stream_only(),
        };
        let theirs = pair.theirs.iter().find(|rtt| rtt.relay == relay.info.id);
        if !is_reached || (theirs.is_none() && !pair.theirs.is_empty()) {
            return None;
        }
        let sum = [ours, theirs].into_iter().flatten().map(|rtt| u64::from(rtt.rtt_us)).sum();
        Some(((relay.info.rank, sum), handle))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use warren_proto::{Relay, RelayCredential, RelayId, RelayTransport};

    use super::super::{Allocation, Carrier, MAX_ALLOCATIONS};
    use super::*;
    use crate::testing::start;

    const THIS: DeviceId = DeviceId(1);
    const PEER: DeviceId = DeviceId(2);

    fn relay(n: u64, rank: u16, device: Option<DeviceId>) -> Relay {
        Relay {
            id: RelayId(n),
            name: format!("relay {n}"),
            rank,
            device,
            udp: vec![format!("192.0.{}.{}:3478", n / 256, n % 256).parse().unwrap()],
            tcp: Vec::new(),
            tls: Vec::new(),
            virtual_addresses: true,
            credential: RelayCredential {
                username: String::new(),
                password: String::new(),
                realm: None,
                nonce: None,
                expires_unix: None,
            },
        }
    }

    fn rtt(n: u64, ms: u32) -> RelayRtt {
        RelayRtt { relay: RelayId(n), rtt_us: ms * 1000, transport: RelayTransport::Udp }
    }

    fn relays(list: &[Relay], ours: &[RelayRtt]) -> Relays {
        let mut relays = Relays::default();
        let _ = relays.take(list);
        relays.published = ours.to_vec();
        let now = start();
        for handle in relays.handles() {
            let measurement = &mut relays.get_mut(handle).unwrap().measurement;
            let _ = measurement.handle_timeout(&[], now);
        }
        relays
    }

    fn choose(
        relays: &Relays,
        theirs: &[RelayRtt],
        avoid: Option<u16>,
        now: Instant,
    ) -> Option<u64> {
        let avoid = avoid.map(RelayHandle);
        let pair = Pair { this: THIS, peer: PEER, theirs, avoid, udp_blocked: false };
        let chosen = relays.choose(pair, now)?;
        Some(relays.get(chosen).unwrap().info.id.0)
    }

    #[test]
    fn the_admins_order_holds_and_among_equals_the_smallest_sum() {
        let now = start();
        let list = [relay(1, 0, None), relay(2, 1, None), relay(3, 1, None)];
        let ours = [rtt(1, 300), rtt(2, 10), rtt(3, 40)];
        let all = relays(&list, &ours);
        assert_eq!(choose(&all, &[rtt(1, 500), rtt(2, 90), rtt(3, 20)], None, now), Some(1));
        assert_eq!(choose(&all, &[rtt(2, 90), rtt(3, 20)], None, now), Some(3));
        assert_eq!(choose(&all, &[rtt(2, 30), rtt(3, 20)], None, now), Some(2));
        assert_eq!(choose(&all, &[], None, now), Some(1), "unknown: the own view decides");
        assert_eq!(choose(&all, &[rtt(7, 1)], None, now), None, "nothing in common");
    }

    #[test]
    fn both_sides_choose_the_same() {
        let now = start();
        let list = [relay(1, 0, None), relay(2, 0, None), relay(3, 0, None)];
        for seed in 0..200u32 {
            let times = |salt: u32| -> Vec<RelayRtt> {
                (1..=3u32)
                    .filter(|n| !(seed + salt).is_multiple_of(n + 3))
                    .map(|n| rtt(n.into(), (seed * 7919 + salt * 104_729 + n * 31) % 97))
                    .collect()
            };
            let (a, b) = (times(1), times(2));
            // Who publishes nothing is not known to reach nothing.
            if a.is_empty() || b.is_empty() {
                continue;
            }
            let here = choose(&relays(&list, &a), &b, None, now);
            let there = choose(&relays(&list, &b), &a, None, now);
            assert_eq!(here, there, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_device_is_no_relay_for_itself() {
        let now = start();
        let list = [relay(1, 0, Some(THIS)), relay(2, 0, Some(PEER)), relay(3, 9, None)];
        let ours = [rtt(1, 1), rtt(2, 1), rtt(3, 99)];
        assert_eq!(choose(&relays(&list, &ours), &ours, None, now), Some(3));
        assert_eq!(choose(&relays(&list[..2], &ours), &ours, None, now), None);
    }

    #[test]
    fn where_there_can_be_no_other_allocation_one_of_those_that_there_are_is_chosen() {
        let now = start();
        let most = MAX_ALLOCATIONS as u64;
        let list: Vec<Relay> = (0..=most).map(|n| relay(n, n as u16, None)).collect();
        let ours: Vec<RelayRtt> = (0..=most).map(|n| rtt(n, 1)).collect();
        let mut all = relays(&list, &ours);
        // All but the first have somebody who needs them.
        for handle in all.handles().skip(1) {
            let mut allocation = Allocation::new(Carrier::Udp("192.0.2.1:1".parse().unwrap()), now);
            allocation.users.insert(crate::PeerHandle(handle.0.into()));
            all.get_mut(handle).unwrap().allocation = Some(allocation);
        }
        assert_eq!(choose(&all, &ours, None, now), Some(1));
        assert_eq!(choose(&all, &ours[2..], None, now), Some(2));
        // One that nobody needs would make room.
        all.allocation_mut(RelayHandle(9)).unwrap().users.clear();
        assert_eq!(choose(&all, &ours, None, now), Some(0));
    }

    #[test]
    fn devices_that_relay_for_each_other_number_their_channels_apart() {
        let first_channel = |this, device| {
            let all = relays(&[relay(1, 0, device)], &[]);
            all.get(RelayHandle(0)).unwrap().first_channel(Some(this)).number()
        };
        assert_eq!(first_channel(THIS, Some(PEER)), 0x4000);
        assert_eq!(first_channel(PEER, Some(THIS)), 0x4800);
        assert_eq!(first_channel(PEER, None), 0x4000, "a server has no channels of its own");
    }

    #[test]
    fn relays_come_and_go_without_end_and_one_in_use_keeps_its_place() {
        let now = start();
        let mut all = relays(&[relay(0, 0, None)], &[]);
        let in_use = Allocation::new(Carrier::Udp("192.0.2.1:1".parse().unwrap()), now);
        all.get_mut(RelayHandle(0)).unwrap().allocation = Some(in_use);
        for n in 1..1000 {
            let _ = all.take(&[relay(n, 0, None), relay(n + 1, 0, None)]);
            assert!(all.by_id(RelayId(n)).is_some() && all.by_id(RelayId(n + 1)).is_some(), "{n}");
        }
        assert!(all.handles().count() <= 256);
        assert!(all.get(RelayHandle(0)).is_some_and(|there| there.info.id == RelayId(0)));
    }

    #[test]
    fn one_that_failed_is_passed_over_until_it_has_rested() {
        let now = start();
        let list = [relay(1, 0, None), relay(2, 1, None)];
        let ours = [rtt(1, 1), rtt(2, 1)];
        let mut all = relays(&list, &ours);
        let until = all
            .get_mut(RelayHandle(0))
            .unwrap()
            .note_failure(warren_turn::client::Failure::Timeout, now);
        assert_eq!(choose(&all, &ours, None, now), Some(2));
        assert_eq!(choose(&all, &ours, None, until), Some(1));
        assert_eq!(until, now + Duration::from_secs(5));
        assert_eq!(choose(&all, &ours, Some(0), until), Some(2), "this pair's path died there");
        assert_eq!(choose(&relays(&list[..1], &ours), &ours, Some(0), until), Some(1));
    }
}
