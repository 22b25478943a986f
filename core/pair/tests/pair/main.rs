//! The pair relay through its public API, on virtual time.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod model;
mod proof;
mod relay;
mod world;
