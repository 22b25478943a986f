use std::net::Ipv6Addr;
use std::time::Instant;

use super::ClientAddr;
use super::allocate::Opening;
use super::owner::OwnerId;
use super::peers::Peers;
use crate::binding::Family;
use crate::codec::TransactionId;

/// Where peers reach a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relayed {
    /// Ports of the server's relayed addresses.
    Ports { ipv4: Option<u16>, ipv6: Option<u16> },
    /// An address that means something only inside this server.
    Virtual(Ipv6Addr),
}

impl Relayed {
    pub(super) fn port(self, family: Family) -> Option<u16> {
        match (self, family) {
            (Self::Ports { ipv4, .. }, Family::V4) => ipv4,
            (Self::Ports { ipv6, .. }, Family::V6) => ipv6,
            (Self::Virtual(_), Family::V4 | Family::V6) => None,
        }
    }

    pub(super) fn set_port(&mut self, family: Family, port: Option<u16>) {
        match (self, family) {
            (Self::Ports { ipv4, .. }, Family::V4) => *ipv4 = port,
            (Self::Ports { ipv6, .. }, Family::V6) => *ipv6 = port,
            (Self::Virtual(_), Family::V4 | Family::V6) => {}
        }
    }

    pub(super) fn is_virtual(self) -> bool {
        matches!(self, Self::Virtual(_))
    }
}

/// What one client has here. A hundred thousand of them must fit (docs/measurements.md).
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) client: ClientAddr,
    pub(super) owner: OwnerId,
    pub(super) relayed: Relayed,
    /// Of the Allocate that made it: the same again is a repetition.
    pub(super) transaction: TransactionId,
    /// Given with it for the next port, if one was reserved.
    pub(super) token: Option<[u8; 8]>,
    /// Also when its timer is set.
    pub(super) expires: Instant,
    pub(super) peers: Peers,
    /// Bytes that may still be sent to the client, as long as nothing proves that it hears what is sent
    /// to its address: as many as came from there. Any number (`None`) once something does. So whoever
    /// forges an address has nothing sent there that he couldn't have sent himself.
    pub(super) credit: Option<u32>,
    /// While its ports are being opened.
    pub(super) opening: Option<Box<Opening>>,
}
