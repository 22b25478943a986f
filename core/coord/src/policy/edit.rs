//! Changes that a form makes to a text: only what they touch is written anew, comments stay.

use thiserror::Error;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

/// One change of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Adds a group, or says anew who is in it.
    PutGroup(GroupText),
    /// Removes a group.
    RemoveGroup {
        /// Its name.
        name: String,
    },
    /// Writes a rule in place of the one with that index, or behind the last.
    PutRule {
        /// Which one; absent: a new one.
        index: Option<usize>,
        /// What it says.
        rule: RuleText,
    },
    /// Removes a rule.
    RemoveRule {
        /// Which one, from 0.
        index: usize,
    },
    /// Writes a test in place of the one with that index, or behind the last.
    PutTest {
        /// Which one; absent: a new one.
        index: Option<usize>,
        /// What it says.
        test: TestText,
    },
    /// Removes a test.
    RemoveTest {
        /// Which one, from 0.
        index: usize,
    },
}

/// A group as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupText {
    /// Its name.
    pub name: String,
    /// Who is in it.
    pub members: Vec<String>,
}

/// A rule as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleText {
    /// What it is called; may be empty.
    pub name: String,
    /// A remark; may be empty.
    pub comment: String,
    /// Who asks.
    pub from: Vec<String>,
    /// What is asked.
    pub to: Vec<String>,
    /// Where; empty: everywhere.
    pub ports: Vec<String>,
}

/// A test as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestText {
    /// Who asks.
    pub from: String,
    /// What is asked.
    pub to: String,
    /// Where; empty: anywhere.
    pub port: String,
    /// `allow` or `deny`.
    pub expect: String,
}

/// A form's change doesn't fit the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// The text can't be read: it has to be mended by hand first.
    #[error("the text is no TOML; mend it by hand first: {0}")]
    Broken(String),
    /// No rule, test or group is there.
    #[error("there is no such entry in the text any more")]
    Missing,
    /// Rules or tests are written in one line, as a form can't change them.
    #[error("'{0}' is written as a list in brackets; write [[{0}]] entries to edit them here")]
    Inline(&'static str),
}

/// Makes a change. What it says is not checked: [`super::check`] does that.
///
/// # Errors
/// When it doesn't fit the text.
pub fn edit(text: &str, edit: &Edit) -> Result<String, EditError> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| EditError::Broken(error.message().to_owned()))?;
    match edit {
        Edit::PutGroup(group) => {
            let groups = document.entry("groups").or_insert_with(|| Item::Table(Table::new()));
            let groups = groups.as_table_like_mut().ok_or(EditError::Inline("groups"))?;
            put(groups, &group.name, list(&group.members));
        }
        Edit::RemoveGroup { name } => {
            let groups = document.get_mut("groups").and_then(Item::as_table_like_mut);
            groups.and_then(|groups| groups.remove(name)).ok_or(EditError::Missing)?;
        }
        Edit::PutRule { index, rule } => {
            write_rule(entry(&mut document, "rules", *index)?, rule);
        }
        Edit::RemoveRule { index } => remove(&mut document, "rules", *index)?,
        Edit::PutTest { index, test } => {
            write_test(entry(&mut document, "tests", *index)?, test);
        }
        Edit::RemoveTest { index } => remove(&mut document, "tests", *index)?,
    }
    Ok(document.to_string())
}

fn tables<'a>(
    document: &'a mut DocumentMut,
    part: &'static str,
) -> Result<&'a mut ArrayOfTables, EditError> {
    let item = document.entry(part).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    item.as_array_of_tables_mut().ok_or(EditError::Inline(part))
}

fn entry<'a>(
    document: &'a mut DocumentMut,
    part: &'static str,
    index: Option<usize>,
) -> Result<&'a mut Table, EditError> {
    let tables = tables(document, part)?;
    let index = index.unwrap_or_else(|| {
        let mut table = Table::new();
        table.decor_mut().set_prefix("\n");
        tables.push(table);
        tables.len() - 1
    });
    tables.get_mut(index).ok_or(EditError::Missing)
}

fn remove(document: &mut DocumentMut, part: &'static str, index: usize) -> Result<(), EditError> {
    let tables = tables(document, part)?;
    if index >= tables.len() {
        return Err(EditError::Missing);
    }
    tables.remove(index);
    Ok(())
}

fn write_rule(table: &mut Table, rule: &RuleText) {
    put_text(table, "name", &rule.name);
    put_text(table, "comment", &rule.comment);
    put(table, "from", list(&rule.from));
    put(table, "to", list(&rule.to));
    if rule.ports.is_empty() {
        table.remove("ports");
    } else {
        put(table, "ports", list(&rule.ports));
    }
}

fn write_test(table: &mut Table, test: &TestText) {
    put(table, "from", value(&test.from));
    put(table, "to", value(&test.to));
    put_text(table, "port", &test.port);
    put(table, "expect", value(&test.expect));
}

fn put_text(table: &mut Table, key: &str, text: &str) {
    if text.is_empty() {
        table.remove(key);
    } else {
        put(table, key, value(text));
    }
}

/// Sets a value and keeps the comment behind the old one.
fn put(table: &mut dyn toml_edit::TableLike, key: &str, mut item: Item) {
    if let (Some(old), Some(new)) = (table.get(key).and_then(Item::as_value), item.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    table.insert(key, item);
}

fn list(texts: &[String]) -> Item {
    value(texts.iter().collect::<Array>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{DEFAULT_TEXT, Draft};

    fn rule(from: &str, to: &str) -> RuleText {
        RuleText { from: vec![from.to_owned()], to: vec![to.to_owned()], ..RuleText::default() }
    }

    #[test]
    fn comments_survive_what_a_form_changes() {
        let text = "# mine\n[groups] # all of them\na = [\"x@y.z\"] # who\n\n# first\n[[rules]]\n\
                    from = [\"*\"] # everybody\nto = [\"*\"]\n# the end\n";
        let rule = rule("group:a", "*");
        let text = edit(text, &Edit::PutRule { index: Some(0), rule: rule.clone() }).unwrap();
        let members = vec!["v@w.x".to_owned()];
        let group = GroupText { name: "a".to_owned(), members };
        let text = edit(&text, &Edit::PutGroup(group)).unwrap();
        for kept in ["# mine", "# all of them", "# who", "# first", "# everybody", "# the end"] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        assert!(text.contains("group:a") && text.contains("v@w.x") && !text.contains("x@y.z"));
        let text = edit(&text, &Edit::PutRule { index: None, rule }).unwrap();
        assert_eq!(Draft::parse(&text).rules.len(), 2, "{text}");
    }

    #[test]
    fn every_change_of_the_default_text_can_be_read_again() {
        let test = TestText {
            from: "*".to_owned(),
            to: "*".to_owned(),
            port: "tcp:22".to_owned(),
            expect: "allow".to_owned(),
        };
        let put = Edit::PutTest { index: None, test };
        let text = edit(DEFAULT_TEXT, &put).unwrap();
        let draft = Draft::parse(&text);
        assert_eq!((draft.problems(), draft.tests.len()), (&[][..], 1));
        let text = edit(&text, &Edit::RemoveTest { index: 0 }).unwrap();
        let text = edit(&text, &Edit::RemoveRule { index: 0 }).unwrap();
        let draft = Draft::parse(&text);
        assert_eq!((draft.problems(), draft.rules.len()), (&[][..], 0));
        assert_eq!(edit(&text, &Edit::RemoveRule { index: 0 }), Err(EditError::Missing));
        assert!(matches!(edit("[[", &put), Err(EditError::Broken(_))));
        assert_eq!(
            edit("rules = []", &Edit::RemoveRule { index: 0 }),
            Err(EditError::Inline("rules"))
        );
    }
}
