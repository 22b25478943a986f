//! Reading a policy's text: TOML, with the place of every part.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml_edit::{Document, Item, TableLike, Value};
use warren_proto::Ports;

use super::{Selector, Subject};

/// The longest text, in bytes.
pub const MAX_TEXT: usize = 256 << 10;

/// The most rules, tests and groups of each kind.
const MAX_ENTRIES: usize = 2000;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The text can't be saved.
    Error,
    /// It can, and probably doesn't say what is meant.
    Warning,
}

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong, for people.
    pub message: String,
}

/// Something that was read, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) what: T,
    pub(super) at: usize,
}

/// A text that was read. It may have problems; what could not be read is left out.
#[derive(Debug)]
pub struct Draft {
    pub(super) groups: BTreeMap<String, Vec<At<Subject>>>,
    pub(super) rules: Vec<RuleDraft>,
    pub(super) tests: Vec<TestDraft>,
    pub(super) problems: Vec<Problem>,
    lines: Vec<usize>,
    text: String,
}

#[derive(Debug)]
pub(super) struct RuleDraft {
    pub(super) at: usize,
    pub(super) name: Option<String>,
    pub(super) from: Vec<At<Subject>>,
    pub(super) to: Vec<At<Selector>>,
    pub(super) ports: Vec<Ports>,
}

#[derive(Debug)]
pub(super) struct TestDraft {
    pub(super) at: usize,
    pub(super) from: At<Subject>,
    pub(super) to: At<Selector>,
    pub(super) port: Option<Ports>,
    pub(super) allow: bool,
}

impl Draft {
    /// Reads a text. What is wrong with it by itself is in [`Self::problems`].
    pub fn parse(text: &str) -> Self {
        let mut draft = Self {
            groups: BTreeMap::new(),
            rules: Vec::new(),
            tests: Vec::new(),
            problems: Vec::new(),
            lines: line_starts(text),
            text: text.to_owned(),
        };
        if text.len() > MAX_TEXT {
            draft.error(0, format!("the text has more than {} KiB", MAX_TEXT >> 10));
            return draft;
        }
        match Document::parse(text) {
            Ok(document) => draft.read(document.as_table()),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                draft.error(at, format!("this is no TOML: {}", error.message()));
            }
        }
        draft.check_groups();
        draft
    }

    /// What is wrong with the text by itself.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether the text has an error.
    pub fn is_broken(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    pub(super) fn problem(&self, severity: Severity, at: usize, message: String) -> Problem {
        let line = self.line(at);
        let start = self.lines[line - 1];
        let before = self.text.get(start..at).unwrap_or_default();
        Problem { severity, line, column: before.chars().count() + 1, message }
    }

    fn error(&mut self, at: usize, message: impl Into<String>) {
        let problem = self.problem(Severity::Error, at, message.into());
        self.problems.push(problem);
    }

    fn read(&mut self, root: &dyn TableLike) {
        for (key, item) in root.iter() {
            let at = place(item.span());
            match key {
                "groups" => match item.as_table_like() {
                    Some(groups) => self.read_groups(groups),
                    None => self.error(at, "[groups] is a table: NAME = [\"anna@example.org\"]"),
                },
                "rules" => self.each(item, "rules", Self::read_rule),
                "tests" => self.each(item, "tests", Self::read_test),
                _ => self.error(
                    at,
                    format!(
                        "there is no part '{key}': a policy has [groups], [[rules]], [[tests]]"
                    ),
                ),
            }
        }
    }

    fn each(&mut self, item: &Item, name: &str, read: fn(&mut Self, &dyn TableLike, usize)) {
        let Some(tables) = tables(item) else {
            let at = place(item.span());
            return self.error(at, format!("'{name}' is a list: write [[{name}]] above each"));
        };
        if tables.len() > MAX_ENTRIES {
            return self.error(tables[MAX_ENTRIES].1, format!("more than {MAX_ENTRIES} {name}"));
        }
        for (table, at) in tables {
            read(self, table, at);
        }
    }

    fn read_groups(&mut self, groups: &dyn TableLike) {
        for (name, item) in groups.iter() {
            let mut members = Vec::new();
            for At { what: text, at } in self.strings(item) {
                let member = if text.contains('@') && !text.contains(':') {
                    text.parse().map(Subject::User).map_err(|error| format!("'{text}': {error}"))
                } else {
                    text.parse()
                };
                match member {
                    Ok(Subject::Group(_)) => self.error(at, "a group can't have groups in it"),
                    Ok(Subject::Everyone) => self.error(at, "'*' is everybody, and no group"),
                    Ok(what) => members.push(At { what, at }),
                    Err(message) => self.error(at, message),
                }
            }
            self.groups.insert(name.to_owned(), members);
        }
        if self.groups.len() > MAX_ENTRIES {
            self.error(0, format!("more than {MAX_ENTRIES} groups"));
        }
    }

    fn read_rule(&mut self, table: &dyn TableLike, at: usize) {
        self.only(table, &["name", "comment", "from", "to", "ports"], "rule");
        let name = table.get("name").and_then(|item| self.string(item)).map(|it| it.what);
        let from = self.required(table, "from", at);
        let to = self.required(table, "to", at);
        let ports = match table.get("ports") {
            Some(item) => {
                let mut ports = Vec::new();
                for At { what: text, at } in self.strings(item) {
                    match text.parse() {
                        Ok(port) => ports.push(port),
                        Err(error) => self.error(at, format!("'{text}': {error}")),
                    }
                }
                ports
            }
            None => vec![Ports::All],
        };
        self.rules.push(RuleDraft { at, name, from, to, ports });
    }

    fn read_test(&mut self, table: &dyn TableLike, at: usize) {
        self.only(table, &["name", "comment", "from", "to", "port", "expect"], "test");
        let mut from = self.required(table, "from", at);
        let mut to = self.required(table, "to", at);
        let port = table.get("port").and_then(|item| self.string(item));
        let port = port.and_then(|At { what: text, at }| match text.parse() {
            Ok(port) => Some(port),
            Err(error) => {
                self.error(at, format!("'{text}': {error}"));
                None
            }
        });
        let expect = table.get("expect").and_then(|item| self.string(item));
        let allow = match expect.as_ref().map(|it| it.what.as_str()) {
            Some("allow") => true,
            Some("deny") => false,
            Some(_) | None => {
                let at = expect.map_or(at, |it| it.at);
                return self.error(at, "a test needs expect = \"allow\" or \"deny\"");
            }
        };
        if let (Some(from), Some(to)) = (from.pop(), to.pop()) {
            self.tests.push(TestDraft { at, from, to, port, allow });
        }
    }

    fn required<T: std::str::FromStr<Err = String>>(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        at: usize,
    ) -> Vec<At<T>> {
        let Some(item) = table.get(key) else {
            self.error(at, format!("'{key}' is missing"));
            return Vec::new();
        };
        let mut read = Vec::new();
        for At { what: text, at } in self.strings(item) {
            match text.parse() {
                Ok(what) => read.push(At { what, at }),
                Err(message) => self.error(at, message),
            }
        }
        read
    }

    /// Refuses keys that mean nothing: a misspelt one would make a rule wider than it looks.
    fn only(&mut self, table: &dyn TableLike, keys: &[&str], what: &str) {
        for (key, item) in table.iter() {
            if !keys.contains(&key) {
                let at = place(item.span());
                self.error(at, format!("a {what} has no '{key}', only {}", keys.join(", ")));
            }
        }
    }

    fn string(&mut self, item: &Item) -> Option<At<String>> {
        let at = place(item.span());
        let text = item.as_str();
        if text.is_none() {
            self.error(at, "this must be a text in quotes");
        }
        text.map(|text| At { what: text.to_owned(), at })
    }

    /// A list of texts, or a single one.
    fn strings(&mut self, item: &Item) -> Vec<At<String>> {
        let Some(array) = item.as_array() else { return self.string(item).into_iter().collect() };
        let mut strings = Vec::new();
        for value in array {
            let at = place(value.span());
            match value.as_str() {
                Some(text) => strings.push(At { what: text.to_owned(), at }),
                None => self.error(at, "this must be a text in quotes"),
            }
        }
        strings
    }

    fn check_groups(&mut self) {
        let from = self.rules.iter().flat_map(|rule| &rule.from).map(|it| (&it.what, it.at));
        let tests = self.tests.iter().map(|test| (&test.from.what, test.from.at));
        let rules_to = self.rules.iter().flat_map(|rule| &rule.to);
        let to = rules_to.chain(self.tests.iter().map(|test| &test.to));
        let to = to.filter_map(|it| match &it.what {
            Selector::Subject(subject) => Some((subject, it.at)),
            Selector::Own
            | Selector::Virtual { .. }
            | Selector::Subnet { .. }
            | Selector::Internet { .. } => None,
        });
        let unknown: Vec<(String, usize)> = from
            .chain(tests)
            .chain(to)
            .filter_map(|(subject, at)| {
                let Subject::Group(name) = subject else { return None };
                (!self.groups.contains_key(name)).then(|| (name.clone(), at))
            })
            .collect();
        for (name, at) in unknown {
            self.error(at, format!("there is no group '{name}' under [groups]"));
        }
    }
}

/// The entries of a list, and where each begins; `None`: it is none.
pub(super) fn tables(item: &Item) -> Option<Vec<(&dyn TableLike, usize)>> {
    match item {
        Item::ArrayOfTables(tables) => {
            Some(tables.iter().map(|it| (it as &dyn TableLike, place(it.span()))).collect())
        }
        Item::Value(Value::Array(array)) => array
            .iter()
            .map(|value| {
                let table = value.as_inline_table()?;
                Some((table as &dyn TableLike, place(value.span())))
            })
            .collect(),
        Item::None | Item::Value(_) | Item::Table(_) => None,
    }
}

/// The bytes at which lines begin.
pub(super) fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

pub(super) fn place(span: Option<Range<usize>>) -> usize {
    span.map_or(0, |span| span.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(usize, usize, String)> {
        let draft = Draft::parse(text);
        draft.problems.into_iter().map(|it| (it.line, it.column, it.message)).collect()
    }

    #[test]
    fn the_default_text_has_no_problem_and_one_rule() {
        let draft = Draft::parse(super::super::DEFAULT_TEXT);
        assert_eq!(draft.problems, []);
        assert_eq!(draft.rules.len(), 1);
        assert_eq!(draft.line(draft.rules[0].at), 20);
    }

    #[test]
    fn what_the_default_text_shows_in_comments_is_right_too() {
        let text: String = super::super::DEFAULT_TEXT
            .split_once("for example:")
            .unwrap()
            .1
            .lines()
            .filter(|line| !line.contains("A test must hold"))
            .map(|line| format!("{}\n", line.trim_start_matches('#').trim_start()))
            .collect();
        let draft = Draft::parse(&text);
        assert_eq!(draft.problems, []);
        assert_eq!((draft.groups.len(), draft.rules.len(), draft.tests.len()), (1, 2, 1));
    }

    #[test]
    fn a_problem_says_line_and_column() {
        let text = "[[rules]]\nfrom = [\"*\"]\nto = [\"*\", \"tag:Größe\", \"group:x\"]\n";
        let found = problems(text);
        assert_eq!((found[0].0, found[0].1), (3, 12), "{found:?}");
        assert_eq!((found[1].0, found[1].1), (3, 25), "{found:?}");
        assert!(found[1].2.contains("no group 'x'"));
        let found = problems("[[rules]]\nfrom = [\n");
        assert!(found[0].2.contains("no TOML"), "{found:?}");
        assert!(found[0].0 >= 2);
    }

    #[test]
    fn a_misspelt_key_is_an_error_because_it_would_widen_the_rule() {
        let found = problems("[[rules]]\nfrom = \"*\"\nto = \"*\"\nport = \"tcp:22\"\n");
        assert!(found[0].2.contains("no 'port'"), "{found:?}");
        let found = problems("[[rule]]\n");
        assert!(found[0].2.contains("no part 'rule'"), "{found:?}");
        assert!(problems("rules = 3")[0].2.contains("[[rules]]"));
        assert!(problems("[[rules]]\nto = \"*\"")[0].2.contains("'from' is missing"));
        assert!(problems("[[tests]]\nfrom=\"*\"\nto=\"*\"\nexpect=\"maybe\"").len() == 1);
        assert!(problems("[groups]\na = [\"group:b\", \"*\", 7]").len() == 3);
    }
}
