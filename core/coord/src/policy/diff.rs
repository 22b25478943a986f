//! Who gains and who loses, said in few rows: devices of one person or with the same tags that the
//! rules treat alike are one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::check::classes;
use super::port_set::PortSet;
use super::{Identity, Meant, Policy, RuleRef, Selector};

/// The most rows of each kind that are shown.
const MAX_ROWS: usize = 50;

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

impl Side {
    fn add(&mut self, row: Row) {
        self.pairs += pairs(&row);
        self.rows.push(row);
    }

    fn cut(&mut self) {
        self.rows.sort_by(|a, b| {
            pairs(b).cmp(&pairs(a)).then_with(|| (&a.from, &a.to).cmp(&(&b.from, &b.to)))
        });
        self.more = self.rows.len().saturating_sub(MAX_ROWS);
        self.rows.truncate(MAX_ROWS);
    }
}

fn pairs(row: &Row) -> usize {
    row.from_devices * row.to_devices.max(1)
}

/// One class of devices: what it is called, what meant it before and after, how many they are.
type Class<'a> = (&'a (String, Meant, Meant), &'a usize);

pub(super) fn difference(before: &Policy, after: &Policy, devices: &[Identity<'_>]) -> Difference {
    let classes = classes(devices, |device| (before.meant(device), after.meant(device)));
    let behind: BTreeSet<&Selector> = before.behind().chain(after.behind()).collect();
    let mut found = Difference::default();
    let mut known: BTreeMap<(Vec<usize>, Vec<usize>), (PortSet, PortSet)> = BTreeMap::new();
    let mut compare = |old: &[RuleRef<'_>], new: &[RuleRef<'_>]| {
        let key =
            (old.iter().map(|it| it.index).collect(), new.iter().map(|it| it.index).collect());
        let (gain, loss) = known.entry(key).or_insert_with(|| {
            let (old, new) = (reach(old), reach(new));
            (new.without(&old), old.without(&new))
        });
        (gain.clone(), loss.clone())
    };
    for from in &classes {
        let ((_, from_before, from_after), _) = from;
        for to in &classes {
            let ((_, to_before, to_after), to_devices) = to;
            let old = before.deciding(from_before, to_before, None);
            let new = after.deciding(from_after, to_after, None);
            let change = compare(&old, &new);
            let others = if from == to { to_devices.saturating_sub(1) } else { *to_devices };
            if others > 0 {
                note(&mut found, from, &to.0.0, others, change);
            }
        }
        for selector in &behind {
            let old = before.deciding_behind(from_before, selector, None);
            let new = after.deciding_behind(from_after, selector, None);
            note(&mut found, from, &selector.to_string(), 0, compare(&old, &new));
        }
    }
    found.gains.cut();
    found.losses.cut();
    found
}

fn note(
    found: &mut Difference,
    from: Class<'_>,
    to: &str,
    to_devices: usize,
    (gain, loss): (PortSet, PortSet),
) {
    for (side, ports) in [(&mut found.gains, gain), (&mut found.losses, loss)] {
        if !ports.is_empty() {
            side.add(Row {
                from: from.0.0.clone(),
                from_devices: *from.1,
                to: to.to_owned(),
                to_devices,
                ports: ports.words(),
            });
        }
    }
}

fn reach(rules: &[RuleRef<'_>]) -> PortSet {
    rules.iter().flat_map(|rule| rule.ports).collect()
}
