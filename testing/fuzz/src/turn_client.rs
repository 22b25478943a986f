//! A TURN client whose server the fuzzer is: it may answer truly, falsely, late, or not at all.

use std::time::{Duration, Instant};

use warren_turn::client::{Client, Config, Credential, Event, Inbound, Transport};
use warren_turn::{
    AttributeType, Builder, ChannelNumber, Class, Message, Method, Sha1Key, Sha256Key,
    TransactionId, is_stun, virtual_relayed,
};

use crate::input::Input;
use crate::world::{address, epoch};

const MAX_STEPS: usize = 64;
const MAX_POOL: usize = 16;

struct World {
    client: Client,
    now: Instant,
    /// Requests that the client has sent.
    pool: Vec<Vec<u8>>,
    is_over: bool,
}

/// A script of what a server answers and a caller wants. Whatever it is: nothing panics, data lies
/// within its datagram, timers don't spin, and after its end the client is silent.
pub fn fuzz_turn_client(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
}

impl World {
    /// Bit 0: realm and nonce are known; bit 1: virtual; bit 2: a stream.
    fn new(options: u8) -> Self {
        let known = (options & 1 != 0).then(|| "fuzz".to_owned());
        let credential = Credential {
            username: "1:fuzz".to_owned(),
            password: "fuzz".to_owned(),
            realm: known.clone(),
            nonce: known.map(|_| "obMatJos2gAAAfuzz".to_owned()),
        };
        let transport = if options & 4 != 0 { Transport::Stream } else { Transport::Udp };
        let config =
            Config { transport, virtual_address: options & 2 != 0, ..Config::new(credential) };
        let now = epoch();
        let client = Client::new(config, [6; 32], now);
        let mut world = Self { client, now, pool: Vec::new(), is_over: false };
        world.drain();
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let peer = if what & 0x80 != 0 { address(what >> 4) } else { virtual_relayed("x") };
        match what & 0x0f {
            0 => {
                let len = input.u8();
                let datagram = input.take(len.into()).to_vec();
                self.deliver(&datagram);
            }
            1..=5 => self.answer(input),
            6 => _ = self.client.bind(peer, self.now),
            7 => self.client.unbind(peer),
            8 => self.client.permit(peer.ip(), self.now),
            9 => self.client.forbid(peer.ip()),
            10 => self.pass(Duration::from_millis(u64::from(input.u8()) * 20)),
            11 => self.pass(Duration::from_secs(u64::from(input.u8()) * 2)),
            12 => self.client.ping(self.now),
            13 => self.client.close(self.now),
            14 => {
                let number = 0x4000 + u16::from(input.u8() % 4);
                let number = ChannelNumber::new(number).expect("within the range");
                self.deliver(&[&number.header(3)[..], &[1, 2, 3]].concat());
            }
            _ => {
                let mut datagram = Vec::new();
                let id = TransactionId([9; 12]);
                Builder::new(&mut datagram, Class::Indication, Method::DATA, id)
                    .xor_peer_address(peer)
                    .data(&[1, 2, 3]);
                self.deliver(&datagram);
            }
        }
        self.drain();
    }

    /// Answers one of the last requests: well signed or not, with attributes of the fuzzer's.
    fn answer(&mut self, input: &mut Input<'_>) {
        let (which, how, code) = (input.u8(), input.u8(), input.u8());
        let raw_len = input.u8() % 32;
        let raw = input.take(raw_len.into()).to_vec();
        let Some(request) = self.pool.get(usize::from(which) % self.pool.len().max(1)) else {
            return;
        };
        let request = Message::parse(request).expect("our own request parses");
        let class = if how & 1 == 0 { Class::Success } else { Class::Error };
        let mut datagram = Vec::new();
        let id = request.transaction_id();
        let mut builder = Builder::new(&mut datagram, class, request.method(), id);
        if how & 1 != 0 {
            const CODES: [u16; 11] = [300, 400, 401, 403, 437, 438, 440, 441, 486, 500, 508];
            builder.error_code(CODES[usize::from(code) % CODES.len()]);
        }
        if how & 2 != 0 {
            builder.xor_relayed_address(address(code)).xor_mapped_address(address(code >> 3));
            builder.lifetime(u32::from(code));
        }
        if how & 4 != 0 {
            let nonce: &[u8] = if how & 8 == 0 { b"obMatJos2gAAAnew" } else { b"new" };
            builder.realm(if code & 1 == 0 { b"fuzz" } else { b"else" }).nonce(nonce);
        }
        if how & 16 != 0 {
            let list: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];
            builder.attribute(AttributeType::PASSWORD_ALGORITHMS, list);
        }
        if raw.len() >= 2 {
            builder.attribute(AttributeType(u16::from_be_bytes([raw[0], raw[1]])), &raw[2..]);
        }
        if how & 32 == 0 {
            let realm = request.realm().unwrap_or_default();
            let text = [b"1:fuzz:", realm, b":fuzz"].concat();
            if request.has_sha256() {
                let key = ring::digest::digest(&ring::digest::SHA256, &text);
                builder.integrity_sha256(&Sha256Key::new(key.as_ref()));
            } else if request.has_sha1() {
                builder.integrity_sha1(&Sha1Key::new(&md5_of(&text)));
            }
        }
        self.deliver(&datagram);
    }

    fn deliver(&mut self, datagram: &[u8]) {
        if let Inbound::Data { range, .. } = self.client.handle_datagram(datagram, self.now) {
            assert!(range.end <= datagram.len() && range.start >= 4);
            assert!(!self.is_over);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(request) = self.client.poll_transmit() {
            assert!(is_stun(&request));
            self.pool.push(request);
        }
        let extra = self.pool.len().saturating_sub(MAX_POOL);
        self.pool.drain(..extra);
        while let Some(event) = self.client.poll_event() {
            assert!(!self.is_over, "after the end: {event:?}");
            self.is_over = matches!(event, Event::Failed { .. } | Event::Closed);
        }
        assert_eq!(self.is_over, self.client.is_ended());
        if self.is_over {
            assert_eq!(self.client.poll_timeout(), None);
            assert_eq!(self.client.relayed(), None);
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            self.drain();
            if let Some((at, why)) = self.client.poll_timeout() {
                assert!(at > self.now, "{why} is due at once again");
            }
        }
        self.now = end;
    }
}

fn md5_of(text: &[u8]) -> Vec<u8> {
    use md5::{Digest as _, Md5};
    Md5::digest(text).to_vec()
}
