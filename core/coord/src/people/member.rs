//! Memberships: who is what in which account.

use warren_proto::{AccountId, UserId};

use super::index::{FIRST_ACCOUNT, FIRST_USER, LAST_ACCOUNT, LAST_USER};
use super::right::right_for_role;
use super::{
    Asker, MembershipRecord, People, PeopleChange, Right, Role, Standing, TokenReach, UserRecord,
};
use crate::{Ctx, Prepared, Refused};

/// A user as one of an account's people.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Who.
    pub user: &'a UserRecord,
    /// What he is there.
    pub membership: &'a MembershipRecord,
}

impl People {
    /// An account's people, by user id.
    pub fn members(&self, account: AccountId) -> impl Iterator<Item = Member<'_>> {
        let of_account = (account, FIRST_USER)..=(account, LAST_USER);
        self.index.users_by_account.range(of_account).filter_map(|(account, user)| {
            let membership = self.memberships.get(&(*user, *account))?;
            Some(Member { user: self.users.get(user)?, membership })
        })
    }

    /// A user's accounts, by id.
    pub fn memberships(&self, user: UserId) -> impl Iterator<Item = &MembershipRecord> {
        self.memberships.range((user, FIRST_ACCOUNT)..=(user, LAST_ACCOUNT)).map(|(_, it)| it)
    }

    /// What a user is in an account.
    pub fn role(&self, user: UserId, account: AccountId) -> Option<Role> {
        self.memberships.get(&(user, account)).map(|membership| membership.role)
    }

    /// How a user stands to an account: `None`, not at all.
    pub fn standing(&self, user: UserId, account: AccountId) -> Option<Standing> {
        let user = self.users.get(&user).filter(|user| !user.suspended)?;
        if user.operator {
            return Some(Standing::Operator);
        }
        self.role(user.id, account).map(Standing::Role)
    }

    /// How a user stands to the broker: `None`, not at all.
    pub(crate) fn operator_standing(&self, user: UserId) -> Option<Standing> {
        let user = self.users.get(&user).filter(|user| !user.suspended)?;
        user.operator.then_some(Standing::Operator)
    }

    /// Takes how many people an account may have; `None`: any number.
    pub fn handle_user_limit(&mut self, account: AccountId, limit: Option<u32>) {
        match limit {
            Some(limit) => self.user_limits.insert(account, limit),
            None => self.user_limits.remove(&account),
        };
    }

    /// Whether an account may have one person more.
    pub(super) fn check_room(&self, account: AccountId) -> Result<(), Refused> {
        let limit = self.user_limits.get(&account);
        let is_full = |limit: &u32| self.members(account).count() >= *limit as usize;
        if limit.is_some_and(is_full) { Err(Refused::TooManyPeople) } else { Ok(()) }
    }

    /// Makes a user into something in an account; `None`: he leaves it, and his API tokens for it
    /// are gone. So are invitations of his that he could not make any more. Who isn't an operator changes only those who are in it: others are invited.
    ///
    /// # Errors
    /// [`Refused::NotFound`] for the user, or one who is not in the account and is to leave it;
    /// [`Refused::Forbidden`]; [`Refused::LastOwner`]; [`Refused::TooManyPeople`].
    pub fn prepare_role(
        &self,
        by: &Asker,
        user: UserId,
        account: AccountId,
        role: Option<Role>,
        ctx: &Ctx,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        self.known(user)?;
        let old = self.memberships.get(&(user, account));
        let leaves = *by == Asker::User(user) && role.is_none();
        if old.is_none() && !by.may(self, Right::ManageUsers, None) {
            return Err(Refused::NotFound("user"));
        }
        if !leaves && !by.may(self, right_for_role(old.map(|it| it.role), role), Some(account)) {
            return Err(Refused::Forbidden);
        }
        if old.is_none() {
            self.check_room(account)?;
        }
        if let Some(old) = old
            && role != Some(Role::Owner)
        {
            self.keep_an_owner(old)?;
        }
        let changes = match (role, old) {
            (Some(role), Some(old)) if old.role == role => Vec::new(),
            (Some(role), old) => {
                let created = old.map_or(ctx.unix_time(), |old| old.created);
                let membership = MembershipRecord { user, account, role, created };
                let mut changes = self.lost_invitations(user, account, Some(role));
                changes.push(PeopleChange::Membership(membership));
                changes
            }
            (None, Some(_)) => {
                let mut changes = self.end_of_tokens(user, TokenReach::Account(account));
                changes.extend(self.lost_invitations(user, account, None));
                changes.push(PeopleChange::MembershipRemoved { user, account });
                changes
            }
            (None, None) => return Err(Refused::NotFound("member")),
        };
        Ok(Prepared { changes, reply: () })
    }

    /// The invitations that somebody who becomes this could not make any more.
    fn lost_invitations(
        &self,
        user: UserId,
        account: AccountId,
        role: Option<Role>,
    ) -> Vec<PeopleChange> {
        if self.operator_standing(user).is_some() {
            return Vec::new();
        }
        self.end_of_invitations(user, Some(account), role).collect()
    }

    /// Forgets an account that was removed: memberships, invitations and API tokens.
    pub fn prepare_account_removed(&self, account: AccountId) -> Prepared<(), PeopleChange> {
        let members = self.members(account).map(|it| it.membership.user);
        let members = members.map(|user| PeopleChange::MembershipRemoved { user, account });
        let invitations = self.invitations.values().filter(|it| it.account == account);
        let reach = TokenReach::Account(account);
        let tokens = self.tokens.values().filter(|token| token.reach == reach);
        let changes = members
            .chain(invitations.map(|it| PeopleChange::InvitationRemoved(it.id)))
            .chain(tokens.map(|token| PeopleChange::TokenRemoved(token.id)))
            .collect();
        Prepared { changes, reply: () }
    }

    pub(super) fn end_of_broker_tokens(&self, user: UserId) -> Vec<PeopleChange> {
        self.end_of_tokens(user, TokenReach::Broker)
    }

    fn end_of_tokens(&self, user: UserId, reach: TokenReach) -> Vec<PeopleChange> {
        let of_user =
            self.tokens.values().filter(|it| it.creator == Some(user) && it.reach == reach);
        of_user.map(|token| PeopleChange::TokenRemoved(token.id)).collect()
    }

    /// Whether the account has another owner who can sign in, if this one is one.
    pub(super) fn keep_an_owner(&self, leaving: &MembershipRecord) -> Result<(), Refused> {
        let mut others = self.members(leaving.account).filter(|it| it.user.id != leaving.user);
        let is_needed = leaving.role == Role::Owner
            && !others.any(|it| it.membership.role == Role::Owner && !it.user.suspended);
        if is_needed { Err(Refused::LastOwner) } else { Ok(()) }
    }
}
