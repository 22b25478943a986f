//! The wire format of STUN (RFC 8489 §5, §14) and TURN (RFC 8656 §12, §18).
//!
//! ```text
//!  0                   1                   2                   3
//! |0 0|      class and method     |  bytes after this header      |
//! |                  magic cookie 0x2112A442                      |
//! |                  transaction id, 96 bits                      |
//! then attributes: type u16, length u16, value, padded to 4 bytes
//! ```
//!
//! [`Message`] borrows a datagram and is strict about every length in it; [`Builder`] appends to a
//! `Vec`. Nothing here allocates on the way in, and no input makes it panic or loop: a message has
//! at most [`MAX_ATTRIBUTES`] attributes.

mod attribute;
mod builder;
mod channel;
mod header;
mod integrity;
mod message;
mod turn;

pub use attribute::{AttributeType, ChangeRequest};
pub use builder::Builder;
pub use channel::{CHANNEL_HEADER_LEN, ChannelNumber, IndicationHeader, channel_data};
pub use header::{
    Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, is_channel_data, is_stun,
};
pub use integrity::{Fingerprint, Integrity, Sha1Key, Sha256Key};
pub use message::{Attribute, Attributes, MAX_ATTRIBUTES, Message, ParseError};
pub use turn::{PasswordAlgorithm, UDP_TRANSPORT, UnknownFamily};
