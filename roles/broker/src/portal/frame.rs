//! What surrounds the pages: navigation, accounts, appearance.

use axum::response::Response;
use serde::Deserialize;
use warren_coord::Right;
use warren_web::{Account, Layout, NavItem, Person, Theme};

use super::Portal;
use super::answer::{Answer, to};
use super::browser::Form;
use super::viewer::{Member, Viewer};

/// The entries of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Devices,
    Edges,
    Map,
    Access,
    Relays,
    Activity,
    Users,
    Settings,
}

impl Section {
    const GROUPS: &[&[Self]] = &[
        &[Self::Devices, Self::Edges, Self::Map],
        &[Self::Access, Self::Relays, Self::Activity],
        &[Self::Users, Self::Settings],
    ];

    /// What one needs to see it.
    fn right(self) -> Right {
        match self {
            Self::Devices | Self::Edges | Self::Map | Self::Relays | Self::Settings => {
                Right::ReadAccount
            }
            Self::Access => Right::ReadPolicy,
            Self::Activity => Right::ReadActivity,
            Self::Users => Right::ReadPeople,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Edges => "edges",
            Self::Map => "map",
            Self::Access => "access",
            Self::Relays => "relays",
            Self::Activity => "activity",
            Self::Users => "users",
            Self::Settings => "settings",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Devices => "Devices",
            Self::Edges => "Edge devices",
            Self::Map => "Network map",
            Self::Access => "Access",
            Self::Relays => "Relays",
            Self::Activity => "Activity",
            Self::Users => "Users",
            Self::Settings => "Account settings",
        }
    }

    fn icon(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Edges => "edge",
            Self::Map => "map",
            Self::Access => "access",
            Self::Relays => "relay",
            Self::Activity => "activity",
            Self::Users => "people",
            Self::Settings => "settings",
        }
    }
}

impl Member {
    /// What surrounds a page of the account, which is told when something in the account changes.
    pub(super) fn layout(&self, portal: &Portal, title: &str, section: Section) -> Layout {
        let item = |of: &Section| NavItem {
            href: self.path(of.path()),
            label: of.label(),
            icon: of.icon(),
            current: *of == section,
        };
        let seen = |of: &&Section| self.may(of.right());
        let nav = Section::GROUPS.iter().map(|all| all.iter().filter(seen).map(item).collect());
        let nav = nav.filter(|group: &Vec<NavItem>| !group.is_empty());
        let nav = nav.chain(self.viewer.is_operator.then(|| vec![operator(false)])).collect();
        let mut layout = self.viewer.layout(portal, title, Some(&self.name));
        if layout.account().is_none() {
            // An operator, who is no member.
            layout.accounts.push(Account {
                href: self.path("devices"),
                name: self.name.clone(),
                note: "as operator".to_owned(),
                current: true,
            });
        }
        Layout { nav, live: Some(self.path("events")), ..layout }
    }
}

/// The entry that only operators have.
pub(super) fn operator(current: bool) -> NavItem {
    NavItem { href: "/operator".to_owned(), label: "Operator", icon: "operator", current }
}

impl Viewer {
    /// What surrounds a page of no account; `current` is the account that he comes from.
    pub(super) fn layout(&self, portal: &Portal, title: &str, current: Option<&str>) -> Layout {
        let accounts = self.accounts(portal).into_iter().map(|(account, role)| {
            let name = account.record().name.to_string();
            Account {
                href: format!("/a/{name}/devices"),
                note: role.to_string(),
                current: current == Some(name.as_str()),
                name,
            }
        });
        Layout {
            accounts: accounts.collect(),
            nav: self.is_operator.then(|| vec![operator(false)]).into_iter().collect(),
            person: Some(Person { name: self.name.clone(), email: self.email.to_string() }),
            ..self.browser.bare_layout(title)
        }
    }
}

/// How it should look, and where to come back to.
#[derive(Debug, Deserialize)]
pub(super) struct Appearance {
    theme: String,
    back: String,
}

/// Changes between light and dark.
pub(super) async fn change_theme(Form(form): Form<Appearance>) -> Answer {
    let mut response: Response = to(inside(&form.back))?;
    response.extensions_mut().insert(Theme::from_word(&form.theme));
    Ok(response)
}

/// A path of ours, or the first page: nobody is sent elsewhere.
pub(super) fn inside(path: &str) -> &str {
    // Browsers pass over tabs and line ends, and read a backslash as a slash.
    let is_plain = path.chars().all(|c| c != '\\' && !c.is_control());
    if is_plain && path.starts_with('/') && !path.starts_with("//") { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(inside("/a/home/devices?q=x"), "/a/home/devices?q=x");
        let others = ["//evil.example", "/\\evil.example", "https://evil.example", "", "x"];
        let hidden =
            ["/\t/evil.example", "/\n/evil.example", "/\r/evil.example", "/\u{85}/evil.example"];
        for path in others.into_iter().chain(hidden) {
            assert_eq!(inside(path), "/", "{path:?}");
        }
    }
}
