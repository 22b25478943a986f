//! The node: the daemon on a device, as a library behind `warren node`, and the client side of
//! the commands that talk to it.

mod config;
mod control;
mod daemon;
mod data;
pub mod local;
mod names;
mod state;

pub use config::{DnsMode, NodeConfig, SetLogFilter};
pub use control::sse;
pub use daemon::{clean_up, run};
pub use state::StateError;
