//! Sealing and opening on one core, ours beside raw ring: `cargo run --release -p warren-wg
//! --example throughput [packet length, 1420] [rounds, 5]`.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and its arguments")]

use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use warren_wg::{HEADROOM, Interface, PeerConfig, PeerIndex, Received, TAG, TAILROOM};

/// Packets of one super-packet, as TSO gives them.
const BATCH: usize = 44;
const BATCHES: usize = 4000;

fn connected(now: Instant) -> [(Interface, PeerIndex); 2] {
    let mut a = Interface::new([1; 32], [2; 32], now, Duration::ZERO);
    let mut b = Interface::new([3; 32], [4; 32], now, Duration::ZERO);
    let b_at_a = a.add_peer(b.public_key(), PeerConfig::default(), now);
    let a_at_b = b.add_peer(a.public_key(), PeerConfig::default(), now);
    a.initiate(b_at_a, now);
    let from = ([127, 0, 0, 1], 1).into();
    for _ in 0..2 {
        while let Some(mut transmit) = a.poll_transmit() {
            let _ = b.handle_datagram(from, &mut transmit.contents, now);
        }
        while let Some(mut transmit) = b.poll_transmit() {
            let _ = a.handle_datagram(from, &mut transmit.contents, now);
        }
    }
    [(a, b_at_a), (b, a_at_b)]
}

fn gbits(bytes: usize, time: Duration) -> f64 {
    bytes as f64 * 8. / time.as_secs_f64() / 1e9
}

/// Gbit/s of plaintext: sealing, opening.
fn ours(len: usize) -> (f64, f64) {
    let now = Instant::now();
    let [(mut a, b_at_a), (mut b, _)] = connected(now);
    let stride = HEADROOM + len + TAILROOM;
    let mut buffer = vec![0x45; stride * BATCH];
    let from = ([127, 0, 0, 1], 1).into();
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BATCHES {
        for slot in buffer.chunks_mut(stride) {
            slot[HEADROOM] = 0x45;
            slot[HEADROOM + 2..HEADROOM + 4].copy_from_slice(&(len as u16).to_be_bytes());
        }
        let start = Instant::now();
        let mut sealer = a.sealer(b_at_a, now).expect("a session");
        let mut sealed = 0;
        for slot in buffer.chunks_mut(stride) {
            sealed = sealer.seal(slot, len);
        }
        sealing += start.elapsed();
        let start = Instant::now();
        for slot in buffer.chunks_mut(stride) {
            let received = b.handle_datagram(from, &mut slot[..sealed], now);
            assert!(matches!(received, Received::Data { .. }), "{received:?}");
        }
        opening += start.elapsed();
    }
    (gbits(len * BATCH * BATCHES, sealing), gbits(len * BATCH * BATCHES, opening))
}

/// The same with nothing but ring.
fn raw(len: usize) -> (f64, f64) {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[5; 32]).expect("32 bytes");
    let key = LessSafeKey::new(key);
    let nonce = |n: usize| {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&(n as u64).to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    };
    let padded = len.next_multiple_of(16);
    let stride = HEADROOM + len + TAILROOM;
    let mut buffer = vec![0x45; stride * BATCH];
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for (n, slot) in buffer.chunks_mut(stride).enumerate() {
            let (content, rest) = slot[HEADROOM..].split_at_mut(padded);
            let tag = key.seal_in_place_separate_tag(nonce(n), Aad::empty(), content);
            rest[..TAG].copy_from_slice(tag.expect("short").as_ref());
        }
        sealing += start.elapsed();
        let start = Instant::now();
        for (n, slot) in buffer.chunks_mut(stride).enumerate() {
            let sealed = &mut slot[HEADROOM..HEADROOM + padded + TAG];
            key.open_in_place(nonce(n), Aad::empty(), sealed).expect("genuine");
        }
        opening += start.elapsed();
    }
    (gbits(len * BATCH * BATCHES, sealing), gbits(len * BATCH * BATCHES, opening))
}

fn main() {
    let mut args = std::env::args().skip(1);
    let len = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(1420);
    let rounds = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(5);
    println!("{len} bytes, Gbit/s of plaintext on one core   seal   open   (best of {rounds})");
    let best = |run: fn(usize) -> (f64, f64)| {
        let mut best = (0f64, 0f64);
        for _ in 0..rounds {
            let (seal, open) = run(len);
            best = (best.0.max(seal), best.1.max(open));
        }
        best
    };
    let (ours, raw) = (best(ours), best(raw));
    println!("warren-wg                                      {:5.2}  {:5.2}", ours.0, ours.1);
    println!("ring alone                                     {:5.2}  {:5.2}", raw.0, raw.1);
    println!(
        "share                                          {:4.0} % {:4.0} %",
        ours.0 / raw.0 * 100.,
        ours.1 / raw.1 * 100.
    );
}
