//! Stands before every operation: who asks, and whether he may.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Extensions;
use http::request::Parts;
use warren_coord::{By, Refused, Right};
use warren_proto::AccountId;

use super::devices::find_device;
use super::operation::Needs;
use crate::accounts::AccountHandle;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::people::{Grant, Holder};

/// What the guard of one operation knows.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) broker: Arc<Broker>,
    pub(super) needs: Needs,
}

/// Lets a request through whose holder may do what it asks for.
pub(super) async fn check(
    State(guard): State<Guard>,
    path: RawPathParams,
    Granted(grant): Granted,
    mut request: Request,
    next: Next,
) -> ApiResult<Response> {
    let named = |name: &str| path.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    let account = named("account").map(|text| find_account(&guard.broker, &grant, text));
    let account = account.transpose()?;
    if let Some(account) = &account {
        guard.broker.people.read(|people| grant.check_open(people, account))?;
    }
    let right = match guard.needs {
        Needs::Any => None,
        Needs::Right(right) => {
            let id = account.as_deref().map(AccountHandle::id);
            require(&guard.broker, &grant, right, id)?;
            Some(right)
        }
        Needs::Device => {
            let account = account.as_ref().ok_or_else(|| Failure::not_found("account"))?;
            let device = find_device(account, named("device").unwrap_or_default())?;
            let owner = account.read(|account| account.device_owner(device));
            let is_own = owner.is_some() && owner == grant.user();
            let right = if is_own { Right::ManageOwnDevices } else { Right::ManageDevices };
            require(&guard.broker, &grant, right, Some(account.id()))?;
            Some(right)
        }
    };
    request.extensions_mut().insert(Again { broker: guard.broker, grant, right, account });
    Ok(next.run(request).await)
}

/// What the guard has asked, to be asked again once the whole request has arrived: that may take
/// a while, in which rights and tokens go.
#[derive(Clone)]
pub(super) struct Again {
    broker: Arc<Broker>,
    grant: Grant,
    right: Option<Right>,
    account: Option<Arc<AccountHandle>>,
}

impl Again {
    /// Asks, if a guard has.
    pub(super) fn ask(extensions: &Extensions) -> ApiResult<()> {
        extensions.get().map_or(Ok(()), Self::check)
    }

    fn check(&self) -> ApiResult<()> {
        self.broker.people.read(|people| {
            let grant = self.grant.renewed(people)?;
            if let Some(account) = &self.account {
                grant.check_open(people, account)?;
            }
            let id = self.account.as_deref().map(AccountHandle::id);
            self.right.map_or(Ok(()), |right| grant.require(people, right, id))
        })
    }
}

/// Refuses who has no right.
pub(super) fn require(
    broker: &Broker,
    grant: &Grant,
    right: Right,
    account: Option<AccountId>,
) -> ApiResult<()> {
    broker.people.read(|people| grant.require(people, right, account))
}

/// An account by name or id. To whom it isn't his to see, it isn't there.
fn find_account(broker: &Broker, grant: &Grant, text: &str) -> ApiResult<Arc<AccountHandle>> {
    let found = broker.accounts.find(text);
    if matches!(grant.holder, Holder::Local { .. }) {
        return found;
    }
    let not_there = || Failure::from(Refused::NotFound("account"));
    let account = found.map_err(|_| not_there())?;
    let standing = broker.people.read(|people| grant.standing(people, Some(account.id())));
    standing.map(|_| account).ok_or_else(not_there)
}

/// What the request's holder may.
pub(super) struct Granted(pub(super) Grant);

impl<S: Sync> FromRequestParts<S> for Granted {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let grant = parts.extensions.get().cloned();
        grant
            .map(Self)
            .ok_or_else(|| Failure::unavailable(&anyhow::anyhow!("nobody said who asks for this")))
    }
}

/// Who asks, as Activity names him.
pub(super) struct Asker(pub(super) By);

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Granted(grant) = Granted::from_request_parts(parts, state).await?;
        Ok(Self(grant.by()))
    }
}
