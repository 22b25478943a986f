//! What is said about people and Activity.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warren_coord::{Email, Role};
use warren_proto::{AccountId, DeviceName, InvitationId, UserId};

use super::Time;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// His id.
    pub id: UserId,
    /// What he signs in with.
    pub email: Email,
    /// What he is called.
    pub name: String,
    /// Whether he is an operator of the broker.
    pub operator: bool,
    /// Whether he may not sign in.
    pub suspended: bool,
    /// Whether he has set a password.
    pub has_password: bool,
    /// Whether he has a second factor.
    pub has_second_factor: bool,
    /// What he is in which account, by the account's name.
    pub accounts: BTreeMap<DeviceName, Role>,
    /// In how many browsers he is signed in.
    pub sessions: usize,
    /// When he was created.
    pub created: Time,
    /// When he was active last.
    pub last_seen: Option<Time>,
}

/// Asks for a new user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// What he signs in with.
    pub email: Email,
    /// What he is called; what stands before the `@` unless given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether he is an operator of the broker.
    #[serde(default)]
    pub operator: bool,
}

/// Changes a user; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// What he signs in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// What he is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether he is an operator of the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<bool>,
    /// Whether he may not sign in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
}

/// A user, and the link by which he sets his password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserCreated {
    /// The user.
    pub user: User,
    /// Works once, within a day: hand it over as a secret.
    pub link: String,
    /// From when on it isn't accepted.
    pub expires: Time,
}

/// Asks for a link by which a user sets his password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPasswordLink {
    /// Whether it takes his second factor away, too.
    #[serde(default)]
    pub second_factor: bool,
}

/// A one-time link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// Works once: hand it over as a secret.
    pub link: String,
    /// From when on it isn't accepted.
    pub expires: Time,
}

/// A role that somebody is to have in an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The role.
    pub role: Role,
}

/// Asks for an invitation to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    /// The role that it gives.
    pub role: Role,
    /// The only one who may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// How long it is good, in seconds; a week unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// Whether the broker mails the link to that address.
    #[serde(default)]
    pub mail: bool,
}

/// Asks for a mail that shows whether mail works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailTest {
    /// To whom.
    pub to: Email,
}

/// An invitation, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// The role that it gives.
    pub role: Role,
    /// The only one who may use it.
    pub email: Option<Email>,
    /// When it was made.
    pub created: Time,
    /// From when on it isn't accepted.
    pub expires: Time,
    /// What became of its mail, in words, if it was mailed since the broker's start.
    pub mail: Option<String>,
}

/// A new invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvitationCreated {
    /// Its id, safe to show.
    pub id: InvitationId,
    /// Works once: hand it over as a secret.
    pub link: String,
    /// From when on it isn't accepted.
    pub expires: Time,
    /// Whether a mail with the link is on its way.
    pub mailed: bool,
}

/// Which entries of Activity are wanted: those that fit all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivityQuery {
    /// Those that concern this account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whose actor has this id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Whose action begins with this: `device`, `device.renamed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Whose subject has this id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Not before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// How many at most: 100 unless given, 1,000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which entries of Activity are to be exported: those that fit all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// Those that concern this account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whose actor has this id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Whose action begins with this: `device`, `device.renamed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Whose subject has this id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Not before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

impl From<ActivityQuery> for ExportQuery {
    fn from(query: ActivityQuery) -> Self {
        let ActivityQuery { account, actor, action, subject, since, until, cursor: _, limit: _ } =
            query;
        Self { account, actor, action, subject, since, until }
    }
}

/// Something or somebody, as it was called then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    /// What it is.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What it was called.
    pub name: String,
}

/// A fact that has changed; of a secret neither side is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldChange {
    /// Which.
    pub field: String,
    /// What it was.
    pub before: Option<String>,
    /// What it became.
    pub after: Option<String>,
}

/// An entry of Activity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActivityEntry {
    /// When.
    pub at: Time,
    /// When, in milliseconds since the Unix epoch: as the hash has it.
    pub at_millis: u64,
    /// Who.
    pub actor: Named,
    /// From where.
    pub source: Option<IpAddr>,
    /// The account that it concerns.
    pub account: Option<AccountId>,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: Named,
    /// What it changed.
    pub changes: Vec<FieldChange>,
    /// Its chain: `broker`, or an account's id.
    pub chain: String,
    /// Its number there.
    pub sequence: u64,
    /// The hash of the entry before it.
    pub previous: String,
    /// Its own hash.
    pub hash: String,
}

/// Some entries of Activity, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActivityPage {
    /// They.
    pub entries: Vec<ActivityEntry>,
    /// Where older ones begin.
    pub next: Option<String>,
}

/// A chain of Activity that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChainState {
    /// `broker`, or an account's id.
    pub chain: String,
    /// How many entries it has.
    pub entries: u64,
    /// Its newest entry's number and hash, if all is well. Whoever keeps it elsewhere can tell
    /// later whether anything was changed.
    pub head: Option<ChainHead>,
    /// The first entry that doesn't follow from the one before.
    pub broken_at: Option<u64>,
}

/// The newest entry of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChainHead {
    /// Its number.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
}
