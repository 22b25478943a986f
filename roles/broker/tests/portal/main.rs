//! The portal in a real browser, and against who means ill.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod access;
#[path = "../common/mod.rs"]
mod common;
mod edges;
mod hostile;
mod looks;
mod mail;
mod members;
mod mended;
mod person;
#[path = "../../../../shell/tls/tests/support/ports.rs"]
mod ports;
mod provider;
mod single_sign_on;
mod speed;
mod world;
