//! The edge's pages and API, as people and programs meet them, before an account that is made up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod looks;
mod world;
