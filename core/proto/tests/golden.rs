//! The golden files of the wire format, one folder per protocol step (`tests/golden/v1`). They only
//! grow: a file that has been released says what some broker or node out there really sends, so it
//! must be read for ever, and what this build writes for the same value must stay the same.
//!
//! A new message or field: add a file (`cargo xtask docs`, or `WARREN_REGENERATE=1` with this test,
//! creates the missing ones, and never touches one that is there), commit it.
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
    AccountId, Admission, Apply, Challenge, Change, CheckIn, CheckInReply, CheckInState,
    ConnectRequest, ConnectSignal, Delta, DeviceId, DeviceName, DnsConfig, EdgeChange, EdgeChanged,
    EdgeDuty, EdgeOffer, EdgeSpec, EdgeState, Endpoint, EndpointKind, ErrorCode, Filter,
    FilterLimit, FilterRule, Forward, ForwardEdit, ForwardId, ForwardProtocol, Gateway, GatewayId,
    GatewaySpec, INTERNET, InternetOffer, LanSource, LanTarget, MapVersion, MappingBehaviour,
    NatReport, Netmap, NewForward, ParseEventError, PathKind, PathReport, PathReports, Peer, Pin,
    Ports, Problem, PublicKey, ReachCheck, ReachId, Register, Registered, Relay, RelayChoice,
    RelayCredential, RelayDuty, RelayEvent, RelayId, RelayInit, RelayLimits, RelayLoad,
    RelayReport, RelayReported, RelayRtt, RelayScope, RelayState, RelayTls, RelayTransport,
    Schedule, SelfEntry, SessionEvent, Sources, Target, VirtualDevice, VirtualDeviceEdit,
    VirtualDeviceId, VirtualPeer, Weekday,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// What this build writes equals the file, and what it reads from the file equals the value.
fn assert_golden<T>(name: &str, value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let golden = assert_written(name, value);
    assert_eq!(&with_unknown_fields::<T>(golden), value, "{name}: unknown fields must be ignored");
}

/// The same of what must be understood as a whole.
fn assert_written<T>(name: &str, value: &T) -> serde_json::Value
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let path = folder().join(format!("{name}.json"));
    if !path.exists() && std::env::var_os("WARREN_REGENERATE").is_some() {
        let mut text = serde_json::to_string_pretty(value).unwrap();
        text.push('\n');
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error} (WARREN_REGENERATE=1 makes it)", path.display())
    });
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(value).unwrap(), golden, "{name}: what is written has changed");
    let read: T = serde_json::from_str(&text).unwrap();
    assert_eq!(&read, value, "{name}: what is read has changed");
    golden
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
        relays: Vec::new(),
        edge: None,
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
        admission: Admission::Member,
        expires_unix: None,
        approvers: Vec::new(),
    }
}

fn relay_rtts() -> Vec<RelayRtt> {
    let rtt = |relay, rtt_us, transport| RelayRtt { relay: RelayId(relay), rtt_us, transport };
    vec![rtt(0xe1, 20_500, RelayTransport::Udp), rtt(0xe2, 41_000, RelayTransport::Tls)]
}

fn relays() -> Vec<Relay> {
    let ours = Relay {
        id: RelayId(0xe1),
        name: "frankfurt".to_owned(),
        rank: 0,
        device: None,
        udp: vec!["203.0.113.9:3478".parse().unwrap(), "[2001:db8::9]:3478".parse().unwrap()],
        tcp: vec!["203.0.113.9:3478".parse().unwrap()],
        tls: vec![
            RelayTls {
                host: "203.0.113.9".to_owned(),
                port: 443,
                server_name: Some("relay.example.org".to_owned()),
                pin: Some(Pin([4; 32])),
            },
            RelayTls {
                host: "relay.example.org".to_owned(),
                port: 5349,
                server_name: None,
                pin: None,
            },
        ],
        virtual_addresses: true,
        credential: RelayCredential {
            username: "1795827661:0000000000000042".to_owned(),
            password: "c2VjcmV0".to_owned(),
            realm: Some("warren".to_owned()),
            nonce: Some("n0nce".to_owned()),
            expires_unix: Some(1_795_827_661),
        },
    };
    let private = Relay {
        id: RelayId(0xe2),
        name: "kitchen-pi-2".to_owned(),
        rank: 1,
        device: Some(peer().id),
        udp: vec!["203.0.113.7:51820".parse().unwrap()],
        tcp: Vec::new(),
        tls: Vec::new(),
        ..ours.clone()
    };
    let other = Relay {
        id: RelayId(0xe3),
        name: "turn.example.org".to_owned(),
        rank: 1,
        device: None,
        virtual_addresses: false,
        credential: RelayCredential {
            username: "guest".to_owned(),
            password: "c2VjcmV0".to_owned(),
            realm: None,
            nonce: None,
            expires_unix: None,
        },
        ..private.clone()
    };
    vec![ours, private, other]
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
        relays: Vec::new(),
        relay_duty: None,
        filter: None,
        edge: None,
        edge_asked: false,
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
fn path_reports_are_written_and_read_as_ever() {
    let path = PathReport {
        peer: DeviceId(0x1122_3344_5566_7788),
        path: PathKind::Relayed,
        reason: Some("both NATs map per destination".to_owned()),
        endpoint: None,
        relay: Some(RelayId(7)),
        rtt_us: Some(41_800),
        rx_bytes: 1_500,
        tx_bytes: 90,
    };
    let direct = PathReport {
        path: PathKind::Direct,
        reason: None,
        endpoint: Some(([203, 0, 113, 7], 52_011).into()),
        relay: None,
        ..path.clone()
    };
    assert_golden("path-reports", &PathReports { paths: vec![path, direct] });
}

#[test]
fn a_check_in_is_written_and_read_as_ever() {
    assert_golden("check-in-unchanged", &CheckIn::default());
    assert_golden("check-in-reply", &CheckInReply { resend: false });
    assert_golden("check-in-reply-resend", &CheckInReply { resend: true });
    let state = CheckInState {
        endpoints: endpoints(),
        nat: nat(),
        capabilities: vec!["relay".to_owned()],
        ..CheckInState::default()
    };
    assert_golden("check-in", &CheckIn { state: Some(state.clone()) });
    let relay = RelayState { serving: true, problem: Some("the port is taken".to_owned()) };
    let state = CheckInState { relay_rtts: relay_rtts(), relay: Some(relay), ..state };
    assert_golden("check-in-relays", &CheckIn { state: Some(state) });
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
        &ConnectRequest { peer: DeviceId(7), endpoints: endpoints(), nat: nat(), relay: None },
    );
    assert_golden(
        "connect-signal",
        &ConnectSignal { from: DeviceId(8), endpoints: endpoints(), nat: nat(), relay: None },
    );
    let ours = RelayChoice { relay: RelayId(0xe1), relayed: None };
    let other = RelayChoice { relayed: Some("192.0.2.9:50000".parse().unwrap()), ..ours };
    assert_golden(
        "connect-request-relay",
        &ConnectRequest { peer: DeviceId(7), endpoints: Vec::new(), nat: nat(), relay: Some(ours) },
    );
    assert_golden(
        "connect-signal-relay",
        &ConnectSignal { from: DeviceId(8), endpoints: Vec::new(), nat: nat(), relay: Some(other) },
    );
    let check = ReachCheck { id: ReachId(0xC0_FFEE), key: "c2VjcmV0LXNlY3JldA".to_owned() };
    assert_golden("reach-check", &check);
}

#[test]
fn the_netmap_and_its_deltas_are_written_and_read_as_ever() {
    assert_golden("netmap", &netmap());
    assert_golden("delta", &delta());
}

#[test]
fn a_device_outside_the_mesh_is_told_why_as_ever() {
    let this = |admission| SelfEntry {
        admission,
        expires_unix: Some(1_800_000_000),
        approvers: vec!["ann@example.org".to_owned()],
        ..this()
    };
    let words = [Admission::Waiting, Admission::Expired, Admission::Suspended];
    let changes = words.map(|admission| Change::This { this: this(admission) }).to_vec();
    assert_golden("delta-admission", &Delta { changes, ..delta() });
    assert_golden("netmap-waiting", &Netmap { this: this(Admission::Waiting), ..netmap() });
    let newer: Admission = serde_json::from_str("\"quarantined\"").unwrap();
    assert!(newer == Admission::Other && !newer.is_member());
}

#[test]
fn relays_in_the_netmap_are_written_and_read_as_ever() {
    let duty = RelayDuty {
        realm: "warren".to_owned(),
        secrets: vec!["new".to_owned(), "old".to_owned()],
        public: vec!["203.0.113.7:51820".parse().unwrap()],
        revoked: vec![DeviceId(0x13)],
    };
    let seen = Peer { relays: relay_rtts(), ..peer() };
    assert_golden(
        "netmap-relays",
        &Netmap { relays: relays(), relay_duty: Some(duty.clone()), peers: vec![seen], ..netmap() },
    );
    assert_golden(
        "delta-relays",
        &Delta {
            changes: vec![
                Change::Relays { relays: relays() },
                Change::RelayDuty { duty: Some(duty) },
                Change::RelayDuty { duty: None },
                Change::PeerRelays { id: peer().id, relays: relay_rtts() },
            ],
            ..delta()
        },
    );
}

#[test]
fn edges_are_written_and_read_as_ever() {
    let target = LanTarget {
        ip: "192.168.1.9".parse().unwrap(),
        mac: Some("3c:52:82:01:02:03".parse().unwrap()),
    };
    let beyond_a_router = LanTarget { ip: "192.168.9.2".parse().unwrap(), mac: None };
    let forward = Forward {
        id: ForwardId(0xf1),
        name: "camera".to_owned(),
        protocol: ForwardProtocol::Both,
        port: 8080,
        last_port: 8089,
        target,
        target_port: 80,
        source: LanSource::Masquerade,
        untested: false,
        schedule: None,
    };
    let device = VirtualDevice {
        id: VirtualDeviceId(0xd1),
        name: name("camera"),
        ipv4: "100.71.1.77".parse().unwrap(),
        target: beyond_a_router,
        ports: vec![Ports::Tcp(80, 80), Ports::Icmp],
        source: LanSource::Transparent,
        untested: false,
    };
    let everything = VirtualDevice { ports: vec![Ports::All], ..device.clone() };
    let untested = EdgeDuty {
        forwards: vec![Forward {
            source: LanSource::Transparent,
            untested: true,
            ..forward.clone()
        }],
        virtual_devices: vec![VirtualDevice { untested: true, ..device.clone() }],
        ..EdgeDuty::default()
    };
    let changes = vec![Change::Edge { duty: Some(untested), asked: false }];
    assert_golden("delta-edge-untested", &Delta { changes, ..delta() });
    let gateway = Gateway {
        id: GatewayId(0x61),
        mesh: "100.71.240.0/24".parse().unwrap(),
        lan: "192.168.1.0/24".parse().unwrap(),
        source: LanSource::Masquerade,
    };
    let offer = EdgeOffer {
        virtual_devices: vec![VirtualPeer { name: name("camera"), ipv4: device.ipv4 }],
        subnets: vec![gateway.mesh],
        internet: None,
    };
    let duty = EdgeDuty {
        forwards: vec![forward.clone()],
        virtual_devices: vec![device, everything],
        gateways: vec![gateway],
        managers: Vec::new(),
    };
    let seen = Peer { edge: Some(offer), ..peer() };
    assert_golden(
        "netmap-edges",
        &Netmap { edge: Some(duty.clone()), peers: vec![seen.clone()], ..netmap() },
    );
    let changes = vec![
        Change::Edge { duty: Some(duty), asked: false },
        Change::Edge { duty: None, asked: false },
        Change::Peer { peer: seen },
    ];
    assert_golden("delta-edges", &Delta { changes, ..delta() });
    let changes = vec![Change::Edge { duty: None, asked: true }];
    assert_golden("delta-edge-asked", &Delta { changes, ..delta() });
    let managed = EdgeDuty { managers: vec![DeviceId(0xa1)], ..EdgeDuty::default() };
    let changes = vec![Change::Edge { duty: Some(managed), asked: false }];
    assert_golden("delta-edge-managers", &Delta { changes, ..delta() });
    let hours = Schedule {
        days: [Weekday::Monday, Weekday::Friday].into(),
        from: "08:00".parse().unwrap(),
        to: "18:00".parse().unwrap(),
        utc_offset_minutes: 60,
    };
    let forwards = vec![Forward { schedule: Some(hours), ..forward }];
    let duty = Some(EdgeDuty { forwards, ..EdgeDuty::default() });
    assert_golden(
        "delta-edge-hours",
        &Delta { changes: vec![Change::Edge { duty, asked: false }], ..delta() },
    );
    let state = EdgeState {
        scanned_unix: Some(1_800_000_000),
        devices: 12,
        problems: vec!["the host's firewall drops what is forwarded".to_owned()],
        networks: Vec::new(),
    };
    let said = |state| CheckInState { edge: Some(state), ..CheckInState::default() };
    assert_golden("check-in-edge", &CheckIn { state: Some(said(state.clone())) });
    let state = EdgeState { networks: vec!["192.168.1.0/24".parse().unwrap()], ..state };
    assert_golden("check-in-edge-networks", &CheckIn { state: Some(said(state)) });
}

#[test]
fn what_edges_ask_for_is_written_and_read_as_ever() {
    let target = LanTarget { ip: "192.168.1.9".parse().unwrap(), mac: None };
    let new = NewForward {
        name: Some("camera".to_owned()),
        protocol: ForwardProtocol::Tcp,
        port: 8080,
        last_port: None,
        target,
        target_port: Some(80),
        source: LanSource::Masquerade,
        untested: false,
        enabled: true,
        allow: Vec::new(),
        schedule: None,
        note: String::new(),
        allow_public: false,
    };
    assert_written("edge-change-add-forward", &EdgeChange::AddForward(new));
    let edit = VirtualDeviceEdit { enabled: Some(false), ..VirtualDeviceEdit::default() };
    let change = EdgeChange::SetVirtualDevice { id: VirtualDeviceId(0xd1), edit };
    assert_written("edge-change-set-virtual-device", &change);
    let spec = GatewaySpec {
        id: GatewayId(0x61),
        lan: "192.168.1.0/24".parse().unwrap(),
        mesh: "100.71.240.0/24".parse().unwrap(),
        enabled: true,
        source: LanSource::Masquerade,
        standby_for: None,
        note: "the office".to_owned(),
    };
    assert_golden("edge-changed-gateway", &EdgeChanged::Gateway(spec.clone()));
    assert_golden("edge-spec", &EdgeSpec { gateways: vec![spec], ..EdgeSpec::default() });
    let limit = FilterLimit { from: vec![DeviceId(7)], ports: vec![Ports::Tcp(8080, 8089)] };
    let filter = Some(Filter { limits: vec![limit], ..Filter::default() });
    assert_golden("delta-limits", &Delta { changes: vec![Change::Filter { filter }], ..delta() });
    let hours = Schedule {
        days: [Weekday::Monday, Weekday::Saturday].into(),
        from: "08:00".parse().unwrap(),
        to: "18:30".parse().unwrap(),
        utc_offset_minutes: 60,
    };
    let edit = ForwardEdit { schedule: Some(hours), ..ForwardEdit::default() };
    assert_written("edge-change-schedule", &EdgeChange::SetForward { id: ForwardId(0xf1), edit });
    let source = Some(LanSource::Transparent);
    let edit = ForwardEdit { source, untested: Some(true), ..ForwardEdit::default() };
    assert_written("edge-change-untested", &EdgeChange::SetForward { id: ForwardId(0xf1), edit });
    // What isn't understood of a wish is not done by halves.
    let newer = r#"{"change":"add-gateway","lan":"192.168.1.0/24","from_the_future":1}"#;
    assert!(serde_json::from_str::<EdgeChange>(newer).is_err());
}

#[test]
fn what_relay_servers_say_and_hear_is_written_and_read_as_ever() {
    let tls = RelayTls { host: String::new(), port: 443, server_name: None, pin: None };
    let report = RelayReport {
        protocol: 1,
        account: Some(name("home")),
        udp: vec!["0.0.0.0:3478".parse().unwrap(), "[2001:db8::9]:3478".parse().unwrap()],
        tcp: vec!["0.0.0.0:3478".parse().unwrap()],
        tls: vec![tls],
        limits: RelayLimits {
            allocations: Some(1000),
            allocations_per_user: Some(10),
            bandwidth_per_user: Some(1_000_000),
        },
        load: RelayLoad { allocations: 3, bytes: 4_000_000_000_000, packets: 5 },
        software: "0.1.0".to_owned(),
        draining: true,
    };
    assert_golden("relay-report", &report);
    assert_golden(
        "relay-report-least",
        &RelayReport {
            account: None,
            tcp: Vec::new(),
            tls: Vec::new(),
            limits: RelayLimits::default(),
            load: RelayLoad::default(),
            draining: false,
            ..report
        },
    );
    assert_golden(
        "relay-reported",
        &RelayReported {
            id: RelayId(0xe1),
            name: name("frankfurt"),
            problem: Some("no answer from 203.0.113.9:3478".to_owned()),
        },
    );
}

#[test]
fn the_events_of_a_relay_server_are_written_and_read_as_ever() {
    let account = RelayScope::Account { id: AccountId(0xacc0), name: name("home") };
    for (file, scope) in
        [("relay-init-account", account), ("relay-init-operator", RelayScope::Operator)]
    {
        let init = RelayInit {
            id: RelayId(0xe1),
            name: name("frankfurt"),
            scope,
            realm: "warren".to_owned(),
            secrets: vec!["new".to_owned(), "old".to_owned()],
            clock_unix_ms: 1_795_222_861_123,
            revoked: vec![DeviceId(0x13)],
        };
        assert_golden(file, &init);
        let event = RelayEvent::Init(init);
        assert_eq!(event.name(), "init");
        assert_eq!(RelayEvent::parse("init", &event.data()).unwrap(), event);
    }
    let revoke = RelayEvent::Revoke(vec![DeviceId(7), DeviceId(8)]);
    assert_eq!(revoke.data(), r#"{"devices":["0000000000000007","0000000000000008"]}"#);
    for event in [revoke, RelayEvent::Revoked] {
        assert_eq!(RelayEvent::parse(event.name(), &event.data()).unwrap(), event);
    }
    assert!(matches!(RelayEvent::parse("sing", "{}"), Err(ParseEventError::Unknown(_))));
    let malformed = RelayEvent::parse("revoke", "{}");
    assert!(matches!(malformed, Err(ParseEventError::Data { name: "revoke", .. })));
}

#[test]
fn an_unknown_change_in_a_delta_is_passed_over_and_the_rest_is_applied() {
    let text = r#"{"base":"c0ffee-41","version":"c0ffee-42","changes":[
        {"change":"tea-time","at":{"hour":17}},
        {"change":"stun","stun":["203.0.113.9:3478"]},
        {"change":"teapot"}]}"#;
    let delta: Delta = serde_json::from_str(text).unwrap();
    assert_eq!((&delta.changes[0], &delta.changes[2]), (&Change::Unknown, &Change::Unknown));
    let mut map = netmap();
    assert_eq!(map.apply(&delta), Apply::Applied);
    let expected = Netmap {
        version: version(42),
        stun: vec!["203.0.113.9:3478".parse().unwrap()],
        ..netmap()
    };
    assert_eq!(map.stun, expected.stun);
    assert_eq!(map.version, expected.version);
}

fn filter() -> Filter {
    let devices = Sources::Devices(vec![DeviceId(0xb0b), DeviceId(0xcafe)]);
    let ports = vec![Ports::Tcp(22, 22), Ports::Tcp(8000, 8100), Ports::Udp(53, 53), Ports::Icmp];
    let behind = vec![
        Target::Virtual(DeviceName::from_free_text("camera")),
        Target::Subnet("192.168.7.0/24".parse().unwrap()),
    ];
    let others = vec![Ports::Udp(0, u16::MAX), Ports::Protocol(47)];
    Filter {
        rules: vec![
            FilterRule { from: devices.clone(), ports, to: vec![Target::This] },
            FilterRule { from: Sources::All, ports: others, to: behind },
            FilterRule { from: devices, ports: vec![Ports::All], to: vec![Target::Everything] },
        ],
        limits: Vec::new(),
    }
}

#[test]
fn exit_nodes_are_written_and_read_as_ever() {
    let internet = |standby_for| Some(InternetOffer { standby_for });
    let offer = |standby_for| EdgeOffer { internet: internet(standby_for), ..EdgeOffer::default() };
    let seen = |standby_for| Peer { edge: Some(offer(standby_for)), ..peer() };
    let rule = FilterRule {
        from: Sources::All,
        ports: vec![Ports::Tcp(443, 443)],
        to: vec![Target::Internet],
    };
    let gateway = Gateway {
        id: GatewayId(0x62),
        mesh: INTERNET,
        lan: INTERNET,
        source: LanSource::Masquerade,
    };
    let changes = vec![
        Change::Peer { peer: seen(None) },
        Change::Peer { peer: seen(Some(DeviceId(0xa1))) },
        Change::Filter { filter: Some(Filter { rules: vec![rule], limits: Vec::new() }) },
        Change::Edge {
            duty: Some(EdgeDuty { gateways: vec![gateway], ..EdgeDuty::default() }),
            asked: false,
        },
    ];
    assert_golden("delta-exit-nodes", &Delta { changes, ..delta() });
    let spec = GatewaySpec {
        id: GatewayId(0x62),
        lan: INTERNET,
        mesh: INTERNET,
        enabled: true,
        source: LanSource::Masquerade,
        standby_for: Some(DeviceId(0xa1)),
        note: String::new(),
    };
    assert_golden("edge-changed-exit-node", &EdgeChanged::Gateway(spec));
}

#[test]
fn a_filter_is_written_and_read_as_ever() {
    let filter = Some(filter());
    assert_golden("netmap-filter", &Netmap { filter: filter.clone(), ..netmap() });
    let nothing = Some(Filter::default());
    assert_golden(
        "delta-filter",
        &Delta {
            base: version(41),
            version: version(44),
            changes: vec![
                Change::Filter { filter },
                Change::Filter { filter: None },
                Change::Filter { filter: nothing.clone() },
            ],
        },
    );
    let mut map = netmap();
    let delta = Delta {
        base: map.version,
        version: MapVersion { sequence: map.version.sequence + 1, ..map.version },
        changes: vec![Change::Filter { filter: nothing.clone() }],
    };
    assert_eq!(map.apply(&delta), Apply::Applied);
    assert_eq!(map.filter, nothing);
}

#[test]
fn a_delta_about_relays_changes_the_map_that_it_builds_on() {
    let mut map = Netmap { peers: vec![peer()], ..netmap() };
    let changes = vec![
        Change::Relays { relays: relays() },
        Change::PeerRelays { id: peer().id, relays: relay_rtts() },
        Change::PeerRelays { id: DeviceId(0xdead), relays: relay_rtts() },
    ];
    assert_eq!(map.apply(&Delta { changes, ..delta() }), Apply::Applied);
    let peers = vec![Peer { relays: relay_rtts(), ..peer() }];
    assert_eq!(map, Netmap { version: version(42), relays: relays(), peers, ..netmap() });
}

#[test]
fn secrets_are_not_in_the_debug_text() {
    let text = format!("{:?}", relays());
    assert!(!text.contains("c2VjcmV0"), "{text}");
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
        ErrorCode::WrongScope,
        ErrorCode::SignInRequired,
        ErrorCode::SignInFailed,
        ErrorCode::Forbidden,
        ErrorCode::Suspended,
        ErrorCode::LinkInvalid,
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
    let signal =
        ConnectSignal { from: DeviceId(8), endpoints: endpoints(), nat: nat(), relay: None };
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
