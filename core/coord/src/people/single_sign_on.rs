//! Single sign-on: whom an OpenID provider vouches for, and what he may become by that.
//!
//! Once bound to a user, issuer and subject alone decide: an e-mail address can be given to somebody
//! else at the provider. It counts once, to find the user whose identity this is, and only where
//! nobody can have waited for its owner: a user with a password was made by who knows it, so its
//! owner links the identity himself; and one who has an identity at this provider is somebody else.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use warren_proto::{AccountId, UserId, WebSessionId};

use super::session::{ClientInfo, WebSessionCreated};
use super::{
    Email, Identity, InvitationRecord, MembershipRecord, NewUser, People, PeopleChange, Role,
    SignInMethod, UserRecord,
};
use crate::secret::secret_text;
use crate::{Ctx, Prepared, Refused, SecretHash};

/// How long somebody may take at the provider.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Visits to the provider that are under way at once; beyond it the oldest one is forgotten.
const MOST: usize = 10_000;

/// What an OpenID provider says of somebody; the shell has checked that it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// Who he is there.
    pub identity: Identity,
    /// His e-mail address, if the provider has verified it and is trusted with its domain.
    pub email: Option<Email>,
    /// What he is called; may be empty.
    pub name: String,
}

/// What somebody wants of the provider.
#[derive(Clone, PartialEq, Eq)]
pub enum SsoPurpose {
    /// To sign in.
    SignIn {
        /// The page that he wanted to see.
        next: String,
        /// The secret of an invitation that he holds.
        invitation: Option<String>,
    },
    /// To link the identity to the user whom he is signed in as.
    Link {
        /// That user.
        user: UserId,
        /// The session in which he asked for it.
        session: WebSessionId,
    },
}

impl fmt::Debug for SsoPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignIn { .. } => f.write_str("SignIn"),
            Self::Link { user, .. } => write!(f, "Link({user})"),
        }
    }
}

/// What goes along to the provider, and is kept to check what comes back.
#[derive(Clone, PartialEq, Eq)]
pub struct SsoBegun {
    /// Names the visit (RFC 6749 §10.12).
    pub state: String,
    /// Stands in the ID token of this visit alone (OpenID Connect Core §3.1.2.1).
    pub nonce: String,
    /// The PKCE verifier (RFC 7636 §4.1); the provider gets its hash.
    pub verifier: String,
}

impl fmt::Debug for SsoBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SsoBegun")
    }
}

/// A visit to the provider that has come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SsoReturned {
    /// What for.
    pub purpose: SsoPurpose,
    /// What the ID token must say.
    pub nonce: String,
    /// What the provider wants to see for the code.
    pub verifier: String,
}

#[derive(Debug)]
struct Visit {
    /// The hash of the cookie of the browser that was sent there.
    browser: SecretHash,
    returned: SsoReturned,
    began: Instant,
    number: u64,
}

/// Visits to the provider that are under way. Each comes back once, to the browser that began it.
#[derive(Debug, Default)]
pub struct SsoVisits {
    visit_by_state: BTreeMap<SecretHash, Visit>,
    state_by_number: BTreeMap<u64, SecretHash>,
}

impl SsoVisits {
    /// Sends a browser, known by the hash of its cookie's secret, to the provider.
    pub fn begin(&mut self, browser: SecretHash, purpose: SsoPurpose, ctx: &Ctx) -> SsoBegun {
        while let Some((number, state)) = self.state_by_number.first_key_value() {
            let is_over = |visit: &Visit| visit.began + LIFETIME <= ctx.now;
            let is_over = self.visit_by_state.get(state).is_none_or(is_over);
            if !is_over && self.visit_by_state.len() < MOST {
                break;
            }
            let (number, state) = (*number, *state);
            self.state_by_number.remove(&number);
            self.visit_by_state.remove(&state);
        }
        let text = |purpose| secret_text(&ctx.bytes(purpose));
        let state = text("single sign-on state");
        let (nonce, verifier) = (text("single sign-on nonce"), text("single sign-on verifier"));
        let number = self.state_by_number.last_key_value().map_or(0, |(last, _)| last + 1);
        let hash = SecretHash::of(&state);
        let returned = SsoReturned { purpose, nonce: nonce.clone(), verifier: verifier.clone() };
        self.visit_by_state.insert(hash, Visit { browser, returned, began: ctx.now, number });
        self.state_by_number.insert(number, hash);
        SsoBegun { state, nonce, verifier }
    }

    /// Somebody is back. What another browser began is not his: neither can he be made to go on
    /// with it, nor does it end by his trying.
    ///
    /// # Errors
    /// [`Refused::TookTooLong`].
    pub fn finish(
        &mut self,
        browser: SecretHash,
        state: &str,
        now: Instant,
    ) -> Result<SsoReturned, Refused> {
        let hash = SecretHash::of(state);
        let is_his = |visit: &&Visit| visit.browser == browser && visit.began + LIFETIME > now;
        if self.visit_by_state.get(&hash).filter(is_his).is_none() {
            return Err(Refused::TookTooLong);
        }
        let visit = self.visit_by_state.remove(&hash).ok_or(Refused::TookTooLong)?;
        self.state_by_number.remove(&visit.number);
        Ok(visit.returned)
    }
}

impl People {
    /// Signs in somebody whom an OpenID provider vouches for: a new session, in place of the one
    /// (`previous`) that the browser had. An identity that is unknown is bound to the user with its
    /// e-mail address, if that is safe (see the module), or to a new user, if there is an invitation
    /// for him or `newcomers` names an account that such people join as members.
    ///
    /// An invitation that he holds is accepted along with it.
    ///
    /// # Errors
    /// [`Refused::IdentityUnknown`], [`Refused::IdentityNotLinked`], [`Refused::UserSuspended`],
    /// [`Refused::LinkInvalid`] for the invitation (also one that is meant for another address),
    /// [`Refused::TooManyPeople`].
    pub fn prepare_single_sign_on(
        &self,
        vouched: &Vouched,
        invitation: Option<&str>,
        newcomers: Option<AccountId>,
        previous: Option<WebSessionId>,
        client: &ClientInfo,
        ctx: &Ctx,
    ) -> Result<Prepared<WebSessionCreated, PeopleChange>, Refused> {
        let held = invitation.map(|it| self.good_invitation(it, ctx.unix_time())).transpose()?;
        let (user, mut changes) = match self.user_vouched_for(vouched)? {
            Some(user) => (user.id, self.linked(user, held, ctx)?),
            None => self.newcomer(vouched, held, newcomers, ctx)?,
        };
        changes.extend(self.room_for_session(user, previous));
        let (session, reply) = self.new_session(user, SignInMethod::Oidc, client, ctx);
        changes.push(PeopleChange::Session(session));
        Ok(Prepared { changes, reply })
    }

    /// The user whose identity this is, or is to be; nobody: he would be new.
    fn user_vouched_for(&self, vouched: &Vouched) -> Result<Option<UserRecord>, Refused> {
        let id = self.index.user_by_identity.get(&vouched.identity);
        if let Some(user) = id.and_then(|id| self.users.get(id)) {
            return if user.suspended {
                Err(Refused::UserSuspended)
            } else {
                Ok(Some(user.clone()))
            };
        }
        let email = vouched.email.as_ref().ok_or(Refused::IdentityUnknown)?;
        let Some(user) = self.user_with_email(email) else { return Ok(None) };
        if user.suspended {
            return Err(Refused::UserSuspended);
        }
        let issuer = &vouched.identity.issuer;
        let is_somebody_else = user.identities.iter().any(|it| it.issuer == *issuer);
        if user.password.is_some() || is_somebody_else {
            return Err(Refused::IdentityNotLinked);
        }
        let mut user = user.clone();
        user.identities.insert(vouched.identity.clone());
        Ok(Some(user))
    }

    /// What is new of a user who was here before.
    fn linked(
        &self,
        user: UserRecord,
        held: Option<&InvitationRecord>,
        ctx: &Ctx,
    ) -> Result<Vec<PeopleChange>, Refused> {
        let mut changes = match held {
            Some(invitation) => self.accepting(invitation, &user, ctx)?,
            None => Vec::new(),
        };
        if self.users.get(&user.id) != Some(&user) {
            changes.push(PeopleChange::User(user));
        }
        Ok(changes)
    }

    /// Somebody who is no user yet, and what he becomes a member of: by the invitation that he holds
    /// and those that are meant for his verified address, else because newcomers may.
    fn newcomer(
        &self,
        vouched: &Vouched,
        held: Option<&InvitationRecord>,
        newcomers: Option<AccountId>,
        ctx: &Ctx,
    ) -> Result<(UserId, Vec<PeopleChange>), Refused> {
        let email = vouched.email.clone().ok_or(Refused::IdentityUnknown)?;
        if let Some(held) = held {
            if held.email.as_ref().is_some_and(|meant| *meant != email) {
                return Err(Refused::LinkInvalid);
            }
            self.check_room(held.account)?;
        }
        let now = ctx.unix_time();
        let is_meant = |it: &&InvitationRecord| {
            it.email.as_ref() == Some(&email)
                && it.expires > now
                && Some(it.id) != held.map(|held| held.id)
                && self.check_room(it.account).is_ok()
        };
        let mut changes = Vec::new();
        let mut role_by_account: BTreeMap<AccountId, Role> = BTreeMap::new();
        for invitation in held.into_iter().chain(self.invitations.values().filter(is_meant)) {
            changes.push(PeopleChange::InvitationRemoved(invitation.id));
            let role = role_by_account.entry(invitation.account).or_insert(invitation.role);
            *role = invitation.role.max(*role);
        }
        if let (true, Some(account)) = (role_by_account.is_empty(), newcomers) {
            self.check_room(account)?;
            role_by_account.insert(account, Role::Member);
        }
        if role_by_account.is_empty() {
            return Err(Refused::IdentityUnknown);
        }
        let name = vouched.name.clone();
        let mut user =
            self.new_user(NewUser { email, name, password: None, operator: false }, ctx)?;
        user.identities.insert(vouched.identity.clone());
        let id = user.id;
        changes.push(PeopleChange::User(user));
        changes.extend(role_by_account.into_iter().map(|(account, role)| {
            PeopleChange::Membership(MembershipRecord { user: id, account, role, created: now })
        }));
        Ok((id, changes))
    }
}
