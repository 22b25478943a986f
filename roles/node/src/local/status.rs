use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use warren_proto::{Endpoint, NatReport, PathKind, PublicKey};

use super::exit::ExitNodeStatus;

/// The version of [`Status`] as scripts see it; grows when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// What `warren status --json` prints: scripts rely on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// This device.
    pub node: NodeStatus,
    /// The broker, as this node sees it.
    pub broker: BrokerStatus,
    /// The devices that this one may see, by name.
    pub peers: Vec<PeerStatus>,
    /// What a person should know or mend, the worst first.
    pub health: Vec<Health>,
}

/// What the daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It belongs to no account: `warren up --join LINK`.
    NotJoined,
    /// It is registering with the broker.
    Joining,
    /// It was removed from its account: it must join again.
    MustJoinAgain,
    /// `warren down`: it stays disconnected until `warren up`.
    Down,
    /// It wants to connect and has no netmap yet.
    Connecting,
    /// The mesh is up, and the control session with the broker too.
    Connected,
    /// The mesh is up from the cached netmap; the broker is out of reach.
    Offline,
}

/// This device in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name, unique in the account; before joining what it would like to be called.
    pub name: String,
    /// Its mesh IPv4 address, once it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its mesh IPv6 address, once it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// Its full DNS name, without a trailing dot.
    pub dns_name: Option<String>,
    /// The UDP port that it listens on.
    pub listen_port: u16,
    /// Its public key.
    pub public_key: PublicKey,
    /// What the daemon is doing.
    pub state: NodeState,
    /// Where peers may reach it, the most promising first.
    pub endpoints: Vec<Endpoint>,
    /// What is known of the NATs in front of it.
    pub nat: NatReport,
    /// The name of its TUN device while the mesh is up.
    #[serde(default)]
    pub interface: Option<String>,
    /// The daemon's version.
    #[serde(default)]
    pub version: String,
    /// By whom traffic to the internet goes; absent: by this device's own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_node: Option<ExitNodeStatus>,
}

/// The broker in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// Its base URL, once this device has joined.
    pub url: Option<String>,
    /// Whether the control session is alive; a stale one is never shown as connected.
    pub connected: bool,
    /// When it last answered, seconds since the Unix epoch.
    pub last_check_in: Option<u64>,
    /// The netmap's version.
    pub netmap_version: Option<String>,
    /// How long ago the netmap was last known to be current, in seconds: 0 while connected.
    pub netmap_age_s: Option<u64>,
    /// The round trip to the broker, in milliseconds.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// Why it is not connected.
    #[serde(default)]
    pub error: Option<String>,
}

/// A peer in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its mesh IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its full DNS name, without a trailing dot.
    pub dns_name: String,
    /// Whether it has a control session with the broker, as of the netmap.
    pub online: bool,
    /// How traffic to it goes.
    pub path: PathKind,
    /// Why it isn't direct, for people.
    pub reason: Option<String>,
    /// Where its datagrams go at present.
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    pub relay: Option<String>,
    /// The path's round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes of tunnelled packets received from it since the mesh came up.
    pub rx_bytes: u64,
    /// Bytes of tunnelled packets sent to it since the mesh came up.
    pub tx_bytes: u64,
    /// The last WireGuard handshake, seconds since the Unix epoch.
    pub last_handshake: Option<u64>,
}

/// What a [`Health`] entry is about, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthCode {
    /// The device was removed from its account, or has logged out.
    MustJoinAgain,
    /// The device's time is over: it is out of the mesh until it is renewed or joins again.
    MembershipExpired,
    /// The device is out of the mesh until an admin has approved it.
    WaitsForApproval,
    /// The broker's operator has suspended the account.
    AccountSuspended,
    /// The device must be renewed within the next two weeks.
    ExpiresSoon,
    /// Joining failed; the text says why.
    JoinFailed,
    /// The broker shows another certificate than the pinned one.
    WrongPin,
    /// The broker no longer speaks this version's protocol.
    UpgradeRequired,
    /// The interface could not be set up: `/dev/net/tun` missing, no privilege.
    Interface,
    /// The listen port is in use by another program.
    ListenPort,
    /// The broker is out of reach; the mesh works from the cached map.
    BrokerAway,
    /// The broker sent a map that is not believed; the mesh works from the one before.
    MapRefused,
    /// The state folder can't be written (disk full, read-only).
    StateNotSaved,
    /// Names: port 53 of the mesh address is taken.
    DnsPortTaken,
    /// Names: the host's resolver could not be told.
    DnsNotWired,
    /// An interface of the host uses a part of the account's range.
    RangeClash,
    /// No STUN server answers over UDP.
    UdpBlocked,
    /// The system's clock disagrees with the broker's by more than an hour.
    ClockOff,
    /// IPv6 is switched off on this host: peers have IPv4 mesh addresses only.
    NoIpv6,
    /// The daemon's sockets couldn't be marked: a gateway could swallow the tunnel.
    NoSocketMark,
    /// A second machine uses this device's identity.
    DuplicateIdentity,
    /// An interface would drop what peers send while an exit node is chosen.
    StrictReversePath,
    /// Programs that bind themselves to an interface can pass the exit node by.
    ExitNodePassable,
    /// Traffic to the internet is held back: the chosen exit node is away, or is none any more.
    ExitNodeAway,
    /// The account asks this device to be an edge, and its owner has not said anything to that.
    EdgeAsked,
    /// From a newer version.
    #[serde(other)]
    Other,
}

/// Something that a person should know or mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What it is about, for programs.
    pub code: HealthCode,
    /// What is wrong and what to do, for people.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn the_json_has_what_scripts_rely_on() {
        let peer = PeerStatus {
            name: "desktop".to_owned(),
            ipv4: Ipv4Addr::new(100, 70, 0, 2),
            ipv6: Ipv6Addr::LOCALHOST,
            dns_name: "desktop.home.warren.internal".to_owned(),
            online: true,
            path: PathKind::Direct,
            reason: None,
            endpoint: Some(([192, 0, 2, 1], 5).into()),
            relay: None,
            rtt_ms: Some(1.5),
            rx_bytes: 1,
            tx_bytes: 2,
            last_handshake: Some(3),
        };
        let status = Status {
            schema: SCHEMA,
            node: NodeStatus {
                name: "laptop".to_owned(),
                ipv4: None,
                ipv6: None,
                dns_name: None,
                listen_port: 50_000,
                public_key: PublicKey([1; 32]),
                state: NodeState::MustJoinAgain,
                endpoints: Vec::new(),
                nat: NatReport::default(),
                interface: None,
                version: String::new(),
                exit_node: None,
            },
            broker: BrokerStatus {
                url: None,
                connected: false,
                last_check_in: None,
                netmap_version: None,
                netmap_age_s: None,
                rtt_ms: None,
                error: None,
            },
            peers: vec![peer],
            health: vec![Health { code: HealthCode::UdpBlocked, text: "why".to_owned() }],
        };
        let value = serde_json::to_value(&status).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["node"]["state"], "must-join-again");
        assert_eq!(value["peers"][0]["path"], "direct");
        assert_eq!(value["peers"][0]["endpoint"], "192.0.2.1:5");
        assert_eq!(value["health"], json!([{ "code": "udp-blocked", "text": "why" }]));
        for (part, wanted) in [
            (&value, "schema node broker peers health"),
            (&value["node"], "name ipv4 ipv6 dns_name listen_port public_key state endpoints nat"),
            (&value["broker"], "url connected last_check_in netmap_version netmap_age_s"),
            (
                &value["peers"][0],
                "name ipv4 ipv6 dns_name online path reason endpoint relay rtt_ms rx_bytes \
                 tx_bytes last_handshake",
            ),
        ] {
            for key in wanted.split_whitespace() {
                assert!(keys(part).contains(&key), "{key} is missing in {part}");
            }
        }
        assert_eq!(serde_json::from_value::<Status>(value).unwrap(), status);
    }

    #[test]
    fn codes_of_a_newer_daemon_are_understood_as_other() {
        let health: Health =
            serde_json::from_value(json!({ "code": "moonlight", "text": "" })).unwrap();
        assert_eq!(health.code, HealthCode::Other);
    }
}
