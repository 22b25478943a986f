//! API tokens.

use std::collections::BTreeSet;
use std::fmt;

use warren_proto::{AccountId, ApiTokenId, UserId};

use super::{ApiTokenRecord, People, PeopleChange, Right, Scope, Standing, TokenReach, may};
use crate::account::short;
use crate::secret::secret_text;
use crate::{Ctx, Prepared, Refused, SecretHash, UnixTime};

const MAX_NAME: usize = 100;
const MAX_PER_REACH: usize = 200;
/// What an API token begins with, so that scanners of leaked secrets can tell what it is.
const PREFIX: &str = "warren_";

/// What a new API token is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiToken {
    /// What it is called.
    pub name: String,
    /// What it is about.
    pub reach: TokenReach,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
    /// How long it is good, in seconds; `None`: until it is deleted.
    pub expires_in: Option<u64>,
    /// Who makes it; `None`: somebody at the broker's local socket.
    pub creator: Option<UserId>,
}

/// A new API token. The secret exists nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiTokenCreated {
    /// Its id.
    pub id: ApiTokenId,
    /// The secret, for the header `Authorization: Bearer`.
    pub secret: String,
    /// From when on it is no longer accepted.
    pub expires: Option<UnixTime>,
}

impl fmt::Debug for ApiTokenCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiTokenCreated({})", self.id)
    }
}

/// What the holder of an API token may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// The token.
    pub id: ApiTokenId,
    /// Its name.
    pub name: String,
    /// What it is about.
    pub reach: TokenReach,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
    /// How its creator stands to that: nobody may more by a token than by himself.
    pub standing: Standing,
    /// Who made it.
    pub creator: Option<UserId>,
}

impl TokenGrant {
    /// Whether the token gives a right in an account, or (`None`) over the broker.
    pub fn may(&self, right: Right, account: Option<AccountId>) -> bool {
        let reaches = match self.reach {
            TokenReach::Broker => true,
            TokenReach::Account(own) => account == Some(own),
        };
        let covered = right.scope().is_some_and(|scope| self.scopes.contains(&scope));
        reaches && covered && may(self.standing, right)
    }
}

impl People {
    /// Makes an API token.
    ///
    /// # Errors
    /// [`Refused::Invalid`] without a scope, for a scope of the broker in an account, or when there
    /// are 200 already; [`Refused::NotFound`] when its creator has no standing there.
    pub fn prepare_token(
        &self,
        new: NewApiToken,
        ctx: &Ctx,
    ) -> Result<Prepared<ApiTokenCreated, PeopleChange>, Refused> {
        let now = ctx.unix_time();
        let broker_wide = new.scopes.iter().any(|scope| scope.is_broker_wide());
        if new.scopes.is_empty() || (broker_wide && new.reach != TokenReach::Broker) {
            return Err(Refused::Invalid(
                "an API token has one scope at least, of what it is about",
            ));
        }
        if new.expires_in == Some(0) {
            return Err(Refused::Invalid("an API token is good for a second at least"));
        }
        if self.tokens(new.reach).count() >= MAX_PER_REACH {
            return Err(Refused::Invalid("there are 200 API tokens already; delete some"));
        }
        if self.creators_standing(new.creator, new.reach).is_none() {
            return Err(Refused::NotFound("account"));
        }
        let id = ctx.fresh_id("api token id", |id| self.tokens.contains_key(&ApiTokenId(id)));
        let secret = format!("{PREFIX}{}", secret_text(&ctx.bytes("api token secret")));
        let expires = new.expires_in.map(|lifetime| UnixTime(now.0.saturating_add(lifetime)));
        let name = short(new.name.trim(), MAX_NAME);
        let record = ApiTokenRecord {
            id: ApiTokenId(id),
            hash: SecretHash::of(&secret),
            name: if name.is_empty() { "token".to_owned() } else { name },
            reach: new.reach,
            scopes: new.scopes,
            creator: new.creator,
            created: now,
            expires,
            last_used: None,
        };
        let reply = ApiTokenCreated { id: ApiTokenId(id), secret, expires };
        Ok(Prepared { changes: vec![PeopleChange::Token(record)], reply })
    }

    /// Deletes an API token; it is refused from then on.
    ///
    /// # Errors
    /// [`Refused::NotFound`], also for one that is about something else.
    pub fn prepare_remove_token(
        &self,
        reach: TokenReach,
        id: ApiTokenId,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        match self.tokens.get(&id) {
            Some(token) if token.reach == reach => {
                Ok(Prepared { changes: vec![PeopleChange::TokenRemoved(id)], reply: () })
            }
            Some(_) | None => Err(Refused::NotFound("API token")),
        }
    }

    /// The API tokens of an account, or the broker's, by id; with when they were used last.
    pub fn tokens(&self, reach: TokenReach) -> impl Iterator<Item = ApiTokenRecord> {
        self.tokens.values().filter(move |token| token.reach == reach).map(|token| {
            let used = self.tokens_used.get(&token.id).copied();
            ApiTokenRecord { last_used: token.last_used.max(used), ..token.clone() }
        })
    }

    /// What the holder of this API token may; notes that it was used.
    pub fn token(&mut self, secret: &str, now: UnixTime) -> Option<TokenGrant> {
        let id = *self.index.token_by_hash.get(&SecretHash::of(secret))?;
        let grant = self.token_grant(id, now)?;
        self.tokens_used.insert(id, now);
        Some(grant)
    }

    /// What the holder of this API token may at this moment.
    pub fn token_grant(&self, id: ApiTokenId, now: UnixTime) -> Option<TokenGrant> {
        let token = self.tokens.get(&id)?;
        if token.expires.is_some_and(|end| end <= now) {
            return None;
        }
        Some(TokenGrant {
            id,
            name: token.name.clone(),
            reach: token.reach,
            scopes: token.scopes.clone(),
            standing: self.creators_standing(token.creator, token.reach)?,
            creator: token.creator,
        })
    }

    fn creators_standing(&self, creator: Option<UserId>, reach: TokenReach) -> Option<Standing> {
        let Some(creator) = creator else { return Some(Standing::Operator) };
        match reach {
            TokenReach::Account(account) => self.standing(creator, account),
            TokenReach::Broker => {
                let user = self.users.get(&creator)?;
                (user.operator && !user.suspended).then_some(Standing::Operator)
            }
        }
    }
}
