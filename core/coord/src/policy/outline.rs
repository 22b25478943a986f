//! A text's entries as a form shows them: as they are written, right or wrong.

use toml_edit::{Document, Item, TableLike};

use super::text::{line_starts, place, tables};
use super::{EditError, GroupText, RuleText, TestText};

/// An entry, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// The line that it begins at, from 1.
    pub line: usize,
    /// What is written there.
    pub text: T,
}

/// The entries of a text, in its order. What can't be an entry is left out: [`super::check`] tells of
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// What stands under `[groups]`.
    pub groups: Vec<Entry<GroupText>>,
    /// Each `[[rules]]`.
    pub rules: Vec<Entry<RuleText>>,
    /// Each `[[tests]]`.
    pub tests: Vec<Entry<TestText>>,
}

impl Outline {
    /// Reads a text.
    ///
    /// # Errors
    /// [`EditError::Broken`]: it is no TOML.
    pub fn read(text: &str) -> Result<Self, EditError> {
        let document =
            Document::parse(text).map_err(|error| EditError::Broken(error.message().to_owned()))?;
        let lines = line_starts(text);
        let line = |at| lines.partition_point(|start| *start <= at);
        let mut groups = Vec::new();
        let table = document.as_table().get("groups").and_then(Item::as_table_like);
        for (name, item) in table.into_iter().flat_map(TableLike::iter) {
            let text = GroupText { name: name.to_owned(), members: strings(Some(item)) };
            groups.push(Entry { line: line(place(item.span())), text });
        }
        let listed = |part| document.as_table().get(part).and_then(tables).unwrap_or_default();
        let rule = |(table, at)| Entry { line: line(at), text: rule(table) };
        let test = |(table, at)| Entry { line: line(at), text: test(table) };
        Ok(Self {
            groups,
            rules: listed("rules").into_iter().map(rule).collect(),
            tests: listed("tests").into_iter().map(test).collect(),
        })
    }
}

fn rule(table: &dyn TableLike) -> RuleText {
    RuleText {
        name: string(table, "name"),
        comment: string(table, "comment"),
        from: strings(table.get("from")),
        to: strings(table.get("to")),
        ports: strings(table.get("ports")),
    }
}

fn test(table: &dyn TableLike) -> TestText {
    TestText {
        from: string(table, "from"),
        to: string(table, "to"),
        port: string(table, "port"),
        expect: string(table, "expect"),
    }
}

fn string(table: &dyn TableLike, key: &str) -> String {
    strings(table.get(key)).into_iter().next().unwrap_or_default()
}

/// A list of texts, or a single one.
fn strings(item: Option<&Item>) -> Vec<String> {
    let Some(item) = item else { return Vec::new() };
    match item.as_array() {
        Some(array) => array.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect(),
        None => item.as_str().map(str::to_owned).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{DEFAULT_TEXT, Edit, edit};

    #[test]
    fn the_entries_are_read_as_they_are_written_wrong_ones_too() {
        let outline = Outline::read(DEFAULT_TEXT).unwrap();
        assert_eq!((outline.groups.len(), outline.rules.len(), outline.tests.len()), (0, 1, 0));
        assert_eq!(outline.rules[0].line, 20);
        assert_eq!(outline.rules[0].text.name, "everybody reaches everything");
        let text = "[groups]\nb = 'x@y.z'\na = ['tag:Größe', 7]\n\n[[rules]]\nfrom = 3\n\
                    to = ['nonsense', '*']\n[[tests]]\nfrom = ['*']\nexpect = 'perhaps'\n";
        let outline = Outline::read(text).unwrap();
        let groups: Vec<_> = outline.groups.iter().map(|it| (it.line, &*it.text.name)).collect();
        assert_eq!(groups, [(2, "b"), (3, "a")]);
        assert_eq!(outline.groups[1].text.members, ["tag:Größe"]);
        assert_eq!(outline.rules[0].text.to, ["nonsense", "*"]);
        assert!(outline.rules[0].text.from.is_empty());
        assert_eq!((outline.tests[0].line, &*outline.tests[0].text.expect), (8, "perhaps"));
        let inline = Outline::read("rules = [{ from = '*', to = '*' }]").unwrap();
        assert_eq!(inline.rules.len(), 1);
        assert!(matches!(Outline::read("[["), Err(EditError::Broken(_))));
    }

    #[test]
    fn what_a_form_writes_is_what_it_reads() {
        let words = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let rule = RuleText {
            name: "a \"rule\"".to_owned(),
            comment: "why".to_owned(),
            from: words(&["group:g", "tag:t"]),
            to: words(&["own"]),
            ports: words(&["tcp:22", "icmp"]),
        };
        let test = TestText {
            from: "tag:t".to_owned(),
            to: "own".to_owned(),
            port: String::new(),
            expect: "deny".to_owned(),
        };
        let group = GroupText { name: "g".to_owned(), members: words(&["a@b.c"]) };
        let mut text = DEFAULT_TEXT.to_owned();
        for change in [
            Edit::PutGroup(group.clone()),
            Edit::PutRule { index: None, rule: rule.clone() },
            Edit::PutTest { index: None, test: test.clone() },
        ] {
            text = edit(&text, &change).unwrap();
        }
        let outline = Outline::read(&text).unwrap();
        assert_eq!(outline.groups[0].text, group);
        assert_eq!(outline.rules[1].text, rule);
        assert_eq!(outline.tests[0].text, test);
    }
}
