//! `warren serve` relays for its accounts: two devices' clients meet at it, one over datagrams and
//! one through the HTTPS port. The real binary, the real client.

#![cfg(all(feature = "broker", feature = "relay"))]
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and waits for the events that it is about"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::{Device, admin, serve};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warren_control::{Pins, Tls};
use warren_proto::{JoinLink, Relay, TURN_ALPN};
use warren_turn::client::{Client, Config, Credential, Event, Inbound, Transport};
use warren_turn::stream::{MAX_FRAME, StreamDecoder, channel_padding};
use warren_turn::virtual_relayed;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a client's messages travel on.
enum Wire {
    Udp(UdpSocket),
    Tls(Box<TlsStream<TcpStream>>, StreamDecoder),
}

impl Wire {
    async fn udp(relay: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        socket.connect(relay).await.unwrap();
        Self::Udp(socket)
    }

    /// As a node does it (by ALPN), or as a client that says nothing.
    async fn tls(relay: &Relay, link: &JoinLink, says_so: bool) -> Self {
        let to = &relay.tls[0];
        assert_eq!(to.pin, link.pin);
        let pins = Pins(to.pin.into_iter().collect());
        let alpn: &[u8] = if says_so { TURN_ALPN.as_bytes() } else { b"" };
        let mut config = (*Tls::with_protocol(&pins, alpn).unwrap().config()).clone();
        if !says_so {
            config.alpn_protocols.clear();
        }
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await.unwrap();
        let name = ServerName::try_from(to.host.clone()).unwrap();
        let stream =
            TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap();
        Self::Tls(Box::new(stream), StreamDecoder::new(MAX_FRAME))
    }

    async fn send(&mut self, message: &[u8]) {
        match self {
            Self::Udp(socket) => {
                socket.send(message).await.unwrap();
            }
            Self::Tls(stream, _) => {
                stream.write_all(message).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    async fn receive(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        match self {
            Self::Udp(socket) => {
                let len = socket.recv(&mut buffer).await.unwrap();
                buffer[..len].to_vec()
            }
            Self::Tls(stream, decoder) => loop {
                if let Some(frame) = decoder.next_frame().unwrap() {
                    return frame.to_vec();
                }
                let len = stream.read(&mut buffer).await.unwrap();
                assert!(len > 0, "the relay ended the connection");
                decoder.push(&buffer[..len]);
            },
        }
    }
}

/// A TURN client on its wire.
struct Endpoint {
    client: Client,
    wire: Wire,
    heard: Vec<Vec<u8>>,
}

impl Endpoint {
    fn new(relay: &Relay, wire: Wire) -> Self {
        let credential = Credential {
            username: relay.credential.username.clone(),
            password: relay.credential.password.clone(),
            realm: relay.credential.realm.clone(),
            nonce: relay.credential.nonce.clone(),
        };
        let transport =
            if matches!(wire, Wire::Udp(_)) { Transport::Udp } else { Transport::Stream };
        let config = Config { transport, virtual_address: true, ..Config::new(credential) };
        Self {
            client: Client::new(config, rand::random(), Instant::now()),
            wire,
            heard: Vec::new(),
        }
    }

    /// Drives the client until it says what is waited for.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&mut Self, Event) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            while let Some(message) = self.client.poll_transmit() {
                self.wire.send(&message).await;
            }
            while let Some(event) = self.client.poll_event() {
                if let Some(found) = wanted(self, event) {
                    return found;
                }
            }
            let due = self.client.poll_timeout().map_or(deadline, |(at, _)| at.into());
            tokio::select! {
                message = self.wire.receive() => self.take(&message),
                () = tokio::time::sleep_until(due.min(deadline)) => {
                    assert!(tokio::time::Instant::now() < deadline, "waited in vain");
                    self.client.handle_timeout(Instant::now());
                }
            }
        }
    }

    fn take(&mut self, message: &[u8]) {
        if let Inbound::Data { range, .. } = self.client.handle_datagram(message, Instant::now()) {
            self.heard.push(message[range].to_vec());
        }
    }

    async fn allocated(&mut self) -> SocketAddr {
        self.until(|_, event| match event {
            Event::Allocated { relayed, virtual_address: true, .. } => Some(relayed),
            Event::Failed { reason } => panic!("{reason}"),
            _ => None,
        })
        .await
    }

    async fn channel_to(&mut self, peer: SocketAddr) {
        self.client.bind(peer, Instant::now()).unwrap();
        self.until(|_, event| matches!(event, Event::ChannelReady { .. }).then_some(())).await;
    }

    async fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        let number = self.client.channel(peer).unwrap();
        let mut message = number.header(u16::try_from(data.len()).unwrap()).to_vec();
        message.extend_from_slice(data);
        if matches!(self.wire, Wire::Tls(..)) {
            message.resize(message.len() + channel_padding(data.len()), 0);
        }
        self.wire.send(&message).await;
    }

    async fn hears(&mut self) -> Vec<u8> {
        let wait = async {
            while self.heard.is_empty() {
                let message = self.wire.receive().await;
                self.take(&message);
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("waited in vain");
        self.heard.remove(0)
    }
}

/// The address that this machine has besides loopback, which is no relay's.
async fn own_address() -> Ipv4Addr {
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    // Sends nothing: it only asks the routing table.
    socket.connect("192.0.2.1:9").await.expect("this machine has a route to somewhere");
    match socket.local_addr().unwrap() {
        SocketAddr::V4(addr) => *addr.ip(),
        SocketAddr::V6(_) => unreachable!("it is an IPv4 socket"),
    }
}

/// A port that is free together with the next one, likely still when it is used.
async fn free_pair(ip: Ipv4Addr) -> u16 {
    loop {
        let first = UdpSocket::bind((ip, 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && UdpSocket::bind((ip, port + 1)).await.is_ok() {
            return port;
        }
    }
}

#[tokio::test]
async fn two_devices_meet_at_the_brokers_own_relay_and_a_removed_one_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let ip = own_address().await;
    let stun = format!("{ip}:{}", free_pair(ip).await);
    let _broker = serve(&data, &["--stun", &stun, "--stun-public", &stun]);
    let (a, b) = (Device::join(&data, "a").await, Device::join(&data, "b").await);
    let (for_a, for_b) = (a.relays().await.remove(0), b.relays().await.remove(0));
    assert_eq!(
        (for_a.name.as_str(), for_a.udp.as_slice()),
        ("broker", &[stun.parse().unwrap()][..])
    );

    let mut on_a = Endpoint::new(&for_a, Wire::udp(for_a.udp[0]).await);
    let mut on_b = Endpoint::new(&for_b, Wire::tls(&for_b, &b.link, true).await);
    let (at_a, at_b) = (virtual_relayed(&a.id.to_string()), virtual_relayed(&b.id.to_string()));
    assert_eq!(on_a.allocated().await, at_a);
    assert_eq!(on_b.allocated().await, at_b);
    on_a.channel_to(at_b).await;
    on_b.channel_to(at_a).await;
    on_a.send(at_b, b"over datagrams").await;
    assert_eq!(on_b.hears().await, b"over datagrams");
    on_b.send(at_a, b"through the HTTPS port").await;
    assert_eq!(on_a.hears().await, b"through the HTTPS port");
    let shown = admin(&data, &["relays", "show", "broker"]);
    assert!(shown.contains("carries     2 allocations"), "{shown}");

    let mut silent = Endpoint::new(&for_b, Wire::tls(&for_b, &b.link, false).await);
    assert_eq!(silent.allocated().await, at_b, "without ALPN, in place of the one before");

    admin(&data, &["devices", "remove", "--yes", "a"]);
    let refused = async {
        loop {
            let mut again = Endpoint::new(&for_a, Wire::udp(for_a.udp[0]).await);
            let outcome = again.until(|_, event| match event {
                Event::Failed { .. } => Some(true),
                Event::Allocated { .. } => Some(false),
                _ => None,
            });
            if outcome.await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the removed device is let in");
    let shown = admin(&data, &["relays", "list"]);
    assert!(shown.contains("the broker"), "{shown}");
}

#[tokio::test]
async fn without_a_relay_nobody_is_told_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _broker = serve(&data, &["--no-relay", "--stun", "127.0.0.1:0"]);
    let device = Device::join(&data, "a").await;
    assert!(device.relays().await.is_empty());
}
