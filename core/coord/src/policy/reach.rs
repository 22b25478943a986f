//! What a device may reach behind edges.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};
use warren_proto::DeviceName;

use super::{Identity, Meant, Policy, Selector, Subject};

/// What a device may reach behind an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReachBehind<'a> {
    everything: bool,
    virtuals: BTreeSet<&'a DeviceName>,
    networks: Vec<IpNet>,
    internet: bool,
}

impl ReachBehind<'_> {
    /// Whether a virtual device of that name is among it.
    pub fn has_virtual(&self, name: &DeviceName) -> bool {
        self.everything || self.virtuals.contains(name)
    }

    /// Whether a part of that network is among it.
    pub fn has_part_of(&self, net: Ipv4Net) -> bool {
        let net = IpNet::V4(net);
        let meets = |other: &IpNet| other.contains(&net) || net.contains(other);
        self.everything || self.networks.iter().any(meets)
    }

    /// Whether the internet is among it.
    pub fn has_the_internet(&self) -> bool {
        self.everything || self.internet
    }
}

impl Policy {
    /// What behind an edge of that name a device may reach.
    pub fn reach_behind(&self, from: &Meant, edge: &DeviceName) -> ReachBehind<'_> {
        let mut reach = ReachBehind::default();
        for rule in from.from.iter().filter_map(|rule| self.rules.get(rule)) {
            reach.everything |= rule.to_everything;
            for selector in &rule.behind {
                match selector {
                    Selector::Virtual { name, edge: of } if of == edge => {
                        reach.virtuals.insert(name);
                    }
                    Selector::Subnet { net, edge: of }
                        if of.as_ref().is_none_or(|of| of == edge) =>
                    {
                        reach.networks.push(*net);
                    }
                    Selector::Internet { edge: of } if of.as_ref().is_none_or(|of| of == edge) => {
                        reach.internet = true;
                    }
                    Selector::Virtual { .. }
                    | Selector::Subnet { .. }
                    | Selector::Internet { .. }
                    | Selector::Subject(_)
                    | Selector::Own => {}
                }
            }
        }
        reach
    }

    /// Whether a word means a device.
    pub fn is_meant(&self, word: &Subject, device: &Identity<'_>) -> bool {
        let is_persons = device.tags.is_empty();
        match word {
            Subject::Everyone => true,
            Subject::User(email) => is_persons && device.email == Some(email),
            Subject::Role(role) => is_persons && device.role == Some(*role),
            Subject::Tag(tag) => device.tags.contains(tag),
            Subject::Device(name) => device.name == Some(name),
            // Groups hold no groups.
            Subject::Group(name) => self.groups.get(name).is_some_and(|words| {
                let is_group = |word: &Subject| matches!(word, Subject::Group(_));
                words.iter().any(|word| !is_group(word) && self.is_meant(word, device))
            }),
        }
    }
}
