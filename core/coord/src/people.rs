//! The people of a broker: who they are, what they may, and how they show it.
//!
//! One state machine for the whole broker, driven as an [`crate::Account`] is: `prepare_*` decides,
//! the shell commits under a lease of its own, [`People::apply`] carries out. Passwords are hashed
//! in the shell; what comes in here is the PHC string or the word that it was right. Soft are: when
//! sessions and tokens were used last, sign-ins that wait for a second factor, second factors that
//! wait to be confirmed, and how many people each account may have (which the shell tells).
//!
//! There are no timers: what has expired is refused, and [`People::prepare_housekeeping`], which
//! the shell commits each [`crate::HOUSEKEEPING_INTERVAL`] and before it ends, sweeps it away.
//!
//! ```text
//! password:  right_password(e-mail) -> hash, checked by the shell
//!            -> handle_password -> Proof, or SecondFactor(secret) -> handle_code -> Proof
//! Proof      -> prepare_sign_in -> session
//! provider:  SsoVisits::begin -> (he goes there and comes back) -> SsoVisits::finish
//!            -> Vouched, checked by the shell -> prepare_single_sign_on -> session
//! ```

mod activity;
mod email;
mod enrolment;
mod index;
mod invitation;
mod link;
mod member;
mod password;
mod record;
mod right;
mod session;
mod sign_in;
mod single_sign_on;
mod throttle;
mod token;
mod totp;
mod user;

use std::collections::BTreeMap;

use warren_proto::{AccountId, ApiTokenId, InvitationId, UserId, WebSessionId};

use self::index::Index;
use self::sign_in::Half;
use crate::limit::Bucket;
use crate::{LeaseEpoch, Prepared, SecretHash, UnixTime};

pub use self::email::{Email, InvalidEmail};
pub use self::enrolment::Enrolment;
pub use self::invitation::{Invitation, InvitationCreated, NewInvitation};
pub use self::link::LinkCreated;
pub use self::member::Member;
pub use self::password::check_password;
pub use self::record::{
    ApiTokenRecord, Identity, InvitationRecord, LinkPurpose, LinkRecord, MembershipRecord,
    PasswordHash, PeopleChange, PeopleSnapshot, SignInMethod, TokenReach, TotpRecord, UserRecord,
    WebSessionRecord,
};
pub use self::right::{
    Asker, InvalidRole, InvalidScope, Right, Role, Scope, Standing, may, right_for_role,
};
pub use self::session::{ClientInfo, SESSION_IDLE, SESSION_LIFETIME, SignedIn, WebSessionCreated};
pub use self::sign_in::{Proof, SignInStep};
pub use self::single_sign_on::{SsoBegun, SsoPurpose, SsoReturned, SsoVisits, Vouched};
pub use self::throttle::SignInThrottle;
pub use self::token::{ApiTokenCreated, NewApiToken, TokenGrant};
pub use self::user::{NewUser, UserEdit};

/// The state machine of a broker's people. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct People {
    epoch: LeaseEpoch,
    users: BTreeMap<UserId, UserRecord>,
    memberships: BTreeMap<(UserId, AccountId), MembershipRecord>,
    invitations: BTreeMap<InvitationId, InvitationRecord>,
    sessions: BTreeMap<WebSessionId, WebSessionRecord>,
    tokens: BTreeMap<ApiTokenId, ApiTokenRecord>,
    links: BTreeMap<SecretHash, LinkRecord>,
    index: Index,
    sessions_used: BTreeMap<WebSessionId, UnixTime>,
    tokens_used: BTreeMap<ApiTokenId, UnixTime>,
    halves: BTreeMap<SecretHash, Half>,
    codes: BTreeMap<UserId, Bucket>,
    enrolments: BTreeMap<UserId, Enrolment>,
    user_limits: BTreeMap<AccountId, u32>,
}

impl People {
    /// Takes the people over as they were stored, under the lease that the caller has taken.
    pub fn new(snapshot: PeopleSnapshot, epoch: LeaseEpoch) -> Self {
        let mut people = Self {
            epoch,
            users: BTreeMap::new(),
            memberships: BTreeMap::new(),
            invitations: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            links: BTreeMap::new(),
            index: Index::default(),
            sessions_used: BTreeMap::new(),
            tokens_used: BTreeMap::new(),
            halves: BTreeMap::new(),
            codes: BTreeMap::new(),
            enrolments: BTreeMap::new(),
            user_limits: BTreeMap::new(),
        };
        let PeopleSnapshot { users, memberships, invitations, sessions, tokens, links } = snapshot;
        let changes = (users.into_iter().map(PeopleChange::User))
            .chain(memberships.into_iter().map(PeopleChange::Membership))
            .chain(invitations.into_iter().map(PeopleChange::Invitation))
            .chain(sessions.into_iter().map(PeopleChange::Session))
            .chain(tokens.into_iter().map(PeopleChange::Token))
            .chain(links.into_iter().map(PeopleChange::Link));
        changes.for_each(|change| people.put(change));
        people
    }

    /// The lease under which this process owns the people.
    pub fn epoch(&self) -> LeaseEpoch {
        self.epoch
    }

    /// All that is durable, as a store would load it.
    pub fn snapshot(&self) -> PeopleSnapshot {
        PeopleSnapshot {
            users: self.users.values().cloned().collect(),
            memberships: self.memberships.values().cloned().collect(),
            invitations: self.invitations.values().cloned().collect(),
            sessions: self.sessions.values().cloned().collect(),
            tokens: self.tokens.values().cloned().collect(),
            links: self.links.values().cloned().collect(),
        }
    }

    /// Carries out a decision whose changes have been committed.
    pub fn apply<R>(&mut self, prepared: Prepared<R, PeopleChange>) -> R {
        prepared.changes.into_iter().for_each(|change| self.put(change));
        prepared.reply
    }

    fn put(&mut self, change: PeopleChange) {
        match change {
            PeopleChange::User(user) => self.put_user(user),
            PeopleChange::UserRemoved(id) => self.drop_user(id),
            PeopleChange::Seen { user, at } => {
                if let Some(user) = self.users.get_mut(&user) {
                    user.last_seen = Some(at);
                }
            }
            PeopleChange::Membership(it) => {
                self.index.users_by_account.insert((it.account, it.user));
                self.memberships.insert((it.user, it.account), it);
            }
            PeopleChange::MembershipRemoved { user, account } => {
                self.index.users_by_account.remove(&(account, user));
                self.memberships.remove(&(user, account));
            }
            PeopleChange::Invitation(it) => {
                self.index.invitation_by_hash.insert(it.hash, it.id);
                self.invitations.insert(it.id, it);
            }
            PeopleChange::InvitationRemoved(id) => {
                if let Some(it) = self.invitations.remove(&id) {
                    self.index.invitation_by_hash.remove(&it.hash);
                }
            }
            PeopleChange::Session(session) => self.put_session(session),
            PeopleChange::SessionRemoved(id) => self.drop_session(id),
            PeopleChange::SessionUsed { session, at } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.last_used = at;
                }
            }
            PeopleChange::Token(token) => {
                self.index.token_by_hash.insert(token.hash, token.id);
                self.tokens.insert(token.id, token);
            }
            PeopleChange::TokenRemoved(id) => {
                self.tokens_used.remove(&id);
                if let Some(token) = self.tokens.remove(&id) {
                    self.index.token_by_hash.remove(&token.hash);
                }
            }
            PeopleChange::TokenUsed { token, at } => {
                if let Some(token) = self.tokens.get_mut(&token) {
                    token.last_used = Some(at);
                }
            }
            PeopleChange::Link(link) => {
                self.links.insert(link.hash, link);
            }
            PeopleChange::LinkRemoved(hash) => {
                self.links.remove(&hash);
            }
        }
    }
}
