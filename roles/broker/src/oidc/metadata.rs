//! What a provider says of itself (OpenID Connect Discovery 1.0 §3).

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::fetch::{Fetch, Url};
use super::token::Keys;

/// Metadata and keys.
#[derive(Clone)]
pub(super) struct Provided {
    pub(super) metadata: Arc<Metadata>,
    pub(super) keys: Arc<Keys>,
    pub(super) fetched: Instant,
}

#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    pub(super) jwks_uri: String,
    pub(super) userinfo_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

impl Metadata {
    pub(super) async fn fetch(fetch: &Fetch, issuer: &str) -> Result<Self> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let answer = fetch.get(&url, None).await?;
        ensure!(
            answer.status.is_success(),
            "{url} answered {}: is --oidc-issuer right?",
            answer.status
        );
        let metadata: Self = answer.json().with_context(|| format!("{url} is no metadata"))?;
        metadata.check(issuer)?;
        Ok(metadata)
    }

    fn check(&self, issuer: &str) -> Result<()> {
        ensure!(
            self.issuer == issuer,
            "the provider calls itself {0}: give --oidc-issuer {0}",
            self.issuer
        );
        let endpoints = [&self.authorization_endpoint, &self.token_endpoint, &self.jwks_uri];
        for url in endpoints.into_iter().chain(&self.userinfo_endpoint) {
            Url::parse(url).with_context(|| format!("its endpoint {url}"))?;
        }
        Ok(())
    }

    /// Whether client id and secret go in a header (RFC 6749 §2.3.1): the default.
    pub(super) fn takes_basic(&self) -> bool {
        let methods = self.token_endpoint_auth_methods_supported.as_ref();
        methods.is_none_or(|all| {
            let has = |method: &str| all.iter().any(|it| it == method);
            has("client_secret_basic") || !has("client_secret_post")
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(change: &serde_json::Value) -> Metadata {
        let mut all = json!({
            "issuer": "https://id.example.org",
            "authorization_endpoint": "https://id.example.org/auth",
            "token_endpoint": "https://id.example.org/token",
            "jwks_uri": "https://id.example.org/keys",
        });
        let all = all.as_object_mut().unwrap();
        all.extend(change.as_object().unwrap().clone());
        serde_json::from_value(all.clone().into()).unwrap()
    }

    #[test]
    fn a_provider_is_who_it_is_configured_as_and_speaks_tls() {
        let issuer = "https://id.example.org";
        assert!(metadata(&json!({})).check(issuer).is_ok());
        let why = metadata(&json!({})).check("https://id.example.org/").unwrap_err().to_string();
        assert!(why.contains("--oidc-issuer https://id.example.org"), "{why}");
        let plain = metadata(&json!({"token_endpoint": "http://id.example.org/token"}));
        assert!(plain.check(issuer).is_err());
    }

    #[test]
    fn the_secret_goes_as_the_provider_takes_it() {
        let takes = |methods: serde_json::Value| {
            metadata(&json!({"token_endpoint_auth_methods_supported": methods})).takes_basic()
        };
        assert!(takes(json!(null)) && takes(json!(["client_secret_post", "client_secret_basic"])));
        assert!(!takes(json!(["client_secret_post", "private_key_jwt"])));
    }
}
