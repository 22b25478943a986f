//! TURN REST credentials, and what both sides derive from them.
//!
//! Whoever shares a secret with a server makes credentials for it that expire by themselves, and
//! the server keeps no list: user name `EXPIRY:ID` (Unix seconds), password
//! base64(HMAC-SHA1(secret, user name)), as coturn's `use-auth-secret` and others have it.

use std::net::{Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};

use crate::nonce::NonceKey;

/// The port of every virtual relayed address: discard's (RFC 863), as the prefix is discard's.
pub const VIRTUAL_PORT: u16 = 9;

/// What the virtual relayed addresses begin with: 100::/64, discard-only (RFC 6666).
const VIRTUAL_PREFIX: u16 = 0x100;

/// Makes a credential: user name and password. `expires_unix` is in seconds; `id` says who it is
/// for, and comes after the first colon of the user name.
pub fn mint(secret: &[u8], expires_unix: u64, id: &str) -> (String, String) {
    let username = format!("{expires_unix}:{id}");
    let password = password(secret, username.as_bytes());
    (username, password)
}

/// The password that goes with a user name.
pub fn password(secret: &[u8], username: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    STANDARD.encode(hmac::sign(&key, username))
}

/// Takes a user name apart: when it expires (Unix seconds), and whose it is. `None` when it isn't
/// of this form; the id may be missing, as coturn allows.
pub fn parse_username(username: &str) -> Option<(u64, &str)> {
    let (expires, id) = username.split_once(':').unwrap_or((username, ""));
    if expires.is_empty() || !expires.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((expires.parse().ok()?, id))
}

/// A nonce that servers of this crate with that secret take for eight days from `unix` (seconds),
/// so that the first Allocate needs no round for a nonce of the server's own.
///
/// It isn't bound to an address, so it gives an allocation only to an id that has none there: a
/// request that was overheard and repeated elsewhere takes nobody's place.
pub fn nonce(secret: &[u8], unix: u64) -> String {
    NonceKey::minted(secret).issue(unix, None).as_str().to_owned()
}

/// The virtual relayed address of an id at any server of this crate: 100::/64 and the first eight
/// bytes of SHA-256("warren relayed address" id). So both sides of a pair can bind channels to one
/// another before they have exchanged anything.
pub fn virtual_address(id: &str) -> Ipv6Addr {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"warren relayed address");
    context.update(id.as_bytes());
    let hash = context.finish();
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&VIRTUAL_PREFIX.to_be_bytes());
    octets[8..].copy_from_slice(&hash.as_ref()[..8]);
    Ipv6Addr::from(octets)
}

/// [`virtual_address`] with [`VIRTUAL_PORT`]: the peer address that a channel is bound to.
pub fn virtual_relayed(id: &str) -> SocketAddr {
    SocketAddr::from((virtual_address(id), VIRTUAL_PORT))
}

/// Whether an address is a virtual relayed one.
pub fn is_virtual(ip: Ipv6Addr) -> bool {
    ip.segments()[..4] == [VIRTUAL_PREFIX, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `echo -n 1433895918:4ddd5b0e | openssl dgst -hmac my_secret -sha1 -binary | base64`.
    #[test]
    fn a_password_is_as_other_servers_make_it() {
        let (username, password) = mint(b"my_secret", 1_433_895_918, "4ddd5b0e");
        assert_eq!(username, "1433895918:4ddd5b0e");
        assert_eq!(password, "YK+U4Z1Awf4QzIDsHUwcXGClHVc=");
    }

    #[test]
    fn a_user_name_says_when_and_who() {
        assert_eq!(parse_username("1433895918:a:b"), Some((1_433_895_918, "a:b")));
        assert_eq!(parse_username("1433895918"), Some((1_433_895_918, "")));
        assert_eq!(parse_username("bob:x"), None);
        assert_eq!(parse_username(":x"), None);
        assert_eq!(parse_username("+1:x"), None);
        assert_eq!(parse_username("99999999999999999999999:x"), None);
    }

    #[test]
    fn every_id_has_an_address_of_its_own_in_the_discard_prefix() {
        let (a, b) = (virtual_address("a"), virtual_address("b"));
        assert!(is_virtual(a) && is_virtual(b) && a != b);
        assert!(!is_virtual("101::".parse().unwrap()));
        assert!(!is_virtual("100:0:0:1::".parse().unwrap()));
    }
}
