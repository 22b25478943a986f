//! The relays that the operator offers to all accounts.

use std::collections::BTreeMap;

use warren_proto::{DeviceName, RelayId};

use crate::relay::RelayFace;
use crate::{Ctx, Refused, RelayCreated, RelayKind, RelayRecord, SecretHash};

/// The operator's relays. Changes are decided here, stored by the caller, and then told by
/// [`RelayPool::put`] and [`RelayPool::remove`].
#[derive(Debug, Default)]
pub struct RelayPool {
    records: BTreeMap<RelayId, RelayRecord>,
}

impl RelayPool {
    /// A pool of these.
    pub fn new(records: Vec<RelayRecord>) -> Self {
        Self { records: records.into_iter().map(|record| (record.id, record)).collect() }
    }

    /// All of them, by id.
    pub fn records(&self) -> impl Iterator<Item = &RelayRecord> {
        self.records.values()
    }

    /// One of them.
    pub fn get(&self, id: RelayId) -> Option<&RelayRecord> {
        self.records.get(&id)
    }

    /// One of them, by its name or id.
    pub fn find(&self, text: &str) -> Option<&RelayRecord> {
        let by_name = self.records.values().find(|record| record.name.as_str() == text);
        by_name.or_else(|| self.records.get(&text.parse().ok()?))
    }

    /// The relay server with that token.
    pub fn with_token(&self, token: SecretHash) -> Option<RelayId> {
        let has = |record: &&RelayRecord| record.kind == RelayKind::Server { token };
        self.records.values().find(has).map(|record| record.id)
    }

    /// Makes a relay server.
    ///
    /// # Errors
    /// [`Refused::NameTaken`].
    pub fn prepare_server(
        &self,
        name: DeviceName,
        ctx: &Ctx,
    ) -> Result<(RelayRecord, RelayCreated), Refused> {
        self.check_name(&name)?;
        Ok(RelayRecord::new_server(name, |id| self.records.contains_key(&id), ctx))
    }

    /// Takes a TURN server in.
    ///
    /// # Errors
    /// [`Refused::NameTaken`].
    pub fn prepare_turn(&self, new: crate::NewTurn, ctx: &Ctx) -> Result<RelayRecord, Refused> {
        self.check_name(&new.name)?;
        Ok(new.record(|id| self.records.contains_key(&id), ctx))
    }

    /// Gives a relay a new secret.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Invalid`] for somebody else's TURN server.
    pub fn prepare_rotate(&self, id: RelayId, ctx: &Ctx) -> Result<RelayRecord, Refused> {
        let record = self.records.get(&id).ok_or(Refused::NotFound("relay"))?;
        if !record.is_ours() {
            return Err(crate::account::not_ours());
        }
        Ok(record.rotated(ctx))
    }

    /// Notes where a relay is reached; `None`: as it was.
    pub fn prepare_face(&self, id: RelayId, face: &RelayFace) -> Option<RelayRecord> {
        let record = self.records.get(&id)?;
        let face = face.clean();
        (record.face != face).then(|| RelayRecord { face, ..record.clone() })
    }

    /// Takes notice of a relay that was stored.
    pub fn put(&mut self, record: RelayRecord) {
        self.records.insert(record.id, record);
    }

    /// Takes notice of a relay that was removed.
    pub fn remove(&mut self, id: RelayId) {
        self.records.remove(&id);
    }

    fn check_name(&self, name: &DeviceName) -> Result<(), Refused> {
        let is_taken = self.records.values().any(|record| record.name == *name);
        if is_taken { Err(Refused::NameTaken(name.clone())) } else { Ok(()) }
    }
}
