//! A broker that is reached through a reverse proxy alone: a small one, that forwards requests and
//! says who asked, as they do.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::client::Received;
use common::{Client, TestBroker, config, new_secret, until, within};
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use warren_broker::TlsMode;
use warren_broker::admin::NewJoinKey;
use warren_proto::{
    CheckIn, CheckInState, Endpoint, EndpointKind, ErrorCode, JoinLink, Netmap, Problem,
    SessionEvent,
};

/// A header by which a test tells the proxy from where it is to have come.
const COMES_FROM: &str = "x-test-comes-from";

/// Forwards to `upstream` by HTTP/1.1, one connection for each request.
async fn proxy(upstream: SocketAddr, listener: TcpListener) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let service = service_fn(move |request| forward(request, upstream));
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn forward(
    mut request: Request<Incoming>,
    upstream: SocketAddr,
) -> Result<Response<Incoming>, hyper::Error> {
    let stream = TcpStream::connect(upstream).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = request.uri().path_and_query().unwrap().to_string();
    *request.uri_mut() = path.parse().unwrap();
    let headers = request.headers_mut();
    let client = headers.remove(COMES_FROM).unwrap_or(HeaderValue::from_static("203.0.113.9"));
    headers.append("x-forwarded-for", client);
    headers.insert(HOST, HeaderValue::from_static("warren.example.org"));
    sender.send_request(request).await
}

/// A broker, the proxy in front of it, and where that is.
async fn behind_a_proxy(data: &std::path::Path) -> (TestBroker, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    let mut config = config(data);
    config.tls = TlsMode::Off;
    config.public_url = Some(format!("http://{front}"));
    config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    config.limits.heartbeat = Duration::from_millis(300);
    let broker = TestBroker::start_with(config).await;
    tokio::spawn(proxy(broker.listen, listener));
    (broker, front)
}

async fn connect(front: SocketAddr) -> Client {
    let stream = TcpStream::connect(front).await.unwrap();
    Client::over(stream, front.to_string()).await.unwrap()
}

async fn join(broker: &TestBroker, front: SocketAddr, name: &str) -> Client {
    let link: JoinLink = broker.link("home", NewJoinKey::default()).await;
    assert_eq!((link.url, link.pin), (format!("http://{front}"), None));
    let client = connect(front).await;
    let registered = client.join(&new_secret(), &link.key, name).await;
    client.with_token(&registered.token)
}

#[tokio::test]
async fn joining_checking_in_and_the_stream_go_through_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, front) = behind_a_proxy(folder.path()).await;
    let (laptop, pi) = (join(&broker, front, "laptop").await, join(&broker, front, "pi").await);
    let mut events = laptop.events(None).await;
    let first = within("the map", events.event()).await.unwrap();
    assert!(matches!(first, SessionEvent::Netmap(map) if map.peers.len() == 1));
    let addr = "198.51.100.7:4000".parse().unwrap();
    let endpoints = vec![Endpoint { addr, kind: EndpointKind::Host }];
    let state = CheckInState { endpoints, ..CheckInState::default() };
    pi.post("/v1/node/check-in", &CheckIn { state: Some(state) }).await;
    // At once: a proxy that collected the stream would hold it back.
    let delta = within("the delta", events.event()).await.unwrap();
    let SessionEvent::Delta(delta) = delta else { panic!("{delta:?}") };
    assert!(format!("{delta:?}").contains("198.51.100.7"));
    within("a heartbeat", async { while events.next().await != Some(Received::Heartbeat) {} })
        .await;
    let map: Netmap = pi.get("/v1/node/netmap").await.json();
    assert!(map.peers[0].online, "{map:?}");
    drop(events);
    drop(laptop);
    until("the stream's end to get through", || async {
        !broker.admin.device("home", "laptop").await.unwrap().online
    })
    .await;
    broker.stop().await;
}

/// How many guesses at join keys somebody has before he is told to wait.
async fn guesses(client: &Client, from: &str) -> usize {
    for n in 0..200 {
        let key = format!("guess-guess-guess-{n}");
        let register = client.registration(&new_secret(), &key, "guesser").await;
        let body = serde_json::to_vec(&register).unwrap();
        let headers = [(COMES_FROM, from.to_owned())];
        let response =
            client.request(Method::POST, "/v1/node/register", &headers, body).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        if serde_json::from_slice::<Problem>(&body).unwrap().code == ErrorCode::RateLimited {
            return n;
        }
    }
    panic!("guessing is never slowed down")
}

#[tokio::test]
async fn who_guesses_behind_a_proxy_does_not_spoil_it_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, front) = behind_a_proxy(folder.path()).await;
    let client = connect(front).await;
    guesses(&client, "198.51.100.1").await;
    let other = guesses(&client, "198.51.100.2").await;
    assert!(other > 9, "{other} guesses");
    join(&broker, front, "laptop").await;
    broker.stop().await;
}
