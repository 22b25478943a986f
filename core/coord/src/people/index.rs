//! Look-ups that are made from the records.

use std::collections::{BTreeMap, BTreeSet};

use warren_proto::{AccountId, ApiTokenId, InvitationId, UserId, WebSessionId};

use super::{Email, Identity, People, UserRecord, WebSessionRecord};
use crate::SecretHash;

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) user_by_email: BTreeMap<Email, UserId>,
    pub(super) user_by_identity: BTreeMap<Identity, UserId>,
    pub(super) users_by_account: BTreeSet<(AccountId, UserId)>,
    pub(super) invitation_by_hash: BTreeMap<SecretHash, InvitationId>,
    pub(super) session_by_hash: BTreeMap<SecretHash, WebSessionId>,
    pub(super) sessions_by_user: BTreeSet<(UserId, WebSessionId)>,
    pub(super) token_by_hash: BTreeMap<SecretHash, ApiTokenId>,
}

/// The first and last id of each kind, for ranges over pairs.
pub(super) const FIRST_USER: UserId = UserId(0);
pub(super) const LAST_USER: UserId = UserId(u64::MAX);
pub(super) const FIRST_ACCOUNT: AccountId = AccountId(0);
pub(super) const LAST_ACCOUNT: AccountId = AccountId(u64::MAX);

impl People {
    pub(super) fn put_user(&mut self, user: UserRecord) {
        if let Some(old) = self.users.get(&user.id) {
            self.index.user_by_email.remove(&old.email);
            self.index.user_by_identity.retain(|_, owner| *owner != user.id);
        }
        self.index.user_by_email.insert(user.email.clone(), user.id);
        let identities = user.identities.iter().map(|identity| (identity.clone(), user.id));
        self.index.user_by_identity.extend(identities);
        self.users.insert(user.id, user);
    }

    pub(super) fn drop_user(&mut self, id: UserId) {
        let Some(user) = self.users.remove(&id) else { return };
        self.index.user_by_email.remove(&user.email);
        for identity in &user.identities {
            self.index.user_by_identity.remove(identity);
        }
        self.codes.remove(&id);
        self.enrolments.remove(&id);
        self.halves.retain(|_, half| half.user != id);
    }

    pub(super) fn put_session(&mut self, session: WebSessionRecord) {
        self.index.session_by_hash.insert(session.hash, session.id);
        self.index.sessions_by_user.insert((session.user, session.id));
        self.sessions.insert(session.id, session);
    }

    pub(super) fn drop_session(&mut self, id: WebSessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.index.session_by_hash.remove(&session.hash);
        self.index.sessions_by_user.remove(&(session.user, id));
        self.sessions_used.remove(&id);
    }
}
