//! Who may change what an edge opens when he asks the edge itself: it knows its peers by their mesh
//! addresses, and is told which of them are devices of people who may.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use warren_proto::{DeviceId, UserId};

use super::Edge;
use crate::account::device::Device;
use crate::account::{Account, Subject};
use crate::{Actor, By, Refused, Right, Standing, may};

impl Account {
    /// The devices from which an edge takes changes: those of its own user, and those of everybody
    /// who manages all devices, as far as it sees them. One with tags is nobody's.
    pub(in crate::account) fn managers_of(&self, edge: DeviceId) -> Vec<DeviceId> {
        self.managers(edge, &self.devices_by_user())
    }

    /// Who asks from a device for a change of what an edge opens, as the edge says.
    ///
    /// # Errors
    /// [`Refused::Forbidden`]: that device is nobody's who may.
    pub fn manager(&self, edge: DeviceId, from: DeviceId) -> Result<By, Refused> {
        let manages = self.managers_of(edge).contains(&from);
        let device = self.devices.get(&from).filter(|_| manages).ok_or(Refused::Forbidden)?;
        let id = device.record.owner.ok_or(Refused::Forbidden)?;
        let (email, _) = self.rules.members().get(id).ok_or(Refused::Forbidden)?;
        let source = Some(IpAddr::V4(device.record.ipv4));
        Ok(By { actor: Actor::User { id, email: email.clone() }, source })
    }

    /// Tells edges whose managers are others than they were.
    pub(in crate::account) fn managers_changed(&mut self, now: Instant) {
        if !self.edges.by_device.values().any(Edge::is_enabled) {
            return;
        }
        let devices = self.devices_by_user();
        let enabled = self.edges.by_device.iter().filter(|(_, edge)| edge.is_enabled());
        let changed: Vec<(DeviceId, Vec<DeviceId>)> = enabled
            .map(|(id, edge)| (*id, edge, self.managers(*id, &devices)))
            .filter(|(_, edge, managers)| edge.managers != *managers)
            .map(|(id, _, managers)| (id, managers))
            .collect();
        for (id, managers) in changed {
            if let Some(edge) = self.edges.by_device.get_mut(&id) {
                edge.managers = managers;
            }
            self.touch(Subject::Edge(id), now);
        }
    }

    fn managers(&self, edge: DeviceId, devices: &BTreeMap<UserId, Vec<&Device>>) -> Vec<DeviceId> {
        let Some(edge) = self.devices.get(&edge) else { return Vec::new() };
        let manages = |user: &UserId| {
            let own = edge.record.owner == Some(*user);
            let right = if own { Right::ManageOwnDevices } else { Right::ManageDevices };
            let member = self.rules.members().get(*user);
            member.is_some_and(|(_, role)| may(Standing::Role(role), right))
        };
        let theirs = devices.iter().filter(|(user, _)| manages(user)).flat_map(|(_, all)| all);
        let seen = theirs.filter(|device| {
            device.record.id != edge.record.id && self.are_for_each_other(edge, device)
        });
        let mut managers: Vec<DeviceId> = seen.map(|device| device.record.id).collect();
        managers.sort_unstable();
        managers
    }

    /// The devices of people: one with tags is a machine's own.
    fn devices_by_user(&self) -> BTreeMap<UserId, Vec<&Device>> {
        let mut devices: BTreeMap<UserId, Vec<&Device>> = BTreeMap::new();
        for device in self.devices.values().filter(|device| device.record.tags.is_empty()) {
            if let Some(owner) = device.record.owner {
                devices.entry(owner).or_default().push(device);
            }
        }
        devices
    }
}
