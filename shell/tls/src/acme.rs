//! Certificates from an ACME authority (RFC 8555) by TLS-ALPN-01 (RFC 8737). The messages are
//! `instant-acme`'s; when, through which connections and for how long is decided here.

mod certificate;
mod client;
mod files;
mod https;
mod keeper;
mod order;
mod resolver;
mod schedule;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::Acceptor;
use client::Client;
use files::SecretFiles;
use https::Https;
use keeper::Keeper;
use order::Authority;
use resolver::Resolver;

pub(crate) use resolver::is_challenge;

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
    resolver: Arc<Resolver>,
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
        let provider = Arc::new(default_provider());
        let tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(config.root.as_deref())?)
            .with_no_client_auth();
        let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
        let files = SecretFiles::new(folder, &config.directory, contact.as_deref(), domain)?;
        let authority = Authority {
            directory: config.directory.clone(),
            contact,
            client: Client::new(Https::new(tls), client::PATIENCE),
            account: None,
        };
        let resolver = Arc::new(Resolver::default());
        let mut challenge = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver.clone());
        challenge.alpn_protocols = vec![resolver::ALPN.to_vec()];
        let acme = Self { resolver: resolver.clone(), challenge: Arc::new(challenge) };
        let domain = domain.to_owned();
        let keeper = Keeper { domain, authority, files, resolver, clock: SystemTime::now };
        Ok((acme, keeper.run()))
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
