//! An account as people have one: thirty devices with names, tags, endpoints and states.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use warren_broker::admin::{DeviceChange, NewJoinKey, NewRelay, SetRelays};
use warren_proto::{
    BrokerIdentity, CheckIn, CheckInState, DeviceId, Endpoint, EndpointKind, JoinAsk, JoinAsked,
    JoinReveal, MappingBehaviour, NatReport, PROTOCOL, PathKind, PathReport, PathReports, Register,
    RelayId, join_code, join_code_message,
};

use crate::common::client::{Client, Events};
use crate::common::{TestBroker, new_secret};

/// Name, system, tags, and whether it is online.
const DEVICES: [(&str, &str, &str, bool); 30] = [
    ("ada-laptop", "linux", "", true),
    ("ada-phone", "android", "", true),
    ("attic-camera", "linux", "camera", true),
    ("backup-box", "linux", "server,backup", true),
    ("barn-gateway", "linux", "edge", true),
    ("bens-macbook", "macos", "", true),
    ("build-1", "linux", "ci,server", true),
    ("build-2", "linux", "ci,server", false),
    ("cabin-router", "linux", "edge", false),
    ("charlie-thinkpad", "linux", "", true),
    ("db-primary", "linux", "server,prod", true),
    ("db-replica", "linux", "server,prod", true),
    ("doorbell", "linux", "camera", true),
    ("frankfurt", "linux", "server,relay", true),
    ("garage-pi", "linux", "edge", true),
    ("grafana", "linux", "server", true),
    ("home-assistant", "linux", "server", true),
    ("kitchen-tablet", "android", "", false),
    ("lab-bench", "windows", "", true),
    ("mums-pc", "windows", "family", true),
    ("nas", "linux", "server,backup", true),
    ("office-printer-gateway", "linux", "edge", true),
    ("old-laptop", "linux", "", false),
    ("print-server", "windows", "server", true),
    ("reception", "windows", "", true),
    ("sofia-desktop", "windows", "", true),
    ("staging", "linux", "server", true),
    ("tv-box", "android", "family", false),
    ("web-1", "linux", "server,prod", true),
    ("web-2", "linux", "server,prod", true),
];

/// The streams that keep its devices online.
pub(crate) struct World {
    _online: Vec<Events>,
}

/// Fills account `home`.
pub(crate) async fn furnish(broker: &TestBroker) -> World {
    let link = broker.reusable("home").await;
    let (mut online, mut clients) = (Vec::new(), Vec::new());
    for (number, (name, os, tags, is_online)) in (1u16..).zip(DEVICES) {
        let client = Client::connect(&link).await.unwrap();
        let asked = client.registration(&new_secret(), &link.key, name).await;
        let software = if number % 7 == 0 { "0.0.9" } else { "0.1.0" };
        let asked = Register { os: os.to_owned(), software: software.to_owned(), ..asked };
        let answer = client.post("/v1/node/register", &asked).await;
        assert_eq!(answer.status, StatusCode::OK);
        let registered: warren_proto::Registered = answer.json();
        let client = client.with_token(&registered.token);
        if is_online {
            online.push(client.events(None).await);
            let answer = client.post("/v1/node/check-in", &check_in(number)).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            clients.push((registered.device, client));
        }
        if !tags.is_empty() {
            let tags = tags.split(',').map(str::to_owned).collect();
            let change = DeviceChange { tags: Some(tags), ..DeviceChange::default() };
            broker.admin.change_device("home", name, &change).await.unwrap();
        }
    }
    let endpoint: SocketAddr = "198.51.100.24:51820".parse().unwrap();
    let change = DeviceChange { static_endpoint: Some(Some(endpoint)), ..DeviceChange::default() };
    broker.admin.change_device("home", "frankfurt", &change).await.unwrap();
    broker.admin.expire_device("home", "old-laptop").await.unwrap();
    let keys = [
        NewJoinKey {
            reusable: true,
            ephemeral: true,
            tags: ["ci".to_owned()].into(),
            ..NewJoinKey::default()
        },
        NewJoinKey { expires_in: Some(7 * 86_400), ..NewJoinKey::default() },
    ];
    for key in keys {
        broker.admin.create_join_key("home", &key).await.unwrap();
    }
    let new = NewRelay { name: "helsinki".parse().unwrap() };
    broker.admin.create_relay(Some("home"), &new).await.unwrap();
    let relays =
        SetRelays { relays: vec![vec!["frankfurt".to_owned()], vec!["helsinki".to_owned()]] };
    broker.admin.set_relays("home", &relays).await.unwrap();
    let used = broker.admin.relays(Some("home")).await.unwrap();
    let relay = used.iter().find(|relay| relay.name.as_str() == "frankfurt").unwrap().id;
    for (number, (_, client)) in clients.iter().enumerate() {
        // Twice: counting begins with the first word.
        for bytes in [1_000, 4_000_000] {
            let paths = talk(number, &clients, relay, bytes * (number as u64 + 1));
            let answer = client.post("/v1/node/paths", &PathReports { paths }).await;
            assert!(answer.status.is_success(), "{answer:?}");
        }
    }
    World { _online: online }
}

/// A policy as people have one.
pub(crate) const POLICY: &str = r#"# Who may reach what at home.
[groups]
family = ["ada@example.org", "mum@example.org", "device:mums-pc"]
builders = ["tag:ci"]

[[rules]]
name = "everybody reaches their own devices"
from = ["*"]
to = ["own"]

[[rules]]
name = "the family uses the servers"
comment = "Mum watches films from the NAS."
from = ["group:family", "role:admin"]
to = ["tag:server"]
ports = ["tcp:80", "tcp:443", "tcp:445", "icmp"]

[[rules]]
name = "builds are deployed"
from = ["group:builders"]
to = ["tag:prod"]
ports = ["tcp:22", "tcp:8000-8100"]

[[rules]]
from = ["device:home-assistant"]
to = ["tag:camera", "virtual:printer.office-printer-gateway", "subnet:192.168.7.0/24@barn-gateway"]

[[tests]]
from = "user:ada@example.org"
to = "tag:server"
port = "tcp:443"
expect = "allow"

[[tests]]
from = "tag:camera"
to = "tag:server"
expect = "deny"
"#;

/// Has a device ask to be let in, and returns the code that it shows.
pub(crate) async fn ask_to_join(broker: &TestBroker, name: &str) -> String {
    let link = broker.reusable("home").await;
    let client = Client::connect(&link).await.unwrap();
    let nonce = URL_SAFE_NO_PAD.encode([7; 32]);
    let ask = JoinAsk {
        protocol: PROTOCOL,
        commitment: URL_SAFE_NO_PAD.encode(sha256(nonce.as_bytes())),
        name: name.to_owned(),
        os: "linux".to_owned(),
        software: "0.1.0".to_owned(),
    };
    let asked: JoinAsked = client.post("/v1/node/join-requests", &ask).await.json();
    let own = BrokerIdentity::Pin(link.pin.unwrap());
    let code = join_code(&sha256(&join_code_message(&own, &nonce, &asked.nonce)));
    let reveal = serde_json::to_vec(&JoinReveal { nonce }).unwrap();
    let client = client.with_token(&asked.ticket);
    let answer = client.call(Method::PUT, "/v1/node/join-requests/nonce", reveal).await;
    assert!(answer.status.is_success(), "{answer:?}");
    code
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap()
}

fn check_in(number: u16) -> CheckIn {
    let endpoint = |text: String, kind| Endpoint { addr: text.parse().unwrap(), kind };
    let port = 40_000 + 311 * number;
    let host = format!("192.168.{}.{}:{port}", number % 5, 10 + number);
    let outside = format!("203.0.113.{}:{port}", 10 + number % 9);
    let endpoints = vec![
        endpoint(outside, EndpointKind::Reflexive),
        endpoint(format!("[2001:db8:{number:x}::{number:x}]:{port}"), EndpointKind::Host),
        endpoint(host, EndpointKind::Host),
    ];
    let ipv4 = match number % 6 {
        0 => MappingBehaviour::AddressDependent,
        _ => MappingBehaviour::EndpointIndependent,
    };
    let nat = NatReport { udp: Some(true), ipv4, ipv6: MappingBehaviour::None };
    CheckIn { state: Some(CheckInState { endpoints, nat, ..CheckInState::default() }) }
}

/// A device talks to a few others: most of them directly, one through the relay.
fn talk(
    number: usize,
    clients: &[(DeviceId, Client)],
    relay: RelayId,
    bytes: u64,
) -> Vec<PathReport> {
    let report = |step: usize| {
        let path = match (number + step) % 7 {
            0 => PathKind::Relayed,
            5 => PathKind::Connecting,
            _ => PathKind::Direct,
        };
        let is_relayed = path == PathKind::Relayed;
        PathReport {
            peer: clients[(number + step) % clients.len()].0,
            path,
            reason: is_relayed.then(|| "both NATs map each destination anew".to_owned()),
            endpoint: (path == PathKind::Direct).then(|| "203.0.113.40:41641".parse().unwrap()),
            relay: is_relayed.then_some(relay),
            rtt_us: (path != PathKind::Connecting).then(|| 700 + 3_100 * (number + step) as u32),
            rx_bytes: bytes,
            tx_bytes: bytes / 3,
        }
    };
    [3, 8].into_iter().filter(|step| (number * step) % 5 != 2).map(report).collect()
}
