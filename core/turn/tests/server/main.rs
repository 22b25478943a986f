//! The TURN server through its public API, request by request, and with the client of this crate.
#![expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod allocate;
mod auth;
mod client;
mod data;
mod forged;
mod lossy;
mod model;
mod permissions;
mod ports;
mod quotas;
mod refresh;
mod strangers;
mod streams;
mod virtual_addresses;
mod world;
