/// A set of rules, by their index in the text: one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RuleSet(Vec<u64>);

impl RuleSet {
    pub(super) fn insert(&mut self, rule: usize) {
        let word = rule / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (rule % 64);
    }

    /// Adds all of another set.
    pub(super) fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    pub(super) fn contains(&self, rule: usize) -> bool {
        self.0.get(rule / 64).is_some_and(|word| word & 1 << (rule % 64) != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The rules that are in both.
    pub(super) fn common(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// The rules, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().zip(0..).flat_map(|(bits_of_word, word)| bits(*bits_of_word, word * 64))
    }
}

fn bits(mut word: u64, first: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(first + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(rules: &[usize]) -> RuleSet {
        let mut set = RuleSet::default();
        rules.iter().for_each(|rule| set.insert(*rule));
        set
    }

    #[test]
    fn sets_meet_in_what_they_have_in_common() {
        let (a, b) = (set(&[0, 63, 64, 200]), set(&[1, 64, 199, 200]));
        assert!(a.meets(&b));
        assert_eq!(a.common(&b).iter().collect::<Vec<_>>(), [64, 200]);
        assert!(a.common(&set(&[1, 65])).is_empty() && !a.is_empty());
        assert!(!a.meets(&set(&[2, 65])));
        assert!(!a.meets(&RuleSet::default()));
        assert!(a.contains(63) && !a.contains(62) && !a.contains(9999));
        let mut joined = set(&[2]);
        joined.join(&a);
        assert_eq!(joined.iter().collect::<Vec<_>>(), [0, 2, 63, 64, 200]);
    }
}
