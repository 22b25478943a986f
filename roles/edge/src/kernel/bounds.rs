//! What the mesh may have the kernel keep.
//!
//! Each connection takes a place in the kernel's table of connections, which the whole host shares. So
//! each address of the mesh has a share of it, and all of the mesh half of it, IPv6 included: what is begun
//! beyond that is dropped, what runs goes on. Only a connection's first packet is counted.
//!
//! The kernel goes through all that it counts together whenever one more begins. So all of the mesh are
//! counted in [`PARTS`], by the last bits of their addresses, and whoever fills one leaves the others.

use std::net::Ipv4Addr;

use warren_net::Connections;

/// How many connections the kernel tracks at most.
const TABLE_SIZE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// In how many parts the mesh is counted; a power of two.
pub const PARTS: u8 = 8;
/// How many devices with their whole share a part has room for.
const SHARES_OF_PART: u32 = 2;
/// The part of that table that one device of the mesh may have: all together, by IPv4 and by IPv6, have half.
const SHARE: u32 = 2 * SHARES_OF_PART * PARTS as u32 * (OF_IPV6 + 1) / OF_IPV6;
/// The part of a share that may be of IPv6, besides.
const OF_IPV6: u32 = 4;
/// However small the table is, so many.
const FEWEST: u32 = 64;
/// However large the table is, so many.
const MOST: u32 = 2048;
/// What a small host's table has room for, where it isn't known.
const SMALL: u32 = 16_384;

/// New connections a second, and at once, of one device: what is dropped takes room too, for a moment.
pub const PER_SECOND: u32 = 500;
/// As many at once.
pub const AT_ONCE: u32 = 1000;

/// How many connections may be open at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Of one address of the mesh.
    pub one: u32,
    /// Of all in one of its [`PARTS`].
    pub part: u32,
    /// Of one address by IPv6, by which the edge itself is reached and nothing behind it.
    pub one6: u32,
    /// Of all in a part by IPv6.
    pub part6: u32,
}

/// What the host's table has room for.
pub fn shares() -> Shares {
    let size = std::fs::read_to_string(TABLE_SIZE).ok();
    shares_of(size.and_then(|size| size.trim().parse().ok()).unwrap_or(SMALL))
}

fn shares_of(table: u32) -> Shares {
    let one = (table / SHARE).clamp(FEWEST, MOST);
    let one6 = one / OF_IPV6;
    Shares { one, part: one * SHARES_OF_PART, one6, part6: one6 * SHARES_OF_PART }
}

/// In which of its [`PARTS`] an address of the mesh is counted.
pub fn part_of(address: Ipv4Addr) -> u8 {
    address.octets()[3] % PARTS
}

/// Who has begun how many of the connections that the kernel tracks; the most first.
///
/// # Errors
///
/// The kernel doesn't tell.
pub async fn busiest() -> anyhow::Result<Vec<(Ipv4Addr, u32)>> {
    let counts = tokio::task::spawn_blocking(|| Connections::open()?.count_by_source()).await??;
    let mut counts: Vec<(Ipv4Addr, u32)> = counts.into_iter().collect();
    counts.sort_by_key(|(source, count)| (std::cmp::Reverse(*count), *source));
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_hosts_table_is_shared_in_forty() {
        let of = |one, part, one6, part6| Shares { one, part, one6, part6 };
        assert_eq!(shares_of(16_384), of(409, 818, 102, 204));
        assert_eq!(shares_of(65_536), of(1638, 3276, 409, 818));
        assert_eq!(shares_of(1_048_576), of(2048, 4096, 512, 1024));
    }

    #[test]
    fn all_of_the_mesh_have_half_of_a_table() {
        for table in [4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144] {
            let Shares { one, part, one6, part6 } = shares_of(table);
            assert!((part + part6) * u32::from(PARTS) <= table / 2, "{table}");
            assert!(part >= 2 * one && part6 >= 2 * one6, "whoever fills one leaves the others");
        }
        assert_eq!(part_of([100, 80, 0, 9].into()), part_of([100, 80, 7, 17].into()));
    }
}
