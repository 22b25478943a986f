//! Mesh addresses: which range an account gets, and which addresses its devices.
//!
//! A device is an *offset* into its account's IPv4 range, the same in the IPv6 range (in the low
//! 32 bits). Offsets below [`SERVICE_ADDRESSES`] (the range's first /24) are kept for services that
//! every node offers to its own host, such as its name server, and never given to a device; nor are
//! addresses that end in .0 or .255, which some software takes for a network or broadcast address.
//! A high-water mark keeps an address from being used again while fresh ones are left, so that a
//! stale rule or `known_hosts` entry never meets another device.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use warren_proto::{DeviceId, IPV6_PREFIX};

/// How many addresses at the start of an account's range are kept for services.
pub const SERVICE_ADDRESSES: u32 = 256;

/// The parts of 100.64.0.0/10 (RFC 6598) that are not chosen by themselves, by their second octet:
/// carriers number from the start, and other software uses the others.
const AVOIDED_OCTETS: [u8; 3] = [64, 100, 127];

/// Chooses a /16 of 100.64.0.0/10 by chance, one that overlaps no account's while there is one.
///
/// There are 61. Accounts never meet, so that beyond them two may have the same.
pub(crate) fn choose_ipv4_range(entropy: [u8; 32], taken: &[Ipv4Net]) -> Ipv4Net {
    let candidates: Vec<Ipv4Net> = (64..=127)
        .filter(|octet| !AVOIDED_OCTETS.contains(octet))
        .map(|octet| Ipv4Net::new_assert(Ipv4Addr::new(100, octet, 0, 0), 16))
        .collect();
    let free: Vec<Ipv4Net> = candidates
        .iter()
        .copied()
        .filter(|range| !taken.iter().any(|other| overlap(*range, *other)))
        .collect();
    let choice = if free.is_empty() { candidates } else { free };
    let dice = usize::from(u16::from_be_bytes([entropy[0], entropy[1]]));
    choice[dice % choice.len()]
}

/// Makes a ULA /48 out of 40 random bits (RFC 4193 §3.2).
pub(crate) fn ula(entropy: [u8; 32]) -> Ipv6Net {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&entropy[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), IPV6_PREFIX)
}

pub(crate) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The addresses of an account that somebody has.
pub(crate) struct TakenAddresses<'a> {
    pub(crate) devices: &'a BTreeMap<Ipv4Addr, DeviceId>,
    /// What stands behind edges: the last address of each part by its first. No two overlap.
    pub(crate) parts: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl TakenAddresses<'_> {
    pub(crate) fn have(&self, ip: Ipv4Addr) -> bool {
        let part = self.parts.range(..=ip).next_back();
        self.devices.contains_key(&ip) || part.is_some_and(|(_, last)| ip <= *last)
    }
}

/// Chooses the offset of a new device, and the high-water mark after it: the next never-used one,
/// or when there is none the lowest that nobody has. `None`: the range is full.
pub(crate) fn allocate(
    range: Ipv4Net,
    next_host: u32,
    is_taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<(u32, u32)> {
    let size = 1u32 << (32 - u32::from(range.prefix_len()));
    let usable = |offset: &u32| (1..=254).contains(&(offset & 0xff));
    let is_free = |offset: &u32| usable(offset) && !is_taken(ipv4(range, *offset));
    let fresh = (next_host.max(SERVICE_ADDRESSES)..size).find(is_free);
    if let Some(offset) = fresh {
        return Some((offset, offset + 1));
    }
    let freed = (SERVICE_ADDRESSES..size).find(is_free)?;
    Some((freed, size))
}

pub(crate) fn ipv4(range: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()) | offset)
}

pub(crate) fn ipv6(range: Ipv6Net, offset: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(range.network()) | u128::from(offset))
}

#[cfg(test)]
mod tests {
    use warren_proto::check_range;

    use super::*;

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_fresh_until_the_range_is_used_up_and_then_the_lowest_free_one() {
        let range = range("10.9.0.0/22");
        let mut taken = Vec::new();
        let mut next = 0;
        while let Some((offset, after)) = allocate(range, next, |ip| taken.contains(&ip)) {
            let ip = ipv4(range, offset);
            assert!(range.contains(&ip) && !taken.contains(&ip));
            assert!(ip.octets()[2] >= 1, "the first /24 is for services: {ip}");
            assert!(!matches!(ip.octets()[3], 0 | 255));
            taken.push(ip);
            next = after;
        }
        assert_eq!(taken.len(), 3 * 254);
        let freed = taken.swap_remove(500);
        let (offset, after) = allocate(range, next, |ip| taken.contains(&ip)).unwrap();
        assert_eq!(ipv4(range, offset), freed);
        assert_eq!(after, 1024, "no fresh one is left");
    }

    #[test]
    fn a_freed_address_is_not_used_again_while_fresh_ones_are_left() {
        let range = range("100.80.0.0/16");
        let (first, next) = allocate(range, 0, |_| false).unwrap();
        let (second, _) = allocate(range, next, |_| false).unwrap();
        assert_eq!(ipv4(range, first), Ipv4Addr::new(100, 80, 1, 1));
        assert_eq!(ipv4(range, second), Ipv4Addr::new(100, 80, 1, 2));
        let (offset, _) = allocate(range, 511, |_| false).unwrap();
        assert_eq!(ipv4(range, offset), Ipv4Addr::new(100, 80, 2, 1), "skips .255 and .0");
        let net: Ipv6Net = "fd01:203:405::/48".parse().unwrap();
        assert_eq!(ipv6(net, first), "fd01:203:405::101".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn every_automatic_range_is_used_before_one_is_shared() {
        let mut taken = Vec::new();
        for n in 0..61u8 {
            let range = choose_ipv4_range([n.wrapping_mul(37); 32], &taken);
            assert!(!taken.contains(&range));
            assert!(!AVOIDED_OCTETS.contains(&range.addr().octets()[1]));
            assert_eq!(check_range(range), Ok(()));
            taken.push(range);
        }
        assert!(taken.contains(&choose_ipv4_range([9; 32], &taken)));
    }
}
