//! Programs on this host that listen where a forward leads elsewhere.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use warren_proto::EdgeDuty;

use crate::kernel::opening::{Opening, TCP, UDP};
use crate::problem::Problem;

/// What the kernel says of sockets, by protocol, and the state of those that wait for somebody
/// (`TCP_LISTEN`; of UDP, all that aren't connected).
const TABLES: [(&str, u8, &str); 4] =
    [("tcp", TCP, "0A"), ("tcp6", TCP, "0A"), ("udp", UDP, "07"), ("udp6", UDP, "07")];
/// From here on ports are given to whoever asks for any (Linux's `ip_local_port_range`): of UDP, that is
/// nobody who waits for strangers.
const EPHEMERAL: u16 = 32_768;

/// Ports, by protocol.
pub(super) type Listeners = BTreeSet<(u8, u16)>;

/// Where programs of this host are reached by an address of its.
pub(super) async fn listeners(at: Ipv4Addr) -> Listeners {
    let read = move || {
        let mut found = Listeners::new();
        for (name, protocol, state) in TABLES {
            // This thread's: the process may have begun in another network namespace.
            let table = std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
            let ports = parse(&table.unwrap_or_default(), state, at);
            let is_one = |port: &u16| protocol == TCP || *port < EPHEMERAL;
            found.extend(ports.into_iter().filter(is_one).map(|port| (protocol, port)));
        }
        found
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Lines of `number: address:port peer:port state …`, addresses as the host's words in hexadecimal.
fn parse(table: &str, state: &str, at: Ipv4Addr) -> Vec<u16> {
    let own = format!("{:08X}", u32::from_ne_bytes(at.octets()));
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (address, port) = words.next()?.split_once(':')?;
            let is_here = address == own || address.bytes().all(|digit| digit == b'0');
            let waits = words.nth(1)? == state;
            (is_here && waits).then(|| u16::from_str_radix(port, 16).ok())?
        })
        .collect()
}

/// Forwards that take such a port, each with the first one.
pub(super) fn shadows(
    duty: &EdgeDuty,
    opening: &Opening,
    listeners: &Listeners,
) -> BTreeSet<Problem> {
    let shadow = |forward: &warren_proto::Forward| {
        let open = opening.forwards.iter().find(|open| open.id == forward.id)?;
        let (protocol, port) = open.protocols().iter().find_map(|protocol| {
            let ports = (*protocol, open.port)..=(*protocol, open.last_port);
            listeners.range(ports).next().copied()
        })?;
        let protocol = if protocol == TCP { "TCP" } else { "UDP" };
        Some(Problem::Shadows { what: format!("forward '{}'", forward.name), protocol, port })
    };
    duty.forwards.iter().filter_map(shadow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_at_all_addresses_or_at_that_one_listens() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:0035 00000000:0000 0A 00000000:00000000\n\
                     2: 01005064:1F90 00000000:0000 0A 00000000:00000000\n\
                     3: 01005064:1F91 05005064:9999 01 00000000:00000000\n\
                     4: 00000000000000000000000000000000:0050 0:0 0A 0\nx\n";
        let expected =
            if cfg!(target_endian = "little") { vec![22, 8080, 80] } else { vec![22, 80] };
        assert_eq!(parse(table, "0A", Ipv4Addr::new(100, 80, 0, 1)), expected);
    }
}
