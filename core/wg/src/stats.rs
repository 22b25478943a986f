//! What is counted.

use std::time::{Duration, Instant};

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Not a WireGuard message: unknown type, reserved bytes set, or a length that doesn't fit.
    Malformed,
    /// The message's first MAC is wrong: the sender doesn't know our public key.
    Mac1,
    /// We are under load and the sender hasn't proven its address: a cookie reply may be under way.
    CookieRequired,
    /// We are under load and this source sends too many handshakes.
    SourceLimit,
    /// The handshake didn't decrypt, or a Diffie-Hellman result was zero.
    HandshakeCrypto,
    /// The initiation is from a key that is not one of our peers.
    UnknownPeer,
    /// The initiation's timestamp isn't newer than the last one seen of that peer: a replay.
    HandshakeReplay,
    /// The peer's initiations come more often than one per 20 ms.
    HandshakeFlood,
    /// No handshake or session has this receiver index.
    UnknownIndex,
    /// The receiver index is known, but its state doesn't wait for such a message.
    Unexpected,
    /// The cookie reply didn't decrypt, or answers no message of ours.
    Cookie,
    /// The session is too old, or its messages are used up.
    SessionExpired,
    /// The data message's counter was seen before, or lies behind the window of 8,192.
    Replay,
    /// The data message's tag is wrong.
    Authentication,
    /// It was decrypted, but the content isn't an IP packet.
    NotIp,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [DropReason; 15] = [
        DropReason::Malformed,
        DropReason::Mac1,
        DropReason::CookieRequired,
        DropReason::SourceLimit,
        DropReason::HandshakeCrypto,
        DropReason::UnknownPeer,
        DropReason::HandshakeReplay,
        DropReason::HandshakeFlood,
        DropReason::UnknownIndex,
        DropReason::Unexpected,
        DropReason::Cookie,
        DropReason::SessionExpired,
        DropReason::Replay,
        DropReason::Authentication,
        DropReason::NotIp,
    ];
}

/// Totals of one [`crate::Interface`] since its creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    dropped: [u64; DropReason::ALL.len()],
    /// Handshake initiations sent.
    pub initiations_sent: u64,
    /// Valid handshake initiations received (and answered).
    pub initiations_received: u64,
    /// Valid handshake responses received.
    pub responses_received: u64,
    /// Cookie replies sent.
    pub cookies_sent: u64,
    /// Valid cookie replies received.
    pub cookies_received: u64,
    /// Keepalives sent.
    pub keepalives_sent: u64,
}

impl Counters {
    /// How many datagrams were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// How many datagrams were dropped at all.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

/// What is known of one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// When the newest session was agreed on, as initiator or responder.
    pub last_handshake: Option<Instant>,
    /// The round trip of our newest successful initiation, from sending it to its response.
    pub handshake_rtt: Option<Duration>,
    /// When anything authenticated (handshake, keepalive, data) last came from the peer.
    pub last_received: Option<Instant>,
    /// Bytes of authenticated datagrams received, headers included.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent, headers included.
    pub tx_bytes: u64,
    /// Data datagrams with content received.
    pub rx_packets: u64,
    /// Data datagrams sealed by [`crate::Sealer`].
    pub tx_packets: u64,
    /// Whether there is a session that can be sent with (as of the last `handle_*` call).
    pub has_session: bool,
    /// Whether an initiation of ours waits for its response.
    pub initiating: bool,
}
