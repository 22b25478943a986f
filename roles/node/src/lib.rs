//! The node: the daemon on a device, as a library behind `warren node`, and the client side of
//! the commands that talk to it.
//!
//! Two threads. The **control** runtime (whoever calls [`run`]) owns decisions that take
//! milliseconds: the state folder, the control session with the broker, the local socket, names,
//! port mapping, the host's addresses and routes. The **data** thread owns the TUN device, the UDP
//! sockets and the mesh's state machine, and runs each packet to completion. They exchange commands
//! and events; neither waits for the other on a packet's way.
//!
//! | module | what |
//! | --- | --- |
//! | `daemon` | the one task that owns everything: what this device is, wants and runs |
//! | `control` | HTTPS to the broker: joining, the stream of events, check-ins, pins |
//! | `data` | the loop around `warren-mesh` |
//! | [`ask`] | being let in by somebody who is signed in at the broker |
//! | [`local`] | what the command line says to the daemon |
//! | `names` | the resolver |
//! | `state` | the files that outlive the process |
//!
//! # Invariants
//!
//! - The private key is read from `node.json`, handed to the mesh, and goes nowhere else.
//! - A packet costs no allocation but while it waits for a tunnel.
//! - Whatever was changed on the host is undone by [`run`] before it returns, or after a kill by
//!   the next [`run`] or by [`clean_up`].
//! - Nothing that the broker, a peer or a local client sends ends the daemon, nor a full disk.

pub mod ask;
mod carrier;
mod config;
mod control;
mod daemon;
mod data;
mod edge;
pub mod local;
mod names;
mod state;

pub use config::{DnsMode, NodeConfig, SetLogFilter};
pub use daemon::{clean_up, run};
pub use edge::{EdgeDesk, EdgeLink, EdgeOrders, EdgeRefusal, EdgeRole, EdgeTask, edge_link};
pub use state::StateError;
pub use warren_control::sse;
