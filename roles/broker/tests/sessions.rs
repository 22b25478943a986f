//! Control sessions over real TLS: the map, its deltas, signals, revocation.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::client::{Client, Events, Received, pinned_tls};
use common::{Device, PATIENCE, TestBroker, broker, config, within};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use warren_broker::admin::DeviceChange;
use warren_proto::{
    CheckIn, CheckInReply, CheckInState, ConnectRequest, DeviceId, Endpoint, EndpointKind,
    ErrorCode, InstanceId, NatReport, Netmap, SessionEvent,
};

fn endpoint(text: &str) -> Endpoint {
    Endpoint { addr: text.parse().unwrap(), kind: EndpointKind::Reflexive }
}

fn state(endpoints: &[&str]) -> CheckIn {
    let endpoints = endpoints.iter().map(|text| endpoint(text)).collect();
    let state = CheckInState { endpoints, ..CheckInState::default() };
    CheckIn { state: Some(state) }
}

async fn check_in(device: &Device, check_in: &CheckIn) -> CheckInReply {
    let answer = device.client.post("/v1/node/check-in", check_in).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn first_map(events: &mut Events) -> Netmap {
    match within("the map", events.event()).await {
        Some(SessionEvent::Netmap(netmap)) => *netmap,
        other => panic!("a session begins with the map, not {other:?}"),
    }
}

/// Applies deltas to a map until a condition holds.
async fn follow(events: &mut Events, map: &mut Netmap, done: impl Fn(&Netmap) -> bool) {
    within("the map to change", async {
        while !done(map) {
            match events.event().await.expect("the stream goes on") {
                SessionEvent::Delta(delta) => {
                    assert_eq!(map.apply(&delta), warren_proto::Apply::Applied);
                }
                other => panic!("not a delta: {other:?}"),
            }
        }
    })
    .await;
}

fn peer(map: &Netmap, id: DeviceId) -> Option<&warren_proto::Peer> {
    map.peers.iter().find(|peer| peer.id == id)
}

#[tokio::test]
async fn what_a_device_says_of_itself_reaches_its_peers() {
    let (_folder, broker) = broker().await;
    let (laptop, desktop) =
        (broker.device("home", "laptop").await, broker.device("home", "desktop").await);
    let mut events = laptop.client.events(None).await;
    let mut map = first_map(&mut events).await;
    let id = desktop.registered.device;
    assert!(!peer(&map, id).unwrap().online);

    let _session = desktop.client.events(None).await;
    assert_eq!(check_in(&desktop, &CheckIn::default()).await, CheckInReply { resend: true });
    assert_eq!(
        check_in(&desktop, &state(&["203.0.113.9:4500", "127.0.0.1:5"])).await,
        CheckInReply { resend: false }
    );
    assert_eq!(check_in(&desktop, &CheckIn::default()).await, CheckInReply { resend: false });
    follow(&mut events, &mut map, |map| {
        peer(map, id)
            .is_some_and(|peer| peer.online && peer.endpoints == [endpoint("203.0.113.9:4500")])
    })
    .await;
    let fetched: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert_eq!(fetched, map, "the deltas lead to the same map as the whole one");
    broker.stop().await;
}

#[tokio::test]
async fn a_stream_resumes_where_it_left_off() {
    let (_folder, broker) = broker().await;
    let mut laptop = broker.device("home", "laptop").await;
    let mut events = laptop.client.events(None).await;
    let Some(Received::Event { id: Some(id), event: SessionEvent::Netmap(mut map) }) =
        within("the map", events.next()).await
    else {
        panic!("the map has an id")
    };
    assert_eq!(id, map.version.to_string());
    drop(events);

    laptop.reconnect().await;
    let mut events = laptop.client.events(Some(map.version.to_string())).await;
    let first = within("an event", events.event()).await.unwrap();
    assert_eq!(first, SessionEvent::Current(map.version));
    drop(events);

    let desktop = broker.device("home", "desktop").await;
    laptop.reconnect().await;
    let mut events = laptop.client.events(Some(map.version.to_string())).await;
    follow(&mut events, &mut map, |map| peer(map, desktop.registered.device).is_some()).await;
    let newest = map.version;
    broker.stop().await;
    assert_eq!(within("the end of the stream", events.event()).await, None);

    let folder = _folder;
    let broker = TestBroker::start(folder.path()).await;
    laptop.link = broker.reusable("home").await;
    laptop.reconnect().await;
    let mut events = laptop.client.events(Some(newest.to_string())).await;
    let map = first_map(&mut events).await;
    assert_ne!(map.version.epoch, newest.epoch, "another process, another epoch: the whole map");
    for garbage in ["", "x", "1-", "-1", "ffffffffffffffff-18446744073709551615"] {
        laptop.reconnect().await;
        let mut events = laptop.client.events(Some(garbage.to_owned())).await;
        first_map(&mut events).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_device_that_is_removed_is_cut_off_everywhere_within_a_second() {
    let (_folder, broker) = broker().await;
    let (laptop, stolen) =
        (broker.device("home", "laptop").await, broker.device("home", "stolen").await);
    let mut at_laptop = laptop.client.events(None).await;
    let mut map = first_map(&mut at_laptop).await;
    let mut at_stolen = stolen.client.events(None).await;
    first_map(&mut at_stolen).await;
    let id = stolen.registered.device;
    follow(&mut at_laptop, &mut map, |map| peer(map, id).is_some_and(|peer| peer.online)).await;

    let begin = Instant::now();
    broker.admin.remove_device("home", "stolen").await.unwrap();
    loop {
        match within("the revocation", at_stolen.event()).await {
            Some(SessionEvent::Revoked) => break,
            Some(_) => {}
            None => panic!("the device must learn why"),
        }
    }
    assert_eq!(within("the end of the stream", at_stolen.event()).await, None);
    follow(&mut at_laptop, &mut map, |map| peer(map, id).is_none()).await;
    let refused = stolen.client.get("/v1/node/netmap").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.problem().code, ErrorCode::Revoked);
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
    broker.stop().await;
}

#[tokio::test]
async fn a_device_that_logs_out_is_gone_and_its_token_is_worth_nothing() {
    let (_folder, broker) = broker().await;
    let (laptop, phone) =
        (broker.device("home", "laptop").await, broker.device("home", "phone").await);
    let mut events = laptop.client.events(None).await;
    let mut map = first_map(&mut events).await;
    let answer = phone.client.call(Method::POST, "/v1/node/logout", Bytes::new()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    follow(&mut events, &mut map, |map| peer(map, phone.registered.device).is_none()).await;
    let refused = phone.client.call(Method::POST, "/v1/node/check-in", "{}").await;
    assert_eq!(refused.problem().code, ErrorCode::Revoked);
    broker.stop().await;
}

#[tokio::test]
async fn an_admins_changes_reach_the_device_and_its_peers() {
    let (_folder, broker) = broker().await;
    let (laptop, server) =
        (broker.device("home", "laptop").await, broker.device("home", "server").await);
    let mut at_laptop = laptop.client.events(None).await;
    let mut laptops = first_map(&mut at_laptop).await;
    let mut at_server = server.client.events(None).await;
    let mut servers = first_map(&mut at_server).await;
    let change = DeviceChange {
        name: Some("Attic Box".to_owned()),
        static_endpoint: Some(Some("203.0.113.80:51820".parse().unwrap())),
        ..DeviceChange::default()
    };
    broker.admin.change_device("home", "server", &change).await.unwrap();
    let fixed =
        Endpoint { addr: "203.0.113.80:51820".parse().unwrap(), kind: EndpointKind::Static };
    follow(&mut at_laptop, &mut laptops, |map| {
        peer(map, server.registered.device)
            .is_some_and(|peer| peer.name.as_str() == "attic-box" && peer.endpoints == [fixed])
    })
    .await;
    follow(&mut at_server, &mut servers, |map| {
        map.this.name.as_str() == "attic-box" && map.this.static_endpoint == Some(fixed.addr)
    })
    .await;
    let taken = DeviceChange { name: Some("laptop".to_owned()), ..DeviceChange::default() };
    let error = broker.admin.change_device("home", "attic-box", &taken).await.unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn a_connect_request_is_passed_on_to_a_peer_that_is_there() {
    let (_folder, broker) = broker().await;
    let (laptop, desktop) =
        (broker.device("home", "laptop").await, broker.device("home", "desktop").await);
    let request = ConnectRequest {
        peer: desktop.registered.device,
        endpoints: vec![endpoint("198.51.100.7:777")],
        nat: NatReport::default(),
        relay: None,
    };
    let offline = laptop.client.post("/v1/node/connect", &request).await;
    assert_eq!(offline.status, StatusCode::NOT_FOUND);

    let mut events = desktop.client.events(None).await;
    first_map(&mut events).await;
    let answer = laptop.client.post("/v1/node/connect", &request).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
    loop {
        match within("the signal", events.event()).await.unwrap() {
            SessionEvent::Connect(signal) => {
                assert_eq!(signal.from, laptop.registered.device);
                assert_eq!(signal.endpoints, request.endpoints);
                break;
            }
            SessionEvent::Delta(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let unknown = ConnectRequest { peer: DeviceId(42), ..request };
    let answer = laptop.client.post("/v1/node/connect", &unknown).await;
    assert_eq!(answer.problem().code, ErrorCode::NotFound);
    broker.stop().await;
}

#[tokio::test]
async fn a_newer_stream_of_the_same_device_replaces_the_older_one() {
    let (_folder, broker) = broker().await;
    let mut laptop = broker.device("home", "laptop").await;
    let mut old = laptop.client.events(None).await;
    first_map(&mut old).await;
    laptop.reconnect().await;
    let mut new = laptop.client.events(None).await;
    first_map(&mut new).await;
    assert_eq!(within("the end of the old stream", old.event()).await, None);
    assert_eq!(broker.admin.status().await.unwrap().online, 1);
    broker.stop().await;
}

#[tokio::test]
async fn two_machines_with_one_identity_are_noticed() {
    let (_folder, broker) = broker().await;
    let mut laptop = broker.device("home", "laptop").await;
    for instance in [1, 2, 1, 2] {
        laptop.reconnect().await;
        let headers = [(warren_proto::INSTANCE_HEADER, InstanceId(instance).to_string())];
        let response =
            laptop.client.request(Method::GET, "/v1/node/events", &headers, "").await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert!(broker.admin.device("home", "laptop").await.unwrap().cloned);
    broker.stop().await;
}

#[tokio::test]
async fn a_silent_stream_beats() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.heartbeat = Duration::from_millis(100);
    let broker = TestBroker::start_with(config).await;
    let laptop = broker.device("home", "laptop").await;
    let mut events = laptop.client.events(None).await;
    first_map(&mut events).await;
    for _ in 0..3 {
        assert_eq!(within("a heartbeat", events.next()).await, Some(Received::Heartbeat));
    }
    broker.stop().await;
}

#[tokio::test]
async fn who_stops_reading_is_brought_up_to_date_when_it_reads_again() {
    let (_folder, broker) = broker().await;
    let (reader, writer) =
        (broker.device("home", "reader").await, broker.device("home", "writer").await);
    let mut events = reader.client.events(None).await;
    let first = first_map(&mut events).await;
    let _session = writer.client.events(None).await;
    // An admin's renames aren't rate-limited as check-ins are.
    for n in 0..600 {
        let change = DeviceChange {
            name: Some(format!("{}-{n}", "long-name".repeat(5))),
            ..DeviceChange::default()
        };
        let id = writer.registered.device.to_string();
        broker.admin.change_device("home", &id, &change).await.unwrap();
    }
    let mut map = first;
    let last = format!("{}-599", "long-name".repeat(5));
    let begin = Instant::now();
    while !map.peers.iter().any(|peer| peer.name.as_str() == last) {
        assert!(begin.elapsed() < PATIENCE, "the last change never came");
        match within("an event", events.event()).await.unwrap() {
            SessionEvent::Netmap(netmap) => map = *netmap,
            SessionEvent::Delta(delta) => {
                assert_eq!(map.apply(&delta), warren_proto::Apply::Applied);
            }
            other => panic!("{other:?}"),
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_session_whose_queue_overflowed_gets_the_whole_map_once_it_reads() {
    let (_folder, broker) = broker().await;
    let (reader, writer, other) = (
        broker.device("home", "reader").await,
        broker.device("home", "writer").await,
        broker.device("home", "other").await,
    );
    let narrow = Client::connect_narrow(&reader.link, 1_000).await.unwrap();
    let narrow = narrow.with_token(reader.client.token().unwrap());
    let mut events = narrow.events(None).await;
    let mut map = first_map(&mut events).await;
    // Signals aren't joined as deltas are.
    let request = ConnectRequest {
        peer: reader.registered.device,
        endpoints: Vec::new(),
        nat: NatReport::default(),
        relay: None,
    };
    let mut sent = 0;
    let full = loop {
        let from = if sent % 2 == 0 { &writer } else { &other };
        let answer = from.client.post("/v1/node/connect", &request).await;
        if answer.status != StatusCode::NO_CONTENT {
            break answer;
        }
        sent += 1;
    };
    assert_eq!(full.status, StatusCode::NOT_FOUND, "it can't be told: {full:?}");
    assert!(sent > 64, "{sent} fit into the queue alone");
    let change = DeviceChange { name: Some("renamed".to_owned()), ..DeviceChange::default() };
    broker.admin.change_device("home", "writer", &change).await.unwrap();

    let mut whole_maps = 0;
    while !map.peers.iter().any(|peer| peer.name.as_str() == "renamed") {
        match within("an event", events.event()).await.unwrap() {
            SessionEvent::Netmap(netmap) => {
                whole_maps += 1;
                map = *netmap;
            }
            SessionEvent::Delta(delta) => {
                assert_eq!(map.apply(&delta), warren_proto::Apply::Applied);
            }
            SessionEvent::Connect(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(whole_maps, 1, "what was lost came as a whole");
    let fetched: Netmap = reader.client.get("/v1/node/netmap").await.json();
    assert_eq!(map.peers, fetched.peers);
    let again = writer.client.post("/v1/node/connect", &request).await;
    assert_eq!(again.status, StatusCode::NO_CONTENT, "it can be reached again");
    broker.stop().await;
}

#[tokio::test]
async fn a_prepared_pin_is_announced_and_then_used() {
    let (_folder, broker) = broker().await;
    let mut laptop = broker.device("home", "laptop").await;
    let mut events = laptop.client.events(None).await;
    let mut map = first_map(&mut events).await;
    assert_eq!(map.next_pin, None);
    let before = broker.admin.pins().await.unwrap();
    assert!(broker.admin.activate_pin().await.is_err(), "nothing is prepared");

    let prepared = broker.admin.prepare_pin().await.unwrap();
    assert_eq!(prepared.current, before.current);
    assert_eq!(broker.admin.prepare_pin().await.unwrap(), prepared, "preparing is idempotent");
    follow(&mut events, &mut map, |map| map.next_pin == prepared.next).await;
    laptop.reconnect().await;

    let active = broker.admin.activate_pin().await.unwrap();
    assert_eq!(Some(active.current), prepared.next);
    assert_eq!(active.next, None);
    let old = common::Client::connect(&laptop.link).await;
    assert!(old.is_err(), "the old pin is worth nothing");
    laptop.link.pin = Some(active.current);
    laptop.reconnect().await;
    assert_eq!(laptop.client.get("/v1/node/netmap").await.status, StatusCode::OK);
    let link = broker.reusable("home").await;
    assert_eq!(link.pin, Some(active.current));
    broker.stop().await;
}

#[tokio::test]
async fn removing_an_account_cuts_all_its_devices_off() {
    let (_folder, broker) = broker().await;
    let new = warren_broker::admin::NewAccount {
        name: "work".parse().unwrap(),
        ipv4_range: Some("10.99.0.0/16".parse().unwrap()),
    };
    let account = broker.admin.create_account(&new).await.unwrap();
    assert_eq!(account.ipv4_range, new.ipv4_range.unwrap());
    let device = broker.device("work", "server").await;
    let mut events = device.client.events(None).await;
    first_map(&mut events).await;
    broker.admin.remove_account("work").await.unwrap();
    let revoked = within("the revocation", events.event()).await;
    assert_eq!(revoked, Some(SessionEvent::Revoked));
    let refused = device.client.get("/v1/node/netmap").await;
    assert_eq!(refused.problem().code, ErrorCode::Revoked);
    assert!(broker.admin.account("work").await.is_err());
    broker.stop().await;
}

/// Counts the bytes that go through a TCP connection.
struct Counted {
    stream: tokio::net::TcpStream,
    bytes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.bytes.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &outcome {
            self.bytes.fetch_add(*written, Ordering::Relaxed);
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn an_unchanged_check_in_is_a_few_bytes_both_ways() {
    let (_folder, broker) = broker().await;
    let laptop = broker.device("home", "laptop").await;
    let bytes = Arc::new(AtomicUsize::new(0));
    let stream = tokio::net::TcpStream::connect(broker.listen).await.unwrap();
    let stream = Counted { stream, bytes: bytes.clone() };
    let tls = pinned_tls(laptop.link.pin.unwrap());
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
    let client = Client::over(stream, broker.listen.to_string()).await.unwrap();
    let client = client.with_token(&laptop.registered.token);
    let mut events = client.events(None).await;
    first_map(&mut events).await;
    let check = async || client.post("/v1/node/check-in", &CheckIn::default()).await;
    check().await;

    let before = bytes.load(Ordering::Relaxed);
    const TIMES: usize = 10;
    for _ in 0..TIMES {
        assert_eq!(check().await.status, StatusCode::OK);
    }
    let each = (bytes.load(Ordering::Relaxed) - before) / TIMES;
    // A day's 1,440 of them, with TCP and IP around, stay under half a megabyte.
    assert!(each <= 250, "{each} bytes of TCP payload for one unchanged check-in");
    println!("{each} bytes of TCP payload for one unchanged check-in");
    broker.stop().await;
}
