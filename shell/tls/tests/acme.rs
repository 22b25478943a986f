//! Certificates from a real ACME authority: ordered, renewed, kept; its account, too.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/pebble.rs"]
mod pebble;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pebble::{A_DAY, Pebble, TlsStream, connected, free_port, is_skipped};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use warren_tls::{Acme, AcmeConfig};

const NAME: &str = "www.example.test";

/// A server that does nothing but handshakes.
struct Server {
    tasks: JoinSet<()>,
}

impl Server {
    async fn start(folder: &Path, port: u16, pebble: &Pebble) -> Self {
        let config = AcmeConfig {
            directory: pebble.directory.clone(),
            root: Some(pebble.root.clone()),
            email: None,
        };
        let (acme, ordering) = Acme::start(folder.to_owned(), NAME, &config).unwrap();
        let mut config = ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(acme.resolver());
        config.alpn_protocols = vec![b"x".to_vec()];
        let acceptor = acme.acceptor(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(ordering);
        tasks.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move { acceptor.accept(socket).await.map(drop) });
            }
        });
        Self { tasks }
    }

    /// The port is free afterwards.
    async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

fn certificate(stream: &TlsStream) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn file(folder: &Path, kind: &str) -> PathBuf {
    let mut paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(kind)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_expires() {
    if is_skipped() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let (port, folder) = (free_port(), work.path().join("acme"));
    let pebble = Pebble::start(work.path(), port, Duration::from_secs(15));
    let issuer = pebble.issuer().await;
    let server = Server::start(&folder, port, &pebble).await;
    let first = certificate(&connected(port, NAME, &issuer, b"x").await);
    let renewed = async {
        while certificate(&connected(port, NAME, &issuer, b"x").await) == first {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.expect("another certificate");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_account_is_used_on_and_made_anew_only_when_the_authority_has_forgotten_it() {
    if is_skipped() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let (port, folder) = (free_port(), work.path().join("acme"));
    let pebble = Pebble::start(work.path(), port, A_DAY);
    let issuer = pebble.issuer().await;
    let order = async || {
        let server = Server::start(&folder, port, &pebble).await;
        let shown = certificate(&connected(port, NAME, &issuer, b"x").await);
        server.stop().await;
        shown
    };
    let first = order().await;
    let account = fs::read(file(&folder, "account")).unwrap();

    fs::remove_file(file(&folder, "certificate")).unwrap();
    let second = order().await;
    assert_ne!(second, first);
    assert_eq!(fs::read(file(&folder, "account")).unwrap(), account);

    let foreign = include_bytes!("kept/account-cteb_3hLzLeVgAtAFjHvlA.pem");
    fs::write(file(&folder, "account"), foreign).unwrap();
    assert_eq!(order().await, second, "the kept certificate is good");
    assert_eq!(fs::read(file(&folder, "account")).unwrap(), foreign);

    fs::remove_file(file(&folder, "certificate")).unwrap();
    assert_ne!(order().await, second);
    assert_ne!(fs::read(file(&folder, "account")).unwrap(), foreign);
}
