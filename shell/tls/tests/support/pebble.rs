//! A real ACME authority, Debian's `pebble`, with its own DNS, for the tests of all whose certificates
//! come from one. (`testing/setup.sh` installs it; `WARREN_SKIP_PEBBLE=1` does without.)

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

mod ports;

pub(crate) use ports::free_port;

pub(crate) type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Whether this machine does without.
pub(crate) fn is_skipped() -> bool {
    std::env::var_os("WARREN_SKIP_PEBBLE").is_some_and(|value| value == "1")
}

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

/// Longer than a test takes.
pub(crate) const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority whose validation comes to `tls_port`.
pub(crate) struct Pebble {
    _dns: Program,
    _pebble: Program,
    pub(crate) directory: String,
    management: u16,
    pub(crate) root: PathBuf,
}

impl Pebble {
    /// Its certificates are valid for that long.
    pub(crate) fn start(folder: &Path, tls_port: u16, validity: Duration) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (cert, private) = (folder.join("pebble.crt"), folder.join("pebble.key"));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        let (port, management, dns) = (free_port(), free_port(), free_port());
        let settings = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": cert, "privateKey": private,
            "httpPort": 5002, "tlsPort": tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": validity.as_secs(),
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
            // In percent: three times as often as by default.
            .env("PEBBLE_WFE_NONCEREJECT", "15"));
        wait_for_names(dns);
        Self {
            _dns: names,
            _pebble: pebble,
            directory: format!("https://localhost:{port}/dir"),
            management,
            root: cert,
        }
    }

    /// The root that the authority's certificates end in.
    pub(crate) async fn issuer(&self) -> CertificateDer<'static> {
        let own = CertificateDer::from_pem_file(&self.root).unwrap();
        let client = connected(self.management, "localhost", &own, b"http/1.1").await;
        get(client, "/roots/0").await
    }
}

/// An order that is validated before names are found fails.
fn wait_for_names(port: u16) {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x04name\x04test\0\0\x01\0\x01");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let is_answered = || {
        let _ = socket.send_to(&query, ("127.0.0.1", port));
        socket.recv(&mut [0; 512]).is_ok()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_answered() {
        assert!(Instant::now() < deadline, "there is no DNS server");
    }
}

async fn get(mut stream: TlsStream, path: &str) -> CertificateDer<'static> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let (_, pem) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a root certificate")
}

/// A TLS connection that trusts one root, as a node without a pin does, as soon as there is one.
pub(crate) async fn connected(
    port: u16,
    name: &'static str,
    root: &CertificateDer<'static>,
    alpn: &[u8],
) -> TlsStream {
    let patience = Duration::from_secs(60);
    let trying = async {
        loop {
            if let Ok(stream) = connect(port, name, root, alpn).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(patience, trying).await.expect("a certificate that is trusted")
}

async fn connect(
    port: u16,
    name: &'static str,
    root: &CertificateDer<'static>,
    alpn: &[u8],
) -> std::io::Result<TlsStream> {
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
