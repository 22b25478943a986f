//! Everything the node daemon needs from the operating system: the TUN device, batched UDP,
//! addresses and routes, their changes, port mapping and name wiring.
//!
//! This is the only crate of the product with `unsafe`. What is the same on every system (headers,
//! checksums, splitting, coalescing, batches) is safe code at the top; what talks to Linux sits in
//! `linux/`, chosen by `cfg(target_os)` and re-exported here under names that another system's
//! module would offer too: [`Tun`], [`UdpSockets`], [`HostNetwork`], [`NetworkWatch`].
//!
//! # The data path
//!
//! One thread runs to completion; nothing here blocks. A packet is copied once by the kernel on
//! its way in, once by [`Outgoing::push`] into its final slot (or not at all on its way to the
//! TUN), and once by the kernel on its way out.
//!
//! ```no_run
//! # use warren_net::*;
//! # async fn node(tun: Tun, sockets: UdpSockets, remote: std::net::SocketAddr) -> std::io::Result<()> {
//! let mut reader = TunReader::new();
//! let mut outgoing = Outgoing::new();
//! let mut receiver = UdpReceiver::new();
//! let mut coalescer = Coalescer::new();
//! let layout = SlotLayout { headroom: 16, tailroom: 16, align: 16, mtu: 1420 };
//! loop {
//!     tokio::select! {
//!         // A full socket buffer holds the TUN back.
//!         ready = tun.readable(), if !outgoing.is_blocked() => {
//!             ready?;
//!             for _ in 0..8 {
//!                 let Ok(packet) = tun.try_recv(&mut reader) else { break };
//!                 // packet.bytes() begins with the IP header: look the peer up once.
//!                 outgoing.push(&sockets, &packet, remote, layout, |slot, _packet_len| {
//!                     // seal slot[16..16 + packet_len] in place
//!                     slot.len()
//!                 });
//!             }
//!             outgoing.flush(&sockets);
//!         }
//!         ready = sockets.writable(), if outgoing.is_blocked() => {
//!             ready?;
//!             outgoing.flush(&sockets);
//!         }
//!         ready = sockets.readable() => {
//!             ready?;
//!             for _ in 0..8 {
//!                 let Ok(received) = sockets.try_recv(&mut receiver) else { break };
//!                 let mut writes = coalescer.begin(&tun);
//!                 for (_remote, datagram) in received {
//!                     // decrypt in place, then hand on the plaintext where it lies
//!                     writes.push(&datagram[16..]);
//!                 }
//!                 writes.flush();
//!             }
//!         }
//!     }
//! }
//! # }
//! ```

mod batch;
mod checksum;
mod coalesce;
mod config;
mod counters;
mod diversion;
mod error;
mod mapping;
#[cfg(unix)]
mod names;
mod packet;
mod split;

#[cfg(target_os = "linux")]
mod linux;

pub use batch::{
    BatchSink, MAX_BATCH_BYTES, MAX_BATCH_SEGMENTS, Outgoing, SendBatch, Sent, SlotLayout,
};
pub use checksum::checksum;
pub use coalesce::{Coalescer, Joined, PacketSink, Preamble, TunWrites};
pub use config::{
    ExitRoutes, Finding, HostConfig, InterfaceConfig, LocalAddress, NetworkState,
    ServerSocketConfig, Spare, TunConfig, UdpConfig,
};
pub use counters::{TunCounters, UdpCounters};
pub use diversion::{Diverted, Diverter, Intake, Takes, diversion};
pub use error::Error;
#[cfg(target_os = "linux")]
pub use linux::{
    ArpSocket, ChainPolicy, Connection, Connections, Counter, Destination, DiscoverySocket,
    ForwardChain, Heard, HeardIpv6, HostNetwork, Lan, LanInterface, LanRoute, Neighbour,
    NetworkWatch, Nftables, Poller, Received, Run, Runs, ServerSocket, TableMark, Tun, TunReader,
    Tuple, UdpReceiver, UdpSockets, forwards_packets, raise_open_file_limit, release_freed_memory,
    release_idle_code, set_forwards_packets,
};
pub use mapping::{Mapping, MappingProtocol, PortMapper, PortMapperConfig};
#[cfg(unix)]
pub use names::{NameConfig, NameError, NameMethod, NameWiring, Undone, name_servers};
pub use split::{Segmentation, SuperPacket};
