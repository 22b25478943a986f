use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The most endpoints that a device may publish; a broker drops the rest.
pub const MAX_ENDPOINTS: usize = 12;

/// How an endpoint came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EndpointKind {
    /// An address of one of the device's own interfaces.
    Host,
    /// An admin set it.
    Static,
    /// A port mapping in the router (UPnP-IGD, NAT-PMP, PCP).
    Mapped,
    /// As a STUN server saw it.
    Reflexive,
    /// Where an authenticated packet came from; learned by a peer, never published.
    Observed,
    /// From a newer version of the protocol: tried like a reflexive one.
    #[serde(other)]
    Other,
}

/// An address and port where a node may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// Where datagrams go.
    pub addr: SocketAddr,
    /// How it came to be known.
    pub kind: EndpointKind,
}

/// Whether an address may be a peer's endpoint at all: a unicast address and a port, and neither
/// loopback, link-local IPv6 (its scope means nothing to others), multicast nor broadcast.
///
/// Mesh addresses must be refused besides; only the caller knows the account's range.
pub fn is_usable_endpoint(addr: &SocketAddr) -> bool {
    if addr.port() == 0 {
        return false;
    }
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_link_local()
                || ip.octets()[0] == 0)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local())
        }
    }
}

/// How a NAT maps one local port towards different destinations (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MappingBehaviour {
    /// No translation: what STUN saw is an address of the device itself.
    None,
    /// One mapping for every destination.
    EndpointIndependent,
    /// A mapping of its own for each destination address, or address and port.
    AddressDependent,
    /// Not measured, or not measurable from what is there.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What a node has measured of the NATs in front of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NatReport {
    /// Whether any STUN answer came back over UDP at all; `None` before the first attempt ended.
    #[serde(default)]
    pub udp: Option<bool>,
    /// The mapping behaviour towards IPv4.
    #[serde(default)]
    pub ipv4: MappingBehaviour,
    /// The mapping behaviour towards IPv6.
    #[serde(default)]
    pub ipv6: MappingBehaviour,
}
