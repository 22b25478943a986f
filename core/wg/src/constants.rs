//! Constants of the paper (§6.1, §5.4) and limits of our own.

use std::time::Duration;

/// After how many messages an initiator renews the session (paper §6.1).
pub(crate) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// How many messages a session carries at most: 2^64 less the replay window (paper §6.1).
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// After what age an initiator that sends renews the session (paper §6.1).
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// At what age a session is dead (paper §6.1).
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long a handshake is retried (paper §6.1).
pub(crate) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long until a handshake is retried (paper §6.1), plus jitter.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after received data an answer is due, if only an empty one (paper §6.1).
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
