//! Who may reach what: from an account's text to verdicts and filters.
//!
//! A [`Draft`] is a text that was read, with the places of its parts; [`check`] says what is wrong
//! with it, runs its tests and works out who gains and who loses. A [`Policy`] is what counts of it.
//!
//! # Why it is fast
//!
//! For each word that can mean a device (its person, role, tags, name) a policy holds the set of
//! rules that say it, as bits. Which rules [mean](Meant) a device is the union of a few such sets,
//! once for each change of that device. Whether one device may reach another is then whether two
//! sets meet: one word for each 64 rules. There is no matrix of pairs to keep, so a device that
//! gets a tag costs one look-up and one pass over the others.

mod behind;
mod check;
mod compile;
mod diff;
mod edit;
mod members;
mod outline;
mod port_set;
mod reach;
mod rule_set;
mod selector;
mod text;
mod trial;

pub use check::{Report, TestResult, check};
pub use compile::{Identity, Meant, Policy, RuleRef, SourcesByRule};
pub use diff::{Difference, Row, Side};
pub use edit::{Edit, EditError, GroupText, RuleText, TestText, edit};
pub use members::Members;
pub use outline::{Entry, Outline};
pub use reach::ReachBehind;
pub use selector::{Selector, Subject};
pub use text::{Draft, MAX_TEXT, Problem, Severity};

/// The text that every account begins with: every device reaches every other.
pub const DEFAULT_TEXT: &str = include_str!("policy/default.toml");
