//! Who has begun to talk to whom: what lets answers in.
//!
//! Only flows with peers that the filter restricts are kept. A flow belongs to the side that began
//! it. Answers to our own are let in; those of a peer are judged by the filter with every packet, so
//! that a permission that is taken away ends them, and our answers to them don't make them ours.
//!
//! At most [`MAX_FLOWS`], in three lists by how long they may be silent, each in the order of last
//! use. What has been silent for too long is dropped when another flow is added; when there are too
//! many, the longest silent of the first list that has any goes: echoes and connections that begin or
//! end, and what peers have begun; then UDP; then connections that stand.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::PeerHandle;
use crate::random::Seeded;

/// The most flows that are kept.
pub(crate) const MAX_FLOWS: usize = 16_384;

/// A flow: between which two addresses and ports, through which peer's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) peer: PeerHandle,
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
}

/// Who began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    Here,
    There,
    /// Nobody has seen it begin, and its ports don't tell: taken as begun there, and not kept by use.
    Unclear,
}

/// Where a flow is kept: good until another one is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

/// How long a flow may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// An echo (RFC 5508 REQ-2 asks for a minute), a TCP connection that begins or ends (RFC 5382
    /// REQ-5: four minutes).
    Short,
    /// UDP, and what has no ports: RFC 4787 REQ-5 asks for two minutes at least.
    Medium,
    /// A TCP connection that stands: RFC 5382 REQ-5 asks for 2 hours 4 minutes.
    Long,
}

impl Patience {
    const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];

    fn limit(self) -> Duration {
        match self {
            Self::Short => Duration::from_secs(240),
            Self::Medium => Duration::from_secs(180),
            Self::Long => Duration::from_secs(7440),
        }
    }
}

const NOWHERE: u32 = u32::MAX;

#[derive(Debug)]
struct Flow {
    key: Key,
    begun: Begun,
    patience: Patience,
    used: Instant,
    newer: u32,
    older: u32,
}

#[derive(Debug, Clone, Copy)]
struct List {
    newest: u32,
    oldest: u32,
}

/// All flows.
#[derive(Debug)]
pub(crate) struct Flows {
    by_key: HashMap<Key, u32, Seeded>,
    /// The flow that was looked up last: packets come in runs.
    last: Option<(Key, u32)>,
    slots: Vec<Flow>,
    free: Vec<u32>,
    lists: [List; 3],
}

impl Flows {
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self {
            by_key: HashMap::with_hasher(hasher),
            last: None,
            slots: Vec::new(),
            free: Vec::new(),
            lists: [List { newest: NOWHERE, oldest: NOWHERE }; 3],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Finds a flow and who began it, unless it has been silent for too long.
    pub(crate) fn find(&mut self, key: &Key, now: Instant) -> Option<(Slot, Begun)> {
        let slot = match self.last {
            Some((last, slot)) if last == *key => slot,
            Some(_) | None => {
                let slot = *self.by_key.get(key)?;
                self.last = Some((*key, slot));
                slot
            }
        };
        let flow = &self.slots[slot as usize];
        let silent = now.saturating_duration_since(flow.used);
        (silent <= flow.patience.limit()).then_some((Slot(slot), flow.begun))
    }

    /// Notes a packet of a flow. `None` keeps the patience that the flow has.
    pub(crate) fn touch(&mut self, Slot(slot): Slot, patience: Option<Patience>, now: Instant) {
        let flow = &mut self.slots[slot as usize];
        flow.used = now;
        let patience = patience.unwrap_or(flow.patience);
        let is_newest = self.lists[patience as usize].newest == slot;
        if !is_newest {
            self.unlink(slot);
            self.slots[slot as usize].patience = patience;
            self.link(slot);
        }
    }

    /// Adds a flow, in place of one that is known.
    pub(crate) fn begin(&mut self, key: Key, begun: Begun, patience: Patience, now: Instant) {
        if let Some(&known) = self.by_key.get(&key) {
            self.drop_slot(known);
        }
        self.sweep(now);
        if self.len() >= MAX_FLOWS {
            let oldest = self.lists.iter().map(|list| list.oldest).find(|slot| *slot != NOWHERE);
            oldest.into_iter().for_each(|slot| self.drop_slot(slot));
        }
        let flow = Flow { key, begun, patience, used: now, newer: NOWHERE, older: NOWHERE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = flow;
                slot
            }
            None => {
                self.slots.push(flow);
                (self.slots.len() - 1) as u32
            }
        };
        self.by_key.insert(key, slot);
        self.link(slot);
    }

    /// Drops what has been silent for too long.
    fn sweep(&mut self, now: Instant) {
        for patience in Patience::ALL {
            loop {
                let oldest = self.lists[patience as usize].oldest;
                let Some(flow) = self.slots.get(oldest as usize) else { break };
                if now.saturating_duration_since(flow.used) <= patience.limit() {
                    break;
                }
                self.drop_slot(oldest);
            }
        }
    }

    fn drop_slot(&mut self, slot: u32) {
        self.unlink(slot);
        self.by_key.remove(&self.slots[slot as usize].key);
        self.last = None;
        self.free.push(slot);
    }

    fn link(&mut self, slot: u32) {
        let list = &mut self.lists[self.slots[slot as usize].patience as usize];
        let second = std::mem::replace(&mut list.newest, slot);
        if second == NOWHERE {
            list.oldest = slot;
        } else {
            self.slots[second as usize].newer = slot;
        }
        let flow = &mut self.slots[slot as usize];
        (flow.older, flow.newer) = (second, NOWHERE);
    }

    fn unlink(&mut self, slot: u32) {
        let Flow { newer, older, patience, .. } = self.slots[slot as usize];
        let list = &mut self.lists[patience as usize];
        match self.slots.get_mut(newer as usize) {
            Some(flow) => flow.older = older,
            None => list.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(flow) => flow.newer = newer,
            None => list.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::testing::start;

    fn key(port: u16) -> Key {
        Key {
            peer: PeerHandle(1),
            local: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, 2].into(),
            protocol: 17,
            local_port: port,
            remote_port: 53,
        }
    }

    fn begun(flows: &mut Flows, port: u16, now: Instant) -> Option<Begun> {
        flows.find(&key(port), now).map(|(_, begun)| begun)
    }

    fn touch(flows: &mut Flows, port: u16, patience: Option<Patience>, now: Instant) {
        let (slot, _) = flows.find(&key(port), now).unwrap();
        flows.touch(slot, patience, now);
    }

    fn flows() -> Flows {
        Flows::new(Seeded::new(&mut Random::new(&[7; 32])))
    }

    #[test]
    fn a_flow_is_forgotten_when_it_has_been_silent_and_not_while_it_is_used() {
        let (mut flows, mut now) = (flows(), start());
        flows.begin(key(1), Begun::Here, Patience::Medium, now);
        flows.begin(key(2), Begun::There, Patience::Medium, now);
        for _ in 0..3 {
            now += Duration::from_secs(120);
            touch(&mut flows, 1, None, now);
        }
        assert_eq!(begun(&mut flows, 1, now), Some(Begun::Here));
        assert_eq!(begun(&mut flows, 2, now), None);
        assert_eq!(flows.len(), 2);
        flows.begin(key(3), Begun::Here, Patience::Long, now);
        assert_eq!(flows.len(), 2, "swept");
        touch(&mut flows, 1, Some(Patience::Long), now);
        assert_eq!(begun(&mut flows, 1, now + Duration::from_secs(7000)), Some(Begun::Here));
    }

    #[test]
    fn lists_stay_in_the_order_of_use() {
        let (mut flows, now) = (flows(), start());
        let at = |seconds| now + Duration::from_secs(seconds);
        (1..=4).for_each(|port| flows.begin(key(port), Begun::Here, Patience::Medium, at(0)));
        for (port, seconds) in [(2, 10), (2, 20), (4, 30), (1, 40), (2, 50)] {
            touch(&mut flows, port, None, at(seconds));
        }
        flows.begin(key(5), Begun::Here, Patience::Short, at(185));
        assert_eq!(flows.len(), 4, "the third, which was never used");
        flows.begin(key(6), Begun::Here, Patience::Short, at(225));
        assert_eq!(flows.len(), 3, "the fourth and the first");
        assert_eq!(begun(&mut flows, 2, at(225)), Some(Begun::Here));
        touch(&mut flows, 2, Some(Patience::Long), at(225));
        flows.begin(key(7), Begun::Here, Patience::Short, at(2000));
        assert_eq!(flows.len(), 2);
    }

    #[test]
    fn memory_is_bounded_and_the_longest_silent_gives_way() {
        let (mut flows, mut now) = (flows(), start());
        for port in 0..=u16::MAX {
            flows.begin(key(port), Begun::Here, Patience::Medium, now);
            now += Duration::from_micros(10);
            assert!(flows.len() <= MAX_FLOWS && flows.slots.len() <= MAX_FLOWS);
        }
        assert_eq!(begun(&mut flows, u16::MAX, now), Some(Begun::Here));
        assert_eq!(begun(&mut flows, 0, now), None);
    }
}
