//! The two MACs at the end of a handshake message, and cookies (paper §5.3, §5.4.4, §5.4.7).
//!
//! MAC1 proves that the sender knows whom it talks to, so that a port scan gets no answer. Under
//! load MAC2 proves besides that the sender receives at the address it sends from: it is keyed
//! with a cookie, a MAC of that address under a secret that changes every two minutes.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use zeroize::Zeroizing;

use crate::constants::COOKIE_LIFETIME;
use crate::crypto::{Random, Secret, hash, mac, mac_eq, open_cookie, seal_cookie};
use crate::message::{COOKIE_REPLY, COOKIE_REPLY_LEN, array, cookie_reply};

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// The keys that belong to whoever a handshake message is for; anyone who knows the public key
/// can compute them.
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn new(public: &[u8; 32]) -> Self {
        Self { mac1: hash(&[LABEL_MAC1, public]), cookie: hash(&[LABEL_COOKIE, public]) }
    }
}

/// Where the MACs of a handshake message begin.
fn split_macs(message: &[u8]) -> (&[u8], [u8; 16], [u8; 16]) {
    let at = message.len() - 32;
    (&message[..at], array(message, at), array(message, at + 16))
}

/// Whether a handshake message for the owner of `keys` has the right MAC1.
pub(crate) fn has_valid_mac1(keys: &MacKeys, message: &[u8]) -> bool {
    let (body, mac1, _) = split_macs(message);
    mac_eq(&mac(&keys.mac1, &[body]), &mac1)
}

/// A cookie that a peer gave us.
#[derive(Debug, Clone)]
struct Cookie {
    value: Zeroizing<[u8; 16]>,
    received: Instant,
}

/// What we need to write MACs to one peer.
pub(crate) struct MacWriter {
    keys: MacKeys,
    cookie: Option<Cookie>,
    /// The MAC1 of the last message, until a cookie reply to it has come.
    last_mac1: Option<[u8; 16]>,
}

impl MacWriter {
    pub(crate) fn new(peer: &[u8; 32]) -> Self {
        Self { keys: MacKeys::new(peer), cookie: None, last_mac1: None }
    }

    /// Fills in the last 32 bytes of a handshake message.
    pub(crate) fn write(&mut self, message: &mut [u8], now: Instant) {
        let at = message.len() - 32;
        let mac1 = mac(&self.keys.mac1, &[&message[..at]]);
        message[at..at + 16].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        self.cookie = self.cookie.take().filter(|c| now < c.received + COOKIE_LIFETIME);
        if let Some(cookie) = &self.cookie {
            let mac2 = mac(cookie.value.as_slice(), &[&message[..at + 16]]);
            message[at + 16..].copy_from_slice(&mac2);
        }
    }

    /// Takes the cookie out of a reply to our last message. At most one reply per message counts.
    pub(crate) fn read_reply(&mut self, reply: &[u8; COOKIE_REPLY_LEN], now: Instant) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let nonce = array(reply, cookie_reply::NONCE);
        let sealed = array(reply, cookie_reply::COOKIE);
        let Some(value) = open_cookie(&self.keys.cookie, &nonce, &mac1, &sealed) else {
            return false;
        };
        self.last_mac1 = None;
        self.cookie = Some(Cookie { value: Zeroizing::new(value), received: now });
        true
    }
}

/// What we need to check MACs of messages to us and to hand out cookies.
pub(crate) struct CookieJar {
    keys: MacKeys,
    secret: Secret,
    secret_since: Option<Instant>,
}

impl CookieJar {
    pub(crate) fn new(own: &[u8; 32]) -> Self {
        Self { keys: MacKeys::new(own), secret: Secret::default(), secret_since: None }
    }

    pub(crate) fn has_valid_mac1(&self, message: &[u8]) -> bool {
        has_valid_mac1(&self.keys, message)
    }

    /// Whether the message proves that its sender receives at `source`.
    pub(crate) fn has_valid_mac2(
        &mut self,
        message: &[u8],
        source: SocketAddr,
        now: Instant,
        random: &mut Random,
    ) -> bool {
        let cookie = self.cookie(source, now, random);
        let (_, _, mac2) = split_macs(message);
        mac_eq(&mac(cookie.as_slice(), &[&message[..message.len() - 16]]), &mac2)
    }

    /// The reply that hands `source` its cookie; `sender` is the index in its message.
    pub(crate) fn reply(
        &mut self,
        message: &[u8],
        sender: u32,
        source: SocketAddr,
        now: Instant,
        random: &mut Random,
    ) -> [u8; COOKIE_REPLY_LEN] {
        let cookie = self.cookie(source, now, random);
        let (_, mac1, _) = split_macs(message);
        let nonce = random.bytes::<24>();
        let mut reply = [0; COOKIE_REPLY_LEN];
        reply[..4].copy_from_slice(&COOKIE_REPLY.to_le_bytes());
        reply[cookie_reply::RECEIVER..][..4].copy_from_slice(&sender.to_le_bytes());
        reply[cookie_reply::NONCE..][..24].copy_from_slice(&nonce);
        let sealed = seal_cookie(&self.keys.cookie, &nonce, &mac1, &cookie);
        reply[cookie_reply::COOKIE..].copy_from_slice(&sealed);
        reply
    }

    fn cookie(
        &mut self,
        source: SocketAddr,
        now: Instant,
        random: &mut Random,
    ) -> Zeroizing<[u8; 16]> {
        if self.secret_since.is_none_or(|since| now >= since + COOKIE_LIFETIME) {
            self.secret = random.secret();
            self.secret_since = Some(now);
        }
        let port = source.port().to_be_bytes();
        Zeroizing::new(match source.ip() {
            IpAddr::V4(ip) => mac(self.secret.as_slice(), &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(self.secret.as_slice(), &[&ip.octets(), &port]),
        })
    }
}
