//! A client of a pair relay: sends each line of its input to its partner, prints what comes back.
//!
//!   UDP_RELAY_SECRET_KEY=... pair_client 203.0.113.1:6060 00000001000000020000000300000004
//!
//! It ends two seconds after its input has ended. Its handshakes carry the extension that proves
//! them fresh, so the relay knows it again at another address. The wire format: docs/pair-relay.md.

use std::io::Write as _;
use std::net::UdpSocket;
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

const HEADER: usize = 56;
const MAGIC: [u8; 4] = 0x04b2_8000_u32.to_be_bytes();
const PROOF_TYPE: u16 = 0xb5c7;
const PROOF_MAGIC: [u8; 8] = [0x57, 0x9d, 0xe1, 0x0c, 0x92, 0x6b, 0xf4, 0x38];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn handshake(key: &hmac::Key, guid: u128, nonce: &[u8; 16]) -> Result<Vec<u8>> {
    let time = u64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_micros())?;
    let mut proof = [PROOF_TYPE.to_be_bytes(), 32_u16.to_be_bytes()].concat();
    proof.extend([&PROOF_MAGIC[..], &time.to_be_bytes(), nonce].concat());
    let length = (proof.len() as u16).to_be_bytes();
    let mut datagram = [&MAGIC[..], &length, &[0; 2], &guid.to_be_bytes(), &[0; 32]].concat();
    datagram.extend(proof);
    let mac = hmac::sign(key, &datagram);
    datagram[24..HEADER].copy_from_slice(mac.as_ref());
    Ok(datagram)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, relay, guid] = &arguments[..] else { return Err("RELAY:PORT GUID(32 hex)".into()) };
    let guid = u128::from_str_radix(guid, 16)?;
    let key = std::env::var("UDP_RELAY_SECRET_KEY")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(key.trim())?);
    let mut nonce = [0; 16];
    SystemRandom::new().fill(&mut nonce).map_err(|_| "no randomness")?;

    let any = if relay.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(relay)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| tell.send(line)));

    let mut buffer = [0; 2048];
    let (mut connected, mut next_hello) = (false, Instant::now());
    let mut end = None::<Instant>;
    while end.is_none_or(|end| Instant::now() < end) {
        // Ten a second until the partner is heard; then one a second keeps pair and NAT open.
        if Instant::now() >= next_hello {
            let _ = socket.send(&handshake(&key, guid, &nonce)?);
            next_hello = Instant::now() + Duration::from_millis(if connected { 1000 } else { 100 });
        }
        if let Ok(length) = socket.recv(&mut buffer) {
            if length >= HEADER && buffer.starts_with(&MAGIC) {
                next_hello = if connected { next_hello } else { Instant::now() };
                connected = true;
            } else {
                std::io::stdout().write_all(&buffer[..length])?;
            }
        }
        if !connected || end.is_some() {
            continue;
        }
        match lines.try_recv() {
            Ok(line) => _ = socket.send(format!("{}\n", line?).as_bytes())?,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => end = Some(Instant::now() + Duration::from_secs(2)),
        }
    }
    Ok(())
}
