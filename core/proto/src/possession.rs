//! What a device that joins proves, and to whom.
//!
//! The device shows that it holds the private key of the public key that it registers. What it shows
//! is good at one broker alone, the one that the device has verified: a broker that passes on
//! another's challenge, to join in the device's name there, gets a proof that the other one refuses.

use std::net::IpAddr;

use crate::{JoinLink, Pin, PublicKey};

/// By what a device knows the broker that it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerIdentity {
    /// The authority that its certificate comes from.
    Pin(Pin),
    /// The host of its URL, for which it has a certificate that everybody trusts. Made by
    /// [`BrokerIdentity::host`].
    Host(String),
}

impl BrokerIdentity {
    /// That of a broker whose URL has this host: a name in any case, or an address with or without
    /// brackets.
    pub fn host(host: &str) -> Self {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(ip) => Self::Host(ip.to_canonical().to_string()),
            Err(_) => Self::Host(bare.to_ascii_lowercase()),
        }
    }

    /// Its kind, and what it is.
    pub(crate) fn parts(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Pin(pin) => (b"pin", &pin.0),
            Self::Host(host) => (b"host", host.as_bytes()),
        }
    }

    /// What whoever follows a link verifies: its pin, or else the name in its URL.
    pub fn of(link: &JoinLink) -> Self {
        match link.pin {
            Some(pin) => Self::Pin(pin),
            None => Self::host(host_of(&link.url)),
        }
    }
}

/// The host in `SCHEME://HOST[:PORT]`.
fn host_of(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, authority)| authority);
    let after_address = authority.find(']').map_or(0, |end| end + 1);
    let end = authority[after_address..].find([':', '/']).map(|at| after_address + at);
    &authority[..end.unwrap_or(authority.len())]
}

/// The bytes over which a device proves possession of its private key: HMAC-SHA-256, keyed with
/// X25519(device, broker), over this.
pub fn possession_message(
    broker: &BrokerIdentity,
    challenge: &str,
    key: &PublicKey,
    join_key: &str,
) -> Vec<u8> {
    let (kind, identity) = broker.parts();
    let parts = [kind, identity, challenge.as_bytes(), &key.0, join_key.as_bytes()];
    framed(b"warren register v2\0", &parts)
}

/// What a message is for, then its parts, each behind its length.
pub(crate) fn framed(purpose: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut message = purpose.to_vec();
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(url: &str, pin: Option<Pin>) -> JoinLink {
        JoinLink { url: url.to_owned(), key: "0123456789abcdef".to_owned(), pin }
    }

    #[test]
    fn a_link_names_its_pin_or_else_its_host() {
        let pin = Pin([7; 32]);
        let pinned = link("https://broker.example.org", Some(pin));
        assert_eq!(BrokerIdentity::of(&pinned), BrokerIdentity::Pin(pin));
        for (url, host) in [
            ("https://Broker.Example.org", "broker.example.org"),
            ("https://broker.example.org:8443", "broker.example.org"),
            ("https://192.0.2.1:8443", "192.0.2.1"),
            ("https://[2001:DB8::1]:8443", "2001:db8::1"),
            ("https://[2001:db8:0::1]", "2001:db8::1"),
            ("http://localhost:80/", "localhost"),
        ] {
            let named = BrokerIdentity::of(&link(url, None));
            assert_eq!(named, BrokerIdentity::Host(host.to_owned()), "{url}");
        }
    }

    #[test]
    fn the_message_is_its_parts_each_behind_its_length() {
        let message = |broker| possession_message(&broker, "c", &PublicKey([2; 32]), "k");
        let tail = [&[0, 0, 0, 0, 0, 0, 0, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 32][..], &[2; 32]];
        let tail = [&tail.concat()[..], &[0, 0, 0, 0, 0, 0, 0, 1, b'k']].concat();
        let pinned = b"warren register v2\0\0\0\0\0\0\0\0\x03pin\0\0\0\0\0\0\0\x20";
        let named = b"warren register v2\0\0\0\0\0\0\0\0\x04host\0\0\0\0\0\0\0\x03a.b";
        assert_eq!(
            message(BrokerIdentity::Pin(Pin([1; 32]))),
            [&pinned[..], &[1; 32], &tail].concat()
        );
        assert_eq!(message(BrokerIdentity::host("A.b")), [&named[..], &tail].concat());
    }
}
