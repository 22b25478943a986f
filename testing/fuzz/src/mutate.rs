//! Changes inputs as a fuzzer would, from a seed.

/// A small mutator: one seed, one sequence of inputs.
#[derive(Debug)]
pub struct Mutator(u64);

/// Words that parsers know.
const WORDS: &[&[u8]] = &[
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"-1",
    b"1e309",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"0.0.0.0",
    b"::",
    b":0",
    b"255.255.255.255:65535",
    b"\n\n",
    b"\r\n",
    b"data:",
    b"\x01\0\0\0",
    b"\x02\0\0\0",
    b"\x03\0\0\0",
    b"\x04\0\0\0",
    b"\x21\x12\xa4\x42",
    b"\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
];

impl Mutator {
    /// A mutator that begins with `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// A variant of `original`, perhaps with a part of `other` in it; at most 64 bytes longer.
    pub fn mutate(&mut self, original: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, other);
        }
        bytes.truncate(original.len() + 64);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let end = (at + 1 + self.below(16)).min(bytes.len());
        match self.below(8) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
            3 if !bytes.is_empty() => drop(bytes.drain(at..end)),
            4 if !bytes.is_empty() => {
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            5 => {
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            6 if !other.is_empty() => {
                let from = self.below(other.len());
                let to = (from + 1 + self.below(32)).min(other.len());
                bytes.splice(at..end.min(at + to - from), other[from..to].iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
}
