//! Showing who one is, counted and evenly slow.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;
use warren_coord::{
    Actor, By, ClientInfo, Email, PasswordHash, Proof, Refused, SignInStep, UnixTime, UserRecord,
    WebSessionCreated, WebSessionRecord,
};
use warren_proto::{UserId, WebSessionId};

use super::PeopleHandle;
use crate::accounts::fresh_ctx;
use crate::api::problem::ApiResult;
use crate::server::source_of;

impl PeopleHandle {
    /// Who is signed in with this secret (a cookie's), and in which session.
    pub(crate) fn session(&self, secret: &str) -> Option<(WebSessionRecord, UserRecord)> {
        self.soft(|people| {
            let found = people.session(secret, now())?;
            Some((found.session.clone(), found.user.clone()))
        })
    }

    /// The same for a page that looks for news by itself, which is no use of the session.
    pub(crate) fn idle_session(&self, secret: &str) -> Option<(WebSessionRecord, UserRecord)> {
        self.read(|people| {
            let found = people.idle_session(secret, now())?;
            Some((found.session.clone(), found.user.clone()))
        })
    }

    /// Hashes a password that is to be set. Ask [`warren_coord::check_password`] first.
    ///
    /// # Errors
    /// Too many at once.
    pub(crate) async fn hash(&self, password: String) -> ApiResult<PasswordHash> {
        self.hasher.hash(password).await
    }

    /// Checks an address and password. The answer and the time that it takes are the same whether
    /// there is such a user or not.
    ///
    /// # Errors
    /// [`Refused::SignInFailed`], [`Refused::RateLimited`]; [`Refused::UserSuspended`] once the
    /// password was right.
    pub(crate) async fn check_password(
        &self,
        email: &str,
        password: String,
        client: &ClientInfo,
    ) -> ApiResult<SignInStep> {
        let email: Result<Email, _> = email.parse();
        let typed = email.as_ref().map_or("", |email| email.as_str());
        self.throttle().attempt(source_of(client.address), typed, Instant::now())?;
        let known = email.as_ref().ok();
        let known = known.and_then(|email| self.read(|people| people.password_of(email)));
        let hash = known.as_ref().map(|(_, hash)| hash.clone());
        let right = self.hasher.verify(password, hash).await?;
        match known.filter(|_| right) {
            Some((user, hash)) => {
                Ok(self.soft(|people| people.handle_password(user, &hash, &fresh_ctx()))?)
            }
            None => {
                self.throttle().failed(typed, Instant::now());
                info!("a sign-in failed");
                tracing::debug!(address = %client.address, "a sign-in failed");
                Err(Refused::SignInFailed.into())
            }
        }
    }

    /// Counts an attempt with a link's secret.
    ///
    /// # Errors
    /// [`Refused::RateLimited`] for too many from where it comes, or with this one.
    pub(crate) fn try_link(&self, secret: &str, client: &ClientInfo) -> ApiResult<()> {
        Ok(self.throttle().attempt(source_of(client.address), secret, Instant::now())?)
    }

    /// Counts that somebody says that he has forgotten a user's password, whether there is such a user
    /// or not.
    ///
    /// # Errors
    /// [`Refused::RateLimited`] for too many from where it comes, or about this user from there.
    pub(crate) fn try_forgotten(&self, email: &Email, client: &ClientInfo) -> ApiResult<()> {
        // No address that is tried at sign-in has a space.
        let what = format!("forgotten {email}");
        Ok(self.throttle().attempt(source_of(client.address), &what, Instant::now())?)
    }

    /// Notes that the link was good: the attempt costs nothing.
    pub(crate) fn link_was_good(&self, secret: &str, client: &ClientInfo) {
        self.throttle().succeeded(source_of(client.address), secret);
    }

    /// Checks the second factor of a sign-in whose password was right.
    ///
    /// # Errors
    /// As [`warren_coord::People::handle_code`].
    pub(crate) fn check_code(
        &self,
        half: &str,
        code: &str,
        client: &ClientInfo,
    ) -> ApiResult<Proof> {
        self.throttle().attempt(source_of(client.address), half, Instant::now())?;
        Ok(self.soft(|people| people.handle_code(half, code, &fresh_ctx()))?)
    }

    /// Signs somebody in who has shown who he is: a new session, in place of the one that the
    /// browser had.
    ///
    /// # Errors
    /// As [`warren_coord::People::prepare_sign_in`], or that the store can't.
    pub(crate) async fn sign_in(
        self: &Arc<Self>,
        proof: Proof,
        previous: Option<WebSessionId>,
        client: ClientInfo,
    ) -> ApiResult<WebSessionCreated> {
        let source = source_of(client.address);
        let user = proof.user();
        let email = self.read(|people| people.user(user).map(|user| user.email.clone()));
        let email = email.ok_or(Refused::SignInFailed)?;
        let by = By {
            actor: Actor::User { id: user, email: email.clone() },
            source: Some(client.address),
        };
        let created = self
            .durable(by, move |people, ctx| people.prepare_sign_in(&proof, previous, &client, ctx))
            .await?;
        self.throttle().succeeded(source, email.as_str());
        Ok(created)
    }

    /// Asks a user who is signed in for his password again, before something that a stranger at
    /// his browser must not do. Who has none (he signs in by an OpenID provider) is not asked.
    ///
    /// # Errors
    /// [`Refused::SignInFailed`] or [`Refused::RateLimited`].
    pub(crate) async fn confirm_password(
        &self,
        user: UserId,
        password: String,
        address: IpAddr,
    ) -> ApiResult<()> {
        let (email, hash) = self
            .read(|people| people.user(user).map(|it| (it.email.clone(), it.password.clone())))
            .ok_or(Refused::SignInFailed)?;
        let Some(hash) = hash else { return Ok(()) };
        self.throttle().attempt(source_of(address), email.as_str(), Instant::now())?;
        if self.hasher.verify(password, Some(hash)).await? {
            self.throttle().succeeded(source_of(address), email.as_str());
            return Ok(());
        }
        self.throttle().failed(email.as_str(), Instant::now());
        Err(Refused::SignInFailed.into())
    }
}

fn now() -> UnixTime {
    UnixTime(fresh_ctx().unix.as_secs())
}
