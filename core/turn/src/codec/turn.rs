//! The attributes of RFC 8656, and those of RFC 8489's long-term credentials.

use std::net::SocketAddr;

use thiserror::Error;

use super::attribute::{AttributeType, decode_address, xor_address};
use super::builder::Builder;
use super::channel::ChannelNumber;
use super::message::Message;
use crate::binding::Family;

/// UDP in REQUESTED-TRANSPORT: its protocol number (RFC 8656 §18.8).
pub const UDP_TRANSPORT: u8 = 17;

/// A family that is neither IPv4 nor IPv6, or a malformed attribute (RFC 8656 §18.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unknown address family")]
pub struct UnknownFamily;

/// How a long-term key is made of a password (RFC 8489 §18.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    /// MD5, for clients of before 2020.
    Md5,
    /// SHA-256.
    Sha256,
}

impl PasswordAlgorithm {
    const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// The content of PASSWORD-ALGORITHM: number, and no parameters.
    pub(crate) const fn encode(self) -> [u8; 4] {
        let [high, low] = self.number().to_be_bytes();
        [high, low, 0, 0]
    }
}

fn family_of(number: u8) -> Option<Family> {
    match number {
        1 => Some(Family::V4),
        2 => Some(Family::V6),
        _ => None,
    }
}

fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

impl<'a> Message<'a> {
    /// REALM, as bytes.
    pub fn realm(&self) -> Option<&'a [u8]> {
        self.attribute(AttributeType::REALM)
    }

    /// NONCE, as bytes.
    pub fn nonce(&self) -> Option<&'a [u8]> {
        self.attribute(AttributeType::NONCE)
    }

    /// CHANNEL-NUMBER; `None` also outside of the range of channels.
    pub fn channel_number(&self) -> Option<ChannelNumber> {
        let &[high, low, _, _] = self.attribute(AttributeType::CHANNEL_NUMBER)? else {
            return None;
        };
        ChannelNumber::new(u16::from_be_bytes([high, low]))
    }

    /// LIFETIME, seconds.
    pub fn lifetime(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(AttributeType::LIFETIME)?.try_into().ok()?))
    }

    /// The first XOR-PEER-ADDRESS.
    pub fn xor_peer_address(&self) -> Option<SocketAddr> {
        self.xor_addresses(AttributeType::XOR_PEER_ADDRESS).next()?
    }

    /// Each XOR-PEER-ADDRESS; `None` for one that is malformed.
    pub fn xor_peer_addresses(&self) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        self.xor_addresses(AttributeType::XOR_PEER_ADDRESS)
    }

    /// Each XOR-RELAYED-ADDRESS (one, or one per family), without malformed ones.
    pub fn xor_relayed_addresses(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        self.xor_addresses(AttributeType::XOR_RELAYED_ADDRESS).flatten()
    }

    fn xor_addresses(
        &self,
        kind: AttributeType,
    ) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        let id = self.transaction_id();
        self.attributes()
            .filter(move |attribute| attribute.kind == kind)
            .map(move |attribute| decode_address(attribute.value).map(|addr| xor_address(addr, id)))
    }

    /// The protocol in REQUESTED-TRANSPORT, [`UDP_TRANSPORT`] for UDP.
    pub fn requested_transport(&self) -> Option<u8> {
        let &[protocol, _, _, _] = self.attribute(AttributeType::REQUESTED_TRANSPORT)? else {
            return None;
        };
        Some(protocol)
    }

    /// The family in REQUESTED-ADDRESS-FAMILY: `None` without it.
    ///
    /// # Errors
    /// [`UnknownFamily`].
    pub fn requested_address_family(&self) -> Result<Option<Family>, UnknownFamily> {
        self.family(AttributeType::REQUESTED_ADDRESS_FAMILY)
    }

    /// The family in ADDITIONAL-ADDRESS-FAMILY, likewise.
    ///
    /// # Errors
    /// [`UnknownFamily`].
    pub fn additional_address_family(&self) -> Result<Option<Family>, UnknownFamily> {
        self.family(AttributeType::ADDITIONAL_ADDRESS_FAMILY)
    }

    fn family(&self, kind: AttributeType) -> Result<Option<Family>, UnknownFamily> {
        match self.attribute(kind) {
            None => Ok(None),
            Some(&[number, _, _, _]) => family_of(number).map(Some).ok_or(UnknownFamily),
            Some(_) => Err(UnknownFamily),
        }
    }

    /// EVEN-PORT: whether the next port is to be reserved too.
    pub fn even_port(&self) -> Option<bool> {
        let &[flags, ..] = self.attribute(AttributeType::EVEN_PORT)? else { return None };
        Some(flags & 0x80 != 0)
    }

    /// RESERVATION-TOKEN.
    pub fn reservation_token(&self) -> Option<[u8; 8]> {
        self.attribute(AttributeType::RESERVATION_TOKEN)?.try_into().ok()
    }

    /// Whether there is DONT-FRAGMENT.
    pub fn has_dont_fragment(&self) -> bool {
        self.attribute(AttributeType::DONT_FRAGMENT).is_some()
    }

    /// Whether a virtual relayed address is asked for, or was given.
    pub fn has_virtual_address(&self) -> bool {
        self.attribute(AttributeType::VIRTUAL_ADDRESS).is_some()
    }

    /// The algorithm in PASSWORD-ALGORITHM; `None` for one that isn't known.
    pub fn password_algorithm(&self) -> Option<PasswordAlgorithm> {
        let value = self.attribute(AttributeType::PASSWORD_ALGORITHM)?;
        [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5]
            .into_iter()
            .find(|algorithm| value.get(..4) == Some(algorithm.encode().as_slice()))
    }
}

impl Builder<'_> {
    /// Adds REALM.
    pub fn realm(&mut self, realm: &[u8]) -> &mut Self {
        self.attribute(AttributeType::REALM, realm)
    }

    /// Adds NONCE.
    pub fn nonce(&mut self, nonce: &[u8]) -> &mut Self {
        self.attribute(AttributeType::NONCE, nonce)
    }

    /// Adds CHANNEL-NUMBER.
    pub fn channel_number(&mut self, number: ChannelNumber) -> &mut Self {
        let [high, low] = number.number().to_be_bytes();
        self.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0])
    }

    /// Adds LIFETIME.
    pub fn lifetime(&mut self, seconds: u32) -> &mut Self {
        self.attribute(AttributeType::LIFETIME, &seconds.to_be_bytes())
    }

    /// Adds REQUESTED-TRANSPORT.
    pub fn requested_transport(&mut self, protocol: u8) -> &mut Self {
        self.attribute(AttributeType::REQUESTED_TRANSPORT, &[protocol, 0, 0, 0])
    }

    /// Adds REQUESTED-ADDRESS-FAMILY.
    pub fn requested_address_family(&mut self, family: Family) -> &mut Self {
        let kind = AttributeType::REQUESTED_ADDRESS_FAMILY;
        self.attribute(kind, &[number_of(family), 0, 0, 0])
    }

    /// Adds ADDITIONAL-ADDRESS-FAMILY.
    pub fn additional_address_family(&mut self, family: Family) -> &mut Self {
        let kind = AttributeType::ADDITIONAL_ADDRESS_FAMILY;
        self.attribute(kind, &[number_of(family), 0, 0, 0])
    }

    /// Adds ADDRESS-ERROR-CODE: why there is no relayed address of a family.
    pub fn address_error_code(&mut self, family: Family, code: u16) -> &mut Self {
        let [class, number] = [code / 100, code % 100].map(|part| part.to_be_bytes()[1]);
        let value = [number_of(family), 0, class & 7, number];
        self.attribute(AttributeType::ADDRESS_ERROR_CODE, &value)
    }

    /// Adds EVEN-PORT.
    pub fn even_port(&mut self, reserve_next: bool) -> &mut Self {
        self.attribute(AttributeType::EVEN_PORT, &[if reserve_next { 0x80 } else { 0 }])
    }

    /// Adds RESERVATION-TOKEN.
    pub fn reservation_token(&mut self, token: [u8; 8]) -> &mut Self {
        self.attribute(AttributeType::RESERVATION_TOKEN, &token)
    }

    /// Adds DONT-FRAGMENT.
    pub fn dont_fragment(&mut self) -> &mut Self {
        self.attribute(AttributeType::DONT_FRAGMENT, &[])
    }

    /// Adds the attribute that asks for a virtual relayed address, or says that it was given.
    pub fn virtual_address(&mut self) -> &mut Self {
        self.attribute(AttributeType::VIRTUAL_ADDRESS, &[])
    }

    /// Adds PASSWORD-ALGORITHM.
    pub fn password_algorithm(&mut self, algorithm: PasswordAlgorithm) -> &mut Self {
        self.attribute(AttributeType::PASSWORD_ALGORITHM, &algorithm.encode())
    }

    /// Adds DATA.
    pub fn data(&mut self, data: &[u8]) -> &mut Self {
        self.attribute(AttributeType::DATA, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Class, Method, TransactionId};

    #[test]
    fn what_is_written_is_read_again() {
        let mut buffer = Vec::new();
        let id = TransactionId(*b"abcdefghijkl");
        let peers: [SocketAddr; 2] =
            ["192.0.2.9:49152", "[2001:db8::9]:1"].map(|peer| peer.parse().unwrap());
        Builder::new(&mut buffer, Class::Request, Method::ALLOCATE, id)
            .realm(b"warren")
            .nonce(b"nonce")
            .channel_number(ChannelNumber::MAX)
            .lifetime(777)
            .xor_peer_address(peers[0])
            .xor_peer_address(peers[1])
            .xor_relayed_address(peers[1])
            .requested_transport(UDP_TRANSPORT)
            .requested_address_family(Family::V6)
            .additional_address_family(Family::V4)
            .even_port(true)
            .reservation_token([7; 8])
            .dont_fragment()
            .virtual_address()
            .password_algorithm(PasswordAlgorithm::Sha256);
        let message = Message::parse(&buffer).unwrap();
        assert_eq!(message.realm(), Some(&b"warren"[..]));
        assert_eq!(message.nonce(), Some(&b"nonce"[..]));
        assert_eq!(message.channel_number(), Some(ChannelNumber::MAX));
        assert_eq!(message.lifetime(), Some(777));
        assert_eq!(message.xor_peer_addresses().collect::<Vec<_>>(), peers.map(Some));
        assert_eq!(message.xor_relayed_addresses().collect::<Vec<_>>(), [peers[1]]);
        assert_eq!(message.requested_transport(), Some(17));
        assert_eq!(message.requested_address_family(), Ok(Some(Family::V6)));
        assert_eq!(message.additional_address_family(), Ok(Some(Family::V4)));
        assert_eq!(message.even_port(), Some(true));
        assert_eq!(message.reservation_token(), Some([7; 8]));
        assert!(message.has_dont_fragment() && message.has_virtual_address());
        assert_eq!(message.password_algorithm(), Some(PasswordAlgorithm::Sha256));
    }

    #[test]
    fn what_is_malformed_is_told_from_what_is_absent() {
        let mut buffer = Vec::new();
        Builder::new(&mut buffer, Class::Request, Method::ALLOCATE, TransactionId([0; 12]))
            .attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0])
            .attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 1, 0])
            .attribute(AttributeType::CHANNEL_NUMBER, &[0x80, 0, 0, 0])
            .attribute(AttributeType::LIFETIME, &[1])
            .attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 3, 0, 0]);
        let message = Message::parse(&buffer).unwrap();
        assert_eq!(message.requested_address_family(), Err(UnknownFamily));
        assert_eq!(message.additional_address_family(), Ok(None));
        assert_eq!(message.xor_peer_addresses().collect::<Vec<_>>(), [None]);
        assert_eq!(message.channel_number(), None);
        assert_eq!(message.lifetime(), None);
        assert_eq!(message.password_algorithm(), None);
    }
}
