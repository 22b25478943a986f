//! The hot path out.

use std::fmt;
use std::time::{Duration, Instant};

use ring::aead::{Aad, LessSafeKey};

use crate::constants::{KEEPALIVE_TIMEOUT, REKEY_TIMEOUT, SEALER_PACKETS};
use crate::crypto::nonce;
use crate::interface::PeerIndex;
use crate::keypair::Keypair;
use crate::message::DATA;
use crate::peer::Peer;
use crate::timers::{Deadlines, Timer, Timers};
use crate::{HEADROOM, Stats, TAG};

/// Seals packets for one peer with its current session; see [`crate::Interface::sealer`].
///
/// Good for one super-packet (at most 65,536 packets) at the time it was asked for.
pub struct Sealer<'a> {
    cipher: Cipher<'a>,
    after: After<'a>,
}

/// What sealing itself needs.
struct Cipher<'a> {
    key: &'a LessSafeKey,
    counter: &'a mut u64,
    limit: u64,
    /// The data message's first 8 bytes: type and receiver index.
    header: [u8; 8],
}

/// What has to be noted when the sealer is done.
struct After<'a> {
    index: PeerIndex,
    peer: Notes<'a>,
    timers: &'a mut Timers,
    now: Instant,
    packets: u64,
    bytes: u64,
}

/// The peer, less the session that is being sealed with.
struct Notes<'a> {
    deadlines: &'a mut Deadlines,
    stats: &'a mut Stats,
    needs_another_keepalive: &'a mut bool,
    jitter: Duration,
    persistent_keepalive: Option<Duration>,
}

impl<'a> Sealer<'a> {
    /// `None` without a current session.
    pub(crate) fn new(
        index: PeerIndex,
        peer: &'a mut Peer,
        timers: &'a mut Timers,
        now: Instant,
    ) -> Option<Self> {
        let Peer { keypairs, deadlines, stats, needs_another_keepalive, .. } = peer;
        let Keypair { remote, sending, counter, .. } = keypairs.current.as_deref_mut()?;
        let mut header = [0; 8];
        header[..4].copy_from_slice(&DATA.to_le_bytes());
        header[4..].copy_from_slice(&remote.to_le_bytes());
        let limit = counter.saturating_add(SEALER_PACKETS);
        let notes = Notes {
            deadlines,
            stats,
            needs_another_keepalive,
            jitter: peer.jitter,
            persistent_keepalive: peer.persistent_keepalive,
        };
        Some(Self {
            cipher: Cipher { key: sending, counter, limit, header },
            after: After { index, peer: notes, timers, now, packets: 0, bytes: 0 },
        })
    }

    /// Seals a packet in place: `slot` is [`crate::HEADROOM`] bytes, then `plaintext_len` bytes of
    /// IP packet, then at least [`crate::TAG`] bytes of room, better [`crate::TAILROOM`].
    ///
    /// Returns the length of the datagram, which begins at `slot[0]`; 0 if the slot is too small or
    /// the sealer is used up (65,536 packets), and then nothing may be sent. The plaintext is padded
    /// with zeros to a multiple of 16 as far as the slot has room.
    pub fn seal(&mut self, slot: &mut [u8], plaintext_len: usize) -> usize {
        let len = self.cipher.seal(slot, plaintext_len);
        if len != 0 {
            self.after.packets += 1;
            self.after.bytes += len as u64;
        }
        len
    }

    /// The peer that is sealed for.
    pub fn peer(&self) -> PeerIndex {
        self.after.index
    }
}

impl Cipher<'_> {
    fn seal(&mut self, slot: &mut [u8], plaintext_len: usize) -> usize {
        let Some(room) = slot.len().checked_sub(HEADROOM + TAG) else { return 0 };
        if plaintext_len > room || *self.counter >= self.limit {
            return 0;
        }
        // The counter is taken before it is used, so that no two packets can share a nonce.
        let counter = *self.counter;
        *self.counter += 1;

        let padded_len = plaintext_len.next_multiple_of(16).min(room);
        let (header, rest) = slot.split_at_mut(HEADROOM);
        header[..8].copy_from_slice(&self.header);
        header[8..].copy_from_slice(&counter.to_le_bytes());
        let (plaintext, rest) = rest.split_at_mut(padded_len);
        plaintext[plaintext_len..].fill(0);
        let sealed = self.key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), plaintext);
        let Ok(tag) = sealed else { return 0 };
        rest[..TAG].copy_from_slice(tag.as_ref());
        HEADROOM + padded_len + TAG
    }
}

impl Drop for After<'_> {
    fn drop(&mut self) {
        if self.packets == 0 {
            return;
        }
        let Notes { deadlines, stats, needs_another_keepalive, jitter, persistent_keepalive } =
            &mut self.peer;
        stats.tx_packets += self.packets;
        stats.tx_bytes += self.bytes;
        deadlines.cancel(Timer::Keepalive);
        **needs_another_keepalive = false;
        if !deadlines.is_armed(Timer::Silence) {
            let at = self.now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + *jitter;
            self.timers.arm(self.index, deadlines, Timer::Silence, at);
        }
        if let Some(every) = *persistent_keepalive {
            let at = self.now + every;
            self.timers.arm(self.index, deadlines, Timer::PersistentKeepalive, at);
        }
    }
}

impl fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("peer", &self.after.index).finish_non_exhaustive()
    }
}

/// Seals an empty packet: a keepalive.
pub(crate) fn seal_keepalive(keypair: &mut Keypair) -> Option<Vec<u8>> {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&DATA.to_le_bytes());
    header[4..].copy_from_slice(&keypair.remote.to_le_bytes());
    let limit = keypair.counter.saturating_add(1);
    let mut cipher = Cipher { key: &keypair.sending, counter: &mut keypair.counter, limit, header };
    let mut datagram = vec![0; HEADROOM + TAG];
    (cipher.seal(&mut datagram, 0) != 0).then_some(datagram)
}
