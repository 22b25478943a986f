//! The replay window (RFC 6479): a ring of words, of which the newest is partly in the future.
//!
//! Counters up to [`WINDOW`] behind the newest one are told apart; older ones are refused. Moving
//! the window forward clears whole words, so it costs at most one pass over the ring.

/// How far behind the newest counter another one may be.
pub(crate) const WINDOW: u64 = 8192;

const WORD_BITS: u64 = u64::BITS as u64;
/// One more than the window needs, because the newest word may be nearly empty.
const WORDS: u64 = WINDOW / WORD_BITS + 1;

#[derive(Debug)]
pub(crate) struct ReplayWindow {
    /// One more than the newest counter seen; 0 before the first.
    next: u64,
    words: [u64; WORDS as usize],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self { next: 0, words: [0; WORDS as usize] }
    }

    /// Whether this counter was neither seen before nor lies behind the window.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        if self.next - counter > WINDOW {
            return false;
        }
        let (word, bit) = place(counter);
        self.words[word] & bit == 0
    }

    /// Remembers an authenticated counter that [`Self::is_fresh`].
    pub(crate) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            let newest_word = self.next.saturating_sub(1) / WORD_BITS;
            let ahead = (counter / WORD_BITS - newest_word).min(WORDS);
            for i in 1..=ahead {
                self.words[((newest_word + i) % WORDS) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    ((counter / WORD_BITS % WORDS) as usize, 1 << (counter % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn accept(window: &mut ReplayWindow, counter: u64) -> bool {
        let fresh = window.is_fresh(counter);
        if fresh {
            window.mark(counter);
        }
        fresh
    }

    #[test]
    fn each_counter_is_accepted_once() {
        let mut window = ReplayWindow::new();
        for counter in [0, 1, 5, 3, 2, 4, 8191, 8190, 6] {
            assert!(accept(&mut window, counter), "{counter}");
            assert!(!accept(&mut window, counter), "{counter} again");
        }
    }

    #[test]
    fn the_window_reaches_exactly_8192_back() {
        for newest in
            [8192, 8255, 8256, 100_000, 1 << 40, crate::constants::REJECT_AFTER_MESSAGES - 1]
        {
            let mut window = ReplayWindow::new();
            assert!(accept(&mut window, newest));
            assert!(accept(&mut window, newest - (WINDOW - 1)));
            assert!(!accept(&mut window, newest - WINDOW));
        }
    }

    #[test]
    fn it_agrees_with_a_plain_set() {
        let mut state = 7u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let mut window = ReplayWindow::new();
        let (mut seen, mut newest) = (BTreeSet::new(), 0u64);
        for step in 0..200_000 {
            let counter = match step % 50 {
                0 => newest + random(20_000),
                _ => (newest + 70).saturating_sub(random(9000)),
            };
            let expected = !seen.contains(&counter) && counter + WINDOW > newest;
            assert_eq!(accept(&mut window, counter), expected, "{counter} at {newest}");
            if expected {
                seen.insert(counter);
                newest = newest.max(counter);
            }
        }
    }
}
