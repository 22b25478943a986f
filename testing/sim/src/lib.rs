//! The whole mesh on virtual time.

pub mod net;
mod stun;

pub use stun::{STUN_PORTS, StunHost};
