use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use warren_proto::DeviceId;

use crate::server::Flow;

/// The responses of one kind under way, a few per device: one more ends the oldest, read or not.
pub(crate) struct Latest {
    per_device: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    entered: u64,
    by_device: BTreeMap<DeviceId, VecDeque<(u64, Arc<Flow>)>>,
}

impl Latest {
    pub(super) fn new(per_device: usize) -> Arc<Self> {
        Arc::new(Self { per_device, held: Mutex::default() })
    }

    /// Counts a response as under way until the place is dropped.
    pub(crate) fn enter(self: &Arc<Self>, device: DeviceId, flow: &Arc<Flow>) -> Place {
        let mut held = self.lock();
        held.entered += 1;
        let number = held.entered;
        let places = held.by_device.entry(device).or_default();
        // HTTP/1 has one flow for all that comes one after the other.
        places.retain(|(_, other)| !Arc::ptr_eq(other, flow));
        if places.len() >= self.per_device
            && let Some((_, oldest)) = places.pop_front()
        {
            oldest.end();
        }
        places.push_back((number, flow.clone()));
        Place { latest: self.clone(), device, number }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A response's place among a device's.
pub(crate) struct Place {
    latest: Arc<Latest>,
    device: DeviceId,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.latest.lock();
        if let Some(places) = held.by_device.get_mut(&self.device) {
            places.retain(|(number, _)| *number != self.number);
            if places.is_empty() {
                held.by_device.remove(&self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_a_device_may_have_ends_its_oldest() {
        let latest = Latest::new(2);
        let flows: Vec<_> = (0..3).map(|_| Arc::<Flow>::default()).collect();
        let mut places: Vec<_> =
            flows[..2].iter().map(|flow| latest.enter(DeviceId(1), flow)).collect();
        places.push(latest.enter(DeviceId(2), &Arc::default()));
        assert!(flows.iter().all(|flow| !flow.is_over()));
        places.push(latest.enter(DeviceId(1), &flows[2]));
        let over: Vec<bool> = flows.iter().map(|flow| flow.is_over()).collect();
        assert_eq!(over, [true, false, false]);
        drop(places);
        assert!(latest.lock().by_device.is_empty());
    }

    #[test]
    fn what_comes_on_the_same_flow_ends_nothing() {
        let latest = Latest::new(1);
        let flow = Arc::<Flow>::default();
        let first = latest.enter(DeviceId(1), &flow);
        let _second = latest.enter(DeviceId(1), &flow);
        drop(first);
        assert!(!flow.is_over());
        latest.enter(DeviceId(1), &Arc::default());
        assert!(flow.is_over());
    }
}
