//! What is worth knowing of a record, and what of it changed.

use std::fmt::{Debug, Display};

use super::FieldChange;

#[derive(Debug, PartialEq, Eq)]
enum Fact {
    Open(Option<String>),
    /// Compared, never shown.
    Secret(String),
}

/// A record's facts, always the same ones in the same order for one kind of record.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(&'static str, Fact)>);

impl Facts {
    pub(crate) fn open(mut self, field: &'static str, value: impl Display) -> Self {
        self.0.push((field, Fact::Open(Some(value.to_string()))));
        self
    }

    pub(crate) fn maybe(mut self, field: &'static str, value: Option<impl Display>) -> Self {
        self.0.push((field, Fact::Open(value.map(|value| value.to_string()))));
        self
    }

    pub(crate) fn list<T: Display>(
        self,
        field: &'static str,
        values: impl IntoIterator<Item = T>,
    ) -> Self {
        let texts: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        self.maybe(field, (!texts.is_empty()).then(|| texts.join(", ")))
    }

    /// A secret, or what tells two of them apart; an empty text: none.
    pub(crate) fn secret(mut self, field: &'static str, value: impl AsRef<[u8]>) -> Self {
        let hex = value.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push((field, Fact::Secret(hex)));
        self
    }
}

/// What is different. Of a record that is new or gone: all that there is.
pub(crate) fn diff(before: Option<&Facts>, after: Option<&Facts>) -> Vec<FieldChange> {
    let fields = before.or(after).map(|facts| facts.0.iter()).into_iter().flatten();
    fields
        .enumerate()
        .filter_map(|(n, (field, _))| {
            let [old, new] =
                [before, after].map(|it| it.and_then(|it| it.0.get(n)).map(|it| &it.1));
            let is_secret = [old, new].into_iter().flatten().any(Fact::is_secret);
            let [old_text, new_text] = [old, new].map(|it| it.and_then(Fact::shown));
            let is_listed = match (old, new) {
                (Some(old), Some(new)) => old != new,
                (_, _) => !is_secret && old_text != new_text,
            };
            is_listed.then(|| FieldChange {
                field: (*field).to_owned(),
                before: old_text,
                after: new_text,
            })
        })
        .collect()
}

impl Fact {
    fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }

    fn shown(&self) -> Option<String> {
        match self {
            Self::Open(text) => text.clone(),
            Self::Secret(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, token: &str) -> Facts {
        Facts::default().open("name", name).maybe("port", None::<u16>).secret("token", token)
    }

    #[test]
    fn only_what_changed_is_told_and_never_a_secret() {
        let (old, new) = (facts("a", "hush"), facts("b", "quiet"));
        let change = |field: &str, before: Option<&str>, after: Option<&str>| FieldChange {
            field: field.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        assert_eq!(
            diff(Some(&old), Some(&new)),
            [change("name", Some("a"), Some("b")), change("token", None, None)]
        );
        assert_eq!(diff(None, Some(&new)), [change("name", None, Some("b"))]);
        assert_eq!(diff(Some(&old), None), [change("name", Some("a"), None)]);
        assert_eq!(diff(Some(&old), Some(&facts("a", "hush"))), []);
    }
}
