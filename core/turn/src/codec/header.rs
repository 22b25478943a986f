use std::fmt;

/// The fixed value at offset 4 that tells STUN from other protocols (RFC 8489 §5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Bytes in front of the first attribute (RFC 8489 §5).
pub const HEADER_LEN: usize = 20;

/// What kind of message of its method it is (RFC 8489 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// The answer that was hoped for.
    Success,
    /// The other one.
    Error,
}

/// What a message is about, 12 bits (RFC 8489 §18.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(u16);

impl Method {
    /// Binding (RFC 8489 §18.2).
    pub const BINDING: Self = Self(0x001);
    /// Allocate (RFC 8656 §17).
    pub const ALLOCATE: Self = Self(0x003);
    /// Refresh (RFC 8656 §17).
    pub const REFRESH: Self = Self(0x004);
    /// Send, an indication (RFC 8656 §17).
    pub const SEND: Self = Self(0x006);
    /// Data, an indication (RFC 8656 §17).
    pub const DATA: Self = Self(0x007);
    /// CreatePermission (RFC 8656 §17).
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// ChannelBind (RFC 8656 §17).
    pub const CHANNEL_BIND: Self = Self(0x009);

    /// A method by its number; `None` above 12 bits.
    pub const fn new(number: u16) -> Option<Self> {
        if number <= 0xFFF { Some(Self(number)) } else { None }
    }

    /// Its number, at most 0xFFF.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Ties an answer to its request: 96 bits that an outsider can't guess (RFC 8489 §5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransactionId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// Whether a datagram is meant as STUN: the two zero bits and the magic cookie (RFC 8489 §6.3).
/// It may still fail to parse.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN
        && datagram[0] & 0xC0 == 0
        && datagram[4..8] == MAGIC_COOKIE.to_be_bytes()
}

/// Whether a datagram is meant as TURN ChannelData: a channel number of 0x4000–0x4FFF and a length
/// that fits (RFC 8656 §12.4). Over UDP the data may be padded, so it may be longer than it says.
pub fn is_channel_data(datagram: &[u8]) -> bool {
    let [first, _, high, low, data @ ..] = datagram else { return false };
    first & 0xF0 == 0x40 && usize::from(u16::from_be_bytes([*high, *low])) <= data.len()
}

/// The 14 bits of class and method, interleaved as RFC 8489 §5 draws them.
pub(crate) fn encode_type(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    let m = method.0;
    (m & 0x00F) | (m & 0x070) << 1 | (m & 0xF80) << 2 | class
}

pub(crate) fn decode_type(bits: u16) -> (Class, Method) {
    let class = match bits & 0x110 {
        0x000 => Class::Request,
        0x010 => Class::Indication,
        0x100 => Class::Success,
        _ => Class::Error,
    };
    (class, Method(bits & 0x00F | (bits & 0x0E0) >> 1 | (bits & 0x3E00) >> 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_and_method_survives_the_interleaving() {
        for number in 0..=0xFFF {
            let method = Method::new(number).unwrap();
            for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
                let bits = encode_type(class, method);
                assert_eq!(bits & 0xC000, 0);
                assert_eq!(decode_type(bits), (class, method));
            }
        }
        assert_eq!(encode_type(Class::Success, Method::BINDING), 0x0101);
        assert_eq!(Method::new(0x1000), None);
    }

    #[test]
    fn channel_data_is_told_by_its_number_and_length() {
        assert!(is_channel_data(&[0x40, 0, 0, 1, 9]));
        assert!(is_channel_data(&[0x4F, 0xFF, 0, 0]));
        assert!(is_channel_data(&[0x40, 0, 0, 1, 9, 0, 0, 0]));
        assert!(!is_channel_data(&[0x40, 0, 0, 2, 9]));
        assert!(!is_channel_data(&[0x50, 0, 0, 0]));
        assert!(!is_channel_data(&[0x40, 0, 0]));
    }
}
