//! Making texts of strangers harmless.

use warren_proto::is_unseen;

/// At most `limit` characters of `bytes`, without what could deceive or disturb: control characters
/// and those that turn the direction of writing or take no room. Spaces in a row become one.
pub fn clean(bytes: &[u8], limit: usize) -> String {
    // A character takes at most four bytes, and what is dropped shouldn't cost more than what is kept.
    let bytes = &bytes[..bytes.len().min(limit.saturating_mul(16))];
    let text = String::from_utf8_lossy(bytes);
    let mut cleaned = String::new();
    let mut count = 0;
    for c in text.chars() {
        let c = if c.is_whitespace() || c.is_control() { ' ' } else { c };
        if is_unseen(c) || c == ' ' && (cleaned.is_empty() || cleaned.ends_with(' ')) {
            continue;
        }
        if count == limit {
            break;
        }
        cleaned.push(c);
        count += 1;
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_say_is_bounded_and_harmless() {
        assert_eq!(clean(b"  HP\tLaserJet \r\n 400\0", 99), "HP LaserJet 400");
        assert_eq!(clean(b"\x1b[31mred\x1b[0m", 99), "[31mred [0m");
        assert_eq!(clean("a\u{202e}b\u{200b}c".as_bytes(), 99), "abc");
        assert_eq!(clean(&[0xff, b'x', 0xfe], 99), "x");
        assert_eq!(clean("äöü".as_bytes(), 2), "äö");
        assert_eq!(clean(&[b'a'; 100_000], 10).len(), 10);
    }
}
