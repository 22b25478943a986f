//! What the targets with state share.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};

/// Noon of some day in 2024.
pub(crate) const UNIX: Duration = Duration::from_secs(20_000 * 86_400 + 43_200);

/// The instant that virtual time is counted from.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// An address that a byte stands for, of all kinds.
pub(crate) fn address(n: u8) -> SocketAddr {
    match n % 7 {
        0 => (Ipv4Addr::new(192, 0, 2, n), 4000).into(),
        1 => (Ipv4Addr::new(10, 0, 0, n), 4000).into(),
        2 => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()), 4000).into(),
        3 => (Ipv4Addr::new(127, 0, 0, n), 4000).into(),
        4 => (Ipv4Addr::new(100, 80, 0, n), n.into()).into(),
        5 => (Ipv4Addr::new(192, 0, 2, n).to_ipv6_mapped(), 4000).into(),
        _ => (Ipv4Addr::new(224, 0, 0, n), 0).into(),
    }
}

/// An IPv4 packet with a number in it.
pub(crate) fn packet(from: Ipv4Addr, to: Ipv4Addr, len: usize, number: u64) -> Vec<u8> {
    let len = len.max(28);
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&(len as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(len, number as u8);
    packet
}

/// The number in a packet of [`packet`].
pub(crate) fn number(packet: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&packet[20..28]);
    u64::from_be_bytes(number)
}

/// Makes a handshake message's MAC1 right, as anyone can who knows the receiver's public key.
pub(crate) fn sign_mac1(message: &mut [u8], receiver: &[u8; 32]) {
    let Some(at) = message.len().checked_sub(32) else { return };
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver).finalize();
    let mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).expect("32 bytes are a key");
    let mac = mac.chain_update(&message[..at]).finalize();
    message[at..at + 16].copy_from_slice(&mac.into_bytes());
}
