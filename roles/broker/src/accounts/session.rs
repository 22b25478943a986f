use std::sync::Arc;

use warren_coord::SessionId;

use super::AccountHandle;
use crate::outbox::Receiver;

/// A device's control session; it ends when dropped.
pub(crate) struct Session {
    account: Arc<AccountHandle>,
    id: SessionId,
    pub(crate) events: Receiver,
}

impl Session {
    pub(super) fn new(account: Arc<AccountHandle>, id: SessionId, events: Receiver) -> Self {
        Self { account, id, events }
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
