//! The words of a policy as people say them, and those that a form offers.

use std::collections::BTreeSet;
use std::time::Instant;

use warren_coord::policy::{Outline, Selector, Subject};
use warren_coord::{Account, Email, Role, Tag};
use warren_proto::{DeviceName, Ports};

use crate::accounts::fresh_ctx;

/// A word of the text.
pub(super) struct Word {
    /// As people say it.
    pub(super) said: String,
    /// As it is written.
    pub(super) written: String,
    /// Whether it means anything.
    pub(super) is_good: bool,
}

impl Word {
    fn new(written: &str, said: Option<String>) -> Self {
        let is_good = said.is_some();
        let said = said.unwrap_or_else(|| written.to_owned());
        Self { said, written: written.to_owned(), is_good }
    }
}

/// Who asks.
pub(super) fn who(written: &str) -> Word {
    Word::new(written, written.parse().ok().map(|subject| subject_said(&subject)))
}

/// What is asked.
pub(super) fn what(written: &str) -> Word {
    Word::new(written, written.parse().ok().map(|selector| selector_said(&selector)))
}

/// Who is in a group: people may be written without their kind.
pub(super) fn member(written: &str) -> Word {
    let email: Option<Email> = written.parse().ok();
    email.map_or_else(|| who(written), |email| Word::new(written, Some(email.to_string())))
}

/// Where.
pub(super) fn port(written: &str) -> Word {
    Word::new(written, written.parse().ok().map(port_said))
}

fn subject_said(subject: &Subject) -> String {
    match subject {
        Subject::Everyone => "every device".to_owned(),
        Subject::User(email) => email.to_string(),
        Subject::Group(name) => format!("group {name}"),
        Subject::Tag(tag) => format!("tagged {tag}"),
        Subject::Device(name) => format!("device {name}"),
        Subject::Role(role) => format!("{role}s' devices"),
    }
}

fn selector_said(selector: &Selector) -> String {
    match selector {
        Selector::Subject(Subject::Everyone) => "everything".to_owned(),
        Selector::Subject(subject) => subject_said(subject),
        Selector::Own => "their own devices".to_owned(),
        Selector::Virtual { name, edge } => format!("{name} behind {edge}"),
        Selector::Subnet { net, edge: Some(edge) } => format!("{net} behind {edge}"),
        Selector::Subnet { net, edge: None } => format!("{net} behind any gateway"),
        Selector::Internet { edge: Some(edge) } => format!("the internet by {edge}"),
        Selector::Internet { edge: None } => "the internet by any exit node".to_owned(),
    }
}

fn port_said(ports: Ports) -> String {
    let range = |name: &str, first: u16, last: u16| match (first, last) {
        (0, u16::MAX) => format!("all {name}"),
        (first, last) if first == last => format!("{name} {first}"),
        (first, last) => format!("{name} {first} to {last}"),
    };
    match ports {
        Ports::All => "every port".to_owned(),
        Ports::Tcp(first, last) => range("TCP", first, last),
        Ports::Udp(first, last) => range("UDP", first, last),
        Ports::Icmp => "ping (ICMP)".to_owned(),
        Ports::Protocol(number) => format!("protocol {number}"),
        Ports::Unknown => "nothing".to_owned(),
    }
}

/// Words to choose from, of one kind.
pub(super) struct Choices {
    pub(super) kind: &'static str,
    /// As it is written, as it is said.
    pub(super) words: Vec<(String, String)>,
}

/// What there is to name in an account.
pub(super) struct Known {
    people: Vec<Email>,
    tags: BTreeSet<Tag>,
    devices: BTreeSet<DeviceName>,
    groups: Vec<String>,
}

impl Known {
    pub(super) fn of(account: &Account, people: Vec<Email>, outline: &Outline) -> Self {
        let (mut tags, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for device in account.devices(Instant::now(), fresh_ctx().unix) {
            devices.insert(device.name);
            tags.extend(device.tags);
        }
        let groups = outline.groups.iter().map(|group| group.text.name.clone()).collect();
        Self { people, tags, devices, groups }
    }

    /// For who is in a group.
    pub(super) fn members(&self) -> Vec<Choices> {
        let word = |subject: Subject| (subject.to_string(), subject_said(&subject));
        let people = self.people.iter().cloned().map(Subject::User);
        let tags = self.tags.iter().cloned().map(Subject::Tag);
        let devices = self.devices.iter().cloned().map(Subject::Device);
        vec![
            Choices { kind: "People", words: people.map(word).collect() },
            Choices { kind: "Tags", words: tags.map(word).collect() },
            Choices { kind: "Roles", words: Role::ALL.map(Subject::Role).map(word).to_vec() },
            Choices { kind: "Devices", words: devices.map(word).collect() },
        ]
    }

    /// For who asks.
    pub(super) fn who(&self) -> Vec<Choices> {
        let word = |subject: Subject| (subject.to_string(), subject_said(&subject));
        let groups = self.groups.iter().cloned().map(Subject::Group).map(word).collect();
        let all = Choices { kind: "All", words: vec![word(Subject::Everyone)] };
        let mut choices = vec![all, Choices { kind: "Groups", words: groups }];
        choices.extend(self.members());
        choices
    }

    /// For what is asked.
    pub(super) fn what(&self) -> Vec<Choices> {
        let word = |selector: Selector| (selector.to_string(), selector_said(&selector));
        let mut choices = self.who();
        let internet = Selector::Internet { edge: None };
        let all = [Selector::Subject(Subject::Everyone), Selector::Own, internet];
        choices[0].words = all.map(word).to_vec();
        choices
    }
}

/// Ports that many ask for.
const PORTS: [(&str, &str); 9] = [
    ("tcp:22", "SSH"),
    ("tcp:80", "HTTP"),
    ("tcp:443", "HTTPS"),
    ("icmp", "ping"),
    ("udp:53", "DNS"),
    ("tcp:445", "Windows files (SMB)"),
    ("tcp:3389", "Windows desktop (RDP)"),
    ("tcp:5432", "PostgreSQL"),
    ("udp:443", "HTTP/3"),
];

/// For where.
pub(super) fn ports() -> Vec<Choices> {
    let word = |(written, said): &(&str, &str)| {
        ((*written).to_owned(), format!("{said}: {}", port(written).said))
    };
    vec![Choices { kind: "Ports", words: PORTS.iter().map(word).collect() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_said_as_people_say_them_and_nonsense_is_shown_as_it_is() {
        assert_eq!(who("*").said, "every device");
        assert_eq!(what("*").said, "everything");
        assert_eq!(who("role:admin").said, "admins' devices");
        assert_eq!(what("own").said, "their own devices");
        assert!(!who("own").is_good, "it means nobody by itself");
        assert_eq!(what("subnet:10.0.0.0/8@attic").said, "10.0.0.0/8 behind attic");
        assert_eq!(what("internet@attic").said, "the internet by attic");
        assert_eq!(member("anna@x.org").said, "anna@x.org");
        assert!(!member("anna").is_good);
        assert_eq!(port("tcp:8000-8100").said, "TCP 8000 to 8100");
        assert_eq!(port("udp").said, "all UDP");
        let nonsense = port("http");
        assert_eq!((nonsense.said.as_str(), nonsense.is_good), ("http", false));
    }

    #[test]
    fn everything_that_is_offered_may_be_written() {
        let people = vec!["anna@x.org".parse().unwrap()];
        let known = Known {
            people,
            tags: ["server".parse().unwrap()].into(),
            devices: ["nas".parse().unwrap()].into(),
            groups: vec!["family".to_owned()],
        };
        let words = |choices: Vec<Choices>| -> Vec<String> {
            choices.into_iter().flat_map(|it| it.words).map(|(written, _)| written).collect()
        };
        let (from, to, members) = (words(known.who()), words(known.what()), words(known.members()));
        assert!(from.iter().all(|word| who(word).is_good), "{from:?}");
        assert!(to.iter().all(|word| what(word).is_good) && to.contains(&"own".to_owned()));
        assert!(members.iter().all(|word| member(word).is_good && !word.starts_with("group:")));
        assert!(words(ports()).iter().all(|word| port(word).is_good));
    }
}
