//! Who may use a port forward, and when.

use std::collections::BTreeSet;
use std::time::Instant;

use warren_proto::{
    DeviceId, Filter, FilterLimit, FilterRule, ForwardId, ForwardProtocol, ForwardSpec, Ports,
    Sources, Target,
};

use super::Edge;
use crate::EdgeItem;
use crate::account::presence::Timer;
use crate::account::{Account, Subject};
use crate::policy::Subject as Word;

impl Edge {
    fn forwards(&self) -> impl Iterator<Item = &ForwardSpec> {
        self.items().filter_map(|item| match item {
            EdgeItem::Forward(spec) => Some(spec),
            EdgeItem::VirtualDevice(_) | EdgeItem::Gateway(_) => None,
        })
    }

    fn is_limited(&self) -> bool {
        self.forwards().any(|spec| !spec.allow.is_empty())
    }
}

impl Account {
    /// Adds to what an edge lets in for whom its port forwards are.
    pub(in crate::account) fn with_limits(
        &self,
        id: DeviceId,
        filter: Option<Filter>,
    ) -> Option<Filter> {
        let limited = self.edges.by_device.get(&id).filter(|edge| edge.is_limited());
        let Some(edge) = limited else { return filter };
        let everything = || FilterRule {
            from: Sources::All,
            ports: vec![Ports::All],
            to: vec![Target::Everything],
        };
        let rules = filter.map_or_else(|| vec![everything()], |filter| filter.rules);
        let limits = edge.forwards().filter(|spec| !spec.allow.is_empty());
        let mut limits: Vec<FilterLimit> = limits.map(|spec| self.limit(id, spec)).collect();
        limits.sort();
        Some(Filter { rules, limits })
    }

    fn limit(&self, edge: DeviceId, spec: &ForwardSpec) -> FilterLimit {
        let words: Vec<Word> = spec.allow.iter().filter_map(|word| word.parse().ok()).collect();
        // Of those that it doesn't see it isn't told by this, either.
        let sees = |id: DeviceId| {
            let pair = self.devices.get(&edge).zip(self.devices.get(&id));
            id != edge && pair.is_some_and(|(edge, it)| self.are_for_each_other(edge, it))
        };
        let may = |id: &DeviceId| sees(*id) && self.is_among(*id, &words);
        let ports = (spec.port, spec.last_port);
        let ports = match spec.protocol {
            ForwardProtocol::Tcp => vec![Ports::Tcp(ports.0, ports.1)],
            ForwardProtocol::Udp => vec![Ports::Udp(ports.0, ports.1)],
            ForwardProtocol::Both => {
                vec![Ports::Tcp(ports.0, ports.1), Ports::Udp(ports.0, ports.1)]
            }
        };
        FilterLimit { from: self.devices.keys().copied().filter(may).collect(), ports }
    }

    /// Tells edges for which it matters that who is who may have changed: those whose port forwards are
    /// for some alone, and those that other people manage.
    pub(in crate::account) fn limits_changed(&mut self, now: Instant) {
        self.managers_changed(now);
        let limited = self.edges.by_device.iter().filter(|(_, edge)| edge.is_limited());
        let limited: Vec<DeviceId> = limited.map(|(id, _)| *id).collect();
        if !limited.is_empty() {
            self.touch(Subject::Filters(limited.into()), now);
        }
    }

    /// Opens and closes what has hours, and waits for the next moment at which that changes.
    pub(in crate::account) fn keep_hours(&mut self, now: Instant) {
        let unix = self.unix_at(now);
        let seconds = unix.as_secs();
        if let Some(timer) = self.edges.hours.take() {
            self.timers.remove(&timer);
        }
        let (mut changed, mut next) = (Vec::new(), None::<u64>);
        for (id, edge) in &mut self.edges.by_device {
            let mut closed: BTreeSet<ForwardId> = BTreeSet::new();
            for spec in edge.forwards() {
                let Some(schedule) = &spec.schedule else { continue };
                if !schedule.is_open(seconds) {
                    closed.insert(spec.id);
                }
                let change = schedule.next_change(seconds);
                next = [next, change].into_iter().flatten().min();
            }
            if closed != edge.closed {
                edge.closed = closed;
                changed.push(*id);
            }
        }
        for id in changed {
            self.touch(Subject::Edge(id), now);
        }
        if let Some(next) = next {
            let wait = std::time::Duration::from_secs(next).saturating_sub(unix);
            let timer = (now + wait, Timer::Hours);
            self.timers.insert(timer);
            self.edges.hours = Some(timer);
        }
    }
}
