use std::collections::BTreeMap;

use warren_proto::{AccountId, UserId};

use crate::{Email, People, Role};

/// An account's people as its policy sees them: who is who, and what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    by_id: BTreeMap<UserId, (Email, Role)>,
}

impl Members {
    /// An account's people at this moment. Those who are suspended are nobody.
    pub fn of(people: &People, account: AccountId) -> Self {
        let members = people.members(account).filter(|member| !member.user.suspended);
        members
            .map(|member| (member.user.id, member.user.email.clone(), member.membership.role))
            .collect()
    }

    /// Who a user is.
    pub fn get(&self, user: UserId) -> Option<(&Email, Role)> {
        self.by_id.get(&user).map(|(email, role)| (email, *role))
    }

    /// The addresses of those who are at least this.
    pub(crate) fn at_least(&self, least: Role) -> impl Iterator<Item = &Email> {
        let found = self.by_id.values().filter(move |(_, role)| *role >= least);
        found.map(|(email, _)| email)
    }

    /// All of them, by id.
    pub(super) fn all(&self) -> impl Iterator<Item = (UserId, &Email, Role)> {
        self.by_id.iter().map(|(id, (email, role))| (*id, email, *role))
    }

    /// The user with that address.
    pub fn find(&self, email: &Email) -> Option<UserId> {
        self.by_id.iter().find(|(_, (other, _))| other == email).map(|(id, _)| *id)
    }
}

impl FromIterator<(UserId, Email, Role)> for Members {
    fn from_iter<T: IntoIterator<Item = (UserId, Email, Role)>>(people: T) -> Self {
        Self { by_id: people.into_iter().map(|(id, email, role)| (id, (email, role))).collect() }
    }
}
