//! Certificates: the broker's own CA and its leaves, ACME, or none.

mod ca;

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::task::JoinHandle;
use tracing::{error, info};
use warren_proto::{BrokerIdentity, Pin};
use warren_tls::Acme;

use crate::addresses;
use crate::config::{PublicUrl, TlsMode};
use crate::data_dir::DataDir;
use ca::Ca;

/// Files of the data folder that a backup takes along.
pub(crate) const FILES: [&str; 2] = [ca::CURRENT, ca::NEXT];

/// Where account and certificates of ACME are kept in the data folder.
pub(crate) const ACME_FOLDER: &str = "acme";

/// Checks that a restored folder's CA can be used.
pub(crate) fn check(data: &DataDir) -> Result<()> {
    for file in FILES {
        Ca::load(data, file)?;
    }
    Ok(())
}

/// How often the leaf's age and the host's addresses are looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(600);

/// What an accepted connection goes through.
#[derive(Clone)]
pub(crate) enum Acceptor {
    /// Plain HTTP.
    Plain,
    /// TLS.
    Tls(warren_tls::Acceptor),
}

impl Acceptor {
    /// The same, offering TURN as well (RFC 7443).
    pub(crate) fn with_turn(self) -> Self {
        match self {
            Self::Plain => Self::Plain,
            Self::Tls(acceptor) => {
                Self::Tls(acceptor.with_protocol(warren_proto::TURN_ALPN.as_bytes()))
            }
        }
    }
}

/// The broker's side of TLS, with the tasks that keep it fresh.
pub(crate) struct Tls {
    acceptor: Acceptor,
    authority: Option<Arc<Authority>>,
    task: Option<JoinHandle<()>>,
}

impl Tls {
    /// Loads or makes what the mode needs.
    ///
    /// # Errors
    /// A damaged CA, or an ACME root that can't be read.
    pub(crate) fn start(data: Arc<DataDir>, mode: &TlsMode, url: &PublicUrl) -> Result<Self> {
        match mode {
            TlsMode::Off => Ok(Self { acceptor: Acceptor::Plain, authority: None, task: None }),
            TlsMode::Acme(config) => {
                let (acme, ordering) = Acme::start(data.join(ACME_FOLDER), &url.host, config)?;
                let acceptor = Acceptor::Tls(acme.acceptor(server_config(acme.resolver())?));
                Ok(Self { acceptor, authority: None, task: Some(tokio::spawn(ordering)) })
            }
            TlsMode::SelfSigned => {
                let authority = Arc::new(Authority::open(data, url.host.clone())?);
                let config = server_config(Arc::new(LeafResolver(authority.clone())))?;
                let task = tokio::spawn(renew(authority.clone()));
                Ok(Self {
                    acceptor: Acceptor::Tls(warren_tls::Acceptor::new(config)),
                    authority: Some(authority),
                    task: Some(task),
                })
            }
        }
    }

    /// What connections go through.
    pub(crate) fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }

    /// What devices verify of this broker, which has this URL.
    pub(crate) fn identity(&self, url: &PublicUrl) -> Identity {
        Identity { authority: self.authority(), host: BrokerIdentity::host(&url.host) }
    }

    /// The own CA, where there is one.
    pub(crate) fn authority(&self) -> Option<Arc<Authority>> {
        self.authority.clone()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// By what devices know this broker: the own CA's pin, or else the URL's host.
pub(crate) struct Identity {
    authority: Option<Arc<Authority>>,
    host: BrokerIdentity,
}

impl Identity {
    /// As of now: the CA may change.
    pub(crate) fn current(&self) -> BrokerIdentity {
        match &self.authority {
            Some(authority) => BrokerIdentity::Pin(authority.pin()),
            None => self.host.clone(),
        }
    }
}

/// The CA in use, the one that will follow it, and the leaf that is shown.
pub(crate) struct Authority {
    data: Arc<DataDir>,
    host: String,
    /// Held while the files change.
    state: Mutex<Authorities>,
    leaf: RwLock<Leaf>,
}

struct Authorities {
    current: Ca,
    next: Option<Ca>,
}

struct Leaf {
    certificate: Arc<CertifiedKey>,
    names: Vec<String>,
    issued: Instant,
}

impl Leaf {
    fn issue(ca: &Ca, host: &str) -> Result<Self> {
        let names = addresses::own_names(host);
        Ok(Self { certificate: ca.issue(&names)?, names, issued: Instant::now() })
    }

    /// A third through its life, or for other names than the host has by now.
    fn is_due(&self, names: &[String], now: Instant) -> bool {
        let life = Duration::from_secs(24 * 3600 * ca::LEAF_DAYS.unsigned_abs());
        self.names != names || now.duration_since(self.issued) > life / 3
    }
}

impl Authority {
    fn open(data: Arc<DataDir>, host: String) -> Result<Self> {
        let current = Ca::load_or_create(&data, ca::CURRENT)?;
        let next = Ca::load(&data, ca::NEXT)?;
        let leaf = Leaf::issue(&current, &host)?;
        let state = Mutex::new(Authorities { current, next });
        Ok(Self { data, host, state, leaf: RwLock::new(leaf) })
    }

    /// The pin of the CA in use.
    pub(crate) fn pin(&self) -> Pin {
        self.lock().current.pin()
    }

    /// The pin that will follow, if a change was prepared.
    pub(crate) fn next_pin(&self) -> Option<Pin> {
        self.lock().next.as_ref().map(Ca::pin)
    }

    /// Makes the CA that will follow; idempotent.
    pub(crate) fn prepare_next(&self) -> Result<Pin> {
        let mut state = self.lock();
        let next = match state.next.take() {
            Some(next) => next,
            None => Ca::create(&self.data, ca::NEXT)?,
        };
        let pin = next.pin();
        state.next = Some(next);
        Ok(pin)
    }

    /// Puts the prepared CA to use: from here on devices must pin it.
    ///
    /// # Errors
    /// None was prepared, or the data folder can't be written.
    pub(crate) fn activate_next(&self) -> Result<Pin> {
        let mut state = self.lock();
        ensure!(state.next.is_some(), "no next pin was prepared");
        let (from, to) = (self.data.join(ca::NEXT), self.data.join(ca::CURRENT));
        std::fs::rename(&from, &to).context("can't put the next CA in its place")?;
        self.data.sync()?;
        let Some(next) = state.next.take() else { bail!("no next pin was prepared") };
        state.current = next;
        self.issue(&state.current)?;
        Ok(state.current.pin())
    }

    /// Takes over the CAs that a restore has put into the data folder.
    ///
    /// # Errors
    /// They can't be read; the ones in memory stay in use.
    pub(crate) fn reload(&self) -> Result<()> {
        let mut state = self.lock();
        let current = Ca::load_or_create(&self.data, ca::CURRENT)?;
        let next = Ca::load(&self.data, ca::NEXT)?;
        if current.pin() != state.current.pin() {
            self.issue(&current)?;
        }
        *state = Authorities { current, next };
        Ok(())
    }

    /// Issues a new leaf when the present one is a third through its life, or the host's
    /// addresses have changed.
    fn renew_if_due(&self) -> Result<()> {
        let names = addresses::own_names(&self.host);
        let due = {
            let leaf = self.leaf.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            leaf.is_due(&names, Instant::now())
        };
        if due {
            self.issue(&self.lock().current)?;
            info!("issued a new certificate");
        }
        Ok(())
    }

    fn issue(&self, ca: &Ca) -> Result<()> {
        let leaf = Leaf::issue(ca, &self.host)?;
        *self.leaf.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = leaf;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Authorities> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn renew(authority: Arc<Authority>) {
    let mut timer = tokio::time::interval(RENEWAL_CHECK);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        if let Err(error) = authority.renew_if_due() {
            error!(%error, "can't renew the certificate");
        }
    }
}

struct LeafResolver(Arc<Authority>);

impl std::fmt::Debug for LeafResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeafResolver")
    }
}

impl ResolvesServerCert for LeafResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let leaf = self.0.leaf.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        Some(leaf.certificate.clone())
    }
}

/// Nothing is remembered of a session: tickets carry it, so that resuming after the broker was
/// away is cheap and costs no memory.
fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().context("no randomness for TLS tickets")?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_renewed_in_time_and_when_the_host_is_called_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let ca = Ca::load_or_create(&data, ca::CURRENT).unwrap();
        let leaf = Leaf::issue(&ca, "broker.example.org").unwrap();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(leaf.names[0], "broker.example.org");
        assert!(!leaf.is_due(&leaf.names, leaf.issued + 29 * day));
        assert!(leaf.is_due(&leaf.names, leaf.issued + 31 * day));
        assert!(leaf.is_due(&["other.example.org".to_owned()], leaf.issued));
    }

    #[test]
    fn what_was_prepared_survives_a_restart_and_is_activated_once() {
        let folder = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDir::open(folder.path()).unwrap());
        let open = || Authority::open(data.clone(), "localhost".to_owned()).unwrap();
        let first = open();
        assert!(first.activate_next().is_err());
        let next = first.prepare_next().unwrap();
        let restarted = open();
        assert_eq!((restarted.pin(), restarted.next_pin()), (first.pin(), Some(next)));
        assert_eq!(restarted.activate_next().unwrap(), next);
        assert!(restarted.activate_next().is_err());
        assert_eq!((open().pin(), open().next_pin()), (next, None));
    }
}
