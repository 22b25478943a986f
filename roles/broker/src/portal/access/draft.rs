//! A draft, as it comes with a form, and what the form's entries change of it.

use serde::Deserialize;
use warren_coord::Email;
use warren_coord::policy::{
    Edit, Entry, GroupText, Outline, RuleText, Selector, Subject, TestText, edit,
};
use warren_proto::Ports;

use super::super::answer::sentence;
use super::fingerprint;

/// What the page's form says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::portal) struct Sent {
    pub(super) text: String,
    /// The version that the draft was made from.
    pub(super) base: u64,
    /// What the page has shown the effect of.
    pub(super) seen: String,
    /// `text`: that view is open.
    pub(super) view: String,
    /// What to do: `check`, `save`, `close`, `put`, or `open:rule:3`, `add:rule`, `drop:rule:3`.
    #[serde(rename = "do")]
    pub(super) action: String,
    /// The entry that is open: `rule:3`, `rule:new`.
    open: String,
    /// The text in which it was opened.
    opened_in: String,
    #[serde(flatten)]
    pub(super) fields: Fields,
}

/// The fields of the open entry.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    pub(super) name: String,
    pub(super) comment: String,
    pub(super) members: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) ports: String,
    pub(super) expect: String,
    /// What was chosen from a list, to be added to the field beside it.
    pick_members: String,
    pick_from: String,
    pick_to: String,
    pick_ports: String,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Group,
    Rule,
    Test,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Rule => "rule",
            Self::Test => "test",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Group, Self::Rule, Self::Test].into_iter().find(|kind| kind.word() == word)
    }
}

/// An entry: by its place among its kind, or a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) index: Option<usize>,
}

impl Place {
    /// `rule:3`, `rule:new`.
    fn parse(text: &str) -> Option<Self> {
        let (kind, index) = text.split_once(':')?;
        let index = if index == "new" { None } else { Some(index.parse().ok()?) };
        Some(Self { kind: Kind::from_word(kind)?, index })
    }

    pub(super) fn written(self) -> String {
        let index = self.index.map_or_else(|| "new".to_owned(), |index| index.to_string());
        format!("{}:{index}", self.kind.word())
    }
}

/// The entry that is open, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) place: Place,
    pub(super) opened_in: String,
    pub(super) fields: Fields,
    /// The field's name, and what is wrong with it.
    pub(super) wrong: Option<(&'static str, String)>,
}

/// A policy that isn't in force yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) base: u64,
    pub(super) shows_text: bool,
    pub(super) open: Option<Open>,
    /// What couldn't be done.
    pub(super) error: String,
}

impl Draft {
    /// What is in force.
    pub(super) fn new(version: u64, text: String, shows_text: bool) -> Self {
        Self { text, base: version, shows_text, open: None, error: String::new() }
    }

    /// What was sent, with what was asked done to it.
    pub(super) fn of(sent: Sent) -> Self {
        // Browsers send lines with both ends.
        let text = sent.text.replace("\r\n", "\n");
        let mut draft = Self::new(sent.base, text, sent.view == "text");
        let open = Place::parse(&sent.open);
        let fields = sent.fields.picked();
        // Who writes on in the text has left the entry.
        let is_same = sent.opened_in == fingerprint(&draft.text, 0);
        draft.open = open.filter(|_| is_same).map(|place| Open {
            place,
            opened_in: sent.opened_in,
            fields,
            wrong: None,
        });
        match sent.action.split_once(':') {
            Some(("open", place)) => draft.open(Place::parse(place)),
            Some(("add", kind)) => {
                draft.open(Kind::from_word(kind).map(|kind| Place { kind, index: None }));
            }
            Some(("drop", place)) => draft.drop(Place::parse(place)),
            Some(_) => {}
            None if sent.action == "close" => draft.open = None,
            None if sent.action == "put" => draft.put(),
            None => {}
        }
        draft
    }

    fn open(&mut self, place: Option<Place>) {
        let Some(place) = place else { return };
        let outline = Outline::read(&self.text).unwrap_or_default();
        let fields = match place.index {
            None => Some(Fields { expect: "allow".to_owned(), ..Fields::default() }),
            Some(index) => Fields::read(&outline, place.kind, index),
        };
        let opened_in = fingerprint(&self.text, 0);
        self.open = fields.map(|fields| Open { place, opened_in, fields, wrong: None });
    }

    fn drop(&mut self, place: Option<Place>) {
        let Some(Place { kind, index: Some(index) }) = place else { return };
        let change = match kind {
            Kind::Rule => Some(Edit::RemoveRule { index }),
            Kind::Test => Some(Edit::RemoveTest { index }),
            Kind::Group => {
                let outline = Outline::read(&self.text).unwrap_or_default();
                outline.groups.get(index).map(|it| Edit::RemoveGroup { name: it.text.name.clone() })
            }
        };
        self.open = None;
        if let Some(change) = change {
            self.change(&change);
        }
    }

    fn put(&mut self) {
        let Some(open) = &mut self.open else {
            return self.error = "The text was changed meanwhile; open the entry again.".to_owned();
        };
        let outline = Outline::read(&self.text).unwrap_or_default();
        match open.fields.write(open.place, &outline) {
            Err(wrong) => open.wrong = Some(wrong),
            Ok(change) => {
                if self.change(&change) {
                    self.open = None;
                }
            }
        }
    }

    fn change(&mut self, change: &Edit) -> bool {
        match edit(&self.text, change) {
            Ok(text) => self.text = text,
            Err(error) => self.error = sentence(&error.to_string()),
        }
        self.error.is_empty()
    }
}

impl Fields {
    /// What was chosen stands in its field.
    fn picked(mut self) -> Self {
        for (field, picked) in [
            (&mut self.members, &mut self.pick_members),
            (&mut self.from, &mut self.pick_from),
            (&mut self.to, &mut self.pick_to),
            (&mut self.ports, &mut self.pick_ports),
        ] {
            let picked = std::mem::take(picked);
            let mut all = words(field);
            if !picked.is_empty() && !all.contains(&picked) {
                all.push(picked);
                *field = all.join(", ");
            }
        }
        self
    }

    fn read(outline: &Outline, kind: Kind, index: usize) -> Option<Self> {
        let list = |words: &[String]| words.join(", ");
        Some(match kind {
            Kind::Group => {
                let Entry { text, .. } = outline.groups.get(index)?;
                let members = list(&text.members);
                Self { name: text.name.clone(), members, ..Self::default() }
            }
            Kind::Rule => {
                let Entry { text, .. } = outline.rules.get(index)?;
                Self {
                    name: text.name.clone(),
                    comment: text.comment.clone(),
                    from: list(&text.from),
                    to: list(&text.to),
                    ports: list(&text.ports),
                    ..Self::default()
                }
            }
            Kind::Test => {
                let Entry { text, .. } = outline.tests.get(index)?;
                Self {
                    from: text.from.clone(),
                    to: text.to.clone(),
                    ports: text.port.clone(),
                    expect: text.expect.clone(),
                    ..Self::default()
                }
            }
        })
    }

    /// The change that makes the text say this.
    fn write(
        &self,
        Place { kind, index }: Place,
        outline: &Outline,
    ) -> Result<Edit, (&'static str, String)> {
        Ok(match kind {
            Kind::Group => Edit::PutGroup(self.group(index, outline)?),
            Kind::Rule => Edit::PutRule {
                index,
                rule: RuleText {
                    name: self.name.trim().to_owned(),
                    comment: self.comment.trim().to_owned(),
                    from: some::<Subject>("from", &self.from)?,
                    to: some::<Selector>("to", &self.to)?,
                    ports: all::<Ports>("ports", &self.ports)?,
                },
            },
            Kind::Test => Edit::PutTest {
                index,
                test: TestText {
                    from: one(some::<Subject>("from", &self.from)?, "from")?,
                    to: one(some::<Selector>("to", &self.to)?, "to")?,
                    port: match all::<Ports>("ports", &self.ports)? {
                        ports if ports.is_empty() => String::new(),
                        ports => one(ports, "ports")?,
                    },
                    expect: if self.expect == "deny" { "deny" } else { "allow" }.to_owned(),
                },
            },
        })
    }

    fn group(
        &self,
        index: Option<usize>,
        outline: &Outline,
    ) -> Result<GroupText, (&'static str, String)> {
        let name = match index {
            // Whoever is called so stays so: rules name it.
            Some(index) => outline.groups.get(index).map(|it| it.text.name.clone()),
            None => Some(self.name.trim().to_owned()),
        };
        let name = name.unwrap_or_default();
        let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || (index.is_none() && !name.chars().all(is_plain)) {
            return Err(("name", "A group's name has letters, digits, - and _.".to_owned()));
        }
        if index.is_none() && outline.groups.iter().any(|group| group.text.name == name) {
            return Err(("name", format!("There is a group '{name}' already.")));
        }
        let members = words(&self.members);
        for member in &members {
            let is_email = member.parse::<Email>().is_ok();
            match member.parse::<Subject>() {
                Ok(Subject::Group(_) | Subject::Everyone) => {
                    let text = format!("'{member}': a group has people, tags and devices in it.");
                    return Err(("members", text));
                }
                Err(error) if !is_email => return Err(("members", sentence(&error))),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(GroupText { name, members })
    }
}

/// The words of a field, which commas and blanks part.
fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| c == ',' || c.is_whitespace());
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A field's words, if all of them mean something.
fn all<T: std::str::FromStr<Err: ToString>>(
    field: &'static str,
    text: &str,
) -> Result<Vec<String>, (&'static str, String)> {
    let words = words(text);
    for word in &words {
        if let Err(error) = word.parse::<T>() {
            let error = error.to_string();
            let named = if error.contains(word) { error } else { format!("'{word}': {error}") };
            return Err((field, sentence(&named)));
        }
    }
    Ok(words)
}

fn some<T: std::str::FromStr<Err: ToString>>(
    field: &'static str,
    text: &str,
) -> Result<Vec<String>, (&'static str, String)> {
    let words = all::<T>(field, text)?;
    match words.is_empty() {
        true => Err((field, "Something has to stand here; '*' means all.".to_owned())),
        false => Ok(words),
    }
}

/// The only word.
fn one(words: Vec<String>, field: &'static str) -> Result<String, (&'static str, String)> {
    match <[String; 1]>::try_from(words) {
        Ok([word]) => Ok(word),
        Err(_) => Err((field, "A test is about one of each; make another test.".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use warren_coord::policy::DEFAULT_TEXT;

    use super::*;

    fn sent(text: &str, action: &str) -> Sent {
        Sent { text: text.to_owned(), action: action.to_owned(), ..Sent::default() }
    }

    /// What a form sends whose entry `place` is open.
    fn filled(text: &str, place: &str, fields: Fields) -> Sent {
        let opened_in = fingerprint(text, 0);
        Sent { open: place.to_owned(), opened_in, fields, ..sent(text, "put") }
    }

    fn rule(from: &str, to: &str, ports: &str) -> Fields {
        let word = str::to_owned;
        Fields { from: word(from), to: word(to), ports: word(ports), ..Fields::default() }
    }

    #[test]
    fn an_entry_is_opened_changed_and_dropped() {
        let draft = Draft::of(sent(DEFAULT_TEXT, "open:rule:0"));
        let open = draft.open.unwrap();
        assert_eq!((open.fields.from.as_str(), open.place.written().as_str()), ("*", "rule:0"));
        let put = rule("tag:a tag:b", "own", " tcp:22,, icmp");
        let draft = Draft::of(filled(DEFAULT_TEXT, "rule:0", put));
        assert!(draft.open.is_none(), "{:?}", draft.open);
        let written = &Outline::read(&draft.text).unwrap().rules[0].text;
        assert_eq!((written.from.as_slice(), written.ports.len()), (&words("tag:a tag:b")[..], 2));
        assert!(draft.text.starts_with("# Who may reach what"), "the rest stays");
        let draft = Draft::of(sent(&draft.text, "drop:rule:0"));
        assert!(Outline::read(&draft.text).unwrap().rules.is_empty());
        for nonsense in ["open:rule:7", "open:x", "drop:rule:new", "add:x", "put", "drop:group:0"] {
            let draft = Draft::of(sent(DEFAULT_TEXT, nonsense));
            assert!(draft.open.is_none() && draft.text == DEFAULT_TEXT, "{nonsense}");
        }
    }

    #[test]
    fn what_means_nothing_is_said_at_its_field_and_not_written() {
        for (place, fields, field) in [
            ("rule:new", rule("", "*", ""), "from"),
            ("rule:new", rule("*", "tag:Größe", ""), "to"),
            ("rule:new", rule("*", "*", "http"), "ports"),
            ("rule:new", rule("own", "*", ""), "from"),
            ("test:new", rule("*, tag:a", "*", ""), "from"),
            ("test:new", rule("*", "*", "tcp:1 tcp:2"), "ports"),
            ("group:new", Fields { members: "a@b.c".to_owned(), ..Fields::default() }, "name"),
            ("group:new", Fields { name: "a b".to_owned(), ..Fields::default() }, "name"),
        ] {
            let draft = Draft::of(filled(DEFAULT_TEXT, place, fields));
            assert_eq!(draft.open.unwrap().wrong.unwrap().0, field);
            assert_eq!(draft.text, DEFAULT_TEXT);
        }
        let group = Fields {
            name: "family".to_owned(),
            members: "a@b.c, tag:tv".to_owned(),
            ..Fields::default()
        };
        let draft = Draft::of(filled(DEFAULT_TEXT, "group:new", group.clone()));
        assert_eq!(Outline::read(&draft.text).unwrap().groups[0].text.members.len(), 2);
        let again = Draft::of(filled(&draft.text, "group:new", group.clone()));
        assert_eq!(again.open.unwrap().wrong.unwrap().0, "name", "a second of that name");
        let nested = Fields { name: "x".to_owned(), members: "group:family".to_owned(), ..group };
        let nested = Draft::of(filled(&draft.text, "group:new", nested));
        assert_eq!(nested.open.unwrap().wrong.unwrap().0, "members");
    }

    #[test]
    fn a_picked_word_is_added_once() {
        let mut fields = rule("tag:a", "", "");
        fields.pick_from = "tag:b".to_owned();
        let picked = fields.clone().picked();
        assert_eq!((picked.from.as_str(), picked.pick_from.as_str()), ("tag:a, tag:b", ""));
        let again = Fields { pick_from: "tag:b".to_owned(), ..picked }.picked();
        assert_eq!(again.from, "tag:a, tag:b");
    }

    #[test]
    fn who_writes_on_in_the_text_does_not_overwrite_another_rule() {
        let filled = filled(DEFAULT_TEXT, "rule:0", rule("tag:a", "*", ""));
        let text = format!("[[rules]]\r\nfrom = '*'\r\nto = 'own'\r\n{DEFAULT_TEXT}");
        let draft = Draft::of(Sent { text: text.clone(), ..filled });
        assert_eq!(draft.text, text.replace('\r', ""));
        assert!(draft.open.is_none() && draft.error.contains("open the entry again"));
    }
}
