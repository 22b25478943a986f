//! WireGuard (Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s) without sockets, clock or OS randomness.
//!
//! One [`Interface`] is one device with all its tunnels. The driving contract is that of
//! `docs/sans-io.md`; what is special here:
//!
//! - **Packets are handled in place.** [`Interface::sealer`] is asked once for a super-packet and
//!   seals any number of slots, each `16 bytes headroom | plaintext | tailroom`, in place.
//!   [`Interface::handle_datagram`] decrypts in the caller's buffer and says where the IP packet is.
//! - **Where a datagram goes is the caller's business.** There are no endpoints here: a
//!   [`Transmit`] names the peer, or the source to which a cookie reply belongs.
//! - **Nothing is queued here.** Without a session [`Interface::sealer`] is `None`; the caller keeps
//!   the packet, calls [`Interface::initiate`] and seals at [`Event::Established`].
//! - **Silence.** Without persistent keepalive an idle session sends nothing, and a session that
//!   dies of age while nobody sends just dies ([`Event::Expired`]).
//!
//! The protocol is that of the WireGuard paper (Donenfeld, NDSS 2017; "paper" below). Where this
//! implementation is stricter or quicker than the paper:
//!
//! - Keys are forgotten at REJECT_AFTER_TIME (180 s), when nobody may use them any longer, rather
//!   than at three times that.
//! - Retries of a handshake may begin quicker than REKEY_TIMEOUT
//!   ([`Interface::set_handshake_retry`]), doubling up to it; and a cookie reply is answered at once,
//!   once per handshake.
//! - When both sides initiate at once, both sessions are kept for receiving, and the one initiated
//!   by the side with the higher public key is sent with.
//! - A responder that still sends 165 s into a session initiates too, as the initiator would.
//!
//! Secrets are wiped when they are dropped, but for the session keys inside `ring`, which leaves
//! them in freed memory; and randomness is drawn by a ratchet, so that memory read later doesn't
//! betray earlier ephemeral keys.

mod constants;
mod cookie;
mod crypto;
mod indices;
mod interface;
mod keypair;
mod load;
mod message;
mod noise;
mod peer;
mod replay;
mod sealer;
mod stats;
mod tai64n;
#[cfg(test)]
mod testing;
mod timers;

pub use interface::{Destination, Event, Interface, PeerConfig, PeerIndex, Received, Transmit};
pub use sealer::Sealer;
pub use stats::{Counters, DropReason, Stats};

/// How many bytes before the plaintext of a slot belong to the data message's header: type,
/// receiver index and counter.
pub const HEADROOM: usize = 16;

/// How many bytes behind the plaintext of a slot are always enough: up to 15 of padding and 16 of
/// the tag. A slot with less room (at least [`TAG`]) gets less padding, so that a slot of
/// `HEADROOM + MTU + TAG` bytes never outgrows the MTU.
pub const TAILROOM: usize = 16 + 15;

/// The length of the authentication tag: the least tailroom of a slot.
pub const TAG: usize = 16;
