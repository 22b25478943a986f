use std::collections::BTreeMap;

use crate::local::{Health, HealthCode};

/// What a person should know or mend; one text per code.
#[derive(Debug, Default)]
pub(super) struct Healths(BTreeMap<HealthCode, String>);

impl Healths {
    /// Notes a trouble; it is logged when it is new.
    pub(super) fn set(&mut self, code: HealthCode, text: impl Into<String>) {
        let text = text.into();
        if self.0.get(&code) != Some(&text) {
            tracing::warn!(?code, "{text}");
            self.0.insert(code, text);
        }
    }

    /// The trouble is over.
    pub(super) fn clear(&mut self, code: HealthCode) {
        if self.0.remove(&code).is_some() {
            tracing::info!(?code, "no longer a problem");
        }
    }

    /// Notes or clears, as the case may be.
    pub(super) fn put(&mut self, code: HealthCode, text: Option<String>) {
        match text {
            Some(text) => self.set(code, text),
            None => self.clear(code),
        }
    }

    pub(super) fn list(&self) -> Vec<Health> {
        self.0.iter().map(|(code, text)| Health { code: *code, text: text.clone() }).collect()
    }
}
