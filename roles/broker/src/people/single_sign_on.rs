//! Signing in by an OpenID provider's word.

use std::sync::Arc;
use std::time::Instant;

use warren_coord::{
    Actor, By, ClientInfo, SecretHash, SsoBegun, SsoPurpose, SsoReturned, SsoVisits, Vouched,
    WebSessionCreated,
};
use warren_proto::{AccountId, WebSessionId};

use super::PeopleHandle;
use crate::accounts::fresh_ctx;
use crate::api::problem::ApiResult;
use crate::server::source_of;

impl PeopleHandle {
    /// Sends a browser to the provider; it counts as an attempt to sign in.
    ///
    /// # Errors
    /// [`warren_coord::Refused::RateLimited`].
    pub(crate) fn begin_visit(
        &self,
        browser: SecretHash,
        purpose: SsoPurpose,
        client: &ClientInfo,
    ) -> ApiResult<SsoBegun> {
        let source = source_of(client.address);
        // Who it will be isn't known: the source's allowance counts alone.
        let nobody = format!("single sign-on {:x}", rand::random::<u128>());
        self.throttle().attempt(source, &nobody, Instant::now())?;
        Ok(self.visits(|visits| visits.begin(browser, purpose, &fresh_ctx())))
    }

    /// A browser is back from there.
    ///
    /// # Errors
    /// As [`SsoVisits::finish`].
    pub(crate) fn finish_visit(&self, browser: SecretHash, state: &str) -> ApiResult<SsoReturned> {
        Ok(self.visits(|visits| visits.finish(browser, state, Instant::now()))?)
    }

    /// Signs somebody in whom the provider vouches for.
    ///
    /// # Errors
    /// As [`warren_coord::People::prepare_single_sign_on`], or that the store can't.
    pub(crate) async fn sign_in_vouched(
        self: &Arc<Self>,
        vouched: Vouched,
        invitation: Option<String>,
        newcomers: Option<AccountId>,
        previous: Option<WebSessionId>,
        client: ClientInfo,
    ) -> ApiResult<WebSessionCreated> {
        let source = source_of(client.address);
        // Who it is shows in the decision; Activity names him then.
        let by = By { actor: Actor::Link, source: Some(client.address) };
        let created = self
            .durable(by, move |people, ctx| {
                let invitation = invitation.as_deref();
                people
                    .prepare_single_sign_on(&vouched, invitation, newcomers, previous, &client, ctx)
            })
            .await?;
        if let Some(user) = self.read(|people| people.user(created.user).cloned()) {
            self.throttle().succeeded(source, user.email.as_str());
        }
        Ok(created)
    }

    fn visits<R>(&self, change: impl FnOnce(&mut SsoVisits) -> R) -> R {
        change(&mut self.visits.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}
