//! Where sockets are bound, and which addresses the host has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;

/// A relayed address where it is one of the host's, else (behind a NAT) any.
pub(super) fn where_to_bind(ip: IpAddr) -> IpAddr {
    match (UdpSocket::bind((ip, 0)), ip) {
        (Ok(_), ip) => ip,
        (Err(_), IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (Err(_), IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The addresses of the host's interfaces.
pub fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let ipv4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        ipv4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let mut all: Vec<IpAddr> = interfaces.filter_map(ip).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The address from which the host reaches the internet, if it reaches it: what is advertised where
/// nobody has said what peers see. Sends nothing.
pub fn relayed_address(ipv6: bool) -> Option<IpAddr> {
    let (any, somewhere): (SocketAddr, SocketAddr) = if ipv6 {
        ((Ipv6Addr::UNSPECIFIED, 0).into(), ([0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe], 53).into())
    } else {
        ((Ipv4Addr::UNSPECIFIED, 0).into(), ([9, 9, 9, 9], 53).into())
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(somewhere).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_own_address_is_bound_and_anothers_is_not() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(where_to_bind(loopback), loopback);
        let elsewhere = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 200));
        assert_eq!(where_to_bind(elsewhere), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        assert!(interface_addresses().contains(&loopback));
    }
}
