use std::net::SocketAddr;
use std::time::Instant;

use warren_turn::{Answer, BindingServer, Limits};

use crate::net::{Delivery, HostId, Network};

/// A host that runs the real Binding server on two addresses and two ports.
#[derive(Debug)]
pub struct StunHost {
    /// The host in the network.
    pub host: HostId,
    /// Its sockets: A1:P1, A1:P2, A2:P1, A2:P2, then the same for IPv6 where it has any.
    pub sockets: Vec<SocketAddr>,
    server: BindingServer,
}

/// The ports of every [`StunHost`].
pub const STUN_PORTS: [u16; 2] = [3478, 3479];

impl StunHost {
    /// Serves on every address that the host has in the network.
    pub fn new(network: &Network, host: HostId, now: Instant) -> Self {
        let sockets: Vec<SocketAddr> = network
            .addresses(host)
            .flat_map(|addr| STUN_PORTS.map(|port| SocketAddr::new(addr.addr(), port)))
            .collect();
        let server = BindingServer::new(sockets.clone(), Limits::default(), [0x5A; 16], now);
        Self { host, sockets, server }
    }

    /// Answers a datagram that has reached the host.
    pub fn handle_delivery(&mut self, delivery: &Delivery, network: &mut Network, now: Instant) {
        let Some(socket) = self.sockets.iter().position(|socket| *socket == delivery.to) else {
            return;
        };
        let mut reply = Vec::new();
        let answer =
            self.server.handle_datagram(socket, delivery.from, &delivery.payload, &mut reply, now);
        if let Answer::Reply { socket } = answer {
            network.send_from(self.host, self.sockets[socket], delivery.from, reply, now);
        }
    }
}
