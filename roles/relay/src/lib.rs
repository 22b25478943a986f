//! The standalone relays: what `warren relay` and `warren pair-relay` run.
//!
//! The state machines are cores (`warren-turn`, `warren-pair`), the sockets `warren-net`'s; here are
//! threads, signals, metrics.

pub mod control;
mod listen;
pub mod metrics;
pub mod pair;
pub mod turn;

/// How a relay is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Take nothing new, go on with what is there, end with the last of it.
    Drain,
    /// End at once.
    Now,
}
