//! The proxy through its public API, on virtual time; the peers are stacks of their own.

#![expect(clippy::disallowed_methods, reason = "virtual time begins at some instant")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod tcp;
mod udp;
mod world;
