//! Probes: STUN Binding requests that only two devices can make.
//!
//! Both sides of a pair compute the X25519 secret of their static keys, and from it (HKDF-SHA-256)
//! the key that authenticates their probes and, for each day and direction, a 16-byte *tag*:
//!
//! ```text
//! prk = HKDF-Extract("warren probe v1", X25519(static, static))
//! tag = HKDF-Expand(prk, "probe tag" || sender's public key || day as u32)[..16]
//! key = HKDF-Expand(prk, "probe key")[..32]
//!
//! request:  USERNAME(tag) [ASIDE] [ALLOCATION] [PADDING] MESSAGE-INTEGRITY-SHA256(key) FINGERPRINT
//! response: XOR-MAPPED-ADDRESS TUNNEL MESSAGE-INTEGRITY-SHA256(key) FINGERPRINT
//! ```
//!
//! A receiver finds the sender in a table of its peers' tags of yesterday, today and tomorrow, so
//! nothing has to be exchanged first and nobody on the path learns a lasting identity. TUNNEL
//! ([`wire::TUNNEL`]) says whether the responder has a session with the requester: so a device that
//! restarted, and lost its sessions, is noticed with the first probe. ASIDE ([`wire::ASIDE`]), along a
//! relayed path, asks the other side to try direct paths at the same time; ALLOCATION
//! ([`wire::ALLOCATION`]) says that the request went out through an allocation at a relay.

pub(crate) mod budget;
pub(crate) mod keys;
pub(crate) mod transactions;
pub(crate) mod wire;
