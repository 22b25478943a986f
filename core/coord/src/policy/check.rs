//! What is wrong with a text, whether its tests hold, and what it would change.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use warren_proto::DeviceName;

use super::diff::difference;
use super::text::{At, RuleDraft};
use super::trial::Trial;
use super::{Difference, Draft, Identity, Members, Policy, Problem, Selector, Severity, Subject};
use crate::Tag;

/// The most words in all lists of a text. More could be read, but not compared in little time.
const MAX_WORDS: usize = 10_000;
/// The most words of it that say what is behind devices.
const MAX_BEHIND: usize = 1_000;

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
    let mut problems = draft.problems.clone();
    let (mut tests, mut change) = (Vec::new(), Difference::default());
    if let Some(problem) = too_much(draft) {
        problems.push(problem);
    } else {
        problems.extend(unknown_names(draft, devices, members));
        if !draft.is_broken() {
            let policy = Policy::compile(draft);
            let mut trial = Trial::new(&policy, draft, devices, members);
            let run = |test| trial.run(test, &mut problems);
            tests = draft.tests.iter().map_while(run).collect();
            change = difference(before, &policy, devices);
        }
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    Report { problems, tests, difference: change }
}

/// A text that stands is kept, whatever is in it; a new one of that size is not taken.
fn too_much(draft: &Draft) -> Option<Problem> {
    let in_rules = |rule: &RuleDraft| rule.from.len() + rule.to.len() + rule.ports.len();
    let words = draft.groups.values().map(Vec::len).chain(draft.rules.iter().map(in_rules));
    let targets = draft.rules.iter().flat_map(|rule| &rule.to);
    let is_behind = |to: &&At<Selector>| match to.what {
        Selector::Virtual { .. } | Selector::Subnet { .. } | Selector::Internet { .. } => true,
        Selector::Subject(_) | Selector::Own => false,
    };
    let message = if words.sum::<usize>() > MAX_WORDS {
        format!("the groups and rules have more than {MAX_WORDS} words in their lists")
    } else if targets.filter(is_behind).count() > MAX_BEHIND {
        format!("the rules lead to more than {MAX_BEHIND} networks and virtual devices")
    } else {
        return None;
    };
    Some(draft.problem(Severity::Error, 0, message))
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
        Selector::Virtual { edge, .. }
        | Selector::Subnet { edge: Some(edge), .. }
        | Selector::Internet { edge: Some(edge) } => no_device(edge),
        Selector::Own | Selector::Subnet { edge: None, .. } | Selector::Internet { edge: None } => {
            None
        }
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
