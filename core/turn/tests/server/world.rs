//! A server, a clock, ports that open, and requests that are signed as RFC 8489 says.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use warren_turn::codec::{PasswordAlgorithm, UDP_TRANSPORT};
use warren_turn::server::{
    ClientAddr, Config, Event, Handled, Listener, PortError, RelayedPort, Server, Settings,
    StreamId, Transmit, User,
};
use warren_turn::{
    AttributeType, Builder, ChannelNumber, Class, Family, Integrity, Message, Method, Sha1Key,
    Sha256Key, TransactionId, rest,
};

pub(crate) const REALM: &str = "warren.test";
pub(crate) const SECRET: &[u8] = b"a shared secret";
pub(crate) const UNIX: u64 = 1_795_000_000;

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn udp(text: &str) -> ClientAddr {
    ClientAddr::Udp { listener: Listener(0), addr: addr(text) }
}

/// A client of the documentation's range.
pub(crate) fn client(n: u8) -> ClientAddr {
    udp(&format!("198.51.100.{n}:4{n:04}"))
}

pub(crate) fn number(n: u16) -> ChannelNumber {
    ChannelNumber::new(0x4000 + n).unwrap()
}

pub(crate) fn settings() -> Settings {
    Settings {
        realm: REALM.to_owned(),
        secrets: vec![SECRET.to_vec()],
        users: vec![User { name: "alice".to_owned(), password: "wonder".to_owned(), realm: None }],
        revoked: Vec::new(),
    }
}

/// Ordinary addresses of both families, and virtual ones.
pub(crate) fn config() -> Config {
    Config {
        relayed_ipv4: Some("192.0.2.10".parse().unwrap()),
        relayed_ipv6: Some("2001:db8:10::1".parse().unwrap()),
        ..Config::private(settings())
    }
}

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) open: BTreeSet<RelayedPort>,
    /// Ports that others have.
    pub(crate) taken: BTreeSet<RelayedPort>,
    pub(crate) unavailable: Option<Family>,
    pub(crate) out: VecDeque<Transmit>,
    pub(crate) closed: Vec<StreamId>,
    ids: u64,
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let now = Instant::now();
        Self {
            server: Server::new(config, [7; 32], now, Duration::from_secs(UNIX)),
            now,
            start: now,
            open: BTreeSet::new(),
            taken: BTreeSet::new(),
            unavailable: None,
            out: VecDeque::new(),
            closed: Vec::new(),
            ids: 0,
        }
    }

    pub(crate) fn unix(&self) -> u64 {
        UNIX + (self.now - self.start).as_secs()
    }

    /// Hands a datagram to the server and does what it then wants done.
    pub(crate) fn send(&mut self, from: ClientAddr, datagram: &[u8]) -> Handled {
        let handled = self.server.handle_datagram(from, datagram, self.now);
        self.drain();
        handled
    }

    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::OpenPort(port) => {
                    let result = if self.unavailable == Some(port.family) {
                        Err(PortError::Unavailable)
                    } else if self.taken.contains(&port) {
                        Err(PortError::InUse)
                    } else {
                        assert!(self.open.insert(port), "{port:?} is open already");
                        Ok(())
                    };
                    self.server.handle_port(port, result, self.now);
                }
                Event::ClosePort(port) => assert!(self.open.remove(&port), "{port:?} isn't open"),
                Event::CloseStream(stream) => self.closed.push(stream),
            }
        }
        while let Some(transmit) = self.server.poll_transmit() {
            self.out.push_back(transmit);
        }
    }

    /// Sends a request; gives the one answer.
    pub(crate) fn ask(&mut self, from: ClientAddr, request: &[u8]) -> Vec<u8> {
        assert_eq!(self.send(from, request), Handled::Consumed);
        let answer = self.out.pop_front().unwrap();
        assert_eq!(answer.to, from);
        assert!(self.out.is_empty());
        let (asked, got) =
            (Message::parse(request).unwrap(), Message::parse(&answer.contents).unwrap());
        assert_eq!(got.transaction_id(), asked.transaction_id());
        assert_eq!(got.method(), asked.method());
        assert_eq!(got.attribute(AttributeType::SOFTWARE), None);
        answer.contents
    }

    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, _)) = self.server.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            self.drain();
            let next = self.server.poll_timeout();
            assert!(next.is_none_or(|(next, _)| next > self.now), "busy: {next:?}");
        }
        self.now = end;
    }

    pub(crate) fn id(&mut self) -> TransactionId {
        self.ids += 1;
        let mut id = [0x77; 12];
        id[4..].copy_from_slice(&self.ids.to_be_bytes());
        TransactionId(id)
    }

    /// A request without credentials.
    pub(crate) fn bare(&mut self, method: Method, fill: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
        let mut datagram = Vec::new();
        let id = self.id();
        fill(&mut Builder::new(&mut datagram, Class::Request, method, id));
        datagram
    }

    /// A request of `who`, whose first one fetches a nonce.
    pub(crate) fn signed(
        &mut self,
        who: &mut Who,
        method: Method,
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Vec<u8> {
        if who.nonce.is_none() {
            let request = self.bare(Method::ALLOCATE, |b| {
                b.requested_transport(UDP_TRANSPORT);
            });
            let answer = self.ask(who.at, &request);
            who.learn(&Message::parse(&answer).unwrap());
        }
        let id = self.id();
        who.sign(method, id, fill)
    }

    /// Sends a request of `who`; gives the error code, or the answer.
    pub(crate) fn request(
        &mut self,
        who: &mut Who,
        method: Method,
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Result<Vec<u8>, u16> {
        let request = self.signed(who, method, fill);
        self.exchange(who, &request)
    }

    pub(crate) fn exchange(&mut self, who: &Who, request: &[u8]) -> Result<Vec<u8>, u16> {
        let answer = self.ask(who.at, request);
        let message = Message::parse(&answer).unwrap();
        match message.error_code() {
            None => {
                assert_eq!(message.class(), Class::Success);
                assert_eq!(who.verify(&message), Integrity::Valid);
                Ok(answer)
            }
            Some(code) => {
                assert_eq!(message.class(), Class::Error);
                let is_absent = who.verify(&message) == Integrity::Absent;
                if !matches!(code, 401 | 438) && (code != 400 || !is_absent) {
                    assert_eq!(who.verify(&message), Integrity::Valid, "{code}");
                }
                Err(code)
            }
        }
    }

    pub(crate) fn allocate(
        &mut self,
        who: &mut Who,
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Result<Vec<u8>, u16> {
        self.request(who, Method::ALLOCATE, |b| {
            b.requested_transport(UDP_TRANSPORT);
            fill(b);
        })
    }

    /// An ordinary IPv4 allocation; gives its relayed address.
    pub(crate) fn allocated(&mut self, who: &mut Who) -> SocketAddr {
        relayed(&self.allocate(who, |_| {}).unwrap())
    }

    pub(crate) fn allocated_virtual(&mut self, who: &mut Who) -> SocketAddr {
        let answer = self
            .allocate(who, |b| {
                b.requested_address_family(Family::V6).virtual_address();
            })
            .unwrap();
        assert!(Message::parse(&answer).unwrap().has_virtual_address());
        relayed(&answer)
    }

    pub(crate) fn refresh(&mut self, who: &mut Who, lifetime: Option<u32>) -> Result<u32, u16> {
        let answer = self.request(who, Method::REFRESH, |b| {
            if let Some(lifetime) = lifetime {
                b.lifetime(lifetime);
            }
        })?;
        Ok(Message::parse(&answer).unwrap().lifetime().unwrap())
    }

    pub(crate) fn permit(&mut self, who: &mut Who, peers: &[SocketAddr]) -> Result<(), u16> {
        let answer = self.request(who, Method::CREATE_PERMISSION, |b| {
            for peer in peers {
                b.xor_peer_address(*peer);
            }
        });
        answer.map(drop)
    }

    pub(crate) fn bind(
        &mut self,
        who: &mut Who,
        channel: ChannelNumber,
        peer: SocketAddr,
    ) -> Result<(), u16> {
        let answer = self.request(who, Method::CHANNEL_BIND, |b| {
            b.channel_number(channel).xor_peer_address(peer);
        });
        answer.map(drop)
    }
}

pub(crate) fn relayed(answer: &[u8]) -> SocketAddr {
    let message = Message::parse(answer).unwrap();
    let all: Vec<_> = message.xor_relayed_addresses().collect();
    assert_eq!(all.len(), 1);
    all[0]
}

/// Somebody with a credential, at an address.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) at: ClientAddr,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) realm: String,
    pub(crate) nonce: Option<Vec<u8>>,
    pub(crate) algorithm: PasswordAlgorithm,
    /// MESSAGE-INTEGRITY-SHA256 rather than MESSAGE-INTEGRITY.
    pub(crate) sha256: bool,
    /// Says which algorithm it has taken (RFC 8489 §9.2.3.2).
    pub(crate) sends_algorithms: bool,
}

impl Who {
    /// With a TURN REST credential.
    pub(crate) fn rest(id: &str, at: ClientAddr) -> Self {
        let (username, password) = rest::mint(SECRET, UNIX + 3600, id);
        Self {
            at,
            username,
            password,
            realm: REALM.to_owned(),
            nonce: None,
            algorithm: PasswordAlgorithm::Sha256,
            sha256: true,
            sends_algorithms: true,
        }
    }

    /// With a fixed password, as clients of before 2020.
    pub(crate) fn alice(at: ClientAddr) -> Self {
        Self {
            username: "alice".to_owned(),
            password: "wonder".to_owned(),
            algorithm: PasswordAlgorithm::Md5,
            sha256: false,
            sends_algorithms: false,
            ..Self::rest("", at)
        }
    }

    pub(crate) fn learn(&mut self, challenge: &Message<'_>) {
        assert_eq!(challenge.realm(), Some(REALM.as_bytes()));
        self.nonce = Some(challenge.nonce().unwrap().to_vec());
    }

    fn key(&self) -> Vec<u8> {
        let text = format!("{}:{}:{}", self.username, self.realm, self.password);
        match self.algorithm {
            PasswordAlgorithm::Md5 => Md5::digest(text).to_vec(),
            PasswordAlgorithm::Sha256 => {
                ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().to_vec()
            }
        }
    }

    pub(crate) fn sign(
        &self,
        method: Method,
        id: TransactionId,
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Vec<u8> {
        let mut datagram = Vec::new();
        let mut builder = Builder::new(&mut datagram, Class::Request, method, id);
        fill(&mut builder);
        builder.username(self.username.as_bytes()).realm(self.realm.as_bytes());
        builder.nonce(self.nonce.as_deref().unwrap_or_default());
        if self.sends_algorithms {
            builder
                .attribute(AttributeType::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
                .password_algorithm(self.algorithm);
        }
        if self.sha256 {
            builder.integrity_sha256(&Sha256Key::new(&self.key()));
        } else {
            builder.integrity_sha1(&Sha1Key::new(&self.key()));
        }
        builder.fingerprint();
        datagram
    }

    pub(crate) fn verify(&self, message: &Message<'_>) -> Integrity {
        if self.sha256 {
            message.verify_sha256(&Sha256Key::new(&self.key()))
        } else {
            message.verify_sha1(&Sha1Key::new(&self.key()))
        }
    }
}
