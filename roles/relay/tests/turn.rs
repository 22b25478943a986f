//! The TURN server with real sockets on loopback, and this project's own client.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../../../shell/tls/tests/support/ports.rs"]
mod ports;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use ports::free_port;
use warren_relay::Stop;
use warren_relay::turn::{
    CertificateSource, Master, ServerConfig, Settings, TlsConfig, Turn, TurnConfig,
};
use warren_turn::client::{Client, Config, Credential, Event, Inbound, Transport};
use warren_turn::stream::StreamDecoder;
use warren_turn::{ChannelNumber, rest, virtual_relayed};

const SECRET: &[u8] = b"a secret";

fn settings() -> Settings {
    Settings { realm: "warren".to_owned(), secrets: vec![SECRET.to_vec()], ..Settings::default() }
}

fn config() -> TurnConfig {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    TurnConfig {
        udp: vec![loopback],
        tcp: Vec::new(),
        tls: None,
        server: ServerConfig {
            relayed_ipv4: Some("127.0.0.1".parse().unwrap()),
            allow_peers: vec!["127.0.0.2/32".parse().unwrap()],
            ..ServerConfig::private(settings())
        },
        metrics: None,
        mint: None,
        drain_timeout: Duration::from_secs(30),
    }
}

fn credential(id: &str) -> Credential {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (username, password) = rest::mint(SECRET, unix + 3600, id);
    let realm = Some("warren".to_owned());
    Credential { username, password, realm, nonce: Some(rest::nonce(SECRET, unix)) }
}

/// `warren relay` listens there where it is told nothing.
#[tokio::test]
async fn both_families_unspecified_addresses_go_together_on_one_port() {
    let port = free_port();
    let everywhere: Vec<SocketAddr> =
        vec![([0, 0, 0, 0], port).into(), (std::net::Ipv6Addr::UNSPECIFIED, port).into()];
    let config = TurnConfig { udp: everywhere.clone(), tcp: everywhere, ..config() };
    let _turn = Turn::start(&config).await.unwrap();
    for address in ["127.0.0.1", "::1"] {
        let address: std::net::IpAddr = address.parse().unwrap();
        TcpStream::connect((address, port)).await.unwrap();
    }
}

/// A client with a socket, driven until something is true.
struct Driven {
    socket: UdpSocket,
    client: Client,
    heard: Vec<(SocketAddr, Vec<u8>)>,
    relayed: Option<SocketAddr>,
    /// Peers that it may not have.
    refused: Vec<SocketAddr>,
}

impl Driven {
    fn new(server: SocketAddr, id: &str, virtual_address: bool) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let config = Config { virtual_address, ..Config::new(credential(id)) };
        let client = Client::new(config, [id.len() as u8; 32], Instant::now());
        Self { socket, client, heard: Vec::new(), relayed: None, refused: Vec::new() }
    }

    fn until(&mut self, is_done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_done(self) {
            assert!(Instant::now() < deadline, "it takes too long");
            self.step();
        }
    }

    fn step(&mut self) {
        self.client.handle_timeout(Instant::now());
        while let Some(message) = self.client.poll_transmit() {
            // A server that isn't there yet refuses; the message is repeated.
            let _ = self.socket.send(&message);
        }
        let mut buffer = [0; 2048];
        if let Ok(len) = self.socket.recv(&mut buffer)
            && let Inbound::Data { peer, range } =
                self.client.handle_datagram(&buffer[..len], Instant::now())
        {
            self.heard.push((peer, buffer[range].to_vec()));
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Allocated { relayed, .. } => self.relayed = Some(relayed),
                Event::Failed { reason } => panic!("{reason}"),
                Event::ChannelFailed { peer, .. } => self.refused.push(peer),
                Event::PermissionFailed { reason, .. } => panic!("{reason}"),
                Event::ChannelReady { .. }
                | Event::Permitted(_)
                | Event::Rtt(_)
                | Event::Closed => {}
            }
        }
    }

    fn bind(&mut self, peer: SocketAddr) -> ChannelNumber {
        let number = self.client.bind(peer, Instant::now()).unwrap();
        self.until(|this| this.client.channel(peer).is_some() || !this.refused.is_empty());
        assert_eq!(self.refused, []);
        number
    }

    fn say(&self, number: ChannelNumber, data: &[u8]) {
        let message = [&number.header(data.len() as u16)[..], data].concat();
        self.socket.send(&message).unwrap();
    }
}

fn numbered(count: u8, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n; len]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_virtual_clients_hear_each_other_whole_and_in_order() {
    let turn = Turn::start(&config()).await.unwrap();
    let server = turn.udp_addresses()[0];
    tokio::task::spawn_blocking(move || {
        let mut a = Driven::new(server, "a", true);
        let mut b = Driven::new(server, "bb", true);
        let to_b = a.bind(virtual_relayed("bb"));
        b.bind(virtual_relayed("a"));
        let said = numbered(100, 300);
        said.iter().for_each(|data| a.say(to_b, data));
        a.say(to_b, b"short");
        b.until(|b| b.heard.len() == 101);
        let heard: Vec<_> = b.heard.iter().map(|(_, data)| data.clone()).collect();
        assert_eq!(heard[..100], said);
        assert_eq!(heard[100], b"short");
        assert!(b.heard.iter().all(|(peer, _)| *peer == virtual_relayed("a")));
    })
    .await
    .unwrap();
    assert_eq!(turn.counters().between_clients.packets, 101);
    assert_eq!(turn.gauges().virtual_allocations, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_gets_the_data_alone_and_its_answers_come_back() {
    let turn = Turn::start(&config()).await.unwrap();
    let server = turn.udp_addresses()[0];
    tokio::task::spawn_blocking(move || {
        let peer = UdpSocket::bind("127.0.0.2:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Driven::new(server, "a", false);
        let number = client.bind(peer.local_addr().unwrap());
        let said = numbered(70, 500);
        said.iter().for_each(|data| client.say(number, data));
        let mut buffer = [0; 2048];
        for data in &said {
            let (len, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], data);
            assert_eq!(Some(from), client.relayed);
            peer.send_to(&buffer[..len], from).unwrap();
        }
        client.until(|client| client.heard.len() == 70);
        assert!(client.heard.iter().map(|(_, data)| data).eq(&said));
        let another = UdpSocket::bind("127.0.0.2:0").unwrap();
        another.send_to(b"by indication", client.relayed.unwrap()).unwrap();
        client.until(|client| client.heard.len() == 71);
        let indicated = (another.local_addr().unwrap(), b"by indication".to_vec());
        assert_eq!(client.heard[70], indicated);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_addresses_are_no_peers_though_they_were_not_known_at_the_start() {
    let (_tell, stops) = tokio::sync::mpsc::channel(1);
    let (_keep, settings) = tokio::sync::mpsc::channel(1);
    let mut config = config();
    config.udp = vec![([127, 0, 0, 1], free_port()).into()];
    // A range doesn't open what is the host's own.
    config.server.allow_peers = vec!["127.0.0.0/8".parse().unwrap()];
    config.server.relayed_ipv4 = Some("127.0.0.2".parse().unwrap());
    let server = config.udp[0];
    tokio::spawn(warren_relay::turn::run(config, Master::Nobody(settings), stops));
    tokio::task::spawn_blocking(move || {
        let mut client = Driven::new(server, "a", false);
        client.bind("127.0.0.3:9".parse().unwrap());
        let own = "127.0.0.1:9".parse().unwrap();
        client.client.bind(own, Instant::now()).unwrap();
        client.until(|client| client.refused == [own] || client.client.channel(own).is_some());
        assert_eq!(client.refused, [own]);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_is_passed_over() {
    // Of two ports beside each other somebody has the first.
    let (_other, taken) = std::iter::repeat_with(|| UdpSocket::bind("127.0.0.1:0").unwrap())
        .map(|socket| (socket.local_addr().unwrap().port(), socket))
        .find(|(port, _)| *port < 65_535 && UdpSocket::bind(("127.0.0.1", port + 1)).is_ok())
        .map(|(port, socket)| (socket, port))
        .unwrap();
    let mut config = config();
    config.server.ports = taken..=taken + 1;
    // The port is chosen at random.
    for _ in 0..100 {
        let turn = Turn::start(&config).await.unwrap();
        let server = turn.udp_addresses()[0];
        let relayed = tokio::task::spawn_blocking(move || {
            let mut client = Driven::new(server, "a", false);
            client.until(|client| client.relayed.is_some());
            client.relayed.unwrap()
        });
        assert_eq!(relayed.await.unwrap().port(), taken + 1);
        if turn.counters().ports_taken > 0 {
            return;
        }
    }
    panic!("the port that is taken was never tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_keep_nobody_else_out() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path(), "relay.test");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut config = config();
    config.server.quotas.waiting_streams_per_prefix = 3;
    config.tls = Some(TlsConfig {
        listen: vec![address],
        certificate: CertificateSource::Files {
            chain: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        },
    });
    let turn = Turn::start(&config).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while turn.gauges().streams < 3 {
        assert!(Instant::now() < deadline, "they aren't accepted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Not even a handshake for one more of these.
    assert!(connect_tls(address, &certificate, "relay.test").await.is_err());
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.9.1:0".parse().unwrap()).unwrap();
    let elsewhere = elsewhere.connect(address).await.unwrap();
    let mut stream = handshake(elsewhere, &certificate, "relay.test").await.unwrap();
    allocate_over(&mut stream).await;
    // Who begins a message and doesn't end it is no better, nor who announces a long one.
    drop(silent);
    let long = [0x00, 0x03, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42];
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut announcer = loop {
        if let Ok(stream) = connect_tls(address, &certificate, "relay.test").await {
            break stream;
        }
        assert!(Instant::now() < deadline, "those who are gone take up room");
    };
    announcer.write_all(&long).await.unwrap();
    let mut answer = [0; 1];
    let read = tokio::time::timeout(Duration::from_secs(10), announcer.read(&mut answer)).await;
    assert!(matches!(read.unwrap(), Ok(0) | Err(_)), "it is waited for a message of 64 KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_ends_with_its_last_allocation() {
    let (tell, stops) = tokio::sync::mpsc::channel(1);
    let (_keep, settings) = tokio::sync::mpsc::channel(1);
    let mut config = config();
    let free = SocketAddr::from(([127, 0, 0, 1], free_port()));
    config.udp = vec![free];
    let running = tokio::spawn(warren_relay::turn::run(config, Master::Nobody(settings), stops));
    let mut client = tokio::task::spawn_blocking(move || {
        let mut client = Driven::new(free, "a", true);
        client.until(|client| client.relayed.is_some());
        client
    })
    .await
    .unwrap();
    tell.send(Stop::Drain).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!running.is_finished(), "there is an allocation");
    tokio::task::spawn_blocking(move || {
        client.client.close(Instant::now());
        client.until(|client| client.client.is_ended());
    })
    .await
    .unwrap();
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
}

fn write_certificate(folder: &Path, name: &str) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

async fn connect_tls(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    name: &'static str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    handshake(TcpStream::connect(address).await?, trusted, name).await
}

async fn handshake(
    stream: TcpStream,
    trusted: &CertificateDer<'static>,
    name: &'static str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from(name).unwrap(), stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_up_and_allocations_work_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let first = write_certificate(folder.path(), "first.test");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut config = config();
    config.tls = Some(TlsConfig {
        listen: vec![address],
        certificate: CertificateSource::Files {
            chain: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        },
    });
    let turn = Turn::start(&config).await.unwrap();
    let mut stream = connect_tls(address, &first, "first.test").await.unwrap();
    allocate_over(&mut stream).await;
    assert_eq!(turn.gauges().streams, 1);
    let second = write_certificate(folder.path(), "second.test");
    let deadline = Instant::now() + Duration::from_secs(20);
    while connect_tls(address, &second, "second.test").await.is_err() {
        assert!(Instant::now() < deadline, "the old certificate stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(20);
    while turn.gauges().allocations > 0 {
        assert!(Instant::now() < deadline, "the allocation outlives its connection");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn allocate_over(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) {
    let config = Config {
        transport: Transport::Stream,
        virtual_address: true,
        ..Config::new(Credential { nonce: None, ..credential("tls") })
    };
    let mut client = Client::new(config, [9; 32], Instant::now());
    let mut decoder = StreamDecoder::new(65_000);
    let mut buffer = [0; 2048];
    while client.relayed().is_none() {
        while let Some(message) = client.poll_transmit() {
            stream.write_all(&message).await.unwrap();
        }
        let len = stream.read(&mut buffer).await.unwrap();
        assert!(len > 0, "closed");
        decoder.push(&buffer[..len]);
        while let Some(message) = decoder.next_frame().unwrap() {
            assert_eq!(client.handle_datagram(message, Instant::now()), Inbound::Consumed);
        }
    }
}
