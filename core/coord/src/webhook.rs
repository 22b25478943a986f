//! Webhooks as they are stored, and what is sent to them.
//!
//! A message is signed as Standard Webhooks says (<https://www.standardwebhooks.com>): HMAC-SHA256,
//! keyed with the secret, over `ID.TIMESTAMP.BODY`.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use warren_proto::{DeliveryId, WebhookId};

use crate::UnixTime;

/// The secret that a webhook's messages are signed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WebhookSecret(pub [u8; 32]);

impl WebhookSecret {
    /// The signature of a message, with its version: `v1,BASE64`.
    pub fn sign(&self, id: DeliveryId, timestamp: UnixTime, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let signed = format!("msg_{id}.{}.{body}", timestamp.0);
        format!("v1,{}", STANDARD.encode(hmac::sign(&key, signed.as_bytes()).as_ref()))
    }
}

impl fmt::Display for WebhookSecret {
    /// As the receiving side takes it: `whsec_BASE64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "whsec_{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// Why a webhook gets no messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WebhookOff {
    /// Somebody has switched it off.
    ByHand,
    /// It failed for days.
    Failing,
}

/// A webhook as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRecord {
    /// Its id.
    pub id: WebhookId,
    /// Where its messages go.
    pub url: String,
    /// What it is told of: actions of Activity, or what they begin with; besides `device.online` and
    /// `device.offline`.
    pub events: BTreeSet<String>,
    /// What its messages are signed with.
    pub secret: WebhookSecret,
    /// The secret before, and until when messages are signed with that, too.
    pub previous: Option<(WebhookSecret, UnixTime)>,
    /// When it was created.
    pub created: UnixTime,
    /// Since when nothing has arrived.
    pub failing_since: Option<UnixTime>,
    /// Why it gets no messages; `None`: it does.
    pub off: Option<WebhookOff>,
}

impl WebhookRecord {
    /// Whether it is told of such an event.
    pub fn wants(&self, event: &str) -> bool {
        let fits = |wanted: &String| {
            event
                .strip_prefix(wanted.as_str())
                .is_some_and(|it| it.is_empty() || it.starts_with('.'))
        };
        self.off.is_none() && self.events.iter().any(fits)
    }

    /// The signatures of a message at this moment, separated by a space.
    pub fn signatures(&self, id: DeliveryId, now: UnixTime, body: &str) -> String {
        let signature = self.secret.sign(id, now, body);
        match &self.previous {
            Some((previous, until)) if *until > now => {
                format!("{signature} {}", previous.sign(id, now, body))
            }
            Some(_) | None => signature,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_that_the_standards_libraries_check() {
        // Worked out with Python: hmac.new(bytes([7]) * 32, b"msg_000000000000002a.1700000000.{}", "sha256")
        let secret = WebhookSecret([7; 32]);
        let signed = secret.sign(DeliveryId(0x2a), UnixTime(1_700_000_000), "{}");
        assert_eq!(signed, "v1,GcGFsr/K2HQectUb+bmWK2aBiLRnq3nlvbP8UnMbOPk=");
        assert_eq!(secret.to_string(), "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
    }

    #[test]
    fn a_webhook_is_told_of_what_its_words_begin_with() {
        let mut webhook = WebhookRecord {
            id: WebhookId(1),
            url: String::new(),
            events: ["device".to_owned(), "policy.changed".to_owned()].into(),
            secret: WebhookSecret([1; 32]),
            previous: Some((WebhookSecret([2; 32]), UnixTime(10))),
            created: UnixTime(0),
            failing_since: None,
            off: None,
        };
        assert!(webhook.wants("device.online") && webhook.wants("policy.changed"));
        assert!(!webhook.wants("devices.x") && !webhook.wants("policy.read"));
        let two = webhook.signatures(DeliveryId(1), UnixTime(9), "x");
        assert_eq!(two.split(' ').count(), 2, "while the secret is changed");
        assert_eq!(webhook.signatures(DeliveryId(1), UnixTime(10), "x").split(' ').count(), 1);
        webhook.off = Some(WebhookOff::ByHand);
        assert!(!webhook.wants("device.online"));
    }
}
