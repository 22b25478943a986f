//! Genuine inputs, made by the code itself: where fuzzers begin.

use std::net::Ipv4Addr;

use warren_proto::{
    AccountId, Challenge, Change, CheckIn, CheckInReply, CheckInState, ConnectRequest,
    ConnectSignal, Delta, DeviceId, DnsConfig, Endpoint, EndpointKind, ErrorCode, JoinLink,
    MacAddr, MapVersion, MappingBehaviour, NatReport, Netmap, Peer, Pin, Problem, PublicKey,
    ReachCheck, ReachId, Register, Registered, SelfEntry, SessionEvent, WakeOrder,
};
use warren_turn::codec::ChangeRequest;
use warren_turn::{Builder, Class, Method, Sha1Key, Sha256Key, TransactionId};

use crate::turn_seeds::{turn_client, turn_server, turn_stream};
use crate::world::address;

/// Named inputs for a target; none for one that doesn't exist.
pub fn seeds(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        "control" => control(),
        "mesh" => mesh(),
        "pair" => crate::pair::seeds(),
        "sse" => sse(),
        "stun" => stun(),
        "turn_client" => turn_client(),
        "turn_server" => turn_server(),
        "turn_stream" => turn_stream(),
        "wg" => wg(),
        _ => Vec::new(),
    }
}

fn nat() -> NatReport {
    NatReport {
        udp: Some(true),
        ipv4: MappingBehaviour::EndpointIndependent,
        ipv6: MappingBehaviour::None,
    }
}

fn endpoints() -> Vec<Endpoint> {
    [EndpointKind::Host, EndpointKind::Static, EndpointKind::Mapped, EndpointKind::Reflexive]
        .into_iter()
        .zip([1, 0, 7, 2])
        .map(|(kind, n)| Endpoint { addr: address(n), kind })
        .collect()
}

fn peer(n: u8) -> Peer {
    Peer {
        id: DeviceId(n.into()),
        name: format!("node-{n}").parse().expect("a label"),
        key: PublicKey([n; 32]),
        ipv4: Ipv4Addr::new(100, 80, 0, n),
        ipv6: Ipv4Addr::new(100, 80, 0, n).to_ipv6_mapped(),
        endpoints: endpoints(),
        nat: nat(),
        online: true,
        capabilities: vec!["relay".to_owned()],
        relays: Vec::new(),
        edge: None,
        signature: None,
    }
}

fn netmap() -> Netmap {
    let this = peer(1);
    Netmap {
        version: MapVersion { epoch: 0xbeef, sequence: 7 },
        account: AccountId(1),
        account_name: "home".parse().expect("a label"),
        ipv4_range: "100.80.0.0/16".parse().expect("a range"),
        ipv6_range: "fd12:3456:789a::/48".parse().expect("a range"),
        this: SelfEntry {
            id: this.id,
            name: this.name,
            ipv4: this.ipv4,
            ipv6: this.ipv6,
            static_endpoint: Some(address(0)),
            admission: warren_proto::Admission::Member,
            expires_unix: None,
            approvers: Vec::new(),
        },
        peers: vec![peer(2), peer(3)],
        stun: vec![address(0), address(2)],
        dns: DnsConfig { domain: "home.warren.internal".to_owned() },
        next_pin: Some(Pin([5; 32])),
        relays: Vec::new(),
        relay_duty: None,
        filter: None,
        edge: None,
        edge_asked: false,
    }
}

fn delta() -> Delta {
    let this = netmap().this;
    Delta {
        base: netmap().version,
        version: MapVersion { epoch: 0xbeef, sequence: 8 },
        changes: vec![
            Change::Peer { peer: peer(4) },
            Change::Removed { id: DeviceId(2) },
            Change::Presence { id: DeviceId(3), online: false, endpoints: endpoints(), nat: nat() },
            Change::This { this },
            Change::Stun { stun: vec![address(7)] },
            Change::NextPin { pin: Some(Pin([6; 32])) },
        ],
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("our own messages can be written")
}

/// As relay servers and brokers really send them: the golden files of the protocol.
const RELAY_REPORT: &str = include_str!("../../../core/proto/tests/golden/v1/relay-report.json");
const RELAY_REPORTED: &str =
    include_str!("../../../core/proto/tests/golden/v1/relay-reported.json");
const RELAY_INIT: &str =
    include_str!("../../../core/proto/tests/golden/v1/relay-init-account.json");

fn control() -> Vec<(&'static str, Vec<u8>)> {
    let state = CheckInState { endpoints: endpoints(), nat: nat(), ..CheckInState::default() };
    let register = Register {
        protocol: 1,
        join_key: "k3y_0123456789-ABCDEF".to_owned(),
        key: PublicKey([1; 32]),
        challenge: "Y2hhbGxlbmdl".to_owned(),
        proof: "cHJvb2Y".to_owned(),
        name: "Kitchen Pi".to_owned(),
        os: "linux".to_owned(),
        software: "0.1.0".to_owned(),
    };
    let registered = Registered {
        device: DeviceId(1),
        account: AccountId(1),
        account_name: "home".parse().expect("a label"),
        name: "kitchen-pi".parse().expect("a label"),
        token: "token".to_owned(),
    };
    let challenge = Challenge {
        broker_key: PublicKey([2; 32]),
        challenge: "Y2hhbGxlbmdl".to_owned(),
        protocol: 1,
    };
    let request =
        ConnectRequest { peer: DeviceId(2), endpoints: endpoints(), nat: nat(), relay: None };
    let signal =
        ConnectSignal { from: DeviceId(2), endpoints: endpoints(), nat: nat(), relay: None };
    let problem = Problem {
        status: 403,
        title: "the join key has expired; ask for a new one".to_owned(),
        code: ErrorCode::JoinKeyExpired,
    };
    let link = JoinLink {
        url: "https://[2001:db8::1]:8443".to_owned(),
        key: "k3y_0123456789-ABCDEF".to_owned(),
        pin: Some(Pin([7; 32])),
    };
    let texts = [
        ("netmap", 0, json(&netmap())),
        ("delta", 1, json(&delta())),
        ("check-in", 2, json(&CheckIn { state: Some(state) })),
        ("check-in-unchanged", 2, json(&CheckIn::default())),
        ("check-in-reply", 3, json(&CheckInReply { resend: true })),
        ("register", 4, json(&register)),
        ("registered", 5, json(&registered)),
        ("challenge", 6, json(&challenge)),
        ("connect-request", 7, json(&request)),
        ("connect-signal", 8, json(&signal)),
        ("problem", 9, json(&problem)),
        ("join-link", 10, link.to_string()),
        ("map-version", 11, netmap().version.to_string()),
        ("pin", 12, Pin([7; 32]).to_string()),
        ("public-key", 13, PublicKey([7; 32]).to_string()),
        ("name", 14, "Bob's MacBook (2)".to_owned()),
        ("relay-report", 16, RELAY_REPORT.to_owned()),
        ("relay-reported", 17, RELAY_REPORTED.to_owned()),
        ("relay-init", 18, RELAY_INIT.to_owned()),
        ("relay-event", 19, format!("init\n{}", RELAY_INIT.replace('\n', ""))),
        ("relay-revoke", 19, "revoke\n{\"devices\":[\"0000000000000007\"]}".to_owned()),
        ("map-and-delta", 15, format!("{}\n{}", json(&netmap()), json(&delta()))),
    ];
    let seed = |(name, kind, text): (_, u8, String)| (name, [&[kind], text.as_bytes()].concat());
    texts.into_iter().map(seed).collect()
}

fn sse() -> Vec<(&'static str, Vec<u8>)> {
    let signal =
        ConnectSignal { from: DeviceId(2), endpoints: endpoints(), nat: nat(), relay: None };
    let mut stream = String::new();
    for event in [
        SessionEvent::Netmap(Box::new(netmap())),
        SessionEvent::Delta(delta()),
        SessionEvent::Current(netmap().version),
        SessionEvent::Connect(signal),
        SessionEvent::Reach(ReachCheck { id: ReachId(7), key: "c2VjcmV0LXNlY3JldA".to_owned() }),
        SessionEvent::Wake(WakeOrder { mac: MacAddr([2, 0, 0, 0, 0, 9]) }),
        SessionEvent::Revoked,
    ] {
        stream.push_str(&format!("event: {}\n", event.name()));
        if let Some(version) = event.version() {
            stream.push_str(&format!("id: {version}\n"));
        }
        stream.push_str(&format!("data: {}\n\n: beat\n\n", event.data()));
    }
    let small = "event: current\r\nid: 1-2\r\ndata: \"1-2\"\r\n\r\n:\r\rdata\ndata: x\n\n";
    vec![
        ("session", [&[200], stream.as_bytes()].concat()),
        ("line-endings", [&[2], small.as_bytes()].concat()),
    ]
}

fn stun() -> Vec<(&'static str, Vec<u8>)> {
    let id = TransactionId([3; 12]);
    let build = |class, method, fill: &dyn Fn(&mut Builder<'_>)| {
        let mut datagram = vec![0];
        fill(&mut Builder::new(&mut datagram, class, method, id));
        datagram
    };
    let request = |fill: &dyn Fn(&mut Builder<'_>)| build(Class::Request, Method::BINDING, fill);
    let success = |fill: &dyn Fn(&mut Builder<'_>)| build(Class::Success, Method::BINDING, fill);
    vec![
        ("bare-request", request(&|_| {})),
        ("request", request(&|b| _ = b.fingerprint())),
        (
            "change-request",
            request(&|b| {
                b.change_request(ChangeRequest { ip: true, port: true }).padding(64).fingerprint();
            }),
        ),
        (
            "probe",
            request(&|b| {
                b.username(&[8; 16]).integrity_sha256(&Sha256Key::new(b"key")).fingerprint();
            }),
        ),
        (
            "answer",
            success(&|b| {
                b.xor_mapped_address(address(0))
                    .mapped_address(address(0))
                    .other_address(address(7))
                    .response_origin(address(2))
                    .fingerprint();
            }),
        ),
        ("answer-ipv6", success(&|b| _ = b.xor_mapped_address(address(2)))),
        (
            "error",
            build(Class::Error, Method::BINDING, &|b| {
                b.error_code(420).unknown_attributes(&[warren_turn::AttributeType(0x7ff0)]);
            }),
        ),
        (
            "allocate",
            build(Class::Request, Method::ALLOCATE, &|b| {
                b.username(b"1:user").integrity_sha1(&Sha1Key::new(b"key")).fingerprint();
            }),
        ),
        ("channel-data", vec![0, 0x40, 0, 0, 4, 1, 2, 3, 4]),
    ]
}

/// Scripts for the link between two WireGuard peers; see `World::step` in `wg.rs`.
fn wg() -> Vec<(&'static str, Vec<u8>)> {
    const B: u8 = 0x80;
    vec![
        ("handshake", vec![0, 6, 10, 4, 60, 0, B | 4, 60, 0, 10]),
        ("preshared", vec![2, B | 6, 10, 4, 60, 0, B | 4, 0, 5, 10]),
        ("data-and-replay", vec![1, 4, 100, 0, B | 2, 0, 0, 0, 0, 0, B | 2, 0, 0, 0, 0, 0]),
        ("damaged-data", vec![1, 4, 100, 0, B | 2, 0, 2, 30, 0, 1, B | 2, 0, 3, 40, 0, 0]),
        ("rekey", vec![1, 9, 121, 4, 100, 0, 10, 9, 121, 5, 100, 0, 10, 9, 200]),
        ("glare", vec![1, 8, 60, 6, B | 6, 10, 8, 60, 7, B | 7, 10, 4, 9, 0, B | 4, 9, 0, 10]),
        ("under-load", vec![5, 9, 1, 7, 10, 8, 60, 10, 4, 60, 0, 10]),
        ("expiry", vec![1, 9, 179, 4, 100, 0, 9, 2, 10, 4, 100, 0, 10]),
        ("invented-initiation", [&[1, B | 1, 0][..], &[9; 144]].concat()),
        ("invented-response", [&[0, 6, 1, 1][..], &[9; 88]].concat()),
        ("new-peer", vec![1, 4, 50, 0, B | 11, 10, 9, 16, 10, 4, 50, 0, 10]),
        ("raw", vec![1, B, 36, 0, 4, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("known-index", vec![1, 4, 100, 0, B | 13, 8, 40, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("lost-clock", vec![1, 12, 16, 39, 7, 10, 9, 200, 6, 10, 15, 3, 14, 6, 9, 6, 10]),
    ]
}

/// Scripts for the network between two nodes; see `World::step` in `mesh.rs`.
fn mesh() -> Vec<(&'static str, Vec<u8>)> {
    const B: u8 = 0x80;
    vec![
        ("connect", vec![0, 7, 1, 10, 8, 100, 10, 4, 60, 0, 10, 8, 50, 10, 4, 60, 0, 10]),
        ("first-packet", vec![0, 4, 60, 0, 10, 8, 100, 10, 8, 100, 10, B | 4, 60, 0, 10]),
        ("data-and-replay", vec![1, 4, 100, 0, B | 2, 0, 0, 0, 0, 0, B | 2, 0, 0, 0, 0, 0]),
        ("from-elsewhere", vec![1, 4, 100, 0, B | 2, 0, 0x41, 0, 0, 0, 10, 8, 100, 10]),
        ("damaged", vec![1, 4, 100, 0, B | 2, 0, 2, 30, 0, 1, 10]),
        ("silence", vec![1, 4, 100, 0, 8, 200, 8, 200, 8, 200, 8, 200, 9, 5, 9, 60]),
        ("idle", vec![1, 9, 21, 10, 9, 21, 10, 9, 200, 9, 200, 10]),
        ("presence", vec![1, 12, 2, 0, 3, 0, 1, 2, B | 12, 0, 10, B | 12, 1, 4, 9, 0, 10]),
        ("signal", vec![0, B | 11, 0, 2, 0, 7, 10, 8, 100, 10]),
        ("stranger", vec![1, B | 1, 3, 0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 6, 0, 16]),
        ("initiation", [&[1, B | 1, 0, 0][..], &[9; 144]].concat()),
        ("broker-lost", vec![1, 13, 0, B | 13, 0, 9, 21, 10, 9, 21, 10, 0x40 | 13, 20, 10]),
        ("roam", vec![1, 14, 2, 0, 1, 10, 8, 100, 4, 60, 0, 10, 8, 100, 10]),
        ("new-map", vec![1, 15, 1, 10, 15, 0, 7, 1, 10, 8, 100, 10]),
    ]
}
