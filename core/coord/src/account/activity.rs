//! What an account's changes mean for people who read Activity.

use ring::digest;

use super::Account;
use super::policy::text_of;
use crate::activity::{Facts, Named, diff};
use crate::lines::{Line, changes};
use crate::{
    AccountRecord, By, Change, DeviceRecord, Entry, JoinKeyRecord, ListedRelay, PolicyRecord,
    RelayKind, RelayRecord, UnixTime, WebhookOff, WebhookRecord,
};

/// The most bytes of a policy's text that an entry holds, of each side: entries are kept for years.
const LONGEST_EXCERPT: usize = 8 << 10;

impl Account {
    /// The entries that a decision's changes make, if they are committed now (in milliseconds since
    /// the Unix epoch): call it before [`Account::apply`].
    pub fn activity(&self, changes: &[Change], by: &By, at: u64) -> Vec<Entry> {
        // What follows from another setting is said by that.
        let is_setting = changes.iter().any(
            |change| matches!(change, Change::Account(new) if new.settings != self.record.settings),
        );
        let follows = |change: &&Change| matches!(change, Change::Device(_)) && is_setting;
        let said = changes.iter().filter(|change| !follows(change));
        said.filter_map(|change| self.entry(change, by, at)).collect()
    }

    fn entry(&self, change: &Change, by: &By, at: u64) -> Option<Entry> {
        let (action, subject, before, after) = match change {
            Change::Account(new) => {
                let named = Named::new("account", new.id, &new.name);
                (
                    account_action(&self.record, new),
                    named,
                    Some(of_account(&self.record)),
                    Some(of_account(new)),
                )
            }
            Change::Device(new) => {
                let old = self.devices.get(&new.id).map(|device| &device.record);
                let named = Named::new("device", new.id, &new.name);
                (
                    device_action(old, new, at / 1_000),
                    named,
                    old.map(of_device),
                    Some(of_device(new)),
                )
            }
            Change::DeviceRemoved(id) => {
                let old = &self.devices.get(id)?.record;
                let named = Named::new("device", id, &old.name);
                let action = if old.approved { "device.removed" } else { "device.refused" };
                (action, named, Some(of_device(old)), None)
            }
            Change::JoinKey(new) => {
                let old = self.join_keys.get(&new.id).map(of_join_key);
                let action = if old.is_some() { "join-key.changed" } else { "join-key.created" };
                (action, Named::new("join-key", new.id, new.id), old, Some(of_join_key(new)))
            }
            Change::JoinKeyRemoved(id) => {
                let old = of_join_key(self.join_keys.get(id)?);
                ("join-key.removed", Named::new("join-key", id, id), Some(old), None)
            }
            Change::Relay(new) => {
                let old = self.relays.records.get(&new.id).map(of_relay);
                let action = if old.is_some() { "relay.changed" } else { "relay.created" };
                (action, Named::new("relay", new.id, &new.name), old, Some(of_relay(new)))
            }
            Change::RelayRemoved(id) => {
                let old = self.relays.records.get(id)?;
                let named = Named::new("relay", id, &old.name);
                ("relay.removed", named, Some(of_relay(old)), None)
            }
            Change::RelayList(new) => {
                let named = Named::new("relay-list", "", "connection relays");
                let (old, new) = (self.of_list(&self.relays.list), self.of_list(new));
                ("relay-list.changed", named, Some(old), Some(new))
            }
            Change::Policy(new) => {
                let named = Named::new("policy", "", "policy");
                let old = &self.rules.record;
                let [before, after] = excerpts(text_of(old), text_of(new));
                let (old, new) = (of_policy(old, before), of_policy(new, after));
                ("policy.changed", named, Some(old), Some(new))
            }
            Change::Webhook(new) => {
                let old = self.webhooks.get(&new.id);
                let named = Named::new("webhook", new.id, shown_url(&new.url));
                (webhook_action(old, new), named, old.map(of_webhook), Some(of_webhook(new)))
            }
            Change::WebhookRemoved(id) => {
                let old = self.webhooks.get(id)?;
                let named = Named::new("webhook", id, shown_url(&old.url));
                ("webhook.removed", named, Some(of_webhook(old)), None)
            }
            Change::Edge(new) => self.said_of_edge(new)?,
            Change::EdgeItem(new) => self.said_of_edge_item(new),
            Change::EdgeItemRemoved { edge, id } => self.said_of_edge_item_gone(*edge, *id)?,
            Change::EdgeWakes { edge, mac } => self.said_of_wake(*edge, *mac)?,
            Change::LastSeen { .. } | Change::Revoked { .. } | Change::RevocationOver(_) => {
                return None;
            }
        };
        let fields = diff(before.as_ref(), after.as_ref());
        let is_change = before.is_some() && after.is_some();
        if is_change && fields.is_empty() {
            return None;
        }
        Some(Entry::new(action, subject, Some(self.record.id), by, at).with(fields))
    }

    fn of_list(&self, list: &[ListedRelay]) -> Facts {
        let name = |entry: &ListedRelay| {
            let relay = self.relays.records.get(&entry.relay);
            let name = relay.map_or_else(|| entry.relay.to_string(), |it| it.name.to_string());
            format!("{}: {name}", u32::from(entry.rank) + 1)
        };
        Facts::default().list("relays", list.iter().map(name))
    }
}

/// The entry of an account that is created or removed; it is in the broker's chain.
pub fn account_activity(
    before: Option<&AccountRecord>,
    after: Option<&AccountRecord>,
    by: &By,
    at: u64,
) -> Option<Entry> {
    let record = after.or(before)?;
    let action = if after.is_some() { "account.created" } else { "account.removed" };
    let fields = diff(before.map(of_account).as_ref(), after.map(of_account).as_ref());
    let named = Named::new("account", record.id, &record.name);
    Some(Entry::new(action, named, Some(record.id), by, at).with(fields))
}

/// The entry of a change of one of the operator's relays; `None`: nothing that people care for.
pub fn relay_activity(
    before: Option<&RelayRecord>,
    after: Option<&RelayRecord>,
    by: &By,
    at: u64,
) -> Option<Entry> {
    let record = after.or(before)?;
    let action = match (before, after) {
        (None, _) => "relay.created",
        (Some(_), Some(_)) => "relay.changed",
        (Some(_), None) => "relay.removed",
    };
    let fields = diff(before.map(of_relay).as_ref(), after.map(of_relay).as_ref());
    let named = Named::new("relay", record.id, &record.name);
    let is_news = before.is_none() || after.is_none() || !fields.is_empty();
    is_news.then(|| Entry::new(action, named, None, by, at).with(fields))
}

fn account_action(old: &AccountRecord, new: &AccountRecord) -> &'static str {
    match (old.settings.suspended, new.settings.suspended) {
        (false, true) => "account.suspended",
        (true, false) => "account.resumed",
        (true, true) | (false, false) => "account.changed",
    }
}

fn device_action(old: Option<&DeviceRecord>, new: &DeviceRecord, unix: u64) -> &'static str {
    let Some(old) = old else {
        return if new.approved { "device.joined" } else { "device.waiting" };
    };
    match (&old.token, &new.token) {
        (Some(_), None) => return "device.logged-out",
        (old, Some(new)) if old.as_ref() != Some(new) => return "device.joined-again",
        (Some(_) | None, Some(_)) | (None, None) => {}
    }
    if !old.approved && new.approved {
        return "device.approved";
    }
    let [was_expired, is_expired] = [old, new].map(|it| it.is_expired(UnixTime(unix)));
    let kept_exempt = (old.never_expires, &old.tags) == (new.never_expires, &new.tags);
    match old.expires == new.expires {
        false if is_expired && !was_expired => "device.expired",
        false if kept_exempt => "device.renewed",
        _ if old.name != new.name => "device.renamed",
        _ => "device.changed",
    }
}

/// The facts of an account that people care for: not how many addresses were given out.
fn of_account(record: &AccountRecord) -> Facts {
    let settings = &record.settings;
    Facts::default()
        .open("name", &record.name)
        .open("ipv4_range", record.ipv4_range)
        .open("ipv6_range", record.ipv6_range)
        .open("suspended", settings.suspended)
        .maybe("max_devices", settings.device_limit.map(|limit| limit.0))
        .maybe("max_users", settings.user_limit)
        .open("device_approval", settings.device_approval)
        .maybe("key_expiry_days", settings.key_expiry_days)
        .maybe("activity_days", settings.activity_days)
}

fn of_device(device: &DeviceRecord) -> Facts {
    let token = device.token.map(|hash| hash.0);
    Facts::default()
        .open("name", &device.name)
        .open("key", device.key)
        .open("ipv4", device.ipv4)
        .open("ipv6", device.ipv6)
        .list("tags", &device.tags)
        .maybe("owner", device.owner)
        .maybe("static_endpoint", device.static_endpoint)
        .open("ephemeral", device.ephemeral)
        .open("approved", device.approved)
        .maybe("expires", device.expires.map(|at| at.0))
        .open("never_expires", device.never_expires)
        .maybe("joined_by", device.joined_by)
        .open("os", &device.os)
        .open("software", &device.software)
        .secret("token", token.as_ref().map_or(&[][..], |hash| &hash[..]))
}

fn webhook_action(old: Option<&WebhookRecord>, new: &WebhookRecord) -> &'static str {
    match old {
        None => "webhook.created",
        Some(old) if old.off.is_none() && new.off.is_some() => "webhook.disabled",
        Some(old) if old.off.is_some() && new.off.is_none() => "webhook.enabled",
        Some(old) if old.secret != new.secret => "webhook.rotated",
        Some(_) => "webhook.changed",
    }
}

/// A webhook's address as those may see it who may not use it: whoever has the rest can often write
/// there.
fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let more = if rest.len() > host.len() + 1 { "/…" } else { "" };
    format!("{scheme}://{host}{more}")
}

/// Not whether messages arrive: that is seen in its log.
fn of_webhook(webhook: &WebhookRecord) -> Facts {
    Facts::default()
        .open("url", shown_url(&webhook.url))
        .secret("whole_url", &webhook.url)
        .list("events", &webhook.events)
        .maybe(
            "off",
            webhook.off.map(|off| match off {
                WebhookOff::ByHand => "by hand",
                WebhookOff::Failing => "nothing has arrived for five days",
            }),
        )
        .secret("secret", webhook.secret.0)
}

/// The version and the hash of the whole text, and of the text what differs from the other one.
fn of_policy(policy: &PolicyRecord, excerpt: String) -> Facts {
    let hash = digest::digest(&digest::SHA256, text_of(policy).as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Facts::default().open("version", policy.version).open("sha256", hex).open("text", excerpt)
}

/// What differs between two texts, with a few lines around, from either of them.
fn excerpts(old: &str, new: &str) -> [String; 2] {
    let lines = changes(old, new);
    let without = |other: fn(&Line) -> bool| {
        let lines: Vec<&str> =
            lines.iter().filter(|line| !other(line)).map(|line| line.text.as_str()).collect();
        let (mut length, mut kept) = (0, 0);
        while kept < lines.len() && length + lines[kept].len() < LONGEST_EXCERPT {
            length += lines[kept].len() + 1;
            kept += 1;
        }
        let mut text: String = lines[..kept].iter().flat_map(|line| [*line, "\n"]).collect();
        if kept < lines.len() {
            text += &format!("(and {} lines more)\n", lines.len() - kept);
        }
        text
    };
    [without(Line::is_new), without(Line::is_old)]
}

/// Not how often it was used: devices that join are entries of their own.
fn of_join_key(key: &JoinKeyRecord) -> Facts {
    Facts::default()
        .open("reusable", key.reusable)
        .open("ephemeral", key.ephemeral)
        .list("tags", &key.tags)
        .maybe("owner", key.owner)
        .open("approves", key.approves)
        .maybe("expires", key.expires.map(|at| at.0))
}

/// Not where it is reached: relay servers report that themselves.
fn of_relay(relay: &RelayRecord) -> Facts {
    let (kind, url, token) = match &relay.kind {
        RelayKind::Device(id) => (format!("device {id}"), None, None),
        RelayKind::Server { token } => ("server".to_owned(), None, Some(token.0)),
        RelayKind::Turn { url, .. } => ("turn".to_owned(), Some(url), None),
        RelayKind::Own => ("own".to_owned(), None, None),
    };
    Facts::default()
        .open("name", &relay.name)
        .open("kind", kind)
        .maybe("url", url)
        .secret("secret", &relay.secret)
        .secret("token", token.as_ref().map_or(&[][..], |hash| &hash[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_says_what_differs_and_is_never_long() {
        let rule = |n: usize| format!("# rule {n}\n");
        let old: String = (0..9_000).map(rule).collect();
        let new = old.replace("# rule 4500\n", "# another\n");
        let [before, after] = excerpts(&old, &new);
        assert_eq!(
            before,
            "…\n# rule 4498\n# rule 4499\n# rule 4500\n# rule 4501\n# rule 4502\n…\n"
        );
        assert!(after.contains("# another") && !after.contains("# rule 4500"));
        for text in excerpts(&old, &old.replace("rule", "regel")) {
            assert!(text.len() < LONGEST_EXCERPT + 100 && text.ends_with(" lines more)\n"));
        }
        let [before, after] = excerpts("", &"x".repeat(100_000));
        assert_eq!((before.as_str(), after.as_str()), ("", "(and 1 lines more)\n"));
    }

    #[test]
    fn of_a_webhooks_address_the_secret_part_is_not_told() {
        assert_eq!(
            shown_url("https://u:p@chat.example.org/hooks/s3cret"),
            "https://chat.example.org/…"
        );
        assert_eq!(shown_url("https://example.org?key=s3cret"), "https://example.org/…");
        assert_eq!(shown_url("https://example.org/"), "https://example.org");
    }
}
