//! TLS as Warren's servers need it: certificates from an ACME authority, the handshake that answers
//! its challenges too, and files that only their owner may read.

mod acme;
mod handshake;
pub mod secret;

pub use acme::{Acme, AcmeConfig, LETS_ENCRYPT};
pub use handshake::Acceptor;
