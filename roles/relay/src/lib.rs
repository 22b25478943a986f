//! The standalone relays: what `warren relay` and `warren pair-relay` run.
//!
//! The state machines are cores (`warren-turn`, `warren-pair`), the sockets `warren-net`'s; here are
//! threads, signals, metrics.
