use std::sync::Arc;

use warren_coord::SessionId;

use super::{AccountHandle, Place};
use crate::outbox::Receiver;

/// A device's control session; it ends when dropped.
pub(crate) struct Session {
    account: Arc<AccountHandle>,
    id: SessionId,
    pub(crate) events: Receiver,
    _place: Place,
}

impl Session {
    pub(super) fn new(
        account: Arc<AccountHandle>,
        id: SessionId,
        events: Receiver,
        place: Place,
    ) -> Self {
        Self { account, id, events, _place: place }
    }

    /// Everything that was queued has been read after some was lost: the whole map is due.
    pub(crate) fn ask_for_map(&self) {
        self.account.soft(|account, _| account.handle_drained(self.id));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.account.close_session(self.id);
    }
}
