//! Certificates from an ACME authority (RFC 8555) by TLS-ALPN-01 (RFC 8737).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use ring::digest::{SHA256, digest};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_acme::{AccountCache, CertCache, EventOk, ResolvesServerCertAcme};
use tracing::{info, warn};

use crate::{Acceptor, secret};

/// The directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Where certificates are ordered.
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// The authority's directory URL.
    pub directory: String,
    /// PEM file with a root certificate for the directory's own HTTPS, besides the public ones.
    pub root: Option<PathBuf>,
    /// Where the authority may write about expiring certificates.
    pub email: Option<String>,
}

impl Default for AcmeConfig {
    fn default() -> Self {
        Self { directory: LETS_ENCRYPT.to_owned(), root: None, email: None }
    }
}

/// A certificate that is ordered and renewed.
#[derive(Debug)]
pub struct Acme {
    resolver: Arc<ResolvesServerCertAcme>,
    challenge: Arc<ServerConfig>,
}

impl Acme {
    /// Orders the certificate for `domain` and keeps it new, as long as the returned future is
    /// driven. `folder` holds account and certificate over restarts; it is made if need be.
    ///
    /// # Errors
    /// The folder can't be made, or the authority's root can't be read.
    pub fn start(
        folder: PathBuf,
        domain: &str,
        config: &AcmeConfig,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        secret::create_folder(&folder)?;
        let provider = Arc::new(default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(config.root.as_deref())?)
            .with_no_client_auth();
        let mut state = rustls_acme::AcmeConfig::new_with_client_config([domain], Arc::new(client))
            .directory(&config.directory)
            .contact(config.email.iter().map(|email| format!("mailto:{email}")))
            .cache(SecretFiles(folder))
            .state();
        let acme = Self {
            resolver: state.resolver(),
            challenge: state.challenge_rustls_config_with_provider(provider),
        };
        let domain = domain.to_owned();
        let ordering = async move {
            while let Some(event) = state.next().await {
                match event {
                    Ok(EventOk::DeployedNewCert) => info!("a new certificate is in use"),
                    Ok(EventOk::DeployedCachedCert) => info!("the kept certificate is in use"),
                    Ok(EventOk::CertCacheStore | EventOk::AccountCacheStore) => {}
                    Err(error) => warn!(
                        %error,
                        "no certificate from the ACME authority yet; does TCP port 443 of {domain} \
                         lead here? It is tried again"
                    ),
                }
            }
        };
        Ok((acme, ordering))
    }

    /// Where the certificate comes from, for a server's configuration.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.resolver.clone()
    }

    /// What connections go through: `config` for clients, its challenges for the authority.
    pub fn acceptor(&self, config: Arc<ServerConfig>) -> Acceptor {
        Acceptor::with_challenge(config, self.challenge.clone())
    }
}

fn roots(extra: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = extra {
        let shown = path.display();
        for certificate in CertificateDer::pem_file_iter(path)
            .with_context(|| format!("can't read the ACME authority's root {shown}"))?
        {
            let certificate = certificate.with_context(|| format!("{shown} isn't PEM"))?;
            roots.add(certificate).with_context(|| format!("{shown} holds no CA"))?;
        }
    }
    Ok(roots)
}

/// Keeps account and certificates as files of mode 0600.
struct SecretFiles(PathBuf);

impl SecretFiles {
    fn path(&self, kind: &str, names: &[String], directory: &str) -> PathBuf {
        let mut text = directory.to_owned();
        for name in names {
            text.push('\0');
            text.push_str(name);
        }
        let digest = digest(&SHA256, text.as_bytes());
        self.0.join(format!("{kind}-{}.pem", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16])))
    }

    async fn load(&self, path: PathBuf) -> Result<Option<Vec<u8>>, std::io::Error> {
        match tokio::fs::read(path).await {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn store(&self, path: PathBuf, contents: &[u8]) -> Result<(), std::io::Error> {
        let contents = contents.to_vec();
        tokio::task::spawn_blocking(move || secret::write(&path, &contents))
            .await
            .map_err(std::io::Error::other)?
            .map_err(std::io::Error::other)
    }
}

#[async_trait]
impl CertCache for SecretFiles {
    type EC = std::io::Error;

    async fn load_cert(
        &self,
        domains: &[String],
        directory: &str,
    ) -> Result<Option<Vec<u8>>, Self::EC> {
        self.load(self.path("certificate", domains, directory)).await
    }

    async fn store_cert(
        &self,
        domains: &[String],
        directory: &str,
        certificate: &[u8],
    ) -> Result<(), Self::EC> {
        self.store(self.path("certificate", domains, directory), certificate).await
    }
}

#[async_trait]
impl AccountCache for SecretFiles {
    type EA = std::io::Error;

    async fn load_account(
        &self,
        contact: &[String],
        directory: &str,
    ) -> Result<Option<Vec<u8>>, Self::EA> {
        self.load(self.path("account", contact, directory)).await
    }

    async fn store_account(
        &self,
        contact: &[String],
        directory: &str,
        account: &[u8],
    ) -> Result<(), Self::EA> {
        self.store(self.path("account", contact, directory), account).await
    }
}
