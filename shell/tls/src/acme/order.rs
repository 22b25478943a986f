//! One order: account, order, proof by TLS-ALPN-01, certificate (RFC 8555 §7).

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use instant_acme::{
    Account, AccountBuilder, AuthorizationStatus, ChallengeType, Error, Identifier, Key,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{info, warn};

use super::client::Client;
use super::files::SecretFiles;
use super::resolver::Resolver;

/// How long an order may take, all in all.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// How often the authority is asked how far it is, unless it says when.
const POLLS: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(PATIENCE);

/// The pause when an authority says that there were too many orders, and not how long that is so.
const RATE_LIMITED: Duration = Duration::from_secs(3600);

/// Where certificates are ordered, and as whom.
pub(super) struct Authority {
    pub(super) directory: String,
    pub(super) contact: Option<String>,
    pub(super) client: Client,
    /// The account's key, once it is known: PKCS #8 in DER.
    pub(super) account: Option<Vec<u8>>,
}

impl Authority {
    /// Orders a certificate for `domain`, which `resolver` proves. Returns its key and its chain, in PEM.
    ///
    /// # Errors
    /// The authority can't be reached, or refuses.
    pub(super) async fn order(
        &mut self,
        domain: &str,
        files: &SecretFiles,
        resolver: &Resolver,
    ) -> Result<String> {
        let account = self.account(files).await.context("no account at the ACME authority")?;
        let names = [Identifier::Dns(domain.to_owned())];
        let order = account.new_order(&NewOrder::new(&names)).await;
        let mut order = order.context("the order wasn't taken")?;
        prove(&mut order, domain, resolver).await?;
        let status = order.poll_ready(&POLLS).await.context("the domain wasn't validated")?;
        if status == OrderStatus::Invalid {
            bail!("the domain wasn't validated: {}", refusal(&mut order).await);
        }
        let key = order.finalize().await.context("the order can't be finalized")?;
        let chain = order.poll_certificate(&POLLS).await.context("the certificate isn't given")?;
        Ok(format!("{key}\n{chain}"))
    }

    /// The pause that the authority wants after `error`, if it wants one.
    pub(super) fn wish(&self, error: &anyhow::Error) -> Option<Duration> {
        let said = self.client.take_retry_after();
        let is_limited = error.downcast_ref().is_some_and(|error| is(error, "rateLimited"));
        said.or_else(|| is_limited.then_some(RATE_LIMITED))
    }

    async fn account(&mut self, files: &SecretFiles) -> Result<Account> {
        if self.account.is_none() {
            self.account = files.load_account().await?;
        }
        if let Some(der) = &self.account {
            let der = PrivatePkcs8KeyDer::from(der.clone());
            match self.known_account(der).await {
                Ok(account) => return Ok(account),
                Err(Error::KeyRejected) => warn!("the kept ACME account is damaged"),
                Err(error) if is(&error, "accountDoesNotExist") => {
                    info!("the ACME authority doesn't know the kept account");
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.new_account(files).await
    }

    async fn known_account(&self, der: PrivatePkcs8KeyDer<'static>) -> Result<Account, Error> {
        let key = Key::from_pkcs8_der(der.clone_key())?;
        let key = (key, PrivateKeyDer::Pkcs8(der));
        let (account, _) = self.accounts().from_key(key, self.directory.clone()).await?;
        Ok(account)
    }

    async fn new_account(&mut self, files: &SecretFiles) -> Result<Account> {
        let contact: Vec<&str> = self.contact.as_deref().into_iter().collect();
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) =
            self.accounts().create(&wanted, self.directory.clone(), None).await?;
        let key = credentials.private_key().secret_pkcs8_der().to_vec();
        self.account = Some(key.clone());
        if let Err(error) = files.store_account(key).await {
            warn!(error = format!("{error:#}"), "can't keep the ACME account");
        }
        Ok(account)
    }

    fn accounts(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(self.client.clone()))
    }
}

/// Has the authority validate the domain, unless it remembers that it did.
async fn prove(order: &mut Order, domain: &str, resolver: &Resolver) -> Result<()> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.context("no word of what is to be proven")?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status @ (AuthorizationStatus::Invalid
            | AuthorizationStatus::Revoked
            | AuthorizationStatus::Expired
            | AuthorizationStatus::Deactivated) => bail!("the authorization is {status:?}"),
        }
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge.context("the authority offers no TLS-ALPN-01")?;
        resolver.prove(domain, challenge.key_authorization().digest().as_ref())?;
        challenge.set_ready().await.context("the challenge wasn't taken")?;
    }
    Ok(())
}

/// What the authority has against the domain: an order says that it is invalid, its authorization why.
async fn refusal(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|it| it.error.as_ref()) {
            return problem.to_string();
        }
    }
    "it doesn't say why".to_owned()
}

/// Whether a refusal is of this kind (RFC 8555 §6.7).
fn is(error: &Error, kind: &str) -> bool {
    let Error::Api(problem) = error else { return false };
    let found = problem.r#type.as_deref();
    found.and_then(|it| it.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}
