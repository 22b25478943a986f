//! STUN and TURN without I/O: the wire format (RFC 8489, RFC 8656), Binding, both sides (RFC 8489,
//! RFC 5780), and relaying, both sides (RFC 8656).
//!
//! - [`codec`] reads messages where they lie and writes them into a caller's buffer; [`stream`]
//!   cuts the messages out of TCP and TLS.
//! - Binding asks for and answers the one question 'which address do you see?'.
//! - [`client`] holds one allocation at one server; [`server`] serves many clients.
//! - [`rest`] makes the credentials that a broker hands out, and knows the address at which an id
//!   is reached at any of our servers before it is there.
//!
//! Nothing here knows of meshes: `core/mesh` builds its probes from the same codec. The driving
//! contract is `docs/sans-io.md`.

mod binding;
pub mod client;
pub mod codec;
mod credential;
mod nonce;
mod prefix;
mod random;
pub mod rest;
pub mod server;
pub mod stream;
mod timers;

pub use binding::{
    Admission, Answer, BindingClient, BindingServer, ClientEvent, Family, Handled, Limiter, Limits,
    Mapped, Mapping, Refusal, ServerStatus, Transmit, is_public,
};
pub use codec::{
    AttributeType, Builder, CHANNEL_HEADER_LEN, ChannelNumber, Class, Fingerprint,
    IndicationHeader, Integrity, Message, Method, ParseError, Sha1Key, Sha256Key, TransactionId,
    channel_data, is_channel_data, is_stun,
};
pub use rest::{virtual_address, virtual_relayed};
