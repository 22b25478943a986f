//! The certificate of TURN over TLS: ordered by ACME, or out of files that are read again when they
//! change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use ring::digest::SHA256;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_proto::{Pin, TURN_ALPN};
use warren_tls::{Acceptor, Acme};

use super::CertificateSource;

/// How often the files are looked at.
const CHECK: Duration = Duration::from_secs(2);

/// What connections go through; `tasks` keeps its certificate fresh. With its pin, and the next ones,
/// where it comes out of files.
pub(super) fn acceptor(
    source: &CertificateSource,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<(Acceptor, Option<watch::Receiver<Pin>>)> {
    match source {
        CertificateSource::Files { chain, key } => {
            let certificate =
                Certificate::load(chain, key).context("the certificate of --tls can't be used")?;
            let config = server_config(certificate.current.clone())?;
            let pin = certificate.pin.subscribe();
            tasks.spawn(certificate.keep_fresh());
            Ok((Acceptor::new(config), Some(pin)))
        }
        CertificateSource::Acme { name, folder, config } => {
            let (acme, ordering) = Acme::start(folder.clone(), name, config)?;
            let acceptor = acme.acceptor(server_config(acme.resolver())?);
            tasks.spawn(ordering);
            Ok((acceptor, None))
        }
    }
}

fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS can't be set up")?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
    // RFC 7443.
    config.alpn_protocols = vec![TURN_ALPN.as_bytes().to_vec()];
    Ok(Arc::new(config))
}

/// A certificate and its files.
#[derive(Debug)]
struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    seen: Stamp,
    current: Arc<Current>,
    pin: watch::Sender<Pin>,
}

/// When the files were changed last.
type Stamp = [Option<SystemTime>; 2];

#[derive(Debug)]
struct Current(Mutex<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Certificate {
    fn load(chain: &Path, key: &Path) -> anyhow::Result<Self> {
        let seen = stamp(chain, key);
        let certificate = read(chain, key)?;
        let pin = watch::Sender::new(pin_in(chain, &certificate.cert)?);
        let current = Arc::new(Current(Mutex::new(Arc::new(certificate))));
        Ok(Self { chain: chain.to_owned(), key: key.to_owned(), seen, current, pin })
    }

    /// Looks at the files again and again; what can't be read leaves the old one in place.
    async fn keep_fresh(mut self) {
        loop {
            tokio::time::sleep(CHECK).await;
            let stamp = stamp(&self.chain, &self.key);
            if stamp == self.seen {
                continue;
            }
            self.seen = stamp;
            let fresh = read(&self.chain, &self.key)
                .and_then(|fresh| Ok((pin_in(&self.chain, &fresh.cert)?, fresh)));
            match fresh {
                Ok((pin, fresh)) => {
                    *self.current.0.lock().unwrap_or_else(PoisonError::into_inner) =
                        Arc::new(fresh);
                    self.pin.send_if_modified(|known| std::mem::replace(known, pin) != pin);
                    tracing::info!("the certificate of TURN over TLS is a new one");
                }
                Err(error) => {
                    tracing::warn!("the new certificate isn't used: {error:#}");
                }
            }
        }
    }
}

/// The key that a certificate chain ends in, for those who can't be told a name.
///
/// # Errors
///
/// If the file can't be read, or holds no certificate.
pub fn pin_of(chain: &Path) -> anyhow::Result<Pin> {
    pin_in(chain, &certificates(chain)?)
}

fn pin_in(chain: &Path, certificates: &[CertificateDer<'_>]) -> anyhow::Result<Pin> {
    let last = certificates.last().context("there is no certificate")?;
    let parsed = webpki::EndEntityCert::try_from(last)
        .with_context(|| format!("{} holds no certificate", chain.display()))?;
    let hash = ring::digest::digest(&SHA256, parsed.subject_public_key_info().as_ref());
    let mut pin = [0; 32];
    pin.copy_from_slice(hash.as_ref());
    Ok(Pin(pin))
}

fn certificates(chain: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let unreadable = || format!("can't read {}", chain.display());
    let certificates = CertificateDer::pem_file_iter(chain)
        .with_context(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .with_context(unreadable)?;
    ensure!(!certificates.is_empty(), "{} holds no certificate", chain.display());
    Ok(certificates)
}

fn stamp(chain: &Path, key: &Path) -> Stamp {
    [chain, key].map(|path| path.metadata().and_then(|found| found.modified()).ok())
}

fn read(chain: &Path, key: &Path) -> anyhow::Result<CertifiedKey> {
    let certificates = certificates(chain)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("can't read the key {}", key.display()))?;
    CertifiedKey::from_der(certificates, private, &provider::default_provider())
        .with_context(|| format!("{} and {} don't belong together", chain.display(), key.display()))
}
