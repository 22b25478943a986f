//! The node: the daemon on a device, as a library behind `warren node`, and the client side of
//! the commands that talk to it.

mod config;
#[allow(dead_code, unused_imports, reason="wip")]
mod control;
pub mod local;
#[allow(dead_code, unused_imports, reason="wip")]
mod state;

pub use config::{DnsMode, NodeConfig, SetLogFilter};
pub use control::sse;
pub use state::StateError;
