//! Relays through the real broker: their tokens, sessions and reports, and what nodes hear of them.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::client::RelayEvents;
use common::{Client, TestBroker, broker, within};
use http::StatusCode;
use tokio::net::UdpSocket;
use warren_broker::admin::{
    DeviceChange, Error, NewAccount, NewRelay, NewTurn, RelayCreated, RelayOrigin, SetRelays,
};
use warren_proto::{
    CheckIn, CheckInState, Endpoint, EndpointKind, ErrorCode, Netmap, RelayEvent, RelayInit,
    RelayReport, RelayReported, RelayScope,
};
use warren_turn::{Builder, Class, Message, Method};

fn new(name: &str) -> NewRelay {
    NewRelay { name: name.parse().unwrap() }
}

fn report(udp: &[SocketAddr]) -> RelayReport {
    RelayReport {
        protocol: 1,
        account: None,
        udp: udp.to_vec(),
        tcp: Vec::new(),
        tls: Vec::new(),
        limits: Default::default(),
        load: Default::default(),
        software: "test".to_owned(),
        draining: false,
    }
}

fn set(list: &[&str]) -> SetRelays {
    let group = |group: &&str| group.split('=').map(str::to_owned).collect();
    SetRelays { relays: list.iter().map(group).collect() }
}

/// A relay server's connection to the broker.
async fn relay(broker: &TestBroker, created: &RelayCreated) -> Client {
    let link = broker.reusable("home").await;
    assert_eq!((&created.url, created.pin), (&link.url, link.pin));
    Client::connect(&link).await.unwrap().with_token(&created.token)
}

async fn init(events: &mut RelayEvents) -> RelayInit {
    match within("the relay's init", events.event()).await {
        Some(RelayEvent::Init(init)) => init,
        other => panic!("{other:?}"),
    }
}

/// A STUN server that answers as long as it is told to.
async fn stun(answering: Arc<AtomicBool>) -> SocketAddr {
    // Loopback is no relay's address, so it stands on another address of this machine.
    let ip = own_address();
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let id = Message::parse(&buffer[..len]).unwrap().transaction_id();
            let mut answer = Vec::new();
            Builder::new(&mut answer, Class::Success, Method::BINDING, id).xor_mapped_address(from);
            if answering.load(Ordering::Relaxed) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    addr
}

/// What a packet to another host would come from.
fn own_address() -> Ipv4Addr {
    let interfaces = nix::ifaddrs::getifaddrs().unwrap();
    let addresses = interfaces.filter_map(|it| Some(it.address?.as_sockaddr_in()?.ip()));
    addresses
        .into_iter()
        .find(|ip| !ip.is_loopback() && !ip.is_link_local())
        .expect("a test machine has an address besides loopback")
}

#[tokio::test]
async fn a_relay_server_gets_its_init_and_hears_of_what_it_must_refuse() {
    let (folder, broker) = broker().await;
    let created = broker.admin.create_relay(Some("home"), &new("berlin")).await.unwrap();
    let client = relay(&broker, &created).await;
    let mut events = client.relay_events().await;
    let first = init(&mut events).await;
    assert_eq!((first.id, first.name.as_str()), (created.id, "berlin"));
    assert!(matches!(&first.scope, RelayScope::Account { name, .. } if name.as_str() == "home"));
    assert_eq!((first.secrets.len(), first.revoked.len()), (1, 0));
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let drift = unix.as_millis().abs_diff(first.clock_unix_ms.into());
    assert!(drift < 20_000, "{drift}");

    let laptop = broker.device("home", "laptop").await;
    broker.admin.remove_device("home", "laptop").await.unwrap();
    let revoke = within("the revocation", events.event()).await.unwrap();
    assert_eq!(revoke, RelayEvent::Revoke(vec![laptop.registered.device]));

    broker.admin.rotate_relay(Some("home"), "berlin").await.unwrap();
    let rotated = init(&mut events).await;
    assert_eq!((rotated.secrets.len(), &rotated.secrets[1]), (2, &first.secrets[0]));

    let mut newer = client.relay_events().await;
    assert_eq!(init(&mut newer).await.secrets, rotated.secrets);
    assert_eq!(within("the older stream's end", events.event()).await, None);

    broker.stop().await;
    assert_eq!(within("the end with the broker", newer.event()).await, None);
    let broker = TestBroker::start(folder.path()).await;
    let client = relay(&broker, &created_at(&broker, &created)).await;
    let mut events = client.relay_events().await;
    let again = init(&mut events).await;
    assert_eq!((again.secrets, again.revoked), (rotated.secrets, vec![laptop.registered.device]));

    broker.admin.remove_relay(Some("home"), "berlin").await.unwrap();
    assert_eq!(within("the last word", events.event()).await, Some(RelayEvent::Revoked));
    assert_eq!(within("the end", events.event()).await, None);
    let answer = client.post("/v1/relay/report", &report(&[])).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.problem().code, ErrorCode::Revoked);
    broker.stop().await;
}

/// The same token at the URL that the broker has after its restart.
fn created_at(broker: &TestBroker, created: &RelayCreated) -> RelayCreated {
    RelayCreated { url: broker.url.clone(), ..created.clone() }
}

#[tokio::test]
async fn what_a_relay_server_reports_reaches_the_nodes_and_stays() {
    let (folder, broker) = broker().await;
    let created = broker.admin.create_relay(Some("home"), &new("berlin")).await.unwrap();
    let laptop = broker.device("home", "laptop").await;
    let client = relay(&broker, &created).await;
    let answering = Arc::new(AtomicBool::new(true));
    let addr = stun(answering.clone()).await;

    let answer: RelayReported = client.post("/v1/relay/report", &report(&[addr])).await.json();
    assert_eq!((answer.name.as_str(), answer.problem), ("berlin", None));
    let map: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert_eq!((map.relays.len(), &map.relays[0].udp), (1, &vec![addr]));
    assert!(map.relays[0].credential.nonce.is_some());
    let shown = broker.admin.relay(Some("home"), "berlin").await.unwrap();
    assert_eq!((shown.online, shown.rank, shown.warnings.len()), (Some(true), Some(0), 0));

    answering.store(false, Ordering::Relaxed);
    let list = broker.admin.set_relays("home", &set(&["berlin"])).await.unwrap();
    assert!(list[0].warnings[0].contains(&format!("no answer to the broker from {addr}")));
    let answer: RelayReported = client.post("/v1/relay/report", &report(&[addr])).await.json();
    assert!(answer.problem.unwrap().contains("no answer"));

    broker.stop().await;
    let broker = TestBroker::start(folder.path()).await;
    let link = laptop.link.clone();
    let link = warren_proto::JoinLink { url: broker.url.clone(), ..link };
    let client = Client::connect(&link).await.unwrap().with_token(&laptop.registered.token);
    let map: Netmap = client.get("/v1/node/netmap").await.json();
    assert_eq!(map.relays[0].udp, [addr], "before the relay has come back");
    broker.stop().await;
}

#[tokio::test]
async fn a_token_of_another_account_is_refused_and_says_so() {
    let (_folder, broker) = broker().await;
    let work = NewAccount { name: "work".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&work).await.unwrap();
    for owner in [Some("home"), None] {
        let created = broker.admin.create_relay(owner, &new("berlin")).await.unwrap();
        let client = relay(&broker, &created).await;
        let meant = RelayReport { account: Some("work".parse().unwrap()), ..report(&[]) };
        let answer = client.post("/v1/relay/report", &meant).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        let problem = answer.problem();
        assert_eq!(problem.code, ErrorCode::WrongScope);
        assert!(problem.title.contains("--account work"), "{}", problem.title);
        let fits = RelayReport { account: owner.map(|it| it.parse().unwrap()), ..report(&[]) };
        assert_eq!(client.post("/v1/relay/report", &fits).await.status, StatusCode::OK);
    }
    let why = broker.admin.set_relays("work", &set(&["11111111-nowhere"])).await.unwrap_err();
    assert!(why.to_string().contains("no device or relay"), "{why}");
    let device = broker.device("home", "laptop").await;
    for path in ["/v1/relay/report", "/v1/relay/events"] {
        let status = device.client.get(path).await.status;
        assert!([StatusCode::UNAUTHORIZED, StatusCode::METHOD_NOT_ALLOWED].contains(&status));
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_operators_relays_are_offered_to_all_accounts_and_refuse_the_removed_of_all() {
    let (_folder, broker) = broker().await;
    let work = NewAccount { name: "work".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&work).await.unwrap();
    let created = broker.admin.create_relay(None, &new("shared")).await.unwrap();
    let client = relay(&broker, &created).await;
    let addr = stun(Arc::new(AtomicBool::new(true))).await;
    client.post("/v1/relay/report", &report(&[addr])).await;
    let mut events = client.relay_events().await;
    assert_eq!(init(&mut events).await.scope, RelayScope::Operator);
    let (home_pi, work_pi) = (broker.device("home", "pi").await, broker.device("work", "pi").await);
    for device in [&home_pi, &work_pi] {
        let map: Netmap = device.client.get("/v1/node/netmap").await.json();
        assert_eq!((map.relays.len(), map.relays[0].name.as_str()), (1, "shared"));
    }
    let shown = broker.admin.relay(Some("work"), "shared").await.unwrap();
    assert_eq!((shown.shared, shown.online, shown.rank), (true, Some(true), Some(1)));
    let conflict = broker.admin.remove_relay(Some("work"), "shared").await.unwrap_err();
    assert!(conflict.to_string().contains("--operator"), "{conflict}");

    broker.admin.remove_device("home", "pi").await.unwrap();
    let revoked = within("the revocation", events.event()).await.unwrap();
    assert_eq!(revoked, RelayEvent::Revoke(vec![home_pi.registered.device]));
    broker.admin.remove_account("work").await.unwrap();
    let revoked = within("the account's end", events.event()).await.unwrap();
    assert_eq!(revoked, RelayEvent::Revoke(vec![work_pi.registered.device]));

    let archives = tempfile::tempdir().unwrap();
    let archive = archives.path().join("warren.tar");
    broker.admin.backup(&archive).await.unwrap();
    broker.admin.remove_relay(None, "shared").await.unwrap();
    assert_eq!(within("the last word", events.event()).await, Some(RelayEvent::Revoked));
    broker.admin.restore(&archive).await.unwrap();
    let mut events = client.relay_events().await;
    let mut both = vec![home_pi.registered.device, work_pi.registered.device];
    both.sort_unstable();
    assert_eq!(init(&mut events).await.revoked, both, "a backup holds them, too");
    broker.stop().await;
}

#[tokio::test]
async fn a_device_is_named_as_relay_with_warnings_and_its_removal_is_told() {
    let (_folder, broker) = broker().await;
    let (pi, laptop) = (broker.device("home", "pi").await, broker.device("home", "laptop").await);
    let mut on_pi = pi.client.events(None).await;
    let public = |port| Endpoint {
        addr: SocketAddr::from(([198, 51, 100, 7], port)),
        kind: EndpointKind::Reflexive,
    };
    for (device, port) in [(&pi, 4000), (&laptop, 5000)] {
        let state = CheckInState { endpoints: vec![public(port)], ..CheckInState::default() };
        device.client.post("/v1/node/check-in", &CheckIn { state: Some(state) }).await;
    }
    let list = broker.admin.set_relays("home", &set(&["pi"])).await.unwrap();
    assert_eq!((list.len(), list[0].origin), (1, RelayOrigin::Device));
    let warnings = list[0].warnings.join("\n");
    for part in ["no static endpoint", "chosen automatically", "same public address", "laptop"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    within("the duty", async {
        loop {
            let map: Netmap = pi.client.get("/v1/node/netmap").await.json();
            if map.relay_duty.is_some() {
                return;
            }
            on_pi.next().await;
        }
    })
    .await;

    let answering = Arc::new(AtomicBool::new(true));
    let addr = stun(answering.clone()).await;
    let change = DeviceChange { static_endpoint: Some(Some(addr)), ..DeviceChange::default() };
    broker.admin.change_device("home", "pi", &change).await.unwrap();
    let list = broker.admin.set_relays("home", &set(&["pi"])).await.unwrap();
    assert_eq!(list[0].udp, [addr]);
    let warnings = list[0].warnings.join("\n");
    assert!(
        !warnings.contains("no static endpoint") && !warnings.contains("no answer"),
        "{warnings}"
    );
    let map: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert_eq!(
        (map.relays[0].device, &map.relays[0].udp),
        (Some(pi.registered.device), &vec![addr])
    );

    let removed = broker.admin.remove_device("home", "pi").await.unwrap();
    assert_eq!((removed.was_relay, removed.relays_left), (true, 0));
    let map: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert!(map.relays.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn a_turn_server_is_taken_in_by_its_url() {
    let (_folder, broker) = broker().await;
    let laptop = broker.device("home", "laptop").await;
    let turn = |url: &str, username: Option<&str>| NewTurn {
        url: url.to_owned(),
        name: None,
        username: username.map(str::to_owned),
        secret: "s3cret".to_owned(),
    };
    for (url, part) in [
        ("https://turn.example.org", "turn:turn.example.org"),
        ("turn:does-not-exist.invalid", "doesn't resolve"),
    ] {
        let why = broker.admin.add_turn(Some("home"), &turn(url, None)).await.unwrap_err();
        assert!(why.to_string().contains(part), "{why}");
    }
    broker.admin.add_turn(Some("home"), &turn("turn:192.0.2.9", None)).await.unwrap();
    let tls = turn("turns:turn.example.org:443", Some("bob"));
    let shown = broker.admin.add_turn(Some("home"), &tls).await.unwrap();
    assert_eq!(
        (shown.name.as_str(), shown.tls.as_slice()),
        ("turn-example-org", &["turn.example.org:443".to_owned()][..])
    );
    let taken = broker.admin.add_turn(Some("home"), &tls).await.unwrap_err();
    assert!(matches!(taken, Error::Problem(problem) if problem.code == ErrorCode::Conflict));
    broker.admin.set_relays("home", &set(&["192-0-2-9=turn-example-org"])).await.unwrap();
    let map: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert_eq!(map.relays.len(), 2);
    assert!(map.relays.iter().all(|relay| relay.rank == 0 && !relay.virtual_addresses));
    assert_eq!(map.relays[1].credential.username, "bob");
    broker.stop().await;
}
