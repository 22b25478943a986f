use std::net::SocketAddr;

use super::attribute::{AttributeType, ChangeRequest, encode_address, xor_address};
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, encode_type};
use super::integrity::{Sha1Key, Sha256Key, fingerprint};

/// Appends one STUN message to a buffer; complete after each call.
///
/// Attributes come out in the order of the calls: integrity after everything that it is to cover,
/// [`Self::fingerprint`] last.
///
/// # Panics
/// Every method panics when the message outgrows the 65,532 bytes that its length field can say;
/// the caller bounds what it puts in.
#[derive(Debug)]
pub struct Builder<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Builder<'a> {
    /// Begins a message at the end of `buffer`.
    pub fn new(buffer: &'a mut Vec<u8>, class: Class, method: Method, id: TransactionId) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&encode_type(class, method).to_be_bytes());
        buffer.extend_from_slice(&[0, 0]);
        buffer.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        buffer.extend_from_slice(&id.0);
        Self { buffer, start }
    }

    /// Adds an attribute as it is, padded with zeros.
    pub fn attribute(&mut self, kind: AttributeType, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len()).expect("an attribute has at most 65,535 bytes");
        self.buffer.extend_from_slice(&kind.0.to_be_bytes());
        self.buffer.extend_from_slice(&len.to_be_bytes());
        self.buffer.extend_from_slice(value);
        let padding = value.len().next_multiple_of(4) - value.len();
        self.buffer.resize(self.buffer.len() + padding, 0);
        let length = self.length_after(0);
        self.buffer[self.start + 2..self.start + 4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// Adds XOR-MAPPED-ADDRESS.
    pub fn xor_mapped_address(&mut self, addr: SocketAddr) -> &mut Self {
        self.xor_address(AttributeType::XOR_MAPPED_ADDRESS, addr)
    }

    /// Adds XOR-PEER-ADDRESS.
    pub fn xor_peer_address(&mut self, addr: SocketAddr) -> &mut Self {
        self.xor_address(AttributeType::XOR_PEER_ADDRESS, addr)
    }

    /// Adds XOR-RELAYED-ADDRESS.
    pub fn xor_relayed_address(&mut self, addr: SocketAddr) -> &mut Self {
        self.xor_address(AttributeType::XOR_RELAYED_ADDRESS, addr)
    }

    fn xor_address(&mut self, kind: AttributeType, addr: SocketAddr) -> &mut Self {
        let mut id = [0; 12];
        id.copy_from_slice(&self.buffer[self.start + 8..self.start + HEADER_LEN]);
        self.address(kind, xor_address(addr, TransactionId(id)))
    }

    /// Adds MAPPED-ADDRESS.
    pub fn mapped_address(&mut self, addr: SocketAddr) -> &mut Self {
        self.address(AttributeType::MAPPED_ADDRESS, addr)
    }

    /// Adds OTHER-ADDRESS.
    pub fn other_address(&mut self, addr: SocketAddr) -> &mut Self {
        self.address(AttributeType::OTHER_ADDRESS, addr)
    }

    /// Adds RESPONSE-ORIGIN.
    pub fn response_origin(&mut self, addr: SocketAddr) -> &mut Self {
        self.address(AttributeType::RESPONSE_ORIGIN, addr)
    }

    fn address(&mut self, kind: AttributeType, addr: SocketAddr) -> &mut Self {
        let mut value = [0; 20];
        let len = encode_address(addr, &mut value);
        self.attribute(kind, &value[..len])
    }

    /// Adds CHANGE-REQUEST.
    pub fn change_request(&mut self, change: ChangeRequest) -> &mut Self {
        self.attribute(AttributeType::CHANGE_REQUEST, &change.encode())
    }

    /// Adds USERNAME; at most 508 bytes are allowed (RFC 8489 §14.3).
    pub fn username(&mut self, name: &[u8]) -> &mut Self {
        self.attribute(AttributeType::USERNAME, name)
    }

    /// Adds ERROR-CODE without a reason phrase; `code` is 300–699.
    pub fn error_code(&mut self, code: u16) -> &mut Self {
        let [class, number] = [code / 100, code % 100].map(|part| part.to_be_bytes()[1]);
        self.attribute(AttributeType::ERROR_CODE, &[0, 0, class & 7, number])
    }

    /// Adds UNKNOWN-ATTRIBUTES.
    pub fn unknown_attributes(&mut self, kinds: &[AttributeType]) -> &mut Self {
        let value: Vec<u8> = kinds.iter().flat_map(|kind| kind.0.to_be_bytes()).collect();
        self.attribute(AttributeType::UNKNOWN_ATTRIBUTES, &value)
    }

    /// Adds PADDING of `len` zero bytes.
    pub fn padding(&mut self, len: u16) -> &mut Self {
        self.attribute(AttributeType::PADDING, &vec![0; usize::from(len)])
    }

    /// Adds MESSAGE-INTEGRITY over what there is so far.
    pub fn integrity_sha1(&mut self, key: &Sha1Key) -> &mut Self {
        let length = self.length_after(4 + Sha1Key::TAG_LEN);
        let tag = key.tag(&self.buffer[self.start..], length);
        self.attribute(AttributeType::MESSAGE_INTEGRITY, tag.as_ref())
    }

    /// Adds MESSAGE-INTEGRITY-SHA256 over what there is so far.
    pub fn integrity_sha256(&mut self, key: &Sha256Key) -> &mut Self {
        self.integrity_sha256_truncated(key, Sha256Key::TAG_LEN)
    }

    /// Adds MESSAGE-INTEGRITY-SHA256 cut to `len` bytes: 16 to 32, a multiple of four
    /// (RFC 8489 §14.6).
    pub fn integrity_sha256_truncated(&mut self, key: &Sha256Key, len: usize) -> &mut Self {
        let len = len.next_multiple_of(4).clamp(Sha256Key::MIN_TAG_LEN, Sha256Key::TAG_LEN);
        let length = self.length_after(4 + len);
        let tag = key.tag(&self.buffer[self.start..], length);
        self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &tag.as_ref()[..len])
    }

    /// Adds FINGERPRINT; nothing may follow.
    pub fn fingerprint(&mut self) -> &mut Self {
        let length = self.length_after(8);
        let crc = fingerprint(&self.buffer[self.start..], length);
        self.attribute(AttributeType::FINGERPRINT, &crc.to_be_bytes())
    }

    /// The bytes of the message so far.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// A message is never empty: it has a header from the start.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What the header's length field says once `more` bytes have been added.
    fn length_after(&self, more: usize) -> u16 {
        u16::try_from(self.len() - HEADER_LEN + more).expect("a message has at most 65,532 bytes")
    }
}
