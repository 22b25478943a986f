//! What unit tests share.

use std::sync::OnceLock;
use std::time::Instant;

/// An instant to count virtual time from; all tests of a process share it.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made otherwise")]
    *EPOCH.get_or_init(Instant::now)
}
