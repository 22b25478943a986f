//! 'Which address do you see?', asked and answered (Binding, RFC 8489 §3; RFC 5780).
//!
//! [`BindingServer`] keeps no state but its rate limits. [`BindingClient`] keeps a node's reflexive
//! endpoint true: it asks one server of each family at regular times, others when that one is
//! silent or when the mapping behaviour of the NAT is to be told.

mod client;
mod limit;
mod server;

use std::net::{IpAddr, SocketAddr};

pub use client::{BindingClient, ClientEvent, Handled, Mapped, Mapping, ServerStatus};
pub use limit::{Admission, Limiter, Limits};
pub use server::{Answer, BindingServer, Refusal};
pub(crate) use server::{MAX_FACTOR, MAX_UNKNOWN};

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The UDP payload.
    pub contents: Vec<u8>,
}

/// IPv4 or IPv6: each has NATs, mappings and sockets of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address; an IPv4-mapped IPv6 address is IPv4.
    pub fn of(ip: &IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Whether an address that STUN showed can be that of a NAT towards the internet: not private
/// (RFC 1918), shared (RFC 6598), link-local, loopback, unique local (RFC 4193) or unspecified.
/// The ranges for documentation count as public: laboratories use them so.
pub fn is_public(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_private()
                || a == 100 && b & 0xC0 == 64
                || ip.is_link_local()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_broadcast()
                || a == 0)
        }
        IpAddr::V6(ip) => {
            !(ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unspecified())
        }
    }
}
