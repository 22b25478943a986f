//! People as they are stored.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use warren_proto::{AccountId, ApiTokenId, InvitationId, UserId, WebSessionId};

use super::email::Email;
use super::right::{Role, Scope};
use crate::{SecretHash, UnixTime};

/// A password's hash in PHC string form (`$argon2id$…`).
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// A second factor: what an authenticator app shares with the broker.
#[derive(Clone, PartialEq, Eq)]
pub struct TotpRecord {
    /// The shared secret.
    pub secret: [u8; 20],
    /// The step (RFC 6238) of the newest code that was used: none up to it is accepted again.
    pub last_step: u64,
}

impl fmt::Debug for TotpRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TotpRecord(last step {})", self.last_step)
    }
}

/// Who somebody is at an OpenID provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The provider's issuer URL.
    pub issuer: String,
    /// The provider's unchanging name for him.
    pub subject: String,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// His id.
    pub id: UserId,
    /// What he signs in with, unique at the broker.
    pub email: Email,
    /// What he is called.
    pub name: String,
    /// His password's hash; `None`: he has none (yet), or signs in by an OpenID provider.
    pub password: Option<PasswordHash>,
    /// His second factor.
    pub totp: Option<TotpRecord>,
    /// The hashes of the recovery codes that he has not used.
    pub recovery_codes: BTreeSet<SecretHash>,
    /// Who he is at OpenID providers.
    pub identities: BTreeSet<Identity>,
    /// Whether he has rights over the broker itself.
    pub operator: bool,
    /// Whether he may not sign in.
    pub suspended: bool,
    /// When he was created.
    pub created: UnixTime,
    /// When he was active last; written in batches.
    pub last_seen: Option<UnixTime>,
}

/// What a user is in an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipRecord {
    /// The user.
    pub user: UserId,
    /// The account.
    pub account: AccountId,
    /// His role in it.
    pub role: Role,
    /// Since when.
    pub created: UnixTime,
}

/// An invitation to an account. It is gone when it was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationRecord {
    /// Its id.
    pub id: InvitationId,
    /// The hash of the secret in its link.
    pub hash: SecretHash,
    /// The account.
    pub account: AccountId,
    /// The role that it gives.
    pub role: Role,
    /// The only one who may use it, if it says so.
    pub email: Option<Email>,
    /// Who made it: it is good as long as he may. `None`: somebody at the broker's local socket.
    pub creator: Option<UserId>,
    /// When it was made.
    pub created: UnixTime,
    /// From when on it is no longer accepted.
    pub expires: UnixTime,
}

/// How somebody has shown who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignInMethod {
    /// By his password alone.
    Password,
    /// By his password and a code from his authenticator app.
    PasswordAndCode,
    /// By his password and a recovery code.
    PasswordAndRecoveryCode,
    /// By an OpenID provider.
    Oidc,
    /// By a one-time link: set-up, invitation or password reset.
    Link,
}

impl SignInMethod {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Password,
        Self::PasswordAndCode,
        Self::PasswordAndRecoveryCode,
        Self::Oidc,
        Self::Link,
    ];

    /// The method as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::PasswordAndCode => "password-and-code",
            Self::PasswordAndRecoveryCode => "password-and-recovery-code",
            Self::Oidc => "oidc",
            Self::Link => "link",
        }
    }
}

/// A browser in which somebody is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSessionRecord {
    /// Its id.
    pub id: WebSessionId,
    /// The hash of the secret in its cookie.
    pub hash: SecretHash,
    /// Who is signed in.
    pub user: UserId,
    /// How he showed who he is.
    pub method: SignInMethod,
    /// The browser, as it calls itself; at most 200 bytes.
    pub user_agent: String,
    /// Where it was at sign-in.
    pub address: IpAddr,
    /// When he signed in.
    pub created: UnixTime,
    /// When it was used last; written in batches.
    pub last_used: UnixTime,
    /// When it ends, used or not.
    pub expires: UnixTime,
}

/// What an API token is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenReach {
    /// One account.
    Account(AccountId),
    /// The broker: all accounts.
    Broker,
}

/// An API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTokenRecord {
    /// Its id.
    pub id: ApiTokenId,
    /// The hash of the secret.
    pub hash: SecretHash,
    /// What its creator calls it.
    pub name: String,
    /// What it is about.
    pub reach: TokenReach,
    /// What it is good for: as long as its creator may do that himself.
    pub scopes: BTreeSet<Scope>,
    /// Who made it; `None`: somebody at the broker's local socket.
    pub creator: Option<UserId>,
    /// When it was made.
    pub created: UnixTime,
    /// From when on it is no longer accepted.
    pub expires: Option<UnixTime>,
    /// When it was used last; written in batches.
    pub last_used: Option<UnixTime>,
}

/// What a one-time link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkPurpose {
    /// Making the first operator.
    SetUp,
    /// Setting a password, and, if it says so, being rid of a lost second factor.
    Password {
        /// Whose.
        user: UserId,
        /// Whether his second factor goes, too.
        second_factor: bool,
    },
}

/// A one-time link. It is gone when it was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRecord {
    /// The hash of its secret.
    pub hash: SecretHash,
    /// What it is for.
    pub purpose: LinkPurpose,
    /// From when on it is no longer accepted.
    pub expires: UnixTime,
}

/// One durable change of the people. Records are whole: written in place of what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeopleChange {
    /// A user is new or has changed.
    User(UserRecord),
    /// A user is gone. What belonged to him was removed before.
    UserRemoved(UserId),
    /// A user was active.
    Seen {
        /// Who.
        user: UserId,
        /// When.
        at: UnixTime,
    },
    /// A user's role in an account is new or has changed.
    Membership(MembershipRecord),
    /// A user is no longer in an account.
    MembershipRemoved {
        /// Who.
        user: UserId,
        /// In which account.
        account: AccountId,
    },
    /// An invitation is new.
    Invitation(InvitationRecord),
    /// An invitation is gone.
    InvitationRemoved(InvitationId),
    /// Somebody has signed in.
    Session(WebSessionRecord),
    /// A session has ended.
    SessionRemoved(WebSessionId),
    /// A session was used.
    SessionUsed {
        /// Which one.
        session: WebSessionId,
        /// When.
        at: UnixTime,
    },
    /// An API token is new.
    Token(ApiTokenRecord),
    /// An API token is gone.
    TokenRemoved(ApiTokenId),
    /// An API token was used.
    TokenUsed {
        /// Which one.
        token: ApiTokenId,
        /// When.
        at: UnixTime,
    },
    /// A one-time link is new.
    Link(LinkRecord),
    /// A one-time link is gone.
    LinkRemoved(SecretHash),
}

/// All of the people that is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeopleSnapshot {
    /// Users, by id.
    pub users: Vec<UserRecord>,
    /// Memberships, by user and account.
    pub memberships: Vec<MembershipRecord>,
    /// Invitations, by id.
    pub invitations: Vec<InvitationRecord>,
    /// Browsers' sessions, by id.
    pub sessions: Vec<WebSessionRecord>,
    /// API tokens, by id.
    pub tokens: Vec<ApiTokenRecord>,
    /// One-time links, by hash.
    pub links: Vec<LinkRecord>,
}

impl PeopleSnapshot {
    /// What the snapshot is after a commit of `changes`: the meaning that every store gives them.
    pub fn apply(&mut self, changes: &[PeopleChange]) {
        for change in changes {
            self.apply_one(change);
        }
        self.users.sort_by_key(|user| user.id);
        self.memberships.sort_by_key(|it| (it.user, it.account));
        self.invitations.sort_by_key(|invitation| invitation.id);
        self.sessions.sort_by_key(|session| session.id);
        self.tokens.sort_by_key(|token| token.id);
        self.links.sort_by_key(|link| link.hash);
    }

    fn apply_one(&mut self, change: &PeopleChange) {
        match change {
            PeopleChange::User(user) => put(&mut self.users, user, |it| it.id),
            PeopleChange::UserRemoved(id) => self.users.retain(|user| user.id != *id),
            PeopleChange::Seen { user: id, at } => {
                for user in self.users.iter_mut().filter(|user| user.id == *id) {
                    user.last_seen = Some(*at);
                }
            }
            PeopleChange::Membership(membership) => {
                put(&mut self.memberships, membership, |it| (it.user, it.account));
            }
            PeopleChange::MembershipRemoved { user, account } => {
                self.memberships.retain(|it| (it.user, it.account) != (*user, *account));
            }
            PeopleChange::Invitation(it) => put(&mut self.invitations, it, |it| it.id),
            PeopleChange::InvitationRemoved(id) => self.invitations.retain(|it| it.id != *id),
            PeopleChange::Session(session) => put(&mut self.sessions, session, |it| it.id),
            PeopleChange::SessionRemoved(id) => self.sessions.retain(|it| it.id != *id),
            PeopleChange::SessionUsed { session: id, at } => {
                for session in self.sessions.iter_mut().filter(|it| it.id == *id) {
                    session.last_used = *at;
                }
            }
            PeopleChange::Token(token) => put(&mut self.tokens, token, |it| it.id),
            PeopleChange::TokenRemoved(id) => self.tokens.retain(|it| it.id != *id),
            PeopleChange::TokenUsed { token: id, at } => {
                for token in self.tokens.iter_mut().filter(|it| it.id == *id) {
                    token.last_used = Some(*at);
                }
            }
            PeopleChange::Link(link) => put(&mut self.links, link, |it| it.hash),
            PeopleChange::LinkRemoved(hash) => self.links.retain(|it| it.hash != *hash),
        }
    }
}

fn put<T: Clone, K: PartialEq>(all: &mut Vec<T>, one: &T, key: impl Fn(&T) -> K) {
    all.retain(|other| key(other) != key(one));
    all.push(one.clone());
}
