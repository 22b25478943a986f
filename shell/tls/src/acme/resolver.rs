//! What handshakes are answered with: the challenge's certificate for an authority that validates by
//! TLS-ALPN-01 (RFC 8737), the current one for everybody else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The protocol by which an authority says that it validates (RFC 8737 §6.2).
pub(super) const ALPN: &[u8] = b"acme-tls/1";

/// Whether an authority validates: it offers that protocol and no other (RFC 8737 §3).
pub(crate) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|offered| offered.eq([ALPN]))
}

/// The certificates of the moment.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    current: Mutex<Option<Arc<CertifiedKey>>>,
    challenge: Mutex<Option<Challenge>>,
}

#[derive(Debug)]
struct Challenge {
    domain: String,
    key: Arc<CertifiedKey>,
}

impl Resolver {
    pub(super) fn show(&self, certificate: Arc<CertifiedKey>) {
        *lock(&self.current) = Some(certificate);
    }

    /// What clients are shown, if there is something to show.
    pub(super) fn shown(&self) -> Option<Arc<CertifiedKey>> {
        lock(&self.current).clone()
    }

    /// Proves the domain to the authority until the proof is withdrawn.
    ///
    /// # Errors
    /// The domain can't be in a certificate.
    pub(super) fn prove(&self, domain: &str, digest: &[u8]) -> Result<()> {
        let key = Arc::new(challenge(domain, digest)?);
        *lock(&self.challenge) = Some(Challenge { domain: domain.to_owned(), key });
        Ok(())
    }

    pub(super) fn withdraw_proof(&self) {
        *lock(&self.challenge) = None;
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if !is_challenge(&hello) {
            return self.shown();
        }
        let name = hello.server_name()?;
        let challenge = lock(&self.challenge);
        let challenge = challenge.as_ref()?;
        challenge.domain.eq_ignore_ascii_case(name).then(|| challenge.key.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// RFC 8737 §3: a self-signed certificate for the domain that carries the digest of the key
/// authorization.
fn challenge(domain: &str, digest: &[u8]) -> Result<CertifiedKey> {
    let mut params = CertificateParams::new(vec![domain.to_owned()])
        .with_context(|| format!("{domain} can't be in a certificate"))?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().context("can't make the challenge's key")?;
    let certificate = params.self_signed(&key).context("can't make the challenge")?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = any_ecdsa_type(&private).context("can't use the challenge's key")?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}
