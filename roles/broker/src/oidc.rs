//! Single sign-on by an OpenID provider: the authorization code flow with PKCE (OpenID Connect Core
//! 1.0 §3.1, RFC 7636), as a confidential client.
//!
//! ```text
//! browser ── POST /sign-in/sso ──► broker     state, nonce, verifier: SsoVisits
//!         ◄── a page that leads to the provider
//! browser ──────────────► provider ── code, state ──► GET /sign-in/sso/callback
//!                         provider ◄── code, verifier, secret ── broker
//!                         provider ── ID token, checked by [`token`] ──► broker ── Vouched
//! ```
//!
//! What becomes of somebody who is vouched for is decided in `warren_coord`. The provider's
//! metadata and keys are fetched when they are needed and kept for an hour; what is wrong with them is
//! kept, too, for the operator.

mod fetch;
mod metadata;
mod token;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tracing::{info, warn};
use warren_coord::{Email, Identity, SsoBegun, SsoReturned, Vouched};
use warren_proto::DeviceName;

use crate::config::PublicUrl;
use fetch::{Fetch, Url};
use metadata::{Metadata, Provided};
use token::{Claims, Keys};

/// Where providers send people back to.
pub(crate) const CALLBACK: &str = "/sign-in/sso/callback";
/// How long metadata and keys are good.
const KEPT: Duration = Duration::from_secs(3600);
/// Keys are not fetched anew sooner, whatever tokens say.
const KEYS_KEPT: Duration = Duration::from_secs(10);
/// How often a provider is tried again that doesn't work.
const RETRY: Duration = Duration::from_secs(60);
const SCOPE: &str = "openid email profile";
/// What a person is called, at most.
const LONGEST_NAME: usize = 100;
/// OpenID Connect Core §2: `sub` has at most 255 characters.
const LONGEST_SUBJECT: usize = 255;

/// An OpenID provider, and whom it may let in.
#[derive(Clone)]
pub struct OidcConfig {
    /// Its issuer URL: below it is `/.well-known/openid-configuration`.
    pub issuer: String,
    /// What the broker is called there.
    pub client_id: String,
    /// By what it shows that it is that.
    pub client_secret: String,
    /// What people call the provider. `None`: the host of its URL.
    pub name: Option<String>,
    /// Domains of the e-mail addresses that may come in. Empty: all.
    pub domains: Vec<String>,
    /// The account that people whom nobody has invited join as members. `None`: they stay out.
    pub newcomers: Option<DeviceName>,
    /// PEM file of an authority that the provider's certificate comes from, besides the public ones.
    pub authority: Option<PathBuf>,
}

impl std::fmt::Debug for OidcConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OidcConfig({} at {})", self.client_id, self.issuer)
    }
}

impl OidcConfig {
    /// Refuses what would be unsafe or can't work.
    ///
    /// # Errors
    /// What is wrong and what to give instead.
    pub(crate) fn check(&self) -> Result<()> {
        Url::parse(&self.issuer).with_context(|| format!("--oidc-issuer {}", self.issuer))?;
        ensure!(
            !self.issuer.contains(['?', '#']),
            "--oidc-issuer {} has more than a URL's path: give it as the provider's \
             documentation has it, without /.well-known/openid-configuration",
            self.issuer
        );
        ensure!(!self.client_id.is_empty(), "--oidc-client-id is empty");
        ensure!(!self.client_secret.is_empty(), "the OpenID client's secret is empty");
        for domain in &self.domains {
            ensure!(
                format!("x@{domain}").parse::<Email>().is_ok(),
                "--oidc-domain {domain} isn't a domain as example.org is one"
            );
        }
        ensure!(
            self.newcomers.is_none() || !self.domains.is_empty(),
            "--oidc-new-users needs --oidc-domain: else everybody who has an account at the \
             provider could join"
        );
        Ok(())
    }

    fn name(&self) -> String {
        let host = || Url::parse(&self.issuer).map(|url| url.host).unwrap_or_default();
        self.name.clone().unwrap_or_else(host)
    }

    fn admits(&self, email: &Email) -> bool {
        let is_it = |domain: &String| domain.eq_ignore_ascii_case(email.domain());
        self.domains.is_empty() || self.domains.iter().any(is_it)
    }
}

/// Why nobody is vouched for.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The provider doesn't work, or doesn't fit what it is configured as.
    Provider,
    /// The code was used, or has expired.
    Stale,
    /// He has no verified address of a domain that may come in.
    Domain,
}

/// The provider, as the broker uses it.
pub(crate) struct Oidc {
    config: OidcConfig,
    redirect: String,
    fetch: Fetch,
    provided: AsyncMutex<Option<Arc<Provided>>>,
    problem: Mutex<Option<String>>,
}

impl Oidc {
    /// Nothing is fetched yet.
    ///
    /// # Errors
    /// The authority's file can't be read, or TLS can't be set up.
    pub(crate) fn new(config: OidcConfig, url: &PublicUrl) -> Result<Self> {
        token::verify_by_ring();
        Ok(Self {
            redirect: format!("{url}{CALLBACK}"),
            fetch: Fetch::new(config.authority.as_deref())?,
            config,
            provided: AsyncMutex::default(),
            problem: Mutex::default(),
        })
    }

    /// What people call the provider.
    pub(crate) fn name(&self) -> String {
        self.config.name()
    }

    /// The provider's issuer URL.
    pub(crate) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// Where it is to send people back to.
    pub(crate) fn redirect(&self) -> &str {
        &self.redirect
    }

    /// The account that newcomers join.
    pub(crate) fn newcomers(&self) -> Option<&DeviceName> {
        self.config.newcomers.as_ref()
    }

    /// What is wrong with it, for the operator.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Where to send a browser.
    ///
    /// # Errors
    /// The provider doesn't work.
    pub(crate) async fn visit(&self, begun: &SsoBegun) -> Result<String, Failed> {
        let provided = self.provided().await?;
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, begun.verifier.as_bytes()));
        let query = [
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", &self.redirect),
            ("scope", SCOPE),
            ("state", &begun.state),
            ("nonce", &begun.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let query =
            serde_urlencoded::to_string(query).map_err(|error| self.broken(&error.into()))?;
        let endpoint = &provided.metadata.authorization_endpoint;
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{endpoint}{joint}{query}"))
    }

    /// Whether an answer is this provider's (RFC 9207): one that names another was made to mix
    /// them up.
    ///
    /// # Errors
    /// The provider doesn't work.
    pub(crate) async fn is_from(&self, issuer: Option<&str>) -> Result<bool, Failed> {
        let provided = self.provided().await?;
        Ok(match issuer {
            Some(issuer) => issuer == self.config.issuer,
            None => !provided.metadata.authorization_response_iss_parameter_supported,
        })
    }

    /// Trades the code in for what the provider says of its bearer.
    ///
    /// # Errors
    /// See [`Failed`].
    pub(crate) async fn vouch(&self, code: &str, visit: &SsoReturned) -> Result<Vouched, Failed> {
        let provided = self.provided().await?;
        let tokens = match self.tokens(&provided.metadata, code, &visit.verifier).await {
            Ok(Some(tokens)) => tokens,
            Ok(None) => return Err(Failed::Stale),
            Err(error) => return Err(self.broken(&error)),
        };
        let claims = self.claims(&provided, &tokens, &visit.nonce).await;
        let claims = claims.map_err(|error| self.broken(&error))?;
        self.works();
        self.judge(claims)
    }

    fn judge(&self, claims: Claims) -> Result<Vouched, Failed> {
        let email = claims.verified_email().filter(|email| self.config.admits(email));
        if email.is_none() && !self.config.domains.is_empty() {
            return Err(Failed::Domain);
        }
        let mut name = claims.name.unwrap_or_default();
        name.truncate(name.floor_char_boundary(LONGEST_NAME));
        let identity = Identity { issuer: self.config.issuer.clone(), subject: claims.sub };
        Ok(Vouched { identity, email, name })
    }

    /// The answer of the token endpoint; nothing, when the code isn't good.
    async fn tokens(
        &self,
        metadata: &Metadata,
        code: &str,
        verifier: &str,
    ) -> Result<Option<Tokens>> {
        let Self { config, redirect, .. } = self;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let by_header = metadata.takes_basic();
        if !by_header {
            fields.push(("client_id", &config.client_id));
            fields.push(("client_secret", &config.client_secret));
        }
        let header = by_header.then_some((&*config.client_id, &*config.client_secret));
        let answer = self.fetch.post(&metadata.token_endpoint, header, &fields).await?;
        if answer.status.is_success() {
            return answer.json().context("the token endpoint").map(Some);
        }
        let why: TokenError = answer.json().unwrap_or_default();
        match why.error.as_str() {
            "invalid_grant" => Ok(None),
            "invalid_client" | "unauthorized_client" => bail!(
                "it doesn't take this client's id and secret ({}): give --oidc-client-id and \
                 --oidc-client-secret as they are registered there",
                why.error
            ),
            error => bail!("its token endpoint answered {} {error}", answer.status),
        }
    }

    /// What the ID token says, and the userinfo endpoint of what it doesn't.
    async fn claims(&self, provided: &Provided, tokens: &Tokens, nonce: &str) -> Result<Claims> {
        let (issuer, client) = (&self.config.issuer, &self.config.client_id);
        let mut keys = provided.keys.clone();
        if !keys.has(&tokens.id_token)? && provided.fetched.elapsed() > KEYS_KEPT {
            keys = Arc::new(self.fetch_keys(&provided.metadata).await?);
            self.keep(Provided { keys: keys.clone(), fetched: Instant::now(), ..provided.clone() })
                .await;
        }
        let mut claims = keys.check(&tokens.id_token, issuer, client, nonce)?;
        ensure!(
            !claims.sub.is_empty() && claims.sub.len() <= LONGEST_SUBJECT,
            "the ID token's subject is empty or too long"
        );
        if let (None, Some(endpoint)) = (&claims.email, &provided.metadata.userinfo_endpoint) {
            let answer = self.fetch.get(endpoint, Some(&tokens.access_token)).await?;
            ensure!(answer.status.is_success(), "its userinfo endpoint answered {}", answer.status);
            let more: Claims = answer.json().context("the userinfo endpoint")?;
            ensure!(more.sub == claims.sub, "its userinfo is about somebody else");
            claims.email = more.email;
            claims.email_verified = more.email_verified;
            claims.name = claims.name.or(more.name);
        }
        Ok(claims)
    }

    /// Metadata and keys, fetched anew when they are old.
    async fn provided(&self) -> Result<Arc<Provided>, Failed> {
        let mut kept = self.provided.lock().await;
        if let Some(provided) = kept.as_ref().filter(|it| it.fetched.elapsed() < KEPT) {
            return Ok(provided.clone());
        }
        match self.fetch_all().await {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                *kept = Some(fresh.clone());
                self.works();
                Ok(fresh)
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    async fn keep(&self, provided: Provided) {
        *self.provided.lock().await = Some(Arc::new(provided));
    }

    async fn fetch_all(&self) -> Result<Provided> {
        let metadata = Metadata::fetch(&self.fetch, &self.config.issuer).await?;
        let keys = Arc::new(self.fetch_keys(&metadata).await?);
        Ok(Provided { metadata: Arc::new(metadata), keys, fetched: Instant::now() })
    }

    async fn fetch_keys(&self, metadata: &Metadata) -> Result<Keys> {
        let answer = self.fetch.get(&metadata.jwks_uri, None).await?;
        ensure!(answer.status.is_success(), "its keys' URL answered {}", answer.status);
        Keys::read(&answer.json().context("its keys")?)
    }

    fn works(&self) {
        let mut problem = self.problem.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if problem.take().is_some() {
            info!("single sign-on works again");
        }
    }

    fn broken(&self, error: &anyhow::Error) -> Failed {
        let text = format!(
            "Single sign-on by {} doesn't work; people can sign in by password. {error:#}",
            self.config.issuer
        );
        warn!(issuer = self.config.issuer, "single sign-on doesn't work: {error:#}");
        *self.problem.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(text);
        Failed::Provider
    }
}

/// Sees to it that the operator knows of a provider that doesn't work before people come.
pub(crate) async fn keep_ready(oidc: Option<Arc<Oidc>>, mut shutdown: watch::Receiver<bool>) {
    let Some(oidc) = oidc else { return };
    let watching = async {
        loop {
            let _ = oidc.provided().await;
            tokio::time::sleep(if oidc.problem().is_some() { RETRY } else { KEPT }).await;
        }
    };
    tokio::select! {
        () = watching => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
    id_token: String,
}

#[derive(Default, Deserialize)]
struct TokenError {
    error: String,
}
