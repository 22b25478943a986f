//! A TURN server whose clients, peers and clock the fuzzer is, and the framing of its streams.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use warren_turn::server::{
    ClientAddr, Config, Event, Handled, Heading, Listener, PortError, Quotas, RelayedPort, Route,
    Run, Server, Settings, StreamId, User,
};
use warren_turn::stream::{MAX_FRAME, StreamDecoder};
use warren_turn::{
    AttributeType, Builder, CHANNEL_HEADER_LEN, ChannelNumber, Class, Family, Fingerprint, Message,
    Method, Sha256Key, TransactionId, rest, virtual_relayed,
};

use crate::input::Input;
use crate::world::{UNIX, address, epoch};

const MAX_STEPS: usize = 64;
const SECRET: &[u8] = b"fuzz";
const REALM: &str = "fuzz";
const CLIENTS: u8 = 4;

struct World {
    server: Server,
    now: Instant,
    open: BTreeSet<RelayedPort>,
    nonces: BTreeMap<ClientAddr, Vec<u8>>,
    streams: BTreeSet<StreamId>,
    ids: u64,
    /// Ports of this parity are somebody else's.
    taken: Option<bool>,
    answers: Vec<(ClientAddr, Vec<u8>)>,
}

/// A script of what clients and peers do. Whatever it is: nothing panics, strangers get at most one
/// small answer and leave nothing behind, ports are opened and closed in pairs, data stays within
/// its datagram, and no timer spins.
pub fn fuzz_turn_server(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.end();
}

fn settings() -> Settings {
    Settings {
        realm: REALM.to_owned(),
        secrets: vec![SECRET.to_vec()],
        users: vec![User { name: "0".to_owned(), password: "0".to_owned(), realm: None }],
        revoked: Vec::new(),
    }
}

impl World {
    /// Bit 0: a private relay; bit 1: few ports; bit 2: tight quotas.
    fn new(options: u8) -> Self {
        let mut config = Config::private(settings());
        if options & 1 == 0 {
            config.relayed_ipv4 = Some([192, 0, 2, 1].into());
            config.relayed_ipv6 = Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into());
        }
        if options & 2 != 0 {
            config.ports = 50_000..=50_005;
        }
        if options & 4 != 0 {
            config.quotas = Quotas {
                allocations: 1,
                total_allocations: 3,
                peers: 2,
                waiting_streams: 1,
                bandwidth: std::num::NonZeroU64::new(1000),
                ..Quotas::default()
            };
        }
        config.allow_peers = vec!["192.0.2.0/24".parse().expect("a range")];
        config.stun = vec![address(0), address(7)];
        let now = epoch();
        Self {
            server: Server::new(config, [5; 32], now, UNIX),
            now,
            open: BTreeSet::new(),
            nonces: BTreeMap::new(),
            streams: BTreeSet::new(),
            ids: 0,
            taken: None,
            answers: Vec::new(),
        }
    }

    fn client(&self, n: u8) -> ClientAddr {
        if n & 0x20 != 0 {
            ClientAddr::Stream(StreamId(u64::from(n % CLIENTS)))
        } else {
            let addr = ([198, 51, 100, n % CLIENTS], 5000 + u16::from(n >> 6)).into();
            ClientAddr::Udp { listener: Listener(u16::from(n >> 4 & 1)), addr }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        match what & 0x0f {
            0 => {
                let (from, len) = (self.client(input.u8()), input.u8());
                let datagram = input.take(len.into()).to_vec();
                self.stranger(from, &datagram);
            }
            1..=6 => self.signed(input),
            7 => {
                let (from, channel, len) = (self.client(input.u8()), input.u8(), input.u8());
                let number = 0x4000 + u16::from(channel % 4);
                let number = ChannelNumber::new(number).expect("within the range");
                let data = vec![what; len.into()];
                let datagram = [&number.header(len.into())[..], &data].concat();
                let _ = self.deliver(from, &datagram);
            }
            8 => self.peer(input),
            9 => self.pass(Duration::from_millis(input.u8().into())),
            10 => self.pass(Duration::from_secs(u64::from(input.u8()) * 4)),
            11 => {
                let stream = StreamId(u64::from(input.u8() % CLIENTS));
                if self.streams.remove(&stream) {
                    self.server.handle_stream_closed(stream, self.now);
                } else if self.server.handle_stream(stream, address(what >> 4), self.now) {
                    self.streams.insert(stream);
                }
            }
            12 => self.taken = [None, Some(false), Some(true)][usize::from(input.u8() % 3)],
            13 => {
                let revoked = vec![(input.u8() % CLIENTS).to_string()];
                self.server.set_settings(Settings { revoked, ..settings() }, self.now);
            }
            14 => {
                let unix = UNIX + Duration::from_secs(u64::from(input.u16()));
                self.server.set_clock(unix, self.now);
            }
            _ => self.send_indication(input),
        }
        self.drain();
    }

    /// What carries no valid signature.
    fn stranger(&mut self, from: ClientAddr, datagram: &[u8]) {
        let before = self.server.gauges();
        let handled = self.deliver(from, datagram);
        let after = self.server.gauges();
        assert_eq!(before, after, "a stranger left something");
        assert!(self.answers.len() <= 1);
        if let Some((_, answer)) = self.answers.pop() {
            assert_eq!(handled, Handled::Consumed);
            assert!(answer.len() <= 4 * datagram.len(), "amplified");
        }
    }

    /// A request of somebody with a credential, with attributes of the fuzzer's.
    fn signed(&mut self, input: &mut Input<'_>) {
        const METHODS: [Method; 4] =
            [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];
        let (from, who) = (self.client(input.u8()), input.u8() % CLIENTS);
        let method = METHODS[usize::from(input.u8() % 4)];
        let count = input.u8() % 5;
        let attributes: Vec<u8> = (0..count).map(|_| input.u8()).collect();
        let raw_len = input.u8() % 24;
        let raw = input.take(raw_len.into()).to_vec();
        let nonce = self.nonce(from);
        self.ids += 1;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.ids.to_be_bytes());
        let mut datagram = Vec::new();
        let mut builder = Builder::new(&mut datagram, Class::Request, method, TransactionId(id));
        for (attribute, value) in attributes.iter().zip(raw.iter().chain(std::iter::repeat(&1))) {
            fill(&mut builder, *attribute, *value);
        }
        if attributes.is_empty() && raw.len() >= 2 {
            builder.attribute(AttributeType(u16::from_be_bytes([raw[0], raw[1]])), &raw[2..]);
        }
        let (username, password) = rest::mint(SECRET, UNIX.as_secs() + 100_000, &who.to_string());
        let text = format!("{username}:{REALM}:{password}");
        let key = ring_sha256(text.as_bytes());
        builder
            .username(username.as_bytes())
            .realm(REALM.as_bytes())
            .nonce(&nonce)
            .attribute(AttributeType::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
            .attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
            .integrity_sha256(&Sha256Key::new(&key))
            .fingerprint();
        let _ = self.deliver(from, &datagram);
        self.drain();
        self.answers.clear();
    }

    /// A nonce of the server for a client, or one that a broker minted.
    fn nonce(&mut self, from: ClientAddr) -> Vec<u8> {
        if let Some(nonce) = self.nonces.get(&from) {
            return nonce.clone();
        }
        let mut request = Vec::new();
        Builder::new(&mut request, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))
            .requested_transport(17);
        self.stranger_for_nonce(from, &request);
        self.nonces
            .get(&from)
            .cloned()
            .unwrap_or_else(|| rest::nonce(SECRET, UNIX.as_secs()).into_bytes())
    }

    fn stranger_for_nonce(&mut self, from: ClientAddr, request: &[u8]) {
        let _ = self.deliver(from, request);
        if let Some((_, answer)) = self.answers.pop() {
            let message = Message::parse(&answer).expect("our own answer parses");
            if let Some(nonce) = message.nonce() {
                self.nonces.insert(from, nonce.to_vec());
            }
        }
    }

    fn send_indication(&mut self, input: &mut Input<'_>) {
        let (from, peer, len) = (self.client(input.u8()), input.u8(), input.u8());
        let mut datagram = Vec::new();
        Builder::new(&mut datagram, Class::Indication, Method::SEND, TransactionId([2; 12]))
            .xor_peer_address(peer_address(peer))
            .data(&vec![3; len.into()]);
        let _ = self.deliver(from, &datagram);
    }

    fn peer(&mut self, input: &mut Input<'_>) {
        let (which, peer) = (input.u8(), peer_address(input.u8()));
        let port = self.open.iter().nth(usize::from(which) % self.open.len().max(1)).copied();
        let family = Family::V4;
        let port = port.unwrap_or(RelayedPort { family, port: u16::from(which) * 256 });
        let run = Run { packets: 2, bytes: 50 };
        if let Ok(delivery) = self.server.route_peer(port, peer, run, self.now) {
            assert!(self.open.contains(&port));
            self.check_heading(delivery.heading, 25);
        }
    }

    fn deliver(&mut self, from: ClientAddr, datagram: &[u8]) -> Handled {
        let handled = self.server.handle_datagram(from, datagram, self.now);
        if let Handled::Relay { route, range } = &handled {
            assert!(range.end <= datagram.len() && range.start >= CHANNEL_HEADER_LEN);
            match route {
                Route::Peer { from, to, .. } => {
                    assert!(self.open.contains(from));
                    assert!(!to.ip().is_loopback() && !to.ip().is_multicast());
                }
                Route::Client(delivery) => self.check_heading(delivery.heading, range.len()),
            }
        }
        self.drain();
        handled
    }

    fn check_heading(&mut self, heading: Heading, len: usize) {
        if let Heading::Indication(peer) = heading {
            let head = self.server.indication(peer, len).expect("it came in one datagram");
            let whole = [head.bytes(), &vec![0; len + head.padding()]].concat();
            let message = Message::parse(&whole).expect("our own indication parses");
            assert_eq!(message.xor_peer_address(), Some(peer));
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::OpenPort(port) => {
                    let result = match self.taken {
                        Some(odd) if odd == (port.port % 2 == 1) => Err(PortError::InUse),
                        Some(_) | None => Ok(()),
                    };
                    if result.is_ok() {
                        assert!(self.open.insert(port), "open already");
                    }
                    self.server.handle_port(port, result, self.now);
                }
                Event::ClosePort(port) => assert!(self.open.remove(&port), "not open"),
                Event::CloseStream(stream) => assert!(self.streams.remove(&stream)),
            }
        }
        while let Some(transmit) = self.server.poll_transmit() {
            let message = Message::parse(&transmit.contents).expect("our own answer parses");
            assert_ne!(message.verify_fingerprint(), Fingerprint::Wrong);
            self.answers.push((transmit.to, transmit.contents));
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, _)) = self.server.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            self.drain();
            if let Some((at, why)) = self.server.poll_timeout() {
                assert!(at > self.now, "{why} is due at once again");
            }
        }
        self.now = end;
    }

    /// Everything ends by itself.
    fn end(&mut self) {
        self.pass(Duration::from_secs(2 * 3600));
        let gauges = self.server.gauges();
        assert_eq!((gauges.allocations, gauges.channels, gauges.credentials), (0, 0, 0));
        assert!(self.open.is_empty());
        assert_eq!(self.server.poll_timeout(), None);
    }
}

fn peer_address(n: u8) -> std::net::SocketAddr {
    match n >> 6 {
        0 => address(n),
        1 => virtual_relayed(&(n % CLIENTS).to_string()),
        2 => ([192, 0, 2, 1], 50_000 + u16::from(n % 6)).into(),
        _ => ([192, 0, 2, n], 7).into(),
    }
}

fn fill(builder: &mut Builder<'_>, attribute: u8, value: u8) {
    match attribute % 13 {
        0 => builder.requested_transport(if value == 0 { 6 } else { 17 }),
        1 => builder.requested_address_family(Family::V6),
        2 => builder.requested_address_family(Family::V4),
        3 => builder.additional_address_family(Family::V6),
        4 => builder.even_port(value & 1 != 0),
        5 => builder.reservation_token([value; 8]),
        6 => builder.lifetime(u32::from(value) * 20),
        7 => builder.virtual_address(),
        8 | 9 => builder.xor_peer_address(peer_address(value)),
        10 => {
            let number = ChannelNumber::new(0x4000 + u16::from(value % 4));
            builder.channel_number(number.expect("within the range"))
        }
        11 => builder.dont_fragment(),
        _ => builder.attribute(AttributeType(0x0022 + u16::from(value)), &[value; 4]),
    };
}

fn ring_sha256(text: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, text).as_ref().to_vec()
}

/// A stream in pieces: whatever comes, the same messages come out as of the whole, none is longer
/// than allowed, and no more is held than one message and a piece.
pub fn fuzz_turn_stream(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = usize::from(input.u8()) + 1;
    let max_frame = if input.u8() & 1 == 0 { MAX_FRAME } else { 600 };
    let stream = input.rest();
    let mut whole = StreamDecoder::new(max_frame);
    whole.push(stream);
    let expected = frames(&mut whole, max_frame);
    let mut pieces = StreamDecoder::new(max_frame);
    let mut found = Vec::new();
    let mut failed = false;
    for bytes in stream.chunks(piece) {
        pieces.push(bytes);
        let (frames, error) = frames(&mut pieces, max_frame);
        found.extend(frames);
        if error {
            failed = true;
            break;
        }
        assert!(pieces.buffered() <= max_frame + piece);
    }
    assert_eq!(found, expected.0);
    assert_eq!(failed, expected.1);
}

fn frames(decoder: &mut StreamDecoder, max_frame: usize) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Vec::new();
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => {
                assert!(frame.len() >= CHANNEL_HEADER_LEN && frame.len() <= max_frame);
                frames.push(frame.to_vec());
            }
            Ok(None) => return (frames, false),
            Err(_) => {
                assert!(decoder.next_frame().is_err(), "it stays so");
                return (frames, true);
            }
        }
    }
}
