//! A map and its peers, for the tests of what carries them.

use warren_proto::{
    AccountId, DeviceId, DnsConfig, MapVersion, NatReport, Netmap, Peer, PublicKey, SelfEntry,
};

/// A peer that is offline and says nothing of itself.
pub(crate) fn peer(id: u64, name: &str) -> Peer {
    Peer {
        id: DeviceId(id),
        name: name.parse().unwrap(),
        key: PublicKey([7; 32]),
        ipv4: [100, 71, 1, 1].into(),
        ipv6: std::net::Ipv6Addr::LOCALHOST,
        endpoints: Vec::new(),
        nat: NatReport::default(),
        online: false,
        capabilities: Vec::new(),
        relays: Vec::new(),
        edge: None,
        signature: None,
    }
}

/// The first map of epoch 1.
pub(crate) fn map(peers: Vec<Peer>) -> Netmap {
    Netmap {
        version: MapVersion { epoch: 1, sequence: 0 },
        account: AccountId(1),
        account_name: "home".parse().unwrap(),
        ipv4_range: "100.71.0.0/16".parse().unwrap(),
        ipv6_range: "fd00::/48".parse().unwrap(),
        this: SelfEntry {
            id: DeviceId(99),
            name: "self".parse().unwrap(),
            ipv4: [100, 71, 1, 9].into(),
            ipv6: std::net::Ipv6Addr::LOCALHOST,
            static_endpoint: None,
            admission: warren_proto::Admission::Member,
            expires_unix: None,
            approvers: Vec::new(),
        },
        peers,
        stun: Vec::new(),
        dns: DnsConfig { domain: "home.warren.internal".to_owned() },
        next_pin: None,
        relays: Vec::new(),
        relay_duty: None,
        filter: None,
        edge: None,
        edge_asked: false,
    }
}
