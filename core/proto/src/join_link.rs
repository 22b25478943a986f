use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A join link could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseJoinLinkError {
    /// It isn't of the form `https://HOST[:PORT]/join#...`.
    #[error("a join link looks like https://HOST:PORT/join#KEY.PIN; was it cut off at the '#'?")]
    Shape,
    /// The part behind the `#` is damaged.
    #[error("the part of the join link behind '#' is damaged; copy the whole link again")]
    Fragment,
}

/// The SHA-256 of the broker's CA's SubjectPublicKeyInfo (RFC 7469 §2.4): who holds that key is
/// the broker, whatever any other authority says. Written in base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = ParseJoinLinkError;

    fn from_str(s: &str) -> Result<Self, ParseJoinLinkError> {
        let bytes = URL_SAFE_NO_PAD.decode(s).map_err(|_| ParseJoinLinkError::Fragment)?;
        bytes.try_into().map(Self).map_err(|_| ParseJoinLinkError::Fragment)
    }
}

impl TryFrom<String> for Pin {
    type Error = ParseJoinLinkError;

    fn try_from(s: String) -> Result<Self, ParseJoinLinkError> {
        s.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

/// All that a device needs to join: `https://HOST:PORT/join#<key>.<pin>`.
///
/// The secret sits in the fragment, which browsers and proxies never send or log. Without a pin
/// (ACME, or behind a proxy with a public certificate) the fragment is the key alone, and the
/// system's authorities decide. `http://` is for loopback and for tests.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinLink {
    /// The broker's base URL, without a path or trailing slash.
    pub url: String,
    /// The join key: a secret.
    pub key: String,
    /// The broker's pin.
    pub pin: Option<Pin>,
}

impl fmt::Display for JoinLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/join#{}", self.url, self.key)?;
        match self.pin {
            Some(pin) => write!(f, ".{pin}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for JoinLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinLink({}/join#…)", self.url)
    }
}

impl FromStr for JoinLink {
    type Err = ParseJoinLinkError;

    fn from_str(s: &str) -> Result<Self, ParseJoinLinkError> {
        let (url, fragment) = s.trim().split_once("/join#").ok_or(ParseJoinLinkError::Shape)?;
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '@', '?', ' '])) {
            return Err(ParseJoinLinkError::Shape);
        }
        let (key, pin) = match fragment.split_once('.') {
            Some((key, pin)) => (key, Some(pin.parse()?)),
            None => (fragment, None),
        };
        let is_key_char = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(16..=128).contains(&key.len()) || !key.bytes().all(is_key_char) {
            return Err(ParseJoinLinkError::Fragment);
        }
        Ok(Self { url: url.to_owned(), key: key.to_owned(), pin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_survives_print_and_parse() {
        for pin in [None, Some(Pin([7; 32]))] {
            let link = JoinLink {
                url: "https://[2001:db8::1]:8443".to_owned(),
                key: "k3y_0123456789-ABCDEF".to_owned(),
                pin,
            };
            assert_eq!(link.to_string().parse::<JoinLink>().unwrap(), link);
        }
    }

    #[test]
    fn a_damaged_link_says_what_is_wrong() {
        for (text, error) in [
            ("https://host:8443/join", ParseJoinLinkError::Shape),
            ("host/join#0123456789abcdef", ParseJoinLinkError::Shape),
            ("https://evil@host/join#0123456789abcdef", ParseJoinLinkError::Shape),
            ("https://host/join#short", ParseJoinLinkError::Fragment),
            ("https://host/join#0123456789abcdef.AAAA", ParseJoinLinkError::Fragment),
        ] {
            assert_eq!(text.parse::<JoinLink>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        let link: JoinLink = "https://host/join#0123456789abcdef".parse().unwrap();
        assert!(!format!("{link:?}").contains("0123"));
    }
}
