//! The account's state machine through its public API, on virtual time.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

mod admin;
mod admission;
mod convergence;
mod edges;
mod invariants;
mod joining;
mod paths;
mod people;
mod people_invariants;
mod relays;
mod sessions;
mod single_sign_on;
mod webhooks;
mod world;
