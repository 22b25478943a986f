//! What a check of a text has found, as the page shows it.

use std::collections::BTreeMap;

use warren_coord::policy::{Outline, Problem, Report, Row, Severity, Side};

use super::super::answer::sentence;
use super::words::{self, Word};

/// How good the news is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Idle,
    Warn,
    Bad,
}

impl Tone {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Idle => "idle",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// Something that is wrong, with the line that it is wrong in.
pub(super) struct Finding {
    pub(super) is_error: bool,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
    /// The line, in three parts: the middle one is meant.
    pub(super) source: [String; 3],
}

/// A test of the text.
pub(super) struct Tried {
    pub(super) line: usize,
    pub(super) from: Word,
    pub(super) to: Word,
    pub(super) port: Option<Word>,
    pub(super) allow: bool,
    pub(super) holds: bool,
}

/// Who gains, or who loses.
pub(super) struct Effect {
    pub(super) rows: Vec<EffectRow>,
    pub(super) more: usize,
    pub(super) pairs: usize,
}

pub(super) struct EffectRow {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) ports: String,
}

impl Effect {
    fn new(side: &Side) -> Self {
        let row = |row: &Row| EffectRow {
            from: counted(&row.from, row.from_devices),
            to: counted(&row.to, row.to_devices),
            ports: row.ports.iter().map(|it| words::port(it).said).collect::<Vec<_>>().join(", "),
        };
        Self { rows: side.rows.iter().map(row).collect(), more: side.more, pairs: side.pairs }
    }
}

/// Devices as the report calls them, as people say it.
fn counted(label: &str, devices: usize) -> String {
    let said = |words: &str| {
        words.split(" + ").map(|word| words::what(word).said).collect::<Vec<_>>().join(" + ")
    };
    let all = label.split(", ").map(said).collect::<Vec<_>>().join(", ");
    if devices > 1 { format!("{all} ({devices} devices)") } else { all }
}

/// What a check has found.
pub(super) struct Findings {
    pub(super) problems: Vec<Finding>,
    pub(super) tests: Vec<Tried>,
    pub(super) losses: Effect,
    pub(super) gains: Effect,
    pub(super) is_good: bool,
    /// All of it in a sentence.
    pub(super) verdict: String,
    pub(super) tone: Tone,
}

impl Findings {
    pub(super) fn new(report: &Report, text: &str, is_changed: bool) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let problem = |problem: &Problem| Finding {
            is_error: problem.severity == Severity::Error,
            line: problem.line,
            column: problem.column,
            message: sentence(&problem.message),
            source: marked(lines.get(problem.line - 1).unwrap_or(&""), problem.column),
        };
        let tests = report.tests.iter().map(|test| Tried {
            line: test.line,
            from: words::who(&test.from),
            to: words::what(&test.to),
            port: test.port.as_deref().map(words::port),
            allow: test.allow,
            holds: test.holds,
        });
        let (verdict, tone) = verdict(report, is_changed);
        Self {
            problems: report.problems.iter().map(problem).collect(),
            tests: tests.collect(),
            losses: Effect::new(&report.difference.losses),
            gains: Effect::new(&report.difference.gains),
            is_good: report.is_good(),
            verdict,
            tone,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.tests.iter().filter(|test| test.holds).count()
    }
}

/// A line around the word that begins at `column`, from 1.
fn marked(line: &str, column: usize) -> [String; 3] {
    let at = line.char_indices().nth(column - 1).map_or(line.len(), |(at, _)| at);
    let (before, rest) = line.split_at(at);
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
    let end = match quote {
        Some(quote) => rest[1..].find(quote).map(|end| end + 2),
        None => rest.find(char::is_whitespace),
    };
    let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
    [before, word, after].map(str::to_owned)
}

fn verdict(report: &Report, is_changed: bool) -> (String, Tone) {
    let failed = report.tests.iter().filter(|test| !test.holds).count();
    let errors = report.problems.iter().filter(|it| it.severity == Severity::Error).count();
    let many = |count: usize, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    // A test that fails is an error, too.
    let other = errors - failed.min(errors);
    let (lost, gained) = (report.difference.losses.pairs, report.difference.gains.pairs);
    let pairs = |count| many(count, "pair of devices", "pairs of devices");
    match (other, failed, lost, gained) {
        (1.., ..) => (format!("{}: it can't be saved.", many(other, "error", "errors")), Tone::Bad),
        (0, 1.., ..) => {
            let tests = many(failed, "test doesn't hold", "tests don't hold");
            (format!("{tests}: it can't be saved."), Tone::Bad)
        }
        (0, 0, 0, 0) if is_changed => ("Nobody gains or loses access.".to_owned(), Tone::Good),
        (0, 0, 0, 0) => ("This is in force.".to_owned(), Tone::Idle),
        (0, 0, 0, gained) => {
            let verb = if gained == 1 { "gains" } else { "gain" };
            (format!("{} {verb} access, none loses it.", pairs(gained)), Tone::Good)
        }
        (0, 0, lost, gained) => {
            let verb = if lost == 1 { "loses" } else { "lose" };
            let gain = match gained {
                0 => "none gains it".to_owned(),
                gained => format!("{gained} gain it"),
            };
            (format!("{} {verb} access, {gain}.", pairs(lost)), Tone::Warn)
        }
    }
}

/// What is wrong with an entry.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) is_error: bool,
    pub(super) message: String,
}

/// What is wrong, by the line that an entry begins at: what stands further down is a part of it.
pub(super) fn by_entry(report: &Report, outline: &Outline) -> BTreeMap<usize, Vec<Told>> {
    let groups = outline.groups.iter().map(|it| it.line);
    let rules = outline.rules.iter().map(|it| it.line);
    let tests = outline.tests.iter().map(|it| it.line);
    let mut problems: BTreeMap<usize, Vec<Told>> =
        groups.chain(rules).chain(tests).map(|line| (line, Vec::new())).collect();
    for problem in &report.problems {
        if let Some((_, of_entry)) = problems.range_mut(..=problem.line).next_back() {
            let is_error = problem.severity == Severity::Error;
            of_entry.push(Told { is_error, message: sentence(&problem.message) });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use warren_coord::policy::{Difference, TestResult};

    use super::*;

    fn report(errors: usize, failed: usize, lost: usize, gained: usize) -> Report {
        let problem =
            Problem { severity: Severity::Error, line: 2, column: 1, message: "no".to_owned() };
        let test = TestResult {
            line: 5,
            from: "*".to_owned(),
            to: "*".to_owned(),
            port: None,
            allow: true,
            holds: false,
        };
        let side = |pairs| Side { rows: Vec::new(), more: 0, pairs };
        Report {
            problems: vec![problem; errors + failed],
            tests: vec![test; failed],
            difference: Difference { gains: side(gained), losses: side(lost) },
        }
    }

    #[test]
    fn the_verdict_is_the_worst_that_there_is() {
        let say = |report: &Report, changed| {
            let (text, tone) = verdict(report, changed);
            (text, tone.word())
        };
        let of = |errors, failed, lost, gained| say(&report(errors, failed, lost, gained), true);
        assert_eq!(of(2, 1, 0, 0), ("2 errors: it can't be saved.".to_owned(), "bad"));
        assert_eq!(of(0, 1, 3, 0), ("1 test doesn't hold: it can't be saved.".to_owned(), "bad"));
        assert_eq!(of(0, 0, 1, 0).0, "1 pair of devices loses access, none gains it.");
        assert_eq!(
            of(0, 0, 4, 2),
            ("4 pairs of devices lose access, 2 gain it.".to_owned(), "warn")
        );
        assert_eq!(of(0, 0, 0, 2).1, "good");
        assert_eq!(of(0, 0, 0, 0).0, "Nobody gains or loses access.");
        assert_eq!(say(&report(0, 0, 0, 0), false).1, "idle");
    }

    #[test]
    fn devices_are_called_as_people_call_them() {
        assert_eq!(counted("device:a, device:b", 2), "device a, device b (2 devices)");
        assert_eq!(counted("tag:tv + tag:family", 1), "tagged tv + tagged family");
        assert_eq!(counted("devices of nobody", 9), "devices of nobody (9 devices)");
    }

    #[test]
    fn the_word_that_is_wrong_is_marked_in_its_line() {
        assert_eq!(
            marked("to = [\"tag:Größe\", \"*\"]", 7),
            ["to = [", "\"tag:Größe\"", ", \"*\"]"]
        );
        assert_eq!(marked("port = 3", 1), ["", "port", " = 3"]);
        assert_eq!(marked("x = 'open", 5), ["x = ", "'open", ""]);
        assert_eq!(marked("short", 99), ["short", "", ""]);
    }

    #[test]
    fn a_problem_belongs_to_the_entry_that_it_stands_in() {
        let text = "[[rules]]\nfrom = '*'\nto = '*'\n[[rules]]\nfrom = 'x'\nto = '*'\n";
        let found = by_entry(&report(1, 0, 0, 0), &Outline::read(text).unwrap());
        assert_eq!((found[&1].len(), found[&4].len()), (1, 0));
    }
}
