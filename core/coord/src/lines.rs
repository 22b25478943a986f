//! Two texts, compared line by line.

/// The most pairs of lines that are compared; what is longer is shown as replaced.
const MOST: usize = 1_000_000;
/// How many lines that are in both are shown around those that aren't.
const AROUND: usize = 2;

/// In which text a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum In {
    /// In both.
    Both,
    /// In the old one.
    Old,
    /// In the new one.
    New,
    /// Lines that are in both stand here, and are not shown.
    Gap,
}

/// A line of either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it is.
    pub is_in: In,
    /// What it says.
    pub text: String,
}

impl Line {
    /// Whether it is in the old text alone.
    pub fn is_old(&self) -> bool {
        self.is_in == In::Old
    }

    /// Whether it is in the new text alone.
    pub fn is_new(&self) -> bool {
        self.is_in == In::New
    }

    /// Whether it stands for lines that are not shown.
    pub fn is_gap(&self) -> bool {
        self.is_in == In::Gap
    }
}

/// What is different, with a few lines around.
pub fn changes(old: &str, new: &str) -> Vec<Line> {
    let all = compare(old, new);
    let is_near = |at: usize| {
        let (first, last) = (at.saturating_sub(AROUND), (at + AROUND).min(all.len() - 1));
        all[first..=last].iter().any(|line| line.is_in != In::Both)
    };
    let near: Vec<bool> = (0..all.len()).map(is_near).collect();
    let mut shown: Vec<Line> = Vec::new();
    for (line, is_near) in all.into_iter().zip(near) {
        if is_near {
            shown.push(line);
        } else if shown.last().is_none_or(|last| last.is_in != In::Gap) {
            shown.push(Line { is_in: In::Gap, text: "…".to_owned() });
        }
    }
    shown
}

/// All lines of both, in order, those that are in both once: by their longest common subsequence.
pub fn compare(old: &str, new: &str) -> Vec<Line> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = |(a, b): &(&&str, &&str)| a == b;
    let front = old.iter().zip(&new).take_while(same).count();
    let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(same).count();
    let (old_middle, new_middle) = (&old[front..old.len() - back], &new[front..new.len() - back]);
    let line = |is_in| move |text: &&str| Line { is_in, text: (*text).to_owned() };
    let mut lines: Vec<Line> = old[..front].iter().map(line(In::Both)).collect();
    if old_middle.len().saturating_mul(new_middle.len()) > MOST {
        lines.extend(old_middle.iter().map(line(In::Old)));
        lines.extend(new_middle.iter().map(line(In::New)));
    } else {
        lines.extend(middle(old_middle, new_middle));
    }
    lines.extend(old[old.len() - back..].iter().map(line(In::Both)));
    lines
}

fn middle(old: &[&str], new: &[&str]) -> Vec<Line> {
    // common[a][b]: how many lines old[a..] and new[b..] have in common.
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for a in (0..old.len()).rev() {
        for b in (0..new.len()).rev() {
            common[a][b] = match old[a] == new[b] {
                true => common[a + 1][b + 1] + 1,
                false => common[a + 1][b].max(common[a][b + 1]),
            };
        }
    }
    let (mut a, mut b) = (0, 0);
    let mut lines = Vec::new();
    while a < old.len() || b < new.len() {
        let (is_in, text) = match (old.get(a), new.get(b)) {
            (Some(x), Some(y)) if x == y => (In::Both, x),
            (Some(x), Some(_)) if common[a + 1][b] >= common[a][b + 1] => (In::Old, x),
            (Some(x), None) => (In::Old, x),
            (_, Some(y)) => (In::New, y),
            (None, None) => break,
        };
        a += usize::from(is_in != In::New);
        b += usize::from(is_in != In::Old);
        lines.push(Line { is_in, text: (*text).to_owned() });
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn(lines: &[Line]) -> String {
        let mark = |line: &Line| match line.is_in {
            In::Both => ' ',
            In::Old => '-',
            In::New => '+',
            In::Gap => '@',
        };
        lines.iter().map(|line| format!("{}{}\n", mark(line), line.text)).collect()
    }

    #[test]
    fn what_is_in_one_text_alone_is_marked_and_what_is_far_from_it_left_out() {
        let (old, new) = ("a\nb\nc\nd\ne\nf\ng", "a\nb\nc\nd\nX\nf\nY\ng");
        assert_eq!(drawn(&compare(old, new)), " a\n b\n c\n d\n-e\n+X\n f\n+Y\n g\n");
        assert_eq!(drawn(&changes(old, new)), "@…\n c\n d\n-e\n+X\n f\n+Y\n g\n");
        assert_eq!(drawn(&changes("a\nb", "a\nb")), "@…\n");
        assert!(changes("", "").is_empty());
        let (long, other) = ("x\n".repeat(3000), "y\n".repeat(3000));
        assert_eq!(compare(&long, &other).len(), 6000);
    }

    proptest! {
        #[test]
        fn both_texts_can_be_made_of_the_comparison(
            old in prop::collection::vec("[ab]", 0..12),
            new in prop::collection::vec("[ab]", 0..12),
        ) {
            let lines = compare(&old.join("\n"), &new.join("\n"));
            let of = |other: In| -> Vec<String> {
                lines.iter().filter(|it| it.is_in != other).map(|it| it.text.clone()).collect()
            };
            prop_assert_eq!(of(In::New), old);
            prop_assert_eq!(of(In::Old), new);
        }
    }
}
