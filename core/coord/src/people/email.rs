use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// RFC 5321 §4.5.3.1.3, without the angle brackets.
const MAX_BYTES: usize = 254;

/// A text was no e-mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an e-mail address has the form name@example.org")]
pub struct InvalidEmail;

/// An e-mail address, in lower case and without space around it: what a person signs in with.
///
/// Mail servers could tell `Bob@` from `bob@`; people don't.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

impl Email {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(local, _)| local)
    }

    /// What stands behind the `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl FromStr for Email {
    type Err = InvalidEmail;

    fn from_str(s: &str) -> Result<Self, InvalidEmail> {
        let text = s.trim().to_lowercase();
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidEmail)?;
        let is_plain = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
        let is_domain = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
        let fits = !local.is_empty()
            && local.chars().all(is_plain)
            && domain.chars().all(is_domain)
            && domain.split('.').all(|label| !label.is_empty())
            && text.len() <= MAX_BYTES;
        if fits { Ok(Self(text)) } else { Err(InvalidEmail) }
    }
}

impl TryFrom<String> for Email {
    type Error = InvalidEmail;

    fn try_from(s: String) -> Result<Self, InvalidEmail> {
        s.parse()
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_however_it_is_typed() {
        let email: Email = "  Bob.Smith+vpn@Example.ORG ".parse().unwrap();
        assert_eq!(email.as_str(), "bob.smith+vpn@example.org");
        assert_eq!((email.local_part(), email.domain()), ("bob.smith+vpn", "example.org"));
        let email: Email = "JÖRG@bücher.example".parse().unwrap();
        assert_eq!(email.as_str(), "jörg@bücher.example");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.org", "x".repeat(250));
        for text in [
            "",
            "bob",
            "@example.org",
            "bob@",
            "bob@.org",
            "bob@example..org",
            "a b@example.org",
            "<bob@example.org>",
            "bob@exa\nmple.org",
            "\"><script>@example.org",
            "bob@@example.org",
            &long,
        ] {
            assert!(text.parse::<Email>().is_err(), "{text:?}");
        }
    }
}
