//! Constants of the paper (§5.4, §6.1) and limits of our own.

use std::time::Duration;

/// After how many messages a session is renewed (paper §6.1).
pub(crate) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// How many messages a session carries at most: 2^64 less the replay window and one (paper §6.1).
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// After what age an initiator that sends renews the session (paper §6.1).
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// At what age a session is dead (paper §6.1).
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long a handshake is retried (paper §6.1).
pub(crate) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long until a handshake is retried (paper §6.1), plus jitter.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is added to REKEY_TIMEOUT at random (paper §6.4).
pub(crate) const MAX_JITTER: Duration = Duration::from_millis(333);
/// How long after received data an answer is due, if only an empty one (paper §6.1).
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// From what age a session is renewed on the last occasion: by an initiator that receives (paper
/// §6.2) and, beyond the paper, by a responder that sends.
pub(crate) const REKEY_LAST_MINUTE: Duration =
    Duration::from_secs(180 - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs());
/// How long a cookie, and the secret that cookies are made of, is good for (paper §5.4.7).
pub(crate) const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// The least time between two of our initiations to one peer. Other implementations drop what
/// comes within 20 ms, and some round timestamps to 16.8 ms.
pub(crate) const INITIATION_GAP: Duration = Duration::from_millis(50);
/// The least time between two initiations that are accepted of one peer.
pub(crate) const INITIATION_FLOOD_GAP: Duration = Duration::from_millis(20);
/// More initiations than this within a second are load: about 20 ms of work on a server's core,
/// 0.2 s on a small board's.
pub(crate) const INITIATIONS_PER_SECOND: u32 = 128;
/// How many initiations one source gets through in a second of load, its address proven.
pub(crate) const INITIATIONS_PER_SOURCE: u8 = 20;
/// How many sources are told apart within a second of load; others wait for the next.
pub(crate) const MAX_SOURCES: usize = 4096;
/// How many forged responses to one initiation are looked at: each costs two Diffie-Hellmans, and
/// who is on the path knows the index to aim at. The next initiation has another index.
pub(crate) const MAX_FORGED_RESPONSES: u32 = 64;
/// How many packets one sealer seals at most.
pub(crate) const SEALER_PACKETS: u64 = 1 << 16;
