//! Invitations: a link that makes somebody a member of an account.

use std::collections::BTreeSet;
use std::fmt;

use warren_proto::{AccountId, InvitationId, UserId};

use super::right::{may, right_for_role};
use super::session::{ClientInfo, WebSessionCreated};
use super::{
    Asker, Email, InvitationRecord, MembershipRecord, NewUser, People, PeopleChange, Role,
    SignInMethod, Standing, UserRecord,
};
use crate::secret::secret_text;
use crate::{Ctx, Prepared, Refused, SecretHash, UnixTime};

/// How long an invitation is good unless it says otherwise: a week.
const LIFETIME: u64 = 7 * 24 * 60 * 60;
/// Ninety days.
const LONGEST: u64 = 90 * 24 * 60 * 60;
const MAX_PER_ACCOUNT: usize = 500;

/// What a new invitation is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvitation {
    /// The account.
    pub account: AccountId,
    /// The role that it gives.
    pub role: Role,
    /// The only one who may use it.
    pub email: Option<Email>,
    /// How long it is good, in seconds; a week unless given, 90 days at most.
    pub expires_in: Option<u64>,
}

/// A new invitation. The secret exists nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct InvitationCreated {
    /// Its id.
    pub id: InvitationId,
    /// The secret, for the fragment of its link.
    pub secret: String,
    /// From when on it is no longer accepted.
    pub expires: UnixTime,
}

impl fmt::Debug for InvitationCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InvitationCreated({})", self.id)
    }
}

/// What who holds an invitation's link is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// The account.
    pub account: AccountId,
    /// The role that it gives.
    pub role: Role,
    /// The only one who may use it.
    pub email: Option<Email>,
    /// Whether somebody with that e-mail address is a user already: he is to sign in first.
    pub is_user: bool,
    /// From when on it is no longer accepted.
    pub expires: UnixTime,
}

impl People {
    /// An account's invitations that are still good, by id.
    pub fn invitations(
        &self,
        account: AccountId,
        now: UnixTime,
    ) -> impl Iterator<Item = &InvitationRecord> {
        self.invitations.values().filter(move |it| it.account == account && it.expires > now)
    }

    /// The invitation with that secret, if it is still good.
    pub fn invitation(&self, secret: &str, now: UnixTime) -> Option<Invitation> {
        let found = self.good_invitation(secret, now).ok()?;
        let is_user = found.email.as_ref().is_some_and(|it| self.user_with_email(it).is_some());
        Some(Invitation {
            id: found.id,
            account: found.account,
            role: found.role,
            email: found.email.clone(),
            is_user,
            expires: found.expires,
        })
    }

    /// Makes an invitation.
    ///
    /// # Errors
    /// [`Refused::Forbidden`] for who may not give that role, [`Refused::TooManyPeople`], or
    /// [`Refused::Invalid`] for a lifetime out of range, an admin without an e-mail address, or more
    /// than 500 of one account.
    pub fn prepare_invitation(
        &self,
        by: &Asker,
        new: NewInvitation,
        ctx: &Ctx,
    ) -> Result<Prepared<InvitationCreated, PeopleChange>, Refused> {
        if !by.may(self, right_for_role(None, Some(new.role)), Some(new.account)) {
            return Err(Refused::Forbidden);
        }
        if new.role > Role::Member && new.email.is_none() {
            return Err(Refused::Invalid(
                "an invitation of an admin or owner says for which e-mail address it is",
            ));
        }
        self.check_room(new.account)?;
        let now = ctx.unix_time();
        let lifetime = new.expires_in.unwrap_or(LIFETIME);
        if !(1..=LONGEST).contains(&lifetime) {
            return Err(Refused::Invalid(
                "an invitation is good for 1 second at least, 90 days at most",
            ));
        }
        if self.invitations(new.account, now).count() >= MAX_PER_ACCOUNT {
            return Err(Refused::Invalid("the account has 500 open invitations; delete some"));
        }
        let taken = |id| self.invitations.contains_key(&InvitationId(id));
        let id = InvitationId(ctx.fresh_id("invitation id", taken));
        let secret = secret_text(&ctx.bytes("invitation secret")[..24]);
        let expires = UnixTime(now.0 + lifetime);
        let record = InvitationRecord {
            id,
            hash: SecretHash::of(&secret),
            account: new.account,
            role: new.role,
            email: new.email,
            creator: by.user(),
            created: now,
            expires,
        };
        let reply = InvitationCreated { id, secret, expires };
        Ok(Prepared { changes: vec![PeopleChange::Invitation(record)], reply })
    }

    /// Takes an invitation back.
    ///
    /// # Errors
    /// [`Refused::NotFound`], also for another account's.
    pub fn prepare_remove_invitation(
        &self,
        account: AccountId,
        id: InvitationId,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        match self.invitations.get(&id) {
            Some(it) if it.account == account => {
                Ok(Prepared { changes: vec![PeopleChange::InvitationRemoved(id)], reply: () })
            }
            Some(_) | None => Err(Refused::NotFound("invitation")),
        }
    }

    /// Somebody who is signed in accepts an invitation. Who is in the account already keeps the
    /// higher role.
    ///
    /// # Errors
    /// [`Refused::LinkInvalid`], also for one that is meant for another e-mail address;
    /// [`Refused::TooManyPeople`].
    pub fn prepare_accept(
        &self,
        secret: &str,
        user: UserId,
        ctx: &Ctx,
    ) -> Result<Prepared<AccountId, PeopleChange>, Refused> {
        let invitation = self.good_invitation(secret, ctx.unix_time())?;
        let changes = self.accepting(invitation, self.known(user)?, ctx)?;
        Ok(Prepared { changes, reply: invitation.account })
    }

    /// What becomes of an invitation and of the user who accepts it.
    pub(super) fn accepting(
        &self,
        invitation: &InvitationRecord,
        user: &UserRecord,
        ctx: &Ctx,
    ) -> Result<Vec<PeopleChange>, Refused> {
        if invitation.email.as_ref().is_some_and(|email| *email != user.email) {
            return Err(Refused::LinkInvalid);
        }
        let mut changes = vec![PeopleChange::InvitationRemoved(invitation.id)];
        if self.role(user.id, invitation.account).is_none() {
            self.check_room(invitation.account)?;
        }
        if self.role(user.id, invitation.account) < Some(invitation.role) {
            changes.push(PeopleChange::Membership(MembershipRecord {
                user: user.id,
                account: invitation.account,
                role: invitation.role,
                created: ctx.unix_time(),
            }));
        }
        Ok(changes)
    }

    /// Somebody who is no user yet accepts an invitation, becomes one and is signed in.
    ///
    /// # Errors
    /// [`Refused::LinkInvalid`], also for one that is meant for another e-mail address,
    /// [`Refused::TooManyPeople`], or [`Refused::EmailTaken`]: sign in first.
    pub fn prepare_accept_as_new(
        &self,
        secret: &str,
        new: NewUser,
        client: &ClientInfo,
        ctx: &Ctx,
    ) -> Result<Prepared<WebSessionCreated, PeopleChange>, Refused> {
        let invitation = self.good_invitation(secret, ctx.unix_time())?;
        if invitation.email.as_ref().is_some_and(|email| *email != new.email) {
            return Err(Refused::LinkInvalid);
        }
        self.check_room(invitation.account)?;
        let user = self.new_user(NewUser { operator: false, ..new }, ctx)?;
        let (session, reply) = self.new_session(user.id, SignInMethod::Link, client, ctx);
        let membership = MembershipRecord {
            user: user.id,
            account: invitation.account,
            role: invitation.role,
            created: ctx.unix_time(),
        };
        let changes = vec![
            PeopleChange::InvitationRemoved(invitation.id),
            PeopleChange::User(user),
            PeopleChange::Membership(membership),
            PeopleChange::Session(session),
        ];
        Ok(Prepared { changes, reply })
    }

    pub(super) fn good_invitation(
        &self,
        secret: &str,
        now: UnixTime,
    ) -> Result<&InvitationRecord, Refused> {
        let id = self.index.invitation_by_hash.get(&SecretHash::of(secret));
        id.and_then(|id| self.invitations.get(id))
            .filter(|invitation| invitation.expires > now && self.is_backed(invitation))
            .ok_or(Refused::LinkInvalid)
    }

    /// Whether who made it may still give that role.
    fn is_backed(&self, invitation: &InvitationRecord) -> bool {
        let Some(creator) = invitation.creator else { return true };
        let standing = self.standing(creator, invitation.account);
        standing.is_some_and(|it| may(it, right_for_role(None, Some(invitation.role))))
    }

    pub(super) fn accounts_invited_to(&self, creator: UserId) -> BTreeSet<AccountId> {
        let own = self.invitations.values().filter(|it| it.creator == Some(creator));
        own.map(|it| it.account).collect()
    }

    /// Takes back what a user has invited others to, in one account or (`None`) in all, and could
    /// not any more as what he becomes there.
    pub(super) fn end_of_invitations(
        &self,
        creator: UserId,
        account: Option<AccountId>,
        becomes: Option<Role>,
    ) -> impl Iterator<Item = PeopleChange> {
        let can = move |role| {
            let right = right_for_role(None, Some(role));
            becomes.is_some_and(|becomes| may(Standing::Role(becomes), right))
        };
        self.invitations
            .values()
            .filter(move |it| it.creator == Some(creator))
            .filter(move |it| account.is_none_or(|account| it.account == account) && !can(it.role))
            .map(|it| PeopleChange::InvitationRemoved(it.id))
    }
}
