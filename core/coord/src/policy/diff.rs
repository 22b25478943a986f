//! Who gains and who loses, said in few rows: devices of one person or with the same tags that the
//! rules treat alike are one, and so are those of nobody.
//!
//! Most devices are treated alike by both texts, so what changes is worked out once for each pair of
//! treatments, and only for those where something does are people's words looked for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::port_set::PortSet;
use super::rule_set::RuleSet;
use super::{Identity, Meant, Policy, Selector};

/// The most rows of each kind that are shown.
const MAX_ROWS: usize = 50;
/// As many devices of nobody are named one by one.
const NAMED: usize = 3;

/// What a text changes for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Difference {
    /// Who can reach more.
    pub gains: Side,
    /// Who can reach less.
    pub losses: Side,
}

/// All gains, or all losses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Side {
    /// Those that concern the most pairs first; at most 50.
    pub rows: Vec<Row>,
    /// How many rows are not shown.
    pub more: usize,
    /// How many pairs of devices are concerned in all.
    pub pairs: usize,
}

/// Some devices, what they reach, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Row {
    /// Who.
    pub from: String,
    /// How many devices that is.
    pub from_devices: usize,
    /// What.
    pub to: String,
    /// How many devices that is; 0 for what stands behind one.
    pub to_devices: usize,
    /// At which ports.
    pub ports: Vec<String>,
}

impl Difference {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.gains.rows.is_empty() && self.losses.rows.is_empty()
    }
}

/// Works out what changes for whom.
pub(super) fn difference(before: &Policy, after: &Policy, devices: &[Identity<'_>]) -> Difference {
    let kinds = kinds(before, after, devices);
    let mut found = Found { before, after, known: BTreeMap::new(), changes: Vec::new() };
    let (mut gains, mut losses) = (Vec::new(), Vec::new());
    let behind: BTreeSet<&Selector> = before.behind().chain(after.behind()).collect();
    let behind: Vec<(&Selector, RuleSet, RuleSet)> =
        behind.into_iter().map(|it| (it, before.leading_to(it), after.leading_to(it))).collect();
    for from in &kinds {
        for to in &kinds {
            let old = before.deciding_set(&from.before, &to.before);
            let new = after.deciding_set(&from.after, &to.after);
            let Some(change) = found.change(old, new) else { continue };
            let all = from.classes.iter().flat_map(|a| to.classes.iter().map(move |b| (a, b)));
            for (a, b) in all {
                let others = b.devices - usize::from(std::ptr::eq(a, b));
                if others > 0 {
                    found.note(change, (a, Target::Devices(b, others)), &mut gains, &mut losses);
                }
            }
        }
        for (selector, old, new) in &behind {
            let old = from.before.from.common(old);
            let new = from.after.from.common(new);
            let Some(change) = found.change(old, new) else { continue };
            for a in &from.classes {
                found.note(change, (a, Target::Behind(selector)), &mut gains, &mut losses);
            }
        }
    }
    Difference { gains: found.side(gains, Turn::Gain), losses: found.side(losses, Turn::Loss) }
}

/// Devices that both policies treat alike.
struct Kind {
    before: Meant,
    after: Meant,
    classes: Vec<Class>,
}

/// Some of them, by what a person calls them: whose they are, or what they are for.
struct Class {
    label: String,
    devices: usize,
}

fn kinds(before: &Policy, after: &Policy, devices: &[Identity<'_>]) -> Vec<Kind> {
    let mut kinds: BTreeMap<(Meant, Meant), BTreeMap<String, Vec<&Identity<'_>>>> = BTreeMap::new();
    for device in devices {
        let kind = kinds.entry((before.meant(device), after.meant(device))).or_default();
        kind.entry(whose(device)).or_default().push(device);
    }
    let class = |(label, devices): (String, Vec<&Identity<'_>>)| Class {
        devices: devices.len(),
        label: if label.is_empty() { names(&devices) } else { label },
    };
    kinds
        .into_iter()
        .map(|((before, after), classes)| Kind {
            before,
            after,
            classes: classes.into_iter().map(class).collect(),
        })
        .collect()
}

/// Nothing for what is nobody's.
fn whose(device: &Identity<'_>) -> String {
    if device.tags.is_empty() {
        return device.email.map(|email| format!("user:{email}")).unwrap_or_default();
    }
    let tags: Vec<String> = device.tags.iter().map(|tag| format!("tag:{tag}")).collect();
    tags.join(" + ")
}

fn names(devices: &[&Identity<'_>]) -> String {
    if devices.len() > NAMED {
        return "devices of nobody".to_owned();
    }
    let mut names: Vec<String> =
        devices.iter().filter_map(|it| it.name).map(|name| format!("device:{name}")).collect();
    names.sort();
    names.join(", ")
}

/// What a row leads to.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// So many of these.
    Devices(&'a Class, usize),
    Behind(&'a Selector),
}

/// A row before it is written: an account of a thousand people has a million of them.
#[derive(Clone, Copy)]
struct Note<'a> {
    from: &'a Class,
    to: Target<'a>,
    change: usize,
}

impl Note<'_> {
    fn pairs(&self) -> usize {
        match self.to {
            Target::Devices(_, count) => self.from.devices * count,
            Target::Behind(_) => self.from.devices,
        }
    }

    fn row(&self, ports: &PortSet) -> Row {
        let (to, to_devices) = match self.to {
            Target::Devices(class, count) => (class.label.clone(), count),
            Target::Behind(selector) => (selector.to_string(), 0),
        };
        let from = self.from.label.clone();
        Row { from, from_devices: self.from.devices, to, to_devices, ports: ports.words() }
    }
}

#[derive(Clone, Copy)]
enum Turn {
    Gain,
    Loss,
}

/// What changes there are: what is gained, what is lost.
struct Found<'a> {
    before: &'a Policy,
    after: &'a Policy,
    known: BTreeMap<(RuleSet, RuleSet), usize>,
    changes: Vec<(PortSet, PortSet)>,
}

impl Found<'_> {
    /// What it means that other rules decide; `None`: nothing.
    fn change(&mut self, old: RuleSet, new: RuleSet) -> Option<usize> {
        if old.is_empty() && new.is_empty() {
            return None;
        }
        let index = match self.known.get(&(old.clone(), new.clone())) {
            Some(index) => *index,
            None => {
                let (had, has) = (self.before.reach(&old), self.after.reach(&new));
                self.changes.push((has.without(&had), had.without(&has)));
                let index = self.changes.len() - 1;
                self.known.insert((old, new), index);
                index
            }
        };
        let (gain, loss) = &self.changes[index];
        (!gain.is_empty() || !loss.is_empty()).then_some(index)
    }

    fn note<'c>(
        &self,
        change: usize,
        (from, to): (&'c Class, Target<'c>),
        gains: &mut Vec<Note<'c>>,
        losses: &mut Vec<Note<'c>>,
    ) {
        let (gain, loss) = &self.changes[change];
        for (notes, ports) in [(gains, gain), (losses, loss)] {
            if !ports.is_empty() {
                notes.push(Note { from, to, change });
            }
        }
    }

    /// The weightiest rows of them.
    fn side(&self, mut notes: Vec<Note<'_>>, turn: Turn) -> Side {
        let pairs = notes.iter().map(Note::pairs).sum();
        let more = notes.len().saturating_sub(MAX_ROWS);
        let to = |note: &Note<'_>| match note.to {
            Target::Devices(class, _) => class.label.clone(),
            Target::Behind(selector) => selector.to_string(),
        };
        if more > 0 {
            // Stable, and kinds come in order: which of those that weigh the same doesn't depend on
            // chance.
            notes.sort_by_key(|note| Reverse(note.pairs()));
            notes.truncate(MAX_ROWS);
        }
        notes.sort_by_cached_key(|note| (Reverse(note.pairs()), note.from.label.clone(), to(note)));
        let ports = |note: &Note<'_>| match turn {
            Turn::Gain => &self.changes[note.change].0,
            Turn::Loss => &self.changes[note.change].1,
        };
        Side { rows: notes.iter().map(|note| note.row(ports(note))).collect(), more, pairs }
    }
}

#[cfg(test)]
mod tests {
    use warren_proto::{DeviceName, UserId};

    use super::*;
    use crate::policy::{DEFAULT_TEXT, Draft, Members};
    use crate::{Email, Role, Tag};

    const OWN: &str = "[[rules]]\nfrom = '*'\nto = 'own'\n";

    /// What the default text's end means for `devices`, each with its owner and tag.
    fn losses(text: &str, devices: &[(&str, Option<u64>, &str)], people: u64) -> Side {
        let person =
            |id| (UserId(id), format!("u{id}@x.org").parse::<Email>().unwrap(), Role::Member);
        let members: Members = (0..people).map(person).collect();
        let devices: Vec<(DeviceName, Option<UserId>, BTreeSet<Tag>)> = devices
            .iter()
            .map(|(name, owner, tag)| {
                (name.parse().unwrap(), owner.map(UserId), tag.parse().into_iter().collect())
            })
            .collect();
        let identities: Vec<Identity<'_>> = devices
            .iter()
            .map(|(name, owner, tags)| Identity::new(name, *owner, tags, &[], &members))
            .collect();
        let compile = |text| Policy::compile(&Draft::parse(text));
        let found = difference(&compile(DEFAULT_TEXT), &compile(text), &identities);
        assert!(found.gains.rows.is_empty());
        found.losses
    }

    fn words(side: &Side) -> Vec<(&str, usize, &str, usize)> {
        let row = |row: &'_ Row| (row.from_devices, row.to_devices);
        let words =
            side.rows.iter().map(|it| (it.from.as_str(), row(it).0, it.to.as_str(), row(it).1));
        words.collect()
    }

    #[test]
    fn a_few_devices_of_nobody_are_named_and_many_are_one_row() {
        let few = [("b", None, ""), ("a", None, ""), ("c", Some(1), "")];
        let side = losses(OWN, &few, 2);
        assert_eq!(side.pairs, 6);
        assert_eq!(
            words(&side),
            [
                ("device:a, device:b", 2, "device:a, device:b", 1),
                ("device:a, device:b", 2, "user:u1@x.org", 1),
                ("user:u1@x.org", 1, "device:a, device:b", 2),
            ]
        );
        let names: Vec<String> = (0..1000).map(|number| format!("d{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), None, "")).collect();
        let side = losses("", &many, 0);
        assert_eq!((side.pairs, side.more), (999_000, 0));
        assert_eq!(words(&side), [("devices of nobody", 1000, "devices of nobody", 999)]);
    }

    #[test]
    fn of_many_rows_the_weightiest_are_shown() {
        let names: Vec<String> = (0..121).map(|number| format!("d{number}")).collect();
        let owner = |number: usize| (number < 120).then(|| u64::try_from(number / 2).unwrap());
        let of_people: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(number, name)| {
                (name.as_str(), owner(number), if number < 120 { "" } else { "tv" })
            })
            .collect();
        let side = losses(OWN, &of_people, 60);
        assert_eq!(side.rows.len() + side.more, 60 * 59 + 2 * 60);
        assert_eq!(side.pairs, 120 * 118 + 2 * 120);
        assert!(side.rows.iter().all(|row| (row.from_devices, row.to_devices) == (2, 2)));
        assert_eq!(side, losses(OWN, &of_people, 60));
    }
}
