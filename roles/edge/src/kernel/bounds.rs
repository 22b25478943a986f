//! What one device of the mesh may have the kernel keep.
//!
//! Each connection takes a place in the kernel's table of connections, which the whole host shares. So
//! each address of the mesh has a share of it: what it begins beyond that is dropped, what runs goes on.
//! Only a connection's first packet is counted.

use std::net::Ipv4Addr;

use warren_net::Connections;

/// How many connections the kernel tracks at most.
const TABLE_SIZE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// The part of that table that one device of the mesh may have.
const SHARE: u32 = 16;
/// However small the table is, so many.
const FEWEST: u32 = 512;
/// However large the table is, so many: the kernel goes through them for a new one.
const MOST: u32 = 4096;

/// New connections a second, and at once, of one device: what is dropped takes room too, for a moment.
pub const PER_SECOND: u32 = 500;
/// As many at once.
pub const AT_ONCE: u32 = 1000;

/// How many connections one device of the mesh may have at a time.
pub fn share() -> u32 {
    let size = std::fs::read_to_string(TABLE_SIZE).ok();
    share_of(size.and_then(|size| size.trim().parse().ok()).unwrap_or(0))
}

fn share_of(table: u32) -> u32 {
    (table / SHARE).clamp(FEWEST, MOST)
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
    fn a_small_hosts_table_is_shared_in_sixteen() {
        assert_eq!(share_of(0), 512);
        assert_eq!(share_of(16_384), 1024);
        assert_eq!(share_of(65_536), 4096);
        assert_eq!(share_of(1_048_576), 4096);
    }
}
