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

/// Whether a text is what people see of it, on one line: without [`is_unseen`] characters, but for one joiner
/// (U+200C, U+200D) at a time between two of a script that is written with them, as emoji of several parts and
/// Persian are, and for one selector (U+FE0F and others) behind a symbol or an ideograph; and without blanks but
/// spaces. Spaces alone, or nothing, are.
#[must_use]
pub fn is_plain_text(text: &str) -> bool {
    let (mut joinable, mut selectable, mut joined) = (false, false, false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if is_joiner(c) {
            if !joinable {
                return false;
            }
            (joinable, selectable, joined) = (false, false, true);
        } else if is_selector(c) {
            // On a key: `1`, the selector, the key.
            if !selectable && characters.peek() != Some(&'\u{20e3}') {
                return false;
            }
            selectable = false;
        } else if is_unseen(c) || is_blank(c) || joined && !takes_joiners(c) {
            return false;
        } else {
            (joinable, selectable, joined) = (takes_joiners(c), takes_selectors(c), false);
        }
    }
    !joined
}

/// Joins what stands before it to what follows, or keeps it apart.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether a joiner beside it is seen: of scripts from Arabic to Burmese, from Tagalog to Batak and Adlam's, and
/// symbols. Between other letters it would make two texts that look the same.
fn takes_joiners(c: char) -> bool {
    matches!(c,
        '\u{600}'..='\u{109f}' | '\u{1700}'..='\u{1bff}' | '\u{2190}'..='\u{2bff}' | '\u{a840}'..='\u{abff}'
            | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{10a00}'..='\u{11fff}'
            | '\u{1e900}'..='\u{1e95f}' | '\u{1f000}'..='\u{1faff}')
}

/// Chooses how the character before it looks, and is nothing by itself.
fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Whether a selector behind it is seen: symbols and ideographs.
fn takes_selectors(c: char) -> bool {
    matches!(c,
        '\u{a9}' | '\u{ae}' | '\u{203c}'..='\u{32ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
            | '\u{1f000}'..='\u{1faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Takes room, perhaps, and shows nothing: Hangul's fillers, Braille's empty cell, the grapheme joiner.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What turns the direction of writing.
    const BIDI: [char; 12] = [
        '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}',
        '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
    ];

    #[test]
    fn what_turns_or_hides_text_is_unseen_and_writing_is_not() {
        assert!("\n\u{202e}\u{200b}\u{2066}\u{feff}".chars().all(is_unseen));
        assert!(!"Kamera-Tür 2 カメラ \u{1f4f7}".chars().any(is_unseen));
    }

    #[test]
    fn emoji_of_several_parts_and_persian_are_plain_and_what_shows_nothing_is_not() {
        let heart_on_fire = "\u{2764}\u{fe0f}\u{200d}\u{1f525}";
        let family = "\u{1f468}\u{1f3fd}\u{200d}\u{1f469}\u{200d}\u{1f467} at home";
        for plain in [
            "",
            "  ",
            "Kamera-Tür 2",
            "1\u{fe0f}\u{20e3}",
            heart_on_fire,
            family,
            "می\u{200c}خواهم",
            "क्\u{200d}ष",
        ] {
            assert!(is_plain_text(plain), "{plain:?}");
        }
        let hidden = [
            "\u{200d}",
            "\u{fe0f}",
            "\u{3164}",
            " \u{2800} ",
            "a\u{200d}",
            "\u{200d}a",
            "م\u{200c}\u{200d}خ",
            "cam\u{200d}era",
            "cam\u{fe0f}era",
            "cam\u{34f}era",
            "\u{2764}\u{fe0f}\u{fe0f}",
            "m\u{200c}خ",
            "می\u{200c}x",
            "می\u{200c} خ",
            "م\u{200d}\u{fe0f}خ",
            "a\u{200b}b",
            "a\nb",
            "two\u{2028}lines",
        ];
        for hidden in hidden {
            assert!(!is_plain_text(hidden), "{hidden:?}");
        }
    }

    fn visible() -> impl Strategy<Value = char> {
        let seen = |c: &char| !is_unseen(*c) && !is_selector(*c) && !is_blank(*c);
        prop_oneof![
            prop::char::range('a', 'z'),
            prop::char::range('\u{1f300}', '\u{1f6ff}'),
            prop::char::range('\u{620}', '\u{64a}'),
            any::<char>()
        ]
        .prop_filter("visible", seen)
    }

    proptest! {
        #[test]
        fn a_joiner_is_plain_between_two_characters_that_are_written_with_it_and_nowhere_else(
            text in prop::collection::vec(visible(), 2..40),
            joiners in prop::collection::vec((0_usize..64, prop::bool::ANY), 0..20),
        ) {
            let (mut joined, mut expected) = (String::new(), true);
            for (index, c) in text.iter().enumerate() {
                let joiner = joiners.iter().find(|(at, _)| *at == index && index > 0);
                expected &= joiner.is_none() || takes_joiners(text[index - 1]) && takes_joiners(*c);
                joined.extend(joiner.map(|(_, apart)| if *apart { '\u{200c}' } else { '\u{200d}' }));
                joined.push(*c);
            }
            prop_assert_eq!(is_plain_text(&joined), expected, "{:?}", joined);
            let (after, before) = (format!("{joined}\u{200d}"), format!("\u{200c}{joined}"));
            prop_assert!(!is_plain_text(&after) && !is_plain_text(&before));
        }

        #[test]
        fn what_turns_the_writing_is_never_plain(
            before in ".{0,20}", bidi in prop::sample::select(&BIDI[..]), after in ".{0,20}",
        ) {
            let text = format!("{before}{bidi}{after}");
            prop_assert!(!is_plain_text(&text));
        }

        #[test]
        fn of_a_plain_text_something_is_seen_and_every_unseen_character_joins(text in "\\PC{0,12}[\u{200b}-\u{200e}\u{fe0f}\u{3164}]{0,3}\\PC{0,6}") {
            if is_plain_text(&text) {
                let visible = |c: &char| !is_unseen(*c) && !is_selector(*c) && !is_blank(*c);
                prop_assert!(text.trim().is_empty() || text.chars().any(|c| visible(&c)));
                prop_assert!(text.chars().filter(|c| is_unseen(*c)).all(is_joiner));
            }
        }
    }
}
