//! What of a text people don't see.

/// Whether people don't see a character, though it may change what they see: control characters, Unicode's
/// format characters (such as those that turn the direction of writing), and what couldn't be decoded.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_or_hides_text_is_unseen_and_writing_is_not() {
        assert!("\n\u{202e}\u{200b}\u{2066}\u{feff}".chars().all(is_unseen));
        assert!(!"Kamera-Tür 2 カメラ \u{1f4f7}".chars().any(is_unseen));
    }
}
