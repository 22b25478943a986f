//! Garbage, floods and slowness at the HTTPS port.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::client::{Client, address_of, connect_tls, pinned_tls};
use common::{Device, TestBroker, broker, config, new_secret, within};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use warren_proto::{ErrorCode, JoinLink};

const POSTS: [&str; 4] =
    ["/v1/node/register", "/v1/node/check-in", "/v1/node/connect", "/v1/node/logout"];
const GETS: [&str; 3] = ["/v1/node/challenge", "/v1/node/netmap", "/v1/node/events"];

/// A broker that loses patience quickly.
async fn impatient() -> (tempfile::TempDir, TestBroker) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.handshake_timeout = Duration::from_millis(300);
    config.limits.request_timeout = Duration::from_millis(300);
    config.limits.stranger_idle = Duration::from_millis(300);
    config.limits.write_stall = Duration::from_millis(300);
    config.limits.strangers_per_source = 8;
    (folder, TestBroker::start_with(config).await)
}

/// An HTTP/1.1 connection over TLS, for what HTTP/2 clients can't be made to do.
async fn raw(link: &JoinLink) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut tls = (*pinned_tls(link.pin.unwrap())).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    connect_tls(address_of(link), tls.into()).await.unwrap()
}

async fn read_to_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut text = Vec::new();
    // A reset is as good an end as any.
    let _ = within("the connection's end", stream.read_to_end(&mut text)).await;
    text
}

async fn assert_serves(link: &JoinLink) {
    let client = Client::connect(link).await.unwrap();
    assert_eq!(client.get("/v1/node/challenge").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let (_folder, broker) = broker().await;
    let device = Device::join(&broker.first_link.clone().unwrap(), "laptop").await;
    let limit = 64 * 1024;
    for (path, limit) in
        [("/v1/node/register", 4 * 1024), ("/v1/node/check-in", limit), ("/v1/node/connect", limit)]
    {
        let answer = device.client.call(Method::POST, path, vec![b' '; limit + 1]).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        assert_eq!(answer.problem().code, ErrorCode::Invalid);
        let answer = device.client.call(Method::POST, path, vec![b' '; limit]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_there_is_not_is_answered_with_a_problem() {
    let (_folder, broker) = broker().await;
    let client = Client::connect(&broker.first_link.clone().unwrap()).await.unwrap();
    for path in ["/v1", "/v1/node", "/v1/node/netmap/", "/v2/node/netmap", "/api/v2/accounts"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.problem().code, ErrorCode::NotFound);
    }
    for path in GETS {
        let answer = client.call(Method::DELETE, path, "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn every_route_but_joining_wants_a_token() {
    let (_folder, broker) = broker().await;
    let client = Client::connect(&broker.first_link.clone().unwrap()).await.unwrap();
    let long = "A".repeat(4000);
    for token in ["", "x", "Bearer", &long] {
        let client = client.with_token(token);
        for path in &GETS[1..] {
            assert_eq!(client.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
        }
        for path in &POSTS[1..] {
            let answer = client.call(Method::POST, path, "{}").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(answer.problem().code, ErrorCode::Revoked);
        }
    }
    assert_eq!(client.get("/v1/node/netmap").await.status, StatusCode::UNAUTHORIZED);
    broker.stop().await;
}

#[tokio::test]
async fn bytes_that_are_neither_tls_nor_http_end_only_their_own_connection() {
    let (_folder, broker) = impatient().await;
    let link = broker.first_link.clone().unwrap();
    let floods: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff",
        &[0; 20_000],
        &[0xff; 20_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for flood in floods {
        let mut stream = TcpStream::connect(address_of(&link)).await.unwrap();
        let _ = stream.write_all(flood).await;
        read_to_end(&mut stream).await;
    }
    for flood in floods.iter().skip(1) {
        let mut stream = raw(&link).await;
        let _ = stream.write_all(flood).await;
        read_to_end(&mut stream).await;
    }
    assert_serves(&link).await;
    broker.stop().await;
}

#[tokio::test]
async fn who_is_slow_is_not_waited_for() {
    let (_folder, broker) = impatient().await;
    let link = broker.first_link.clone().unwrap();

    let mut silent = TcpStream::connect(address_of(&link)).await.unwrap();
    assert_eq!(read_to_end(&mut silent).await, b"", "no handshake");

    let mut idle = raw(&link).await;
    read_to_end(&mut idle).await;

    let mut slow_header = raw(&link).await;
    slow_header.write_all(b"GET /v1/node/challenge HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
    read_to_end(&mut slow_header).await;

    let mut slow_body = raw(&link).await;
    let begun = b"POST /v1/node/register HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    slow_body.write_all(begun).await.unwrap();
    let answer = read_to_end(&mut slow_body).await;
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));

    let idle_h2 = Client::connect(&link).await.unwrap();
    common::until("an idle stranger's HTTP/2 connection to end", || async { idle_h2.is_closed() })
        .await;
    assert_serves(&link).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_stranger_has_little_time_whatever_it_does_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.stranger_lifetime = Duration::from_millis(700);
    config.limits.handshake_timeout = Duration::from_millis(300);
    let broker = TestBroker::start_with(config).await;
    let link = broker.first_link.clone().unwrap();

    let deaf = Client::connect_deaf(&link).await.unwrap();
    let unread = deaf.request(Method::GET, "/healthz", &[], "").await.unwrap();
    common::until("a connection with a closed window to end", || async { deaf.is_closed() }).await;
    drop(unread);

    let busy = Client::connect(&link).await.unwrap();
    common::until("a connection that goes on asking to end", || async {
        busy.try_call(Method::GET, "/healthz", "").await.is_err()
    })
    .await;

    let device = Device::join(&link, "laptop").await;
    let mut session = device.client.events(None).await;
    session.event().await.unwrap();
    let outlived = Client::connect_deaf(&link).await.unwrap();
    common::until("another stranger to end", || async { outlived.is_closed() }).await;
    assert_eq!(device.client.get("/v1/node/netmap").await.status, StatusCode::OK);
    broker.stop().await;
}

#[tokio::test]
async fn strangers_give_way_to_a_device_that_comes_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.strangers = 4;
    let broker = TestBroker::start_with(config).await;
    let link = broker.first_link.clone().unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(raw(&link).await);
    }
    let device = Device::join(&link, "laptop").await;
    assert_eq!(device.client.get("/v1/node/netmap").await.status, StatusCode::OK);
    assert_eq!(read_to_end(&mut held[0]).await, b"", "the oldest went");
    broker.stop().await;
}

#[tokio::test]
async fn what_nobody_takes_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.write_stall = Duration::from_millis(300);
    let broker = TestBroker::start_with(config).await;
    let link = broker.first_link.clone().unwrap();
    let device = Device::join(&link, "laptop").await;
    let token = device.client.token().unwrap();
    let deaf = Client::connect_deaf(&link).await.unwrap().with_token(token);
    for path in ["/v1/node/netmap", "/v1/node/events"] {
        let unread = deaf.request(Method::GET, path, &[], "").await.unwrap();
        assert_eq!(unread.status(), StatusCode::OK, "{path}");
        let end = within(path, unread.into_body().frame()).await;
        assert!(matches!(end, Some(Err(_))), "{path}: {end:?}");
    }
    let answer = deaf.request(Method::GET, "/healthz", &[], "").await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "the connection goes on");
    broker.stop().await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_when_another_takes_its_place() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let device = Device::join(&link, "laptop").await;
    let token = device.client.token().unwrap();
    for path in ["/v1/node/netmap", "/v1/node/events"] {
        let deaf = Client::connect_deaf(&link).await.unwrap().with_token(token);
        let unread = deaf.request(Method::GET, path, &[], "").await.unwrap();
        let _other = device.client.request(Method::GET, path, &[], "").await.unwrap();
        // Sooner than by the patience with who reads nothing, which is longer than this waits.
        let end = within(path, unread.into_body().frame()).await;
        assert!(matches!(end, Some(Err(_))), "{path}: {end:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_map_is_not_fetched_for_ever() {
    let (_folder, broker) = broker().await;
    let device = Device::join(&broker.first_link.clone().unwrap(), "laptop").await;
    let mut granted = 0;
    let refused = loop {
        let answer = device.client.get("/v1/node/netmap").await;
        if answer.status != StatusCode::OK {
            break answer;
        }
        granted += 1;
        assert!(granted < 100, "a map each time");
    };
    assert!(granted >= 10, "{granted}");
    assert_eq!(refused.problem().code, ErrorCode::RateLimited);
    assert_eq!(device.client.post("/v1/node/check-in", &()).await.status, StatusCode::BAD_REQUEST);
    broker.stop().await;
}

#[tokio::test]
async fn a_stranger_is_counted_before_its_body_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.joining = 0;
    let broker = TestBroker::start_with(config).await;
    let link = broker.first_link.clone().unwrap();
    let mut stranger = raw(&link).await;
    let begun = b"POST /v1/node/register HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                  Content-Length: 100\r\n\r\n";
    stranger.write_all(begun).await.unwrap();
    let answer = read_to_end(&mut stranger).await;
    assert!(answer.starts_with(b"HTTP/1.1 429"), "{}", String::from_utf8_lossy(&answer));
    broker.stop().await;
}

#[tokio::test]
async fn headers_without_end_are_cut_short() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let mut stream = raw(&link).await;
    stream.write_all(b"GET /v1/node/challenge HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let line = format!("X-Filler: {}\r\n", "y".repeat(1000));
    for _ in 0..100 {
        if stream.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = read_to_end(&mut stream).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_serves(&link).await;
    broker.stop().await;
}

#[tokio::test]
async fn one_source_cannot_take_all_connections() {
    let (_folder, broker) = impatient().await;
    let link = broker.first_link.clone().unwrap();
    let device = Device::join(&link, "laptop").await;
    let _session = device.client.events(None).await;
    let addr: SocketAddr = address_of(&link);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut refused = 0;
    for stream in &mut held {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
        refused += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    assert!(refused >= 32, "only {refused} of 40 strangers' connections were refused");
    assert_eq!(device.client.get("/v1/node/netmap").await.status, StatusCode::OK);
    drop(held);
    common::until("the strangers' places to be free again", || async {
        Client::connect(&link).await.is_ok()
    })
    .await;
    broker.stop().await;
}

/// JSON-like and not so JSON-like bodies.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "endpoints",
        "addr",
        "peer",
        "key",
        "null",
        "-1",
        "1e999",
        "\\u0000",
        "192.0.2.1:1",
        "proof",
        "join_key",
        "challenge",
        "name",
        "nat",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(words, 0..60).prop_map(|words| words.concat().into_bytes()),
        Just([b"[".repeat(20_000), b"]".repeat(20_000)].concat()),
    ]
}

#[test]
fn garbage_is_never_more_than_a_refusal() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (folder, broker, device) = runtime.block_on(async {
        let (folder, broker) = broker().await;
        let device = Device::join(&broker.first_link.clone().unwrap(), "laptop").await;
        (folder, broker, device)
    });
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() };
    proptest!(config, |(body in garbage(), path in prop::sample::select(&POSTS[..3]))| {
        runtime.block_on(async {
            let answer = device.client.call(Method::POST, path, body).await;
            let status = answer.status;
            // Nothing but `{}` and its kin is a check-in.
            prop_assert!(status.is_client_error() || path == "/v1/node/check-in", "{status}");
            prop_assert!(!status.is_server_error(), "{}", status);
            Ok(())
        })?;
    });
    runtime.block_on(async {
        let key = broker.reusable("home").await.key;
        device.client.join(&new_secret(), &key, "still alive").await;
        broker.stop().await;
    });
    drop(folder);
}
