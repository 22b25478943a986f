//! What an admin changes about relays.

use std::collections::BTreeMap;

use warren_proto::{DeviceId, DeviceName, RelayId};

use crate::relay::RelayFace;
use crate::{
    Account, Change, Ctx, ListedRelay, Prepared, Refused, RelayCreated, RelayKind, RelayRecord,
    UnixTime,
};

/// The most relays that an account may name.
const MAX_LISTED: usize = 16;
/// The most relay and TURN servers of an account.
const MAX_RELAYS: usize = 64;

/// An account's list of connection relays as it is given: names of devices and relays, by
/// preference; those in one group are equal.
pub type RelayGroups = Vec<Vec<String>>;

/// A TURN server that is to be used.
#[derive(Clone, PartialEq, Eq)]
pub struct NewTurn {
    /// Its name.
    pub name: DeviceName,
    /// Its URL (RFC 7065).
    pub url: String,
    /// The user that all devices are; `None`: the secret makes a credential for each.
    pub username: Option<String>,
    /// The shared secret, or the user's password.
    pub secret: String,
    /// Where the URL leads.
    pub face: RelayFace,
}

impl NewTurn {
    pub(crate) fn record(self, is_taken: impl Fn(RelayId) -> bool, ctx: &Ctx) -> RelayRecord {
        let kind = RelayKind::Turn { url: self.url, username: self.username };
        let record = RelayRecord::new(self.name, kind, is_taken, ctx);
        RelayRecord { secret: self.secret, face: self.face.clean(), ..record }
    }
}

pub(crate) fn not_ours() -> Refused {
    Refused::Invalid("the secret of a TURN server is changed there; remove it and add it again")
}

impl Account {
    /// Makes a relay server for the account alone.
    ///
    /// # Errors
    /// [`Refused::NameTaken`], or [`Refused::Invalid`] when there are 64.
    pub fn prepare_relay_server(
        &self,
        name: DeviceName,
        ctx: &Ctx,
    ) -> Result<Prepared<RelayCreated>, Refused> {
        self.check_new_relay(&name)?;
        let (record, reply) = RelayRecord::new_server(name, |id| self.any_relay(id).is_some(), ctx);
        Ok(Prepared { changes: vec![Change::Relay(record)], reply })
    }

    /// Takes somebody's TURN server in.
    ///
    /// # Errors
    /// As [`Account::prepare_relay_server`].
    pub fn prepare_turn(&self, new: NewTurn, ctx: &Ctx) -> Result<Prepared<RelayId>, Refused> {
        self.check_new_relay(&new.name)?;
        let record = new.record(|id| self.any_relay(id).is_some(), ctx);
        let reply = record.id;
        Ok(Prepared { changes: vec![Change::Relay(record)], reply })
    }

    fn check_new_relay(&self, name: &DeviceName) -> Result<(), Refused> {
        let is_server = |record: &&RelayRecord| match record.kind {
            RelayKind::Server { .. } | RelayKind::Turn { .. } => true,
            RelayKind::Device(_) | RelayKind::Own => false,
        };
        let servers = || self.relays.records.values().filter(is_server);
        if servers().any(|record| record.name == *name) {
            return Err(Refused::NameTaken(name.clone()));
        }
        if servers().count() >= MAX_RELAYS {
            return Err(Refused::Invalid("the account has 64 relays; remove some"));
        }
        Ok(())
    }

    /// Names the account's connection relays, in order of preference. An empty list: those that
    /// are used by themselves.
    ///
    /// # Errors
    /// [`Refused::NoRelay`], [`Refused::AmbiguousRelay`], or [`Refused::Invalid`] for one that is
    /// named twice, a device that must join again, or more than 16.
    pub fn prepare_relay_list(
        &self,
        groups: &RelayGroups,
        ctx: &Ctx,
    ) -> Result<Prepared<()>, Refused> {
        let mut list: Vec<ListedRelay> = Vec::new();
        let mut devices: BTreeMap<DeviceId, RelayRecord> = BTreeMap::new();
        for (rank, group) in (0u16..).zip(groups) {
            for text in group {
                let relay = match self.resolve(text)? {
                    Named::Relay(id) => id,
                    Named::Device(device) => {
                        let record = self.device_relay(device, ctx)?;
                        let id = record.id;
                        devices.insert(device, record);
                        id
                    }
                };
                if list.iter().any(|entry| entry.relay == relay) {
                    return Err(Refused::Invalid("a relay is named twice"));
                }
                list.push(ListedRelay { relay, rank });
            }
        }
        if list.len() > MAX_LISTED {
            return Err(Refused::Invalid("at most 16 relays"));
        }
        let is_left = |id: RelayId| list.iter().any(|entry| entry.relay == id);
        let mut changes = Vec::new();
        for record in self.relays.records.values() {
            if matches!(record.kind, RelayKind::Device(_)) && !is_left(record.id) {
                changes.push(Change::RelayRemoved(record.id));
            }
        }
        let is_new = |record: &RelayRecord| !self.relays.records.contains_key(&record.id);
        changes.extend(devices.into_values().filter(is_new).map(Change::Relay));
        if list != self.relays.list {
            changes.push(Change::RelayList(list));
        }
        Ok(Prepared { changes, reply: () })
    }

    fn device_relay(&self, device: DeviceId, ctx: &Ctx) -> Result<RelayRecord, Refused> {
        let member = self.devices.get(&device).filter(|device| device.admission.is_member());
        let Some(member) = member else {
            return Err(Refused::Invalid(
                "a device that isn't in the mesh can't be a relay; approve or renew it first",
            ));
        };
        if let Some(record) = self.relay_of(device) {
            return Ok(record.clone());
        }
        let is_taken = |id| self.any_relay(id).is_some();
        Ok(RelayRecord::new(member.record.name.clone(), RelayKind::Device(device), is_taken, ctx))
    }

    /// What a person means by a name or id.
    fn resolve(&self, text: &str) -> Result<Named, Refused> {
        let mut found = Vec::new();
        let shared = self.settings.relays.iter();
        for record in self.relays.records.values().chain(shared) {
            let is_device = matches!(record.kind, RelayKind::Device(_));
            if record.id.to_string() == text || (!is_device && record.name.as_str() == text) {
                found.push(Named::Relay(record.id));
            }
        }
        for device in self.devices.values() {
            if device.record.name.as_str() == text || device.record.id.to_string() == text {
                found.push(Named::Device(device.record.id));
            }
        }
        match found.as_slice() {
            [] => Err(Refused::NoRelay(text.chars().take(64).collect())),
            [one] => Ok(*one),
            [_, _, ..] => Err(Refused::AmbiguousRelay(text.to_owned())),
        }
    }

    /// Removes a relay of the account's. A device stays a device.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_remove_relay(&self, id: RelayId) -> Result<Prepared<()>, Refused> {
        if !self.relays.records.contains_key(&id) {
            return Err(Refused::NotFound("relay"));
        }
        Ok(Prepared { changes: self.relay_removal(id), reply: () })
    }

    /// Gives a relay of the account's a new secret; the one before is good for the credentials that
    /// are about.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Invalid`] for somebody else's TURN server.
    pub fn prepare_rotate_relay(&self, id: RelayId, ctx: &Ctx) -> Result<Prepared<()>, Refused> {
        let record = self.relays.records.get(&id).ok_or(Refused::NotFound("relay"))?;
        if !record.is_ours() {
            return Err(not_ours());
        }
        Ok(Prepared { changes: vec![Change::Relay(record.rotated(ctx))], reply: () })
    }

    /// Notes where a relay of the account's is reached.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_relay_face(
        &self,
        id: RelayId,
        face: &RelayFace,
    ) -> Result<Prepared<()>, Refused> {
        let record = self.relays.records.get(&id).ok_or(Refused::NotFound("relay"))?;
        let face = face.clean();
        let changed = record.face != face;
        let record = RelayRecord { face, ..record.clone() };
        let changes = if changed { vec![Change::Relay(record)] } else { Vec::new() };
        Ok(Prepared { changes, reply: () })
    }

    fn relay_removal(&self, id: RelayId) -> Vec<Change> {
        let mut changes = vec![Change::RelayRemoved(id)];
        if self.relays.list.iter().any(|entry| entry.relay == id) {
            let left = self.relays.list.iter().copied().filter(|entry| entry.relay != id);
            changes.push(Change::RelayList(left.collect()));
        }
        changes
    }

    /// All that goes with a device: its credentials, and its place as a relay.
    pub(in crate::account) fn device_removal(&self, device: DeviceId) -> Vec<Change> {
        let until = UnixTime(self.credential_expiry());
        let mut changes = vec![Change::DeviceRemoved(device), Change::Revoked { device, until }];
        if let Some(relay) = self.relay_of(device) {
            changes.extend(self.relay_removal(relay.id));
        }
        changes
    }
}

#[derive(Debug, Clone, Copy)]
enum Named {
    Relay(RelayId),
    Device(DeviceId),
}
