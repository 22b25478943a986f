//! STUN and TURN without I/O: the wire format (RFC 8489), and Binding, both sides (RFC 8489,
//! RFC 5780).
//!
//! [`codec`] reads messages where they lie and writes them into a caller's buffer; `binding` asks
//! for and answers the one question 'which address do you see?'. Both know nothing of meshes:
//! `core/mesh` builds its probes from the same codec. The driving contract is `docs/sans-io.md`.

mod binding;
pub mod codec;

pub use binding::{
    Answer, BindingClient, BindingServer, ClientEvent, Family, Handled, Limits, Mapped, Mapping,
    Refusal, ServerStatus, Transmit, is_public,
};
pub use codec::{
    AttributeType, Builder, Class, Fingerprint, Integrity, Message, Method, ParseError, Sha1Key,
    Sha256Key, TransactionId, is_channel_data, is_stun,
};
