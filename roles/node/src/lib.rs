//! The node: the daemon on a device, as a library behind `warren node`, and the client side of
//! the commands that talk to it.

mod config;
pub mod local;

pub use config::{DnsMode, NodeConfig, SetLogFilter};
