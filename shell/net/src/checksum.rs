//! The internet checksum (RFC 1071), over native-endian words: a one's complement sum doesn't care
//! about byte order as long as it is written back the way it was read.

/// A one's complement sum that isn't folded yet; sums of even-sized pieces add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; only the last of several pieces may have an odd length.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if bytes.len() >= 256 && std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, as just detected.
            return Self(unsafe { sum_avx2(bytes) });
        }
        Self(sum_words(bytes))
    }

    /// A 16-bit number of the header, given in the host's order.
    pub(crate) fn of_u16(number: u16) -> Self {
        Self(u64::from(number.to_be()))
    }

    /// A 32-bit number of the header, given in the host's order.
    pub(crate) fn of_u32(number: u32) -> Self {
        Self(u64::from(number.to_be()))
    }

    /// The 16-bit one's complement sum, in wire order when stored by `to_ne_bytes`.
    pub(crate) fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum as u16
    }

    /// The checksum field's two bytes.
    pub(crate) fn field(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The checksum field's two bytes in UDP, where zero means that there is none.
    pub(crate) fn udp_field(self) -> [u8; 2] {
        match self.field() {
            [0, 0] => [0xff, 0xff],
            field => field,
        }
    }
}

impl std::ops::Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // Sums of at most 2^32 words each: far from overflow for packets.
        Self(self.0 + other.0)
    }
}

/// The internet checksum of `bytes` as its two bytes on the wire (RFC 1071).
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    Sum::of(bytes).field()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_words(bytes)
}

#[inline(always)]
fn sum_words(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, tail) = rest.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        sum += u64::from(u32::from_ne_bytes(last));
    }
    sum + lanes.iter().sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 as it is written: big-endian words, carries folded at once.
    fn by_the_book(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        // RFC 1071 §3: the sum is ddf2, so the checksum is its complement.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), [0x22, 0x0d]);
    }

    #[test]
    fn every_length_agrees_with_the_plain_sum() {
        let bytes: Vec<u8> =
            (0..3000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in (0..600).chain(1400..1500).chain([2999, 3000]) {
            assert_eq!(checksum(&bytes[..len]), by_the_book(&bytes[..len]), "{len} bytes");
            assert_eq!(checksum(&vec![0xff; len]), by_the_book(&vec![0xff; len]), "{len} × ff");
        }
    }

    #[test]
    fn pieces_add_up_to_the_whole() {
        let bytes: Vec<u8> = (0..999u32).map(|i| (i * 7) as u8).collect();
        for cut in (0..999).step_by(2) {
            let sum = Sum::of(&bytes[..cut]) + Sum::of(&bytes[cut..]);
            assert_eq!(sum.field(), by_the_book(&bytes), "cut at {cut}");
        }
    }
}
