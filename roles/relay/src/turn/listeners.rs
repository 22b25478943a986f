//! The UDP sockets that clients send to. On a host with several addresses, a client of a socket that is
//! bound to all of them must hear from the one that it has sent to: others it would take for strangers,
//! and a NAT in front of it too. So each such address is a listener of its own, numbered as
//! [`Listener`] says.

use std::net::IpAddr;
use std::sync::Arc;

use warren_net::{Destination, ServerSocket};
use warren_turn::server::Listener;

/// The most addresses of the host that are told apart; from further ones the system chooses.
const MAX_ADDRESSES: usize = 256;

#[derive(Debug)]
pub(super) struct Listeners {
    sockets: Vec<Arc<ServerSocket>>,
    /// Those that clients have sent to.
    addresses: Vec<IpAddr>,
}

impl Listeners {
    pub(super) fn new(sockets: Vec<Arc<ServerSocket>>) -> Self {
        Self { sockets, addresses: Vec::new() }
    }

    /// The listener that is `socket` at its address `local`.
    pub(super) fn at(&mut self, socket: Listener, local: Option<IpAddr>) -> Listener {
        let Some(local) = local else { return socket };
        let known = self.addresses.iter().position(|address| *address == local);
        let index = match known {
            Some(index) => index,
            None if self.addresses.len() < MAX_ADDRESSES => {
                self.addresses.push(local);
                self.addresses.len() - 1
            }
            None => return socket,
        };
        let number = usize::from(socket.0) + (index + 1) * self.sockets.len();
        u16::try_from(number).map_or(socket, Listener)
    }

    /// The socket of a listener.
    pub(super) fn socket(&self, listener: Listener) -> Option<&Arc<ServerSocket>> {
        let number = usize::from(listener.0);
        self.sockets.get(number.checked_rem(self.sockets.len())?)
    }

    /// The same, and how it reaches a client of that listener.
    pub(super) fn reach(
        &self,
        listener: Listener,
        remote: std::net::SocketAddr,
    ) -> Option<(&Arc<ServerSocket>, Destination)> {
        let socket = self.socket(listener)?;
        let index = usize::from(listener.0) / self.sockets.len();
        let source = index.checked_sub(1).and_then(|index| self.addresses.get(index).copied());
        // Where another socket was asked to answer (RFC 5780), it may have one address alone.
        let own = socket.address().ip();
        let fits = |source: &IpAddr| own.is_unspecified() && source.is_ipv4() == own.is_ipv4();
        Some((socket, Destination { remote, source: source.filter(fits) }))
    }
}

#[cfg(test)]
mod tests {
    use warren_net::ServerSocketConfig;

    use super::*;

    #[test]
    fn each_address_of_a_wildcard_socket_is_a_listener_and_a_named_ones_is_not() {
        let bind = |address: &str| {
            let config = ServerSocketConfig::new(address.parse().unwrap());
            Arc::new(ServerSocket::bind(&config).unwrap())
        };
        let mut listeners = Listeners::new(vec![bind("0.0.0.0:0"), bind("127.0.0.1:0")]);
        let (first, second) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let (any, named) = (Listener(0), Listener(1));
        let (at_first, at_second) =
            (listeners.at(any, Some(first)), listeners.at(any, Some(second)));
        assert_eq!((at_first, at_second), (Listener(2), Listener(4)));
        assert_eq!(listeners.at(any, Some(first)), at_first);
        assert_eq!(listeners.at(any, None), any);
        let remote = "198.51.100.7:1".parse().unwrap();
        let source = |listener| listeners.reach(listener, remote).unwrap().1.source;
        assert_eq!(source(at_second), Some(second));
        assert_eq!((source(any), source(named)), (None, None));
        // The answer of another socket to a request that came to `second`.
        assert_eq!(source(Listener(5)), None);
        assert!(Arc::ptr_eq(listeners.socket(at_second).unwrap(), listeners.socket(any).unwrap()));
    }

    #[test]
    fn beyond_what_is_told_apart_the_system_chooses() {
        let config = ServerSocketConfig::new("0.0.0.0:0".parse().unwrap());
        let socket = Arc::new(ServerSocket::bind(&config).unwrap());
        let mut listeners = Listeners::new(vec![socket]);
        for n in 0..MAX_ADDRESSES {
            let ip = IpAddr::from([10, 0, (n / 256) as u8, (n % 256) as u8]);
            assert_eq!(listeners.at(Listener(0), Some(ip)), Listener(1 + n as u16));
        }
        assert_eq!(listeners.at(Listener(0), Some([10, 9, 9, 9].into())), Listener(0));
    }
}
