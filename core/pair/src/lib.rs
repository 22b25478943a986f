//! The pair relay without I/O: two clients that present the same 128-bit GUID are joined, and every
//! datagram of either goes to the other.
//!
//! The wire format stands in [`wire`] and, for people who write clients, in `docs/pair-relay.md`.
//! [`Relay`] is the state machine; the driving contract is `docs/sans-io.md`, with one difference:
//! a pair relay never says anything of its own, so there is no `poll_transmit`.
//!
//! # The hot path
//!
//! A caller receives *runs*: datagrams of one length from one source, one after the other in one
//! buffer, the last perhaps shorter. [`Authenticator::parts`] finds the handshakes among them, which
//! needs no state and so no lock; what lies between them is one part, one look-up and one send,
//! from the buffer in which it was received:
//!
//! ```
//! # use std::time::{Duration, Instant};
//! # use warren_pair::{Authenticator, ClientSocket, Config, Relay, Verdict};
//! # fn send(_to: ClientSocket, _run: &[u8], _stride: usize) {}
//! # fn received(authenticator: &Authenticator, relay: &mut Relay, from: ClientSocket, run: &[u8], stride: usize, now: Instant) {
//! for part in authenticator.parts(run, stride) {
//!     if let Verdict::Forward(to) = relay.handle_part(from, &part, now) {
//!         send(to, &run[part.range], stride);
//!     }
//! }
//! # }
//! ```

mod counters;
mod key;
mod relay;
pub mod wire;

pub use counters::{Counters, Drop};
pub use key::{Key, KeyError, WELL_KNOWN_KEY};
pub use relay::{ClientSocket, Config, Event, Relay, Verdict};
pub use wire::{Authenticator, Guid, Handshake, Kind, Nonce, NotHandshake, Part, Parts, Proof};
