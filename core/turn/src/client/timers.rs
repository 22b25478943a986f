use std::net::{IpAddr, SocketAddr};

use crate::codec::TransactionId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Transaction(TransactionId),
    Refresh,
    Channel(SocketAddr),
    Permission(IpAddr),
    Keepalive,
}

impl Timer {
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Transaction(_) => "request to the relay",
            Self::Refresh => "refresh of the allocation",
            Self::Channel(_) => "refresh of a channel",
            Self::Permission(_) => "refresh of a permission",
            Self::Keepalive => "keepalive to the relay",
        }
    }
}
