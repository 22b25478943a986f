//! A certificate from a real ACME authority: Debian's `pebble`, with its own DNS.
//! (`testing/setup.sh` installs it; `WARREN_SKIP_PEBBLE=1` does without.)

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Client, TestBroker, config, new_secret, within};
use http::StatusCode;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use warren_broker::{AcmeConfig, TlsMode};

const DOMAIN: &str = "broker.example.test";

/// A program that is killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Program {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let name = command.get_program().to_string_lossy().into_owned();
    Program(child.unwrap_or_else(|error| panic!("{name}: {error}; run testing/setup.sh test")))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn free_dns_port() -> u16 {
    loop {
        let port = free_port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An authority whose validation comes to `tls_port`.
struct Pebble {
    _dns: Program,
    _pebble: Program,
    directory: String,
    management: u16,
    root: PathBuf,
}

impl Pebble {
    fn start(folder: &Path, tls_port: u16) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (cert, private) = (folder.join("pebble.crt"), folder.join("pebble.key"));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        let (port, management, dns) = (free_port(), free_port(), free_dns_port());
        let settings = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": cert, "privateKey": private,
            "httpPort": 5002, "tlsPort": tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        let file = folder.join("pebble.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        let names = run(Command::new("pebble-challtestsrv")
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", ""])
            .args(["-tlsalpn01", "", "-management", ""])
            .args(["-dns01", &format!("127.0.0.1:{dns}")]));
        let pebble = run(Command::new("pebble")
            .arg("-config")
            .arg(&file)
            .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
            .env("PEBBLE_VA_NOSLEEP", "1")
            // A refused order is tried again only after a back-off longer than the test waits.
            .env("PEBBLE_WFE_NONCEREJECT", "0"));
        Self {
            _dns: names,
            _pebble: pebble,
            directory: format!("https://localhost:{port}/dir"),
            management,
            root: cert,
        }
    }

    /// The root that the authority's certificates end in.
    async fn issuer(&self) -> CertificateDer<'static> {
        let own = CertificateDer::from_pem_file(&self.root).unwrap();
        within("pebble", async {
            loop {
                if let Ok(client) = connect(self.management, "localhost", &own, b"http/1.1").await {
                    return get(client, "/roots/0").await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }
}

async fn get(
    mut stream: tokio_rustls::client::TlsStream<TcpStream>,
    path: &str,
) -> CertificateDer<'static> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let (_, pem) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a root certificate")
}

/// A TLS connection that trusts one root, as a node without a pin does.
async fn connect(
    port: u16,
    name: &'static str,
    root: &CertificateDer<'static>,
    alpn: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut tls = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from(name).unwrap(), stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_used_and_kept() {
    if std::env::var_os("WARREN_SKIP_PEBBLE").is_some_and(|value| value == "1") {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let port = free_port();
    let pebble = Pebble::start(work.path(), port);
    let issuer = pebble.issuer().await;

    let mut config = config(&work.path().join("data"));
    config.listen = Some(([127, 0, 0, 1], port).into());
    config.public_url = Some(format!("https://{DOMAIN}:{port}"));
    config.tls = TlsMode::Acme(AcmeConfig {
        directory: pebble.directory.clone(),
        root: Some(pebble.root.clone()),
        email: Some("admin@example.test".to_owned()),
    });
    let broker = TestBroker::start_with(config.clone()).await;
    let link = broker.first_link.clone().unwrap();
    assert_eq!(link.url, format!("https://{DOMAIN}:{port}"));
    assert_eq!(link.pin, None, "the authority vouches for the broker");
    let stream = within("the certificate", async {
        loop {
            if let Ok(stream) = connect(port, DOMAIN, &issuer, b"h2").await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let client = Client::over(stream, format!("{DOMAIN}:{port}")).await.unwrap();
    let registered = client.join(&new_secret(), &link.key, "laptop").await;
    drop(client);
    broker.stop().await;

    drop(pebble);
    let broker = TestBroker::start_with(config).await;
    let stream = within("the kept certificate", async {
        loop {
            if let Ok(stream) = connect(port, DOMAIN, &issuer, b"h2").await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let client = Client::over(stream, format!("{DOMAIN}:{port}")).await.unwrap();
    let answer = client.with_token(&registered.token).get("/v1/node/netmap").await;
    assert_eq!(answer.status, StatusCode::OK);
    broker.stop().await;
}
