//! Who asks: somebody who is signed in, and what he may do in which account.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts, Path};
use http::request::Parts;
use http::{Extensions, Method};
use warren_coord::{Actor, By, Email, Right, Role, Standing, may};
use warren_proto::{AccountId, UserId, WebSessionId};

use super::Portal;
use super::answer::Oops;
use super::browser::{Browser, SESSION};
use crate::accounts::AccountHandle;
use crate::api::extract::{client_ip, peer};
use crate::server::Holder;

/// Somebody who is signed in.
pub(super) struct Viewer {
    pub(super) browser: Browser,
    pub(super) user: UserId,
    pub(super) session: WebSessionId,
    pub(super) name: String,
    pub(super) email: Email,
    pub(super) is_operator: bool,
    pub(super) source: IpAddr,
    /// The session's secret, to see whether it is still good.
    secret: String,
}

impl Viewer {
    /// His accounts, by name, with his role in each.
    pub(super) fn accounts(&self, portal: &Portal) -> Vec<(Arc<AccountHandle>, Role)> {
        let memberships: Vec<(AccountId, Role)> = portal
            .broker
            .people
            .read(|people| people.memberships(self.user).map(|it| (it.account, it.role)).collect());
        let find = |(account, role)| Some((portal.broker.accounts.get(account)?, role));
        let mut accounts: Vec<_> = memberships.into_iter().filter_map(find).collect();
        accounts.sort_by_key(|(account, _)| account.record().name);
        accounts
    }

    /// Who asks for a change, for Activity.
    pub(super) fn by(&self) -> By {
        let actor = Actor::User { id: self.user, email: self.email.clone() };
        By { actor, source: Some(self.source) }
    }
}

impl FromRequestParts<Arc<Portal>> for Viewer {
    type Rejection = Oops;

    async fn from_request_parts(parts: &mut Parts, portal: &Arc<Portal>) -> Result<Self, Oops> {
        let browser = Browser::from_request_parts(parts, portal).await?;
        let path = if parts.method == Method::GET { browser.path.clone() } else { "/".to_owned() };
        let source = client_ip(parts, &portal.trusted_proxies)?;
        let secret = portal.jar.read(&parts.headers, SESSION).unwrap_or_default().to_owned();
        let people = &portal.broker.people;
        let signed_in = match browser.is_live {
            true => people.idle_session(&secret),
            false => people.session(&secret),
        };
        let (session, user) = signed_in.ok_or(Oops::SignIn { path })?;
        peer(parts)?.set_known(Holder::Browser(session.id));
        let (secret_then, is_operator) = (secret.clone(), user.operator);
        parts.extensions.insert(Again { secret: secret_then, is_operator, within: None });
        Ok(Self {
            browser,
            user: user.id,
            session: session.id,
            name: user.name,
            email: user.email,
            is_operator: user.operator,
            source,
            secret,
        })
    }
}

impl OptionalFromRequestParts<Arc<Portal>> for Viewer {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        portal: &Arc<Portal>,
    ) -> Result<Option<Self>, Infallible> {
        Ok(<Self as FromRequestParts<_>>::from_request_parts(parts, portal).await.ok())
    }
}

/// What somebody was when his request began, to be looked at again once all of it has arrived: that
/// may take a while, in which sessions and rights go.
#[derive(Clone)]
pub(super) struct Again {
    secret: String,
    is_operator: bool,
    within: Option<(Arc<AccountHandle>, Standing)>,
}

impl Again {
    /// Refuses who isn't that any more.
    pub(super) fn ask(extensions: &Extensions, portal: &Portal) -> Result<(), Oops> {
        let Some(Self { secret, is_operator, within }) = extensions.get() else { return Ok(()) };
        let people = &portal.broker.people;
        let signed_in = people.session(secret);
        let (_, user) = signed_in.ok_or_else(|| Oops::SignIn { path: "/".to_owned() })?;
        let is_same = within.as_ref().is_none_or(|(account, then)| {
            let standing = people.read(|people| people.standing(user.id, account.id()));
            standing == Some(*then) && (*then == Standing::Operator || !account.is_suspended())
        });
        if is_same && user.operator == *is_operator { Ok(()) } else { Err(Oops::forbidden()) }
    }
}

/// Somebody before the pages of an account that is his to see.
pub(super) struct Member {
    pub(super) viewer: Viewer,
    pub(super) account: Arc<AccountHandle>,
    /// The account's name, as in the page's address.
    pub(super) name: String,
    pub(super) standing: Standing,
}

impl Member {
    /// Whether he has a right in the account.
    pub(super) fn may(&self, right: Right) -> bool {
        may(self.standing, right)
    }

    /// Refuses who hasn't.
    pub(super) fn check(&self, right: Right) -> Result<(), Oops> {
        if self.may(right) { Ok(()) } else { Err(Oops::forbidden()) }
    }

    /// Who asks for a change, for Activity.
    pub(super) fn by(&self) -> By {
        self.viewer.by()
    }

    /// Whether he is still signed in and this account his to see.
    pub(super) fn is_still_in(&self, portal: &Portal) -> bool {
        let people = &portal.broker.people;
        let account = self.account.id();
        let standing = people.read(|people| people.standing(self.viewer.user, account));
        let is_open = standing == Some(Standing::Operator) || !self.account.is_suspended();
        people.idle_session(&self.viewer.secret).is_some()
            && portal.broker.accounts.get(account).is_some()
            && standing.is_some()
            && is_open
    }

    /// A path below the account's.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/a/{}/{rest}", self.name)
    }
}

impl FromRequestParts<Arc<Portal>> for Member {
    type Rejection = Oops;

    async fn from_request_parts(parts: &mut Parts, portal: &Arc<Portal>) -> Result<Self, Oops> {
        let viewer =
            <Viewer as FromRequestParts<Arc<Portal>>>::from_request_parts(parts, portal).await?;
        let named =
            <Path<HashMap<String, String>> as FromRequestParts<Arc<Portal>>>::from_request_parts(
                parts, portal,
            )
            .await;
        let named = named.ok().and_then(|Path(mut path)| path.remove("account"));
        let name = named.ok_or_else(|| Oops::not_found("account"))?;
        let all = portal.broker.accounts.all();
        let found = all.into_iter().find(|account| account.record().name.as_str() == name);
        // Somebody else's account isn't there for him.
        let account = found.ok_or_else(|| Oops::not_found("account"))?;
        let standing = portal.broker.people.read(|it| it.standing(viewer.user, account.id()));
        let standing = standing.ok_or_else(|| Oops::not_found("account"))?;
        if standing != Standing::Operator && account.is_suspended() {
            return Err(Oops::suspended());
        }
        parts.extensions.insert(Again {
            secret: viewer.secret.clone(),
            is_operator: viewer.is_operator,
            within: Some((account.clone(), standing)),
        });
        Ok(Self { viewer, account, name, standing })
    }
}
