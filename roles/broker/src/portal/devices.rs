//! The devices of an account: search, filter, sort, pages.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;
use warren_coord::{DeviceView, Right};
use warren_proto::{Admission, UserId};
use warren_web::{Layout, When};

use super::answer::{Answer, encode, page};
use super::frame::Section;
use super::paths::Sum;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;

/// Devices on one page.
const PER_PAGE: usize = 100;

/// How a device is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    Waiting,
    Expired,
    LoggedOut,
    Suspended,
    Cloned,
    Online,
    Offline,
}

impl Condition {
    pub(super) fn of(device: &DeviceView) -> Self {
        match device.admission {
            Admission::Waiting => Self::Waiting,
            Admission::Expired => Self::Expired,
            Admission::LoggedOut => Self::LoggedOut,
            Admission::Suspended | Admission::Other => Self::Suspended,
            Admission::Member if device.cloned => Self::Cloned,
            Admission::Member if device.online => Self::Online,
            Admission::Member => Self::Offline,
        }
    }

    /// The class that colours it.
    pub(super) fn tone(self) -> &'static str {
        match self {
            Self::Waiting | Self::Cloned => "warn",
            Self::Expired | Self::LoggedOut | Self::Suspended => "bad",
            Self::Online => "good",
            Self::Offline => "idle",
        }
    }

    /// What it means, and what to do.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Waiting => {
                "It waits: nobody reaches it, and it reaches nobody, until an admin has approved it."
            }
            Self::Expired => {
                "Its time is over: it is out of the mesh, with its name and addresses kept. Renew it \
                 here, or let it join again (warren up --server, or a join link)."
            }
            Self::LoggedOut => {
                "It has logged out: nobody reaches it until it has joined again with a new join link."
            }
            Self::Suspended => "The broker's operator has suspended this account.",
            Self::Cloned => {
                "Two machines use this device's identity, perhaps a copied disk. They take turns in \
                 cutting each other off. On one of them run warren logout --new-identity and let it \
                 join again."
            }
            Self::Online | Self::Offline => "",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "Waits for approval",
            Self::Expired => "Expired",
            Self::LoggedOut => "Logged out",
            Self::Suspended => "Suspended",
            Self::Cloned => "Two machines",
            Self::Online => "Online",
            Self::Offline => "Offline",
        })
    }
}

/// An operating system as it is spelled.
pub(super) fn system(os: &str) -> &str {
    match os {
        "linux" => "Linux",
        "macos" => "macOS",
        "windows" => "Windows",
        "android" => "Android",
        "freebsd" => "FreeBSD",
        "" => "Unknown",
        other => other,
    }
}

/// What of the list is asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    q: String,
    state: String,
    tag: String,
    sort: String,
    dir: String,
    page: usize,
}

impl ListQuery {
    fn admits(&self, device: &DeviceView, owners: &Owners, viewer: UserId) -> bool {
        let condition = Condition::of(device);
        let state = match self.state.as_str() {
            "online" => device.online,
            "offline" => condition == Condition::Offline,
            "waiting" => condition == Condition::Waiting,
            "attention" => ["warn", "bad"].contains(&condition.tone()),
            "mine" => device.owner == Some(viewer),
            _ => true,
        };
        let tagged =
            self.tag.is_empty() || device.tags.iter().any(|tag| tag.to_string() == self.tag);
        state
            && tagged
            && self.q.split_whitespace().all(|word| contains(device, owners.of(device), word))
    }

    fn compare(&self, a: &DeviceView, b: &DeviceView, owners: &Owners) -> Ordering {
        let order = match self.sort.as_str() {
            // Those that nobody owns come last.
            "owner" => {
                let (a, b) = (owners.of(a), owners.of(b));
                (a.is_empty(), a).cmp(&(b.is_empty(), b))
            }
            "address" => a.ipv4.cmp(&b.ipv4),
            "system" => (&a.os, &a.software).cmp(&(&b.os, &b.software)),
            "seen" => (b.online, b.last_seen).cmp(&(a.online, a.last_seen)),
            _ => a.name.cmp(&b.name),
        };
        let order = if self.dir == "desc" { order.reverse() } else { order };
        order.then_with(|| a.name.cmp(&b.name))
    }

    fn link(&self, sort: &str, dir: &str, page: usize) -> String {
        let mut link = format!(
            "?q={}&state={}&tag={}",
            encode(&self.q),
            encode(&self.state),
            encode(&self.tag)
        );
        link.push_str(&format!("&sort={}&dir={}", encode(sort), encode(dir)));
        if page > 0 {
            link.push_str(&format!("&page={page}"));
        }
        link
    }
}

/// The e-mail addresses of those whose devices these are.
struct Owners(BTreeMap<UserId, String>);

impl Owners {
    fn new(portal: &Portal, devices: &[DeviceView]) -> Self {
        let ids: BTreeSet<UserId> = devices.iter().filter_map(|device| device.owner).collect();
        Self(portal.broker.people.read(|people| {
            let known = |id| Some((id, people.user(id)?.email.to_string()));
            ids.into_iter().filter_map(known).collect()
        }))
    }

    fn of(&self, device: &DeviceView) -> &str {
        device.owner.and_then(|owner| self.0.get(&owner)).map_or("", String::as_str)
    }
}

fn contains(device: &DeviceView, owner: &str, word: &str) -> bool {
    let word = word.to_lowercase();
    if let Some(wanted) = word.strip_prefix("owner:") {
        return owner.contains(wanted);
    }
    let tag = word.strip_prefix("tag:").unwrap_or(&word);
    device.name.as_str().contains(&word)
        || device.ipv4.to_string().starts_with(&word)
        || device.ipv6.to_string().contains(&word)
        || device.tags.iter().any(|it| it.to_string().contains(tag))
        || device.endpoints.iter().any(|endpoint| endpoint.addr.to_string().starts_with(&word))
        || system(&device.os).to_lowercase().starts_with(&word)
        || owner.contains(&word)
}

struct Row {
    id: String,
    href: String,
    name: String,
    dns_name: String,
    ipv4: String,
    ipv6: String,
    system: String,
    software: String,
    owner: String,
    paths: Sum,
    tags: Vec<String>,
    condition: Condition,
    ephemeral: bool,
    seen: Option<When>,
}

impl Row {
    /// Whether its condition says more than when it was seen.
    fn says_condition(&self) -> bool {
        self.condition != Condition::Offline
    }
}

struct Column {
    label: &'static str,
    /// Sorts by it; empty for what can't be sorted by.
    href: String,
    /// `ascending`, `descending` or nothing.
    sorted: &'static str,
}

#[derive(Template)]
#[template(path = "devices.html")]
struct Page {
    layout: Layout,
    query: ListQuery,
    is_admin: bool,
    path: String,
    join: String,
    may_let_in: bool,
    may_approve: bool,
    /// How many devices wait for an admin.
    waiting: usize,
    total: usize,
    online: usize,
    found: usize,
    rows: Vec<Row>,
    columns: Vec<Column>,
    tags: Vec<String>,
    previous: Option<String>,
    next: Option<String>,
    /// Counted from one.
    first: usize,
}

/// `GET /a/{account}/devices`
pub(super) async fn show(
    State(portal): Shared,
    member: Member,
    Query(query): Query<ListQuery>,
) -> Answer {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let all: Vec<DeviceView> = member.account.read(|account| account.devices(now, unix).collect());
    let (total, online) = (all.len(), all.iter().filter(|device| device.online).count());
    let waits = |device: &&DeviceView| device.admission == Admission::Waiting;
    let waiting = all.iter().filter(waits).count();
    let tags: BTreeSet<String> =
        all.iter().flat_map(|device| &device.tags).map(ToString::to_string).collect();
    let owners = Owners::new(&portal, &all);
    let mut found: Vec<DeviceView> =
        all.into_iter().filter(|it| query.admits(it, &owners, member.viewer.user)).collect();
    found.sort_by(|a, b| query.compare(a, b, &owners));
    let pages = found.len().div_ceil(PER_PAGE).max(1);
    let at = query.page.min(pages - 1);
    let link = |page| query.link(&query.sort, &query.dir, page);
    let shown: Vec<&DeviceView> = found.iter().skip(at * PER_PAGE).take(PER_PAGE).collect();
    let paths: Vec<Sum> = member
        .account
        .read(|account| shown.iter().map(|device| Sum::of(account.paths(device.id))).collect());
    let row = |(device, paths): (&&DeviceView, Sum)| {
        row(&member, device, owners.of(device), paths, unix.as_secs())
    };
    page(&Page {
        layout: member.layout(&portal, "Devices", Section::Devices),
        is_admin: member.may(Right::ManageJoinKeys),
        path: member.path("devices"),
        join: member.path("join"),
        may_let_in: member.may(Right::ManageOwnDevices),
        may_approve: member.may(Right::ManageDevices),
        waiting,
        total,
        online,
        found: found.len(),
        rows: shown.iter().zip(paths).map(row).collect(),
        columns: columns(&query),
        tags: tags.into_iter().collect(),
        previous: at.checked_sub(1).map(link),
        next: (at + 1 < pages).then(|| link(at + 1)),
        first: at * PER_PAGE + 1,
        query,
    })
}

fn row(member: &Member, device: &DeviceView, owner: &str, paths: Sum, now: u64) -> Row {
    Row {
        id: device.id.to_string(),
        href: member.path(&format!("devices/{}", device.id)),
        name: device.name.to_string(),
        dns_name: device.dns_name.clone(),
        ipv4: device.ipv4.to_string(),
        ipv6: device.ipv6.to_string(),
        system: system(&device.os).to_owned(),
        software: device.software.clone(),
        owner: owner.to_owned(),
        paths,
        tags: device.tags.iter().map(ToString::to_string).collect(),
        condition: Condition::of(device),
        ephemeral: device.ephemeral,
        seen: device.last_seen.map(|at| When { at: at.0, now }),
    }
}

fn columns(query: &ListQuery) -> Vec<Column> {
    let current = if query.sort.is_empty() { "name" } else { query.sort.as_str() };
    let column = |(sort, label): (&str, &'static str)| {
        let is_current = current == sort;
        let is_descending = query.dir == "desc";
        let dir = if is_current && !is_descending { "desc" } else { "asc" };
        let sorted = match (is_current, is_descending) {
            (true, false) => "ascending",
            (true, true) => "descending",
            (false, _) => "",
        };
        let href = if sort.is_empty() { String::new() } else { query.link(sort, dir, 0) };
        Column { label, href, sorted }
    };
    let all = [
        ("name", "Device"),
        ("address", "Addresses"),
        ("owner", "Owner"),
        ("system", "System"),
        ("", "Path"),
        ("seen", "Seen"),
    ];
    all.into_iter().map(column).collect()
}
