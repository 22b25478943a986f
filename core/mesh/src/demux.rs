//! What a datagram on the data socket is, by its first bytes (protocols.md §3).

use warren_turn::{is_channel_data, is_stun};

/// What a datagram is taken for. It may still turn out to be malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    WireGuard,
    Stun,
    ChannelData,
    Unknown,
}

/// Classifies a datagram.
///
/// | first bytes | what it is |
/// | --- | --- |
/// | 1, 2, 3 or 4, then three zero bytes | WireGuard (whitepaper §5.4) |
/// | two zero bits, and 0x2112A442 at offset 4 | STUN or TURN (RFC 8489 §5) |
/// | 0x40–0x4F, and a length that fits | ChannelData of a relay (RFC 8656 §12.4) |
/// | anything else | to be dropped and counted |
///
/// No datagram fits two rows: STUN's first bytes are a message type of 14 bits whose first byte is
/// 0–3, and where that is 1, 2 or 3 with a zero second byte the two bytes after it, STUN's length,
/// would have to be zero for WireGuard; such a message has no room for anything that this node
/// accepts, so WireGuard may have it.
pub(crate) fn classify(datagram: &[u8]) -> Kind {
    if let [1..=4, 0, 0, 0, ..] = datagram {
        Kind::WireGuard
    } else if is_stun(datagram) {
        Kind::Stun
    } else if is_channel_data(datagram) {
        Kind::ChannelData
    } else {
        Kind::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_is_told_by_its_first_bytes() {
        for kind in 1..=4 {
            assert_eq!(classify(&[kind, 0, 0, 0, 9]), Kind::WireGuard);
        }
        let mut stun = [0; 20];
        stun[1] = 1;
        stun[4..8].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
        assert_eq!(classify(&stun), Kind::Stun);
        stun[0] = 1;
        stun[3] = 8;
        assert_eq!(classify(&stun), Kind::Stun);
        assert_eq!(classify(&[0x40, 0, 0, 1, 1]), Kind::ChannelData);
    }

    #[test]
    fn anything_else_is_unknown() {
        for datagram in [
            &[][..],
            &[1],
            &[1, 0, 0],
            &[0, 0, 0, 0],
            &[5, 0, 0, 0],
            &[1, 0, 0, 1],
            &[0x45, 0, 0, 1],
            &[0x50, 0, 0, 0],
            &[0; 20],
        ] {
            assert_eq!(classify(datagram), Kind::Unknown, "{datagram:?}");
        }
    }
}
