//! Whose an allocation is: counts and bandwidth of each credential.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::table::Keyed;

/// How far a credential's traffic may run ahead of its rate.
const BURST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OwnerId(u32);

/// Where a credential comes from: names of one source mean nothing in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The id of a TURN REST credential.
    Rest,
    /// The name of a user (and a realm that isn't the server's, behind a line feed).
    User,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) source: Source,
    pub(super) name: Arc<str>,
}

impl Identity {
    /// What its virtual address is made of: a user's name without the realm; an id may be anything,
    /// and is taken whole.
    pub(super) fn id(&self) -> &str {
        match self.source {
            Source::Rest => &self.name,
            Source::User => self.name.split('\n').next().unwrap_or_default(),
        }
    }
}

#[derive(Debug)]
struct Owner {
    identity: Identity,
    allocations: u32,
    /// Ports that wait to be fetched.
    reservations: u32,
    bucket: Bucket,
    /// Whether a timer will ask again.
    is_waiting: bool,
}

/// Bandwidth as one instant: when all that was sent would have been sent at the allowed rate.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    paid_until: Duration,
}

impl Bucket {
    /// Whether so many bytes may go; a run may overdraw once, so that large ones pass at all.
    pub(super) fn take(&mut self, bytes: u64, rate: NonZeroU64, now: Duration) -> bool {
        let from = self.paid_until.max(now);
        if from > now + BURST {
            return false;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        self.paid_until = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        true
    }
}

#[derive(Debug)]
pub(super) struct Owners {
    slots: Vec<Option<Owner>>,
    free: Vec<u32>,
    by_id: HashMap<Arc<str>, u32, Keyed>,
    by_user: HashMap<Arc<str>, u32, Keyed>,
    total: Bucket,
}

impl Owners {
    pub(super) fn new(keyed: Keyed) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::with_hasher(keyed.clone()),
            by_user: HashMap::with_hasher(keyed),
            total: Bucket::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len() + self.by_user.len()
    }

    pub(super) fn find(&self, source: Source, name: &str) -> Option<OwnerId> {
        let map = match source {
            Source::Rest => &self.by_id,
            Source::User => &self.by_user,
        };
        map.get(name).copied().map(OwnerId)
    }

    pub(super) fn identity(&self, owner: OwnerId) -> Option<&Identity> {
        self.slots.get(owner.0 as usize)?.as_ref().map(|owner| &owner.identity)
    }

    /// Its allocations and reservations.
    pub(super) fn holdings(&self, owner: OwnerId) -> u32 {
        let owner = self.slots.get(owner.0 as usize).and_then(Option::as_ref);
        owner.map_or(0, |owner| owner.allocations + owner.reservations)
    }

    /// Counts one more allocation of a credential, which is made known if need be.
    pub(super) fn add_allocation(&mut self, identity: &Identity) -> OwnerId {
        let id = self.find(identity.source, &identity.name).unwrap_or_else(|| self.add(identity));
        if let Some(owner) = self.get_mut(id) {
            owner.allocations += 1;
        }
        id
    }

    fn add(&mut self, identity: &Identity) -> OwnerId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("owners are at most the allocations")
        });
        self.slots[index as usize] = Some(Owner {
            identity: identity.clone(),
            allocations: 0,
            reservations: 0,
            bucket: Bucket::default(),
            is_waiting: false,
        });
        self.map_mut(identity.source).insert(identity.name.clone(), index);
        OwnerId(index)
    }

    pub(super) fn remove_allocation(&mut self, owner: OwnerId) {
        if let Some(owner) = self.get_mut(owner) {
            owner.allocations -= 1;
        }
    }

    /// Counts one more reservation of somebody who has an allocation.
    pub(super) fn add_reservation(&mut self, owner: OwnerId) {
        if let Some(owner) = self.get_mut(owner) {
            owner.reservations += 1;
        }
    }

    pub(super) fn remove_reservation(&mut self, owner: OwnerId) {
        if let Some(owner) = self.get_mut(owner) {
            owner.reservations -= 1;
        }
    }

    /// Forgets an owner without allocations, unless its bandwidth is overdrawn: then says how long
    /// until it isn't, if nobody was told yet.
    pub(super) fn let_go(&mut self, owner: OwnerId, now: Duration) -> Option<Duration> {
        let slot = self.slots.get_mut(owner.0 as usize)?;
        let known = slot.as_mut()?;
        if known.allocations + known.reservations > 0 {
            known.is_waiting = false;
            return None;
        }
        let wait = known.bucket.paid_until.saturating_sub(now);
        if !wait.is_zero() {
            return (!std::mem::replace(&mut known.is_waiting, true)).then_some(wait);
        }
        let known = slot.take()?;
        self.free.push(owner.0);
        self.map_mut(known.identity.source).remove(&known.identity.name);
        None
    }

    /// The timer that [`Self::let_go`] wanted has rung: it may want another.
    pub(super) fn stop_waiting(&mut self, owner: OwnerId) {
        if let Some(owner) = self.get_mut(owner) {
            owner.is_waiting = false;
        }
    }

    /// Whether so many bytes of an owner may go.
    pub(super) fn charge(
        &mut self,
        owner: OwnerId,
        bytes: u64,
        rate: Option<NonZeroU64>,
        total_rate: Option<NonZeroU64>,
        now: Duration,
    ) -> bool {
        if let Some(rate) = rate
            && let Some(owner) = self.get_mut(owner)
            && !owner.bucket.take(bytes, rate, now)
        {
            return false;
        }
        total_rate.is_none_or(|rate| self.total.take(bytes, rate, now))
    }

    fn get_mut(&mut self, owner: OwnerId) -> Option<&mut Owner> {
        self.slots.get_mut(owner.0 as usize)?.as_mut()
    }

    fn map_mut(&mut self, source: Source) -> &mut HashMap<Arc<str>, u32, Keyed> {
        match source {
            Source::Rest => &mut self.by_id,
            Source::User => &mut self.by_user,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(source: Source, name: &str) -> Identity {
        Identity { source, name: name.into() }
    }

    fn owners() -> Owners {
        Owners::new(Keyed::new([3; 16]))
    }

    #[test]
    fn a_rate_holds_in_the_long_run() {
        let rate = NonZeroU64::new(1000);
        let mut owners = owners();
        let owner = owners.add_allocation(&identity(Source::Rest, "a"));
        let mut sent = 0;
        for millis in 0..10_000 {
            if owners.charge(owner, 100, rate, None, Duration::from_millis(millis)) {
                sent += 100;
            }
        }
        assert!((10_000..=11_200).contains(&sent), "{sent}");
    }

    #[test]
    fn an_owner_is_forgotten_when_its_bandwidth_is_paid() {
        let rate = NonZeroU64::new(1000);
        let mut owners = owners();
        let owner = owners.add_allocation(&identity(Source::Rest, "a"));
        assert!(owners.charge(owner, 5000, rate, None, Duration::ZERO));
        assert!(!owners.charge(owner, 1, rate, None, Duration::from_secs(3)));
        owners.remove_allocation(owner);
        assert_eq!(owners.let_go(owner, Duration::from_secs(3)), Some(Duration::from_secs(2)));
        assert_eq!(owners.let_go(owner, Duration::from_secs(3)), None, "asked already");
        assert_eq!(owners.len(), 1);
        assert_eq!(owners.let_go(owner, Duration::from_secs(5)), None);
        assert_eq!(owners.len(), 0);
    }

    #[test]
    fn an_id_and_a_user_of_one_name_are_two() {
        let mut owners = owners();
        let a = owners.add_allocation(&identity(Source::Rest, "a"));
        let b = owners.add_allocation(&identity(Source::User, "a"));
        assert_ne!(a, b);
        assert_eq!(owners.add_allocation(&identity(Source::Rest, "a")), a);
        assert_eq!((owners.holdings(a), owners.holdings(b)), (2, 1));
    }
}
