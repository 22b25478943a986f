use std::net::SocketAddr;
use std::ops::Range;

use subtle::ConstantTimeEq;
use thiserror::Error;

use super::attribute::{AttributeType, ChangeRequest, decode_address, xor_address};
use super::header::{Class, HEADER_LEN, Method, TransactionId, decode_type, is_stun};
use super::integrity::{Fingerprint, Integrity, Sha1Key, Sha256Key, fingerprint};

/// The most attributes that a message may have; real ones have a dozen.
pub const MAX_ATTRIBUTES: usize = 64;

const ATTRIBUTE_HEADER_LEN: usize = 4;

/// Why a datagram is no STUN message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// It is too short for a header, its first two bits aren't zero, or the magic cookie is missing.
    #[error("not STUN")]
    NotStun,
    /// The header's length isn't the datagram's, or no multiple of four.
    #[error("the length in the header is wrong")]
    Length,
    /// An attribute reaches beyond the message's end, or one with a fixed length has another.
    #[error("the length of an attribute is wrong")]
    AttributeLength,
    /// It has more than [`MAX_ATTRIBUTES`].
    #[error("too many attributes")]
    TooManyAttributes,
    /// Something follows FINGERPRINT, which must be last.
    #[error("FINGERPRINT is not last")]
    AfterFingerprint,
}

/// One attribute of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What it is about.
    pub kind: AttributeType,
    /// Its content, without padding.
    pub value: &'a [u8],
}

/// A STUN message in the datagram that it came in.
///
/// Whatever follows an integrity attribute isn't covered by it, so that its accessors don't show
/// it: attributes end at the first of MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT
/// (RFC 8489 §14.5). Of several attributes of one type the first counts (RFC 8489 §14).
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Where the attributes that count end.
    end: usize,
    sha1: Option<usize>,
    sha256: Option<Located>,
    fingerprint: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Located {
    at: usize,
    len: usize,
}

impl<'a> Message<'a> {
    /// Reads a datagram that is one whole STUN message.
    ///
    /// # Errors
    /// When any length in it is wrong; the checks are listed at [`ParseError`].
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        if !is_stun(datagram) {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
        if !length.is_multiple_of(4) || HEADER_LEN + length != datagram.len() {
            return Err(ParseError::Length);
        }
        let mut message = Self {
            bytes: datagram,
            end: datagram.len(),
            sha1: None,
            sha256: None,
            fingerprint: None,
        };
        let mut at = HEADER_LEN;
        let mut count = 0;
        while at < datagram.len() {
            count += 1;
            if count > MAX_ATTRIBUTES {
                return Err(ParseError::TooManyAttributes);
            }
            if message.fingerprint.is_some() {
                return Err(ParseError::AfterFingerprint);
            }
            let (attribute, next) =
                attribute_at(datagram, at).ok_or(ParseError::AttributeLength)?;
            message.locate(attribute, at)?;
            at = next;
        }
        Ok(message)
    }

    fn locate(&mut self, attribute: Attribute<'a>, at: usize) -> Result<(), ParseError> {
        let len = attribute.value.len();
        let fits = match attribute.kind {
            AttributeType::MESSAGE_INTEGRITY => {
                if self.sha1.is_none() && self.sha256.is_none() {
                    self.sha1 = Some(at);
                }
                len == Sha1Key::TAG_LEN
            }
            AttributeType::MESSAGE_INTEGRITY_SHA256 => {
                self.sha256.get_or_insert(Located { at, len });
                (Sha256Key::MIN_TAG_LEN..=Sha256Key::TAG_LEN).contains(&len)
                    && len.is_multiple_of(4)
            }
            AttributeType::FINGERPRINT => {
                self.fingerprint = Some(at);
                len == 4
            }
            _ => return Ok(()),
        };
        self.end = self.end.min(at);
        if fits { Ok(()) } else { Err(ParseError::AttributeLength) }
    }

    /// Its class.
    pub fn class(&self) -> Class {
        self.kind().0
    }

    /// Its method.
    pub fn method(&self) -> Method {
        self.kind().1
    }

    fn kind(&self) -> (Class, Method) {
        decode_type(u16::from_be_bytes([self.bytes[0], self.bytes[1]]))
    }

    /// Its transaction id.
    pub fn transaction_id(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        TransactionId(id)
    }

    /// The whole message as it came.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The attributes in their order, without integrity and fingerprint and what follows them.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { bytes: &self.bytes[..self.end], at: HEADER_LEN }
    }

    /// The content of the first attribute of a type.
    pub fn attribute(&self, kind: AttributeType) -> Option<&'a [u8]> {
        self.attributes().find(|attribute| attribute.kind == kind).map(|found| found.value)
    }

    /// Where in the datagram the content of the first attribute of a type lies.
    pub fn attribute_range(&self, kind: AttributeType) -> Option<Range<usize>> {
        let mut attributes = self.attributes();
        attributes.find(|attribute| attribute.kind == kind).map(|found| {
            let end = attributes.at - padding(found.value.len());
            end - found.value.len()..end
        })
    }

    /// The comprehension-required attributes that are not among `known`; a request that has some
    /// is answered with error 420, a response that has some is dropped (RFC 8489 §6.3).
    pub fn unknown_required<'k>(
        &self,
        known: &'k [AttributeType],
    ) -> impl Iterator<Item = AttributeType> + use<'a, 'k> {
        self.attributes()
            .map(|attribute| attribute.kind)
            .filter(move |kind| kind.is_comprehension_required() && !known.contains(kind))
    }

    /// XOR-MAPPED-ADDRESS.
    pub fn xor_mapped_address(&self) -> Option<SocketAddr> {
        let addr = decode_address(self.attribute(AttributeType::XOR_MAPPED_ADDRESS)?)?;
        Some(xor_address(addr, self.transaction_id()))
    }

    /// MAPPED-ADDRESS, which routers may have rewritten on the way.
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        decode_address(self.attribute(AttributeType::MAPPED_ADDRESS)?)
    }

    /// OTHER-ADDRESS.
    pub fn other_address(&self) -> Option<SocketAddr> {
        decode_address(self.attribute(AttributeType::OTHER_ADDRESS)?)
    }

    /// RESPONSE-ORIGIN.
    pub fn response_origin(&self) -> Option<SocketAddr> {
        decode_address(self.attribute(AttributeType::RESPONSE_ORIGIN)?)
    }

    /// CHANGE-REQUEST.
    pub fn change_request(&self) -> Option<ChangeRequest> {
        ChangeRequest::decode(self.attribute(AttributeType::CHANGE_REQUEST)?)
    }

    /// USERNAME, as bytes: nothing here depends on its being UTF-8.
    pub fn username(&self) -> Option<&'a [u8]> {
        self.attribute(AttributeType::USERNAME)
    }

    /// The number in ERROR-CODE, 300–699.
    pub fn error_code(&self) -> Option<u16> {
        let &[_, _, class, number, ..] = self.attribute(AttributeType::ERROR_CODE)? else {
            return None;
        };
        let class = class & 7;
        ((3..=6).contains(&class) && number < 100)
            .then(|| u16::from(class) * 100 + u16::from(number))
    }

    /// The types in UNKNOWN-ATTRIBUTES.
    pub fn unknown_attributes(&self) -> impl Iterator<Item = AttributeType> + use<'a> {
        self.attribute(AttributeType::UNKNOWN_ATTRIBUTES)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| AttributeType(u16::from_be_bytes([pair[0], pair[1]])))
    }

    /// Whether there is a MESSAGE-INTEGRITY that counts.
    pub fn has_sha1(&self) -> bool {
        self.sha1.is_some()
    }

    /// Whether there is a MESSAGE-INTEGRITY-SHA256.
    pub fn has_sha256(&self) -> bool {
        self.sha256.is_some()
    }

    /// Checks MESSAGE-INTEGRITY, in constant time.
    pub fn verify_sha1(&self, key: &Sha1Key) -> Integrity {
        let Some(at) = self.sha1 else { return Integrity::Absent };
        let len = Sha1Key::TAG_LEN;
        let tag = key.tag(&self.bytes[..at], self.length_at(at, len));
        self.compare(tag.as_ref(), at, len)
    }

    /// Checks MESSAGE-INTEGRITY-SHA256, truncated or not, in constant time.
    pub fn verify_sha256(&self, key: &Sha256Key) -> Integrity {
        let Some(Located { at, len }) = self.sha256 else { return Integrity::Absent };
        let tag = key.tag(&self.bytes[..at], self.length_at(at, len));
        self.compare(tag.as_ref(), at, len)
    }

    /// Checks FINGERPRINT.
    pub fn verify_fingerprint(&self) -> Fingerprint {
        let Some(at) = self.fingerprint else { return Fingerprint::Absent };
        let crc = fingerprint(&self.bytes[..at], self.length_at(at, 4));
        let value = &self.bytes[at + ATTRIBUTE_HEADER_LEN..][..4];
        if value == crc.to_be_bytes() { Fingerprint::Valid } else { Fingerprint::Wrong }
    }

    fn compare(&self, tag: &[u8], at: usize, len: usize) -> Integrity {
        let value = &self.bytes[at + ATTRIBUTE_HEADER_LEN..][..len];
        if bool::from(tag[..len].ct_eq(value)) { Integrity::Valid } else { Integrity::Wrong }
    }

    /// What the header's length field is taken to be where an attribute at `at` is checked.
    fn length_at(&self, at: usize, len: usize) -> u16 {
        let end = at + ATTRIBUTE_HEADER_LEN + len - HEADER_LEN;
        u16::try_from(end).expect("the message's own length field is 16 bits and covers `end`")
    }
}

/// Iterates over a message's attributes; see [`Message::attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (attribute, next) = attribute_at(self.bytes, self.at)?;
        self.at = next;
        Some(attribute)
    }
}

/// Zero bytes that follow a content of `len` bytes (RFC 8489 §14).
fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

/// The attribute at an offset and the offset of the next one.
fn attribute_at(bytes: &[u8], at: usize) -> Option<(Attribute<'_>, usize)> {
    let (&[t0, t1, l0, l1], rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let padded = len.next_multiple_of(4);
    let value = rest.get(..padded)?;
    let attribute =
        Attribute { kind: AttributeType(u16::from_be_bytes([t0, t1])), value: &value[..len] };
    Some((attribute, at + ATTRIBUTE_HEADER_LEN + padded))
}
