//! What is wrong with a text, whether its tests hold, and what it would change.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use warren_proto::DeviceName;

use super::diff::difference;
use super::text::{At, TestDraft};
use super::{
    Difference, Draft, Identity, Meant, Members, Policy, Problem, Selector, Severity, Subject,
};
use crate::{Email, Tag};

/// What an admin should know before a text is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// Errors, which prevent saving, and warnings.
    pub problems: Vec<Problem>,
    /// Each test of the text.
    pub tests: Vec<TestResult>,
    /// Who would gain and who would lose what.
    pub difference: Difference,
}

/// How a test of the text ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TestResult {
    /// The line that the test begins at.
    pub line: usize,
    /// Who asks.
    pub from: String,
    /// Who is asked.
    pub to: String,
    /// Where; absent: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Whether it should be allowed.
    pub allow: bool,
    /// Whether the text does what the test says.
    pub holds: bool,
}

impl Report {
    /// Whether the text may be saved.
    pub fn is_good(&self) -> bool {
        self.tests.iter().all(|test| test.holds)
            && self.problems.iter().all(|problem| problem.severity != Severity::Error)
    }
}

/// Checks a text that is to take the place of another one.
pub fn check(
    draft: &Draft,
    before: &Policy,
    devices: &[Identity<'_>],
    members: &Members,
) -> Report {
    let policy = Policy::compile(draft);
    let mut problems = draft.problems.clone();
    problems.extend(unknown_names(draft, devices, members));
    let (mut tests, mut change) = (Vec::new(), Difference::default());
    if !draft.is_broken() {
        let bench = Bench { policy: &policy, draft, devices, members };
        for test in &draft.tests {
            let result = bench.run(test, &mut problems);
            if !result.holds {
                problems.push(draft.problem(Severity::Error, test.at, failure(&result)));
            }
            tests.push(result);
        }
        change = difference(before, &policy, devices);
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    Report { problems, tests, difference: change }
}

fn failure(test: &TestResult) -> String {
    let at = test.port.as_deref().map(|port| format!(" at {port}")).unwrap_or_default();
    let does = if test.allow { "doesn't reach" } else { "reaches" };
    format!("this test doesn't hold: {} {does} {}{at}", test.from, test.to)
}

/// Says where a text names who isn't there: renamed, removed, gone, or misspelt.
fn unknown_names(draft: &Draft, devices: &[Identity<'_>], members: &Members) -> Vec<Problem> {
    let names: BTreeSet<&DeviceName> = devices.iter().filter_map(|device| device.name).collect();
    let tags: BTreeSet<&Tag> = devices.iter().flat_map(|device| device.tags).collect();
    let no_device = |name: &DeviceName| {
        (!names.contains(name)).then(|| format!("no device is called '{name}'"))
    };
    let about = |subject: &Subject| match subject {
        Subject::User(email) => members
            .find(email)
            .is_none()
            .then(|| format!("nobody in this account has the address {email}")),
        Subject::Device(name) => no_device(name),
        Subject::Tag(tag) => {
            (!tags.contains(tag)).then(|| format!("no device has the tag '{tag}' yet"))
        }
        Subject::Everyone | Subject::Group(_) | Subject::Role(_) => None,
    };
    let target = |selector: &Selector| match selector {
        Selector::Subject(subject) => about(subject),
        Selector::Virtual { edge, .. } | Selector::Subnet { edge: Some(edge), .. } => {
            no_device(edge)
        }
        Selector::Own | Selector::Subnet { edge: None, .. } => None,
    };
    let from = draft.rules.iter().flat_map(|rule| &rule.from);
    let subjects = draft.groups.values().flatten().chain(from);
    let subjects = subjects.filter_map(|it| Some((it.at, about(&it.what)?)));
    let to = draft.rules.iter().flat_map(|rule| &rule.to);
    let targets = to.filter_map(|it| Some((it.at, target(&it.what)?)));
    subjects
        .chain(targets)
        .map(|(at, message)| draft.problem(Severity::Warning, at, message))
        .collect()
}

/// Where tests run.
struct Bench<'a> {
    policy: &'a Policy,
    draft: &'a Draft,
    devices: &'a [Identity<'a>],
    members: &'a Members,
}

const NO_TAGS: &BTreeSet<Tag> = &BTreeSet::new();

const STRANGER: Identity<'static> =
    Identity { name: None, owner: None, email: None, role: None, tags: NO_TAGS, gateway_to: &[] };

impl Bench<'_> {
    fn run(&self, test: &TestDraft, problems: &mut Vec<Problem>) -> TestResult {
        let from = self.meant(&test.from, problems);
        let allowed: BTreeSet<bool> = match &test.to.what {
            Selector::Subject(subject) => {
                let to = self.meant(&At { what: subject.clone(), at: test.to.at }, problems);
                let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (a, b)));
                pairs.map(|(a, b)| !self.policy.deciding(a, b, test.port).is_empty()).collect()
            }
            Selector::Own => {
                from.iter().map(|it| !self.policy.deciding(it, it, test.port).is_empty()).collect()
            }
            behind @ (Selector::Virtual { .. } | Selector::Subnet { .. }) => from
                .iter()
                .map(|it| !self.policy.deciding_behind(it, behind, test.port).is_empty())
                .collect(),
        };
        TestResult {
            line: self.draft.line(test.at),
            from: test.from.what.to_string(),
            to: test.to.what.to_string(),
            port: test.port.map(|port| port.to_string()),
            allow: test.allow,
            holds: allowed.iter().all(|allowed| *allowed == test.allow),
        }
    }

    /// What the words of a test mean: people and tags also where they have no device yet.
    fn meant(&self, subject: &At<Subject>, problems: &mut Vec<Problem>) -> BTreeSet<Meant> {
        let one = |identity: Identity<'_>| BTreeSet::from([self.policy.meant(&identity)]);
        match &subject.what {
            Subject::Everyone => {
                let devices = self.devices.iter().map(|device| self.policy.meant(device));
                devices.chain([self.policy.meant(&STRANGER)]).collect()
            }
            Subject::User(email) => one(self.person(email)),
            Subject::Tag(tag) => one(Identity { tags: &BTreeSet::from([tag.clone()]), ..STRANGER }),
            Subject::Role(role) => one(Identity { role: Some(*role), ..STRANGER }),
            Subject::Device(name) => {
                let device = self.devices.iter().find(|device| device.name == Some(name));
                if device.is_none() {
                    let message =
                        format!("no device is called '{name}', so this test says nothing");
                    problems.push(self.draft.problem(Severity::Warning, subject.at, message));
                }
                device.map(|device| self.policy.meant(device)).into_iter().collect()
            }
            Subject::Group(name) => {
                let members: Vec<&At<Subject>> =
                    self.draft.groups.get(name).into_iter().flatten().collect();
                members.into_iter().flat_map(|member| self.meant(member, problems)).collect()
            }
        }
    }

    fn person<'e>(&'e self, email: &'e Email) -> Identity<'e> {
        let owner = self.members.find(email);
        let role = owner.and_then(|owner| self.members.get(owner)).map(|(_, role)| role);
        Identity { owner, email: Some(email), role, ..STRANGER }
    }
}
