//! The golden files of the wire format, one folder per protocol step (`tests/golden/v1`). They only
//! grow: a file that has been released says what some broker or node out there really sends, so it
//! must be read for ever, and what this build writes for the same value must stay the same.
//!
//! A new message or field: add a file (`WARREN_GOLDEN=write` creates the missing ones, and never
//! touches one that is there), commit it.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reads files and may fail"
)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use warren_proto::{
    AccountId, Challenge, Change, CheckIn, CheckInReply, CheckInState, ConnectRequest,
    ConnectSignal, Delta, DeviceId, DeviceName, DnsConfig, Endpoint, EndpointKind, ErrorCode,
    MapVersion, MappingBehaviour, NatReport, Netmap, Peer, Pin, Problem, PublicKey, Register,
    Registered, SelfEntry, SessionEvent,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// What this build writes equals the file, and what it reads from the file equals the value.
fn assert_golden<T>(name: &str, value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let path = folder().join(format!("{name}.json"));
    if !path.exists() && std::env::var_os("WARREN_GOLDEN").is_some() {
        let mut text = serde_json::to_string_pretty(value).unwrap();
        text.push('\n');
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error} (WARREN_GOLDEN=write?)", path.display()));
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(value).unwrap(), golden, "{name}: what is written has changed");
    let read: T = serde_json::from_str(&text).unwrap();
    assert_eq!(&read, value, "{name}: what is read has changed");
    assert_eq!(&with_unknown_fields::<T>(golden), value, "{name}: unknown fields must be ignored");
}

/// Reads the same message as a newer side would send it: with a field more in every object.
fn with_unknown_fields<T: DeserializeOwned>(mut golden: serde_json::Value) -> T {
    fn grow(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.values_mut().for_each(grow);
                fields.insert("from_the_future".to_owned(), serde_json::json!({"deep": [1, 2]}));
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(grow),
            _ => {}
        }
    }
    grow(&mut golden);
    serde_json::from_value(golden).unwrap()
}

fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

fn endpoints() -> Vec<Endpoint> {
    [
        ("203.0.113.7:51820", EndpointKind::Static),
        ("192.168.1.20:40001", EndpointKind::Host),
        ("198.51.100.3:1024", EndpointKind::Mapped),
        ("[2001:db8::7]:40001", EndpointKind::Reflexive),
    ]
    .map(|(addr, kind)| Endpoint { addr: addr.parse().unwrap(), kind })
    .to_vec()
}

fn nat() -> NatReport {
    NatReport {
        udp: Some(true),
        ipv4: MappingBehaviour::EndpointIndependent,
        ipv6: MappingBehaviour::None,
    }
}

fn version(sequence: u64) -> MapVersion {
    MapVersion { epoch: 0x00c0_ffee, sequence }
}

fn peer() -> Peer {
    Peer {
        id: DeviceId(0x1122_3344_5566_7788),
        name: name("kitchen-pi-2"),
        key: PublicKey([9; 32]),
        ipv4: Ipv4Addr::new(100, 71, 0, 3),
        ipv6: "fd5e:ed::3".parse::<Ipv6Addr>().unwrap(),
        endpoints: endpoints(),
        nat: nat(),
        online: true,
        capabilities: vec!["relay".to_owned()],
        signature: None,
    }
}

fn this() -> SelfEntry {
    SelfEntry {
        id: DeviceId(0x42),
        name: name("laptop"),
        ipv4: Ipv4Addr::new(100, 71, 0, 2),
        ipv6: "fd5e:ed::2".parse::<Ipv6Addr>().unwrap(),
        static_endpoint: Some("203.0.113.7:51820".parse().unwrap()),
    }
}

fn netmap() -> Netmap {
    Netmap {
        version: version(41),
        account: AccountId(0xacc0),
        account_name: name("home"),
        ipv4_range: "100.71.0.0/16".parse().unwrap(),
        ipv6_range: "fd5e:ed::/48".parse().unwrap(),
        this: this(),
        peers: vec![peer(), Peer { signature: Some("c2ln".to_owned()), ..peer() }],
        stun: vec!["203.0.113.1:3478".parse().unwrap(), "[2001:db8::1]:3479".parse().unwrap()],
        dns: DnsConfig { domain: "home.warren.internal".to_owned() },
        next_pin: Some(Pin([5; 32])),
    }
}

fn delta() -> Delta {
    Delta {
        base: version(41),
        version: version(42),
        changes: vec![
            Change::Peer { peer: peer() },
            Change::Removed { id: DeviceId(7) },
            Change::Presence {
                id: DeviceId(8),
                online: false,
                endpoints: endpoints(),
                nat: NatReport::default(),
            },
            Change::This { this: SelfEntry { static_endpoint: None, ..this() } },
            Change::Stun { stun: vec!["203.0.113.1:3478".parse().unwrap()] },
            Change::NextPin { pin: Some(Pin([6; 32])) },
            Change::NextPin { pin: None },
            Change::Dns { dns: DnsConfig { domain: "home.example.org".to_owned() } },
        ],
    }
}

#[test]
fn joining_is_written_and_read_as_ever() {
    assert_golden(
        "challenge",
        &Challenge { broker_key: PublicKey([1; 32]), challenge: "bm9uY2U".to_owned(), protocol: 1 },
    );
    assert_golden(
        "register",
        &Register {
            protocol: 1,
            join_key: "0123456789abcdef".to_owned(),
            key: PublicKey([2; 32]),
            challenge: "bm9uY2U".to_owned(),
            proof: "cHJvb2Y".to_owned(),
            name: "Kitchen Pi".to_owned(),
            os: "linux".to_owned(),
            software: "0.1.0".to_owned(),
        },
    );
    assert_golden(
        "registered",
        &Registered {
            device: DeviceId(0x1122_3344_5566_7788),
            account: AccountId(0xacc0),
            account_name: name("home"),
            name: name("kitchen-pi"),
            token: "t0k3n".to_owned(),
        },
    );
}

#[test]
fn a_check_in_is_written_and_read_as_ever() {
    assert_golden("check-in-unchanged", &CheckIn::default());
    assert_golden("check-in-reply", &CheckInReply { resend: false });
    assert_golden("check-in-reply-resend", &CheckInReply { resend: true });
    let state =
        CheckInState { endpoints: endpoints(), nat: nat(), capabilities: vec!["relay".to_owned()] };
    assert_golden("check-in", &CheckIn { state: Some(state) });
}

#[test]
fn an_unchanged_check_in_is_two_bytes() {
    let text = serde_json::to_string(&CheckIn::default()).unwrap();
    assert_eq!(text, "{}");
    assert_eq!(serde_json::from_str::<CheckIn>(&text).unwrap(), CheckIn::default());
    assert_eq!(serde_json::to_string(&CheckInReply::default()).unwrap(), "{}");
}

#[test]
fn connecting_is_written_and_read_as_ever() {
    assert_golden(
        "connect-request",
        &ConnectRequest { peer: DeviceId(7), endpoints: endpoints(), nat: nat() },
    );
    assert_golden(
        "connect-signal",
        &ConnectSignal { from: DeviceId(8), endpoints: endpoints(), nat: nat() },
    );
}

#[test]
fn the_netmap_and_its_deltas_are_written_and_read_as_ever() {
    assert_golden("netmap", &netmap());
    assert_golden("delta", &delta());
}

#[test]
fn a_problem_is_written_and_read_as_ever() {
    for code in [
        ErrorCode::JoinKeyUnknown,
        ErrorCode::JoinKeyUsed,
        ErrorCode::JoinKeyExpired,
        ErrorCode::ProofFailed,
        ErrorCode::Revoked,
        ErrorCode::UpgradeRequired,
        ErrorCode::AccountFull,
        ErrorCode::RateLimited,
        ErrorCode::Invalid,
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::Unavailable,
    ] {
        let word = serde_json::to_value(code).unwrap();
        let file = format!("problem-{}", word.as_str().unwrap());
        assert_golden(&file, &Problem { status: 418, title: "Say what to do.".to_owned(), code });
    }
}

#[test]
fn words_from_a_newer_side_are_understood_as_other() {
    assert_eq!(serde_json::from_str::<ErrorCode>("\"tea-time\"").unwrap(), ErrorCode::Other);
    assert_eq!(serde_json::from_str::<EndpointKind>("\"carrier\"").unwrap(), EndpointKind::Other);
}

#[test]
fn the_events_of_the_stream_are_named_and_read_as_ever() {
    let signal = ConnectSignal { from: DeviceId(8), endpoints: endpoints(), nat: nat() };
    let events = [
        SessionEvent::Netmap(Box::new(netmap())),
        SessionEvent::Delta(delta()),
        SessionEvent::Current(version(41)),
        SessionEvent::Connect(signal),
        SessionEvent::Revoked,
    ];
    let names = ["netmap", "delta", "current", "connect", "revoked"];
    let ids = [Some("c0ffee-41"), Some("c0ffee-42"), None, None, None];
    for ((event, name), id) in events.iter().zip(names).zip(ids) {
        assert_eq!(event.name(), name);
        assert_eq!(event.version().map(|version| version.to_string()).as_deref(), id);
        assert!(!event.data().contains('\n'), "the data field is one line");
        assert_eq!(&SessionEvent::parse(name, &event.data()).unwrap(), event);
    }
}
