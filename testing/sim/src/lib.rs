//! The whole mesh on virtual time: the real broker's and nodes' cores in one process, on a virtual
//! internet.
//!
//! One seed gives one trace. A test that fails prints the command that replays it.

pub mod app;
mod broker;
mod control;
pub mod matrix;
pub mod net;
mod node;
pub mod replay;
mod site;
mod stun;
mod world;

pub use broker::{Broker, Disk, UNIX_START};
pub use node::{Daemon, Node};
pub use site::{CarrierId, Families, Nat, SiteConfig, SiteId, Sites};
pub use stun::{STUN_PORTS, StunHost};
pub use world::{NodeId, PingId, StreamId, StreamReport, TransferId, TransferReport, World};
