use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest a name may be: a DNS label, less room for a suffix such as `-1000`.
pub const MAX_NAME: usize = 56;

/// Names that programs look up bare and trust: proxy and tunnel discovery (WPAD; RFC 5214 §8.3), this
/// host (RFC 6761 §6.3), what hosts files define, special-use domains (RFC 6761, RFC 6762, RFC 9476,
/// RFC 7686), and mail clients' set-up.
const RESERVED: &[&str] = &[
    "alt",
    "arpa",
    "autoconfig",
    "autodiscover",
    "broadcasthost",
    "gateway",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-localhost",
    "ip6-localnet",
    "ip6-loopback",
    "ip6-mcastprefix",
    "internal",
    "isatap",
    "invalid",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "test",
    "wpad",
];

/// A name was not a usable DNS label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a name has 1 to 56 letters, digits and inner hyphens")]
pub struct InvalidName;

/// A device's or account's name: one DNS label in lower case, letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

impl DeviceName {
    /// Makes a name out of whatever a person or a machine calls itself: `Kitchen Pi` becomes
    /// `kitchen-pi`. Text without a single usable character becomes `device`.
    pub fn from_free_text(text: &str) -> Self {
        let mut label = String::new();
        for c in text.chars() {
            if label.len() >= MAX_NAME {
                break;
            }
            if c.is_ascii_alphanumeric() {
                label.push(c.to_ascii_lowercase());
            } else if c != '\'' && !label.is_empty() && !label.ends_with('-') {
                label.push('-');
            }
        }
        let label = label.trim_end_matches('-');
        Self(if label.is_empty() { "device".to_owned() } else { label.to_owned() })
    }

    /// The `n`-th variant of a name that is taken: `kitchen-pi-2` for 2.
    pub fn numbered(&self, n: u32) -> Self {
        Self(format!("{}-{n}", self.0))
    }

    /// Whether software gives this name a meaning of its own, so that no device may take it: who is
    /// called `wpad` is asked by browsers which proxy to use.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.0.as_str())
    }

    /// Whether this could be the id of something, which is looked up first where either may stand:
    /// nothing is newly called so.
    pub fn reads_as_id(&self) -> bool {
        self.0.len() == 16 && self.0.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceName {
    type Err = InvalidName;

    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let fits = (1..=63).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-');
        if fits { Ok(Self(s.to_owned())) } else { Err(InvalidName) }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = InvalidName;

    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_text_becomes_a_dns_label() {
        for (text, label) in [
            ("Kitchen Pi", "kitchen-pi"),
            ("  Bob's  MacBook (2) ", "bobs-macbook-2"),
            ("__--__", "device"),
            ("", "device"),
            ("Größe", "gr-e"),
            ("a.b.c", "a-b-c"),
        ] {
            assert_eq!(DeviceName::from_free_text(text).as_str(), label);
        }
        let long = DeviceName::from_free_text(&"x".repeat(200));
        assert_eq!(long.as_str().len(), MAX_NAME);
        assert!(long.numbered(1000).as_str().parse::<DeviceName>().is_ok());
    }
}
