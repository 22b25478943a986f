//! A userspace proxy: what comes from the mesh for an open address and port ends here, and goes on by
//! ordinary connections of the host. Neither an address nor a listening socket of the host is needed,
//! nor any right.
//!
//! ```text
//! mesh ── IP packets ── Proxy ── streams and datagrams ── the driver's sockets ── LAN
//! ```
//!
//! - **TCP**: a SYN to something open has the driver connect to its target ([`Event::Connect`]). The
//!   SYN is kept meanwhile, and answered with what became of that: a connection, or a reset. So a
//!   refusal is seen as one, and nobody is connected to nothing. Each connection is a stack of its own
//!   (smoltcp's), so that no packet is compared with other connections.
//! - **UDP**: each pair of addresses and ports is a flow with a socket of its own ([`Event::Open`]),
//!   let go when it has been idle.
//! - What leads where is the driver's to say, for each new flow ([`Lead`]), and again when that has
//!   changed ([`Proxy::retain`]).
//!
//! # Invariants
//!
//! - What a peer can make this hold is bounded: connections, half-open ones, flows, buffers
//!   ([`Limits`]). Nothing is held for a packet that leads nowhere.
//! - Packets out are made when there is room for them ([`Proxy::poll_transmit`]): who is slow to take
//!   them slows the LAN down, not fills the memory. The same holds for what the LAN is slow to take,
//!   by TCP's window.

mod connection;
mod flow;
mod packet;
mod proxy;

pub use connection::Stream;
pub use flow::{FlowId, Lead, Limits, Protocol, Usage};
pub use proxy::{Dropped, Event, Proxy};
