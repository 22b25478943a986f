//! What carries data: ChannelData (RFC 8656 §12.4), and the head of a Send or Data indication.
//!
//! ```text
//! |0 1 0 0|  channel number (12)  |  bytes of data (16)           |
//! | data, on a stream padded to a multiple of four …              |
//! ```

use std::net::SocketAddr;
use std::ops::Range;

use super::attribute::{AttributeType, encode_address, xor_address};
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, encode_type};

/// Bytes in front of the data of a ChannelData message.
pub const CHANNEL_HEADER_LEN: usize = 4;

/// A channel, 0x4000–0x7FFF.
///
/// RFC 8656 §12 ends the range at 0x4FFF, and our own clients stay within it; clients that follow
/// RFC 5766 go up to 0x7FFF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The first.
    pub const MIN: Self = Self(0x4000);
    /// The last of RFC 8656, by which channels are told from other protocols on one port.
    pub const MAX: Self = Self(0x4FFF);

    /// A channel by its number; `None` outside the range.
    pub const fn new(number: u16) -> Option<Self> {
        if number & 0xC000 == 0x4000 { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// What stands in front of `data_len` bytes of data.
    pub fn header(self, data_len: u16) -> [u8; CHANNEL_HEADER_LEN] {
        let ([c0, c1], [l0, l1]) = (self.0.to_be_bytes(), data_len.to_be_bytes());
        [c0, c1, l0, l1]
    }
}

/// Reads a ChannelData message: its channel, and where in the datagram the data lies. `None` when
/// the number is no channel's, or the data is shorter than it says. Over UDP a message may be
/// padded, so that something may follow the data.
#[inline]
pub fn channel_data(datagram: &[u8]) -> Option<(ChannelNumber, Range<usize>)> {
    let (&[c0, c1, l0, l1], data) = datagram.split_first_chunk::<CHANNEL_HEADER_LEN>()?;
    let number = ChannelNumber::new(u16::from_be_bytes([c0, c1]))?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    (len <= data.len()).then_some((number, CHANNEL_HEADER_LEN..CHANNEL_HEADER_LEN + len))
}

/// A Send or Data indication up to its data, so that the data needs no copy: head, data, and
/// [`Self::padding`] zero bytes are one message.
#[derive(Debug, Clone, Copy)]
pub struct IndicationHeader {
    bytes: [u8; Self::MAX_LEN],
    len: usize,
    padding: usize,
}

impl IndicationHeader {
    /// The longest head: STUN header, an IPv6 XOR-PEER-ADDRESS, DONT-FRAGMENT, the head of DATA.
    pub const MAX_LEN: usize = HEADER_LEN + 24 + 4 + 4;

    /// The most data that an indication carries, in bytes: its length field has 16 bits.
    pub const MAX_DATA: usize = 65_532 - 24 - 4 - 4;

    /// The head of a Send indication (RFC 8656 §11.1); `None` when the data is longer than
    /// [`Self::MAX_DATA`].
    pub fn send(
        peer: SocketAddr,
        data_len: usize,
        dont_fragment: bool,
        id: TransactionId,
    ) -> Option<Self> {
        Self::new(Method::SEND, peer, data_len, dont_fragment, id)
    }

    /// The head of a Data indication (RFC 8656 §11.3); `None` when the data is longer than
    /// [`Self::MAX_DATA`].
    pub fn data(peer: SocketAddr, data_len: usize, id: TransactionId) -> Option<Self> {
        Self::new(Method::DATA, peer, data_len, false, id)
    }

    fn new(
        method: Method,
        peer: SocketAddr,
        data_len: usize,
        dont_fragment: bool,
        id: TransactionId,
    ) -> Option<Self> {
        let data = u16::try_from(data_len).ok().filter(|_| data_len <= Self::MAX_DATA)?;
        let padding = data_len.next_multiple_of(4) - data_len;
        let mut head = Self { bytes: [0; Self::MAX_LEN], len: HEADER_LEN, padding };
        let mut value = [0; 20];
        let address_len = encode_address(xor_address(peer, id), &mut value);
        head.put(AttributeType::XOR_PEER_ADDRESS, address_len, &value[..address_len]);
        if dont_fragment {
            head.put(AttributeType::DONT_FRAGMENT, 0, &[]);
        }
        head.put(AttributeType::DATA, data.into(), &[]);
        let length = u16::try_from(head.len - HEADER_LEN + data_len + padding)
            .expect("the data is bounded so that the message fits");
        head.bytes[..2].copy_from_slice(&encode_type(Class::Indication, method).to_be_bytes());
        head.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        head.bytes[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        head.bytes[8..HEADER_LEN].copy_from_slice(&id.0);
        Some(head)
    }

    /// An attribute's head, and of its content what is given.
    fn put(&mut self, kind: AttributeType, len: usize, value: &[u8]) {
        let [.., l0, l1] = len.to_be_bytes();
        let [k0, k1] = kind.0.to_be_bytes();
        self.bytes[self.len..self.len + 4].copy_from_slice(&[k0, k1, l0, l1]);
        self.bytes[self.len + 4..self.len + 4 + value.len()].copy_from_slice(value);
        self.len += 4 + value.len();
    }

    /// What stands in front of the data.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How many zero bytes follow the data, 0–3.
    pub fn padding(&self) -> usize {
        self.padding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Message;

    #[test]
    fn channel_data_says_where_its_data_lies() {
        let number = ChannelNumber::new(0x4001).unwrap();
        assert_eq!(number.header(3), [0x40, 1, 0, 3]);
        assert_eq!(channel_data(&[0x40, 1, 0, 1, 9]), Some((number, 4..5)));
        assert_eq!(channel_data(&[0x40, 1, 0, 1, 9, 0, 0, 0]), Some((number, 4..5)));
        assert_eq!(channel_data(&[0x4F, 0xFF, 0, 0]).unwrap().0, ChannelNumber::MAX);
        assert_eq!(channel_data(&[0x40, 1, 0, 2, 9]), None);
        assert_eq!(channel_data(&[0x3F, 0xFF, 0, 0]), None);
        assert_eq!(channel_data(&[0x7F, 0xFF, 0, 0]).unwrap().0.number(), 0x7FFF);
        assert_eq!(channel_data(&[0x80, 0, 0, 0]), None);
        assert_eq!(channel_data(&[0x40, 1, 0]), None);
    }

    #[test]
    fn an_indications_head_and_its_data_make_a_message() {
        let id = TransactionId(*b"abcdefghijkl");
        for peer in ["192.0.2.1:7", "[2001:db8::1]:65535"].map(|p| p.parse().unwrap()) {
            for len in 0..9 {
                for dont_fragment in [false, true] {
                    let data: Vec<u8> = (0..len).collect();
                    let head = IndicationHeader::send(peer, data.len(), dont_fragment, id).unwrap();
                    let bytes = [head.bytes(), &data, &[0; 3][..head.padding()]].concat();
                    let message = Message::parse(&bytes).unwrap();
                    assert_eq!(
                        (message.class(), message.method()),
                        (Class::Indication, Method::SEND)
                    );
                    assert_eq!(message.xor_peer_address(), Some(peer));
                    assert_eq!(message.has_dont_fragment(), dont_fragment);
                    let range = message.attribute_range(AttributeType::DATA).unwrap();
                    assert_eq!(bytes[range], data);
                }
            }
        }
    }

    #[test]
    fn data_that_no_indication_can_carry_gets_no_head() {
        let id = TransactionId([0; 12]);
        let peer = "[2001:db8::1]:1".parse().unwrap();
        let longest = IndicationHeader::MAX_DATA;
        let head = IndicationHeader::send(peer, longest, true, id).unwrap();
        let bytes = [head.bytes(), &vec![0; longest + head.padding()]].concat();
        assert!(Message::parse(&bytes).is_ok());
        assert!(IndicationHeader::data(peer, longest + 1, id).is_none());
    }
}
