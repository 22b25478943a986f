//! One-time links: the first operator, and a password that was forgotten.

use std::fmt;

use warren_proto::{AccountId, UserId};

use super::session::{ClientInfo, WebSessionCreated};
use super::{
    Email, LinkPurpose, LinkRecord, MembershipRecord, NewUser, PasswordHash, People, PeopleChange,
    Role, SignInMethod,
};
use crate::secret::secret_text;
use crate::{Ctx, Prepared, Refused, SecretHash, UnixTime};

/// How long one-time links are good: a day.
const LIFETIME: u64 = 24 * 60 * 60;
/// ... those that anybody may ask for, to be mailed: an hour.
const MAILED_LIFETIME: u64 = 60 * 60;
/// Links of one user that are good at once, before no more are mailed.
const MAX_MAILED: usize = 5;

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

    /// Makes a link by which somebody sets his password who says that he has forgotten it, to be
    /// mailed to him. Older links stay good: a stranger may have asked.
    ///
    /// # Errors
    /// [`Refused::NotFound`] or [`Refused::UserSuspended`]; [`Refused::Invalid`] for who signs in by
    /// an OpenID provider alone; [`Refused::RateLimited`] when five are good already.
    pub fn prepare_mailed_password_link(
        &self,
        email: &Email,
        ctx: &Ctx,
    ) -> Result<Prepared<LinkCreated, PeopleChange>, Refused> {
        let user = self.user_with_email(email).ok_or(Refused::NotFound("user"))?;
        if user.suspended {
            return Err(Refused::UserSuspended);
        }
        if user.password.is_none() && !user.identities.is_empty() {
            return Err(Refused::Invalid("single sign-on is the only way in"));
        }
        let now = ctx.unix_time();
        if self.links_of(user.id).filter(|link| link.expires > now).count() >= MAX_MAILED {
            return Err(Refused::RateLimited);
        }
        let purpose = LinkPurpose::Password { user: user.id, second_factor: false };
        let (link, reply) = fresh(purpose, MAILED_LIFETIME, ctx);
        Ok(Prepared { changes: vec![link], reply })
    }

    fn new_link(&self, purpose: LinkPurpose, ctx: &Ctx) -> Prepared<LinkCreated, PeopleChange> {
        let owner = owner(purpose);
        let older = self.links.values().filter(|link| self::owner(link.purpose) == owner);
        let mut changes: Vec<PeopleChange> =
            older.map(|link| PeopleChange::LinkRemoved(link.hash)).collect();
        let (link, reply) = fresh(purpose, LIFETIME, ctx);
        changes.push(link);
        Prepared { changes, reply }
    }

    /// The links that set a user's password.
    pub(super) fn links_of(&self, user: UserId) -> impl Iterator<Item = &LinkRecord> {
        self.links.values().filter(move |link| owner(link.purpose) == Some(user))
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

    /// Uses a link that sets a password; his others are void then. The user is signed out
    /// everywhere, and signs in with it (and his second factor, if it stays).
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
        let mut changes: Vec<PeopleChange> =
            self.links_of(user).map(|link| PeopleChange::LinkRemoved(link.hash)).collect();
        changes.extend(self.sessions_of(user).map(|it| PeopleChange::SessionRemoved(it.id)));
        changes.push(PeopleChange::User(record));
        Ok(Prepared { changes, reply: user })
    }

    fn good_link(&self, secret: &str, now: UnixTime) -> Result<&LinkRecord, Refused> {
        let link = self.links.get(&SecretHash::of(secret));
        link.filter(|link| link.expires > now).ok_or(Refused::LinkInvalid)
    }
}

/// A new link, and what its holder needs.
fn fresh(purpose: LinkPurpose, lifetime: u64, ctx: &Ctx) -> (PeopleChange, LinkCreated) {
    let secret = secret_text(&ctx.bytes("one-time link")[..24]);
    let expires = UnixTime(ctx.unix_time().0 + lifetime);
    let hash = SecretHash::of(&secret);
    let record = LinkRecord { hash, purpose, expires };
    (PeopleChange::Link(record), LinkCreated { secret, expires })
}

/// Whose link it is; nobody's: the first start's.
fn owner(purpose: LinkPurpose) -> Option<UserId> {
    match purpose {
        LinkPurpose::SetUp => None,
        LinkPurpose::Password { user, .. } => Some(user),
    }
}
