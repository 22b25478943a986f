//! What counts of a text: which rules mean which device, and what follows.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use warren_proto::{DeviceId, DeviceName, Filter, FilterRule, Ports, Sources, Target, UserId};

use super::behind::{includes, is_way_out, meets_a_lan, overlaps, targets};
use super::port_set::PortSet;
use super::rule_set::RuleSet;
use super::text::{At, RuleDraft};
use super::{Draft, Members, Selector, Subject};
use crate::{Email, Role, Tag};

/// What rules know a device by.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Its name; `None` for one that is only thought of.
    pub name: Option<&'a DeviceName>,
    /// The person that it belongs to. A device with tags is nobody's, whatever stands here.
    pub owner: Option<UserId>,
    /// That person's address.
    pub email: Option<&'a Email>,
    /// What that person is in the account.
    pub role: Option<Role>,
    /// Its tags.
    pub tags: &'a BTreeSet<Tag>,
    /// The networks that it is a gateway to; [`warren_proto::INTERNET`] is the internet, and no
    /// other network.
    pub gateway_to: &'a [IpNet],
}

impl<'a> Identity<'a> {
    /// A device of an account with these people.
    pub fn new(
        name: &'a DeviceName,
        owner: Option<UserId>,
        tags: &'a BTreeSet<Tag>,
        gateway_to: &'a [IpNet],
        members: &'a Members,
    ) -> Self {
        let known = owner.and_then(|owner| members.get(owner));
        Self {
            name: Some(name),
            owner: known.and(owner),
            email: known.map(|(email, _)| email),
            role: known.map(|(_, role)| role),
            tags,
            gateway_to,
        }
    }
}

/// Which rules mean a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meant {
    /// As one that asks.
    pub(super) from: RuleSet,
    /// As one that is asked, itself.
    to: RuleSet,
    /// As one that others stand behind.
    behind: RuleSet,
    /// Whose it is.
    owner: Option<UserId>,
}

/// A rule, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleRef<'a> {
    /// Its place among the rules, from 0.
    pub index: usize,
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// The line of the text that it begins at, from 1.
    pub line: usize,
    /// What it allows.
    pub ports: &'a [Ports],
}

/// What counts of a text.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub(super) rules: Vec<Rule>,
    from: Index,
    to: Index,
    /// Rules that lead to the asking person's own devices.
    own: RuleSet,
    /// Rules that lead behind a device of that name.
    behind: BTreeMap<DeviceName, RuleSet>,
    /// Rules that lead to a network behind whoever is a gateway to it.
    anywhere: Vec<(IpNet, usize)>,
    /// Rules that lead to the internet by whoever is a gateway to it.
    out: RuleSet,
    names: BTreeSet<DeviceName>,
    pub(super) groups: BTreeMap<String, Vec<Subject>>,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    name: Option<String>,
    line: usize,
    ports: Vec<Ports>,
    from_everyone: bool,
    pub(super) to_everything: bool,
    pub(super) behind: Vec<Selector>,
}

/// The rules that say each word.
#[derive(Debug, Clone, Default)]
struct Index {
    everyone: RuleSet,
    by_email: BTreeMap<Email, RuleSet>,
    by_role: BTreeMap<Role, RuleSet>,
    by_tag: BTreeMap<Tag, RuleSet>,
    by_name: BTreeMap<DeviceName, RuleSet>,
    /// Until they are opened.
    by_group: BTreeMap<String, RuleSet>,
}

impl Index {
    fn note(&mut self, subject: &Subject, rule: usize) {
        self.rules_of(subject).insert(rule);
    }

    fn rules_of(&mut self, subject: &Subject) -> &mut RuleSet {
        match subject {
            Subject::Everyone => &mut self.everyone,
            Subject::User(email) => self.by_email.entry(email.clone()).or_default(),
            Subject::Tag(tag) => self.by_tag.entry(tag.clone()).or_default(),
            Subject::Device(name) => self.by_name.entry(name.clone()).or_default(),
            Subject::Role(role) => self.by_role.entry(*role).or_default(),
            Subject::Group(name) => self.by_group.entry(name.clone()).or_default(),
        }
    }

    /// Gives the members of groups the rules that say the groups: once for each member, however
    /// many rules there are.
    fn open_groups(&mut self, groups: &BTreeMap<String, Vec<At<Subject>>>) {
        for (name, rules) in std::mem::take(&mut self.by_group) {
            for member in groups.get(&name).into_iter().flatten() {
                self.rules_of(&member.what).join(&rules);
            }
        }
    }

    fn rules_about(&self, device: &Identity<'_>) -> RuleSet {
        let mut rules = self.everyone.clone();
        let mut join = |found: Option<&RuleSet>| found.into_iter().for_each(|it| rules.join(it));
        join(device.name.and_then(|name| self.by_name.get(name)));
        if device.tags.is_empty() {
            join(device.email.and_then(|email| self.by_email.get(email)));
            join(device.role.and_then(|role| self.by_role.get(&role)));
        }
        for tag in device.tags {
            join(self.by_tag.get(tag));
        }
        rules
    }
}

impl Policy {
    /// Takes what counts of a text. One that is broken allows nothing.
    pub fn compile(draft: &Draft) -> Self {
        let mut policy = Self::default();
        if draft.is_broken() {
            return policy;
        }
        for rule in &draft.rules {
            policy.add(rule, draft);
        }
        let words = |group: &Vec<At<Subject>>| group.iter().map(|it| it.what.clone()).collect();
        policy.groups = draft.groups.iter().map(|(name, it)| (name.clone(), words(it))).collect();
        policy.from.open_groups(&draft.groups);
        policy.to.open_groups(&draft.groups);
        let named = policy.from.by_name.keys().chain(policy.to.by_name.keys());
        policy.names.extend(named.cloned());
        policy
    }

    fn add(&mut self, draft: &RuleDraft, text: &Draft) {
        let index = self.rules.len();
        for subject in &draft.from {
            self.from.note(&subject.what, index);
        }
        let mut behind = Vec::new();
        for target in &draft.to {
            match &target.what {
                Selector::Subject(subject) => self.to.note(subject, index),
                Selector::Own => self.own.insert(index),
                Selector::Virtual { edge, .. }
                | Selector::Subnet { edge: Some(edge), .. }
                | Selector::Internet { edge: Some(edge) } => {
                    self.behind.entry(edge.clone()).or_default().insert(index);
                    self.names.insert(edge.clone());
                    behind.push(target.what.clone());
                }
                Selector::Subnet { net, edge: None } => {
                    self.anywhere.push((*net, index));
                    behind.push(target.what.clone());
                }
                Selector::Internet { edge: None } => {
                    self.out.insert(index);
                    behind.push(target.what.clone());
                }
            }
        }
        self.rules.push(Rule {
            name: draft.name.clone(),
            line: text.line(draft.at),
            ports: normal(&draft.ports),
            from_everyone: self.from.everyone.contains(index),
            to_everything: self.to.everyone.contains(index),
            behind,
        });
    }

    /// Which rules mean a device.
    pub fn meant(&self, device: &Identity<'_>) -> Meant {
        let mut behind = RuleSet::default();
        let named = device.name.and_then(|name| self.behind.get(name));
        named.into_iter().for_each(|rules| behind.join(rules));
        for (net, rule) in &self.anywhere {
            if meets_a_lan(device.gateway_to, net) {
                behind.insert(*rule);
            }
        }
        if is_way_out(device.gateway_to) {
            behind.join(&self.out);
        }
        Meant {
            from: self.from.rules_about(device),
            to: self.to.rules_about(device),
            behind,
            owner: device.owner.filter(|_| device.tags.is_empty()),
        }
    }

    /// Whether a device may reach anything at another one, or behind it.
    pub fn may_reach(&self, from: &Meant, to: &Meant) -> bool {
        from.from.meets(&to.to)
            || from.from.meets(&to.behind)
            || (same_owner(from, to) && from.from.meets(&self.own))
    }

    /// Whether two devices are told of each other: if either may reach the other, both are, since
    /// answers need the tunnel as well.
    pub fn may_see(&self, a: &Meant, b: &Meant) -> bool {
        self.may_reach(a, b) || self.may_reach(b, a)
    }

    /// The rules by which one device may reach another one itself, in the text's order; with
    /// `port`, those that cover it.
    pub fn deciding(&self, from: &Meant, to: &Meant, port: Option<Ports>) -> Vec<RuleRef<'_>> {
        self.refs(self.deciding_set(from, to).iter(), port)
    }

    pub(super) fn deciding_set(&self, from: &Meant, to: &Meant) -> RuleSet {
        let mut rules = from.from.common(&to.to);
        if same_owner(from, to) {
            rules.join(&from.from.common(&self.own));
        }
        rules
    }

    /// The rules that lead to something behind devices.
    pub(super) fn leading_to(&self, to: &Selector) -> RuleSet {
        self.leading(|behind| includes(behind, to))
    }

    /// The rules that lead to a part of something behind devices, at least.
    pub(super) fn leading_into(&self, to: &Selector) -> RuleSet {
        self.leading(|behind| overlaps(behind, to))
    }

    /// The rules that lead to anything behind devices.
    pub(super) fn leading_behind(&self) -> RuleSet {
        self.leading(|_| true)
    }

    fn leading(&self, leads: impl Fn(&Selector) -> bool) -> RuleSet {
        let mut leading = RuleSet::default();
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.to_everything || rule.behind.iter().any(&leads) {
                leading.insert(index);
            }
        }
        leading
    }

    /// How many words say what these rules allow.
    pub(super) fn words_of(&self, rules: &RuleSet) -> usize {
        rules.iter().map(|rule| self.rules[rule].ports.len()).sum()
    }

    /// All that these rules allow.
    pub(super) fn reach(&self, rules: &RuleSet) -> PortSet {
        rules.iter().flat_map(|rule| &self.rules[rule].ports).collect()
    }

    fn refs(&self, rules: impl Iterator<Item = usize>, port: Option<Ports>) -> Vec<RuleRef<'_>> {
        let covers = |rule: &RuleRef<'_>| {
            port.is_none_or(|port| rule.ports.iter().any(|ports| ports.covers(port)))
        };
        rules.map(|rule| self.rule(rule)).filter(covers).collect()
    }

    fn rule(&self, index: usize) -> RuleRef<'_> {
        let Rule { name, line, ports, .. } = &self.rules[index];
        RuleRef { index, name: name.as_deref(), line: *line, ports }
    }

    /// What stands behind devices, as the rules name it.
    pub(super) fn behind(&self) -> impl Iterator<Item = &Selector> {
        self.rules.iter().flat_map(|rule| &rule.behind)
    }

    /// Whether the text names a device so: nobody who joins may take such a name by himself.
    pub fn names(&self, name: &DeviceName) -> bool {
        self.names.contains(name)
    }

    /// Whether the text names a person so: nobody may become him by himself.
    pub fn names_person(&self, email: &Email) -> bool {
        self.from.by_email.contains_key(email) || self.to.by_email.contains_key(email)
    }

    /// What a device lets in; `None`: everything. `sources` are the devices that each rule means as
    /// those that ask ([`Self::sources`]).
    pub fn filter(
        &self,
        id: DeviceId,
        device: &Meant,
        name: &DeviceName,
        gateway_to: &[IpNet],
        sources: &SourcesByRule,
    ) -> Option<Filter> {
        let mut meaning = device.to.clone();
        meaning.join(&device.behind);
        if device.owner.is_some() {
            meaning.join(&self.own);
        }
        let mut found: BTreeMap<(Vec<Target>, &[Ports]), Who> = BTreeMap::new();
        for index in meaning.iter() {
            let rule = &self.rules[index];
            let to = targets(rule, device.to.contains(index), name, gateway_to);
            if !to.is_empty() {
                let who = found.entry((to, &rule.ports)).or_default();
                who.add(rule, &sources.by_rule[index], None);
            }
            if self.own.contains(index) && device.owner.is_some() {
                let who = found.entry((vec![Target::This], &rule.ports)).or_default();
                who.add(rule, &sources.by_rule[index], device.owner);
            }
        }
        let whole = (vec![Target::Everything], &[Ports::All][..]);
        if found.get(&whole).is_some_and(|who| who.all) {
            return None;
        }
        let rules = found.into_iter().filter_map(|((to, ports), who)| {
            let from = who.sources(id)?;
            Some(FilterRule { from, ports: ports.to_vec(), to })
        });
        Some(Filter { rules: rules.collect(), limits: Vec::new() })
    }

    /// The devices that each rule means as those that ask.
    pub fn sources<'a>(
        &self,
        devices: impl Iterator<Item = (DeviceId, &'a Meant)>,
    ) -> SourcesByRule {
        let mut by_rule = vec![Vec::new(); self.rules.len()];
        for (id, device) in devices {
            for rule in device.from.iter() {
                by_rule[rule].push((id, device.owner));
            }
        }
        SourcesByRule { by_rule }
    }

    /// Whether what a device lets in can be another with `after` in place of `before` among those
    /// that ask.
    pub(crate) fn concerns(&self, device: &Meant, before: &Meant, after: &Meant) -> bool {
        let differs = |rule: usize| before.from.contains(rule) != after.from.contains(rule);
        let by_owner = |rule: usize| {
            self.own.contains(rule)
                && device.owner.is_some()
                && (same_owner(before, device) && before.from.contains(rule))
                    != (same_owner(after, device) && after.from.contains(rule))
        };
        let mut asked = device.to.clone();
        asked.join(&device.behind);
        (0..self.rules.len()).any(|rule| {
            by_owner(rule)
                || (asked.contains(rule) && !self.rules[rule].from_everyone && differs(rule))
        })
    }

    /// Whether every device lets everything in.
    pub fn is_open(&self) -> bool {
        let all =
            |rule: &Rule| rule.from_everyone && rule.to_everything && rule.ports == [Ports::All];
        self.rules.iter().any(all)
    }
}

/// The devices that each rule means as those that ask: made once for all filters.
#[derive(Debug)]
pub struct SourcesByRule {
    by_rule: Vec<Vec<(DeviceId, Option<UserId>)>>,
}

/// The sources of rules that say the same.
#[derive(Default)]
struct Who {
    all: bool,
    devices: BTreeSet<DeviceId>,
}

impl Who {
    fn add(&mut self, rule: &Rule, sources: &[(DeviceId, Option<UserId>)], owner: Option<UserId>) {
        if rule.from_everyone && owner.is_none() {
            self.all = true;
        } else if !self.all {
            let meant = sources.iter().filter(|(_, other)| owner.is_none() || *other == owner);
            self.devices.extend(meant.map(|(id, _)| *id));
        }
    }

    fn sources(mut self, without: DeviceId) -> Option<Sources> {
        if self.all {
            return Some(Sources::All);
        }
        self.devices.remove(&without);
        let devices: Vec<DeviceId> = self.devices.into_iter().collect();
        (!devices.is_empty()).then_some(Sources::Devices(devices))
    }
}

fn same_owner(a: &Meant, b: &Meant) -> bool {
    a.owner.is_some() && a.owner == b.owner
}

/// Ports sorted, without those that others cover.
fn normal(ports: &[Ports]) -> Vec<Ports> {
    let mut normal: Vec<Ports> = ports.to_vec();
    normal.sort();
    normal.dedup();
    let all = normal.clone();
    normal.retain(|port| !all.iter().any(|other| other != port && other.covers(*port)));
    normal
}
