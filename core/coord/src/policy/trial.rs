//! Runs a text's tests.
//!
//! A word of a test means every device that it means in a rule, those that are there and those that
//! may come: a device of each person, of somebody else with that role, with that tag alone. `allow`
//! holds if each of them reaches all of the port by the rules together, `deny` if none reaches any
//! part of it by any rule.

use std::collections::BTreeMap;
use std::rc::Rc;

use warren_proto::{DeviceName, UserId};

use super::check::TestResult;
use super::port_set::PortSet;
use super::rule_set::RuleSet;
use super::text::{At, TestDraft};
use super::{Draft, Identity, Meant, Members, Policy, Problem, Selector, Severity, Subject};
use crate::{Email, Role, Tag};

/// How much all tests of a text may compare: pairs of devices, and words for ports.
const MOST_COMPARED: usize = 4_000_000;

const STRANGER: Identity<'static> = Identity {
    name: None,
    owner: None,
    email: None,
    role: None,
    tags: &std::collections::BTreeSet::new(),
    gateway_to: &[],
};

/// Who of those that a word means is treated so.
#[derive(Debug, Clone)]
enum Who {
    /// One that may come.
    Imagined,
    /// This one alone.
    One(DeviceName),
    /// This one and others.
    Several(DeviceName),
}

/// What a word means: each treatment once.
type Meaning = BTreeMap<Meant, Who>;

/// Where tests run.
pub(super) struct Trial<'a> {
    policy: &'a Policy,
    draft: &'a Draft,
    devices: Vec<(&'a Identity<'a>, Meant)>,
    members: &'a Members,
    meanings: BTreeMap<Subject, Rc<Meaning>>,
    left: usize,
}

/// What a test found.
enum Found {
    Holds,
    /// It doesn't, because of these.
    Fails(Who, Option<Who>),
}

impl<'a> Trial<'a> {
    pub(super) fn new(
        policy: &'a Policy,
        draft: &'a Draft,
        devices: &'a [Identity<'a>],
        members: &'a Members,
    ) -> Self {
        let devices = devices.iter().map(|device| (device, policy.meant(device))).collect();
        let meanings = BTreeMap::new();
        Self { policy, draft, devices, members, meanings, left: MOST_COMPARED }
    }

    /// Runs a test. `None`: the tests compare more than is worth it, which is a problem.
    pub(super) fn run(
        &mut self,
        test: &TestDraft,
        problems: &mut Vec<Problem>,
    ) -> Option<TestResult> {
        self.note_unknown(test, problems);
        let Some(found) = self.find(test) else {
            let message = "the tests compare too many devices: name fewer in them";
            problems.push(self.draft.problem(Severity::Error, test.at, message.to_owned()));
            return None;
        };
        let result = TestResult {
            line: self.draft.line(test.at),
            from: test.from.what.to_string(),
            to: test.to.what.to_string(),
            port: test.port.map(|port| port.to_string()),
            allow: test.allow,
            holds: matches!(found, Found::Holds),
        };
        if let Found::Fails(from, to) = found {
            let message = failure(&result, &from, to.as_ref());
            problems.push(self.draft.problem(Severity::Error, test.at, message));
        }
        Some(result)
    }

    fn note_unknown(&self, test: &TestDraft, problems: &mut Vec<Problem>) {
        let to = match &test.to.what {
            Selector::Subject(subject) => Some((subject, test.to.at)),
            Selector::Own
            | Selector::Virtual { .. }
            | Selector::Subnet { .. }
            | Selector::Internet { .. } => None,
        };
        let of_group = |name: &String| self.draft.groups.get(name).map_or(&[][..], Vec::as_slice);
        for (subject, at) in [Some((&test.from.what, test.from.at)), to].into_iter().flatten() {
            let members = match subject {
                Subject::Group(name) => of_group(name),
                Subject::Everyone
                | Subject::User(_)
                | Subject::Tag(_)
                | Subject::Device(_)
                | Subject::Role(_) => &[],
            };
            let members = members.iter().map(|At { what, .. }| what);
            for subject in members.chain([subject]) {
                if let Subject::Device(name) = subject
                    && !self.devices.iter().any(|(device, _)| device.name == Some(name))
                {
                    let message =
                        format!("no device is called '{name}', so this test says nothing");
                    problems.push(self.draft.problem(Severity::Warning, at, message));
                }
            }
        }
    }

    fn find(&mut self, test: &TestDraft) -> Option<Found> {
        let from = self.meaning(&test.from.what);
        let mut verdicts = Verdicts { test, policy: self.policy, known: BTreeMap::new() };
        let left = &mut self.left;
        match &test.to.what {
            Selector::Subject(subject) => {
                let everything = *subject == Subject::Everyone && !test.allow;
                if everything {
                    let behind = self.policy.leading_behind();
                    let found = verdicts.behind(&from, &behind, left)?;
                    if !matches!(found, Found::Holds) {
                        return Some(found);
                    }
                }
                let to = self.meaning(subject);
                verdicts.pairs(&from, &to, &mut self.left)
            }
            Selector::Own => {
                for (meant, who) in from.iter() {
                    if !verdicts.holds(self.policy.deciding_set(meant, meant), left)? {
                        return Some(Found::Fails(who.clone(), None));
                    }
                }
                Some(Found::Holds)
            }
            behind @ (Selector::Virtual { .. }
            | Selector::Subnet { .. }
            | Selector::Internet { .. }) => {
                let leading = match test.allow {
                    true => self.policy.leading_to(behind),
                    false => self.policy.leading_into(behind),
                };
                verdicts.behind(&from, &leading, left)
            }
        }
    }

    fn meaning(&mut self, subject: &Subject) -> Rc<Meaning> {
        if let Some(known) = self.meanings.get(subject) {
            return known.clone();
        }
        let mut meaning = Meaning::new();
        let words: Vec<&Subject> = match subject {
            Subject::Group(name) => {
                self.draft.groups.get(name).into_iter().flatten().map(|it| &it.what).collect()
            }
            Subject::Everyone
            | Subject::User(_)
            | Subject::Tag(_)
            | Subject::Device(_)
            | Subject::Role(_) => vec![subject],
        };
        for word in words {
            self.add_imagined(word, &mut meaning);
            for (device, meant) in &self.devices {
                if means(word, device) {
                    add(&mut meaning, meant, device.name);
                }
            }
        }
        let meaning = Rc::new(meaning);
        self.meanings.insert(subject.clone(), meaning.clone());
        meaning
    }

    /// Devices that may come.
    fn add_imagined(&self, word: &Subject, meaning: &mut Meaning) {
        let mut imagine = |identity: Identity<'_>| {
            meaning.insert(self.policy.meant(&identity), Who::Imagined);
        };
        let somebody = |role, turn| Identity { owner: self.nobody_yet(turn), role, ..STRANGER };
        match word {
            Subject::Everyone => {
                imagine(STRANGER);
                imagine(somebody(None, 0));
                imagine(somebody(None, 1));
                self.members.all().for_each(|(id, email, role)| imagine(person(id, email, role)));
            }
            Subject::User(email) => {
                let known = self.members.find(email).and_then(|id| {
                    let (_, role) = self.members.get(id)?;
                    Some(person(id, email, role))
                });
                imagine(known.unwrap_or(Identity { email: Some(email), ..somebody(None, 0) }));
            }
            Subject::Tag(tag) => {
                imagine(Identity { tags: &[tag.clone()].into(), ..STRANGER });
            }
            Subject::Role(role) => {
                imagine(somebody(Some(*role), 0));
                imagine(somebody(Some(*role), 1));
                let alike = self.members.all().filter(|(.., own)| own == role);
                alike.for_each(|(id, email, role)| imagine(person(id, email, role)));
            }
            // A group has no groups in it.
            Subject::Device(_) | Subject::Group(_) => {}
        }
    }

    /// Somebody who isn't there: one of two.
    fn nobody_yet(&self, turn: usize) -> Option<UserId> {
        let mut free = (0..=u64::MAX).rev().map(UserId);
        free.by_ref().filter(|id| self.members.get(*id).is_none()).nth(turn)
    }
}

fn person(id: UserId, email: &Email, role: Role) -> Identity<'_> {
    Identity { owner: Some(id), email: Some(email), role: Some(role), ..STRANGER }
}

/// Whether a word means a device.
fn means(word: &Subject, device: &Identity<'_>) -> bool {
    let has = |tag: &Tag| device.tags.contains(tag);
    match word {
        Subject::Everyone => true,
        Subject::User(email) => device.tags.is_empty() && device.email == Some(email),
        Subject::Tag(tag) => has(tag),
        Subject::Device(name) => device.name == Some(name),
        Subject::Role(role) => device.tags.is_empty() && device.role == Some(*role),
        Subject::Group(_) => false,
    }
}

fn add(meaning: &mut Meaning, meant: &Meant, name: Option<&DeviceName>) {
    let Some(name) = name else { return };
    match meaning.get_mut(meant) {
        None => {
            meaning.insert(meant.clone(), Who::One(name.clone()));
        }
        Some(who) => {
            if let Who::One(other) = who
                && other != name
            {
                *who = Who::Several(other.clone());
            }
        }
    }
}

impl Who {
    /// Whether both are one device, which needs no rule to reach itself.
    fn is_same_device(&self, other: &Self) -> bool {
        matches!((self, other), (Self::One(a), Self::One(b)) if a == b)
    }
}

/// What a test says of rules, each set of them looked at once.
struct Verdicts<'a> {
    test: &'a TestDraft,
    policy: &'a Policy,
    known: BTreeMap<RuleSet, bool>,
}

impl Verdicts<'_> {
    /// `None`: too much was compared.
    fn pairs(&mut self, from: &Meaning, to: &Meaning, left: &mut usize) -> Option<Found> {
        for (a, asking) in from {
            for (b, asked) in to.iter().filter(|(_, asked)| !asking.is_same_device(asked)) {
                if !self.holds(self.policy.deciding_set(a, b), left)? {
                    return Some(Found::Fails(asking.clone(), Some(asked.clone())));
                }
            }
        }
        Some(Found::Holds)
    }

    fn behind(&mut self, from: &Meaning, leading: &RuleSet, left: &mut usize) -> Option<Found> {
        for (meant, who) in from {
            if !self.holds(meant.from.common(leading), left)? {
                return Some(Found::Fails(who.clone(), None));
            }
        }
        Some(Found::Holds)
    }

    fn holds(&mut self, rules: RuleSet, left: &mut usize) -> Option<bool> {
        *left = left.checked_sub(1)?;
        if let Some(known) = self.known.get(&rules) {
            return Some(*known);
        }
        *left = left.checked_sub(self.policy.words_of(&rules))?;
        let holds = self.is_as_wanted(&self.policy.reach(&rules));
        self.known.insert(rules, holds);
        Some(holds)
    }

    fn is_as_wanted(&self, reach: &PortSet) -> bool {
        let Some(port) = self.test.port.map(PortSet::from) else {
            return self.test.allow != reach.is_empty();
        };
        let missing = port.without(reach);
        if self.test.allow { missing.is_empty() } else { missing == port }
    }
}

fn failure(test: &TestResult, from: &Who, to: Option<&Who>) -> String {
    let at = test.port.as_deref().map(|port| format!(" at {port}")).unwrap_or_default();
    let does = if test.allow { "doesn't reach" } else { "reaches" };
    let (asking, asked) = (named(from), to.and_then(named));
    let example = match (asking, asked) {
        (None, None) => String::new(),
        (Some(a), None) => format!(" (device '{a}' {does} it)"),
        (None, Some(b)) => format!(" (it {does} device '{b}')"),
        (Some(a), Some(b)) => format!(" (device '{a}' {does} device '{b}')"),
    };
    format!("this test doesn't hold: {} {does} {}{at}{example}", test.from, test.to)
}

fn named(who: &Who) -> Option<&DeviceName> {
    match who {
        Who::Imagined => None,
        Who::One(name) | Who::Several(name) => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ANNA: (u64, &str, Role) = (1, "anna@example.org", Role::Admin);
    const BOB: (u64, &str, Role) = (2, "bob@example.org", Role::Member);

    /// Whether the tests of a text hold where these devices are, each with its owner and tags.
    fn holds(text: &str, devices: &[(&str, Option<u64>, &[&str])]) -> Vec<bool> {
        report(text, devices).tests.iter().map(|test| test.holds).collect()
    }

    fn report(text: &str, devices: &[(&str, Option<u64>, &[&str])]) -> super::super::Report {
        let members: Members = [ANNA, BOB]
            .map(|(id, email, role)| (UserId(id), email.parse().unwrap(), role))
            .into_iter()
            .collect();
        let devices: Vec<(DeviceName, Option<UserId>, BTreeSet<Tag>)> = devices
            .iter()
            .map(|(name, owner, tags)| {
                let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
                (name.parse().unwrap(), owner.map(UserId), tags)
            })
            .collect();
        let devices: Vec<Identity<'_>> = devices
            .iter()
            .map(|(name, owner, tags)| Identity::new(name, *owner, tags, &[], &members))
            .collect();
        super::super::check(&Draft::parse(text), &Policy::default(), &devices, &members)
    }

    fn rule(from: &str, to: &str, ports: &str) -> String {
        format!("[[rules]]\nfrom = '{from}'\nto = '{to}'\nports = [{ports}]\n")
    }

    fn test(from: &str, to: &str, port: &str, expect: &str) -> String {
        format!("[[tests]]\nfrom = '{from}'\nto = '{to}'\nport = '{port}'\nexpect = '{expect}'\n")
    }

    #[test]
    fn deny_holds_only_where_no_part_of_the_port_is_open() {
        let mut text = rule("tag:a", "tag:b", "'tcp:22'");
        for port in ["tcp", "*", "tcp:1-1024", "tcp:22", "udp", "tcp:23-1024"] {
            text += &test("tag:a", "tag:b", port, "deny");
        }
        assert_eq!(holds(&text, &[]), [false, false, false, false, true, true]);
    }

    #[test]
    fn allow_holds_where_rules_together_open_all_of_the_port() {
        let mut text = rule("tag:a", "tag:b", "'tcp:1-100'");
        text += &rule("tag:a", "*", "'tcp:101-200', 'icmp'");
        for port in ["tcp:50-150", "tcp:1-200", "tcp:1-201", "*"] {
            text += &test("tag:a", "tag:b", port, "allow");
        }
        assert_eq!(holds(&text, &[]), [true, true, false, false]);
    }

    #[test]
    fn a_word_means_all_whom_it_would_mean_in_a_rule() {
        let mut text = rule("user:anna@example.org", "tag:db", "'*'");
        text += &rule("tag:ops", "tag:db", "'*'");
        for from in ["role:admin", "role:member", "tag:web", "*", "user:bob@example.org"] {
            text += &test(from, "tag:db", "tcp:5432", "deny");
        }
        assert_eq!(holds(&text, &[]), [false, true, true, false, true], "who may come counts");
        let devices = [("web-1", None, &["web", "ops"][..]), ("phone", Some(2), &[][..])];
        assert_eq!(holds(&text, &devices), [false, true, false, false, true]);
        let problems = report(&text, &devices).problems;
        assert!(problems.iter().any(|it| it.message.contains("device 'web-1' reaches")));
        let text = rule("device:phone", "tag:db", "'*'")
            + &test("user:bob@example.org", "tag:db", "*", "deny");
        assert_eq!(holds(&text, &devices), [false]);
    }

    #[test]
    fn somebody_reaches_his_own_devices_and_no_device_itself() {
        let mut text = rule("*", "own", "'tcp:22'");
        text += &test("role:member", "role:member", "tcp:22", "deny");
        text += &test("role:member", "own", "tcp:22", "allow");
        text += &test("role:member", "role:member", "tcp:22", "allow");
        text += &test("tag:a", "own", "tcp:22", "deny");
        assert_eq!(holds(&text, &[]), [false, true, false, true]);
        let text = rule("tag:b", "tag:c", "'*'") + &test("tag:a", "tag:a", "*", "deny");
        assert_eq!(holds(&text, &[("one", None, &["a", "b", "c"])]), [true]);
        let two = [("one", None, &["a", "b", "c"][..]), ("two", None, &["a", "b", "c"][..])];
        assert_eq!(holds(&text, &two), [false]);
    }

    #[test]
    fn a_part_of_a_network_is_reached_if_the_rule_names_another_part_with_it() {
        let mut text = rule("tag:a", "subnet:192.168.7.0/28@attic", "'*'");
        text += &test("tag:a", "subnet:192.168.7.0/24@attic", "*", "deny");
        text += &test("tag:a", "subnet:192.168.7.0/24", "*", "allow");
        text += &test("tag:a", "subnet:192.168.8.0/24@attic", "*", "deny");
        text += &test("tag:a", "*", "*", "deny");
        text += &test("tag:a", "tag:b", "*", "deny");
        assert_eq!(holds(&text, &[]), [false, false, true, false, true]);
    }

    #[test]
    fn what_would_take_long_is_refused_before_it_does() {
        let tags: Vec<String> = (0..3_000).map(|n| format!("'tag:t{n}'")).collect();
        let group = format!("[groups]\ng = [{}]\n", tags.join(","));
        let mut rules: String = (0..1_900).map(|_| rule("group:g", "group:g", "'*'")).collect();
        rules += &(0..50).map(|n| rule(&format!("tag:t{n}"), "own", "'icmp'")).collect::<String>();
        let good = report(&format!("{group}{rules}"), &[]);
        assert!(good.is_good(), "{:?}", good.problems.first());
        let own = |n| rule(&format!("tag:t{n}"), &format!("tag:t{n}"), "'*'");
        let mut text = group + &(0..100).map(own).collect::<String>();
        (0..2_000).for_each(|_| text += &test("group:g", "group:g", "udp:53", "deny"));
        let draft = Draft::parse(&text);
        let (policy, members) = (Policy::compile(&draft), Members::default());
        let mut trial = Trial::new(&policy, &draft, &[], &members);
        trial.left = 5;
        let mut problems = Vec::new();
        assert!(trial.run(&draft.tests[0], &mut problems).is_none());
        assert!(problems[0].message.contains("too many devices"), "{problems:?}");
        let many: Vec<String> = (0..12_000).map(|n| format!("'tag:t{n}'")).collect();
        let wide = report(&format!("[groups]\ng = [{}]\n", many.join(",")), &[]);
        assert!(!wide.is_good() && wide.problems[0].message.contains("more than 10000 words"));
    }
}
