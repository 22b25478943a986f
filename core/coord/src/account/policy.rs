//! The account's policy: which text counts, who sees whom by it, and what each device lets in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ipnet::IpNet;
use warren_proto::{DeviceId, DeviceName, Filter, Ports, UserId};

use super::device::Device;
use super::{Account, Subject};
use crate::policy::{self, DEFAULT_TEXT, Draft, Identity, Meant, Members, Policy, Report, RuleRef};
use crate::policy::{ReachBehind, SourcesByRule};
use crate::{Change, DeviceRecord, Email, PolicyRecord, Prepared, Refused, Tag};

/// What counts of an account's policy.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) record: PolicyRecord,
    policy: Arc<Policy>,
    members: Members,
    /// Made when a filter is first asked for.
    sources: OnceLock<SourcesByRule>,
}

impl Rules {
    pub(super) fn new(record: PolicyRecord) -> Self {
        let policy = Arc::new(Policy::compile(&Draft::parse(text_of(&record))));
        Self { record, policy, members: Members::default(), sources: OnceLock::new() }
    }

    pub(super) fn meant(&self, device: &DeviceRecord, gateway_to: &[IpNet]) -> Meant {
        self.policy.meant(&self.identity(device, gateway_to))
    }

    fn identity<'a>(&'a self, device: &'a DeviceRecord, gateway_to: &'a [IpNet]) -> Identity<'a> {
        Identity::new(&device.name, device.owner, &device.tags, gateway_to, &self.members)
    }

    /// Whether the policy speaks of a device of that name.
    pub(super) fn names(&self, name: &DeviceName) -> bool {
        self.policy.names(name)
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn sources_changed(&mut self) {
        self.sources = OnceLock::new();
    }
}

pub(super) fn text_of(record: &PolicyRecord) -> &str {
    record.text.as_deref().unwrap_or(DEFAULT_TEXT)
}

/// Whether one device may reach another, and by which rules.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// By these one may reach the other. None: by none.
    pub there: Vec<RuleRef<'a>>,
    /// By these the other may reach the one.
    pub back: Vec<RuleRef<'a>>,
    /// Whether they are told of each other.
    pub see_each_other: bool,
}

/// A device as a policy knows it.
#[derive(Debug, Clone)]
struct CaseDevice {
    name: DeviceName,
    owner: Option<UserId>,
    tags: BTreeSet<Tag>,
    gateway_to: Vec<IpNet>,
}

/// What a check of a policy needs to know of its account.
#[derive(Debug, Clone)]
pub struct PolicyCase {
    policy: Arc<Policy>,
    members: Members,
    devices: Vec<CaseDevice>,
}

/// A text, and what was found.
#[derive(Debug, Clone)]
pub struct CheckedPolicy {
    /// The text.
    pub text: String,
    /// What was found.
    pub report: Report,
}

impl PolicyCase {
    /// Says what is wrong with a text, whether its tests hold, and what it would change.
    pub fn check(&self, text: String) -> CheckedPolicy {
        let devices: Vec<Identity<'_>> = self
            .devices
            .iter()
            .map(|it| Identity::new(&it.name, it.owner, &it.tags, &it.gateway_to, &self.members))
            .collect();
        let report = policy::check(&Draft::parse(&text), &self.policy, &devices, &self.members);
        CheckedPolicy { text, report }
    }
}

impl Account {
    /// The policy's version, and its text.
    pub fn policy(&self) -> (u64, &str) {
        (self.rules.record.version, text_of(&self.rules.record))
    }

    /// What a check of a text needs to know: whoever shares the account takes it out and checks
    /// without keeping others waiting.
    pub fn policy_case(&self) -> PolicyCase {
        let device = |(id, device): (&DeviceId, &Device)| {
            let DeviceRecord { name, owner, tags, .. } = &device.record;
            let gateway_to = self.edges.networks(*id);
            CaseDevice { name: name.clone(), owner: *owner, tags: tags.clone(), gateway_to }
        };
        PolicyCase {
            policy: self.rules.policy.clone(),
            members: self.rules.members.clone(),
            devices: self.devices.iter().map(device).collect(),
        }
    }

    /// Says what is wrong with a text, whether its tests hold, and what it would change.
    pub fn check_policy(&self, text: &str) -> Report {
        self.policy_case().check(text.to_owned()).report
    }

    /// Checks and takes a new text, as [`Self::prepare_checked_policy`].
    ///
    /// # Errors
    /// As there.
    pub fn prepare_policy(
        &self,
        text: &str,
        base: Option<u64>,
    ) -> Result<Prepared<(u64, Report)>, Refused> {
        self.prepare_checked_policy(self.policy_case().check(text.to_owned()), base)
    }

    /// Takes a new text, if it takes the place of the one that its author saw (`base`, a version)
    /// and has no error.
    ///
    /// # Errors
    /// [`Refused::PolicyChanged`], [`Refused::PolicyBroken`].
    pub fn prepare_checked_policy(
        &self,
        CheckedPolicy { text, report }: CheckedPolicy,
        base: Option<u64>,
    ) -> Result<Prepared<(u64, Report)>, Refused> {
        let version = self.rules.record.version;
        if base.is_some_and(|base| base != version) {
            return Err(Refused::PolicyChanged(version));
        }
        if !report.is_good() {
            return Err(Refused::PolicyBroken(Box::new(report)));
        }
        if text == self.policy().1 {
            return Ok(Prepared { changes: Vec::new(), reply: (version, report) });
        }
        let record = PolicyRecord { version: version + 1, text: Some(text) };
        let reply = (record.version, report);
        Ok(Prepared { changes: vec![Change::Policy(record)], reply })
    }

    /// Takes the account's people: what they are called, and what they may.
    pub fn handle_members(&mut self, members: Members, now: Instant) {
        if members != self.rules.members {
            self.rules.members = members;
            self.judge_anew(None, now);
            self.limits_changed(now);
            self.approvers_changed(now);
        }
    }

    /// Whether the policy speaks of a device of that name: whoever gets the name gets its rights.
    pub fn policy_names(&self, name: &DeviceName) -> bool {
        self.rules.names(name)
    }

    /// Whether the policy speaks of a person with that address.
    pub fn policy_names_person(&self, email: &Email) -> bool {
        self.rules.policy.names_person(email)
    }

    /// What the policy says of two devices, at one port or all.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn verdict(
        &self,
        from: DeviceId,
        to: DeviceId,
        port: Option<Ports>,
    ) -> Result<Verdict<'_>, Refused> {
        let meant =
            |id| self.devices.get(&id).map(|it| &it.meant).ok_or(Refused::NotFound("device"));
        let (from, to) = (meant(from)?, meant(to)?);
        let policy = &self.rules.policy;
        Ok(Verdict {
            there: policy.deciding(from, to, port),
            back: policy.deciding(to, from, None),
            see_each_other: policy.may_see(from, to),
        })
    }

    pub(super) fn put_policy(&mut self, record: PolicyRecord, now: Instant) {
        let policy = Arc::new(Policy::compile(&Draft::parse(text_of(&record))));
        self.rules.record = record;
        self.judge_anew(Some(policy), now);
        self.limits_changed(now);
    }

    /// Works out anew who sees whom; tells those for whom that changes.
    fn judge_anew(&mut self, policy: Option<Arc<Policy>>, now: Instant) {
        let before: BTreeMap<DeviceId, Meant> = self
            .devices
            .iter_mut()
            .map(|(id, device)| (*id, std::mem::take(&mut device.meant)))
            .collect();
        let old = match policy {
            Some(policy) => std::mem::replace(&mut self.rules.policy, policy),
            None => self.rules.policy.clone(),
        };
        self.rules.sources_changed();
        for device in self.devices.values_mut() {
            let networks = self.edges.networks(device.record.id);
            device.meant = self.rules.meant(&device.record, &networks);
        }
        let new = &self.rules.policy;
        if old.is_open() && new.is_open() {
            return;
        }
        let mut changed: Vec<(DeviceId, Arc<[DeviceId]>)> = Vec::new();
        for (id, device) in &self.devices {
            let others = self.devices.range(*id..).skip(1).filter(|(other_id, other)| {
                // Of one who is outside nobody knows; when he comes back, his whole entry tells.
                if !device.admission.is_member() || !other.admission.is_member() {
                    return false;
                }
                let saw = old.may_see(&before[id], &before[*other_id]);
                saw != new.may_see(&device.meant, &other.meant)
            });
            let others: Arc<[DeviceId]> = others.map(|(other, _)| *other).collect();
            if !others.is_empty() {
                changed.push((*id, others));
            }
        }
        for (id, others) in changed {
            self.touch(Subject::Sight { id, others }, now);
        }
        self.touch(Subject::AllFilters, now);
        for edge in self.edges.offering() {
            self.touch_device(edge, true, now);
        }
    }

    /// The networks that a device is a gateway to have changed.
    pub(super) fn judge_gateway(&mut self, id: DeviceId, now: Instant) {
        let networks = self.edges.networks(id);
        let Some(device) = self.devices.get_mut(&id) else { return };
        let meant = self.rules.meant(&device.record, &networks);
        let before = std::mem::replace(&mut device.meant, meant.clone());
        self.judge_device(id, Some(&before), Some(&meant), now);
        if !self.rules.policy.is_open() {
            self.touch(Subject::Filters(Arc::new([id])), now);
        }
    }

    /// What of the networks and virtual devices behind a device another one may reach.
    pub(super) fn reach_behind(&self, viewer: &Device, edge: &Device) -> ReachBehind<'_> {
        self.rules.policy.reach_behind(&viewer.meant, &edge.record.name)
    }

    /// A device's tags, owner or name have changed, or it is new, or gone (`after` is `None`).
    pub(super) fn judge_device(
        &mut self,
        id: DeviceId,
        before: Option<&Meant>,
        after: Option<&Meant>,
        now: Instant,
    ) {
        if before == after {
            return;
        }
        self.rules.sources_changed();
        let policy = &self.rules.policy;
        let is_known = self.is_member(id);
        if policy.is_open() {
            if after.is_none() && is_known {
                self.touch(Subject::Gone(id), now);
            }
            return;
        }
        let nobody = Meant::default();
        let sees = |meant: Option<&Meant>, other: &Device| {
            meant.is_some_and(|meant| policy.may_see(meant, &other.meant))
        };
        let (old, new) = (before.unwrap_or(&nobody), after.unwrap_or(&nobody));
        let (mut others, mut filters) = (Vec::new(), Vec::new());
        for (other_id, other) in self.devices.iter().filter(|(other, _)| **other != id) {
            // Of one that is new its whole entry tells.
            let is_known = is_known && other.admission.is_member();
            if before.is_some() && is_known && sees(before, other) != sees(after, other) {
                others.push(*other_id);
            }
            if policy.concerns(&other.meant, old, new) {
                filters.push(*other_id);
            }
        }
        if before.and(after).is_some() {
            filters.push(id);
            if !self.edges.offering().is_empty() {
                self.touch(Subject::Offers(id), now);
            }
        }
        if !others.is_empty() {
            self.touch(Subject::Sight { id, others: others.into() }, now);
        }
        if !filters.is_empty() {
            self.touch(Subject::Filters(filters.into()), now);
        }
    }

    /// A device is about to leave the mesh: who sees it now must be told, whatever the policy says by
    /// then.
    pub(super) fn note_departure(&mut self, id: DeviceId, now: Instant) {
        let Some(device) = self.devices.get(&id) else { return };
        if self.rules.policy.is_open() {
            self.touch(Subject::Gone(id), now);
            return;
        }
        let sees = |other: &&Device| self.may_see(other, device);
        let others: Arc<[DeviceId]> =
            self.devices.values().filter(sees).map(|other| other.record.id).collect();
        if !others.is_empty() {
            self.touch(Subject::Sight { id, others }, now);
        }
    }

    /// Whether one device is told of another.
    pub(super) fn may_see(&self, viewer: &Device, subject: &Device) -> bool {
        subject.record.id != viewer.record.id
            && viewer.admission.is_member()
            && subject.admission.is_member()
            && self.rules.policy.may_see(&viewer.meant, &subject.meant)
    }

    /// Whether the policy lets two devices see each other, active or not.
    pub(super) fn are_for_each_other(&self, viewer: &Device, subject: &Device) -> bool {
        self.rules.policy.may_see(&viewer.meant, &subject.meant)
    }

    /// Whether a device is meant by one of these words, as the policy's groups have it.
    pub(super) fn is_among(&self, id: DeviceId, words: &[policy::Subject]) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        let identity = self.rules.identity(&device.record, &[]);
        words.iter().any(|word| self.rules.policy.is_meant(word, &identity))
    }

    /// What a device lets in.
    pub(super) fn filter_of(&self, device: &Device) -> Option<Filter> {
        let filter = self.policy_filter(device);
        self.with_limits(device.record.id, filter)
    }

    fn policy_filter(&self, device: &Device) -> Option<Filter> {
        let policy = &self.rules.policy;
        if policy.is_open() {
            return None;
        }
        let sources = self.rules.sources.get_or_init(|| {
            policy.sources(self.devices.iter().map(|(id, device)| (*id, &device.meant)))
        });
        let (id, networks) = (device.record.id, self.edges.networks(device.record.id));
        let filter = policy.filter(id, &device.meant, &device.record.name, &networks, sources)?;
        Some(self.resolve_networks(id, filter))
    }
}
