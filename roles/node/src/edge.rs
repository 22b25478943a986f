//! The seam between this node and the edge role, which opens the LAN: the node says what is to be
//! open, the role says how that goes. Whoever runs both makes a pair by [`edge_link`], gives one end to
//! [`crate::NodeConfig`] and the other to the role.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use warren_proto::{EdgeDuty, EdgeState, Filter, Peer};

/// What the edge role needs of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeOrders {
    /// The mesh's network interface.
    pub interface: String,
    /// This device's own mesh address.
    pub ipv4: Ipv4Addr,
    /// The account's range: whoever asks has an address of it.
    pub range: Ipv4Net,
    /// The account's domain, without a trailing dot.
    pub domain: String,
    /// What is to be open. It is good while the broker is out of reach, too.
    pub duty: EdgeDuty,
    /// The devices that this one sees: who asks is known by his mesh address.
    pub peers: Vec<Peer>,
    /// What this device lets in; `None`: everything.
    pub filter: Option<Filter>,
    /// Whether the broker is connected: without it what is open can't be changed.
    pub is_connected: bool,
}

/// The node's end.
#[derive(Debug, Clone)]
pub struct EdgeLink {
    pub(crate) orders: watch::Sender<Option<EdgeOrders>>,
    pub(crate) state: watch::Receiver<EdgeState>,
}

/// The edge role's end.
#[derive(Debug)]
pub struct EdgeRole {
    /// What is to be open; `None`: nothing, because this device is no edge or the mesh is down.
    pub orders: watch::Receiver<Option<EdgeOrders>>,
    /// How that goes: told to the broker at once when it has changed.
    pub state: watch::Sender<EdgeState>,
}

/// Makes both ends.
pub fn edge_link() -> (EdgeLink, EdgeRole) {
    let (orders, orders_receiver) = watch::channel(None);
    let (state_sender, state) = watch::channel(EdgeState::default());
    (EdgeLink { orders, state }, EdgeRole { orders: orders_receiver, state: state_sender })
}
