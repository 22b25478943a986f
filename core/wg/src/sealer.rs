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
// No `Drop` here: with one, a caller's `match` on what holds a sealer borrows until its end.
pub struct Sealer<'a> {
    cipher: Cipher<'a>,
    notes: Notes<'a>,
    noted: bool,
}

/// What sealing itself needs.
struct Cipher<'a> {
    key: &'a LessSafeKey,
    counter: &'a mut u64,
    limit: u64,
    /// The data message's first 8 bytes: type and receiver index.
    header: [u8; 8],
}

/// Where it is noted that something was sent.
struct Notes<'a> {
    index: PeerIndex,
    now: Instant,
    timers: &'a mut Timers,
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
        let limit = counter.saturating_add(SEALER_PACKETS);
        let cipher = Cipher { key: sending, counter, limit, header: header(*remote) };
        let notes = Notes {
            index,
            now,
            timers,
            deadlines,
            stats,
            needs_another_keepalive,
            jitter: peer.jitter,
            persistent_keepalive: peer.persistent_keepalive,
        };
        Some(Self { cipher, notes, noted: false })
    }

    /// Seals a packet in place: `slot` is [`crate::HEADROOM`] bytes, then `plaintext_len` bytes of
    /// IP packet, then at least [`crate::TAG`] bytes of room, better [`crate::TAILROOM`].
    ///
    /// Returns the length of the datagram, which begins at `slot[0]`; 0 if the slot is too small or
    /// the sealer is used up (65,536 packets), and then nothing may be sent. The plaintext is padded
    /// with zeros to a multiple of 16 as far as the slot has room.
    pub fn seal(&mut self, slot: &mut [u8], plaintext_len: usize) -> usize {
        let len = self.cipher.seal(slot, plaintext_len);
        if len == 0 {
            return 0;
        }
        self.notes.stats.tx_packets += 1;
        self.notes.stats.tx_bytes += len as u64;
        if !self.noted {
            self.noted = true;
            self.notes.note_sent();
        }
        len
    }

    /// The peer that is sealed for.
    pub fn peer(&self) -> PeerIndex {
        self.notes.index
    }
}

impl Notes<'_> {
    fn note_sent(&mut self) {
        self.deadlines.cancel(Timer::Keepalive);
        *self.needs_another_keepalive = false;
        if !self.deadlines.is_armed(Timer::Silence) {
            let at = self.now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.jitter;
            self.timers.arm(self.index, self.deadlines, Timer::Silence, at);
        }
        if let Some(every) = self.persistent_keepalive {
            let at = self.now + every;
            self.timers.arm(self.index, self.deadlines, Timer::PersistentKeepalive, at);
        }
    }
}

/// The first 8 bytes of a data message to `remote`.
fn header(remote: u32) -> [u8; 8] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&DATA.to_le_bytes());
    header[4..].copy_from_slice(&remote.to_le_bytes());
    header
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

impl fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("peer", &self.notes.index).finish_non_exhaustive()
    }
}

/// Seals an empty packet: a keepalive.
pub(crate) fn seal_keepalive(keypair: &mut Keypair) -> Option<Vec<u8>> {
    let limit = keypair.counter.saturating_add(1);
    let mut cipher = Cipher {
        key: &keypair.sending,
        counter: &mut keypair.counter,
        limit,
        header: header(keypair.remote),
    };
    let mut datagram = vec![0; HEADROOM + TAG];
    (cipher.seal(&mut datagram, 0) != 0).then_some(datagram)
}
