//! The account's webhooks: made, changed, switched off when nothing arrives.

use std::collections::BTreeSet;

use warren_proto::{DeviceId, DeviceName, WebhookId};

use super::Account;
use crate::{Change, Ctx, Prepared, Refused, UnixTime, WebhookOff, WebhookRecord, WebhookSecret};

const MAX_WEBHOOKS: usize = 20;
const MAX_URL: usize = 500;
const MAX_EVENTS: usize = 50;
const MAX_EVENT: usize = 64;
/// How long messages are signed with the secret before, too, in seconds.
const OVERLAP: u64 = 24 * 60 * 60;
/// After how long without anything arriving a webhook is switched off, in seconds.
const FAILING: u64 = 5 * 24 * 60 * 60;
/// Comings and goings that nobody has asked for yet; beyond, the oldest are forgotten.
const MAX_PRESENCES: usize = 1_000;

/// What a new webhook is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWebhook {
    /// Where its messages go: an `https` URL, or `http` where the operator allows the target.
    pub url: String,
    /// What it is told of.
    pub events: BTreeSet<String>,
}

/// A new webhook, or a new secret. The secret is told this once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookCreated {
    /// Its id.
    pub id: WebhookId,
    /// What its messages are signed with.
    pub secret: WebhookSecret,
}

/// What to change of a webhook; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookEdit {
    /// Where its messages go.
    pub url: Option<String>,
    /// What it is told of.
    pub events: Option<BTreeSet<String>>,
    /// Whether it gets messages.
    pub on: Option<bool>,
}

/// A device came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Which one.
    pub device: DeviceId,
    /// Its name.
    pub name: DeviceName,
    /// Whether it is online.
    pub online: bool,
}

impl Presence {
    /// The event's name.
    pub fn event(&self) -> &'static str {
        if self.online { "device.online" } else { "device.offline" }
    }
}

impl Account {
    /// The account's webhooks, by id.
    pub fn webhooks(&self) -> impl Iterator<Item = &WebhookRecord> {
        self.webhooks.values()
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// [`Refused::Invalid`] for a URL that is none, no event or too many, or when there are 20.
    pub fn prepare_webhook(
        &self,
        new: NewWebhook,
        ctx: &Ctx,
    ) -> Result<Prepared<WebhookCreated>, Refused> {
        check_url(&new.url)?;
        check_events(&new.events)?;
        if self.webhooks.len() >= MAX_WEBHOOKS {
            return Err(Refused::Invalid("an account has at most 20 webhooks; remove some"));
        }
        let id = ctx.fresh_id("webhook id", |id| self.webhooks.contains_key(&WebhookId(id)));
        let secret = WebhookSecret(ctx.bytes("webhook secret"));
        let record = WebhookRecord {
            id: WebhookId(id),
            url: new.url,
            events: new.events,
            secret,
            previous: None,
            created: ctx.unix_time(),
            failing_since: None,
            off: None,
        };
        let reply = WebhookCreated { id: WebhookId(id), secret };
        Ok(Prepared { changes: vec![Change::Webhook(record)], reply })
    }

    /// Changes a webhook. One that is switched on again begins without failures.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Invalid`] as for a new one.
    pub fn prepare_edit_webhook(
        &self,
        id: WebhookId,
        edit: WebhookEdit,
    ) -> Result<Prepared<()>, Refused> {
        let mut record = self.webhook(id)?.clone();
        if let Some(url) = edit.url {
            check_url(&url)?;
            record.url = url;
        }
        if let Some(events) = edit.events {
            check_events(&events)?;
            record.events = events;
        }
        match edit.on {
            Some(true) => (record.off, record.failing_since) = (None, None),
            Some(false) => record.off = record.off.or(Some(WebhookOff::ByHand)),
            None => {}
        }
        Ok(self.webhook_change(record))
    }

    /// Gives a webhook another secret; for a day messages are signed with the one before, too.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_rotate_webhook(
        &self,
        id: WebhookId,
        ctx: &Ctx,
    ) -> Result<Prepared<WebhookCreated>, Refused> {
        let mut record = self.webhook(id)?.clone();
        let secret = WebhookSecret(ctx.bytes("webhook secret"));
        let until = UnixTime(ctx.unix_time().0 + OVERLAP);
        record.previous = Some((std::mem::replace(&mut record.secret, secret), until));
        Ok(Prepared {
            changes: vec![Change::Webhook(record)],
            reply: WebhookCreated { id, secret },
        })
    }

    /// Deletes a webhook with all that waits for it.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_remove_webhook(&self, id: WebhookId) -> Result<Prepared<()>, Refused> {
        self.webhook(id)?;
        Ok(Prepared { changes: vec![Change::WebhookRemoved(id)], reply: () })
    }

    /// Notes whether a message has arrived. A webhook where none has for five days is switched off.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_webhook_outcome(
        &self,
        id: WebhookId,
        arrived: bool,
        ctx: &Ctx,
    ) -> Result<Prepared<()>, Refused> {
        let mut record = self.webhook(id)?.clone();
        let now = ctx.unix_time();
        record.failing_since = if arrived { None } else { record.failing_since.or(Some(now)) };
        if record.failing_since.is_some_and(|since| since.0 + FAILING <= now.0) {
            record.off = record.off.or(Some(WebhookOff::Failing));
        }
        Ok(self.webhook_change(record))
    }

    /// Whether there is something to poll.
    pub fn has_presences(&self) -> bool {
        !self.presences.is_empty()
    }

    /// The next device that came or went, where a webhook asks for it.
    pub fn poll_presence(&mut self) -> Option<Presence> {
        self.presences.pop_front()
    }

    pub(super) fn note_presence(&mut self, device: DeviceId, online: bool) {
        let Some(name) = self.device_name(device) else { return };
        let presence = Presence { device, name, online };
        if !self.webhooks.values().any(|webhook| webhook.wants(presence.event())) {
            return;
        }
        if self.presences.len() == MAX_PRESENCES {
            self.presences.pop_front();
        }
        self.presences.push_back(presence);
    }

    fn webhook(&self, id: WebhookId) -> Result<&WebhookRecord, Refused> {
        self.webhooks.get(&id).ok_or(Refused::NotFound("webhook"))
    }

    fn webhook_change(&self, record: WebhookRecord) -> Prepared<()> {
        let changed = self.webhooks.get(&record.id) != Some(&record);
        let changes = if changed { vec![Change::Webhook(record)] } else { Vec::new() };
        Prepared { changes, reply: () }
    }
}

/// What can be told without looking anything up: whether it leads somewhere is seen when a message
/// is sent.
fn check_url(url: &str) -> Result<(), Refused> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || host.contains('@') || !is_plain || url.len() > MAX_URL {
        return Err(Refused::Invalid(
            "a webhook has a URL such as https://example.org/hook, of at most 500 characters",
        ));
    }
    Ok(())
}

fn check_events(events: &BTreeSet<String>) -> Result<(), Refused> {
    let is_word = |event: &String| {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'-' || byte == b'.';
        (1..=MAX_EVENT).contains(&event.len()) && event.bytes().all(is_letter)
    };
    if events.is_empty() || events.len() > MAX_EVENTS || !events.iter().all(is_word) {
        return Err(Refused::Invalid(
            "a webhook is told of 1 to 50 kinds of events, such as device or device.online",
        ));
    }
    Ok(())
}
