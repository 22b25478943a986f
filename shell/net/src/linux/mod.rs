//! What talks to Linux.

mod arp;
mod discovery;
mod forwarding;
mod host;
mod lan;
mod limits;
mod memory;
mod netfilter;
mod netlink;
mod poller;
mod tun;
mod udp;
mod watch;

pub use arp::{ArpSocket, Heard};
pub use discovery::{DiscoverySocket, HeardIpv6};
pub use forwarding::{forwards_packets, set_forwards_packets};
pub use host::HostNetwork;
pub use lan::{Lan, LanInterface, LanRoute, Neighbour};
pub use limits::raise_open_file_limit;
pub use memory::{release_freed_memory, release_idle_code};
pub use netfilter::{
    ChainPolicy, Connection, Connections, Counter, ForwardChain, Nftables, TableMark, Tuple,
};
pub use poller::Poller;
pub use tun::{Tun, TunReader};
pub use udp::{Destination, Received, Run, Runs, ServerSocket, UdpReceiver, UdpSockets};
pub use watch::NetworkWatch;

/// Turns -1 into the calling thread's error.
fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

/// Turns -1 into the calling thread's error.
fn check_len(result: libc::ssize_t) -> std::io::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error())
}
