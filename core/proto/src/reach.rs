//! Whether a device is reached at an endpoint from outside.

use serde::{Deserialize, Serialize};

use crate::ReachId;

/// The broker's word to a device that a STUN Binding request is coming, from somewhere that the device
/// has never sent to: whether it arrives shows whether an endpoint is open to everybody. The request
/// carries short-term credentials (RFC 8489 §9.1) that are good for this check alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachCheck {
    /// The request's USERNAME, in its 16 digits.
    pub id: ReachId,
    /// The key of its MESSAGE-INTEGRITY-SHA256, and of the answer's: at least 16 bytes.
    pub key: String,
}

impl std::fmt::Debug for ReachCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReachCheck").field("id", &self.id).finish_non_exhaustive()
    }
}
