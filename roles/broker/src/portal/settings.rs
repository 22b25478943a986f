//! The account's settings: the connection relays, in order, and what else it is.

use std::time::Instant;

use askama::Template;
use axum::extract::State;
use serde::Deserialize;
use warren_coord::{Account, Ctx, Prepared, Refused, RelayOrigin, RelayView, Right, SettingsEdit};
use warren_web::{Layout, calendar};

use super::answer::{Answer, done, page, page_with, refused_status, sentence};
use super::browser::Form;
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::api::problem::Failure;

/// A relay in the list, as its order says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    /// Its id, as the account takes it.
    id: String,
    /// Whether it is as good as the one before it.
    tied: bool,
}

struct Entry {
    id: String,
    name: String,
    kind: &'static str,
    tone: &'static str,
    state: &'static str,
    tied: bool,
    warnings: Vec<String>,
}

struct Choice {
    id: String,
    name: String,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    layout: Layout,
    is_admin: bool,
    relays: String,
    tokens: String,
    has_tokens: bool,
    webhooks: String,
    has_webhooks: bool,
    action: String,
    entries: Vec<Entry>,
    /// The list as it is, for the form to say what it was made from.
    seen: String,
    choices: Vec<Choice>,
    others: Vec<Choice>,
    error: String,
    may_change: bool,
    device_approval: bool,
    typed_lifetime: String,
    lifetime_error: String,
    admission: String,
    name: String,
    domain: String,
    ipv4_range: String,
    ipv6_range: String,
    created: String,
}

/// `GET /a/{account}/settings`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    page(&render(&portal, &member, String::new()))
}

/// One change of the list.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Change {
    /// The list that the page showed.
    seen: String,
    /// `up:ID`, `down:ID`, `tie:ID`, `remove:ID`, or `add`.
    change: String,
    /// What to add.
    #[serde(default)]
    relay: String,
}

/// `POST /a/{account}/settings/relays`
pub(super) async fn change_relays(
    State(portal): Shared,
    member: Member,
    Form(form): Form<Change>,
) -> Answer {
    member.check(Right::ManageRelays)?;
    let outcome =
        member.account.durable(member.by(), move |account, ctx| decide(account, &form, ctx)).await;
    match outcome {
        Ok(()) => {
            let path = member.path("settings#connection-relay");
            done(&path, "Saved. All devices know within a second.")
        }
        Err(failure) => {
            let status = refused_status(&failure);
            page_with(status, &render(&portal, &member, sentence(failure.text())))
        }
    }
}

/// Who is let into the mesh, and for how long, as it was typed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AdmissionForm {
    approval: String,
    /// Days; nothing: for ever.
    lifetime: String,
}

/// `POST /a/{account}/settings/admission`
pub(super) async fn change_admission(
    State(portal): Shared,
    member: Member,
    Form(form): Form<AdmissionForm>,
) -> Answer {
    member.check(Right::ManageSettings)?;
    let outcome = match days(&form.lifetime) {
        Ok(days) => {
            let edit = SettingsEdit {
                device_approval: Some(!form.approval.is_empty()),
                key_expiry_days: Some(days),
                ..SettingsEdit::default()
            };
            portal.broker.change_settings(member.by(), &member.account, edit).await
        }
        Err(text) => Err(Failure::invalid(text)),
    };
    match outcome {
        Ok(()) => done(&member.path("settings#admission"), "Saved."),
        Err(failure) => {
            let status = refused_status(&failure);
            let again = render(&portal, &member, String::new());
            let lifetime_error = sentence(failure.text());
            page_with(status, &Page { lifetime_error, typed_lifetime: form.lifetime, ..again })
        }
    }
}

/// A number of days; nothing: without end.
pub(super) fn days(text: &str) -> Result<Option<u16>, &'static str> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| "that is no number of days, 1 to 65535"),
    }
}

/// Works the new list out from the one that there is; refuses where that isn't the one that the
/// page showed.
fn decide(account: &Account, form: &Change, ctx: &Ctx) -> Result<Prepared<()>, Refused> {
    let list = listed(&views(account));
    if word(&list) != form.seen {
        return Err(Refused::Conflict(
            "somebody else changed the list meanwhile: this is how it is now",
        ));
    }
    let edited = edit(list, form)?;
    account.prepare_relay_list(&groups(&edited), ctx)
}

fn views(account: &Account) -> Vec<RelayView> {
    account.relays(Instant::now(), fresh_ctx().unix)
}

/// The relays that the account has named, by preference.
fn listed(views: &[RelayView]) -> Vec<Listed> {
    let mut named: Vec<(u16, &RelayView)> = views
        .iter()
        .filter(|view| view.listed)
        .filter_map(|view| Some((view.rank?, view)))
        .collect();
    named.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.name.cmp(&other.name)));
    let mut before = None;
    named
        .into_iter()
        .map(|(rank, view)| {
            let tied = before.replace(rank) == Some(rank);
            Listed { id: view.id.to_string(), tied }
        })
        .collect()
}

/// The list as one word.
fn word(list: &[Listed]) -> String {
    list.iter().map(|entry| format!("{}{}", if entry.tied { '=' } else { '+' }, entry.id)).collect()
}

fn edit(mut list: Vec<Listed>, form: &Change) -> Result<Vec<Listed>, Refused> {
    if form.change == "add" {
        if form.relay.is_empty() {
            return Err(Refused::Invalid("choose a device or relay to add"));
        }
        list.push(Listed { id: form.relay.clone(), tied: false });
        return Ok(list);
    }
    let unknown = Refused::Invalid("the form is out of date; reload the page");
    let Some((what, id)) = form.change.split_once(':') else { return Err(unknown) };
    let Some(at) = list.iter().position(|entry| entry.id == id) else { return Err(unknown) };
    if what == "tie" && at > 0 {
        list[at].tied ^= true;
        return Ok(list);
    }
    let mut groups = groups(&list);
    let found = groups.iter().position(|group| group.iter().any(|entry| entry == id));
    let Some(at) = found else { return Err(unknown) };
    groups[at].retain(|entry| entry != id);
    let is_alone = groups[at].is_empty();
    match what {
        "remove" => {}
        // It leaves those that it is tied with, which stay so.
        "up" if !is_alone => groups.insert(at, vec![id.to_owned()]),
        "down" if !is_alone => groups.insert(at + 1, vec![id.to_owned()]),
        "up" if at > 0 => groups.insert(at - 1, vec![id.to_owned()]),
        "down" if at + 1 < groups.len() => groups.insert(at + 2, vec![id.to_owned()]),
        _ => return Err(unknown),
    }
    Ok(flat(groups))
}

fn flat(groups: Vec<Vec<String>>) -> Vec<Listed> {
    let entries = |group: Vec<String>| {
        group.into_iter().enumerate().map(|(at, id)| Listed { id, tied: at > 0 })
    };
    groups.into_iter().flat_map(entries).collect()
}

fn groups(list: &[Listed]) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    for entry in list {
        match groups.last_mut() {
            Some(group) if entry.tied => group.push(entry.id.clone()),
            Some(_) | None => groups.push(vec![entry.id.clone()]),
        }
    }
    groups
}

fn render(portal: &Portal, member: &Member, error: String) -> Page {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let (views, mut devices) = member.account.read(|account| {
        let active = account.devices(now, unix).filter(|device| device.admission.is_member());
        let devices: Vec<_> = active.map(|device| (device.id, device.name)).collect();
        (account.relays(now, unix), devices)
    });
    devices.sort_by(|a, b| a.1.cmp(&b.1));
    let list = listed(&views);
    let is_listed = |id: &str| list.iter().any(|entry| entry.id == id);
    let is_device = |view: &RelayView| view.origin == RelayOrigin::Device;
    let relays: Vec<&RelayView> = views.iter().filter(|view| is_device(view)).collect();
    let is_relay = |name| relays.iter().any(|view| view.name == name);
    let others = views.iter().filter(|view| !is_device(view) && !is_listed(&view.id.to_string()));
    let record = member.account.record();
    let lifetime = record.settings.key_expiry_days;
    Page {
        layout: member.layout(portal, "Account settings", Section::Settings),
        is_admin: member.may(Right::ManageRelays),
        relays: member.path("relays"),
        tokens: member.path("tokens"),
        has_tokens: member.may(Right::ManageTokens),
        webhooks: member.path("webhooks"),
        has_webhooks: member.may(Right::ManageWebhooks),
        action: member.path("settings/relays"),
        entries: list.iter().filter_map(|entry| view(entry, &views)).collect(),
        seen: word(&list),
        choices: devices
            .into_iter()
            .filter(|(_, name)| !is_relay(name.clone()))
            .map(|(id, name)| Choice { id: id.to_string(), name: name.to_string() })
            .collect(),
        others: others
            .map(|view| Choice { id: view.id.to_string(), name: view.name.to_string() })
            .collect(),
        error,
        may_change: member.may(Right::ManageSettings),
        device_approval: record.settings.device_approval,
        typed_lifetime: lifetime.map(|days| days.to_string()).unwrap_or_default(),
        lifetime_error: String::new(),
        admission: member.path("settings/admission"),
        name: record.name.to_string(),
        domain: format!("{}.{}", record.name, portal.broker.accounts.settings().dns_suffix),
        ipv4_range: record.ipv4_range.to_string(),
        ipv6_range: record.ipv6_range.to_string(),
        created: calendar(record.created.0),
    }
}

fn view(entry: &Listed, views: &[RelayView]) -> Option<Entry> {
    let relay = views.iter().find(|view| view.id.to_string() == entry.id)?;
    let (tone, state) = match (relay.online, relay.warnings.is_empty()) {
        (Some(false), _) => ("idle", "Offline"),
        (_, false) => ("warn", "Needs attention"),
        (Some(true), true) => ("good", "Online"),
        (None, true) => ("good", "Ready"),
    };
    Some(Entry {
        id: entry.id.clone(),
        name: relay.name.to_string(),
        kind: match relay.origin {
            RelayOrigin::Device => "Device",
            RelayOrigin::Server => "Relay server",
            RelayOrigin::Turn => "TURN server",
            RelayOrigin::Broker => "The broker itself",
        },
        tone,
        state,
        tied: entry.tied,
        warnings: relay.warnings.iter().map(|it| sentence(&it.to_string())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Listed> {
        let entry = |word: &str| Listed { id: word[1..].to_owned(), tied: word.starts_with('=') };
        text.split_whitespace().map(entry).collect()
    }

    fn after(text: &str, change: &str) -> Result<String, Refused> {
        let form =
            Change { seen: String::new(), change: change.to_owned(), relay: "new".to_owned() };
        edit(list(text), &form).map(|list| word(&list))
    }

    #[test]
    fn the_list_is_put_in_order_step_by_step() {
        assert_eq!(after("+a +b =c", "up:c").unwrap(), "+a+c+b", "no tie goes to another");
        assert_eq!(after("+a =b +c", "up:c").unwrap(), "+c+a=b");
        assert_eq!(after("+a +b =c =d", "down:b").unwrap(), "+a+c=d+b");
        assert_eq!(after("+x +a =b", "remove:a").unwrap(), "+x+b");
        assert_eq!(after("+a =b", "up:b").unwrap(), "+b+a");
        assert_eq!(after("+a +b", "down:a").unwrap(), "+b+a");
        assert_eq!(after("+a +b", "tie:b").unwrap(), "+a=b");
        assert_eq!(after("+a =b", "remove:a").unwrap(), "+b");
        assert_eq!(after("+a", "add").unwrap(), "+a+new");
        for wrong in ["up:a", "down:b", "tie:a", "remove:x", "x", ""] {
            assert!(after("+a +b", wrong).is_err(), "{wrong}");
        }
        assert_eq!(groups(&list("+a =b +c")), [vec!["a", "b"], vec!["c"]]);
    }
}
