//! One-time links: the first operator, and a password that was forgotten.

use std::fmt;

use warren_proto::{AccountId, UserId};

use super::session::{ClientInfo, WebSessionCreated};
use super::{
    LinkPurpose, LinkRecord, MembershipRecord, NewUser, PasswordHash, People, PeopleChange, Role,
    SignInMethod,
};
use crate::secret::secret_text;
use crate::{Ctx, Prepared, Refused, SecretHash, UnixTime};

/// How long one-time links are good: a day.
const LIFETIME: u64 = 24 * 60 * 60;

/// A new one-time link. The secret exists nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkCreated {
    /// The secret, for the fragment of the link.
    pub secret: String,
    /// From when on it is no longer accepted.
    pub expires: UnixTime,
}

impl fmt::Debug for LinkCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkCreated")
    }
}

impl People {
    /// What the link with that secret is for, if it is still good.
    pub fn link(&self, secret: &str, now: UnixTime) -> Option<LinkPurpose> {
        self.good_link(secret, now).ok().map(|link| link.purpose)
    }

    /// Makes the link of the first start, in place of an older one.
    ///
    /// # Errors
    /// [`Refused::Invalid`] when there is an operator already.
    pub fn prepare_set_up_link(
        &self,
        ctx: &Ctx,
    ) -> Result<Prepared<LinkCreated, PeopleChange>, Refused> {
        if !self.needs_set_up() {
            return Err(Refused::Invalid("the broker is set up: it has an operator"));
        }
        Ok(self.new_link(LinkPurpose::SetUp, ctx))
    }

    /// Makes a link by which a user sets his password, in place of an older one; it may take his
    /// second factor away.
    ///
    /// # Errors
    /// [`Refused::NotFound`] or [`Refused::UserSuspended`].
    pub fn prepare_password_link(
        &self,
        user: UserId,
        second_factor: bool,
        ctx: &Ctx,
    ) -> Result<Prepared<LinkCreated, PeopleChange>, Refused> {
        if self.known(user)?.suspended {
            return Err(Refused::UserSuspended);
        }
        Ok(self.new_link(LinkPurpose::Password { user, second_factor }, ctx))
    }

    fn new_link(&self, purpose: LinkPurpose, ctx: &Ctx) -> Prepared<LinkCreated, PeopleChange> {
        let owner = owner(purpose);
        let older = self.links.values().filter(|link| self::owner(link.purpose) == owner);
        let mut changes: Vec<PeopleChange> =
            older.map(|link| PeopleChange::LinkRemoved(link.hash)).collect();
        let secret = secret_text(&ctx.bytes("one-time link")[..24]);
        let expires = UnixTime(ctx.unix_time().0 + LIFETIME);
        let hash = SecretHash::of(&secret);
        changes.push(PeopleChange::Link(LinkRecord { hash, purpose, expires }));
        Prepared { changes, reply: LinkCreated { secret, expires } }
    }

    /// Uses the link of the first start: its holder becomes an operator and the owner of an
    /// account, and is signed in.
    ///
    /// # Errors
    /// [`Refused::LinkInvalid`] (also when there is an operator by now) or [`Refused::EmailTaken`].
    pub fn prepare_set_up(
        &self,
        secret: &str,
        new: NewUser,
        account: Option<AccountId>,
        client: &ClientInfo,
        ctx: &Ctx,
    ) -> Result<Prepared<WebSessionCreated, PeopleChange>, Refused> {
        let link = self.good_link(secret, ctx.unix_time())?;
        if link.purpose != LinkPurpose::SetUp || !self.needs_set_up() {
            return Err(Refused::LinkInvalid);
        }
        let user = self.new_user(NewUser { operator: true, ..new }, ctx)?;
        let (session, reply) = self.new_session(user.id, SignInMethod::Link, client, ctx);
        let mut changes = vec![PeopleChange::LinkRemoved(link.hash)];
        let (id, created) = (user.id, ctx.unix_time());
        changes.push(PeopleChange::User(user));
        if let Some(account) = account {
            let owner = MembershipRecord { user: id, account, role: Role::Owner, created };
            changes.push(PeopleChange::Membership(owner));
        }
        changes.push(PeopleChange::Session(session));
        Ok(Prepared { changes, reply })
    }

    /// Uses a link that sets a password. The user is signed out everywhere, and signs in with it
    /// (and his second factor, if it stays).
    ///
    /// # Errors
    /// [`Refused::LinkInvalid`].
    pub fn prepare_password_by_link(
        &self,
        secret: &str,
        password: PasswordHash,
        ctx: &Ctx,
    ) -> Result<Prepared<UserId, PeopleChange>, Refused> {
        let link = self.good_link(secret, ctx.unix_time())?;
        let LinkPurpose::Password { user, second_factor } = link.purpose else {
            return Err(Refused::LinkInvalid);
        };
        let mut record = self.known(user).map_err(|_| Refused::LinkInvalid)?.clone();
        record.password = Some(password);
        if second_factor {
            record.totp = None;
            record.recovery_codes.clear();
        }
        let mut changes = vec![PeopleChange::LinkRemoved(link.hash)];
        changes.extend(self.sessions_of(user).map(|it| PeopleChange::SessionRemoved(it.id)));
        changes.push(PeopleChange::User(record));
        Ok(Prepared { changes, reply: user })
    }

    fn good_link(&self, secret: &str, now: UnixTime) -> Result<&LinkRecord, Refused> {
        let link = self.links.get(&SecretHash::of(secret));
        link.filter(|link| link.expires > now).ok_or(Refused::LinkInvalid)
    }
}

/// Whose link it is; nobody's: the first start's.
fn owner(purpose: LinkPurpose) -> Option<UserId> {
    match purpose {
        LinkPurpose::SetUp => None,
        LinkPurpose::Password { user, .. } => Some(user),
    }
}
