//! Nonces without state: a time and a keyed hash over it.
//!
//! ```text
//! obMatJos2 gAAA | time, 30 bits | MAC, 84 bits |      13 + 5 + 14 characters of base64
//! ```
//!
//! The MAC covers the client's address, so that nobody uses a nonce from elsewhere: whoever sends
//! one back receives what is sent to his address. Only nonces that a broker mints from the
//! server's shared secret ([`crate::rest::nonce`]) aren't bound. The prefix says that the server
//! sends PASSWORD-ALGORITHMS (RFC 8489 §9.2); where there is no room for those, it is left out.

use std::net::{IpAddr, SocketAddr};

use ring::hmac;
use subtle::ConstantTimeEq as _;

use crate::credential::{NONCE_PREFIX, base64_value};

/// How long a nonce of the server's own is good, seconds (RFC 8656 §5: an hour).
const LIFETIME: u64 = 3600;

/// How long a minted one is good: as long as the credentials that it comes with, and a day.
const MINTED_LIFETIME: u64 = 8 * 24 * 3600;

/// How far a broker's clock may be ahead of the server's, seconds.
const MINTED_AHEAD: u64 = 600;

const TIME_BITS: u32 = 30;
const MAC_BITS: u32 = 84;
const DIGITS: usize = ((TIME_BITS + MAC_BITS) / 6) as usize;
const MAX_LEN: usize = NONCE_PREFIX.len() + DIGITS;

/// What is known of a nonce that a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    Stale,
}

/// A nonce, at most 32 characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nonce {
    text: [u8; MAX_LEN],
    start: usize,
}

impl Nonce {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("base64 is ASCII")
    }

    /// The same without the prefix: it promises no PASSWORD-ALGORITHMS.
    pub(crate) fn plain(mut self) -> Self {
        self.start = NONCE_PREFIX.len();
        self
    }
}

#[derive(Debug, Clone)]
pub(crate) struct NonceKey {
    key: hmac::Key,
    lifetime: u64,
    ahead: u64,
}

impl NonceKey {
    /// For the server's own; `seed` is secret and random.
    pub(crate) fn new(seed: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), lifetime: LIFETIME, ahead: 0 }
    }

    /// For those that a broker mints.
    pub(crate) fn minted(secret: &[u8]) -> Self {
        let outer = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&outer, b"warren relay nonce");
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
            lifetime: MINTED_LIFETIME,
            ahead: MINTED_AHEAD,
        }
    }

    pub(crate) fn issue(&self, unix: u64, client: Option<SocketAddr>) -> Nonce {
        let time = unix % (1 << TIME_BITS);
        let mut bits = u128::from(time) << MAC_BITS | self.mac(time, client);
        let mut text = [0; MAX_LEN];
        text[..NONCE_PREFIX.len()].copy_from_slice(NONCE_PREFIX);
        for digit in text[NONCE_PREFIX.len()..].iter_mut().rev() {
            *digit = base64_digit((bits % 64) as u8);
            bits /= 64;
        }
        Nonce { text, start: 0 }
    }

    pub(crate) fn check(&self, nonce: &[u8], unix: u64, client: Option<SocketAddr>) -> Freshness {
        let digits = nonce.strip_prefix(NONCE_PREFIX).unwrap_or(nonce);
        let Some(bits) = (digits.len() == DIGITS).then(|| decode(digits)).flatten() else {
            return Freshness::Stale;
        };
        let (time, mac) = ((bits >> MAC_BITS) as u64, bits % (1 << MAC_BITS));
        let age = (unix + self.ahead).wrapping_sub(time) % (1 << TIME_BITS);
        let genuine = mac.to_be_bytes().ct_eq(&self.mac(time, client).to_be_bytes());
        if bool::from(genuine) && age <= self.lifetime + self.ahead {
            Freshness::Fresh
        } else {
            Freshness::Stale
        }
    }

    fn mac(&self, time: u64, client: Option<SocketAddr>) -> u128 {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&time.to_be_bytes());
        if let Some(client) = client {
            match client.ip().to_canonical() {
                IpAddr::V4(ip) => context.update(&ip.octets()),
                IpAddr::V6(ip) => context.update(&ip.octets()),
            }
            context.update(&client.port().to_be_bytes());
        }
        let tag = context.sign();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&tag.as_ref()[..16]);
        u128::from_be_bytes(bytes) >> (128 - MAC_BITS)
    }
}

fn decode(digits: &[u8]) -> Option<u128> {
    digits
        .iter()
        .try_fold(0, |bits: u128, &digit| Some(bits << 6 | u128::from(base64_value(digit)?)))
}

fn base64_digit(value: u8) -> u8 {
    match value {
        0..26 => b'A' + value,
        26..52 => b'a' + (value - 26),
        52..62 => b'0' + (value - 52),
        62 => b'+',
        _ => b'/',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::nonce_has_password_algorithms;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn a_nonce_is_good_for_its_time_and_its_client_alone() {
        let key = NonceKey::new(&[1; 32]);
        let client = Some("192.0.2.1:7".parse().unwrap());
        for nonce in [key.issue(NOW, client), key.issue(NOW, client).plain()] {
            let check = |unix, client| key.check(nonce.as_bytes(), unix, client);
            assert_eq!(check(NOW, client), Freshness::Fresh);
            assert_eq!(check(NOW + LIFETIME, client), Freshness::Fresh);
            assert_eq!(check(NOW + LIFETIME + 1, client), Freshness::Stale);
            assert_eq!(check(NOW - 1, client), Freshness::Stale);
            assert_eq!(check(NOW, Some("192.0.2.1:8".parse().unwrap())), Freshness::Stale);
            assert_eq!(check(NOW, Some("192.0.2.2:7".parse().unwrap())), Freshness::Stale);
            assert_eq!(check(NOW, None), Freshness::Stale);
            let other = NonceKey::new(&[2; 32]);
            assert_eq!(other.check(nonce.as_bytes(), NOW, client), Freshness::Stale);
        }
    }

    #[test]
    fn a_nonce_is_short_and_says_what_the_server_can() {
        let nonce = NonceKey::new(&[1; 32]).issue(NOW, None);
        assert_eq!(nonce.as_bytes().len(), 32);
        assert!(nonce_has_password_algorithms(nonce.as_bytes()));
        assert_eq!(nonce.plain().as_bytes().len(), 19);
        assert!(!nonce_has_password_algorithms(nonce.plain().as_bytes()));
    }

    #[test]
    fn any_changed_character_makes_it_stale() {
        let key = NonceKey::minted(b"secret");
        let nonce = key.issue(NOW, None);
        assert_eq!(key.check(nonce.as_bytes(), NOW, None), Freshness::Fresh);
        for i in 0..nonce.as_bytes().len() {
            let mut text = nonce.as_bytes().to_vec();
            text[i] = if text[i] == b'x' { b'y' } else { b'x' };
            assert_eq!(key.check(&text, NOW, None), Freshness::Stale, "{i}");
        }
        for len in 0..nonce.as_bytes().len() {
            let short = &nonce.as_bytes()[..len];
            assert_eq!(key.check(short, NOW, None), Freshness::Stale);
        }
    }

    #[test]
    fn a_minted_nonce_outlives_a_week_and_a_clock_that_is_ahead() {
        let key = NonceKey::minted(b"secret");
        let nonce = key.issue(NOW, None);
        let week = NOW + 7 * 24 * 3600;
        assert_eq!(key.check(nonce.as_bytes(), week, None), Freshness::Fresh);
        assert_eq!(key.check(nonce.as_bytes(), NOW - 300, None), Freshness::Fresh);
        assert_eq!(key.check(nonce.as_bytes(), NOW - 700, None), Freshness::Stale);
        assert_eq!(key.check(nonce.as_bytes(), NOW + 9 * 24 * 3600, None), Freshness::Stale);
    }
}
