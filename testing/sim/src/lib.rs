//! The whole mesh on virtual time: the real broker's and nodes' cores in one process, on a virtual
//! internet.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`net`] | the internet: segments, links with faults, NATs and firewalls as RFC 4787 names them |
//! | [`World`] | everything together on one clock: a heap of what is to happen, and who is drained after it |
//! | [`Broker`] | the real `coord`, a disk that keeps what was committed, a process that can be killed |
//! | [`Node`] | the real `mesh`, and the control session around it as `roles/node` keeps it |
//! | [`RelayHost`] | the real TURN server, its ports and streams |
//! | `control` | what TCP, TLS and HTTP/2 between them amount to in time and bytes |
//! | [`app`] | ping, a paced stream, a transfer with TCP's retransmission timeouts |
//! | [`matrix`] | NAT × NAT, and the page `docs/nat-matrix.md` |
//!
//! The world itself asserts, always: no packet comes out at another node than it was meant for, no
//! core wants to be woken at the very instant at which it was woken, time never goes backwards.
//!
//! One seed gives one trace ([`net::Network::trace`]). A test that fails prints the command that
//! replays it; `SIM_SEED=N` or `SIM_SEED=A..B` runs any scenario with other seeds.

pub mod app;
mod broker;
mod control;
pub mod matrix;
pub mod net;
mod node;
mod relay;
pub mod replay;
mod site;
mod stun;
mod world;

pub use broker::{Broker, Disk, UNIX_START};
pub use node::{Daemon, Node};
pub use relay::{RELAY_PORT, RelayHost, RelayKind};
pub use site::{CarrierId, Families, Nat, SiteConfig, SiteId, Sites};
pub use stun::{STUN_PORTS, StunHost};
pub use world::{
    NodeId, PingId, RelayIndex, StreamId, StreamReport, TransferId, TransferReport, World,
};
