//! Which IPv4 addresses a LAN has: the one notion of broker, edge and scan.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// What an address is to somebody who opens or scans a LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanAddress {
    /// Private (RFC 1918) or shared (RFC 6598): what LANs have.
    Private,
    /// Link-local (RFC 3927), or where a cloud keeps what only the machine itself may read (its
    /// credentials): never meant by accident.
    LinkLocal,
    /// An address of the internet.
    Public,
    /// No device's: unspecified, loopback, multicast, reserved or broadcast.
    Special,
}

/// Networks that one of these answers holds for, the first that fits deciding.
const KINDS: [(Ipv4Addr, u8, LanAddress); 10] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, LanAddress::Special),
    (Ipv4Addr::new(127, 0, 0, 0), 8, LanAddress::Special),
    (Ipv4Addr::new(224, 0, 0, 0), 4, LanAddress::Special),
    (Ipv4Addr::new(240, 0, 0, 0), 4, LanAddress::Special),
    (Ipv4Addr::new(169, 254, 0, 0), 16, LanAddress::LinkLocal),
    // Alibaba Cloud's metadata, inside the shared range.
    (Ipv4Addr::new(100, 100, 100, 200), 32, LanAddress::LinkLocal),
    (Ipv4Addr::new(10, 0, 0, 0), 8, LanAddress::Private),
    (Ipv4Addr::new(172, 16, 0, 0), 12, LanAddress::Private),
    (Ipv4Addr::new(192, 168, 0, 0), 16, LanAddress::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, LanAddress::Private),
];

impl LanAddress {
    /// What an address is.
    pub fn of(ip: Ipv4Addr) -> Self {
        Self::of_network(Ipv4Net::from(ip))
    }

    /// What all of a network is; of one that has several kinds, what it should be feared for most:
    /// [`Self::Special`] first, then [`Self::Public`], then [`Self::LinkLocal`].
    pub fn of_network(network: Ipv4Net) -> Self {
        let inside = |kind: &&(Ipv4Addr, u8, Self)| net(kind).contains(&network);
        let touches = |wanted: Self| {
            KINDS.iter().any(|kind| kind.2 == wanted && network.contains(&net(&kind)))
        };
        match KINDS.iter().find(inside) {
            Some((.., Self::Private)) if touches(Self::LinkLocal) => Self::LinkLocal,
            Some((.., kind)) => *kind,
            None if touches(Self::Special) => Self::Special,
            None => Self::Public,
        }
    }
}

fn net((ip, length, _): &&(Ipv4Addr, u8, LanAddress)) -> Ipv4Net {
    Ipv4Net::new_assert(*ip, *length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let of = |text: &str| LanAddress::of(text.parse().unwrap());
        for private in ["10.0.0.1", "172.31.255.254", "192.168.1.9", "100.64.0.1"] {
            assert_eq!(of(private), LanAddress::Private, "{private}");
        }
        for link_local in ["169.254.169.254", "169.254.0.1", "100.100.100.200"] {
            assert_eq!(of(link_local), LanAddress::LinkLocal, "{link_local}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "192.169.0.1", "100.128.0.1", "203.0.113.7"] {
            assert_eq!(of(public), LanAddress::Public, "{public}");
        }
        for special in
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"]
        {
            assert_eq!(of(special), LanAddress::Special, "{special}");
        }
    }

    #[test]
    fn a_network_is_what_is_worst_of_it() {
        let of = |text: &str| LanAddress::of_network(text.parse().unwrap());
        assert_eq!(of("192.168.1.0/24"), LanAddress::Private);
        assert_eq!(of("100.100.0.0/16"), LanAddress::LinkLocal);
        assert_eq!(of("169.254.0.0/16"), LanAddress::LinkLocal);
        assert_eq!(of("172.0.0.0/8"), LanAddress::Public);
        assert_eq!(of("8.8.8.0/24"), LanAddress::Public);
        for special in ["0.0.0.0/0", "127.0.0.0/8", "240.0.0.0/24", "96.0.0.0/3", "128.0.0.0/1"] {
            assert_eq!(of(special), LanAddress::Special, "{special}");
        }
    }
}
