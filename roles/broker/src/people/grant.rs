//! What a request may, worked out once.

use std::net::IpAddr;

use warren_coord::{
    Actor, ApiTokenRecord, Asker, By, Email, People, Refused, Right, Standing, TokenGrant,
    TokenReach, UnixTime,
};
use warren_proto::{AccountId, ErrorCode, UserId};

use crate::accounts::AccountHandle;
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
    #[cfg_attr(not(test), expect(dead_code, reason = "the portal's pages ask by their own viewer"))]
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

    /// The same at this moment: his token may have been deleted, and its creator be less.
    ///
    /// # Errors
    /// There is no such token any more.
    pub(crate) fn renewed(&self, people: &People) -> ApiResult<Self> {
        let Holder::Token(token) = &self.holder else { return Ok(self.clone()) };
        let now = UnixTime(crate::accounts::fresh_ctx().unix.as_secs());
        let token = people.token_grant(token.id, now).ok_or_else(|| {
            Failure::new(ErrorCode::SignInRequired, "this API token is no longer valid")
        })?;
        Ok(Self { holder: Holder::Token(token), source: self.source })
    }

    /// By what he asks, for decisions that depend on it.
    pub(crate) fn asker(&self) -> Asker {
        match &self.holder {
            Holder::Local { .. } => Asker::Operator,
            Holder::User { id, .. } => Asker::User(*id),
            Holder::Token(token) => Asker::Token(token.clone()),
        }
    }

    /// How he stands to an account, or (`None`) to the broker.
    pub(crate) fn standing(&self, people: &People, account: Option<AccountId>) -> Option<Standing> {
        self.asker().standing(people, account)
    }

    /// Refuses whoever isn't above all accounts if this one is suspended.
    ///
    /// # Errors
    /// It is.
    pub(crate) fn check_open(&self, people: &People, account: &AccountHandle) -> ApiResult<()> {
        let is_above = match &self.holder {
            Holder::Local { .. } => true,
            Holder::User { id, .. } => {
                people.standing(*id, account.id()) == Some(Standing::Operator)
            }
            Holder::Token(token) => token.reach == TokenReach::Broker,
        };
        if is_above || !account.is_suspended() {
            Ok(())
        } else {
            Err(Refused::AccountSuspended.into())
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
        let asker = self.asker();
        if asker.may(people, right, account) {
            return Ok(());
        }
        Err(match (asker.standing(people, account), account) {
            (None, Some(_)) => Refused::NotFound("account").into(),
            (Some(_) | None, _) => Refused::Forbidden.into(),
        })
    }
}
