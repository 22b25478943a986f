//! The engine with the real nftables, in namespaces: a technician, an edge, a LAN of devices.

mod bounds;
mod cap;
mod cards;
mod common;
mod engine;
mod following;
mod hardening;
mod late;
mod problems;
mod scan;
mod userspace;
