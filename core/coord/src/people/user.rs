//! Users: created, changed, suspended, removed.

use std::collections::BTreeSet;

use warren_proto::UserId;

use super::index::{FIRST_ACCOUNT, LAST_ACCOUNT};
use super::{Email, Identity, PasswordHash, People, PeopleChange, UserRecord};
use crate::account::short;
use crate::{Ctx, Prepared, Refused};

const MAX_NAME: usize = 100;
/// A broker holds all its users in memory.
const MAX_USERS: usize = 100_000;

/// What a new user is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// What he signs in with.
    pub email: Email,
    /// What he is called; empty: what stands before the `@`.
    pub name: String,
    /// His password's hash, if he has one from the start.
    pub password: Option<PasswordHash>,
    /// Whether he is an operator.
    pub operator: bool,
}

/// What to change of a user; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserEdit {
    /// What he signs in with.
    pub email: Option<Email>,
    /// What he is called.
    pub name: Option<String>,
    /// Whether he is an operator.
    pub operator: Option<bool>,
    /// Whether he may not sign in.
    pub suspended: Option<bool>,
}

impl People {
    /// A user.
    pub fn user(&self, id: UserId) -> Option<&UserRecord> {
        self.users.get(&id)
    }

    /// All users, by id.
    pub fn users(&self) -> impl Iterator<Item = &UserRecord> {
        self.users.values()
    }

    /// The user with that e-mail address.
    pub fn user_with_email(&self, email: &Email) -> Option<&UserRecord> {
        self.users.get(self.index.user_by_email.get(email)?)
    }

    /// Whether nobody can run the broker in a browser yet: the set-up page is due.
    pub fn needs_set_up(&self) -> bool {
        !self.users.values().any(|user| user.operator)
    }

    /// Creates a user.
    ///
    /// # Errors
    /// [`Refused::EmailTaken`], or [`Refused::Invalid`] when there are too many.
    pub fn prepare_user(
        &self,
        new: NewUser,
        ctx: &Ctx,
    ) -> Result<Prepared<UserId, PeopleChange>, Refused> {
        let user = self.new_user(new, ctx)?;
        let reply = user.id;
        Ok(Prepared { changes: vec![PeopleChange::User(user)], reply })
    }

    pub(super) fn new_user(&self, new: NewUser, ctx: &Ctx) -> Result<UserRecord, Refused> {
        if self.index.user_by_email.contains_key(&new.email) {
            return Err(Refused::EmailTaken(new.email));
        }
        if self.users.len() >= MAX_USERS {
            return Err(Refused::Invalid("a broker has at most 100,000 users"));
        }
        let id = ctx.fresh_id("user id", |id| self.users.contains_key(&UserId(id)));
        Ok(UserRecord {
            id: UserId(id),
            name: clean_name(&new.name, &new.email),
            email: new.email,
            password: new.password,
            totp: None,
            recovery_codes: BTreeSet::new(),
            identities: BTreeSet::new(),
            operator: new.operator,
            suspended: false,
            created: ctx.unix_time(),
            last_seen: None,
        })
    }

    /// Changes a user, all of it or nothing. One who is suspended is signed out everywhere, and his
    /// API tokens and links are gone; so are the links of one whose address changes; one who is an
    /// operator no more loses his tokens as one.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::EmailTaken`] or [`Refused::LastOperator`].
    pub fn prepare_edit_user(
        &self,
        user: UserId,
        edit: UserEdit,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        let old = self.known(user)?;
        if let Some(email) = &edit.email
            && self.index.user_by_email.get(email).is_some_and(|other| *other != user)
        {
            return Err(Refused::EmailTaken(email.clone()));
        }
        let mut new = old.clone();
        new.email = edit.email.unwrap_or(new.email);
        new.name = edit.name.map_or(new.name, |name| clean_name(&name, &new.email));
        new.operator = edit.operator.unwrap_or(new.operator);
        new.suspended = edit.suspended.unwrap_or(new.suspended);
        if !is_active_operator(&new) {
            self.keep_an_operator(user)?;
        }
        let mut changes = Vec::new();
        if new.suspended && !old.suspended {
            changes.extend(self.end_of_access(user));
        } else if old.operator && !new.operator {
            changes.extend(self.end_of_broker_tokens(user));
            for account in self.accounts_invited_to(user) {
                let role = self.role(user, account);
                changes.extend(self.end_of_invitations(user, Some(account), role));
            }
        }
        if new.email != old.email && !new.suspended {
            // What was mailed lies in a mailbox that may be somebody else's by now.
            changes.extend(self.links_of(user).map(|link| PeopleChange::LinkRemoved(link.hash)));
        }
        if new != *old {
            changes.push(PeopleChange::User(new));
        }
        Ok(Prepared { changes, reply: () })
    }

    /// Removes a user with his memberships, sessions, API tokens and links.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::LastOwner`] or [`Refused::LastOperator`].
    pub fn prepare_remove_user(&self, user: UserId) -> Result<Prepared<(), PeopleChange>, Refused> {
        self.known(user)?;
        self.keep_an_operator(user)?;
        let of_user = (user, FIRST_ACCOUNT)..=(user, LAST_ACCOUNT);
        let mut changes = self.end_of_access(user);
        for (_, membership) in self.memberships.range(of_user) {
            self.keep_an_owner(membership)?;
            let account = membership.account;
            changes.push(PeopleChange::MembershipRemoved { user, account });
        }
        changes.push(PeopleChange::UserRemoved(user));
        Ok(Prepared { changes, reply: () })
    }

    /// Links an identity at an OpenID provider to a user who is signed in.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::UserSuspended`], or [`Refused::Conflict`] when it is another user's.
    pub fn prepare_link_identity(
        &self,
        user: UserId,
        identity: Identity,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        if self.known(user)?.suspended {
            return Err(Refused::UserSuspended);
        }
        if self.index.user_by_identity.get(&identity).is_some_and(|other| *other != user) {
            return Err(Refused::Conflict("this identity belongs to another user"));
        }
        let mut record = self.known(user)?.clone();
        let is_new = record.identities.insert(identity);
        let changes = if is_new { vec![PeopleChange::User(record)] } else { Vec::new() };
        Ok(Prepared { changes, reply: () })
    }

    /// Unlinks an identity. Who has no password keeps his last one.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Invalid`] when he couldn't sign in any more.
    pub fn prepare_unlink_identity(
        &self,
        user: UserId,
        identity: &Identity,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        let mut record = self.known(user)?.clone();
        if !record.identities.remove(identity) {
            return Err(Refused::NotFound("identity"));
        }
        if record.password.is_none() && record.identities.is_empty() {
            return Err(Refused::Invalid("set a password first, or you could not sign in again"));
        }
        Ok(Prepared { changes: vec![PeopleChange::User(record)], reply: () })
    }

    pub(super) fn known(&self, user: UserId) -> Result<&UserRecord, Refused> {
        self.users.get(&user).ok_or(Refused::NotFound("user"))
    }

    /// Ends all ways in: sessions, API tokens, links that set a password; and those for others.
    fn end_of_access(&self, user: UserId) -> Vec<PeopleChange> {
        let sessions = self.sessions_of(user).map(|it| PeopleChange::SessionRemoved(it.id));
        let tokens = self.tokens.values().filter(|token| token.creator == Some(user));
        let links = self.links_of(user);
        sessions
            .chain(tokens.map(|token| PeopleChange::TokenRemoved(token.id)))
            .chain(links.map(|link| PeopleChange::LinkRemoved(link.hash)))
            .chain(self.end_of_invitations(user, None, None))
            .collect()
    }

    /// Whether there is another operator who can sign in, if this one is one.
    fn keep_an_operator(&self, user: UserId) -> Result<(), Refused> {
        let is_one = self.users.get(&user).is_some_and(is_active_operator);
        let mut others = self.users.values().filter(|it| it.id != user);
        if is_one && !others.any(is_active_operator) { Err(Refused::LastOperator) } else { Ok(()) }
    }
}

fn is_active_operator(user: &UserRecord) -> bool {
    user.operator && !user.suspended
}

fn clean_name(name: &str, email: &Email) -> String {
    match short(name.trim(), MAX_NAME) {
        name if name.is_empty() => email.local_part().to_owned(),
        name => name,
    }
}
