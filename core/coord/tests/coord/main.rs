//! The account's state machine through its public API, on virtual time.
#![expect(clippy::unwrap_used, reason = "tests")]

mod admin;
mod admission;
mod convergence;
mod invariants;
mod joining;
mod paths;
mod people;
mod people_invariants;
mod relays;
mod sessions;
mod webhooks;
mod world;
