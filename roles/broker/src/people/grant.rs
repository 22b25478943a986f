//! What a request may, worked out once.

use std::net::IpAddr;

use warren_coord::{
    Actor, ApiTokenRecord, By, Email, People, Refused, Right, Standing, TokenGrant, UnixTime, may,
};
use warren_proto::{AccountId, ErrorCode, UserId};

use crate::api::problem::{ApiResult, Failure};

/// Who asks, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// By what he may.
    pub(crate) holder: Holder,
    /// From where; `None`: the local socket.
    pub(crate) source: Option<IpAddr>,
}

/// By what somebody may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// He is at the broker's local socket: an operator.
    Local {
        /// His user id at the operating system.
        uid: u32,
    },
    /// He is signed in.
    User {
        /// Who.
        id: UserId,
        /// His e-mail address.
        email: Email,
    },
    /// He has an API token.
    Token(TokenGrant),
}

impl Grant {
    /// An operator at the local socket.
    pub(crate) fn local(uid: u32) -> Self {
        Self { holder: Holder::Local { uid }, source: None }
    }

    /// As Activity names him.
    pub(crate) fn by(&self) -> By {
        let actor = match &self.holder {
            Holder::Local { uid } => Actor::Local { uid: *uid },
            Holder::User { id, email } => Actor::User { id: *id, email: email.clone() },
            Holder::Token(token) => Actor::Token { id: token.id, name: token.name.clone() },
        };
        By { actor, source: self.source }
    }

    /// The user whom this is about, if it is one.
    pub(crate) fn user(&self) -> Option<UserId> {
        match &self.holder {
            Holder::Local { .. } => None,
            Holder::User { id, .. } => Some(*id),
            Holder::Token(token) => token.creator,
        }
    }

    /// Whether it is still good: a token may have been deleted since.
    pub(crate) fn is_good(&self, people: &People) -> bool {
        let Holder::Token(token) = &self.holder else { return true };
        let now = UnixTime(crate::accounts::fresh_ctx().unix.as_secs());
        let same = |it: &ApiTokenRecord| it.id == token.id;
        let record = people.tokens(token.reach).find(same);
        record.is_some_and(|it| it.expires.is_none_or(|end| end > now))
    }

    /// How he stands to an account, or (`None`) to the broker.
    pub(crate) fn standing(&self, people: &People, account: Option<AccountId>) -> Option<Standing> {
        match &self.holder {
            Holder::Local { .. } => Some(Standing::Operator),
            Holder::User { id, .. } => match account {
                Some(account) => people.standing(*id, account),
                None => {
                    let user = people.user(*id).filter(|user| !user.suspended)?;
                    user.operator.then_some(Standing::Operator)
                }
            },
            Holder::Token(token) => {
                let reaches = match token.reach {
                    warren_coord::TokenReach::Broker => true,
                    warren_coord::TokenReach::Account(own) => account == Some(own),
                };
                reaches.then_some(token.standing)
            }
        }
    }

    /// Refuses who has no right in an account, or (`None`) over the broker. An account that he has
    /// nothing to do with isn't there for him.
    ///
    /// # Errors
    /// Not found, or forbidden.
    pub(crate) fn require(
        &self,
        people: &People,
        right: Right,
        account: Option<AccountId>,
    ) -> ApiResult<()> {
        let Some(standing) = self.standing(people, account) else {
            return Err(match account {
                Some(_) => Refused::NotFound("account").into(),
                None => forbidden(),
            });
        };
        let allowed = match &self.holder {
            Holder::Local { .. } | Holder::User { .. } => may(standing, right),
            Holder::Token(token) => token.may(right, account),
        };
        if allowed { Ok(()) } else { Err(forbidden()) }
    }
}

fn forbidden() -> Failure {
    Failure::new(ErrorCode::Forbidden, "you have no right to this; ask an owner of the account")
}
