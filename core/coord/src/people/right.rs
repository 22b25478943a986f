//! Who may do what, in one table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use warren_proto::{AccountId, UserId};

use super::{People, TokenGrant, TokenReach};

/// A word was no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a role is 'member', 'admin' or 'owner'")]
pub struct InvalidRole;

/// A word was no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no API token has such a scope; docs/operating.md lists them")]
pub struct InvalidScope;

/// What a user is in an account. Each may do what the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Uses the network with devices of his own.
    Member,
    /// Runs it: devices, relays, policy, people but owners.
    Admin,
    /// Answers for it.
    Owner,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Member, Self::Admin, Self::Owner];

    /// The role as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(s: &str) -> Result<Self, InvalidRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == s).ok_or(InvalidRole)
    }
}

/// How somebody stands to an account: by his role in it, or above all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A user of the account.
    Role(Role),
    /// An operator of the broker.
    Operator,
}

/// By what somebody asks for a change that depends on who he is at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// He is at the broker's local socket, or is the broker itself.
    Operator,
    /// He is signed in.
    User(UserId),
    /// He has an API token.
    Token(TokenGrant),
}

impl Asker {
    /// The user who asks, himself or by his token.
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::Operator => None,
            Self::User(id) => Some(*id),
            Self::Token(token) => token.creator,
        }
    }

    /// How he stands to an account, or (`None`) to the broker.
    pub fn standing(&self, people: &People, account: Option<AccountId>) -> Option<Standing> {
        match (self, account) {
            (Self::Operator, _) => Some(Standing::Operator),
            (Self::User(id), Some(account)) => people.standing(*id, account),
            (Self::User(id), None) => people.operator_standing(*id),
            (Self::Token(token), account) => {
                let reaches = match token.reach {
                    TokenReach::Broker => true,
                    TokenReach::Account(own) => account == Some(own),
                };
                reaches.then_some(token.standing)
            }
        }
    }

    /// Whether he has a right in an account, or (`None`) over the broker.
    pub fn may(&self, people: &People, right: Right, account: Option<AccountId>) -> bool {
        match self {
            Self::Operator => true,
            Self::User(_) => self.standing(people, account).is_some_and(|it| may(it, right)),
            Self::Token(token) => token.may(right, account),
        }
    }
}

/// Something that one needs a right for. Those from [`Right::ReadBroker`] on are about the broker,
/// the others about one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// See the account, its devices and relays, and the paths between devices.
    ReadAccount,
    /// Let devices join as one's own, rename and remove them.
    ManageOwnDevices,
    /// Change, approve, expire and remove any device.
    ManageDevices,
    /// See, create and delete join keys.
    ManageJoinKeys,
    /// Name connection relays; create and remove relay servers.
    ManageRelays,
    /// See the policy.
    ReadPolicy,
    /// Change the policy.
    ManagePolicy,
    /// See members and invitations.
    ReadPeople,
    /// Invite, change and remove members; remove admins.
    ManagePeople,
    /// Make admins.
    AppointAdmins,
    /// Make and unmake owners.
    ManageOwners,
    /// See Activity.
    ReadActivity,
    /// Say how long Activity is kept.
    ManageRetention,
    /// Change the account's settings.
    ManageSettings,
    /// See, create and delete webhooks.
    ManageWebhooks,
    /// See, create and delete API tokens of the account.
    ManageTokens,
    /// Delete the account.
    DeleteAccount,
    /// See the broker's state and metrics, and all accounts.
    ReadBroker,
    /// Create, suspend, limit and delete accounts.
    ManageAccounts,
    /// Create, suspend and remove users who are no operators.
    ManageUsers,
    /// Make and change operators; give users other ways to sign in: e-mail addresses, passwords.
    ManageOperators,
    /// Create and remove relays that are offered to all accounts.
    ManageOfferedRelays,
    /// Make a backup, restore one, change pins.
    ManageBroker,
}

/// What an API token is good for: a part of what its creator may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// `account:read`
    AccountRead,
    /// `devices:write`
    DevicesWrite,
    /// `join-keys:write`
    JoinKeysWrite,
    /// `relays:write`
    RelaysWrite,
    /// `policy:read`
    PolicyRead,
    /// `policy:write`
    PolicyWrite,
    /// `people:read`
    PeopleRead,
    /// `people:write`
    PeopleWrite,
    /// `activity:read`
    ActivityRead,
    /// `settings:write`
    SettingsWrite,
    /// `webhooks:write`
    WebhooksWrite,
    /// `broker:read`
    BrokerRead,
    /// `broker:write`
    BrokerWrite,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::ReadAccount,
        Self::ManageOwnDevices,
        Self::ManageDevices,
        Self::ManageJoinKeys,
        Self::ManageRelays,
        Self::ReadPolicy,
        Self::ManagePolicy,
        Self::ReadPeople,
        Self::ManagePeople,
        Self::AppointAdmins,
        Self::ManageOwners,
        Self::ReadActivity,
        Self::ManageRetention,
        Self::ManageSettings,
        Self::ManageWebhooks,
        Self::ManageTokens,
        Self::DeleteAccount,
        Self::ReadBroker,
        Self::ManageAccounts,
        Self::ManageUsers,
        Self::ManageOperators,
        Self::ManageOfferedRelays,
        Self::ManageBroker,
    ];

    /// The table: the least standing that has the right, and the scope that gives it to a token.
    /// Without a scope, only a signed-in person has it: a token must make itself neither others nor
    /// somebody who may sign in and do more.
    fn row(self) -> (Standing, Option<Scope>) {
        use Standing::Operator;
        const MEMBER: Standing = Standing::Role(Role::Member);
        const ADMIN: Standing = Standing::Role(Role::Admin);
        const OWNER: Standing = Standing::Role(Role::Owner);
        match self {
            Self::ReadAccount => (MEMBER, Some(Scope::AccountRead)),
            Self::ManageOwnDevices => (MEMBER, Some(Scope::DevicesWrite)),
            Self::ManageDevices => (ADMIN, Some(Scope::DevicesWrite)),
            Self::ManageJoinKeys => (ADMIN, Some(Scope::JoinKeysWrite)),
            Self::ManageRelays => (ADMIN, Some(Scope::RelaysWrite)),
            Self::ReadPolicy => (MEMBER, Some(Scope::PolicyRead)),
            Self::ManagePolicy => (ADMIN, Some(Scope::PolicyWrite)),
            Self::ReadPeople => (ADMIN, Some(Scope::PeopleRead)),
            Self::ManagePeople => (ADMIN, Some(Scope::PeopleWrite)),
            Self::AppointAdmins => (ADMIN, None),
            Self::ManageOwners => (OWNER, None),
            Self::ReadActivity => (ADMIN, Some(Scope::ActivityRead)),
            Self::ManageRetention => (OWNER, None),
            Self::ManageSettings => (ADMIN, Some(Scope::SettingsWrite)),
            Self::ManageWebhooks => (ADMIN, Some(Scope::WebhooksWrite)),
            Self::ManageTokens => (ADMIN, None),
            Self::DeleteAccount => (OWNER, None),
            Self::ReadBroker => (Operator, Some(Scope::BrokerRead)),
            Self::ManageAccounts => (Operator, Some(Scope::BrokerWrite)),
            Self::ManageUsers => (Operator, Some(Scope::BrokerWrite)),
            Self::ManageOperators => (Operator, None),
            Self::ManageOfferedRelays => (Operator, Some(Scope::BrokerWrite)),
            Self::ManageBroker => (Operator, None),
        }
    }

    /// The scope that an API token needs for it; `None`: no token will do.
    pub fn scope(self) -> Option<Scope> {
        self.row().1
    }

    /// Whether it is about the broker and not about one account.
    pub fn is_broker_wide(self) -> bool {
        self.row().0 == Standing::Operator
    }
}

/// Whether somebody who stands so to an account (or to the broker) has a right.
pub fn may(standing: Standing, right: Right) -> bool {
    standing >= right.row().0
}

/// What it takes to make somebody who is `from` in an account into `to` (`None`: not in it). Leaving
/// the account oneself needs no right.
pub fn right_for_role(from: Option<Role>, to: Option<Role>) -> Right {
    match (from, to) {
        (Some(Role::Owner), _) | (_, Some(Role::Owner)) => Right::ManageOwners,
        (_, Some(Role::Admin)) => Right::AppointAdmins,
        (_, Some(Role::Member) | None) => Right::ManagePeople,
    }
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::AccountRead,
        Self::DevicesWrite,
        Self::JoinKeysWrite,
        Self::RelaysWrite,
        Self::PolicyRead,
        Self::PolicyWrite,
        Self::PeopleRead,
        Self::PeopleWrite,
        Self::ActivityRead,
        Self::SettingsWrite,
        Self::WebhooksWrite,
        Self::BrokerRead,
        Self::BrokerWrite,
    ];

    /// The scope as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccountRead => "account:read",
            Self::DevicesWrite => "devices:write",
            Self::JoinKeysWrite => "join-keys:write",
            Self::RelaysWrite => "relays:write",
            Self::PolicyRead => "policy:read",
            Self::PolicyWrite => "policy:write",
            Self::PeopleRead => "people:read",
            Self::PeopleWrite => "people:write",
            Self::ActivityRead => "activity:read",
            Self::SettingsWrite => "settings:write",
            Self::WebhooksWrite => "webhooks:write",
            Self::BrokerRead => "broker:read",
            Self::BrokerWrite => "broker:write",
        }
    }

    /// Whether only an operator's token can have it.
    pub fn is_broker_wide(self) -> bool {
        matches!(self, Self::BrokerRead | Self::BrokerWrite)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(s: &str) -> Result<Self, InvalidScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == s).ok_or(InvalidScope)
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;

    fn try_from(s: String) -> Result<Self, InvalidScope> {
        s.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_gives_some_right_and_none_of_the_broker_to_an_account() {
        for scope in Scope::ALL {
            let rights: Vec<Right> =
                Right::ALL.into_iter().filter(|right| right.scope() == Some(scope)).collect();
            assert!(!rights.is_empty(), "{scope}");
            assert!(rights.iter().all(|it| it.is_broker_wide() == scope.is_broker_wide()));
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
    }

    #[test]
    fn who_stands_higher_may_do_all_that_others_may() {
        let ladder = [
            Standing::Role(Role::Member),
            Standing::Role(Role::Admin),
            Standing::Role(Role::Owner),
            Standing::Operator,
        ];
        for right in Right::ALL {
            let may: Vec<bool> = ladder.iter().map(|standing| may(*standing, right)).collect();
            assert!(may.is_sorted() && may[3], "{right:?}");
            assert_eq!(right.is_broker_wide(), !may[2], "{right:?}");
        }
    }

    #[test]
    fn only_an_owner_makes_or_unmakes_owners() {
        let may_change = |by, from, to| may(Standing::Role(by), right_for_role(from, to));
        for (from, to) in [(Some(Role::Owner), None), (None, Some(Role::Owner))] {
            assert!(!may_change(Role::Admin, from, to) && may_change(Role::Owner, from, to));
        }
        assert!(may_change(Role::Admin, Some(Role::Member), Some(Role::Admin)));
        assert!(!may_change(Role::Member, None, Some(Role::Member)));
    }

    #[test]
    fn no_token_makes_somebody_who_signs_in_as_more_than_a_member() {
        let role = |to| right_for_role(None, Some(to)).scope();
        assert_eq!(role(Role::Member), Some(Scope::PeopleWrite));
        assert_eq!((role(Role::Admin), role(Role::Owner)), (None, None));
        assert_eq!(right_for_role(Some(Role::Member), Some(Role::Admin)).scope(), None);
        assert_eq!(Right::ManageOperators.scope(), None);
        assert_eq!(Right::ManageRetention.scope(), None);
    }
}
