//! Time-based one-time passwords (RFC 6238): HMAC-SHA-1, six digits, steps of 30 seconds, as every
//! authenticator app has them.
//!
//! Written on the crypto that is in the tree: it is the truncation of RFC 4226 §5.3 and no more.

use ring::hmac;

use crate::UnixTime;

const STEP_SECONDS: u64 = 30;
const DIGITS: u32 = 6;
/// Steps accepted before and after the present one (RFC 6238 §5.2).
const SKEW: u64 = 1;
/// RFC 4648 §6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The step of a moment.
pub(super) fn step_at(now: UnixTime) -> u64 {
    now.0 / STEP_SECONDS
}

/// The step whose code this is, if it is a present one and later than `last`: a code is good once.
pub(super) fn verify(secret: &[u8], code: &str, now: UnixTime, last: u64) -> Option<u64> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    if code.len() != DIGITS as usize || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let now = step_at(now);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let steps = now.saturating_sub(SKEW)..=now + SKEW;
    steps.filter(|step| *step > last).find(|step| code_at(&key, *step) == code)
}

fn code_at(key: &hmac::Key, step: u64) -> String {
    let tag = hmac::sign(key, &step.to_be_bytes());
    let tag = tag.as_ref();
    // RFC 4226 §5.3: the last four bits say where the 31 bits begin.
    let offset = usize::from(tag.last().copied().unwrap_or(0) & 0xf);
    let bits = tag[offset..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    format!("{:06}", (bits & 0x7fff_ffff) % 10u32.pow(DIGITS))
}

/// Base32 (RFC 4648 §6) without padding.
pub(super) fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(5) {
        let mut block = [0; 8];
        block[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(block);
        let letters = (chunk.len() * 8).div_ceil(5);
        for n in 0..letters {
            let index = (bits >> (35 - 5 * n)) & 0x1f;
            text.push(char::from(BASE32[usize::try_from(index).unwrap_or(0)]));
        }
    }
    text
}

/// The URI that authenticator apps read from a QR code.
pub(super) fn uri(secret: &[u8], issuer: &str, account: &str) -> String {
    let (issuer, account) = (escape(issuer), escape(account));
    format!("otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}", base32(secret))
}

/// Percent-encodes (RFC 3986 §2.1) all but unreserved characters.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
pub(super) fn code_for(secret: &[u8], now: UnixTime) -> String {
    code_at(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret), step_at(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    /// RFC 6238 appendix B, the last six of its eight digits.
    #[test]
    fn the_vectors_of_rfc_6238() {
        for (time, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code_for(SECRET, UnixTime(time)), code);
            assert_eq!(verify(SECRET, code, UnixTime(time), 0), Some(time / 30));
        }
    }

    #[test]
    fn a_code_is_good_for_its_step_and_its_neighbours_and_once() {
        let code = code_for(SECRET, UnixTime(3_000));
        for (time, good) in [(2_939, false), (2_970, true), (3_059, true), (3_060, false)] {
            assert_eq!(verify(SECRET, &code, UnixTime(time), 0).is_some(), good, "{time}");
        }
        assert_eq!(verify(SECRET, &code, UnixTime(3_000), 100), None);
        let spaced = format!("{} {}", &code[..3], &code[3..]);
        assert_eq!(verify(SECRET, &spaced, UnixTime(3_000), 99), Some(100));
        for garbage in ["", "12345", "1234567", "12345a", "１２３４５６"] {
            assert_eq!(verify(SECRET, garbage, UnixTime(3_000), 0), None);
        }
    }

    /// RFC 4648 §10, without padding.
    #[test]
    fn base32_as_rfc_4648_has_it() {
        for (bytes, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
        assert_eq!(
            uri(b"foobar", "Warren home", "bob@example.org"),
            "otpauth://totp/Warren%20home:bob%40example.org?secret=MZXW6YTBOI&issuer=Warren%20home"
        );
    }
}
