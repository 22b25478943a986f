//! The keeper against authorities that misbehave, in virtual time.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::https::Exchange;
use super::*;

const DIRECTORY: &str = "https://localhost:37329/dir";
const DOMAIN: &str = "broker.example.test";
const CONTACT: &str = "mailto:admin@example.test";

/// In the lifetime of the kept certificate, which is from November 2026 to November 2031.
fn in_time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn years_later() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// An authority that answers each path by a function, if it answers, and when it was asked what.
#[derive(Clone)]
struct Fake {
    answer: fn(&str) -> Option<Response<&'static str>>,
    asked: Arc<Mutex<Vec<(u64, String)>>>,
    start: Instant,
}

impl Fake {
    fn new(answer: fn(&str) -> Option<Response<&'static str>>) -> Self {
        Self { answer, asked: Arc::default(), start: Instant::now() }
    }

    /// At which seconds `path` was asked for.
    fn times(&self, path: &str) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(_, asked)| asked == path).map(|(time, _)| *time).collect()
    }

    /// Drives a keeper with this authority for some time; says what it shows at the end.
    async fn keep(
        &self,
        folder: &Path,
        clock: fn() -> SystemTime,
        time: Duration,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let resolver = Arc::new(Resolver::default());
        let keeper = Keeper {
            domain: DOMAIN.to_owned(),
            authority: Authority {
                directory: DIRECTORY.to_owned(),
                contact: Some(CONTACT.to_owned()),
                client: Client::new(self.clone(), client::PATIENCE),
                account: None,
            },
            files: SecretFiles::new(folder.to_owned(), DIRECTORY, Some(CONTACT), DOMAIN).unwrap(),
            resolver: resolver.clone(),
            clock,
        };
        assert!(timeout(time, keeper.run()).await.is_err());
        resolver.shown()
    }
}

impl HttpClient for Fake {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Exchange {
        let path = request.uri().path().to_owned();
        let answer = (self.answer)(&path);
        self.asked.lock().unwrap().push((self.start.elapsed().as_secs(), path));
        Box::pin(async move {
            let Some(answer) = answer else { return std::future::pending().await };
            let (parts, body) = answer.into_parts();
            Ok(BytesResponse { parts, body: Box::new(Bytes::from_static(body.as_bytes())) })
        })
    }
}

fn reply(status: u16, header: Option<(&str, &str)>, body: &'static str) -> Response<&'static str> {
    let mut answer = Response::builder().status(status).header("Replay-Nonce", "n");
    if let Some((name, value)) = header {
        answer = answer.header(name, value);
    }
    answer.body(body).unwrap()
}

/// All goes well until the order is to get anywhere.
fn up_to_the_order(path: &str) -> Response<&'static str> {
    match path {
        "/dir" => reply(
            200,
            None,
            r#"{"newNonce":"https://ca/nonce","newAccount":"https://ca/account","newOrder":"https://ca/new"}"#,
        ),
        "/nonce" => reply(200, None, ""),
        "/account" => reply(201, Some(("Location", "https://ca/account/1")), "{}"),
        "/new" => reply(201, Some(("Location", "https://ca/order")), PENDING),
        _ => reply(200, None, PENDING),
    }
}

const PENDING: &str =
    r#"{"status":"pending","authorizations":[],"finalize":"https://ca/finalize"}"#;

fn kept_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir("tests/kept").unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

#[tokio::test(start_paused = true)]
async fn what_the_code_before_this_kept_is_used_without_a_request() {
    let folder = kept_folder();
    let authority = Fake::new(|_| None);
    let shown = authority.keep(folder.path(), in_time, Duration::from_secs(100 * 24 * 3600)).await;
    assert_eq!(shown.expect("a certificate").cert.len(), 2);
    assert_eq!(*authority.asked.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_kept_certificate_is_renewed_as_the_kept_account_and_shown_meanwhile() {
    let folder = kept_folder();
    let account = || std::fs::read(folder.path().join("account-cteb_3hLzLeVgAtAFjHvlA.pem"));
    let before = account().unwrap();
    let authority = Fake::new(|path| Some(up_to_the_order(path)));
    let shown = authority.keep(folder.path(), years_later, Duration::from_secs(60)).await;
    assert!(shown.is_some());
    assert_eq!(authority.times("/account"), [0], "it was found");
    assert_eq!(authority.times("/new"), [0]);
    assert_eq!(account().unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_answered_ends_after_half_a_minute_and_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Fake::new(|_| None);
    assert!(authority.keep(folder.path(), in_time, Duration::from_secs(100)).await.is_none());
    assert_eq!(authority.times("/dir"), [0, 31, 63, 97]);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_gets_nowhere_ends_after_ten_minutes_and_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Fake::new(|path| Some(up_to_the_order(path)));
    authority.keep(folder.path(), in_time, Duration::from_secs(1000)).await;
    assert_eq!(authority.times("/new"), [0, 601]);
    assert!(authority.times("/order").len() < 50);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_overloaded_is_left_alone_as_long_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Fake::new(|_| Some(reply(503, Some(("Retry-After", "7200")), "<html>busy")));
    authority.keep(folder.path(), in_time, Duration::from_secs(15_000)).await;
    assert_eq!(authority.times("/dir"), [0, 7200, 14_400]);
}

#[tokio::test(start_paused = true)]
async fn after_too_many_orders_there_is_none_for_an_hour() {
    const TOO_MANY: &str =
        r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many"}"#;
    let folder = tempfile::tempdir().unwrap();
    let authority = Fake::new(|path| {
        Some(if path == "/new" { reply(429, None, TOO_MANY) } else { up_to_the_order(path) })
    });
    authority.keep(folder.path(), in_time, Duration::from_secs(8000)).await;
    assert_eq!(authority.times("/new"), [0, 3600, 7200]);
}

#[tokio::test(start_paused = true)]
async fn pauses_after_failures_double_up_to_six_hours() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Fake::new(|_| Some(reply(404, None, "no such page")));
    authority.keep(folder.path(), in_time, Duration::from_secs(4 * 24 * 3600)).await;
    let times = authority.times("/dir");
    assert_eq!(times[..6], [0, 1, 3, 7, 15, 31]);
    let last = &times[times.len() - 2..];
    assert_eq!(last[1] - last[0], 6 * 3600);
}

/// A server on this machine that answers one connection with these bytes and leaves it open.
async fn answering(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(bytes).await.unwrap();
        std::future::pending::<Infallible>().await
    });
    url
}

async fn ask(url: &str, patience: Duration) -> Result<Bytes, Error> {
    let tls = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let client = Client::new(Https::new(tls), patience);
    let request = Request::get(url).body(BodyWrapper::default()).unwrap();
    Ok(client.request(request).await?.body.into_bytes().await.unwrap())
}

#[tokio::test]
async fn a_body_in_chunks_ends_with_its_last_chunk_not_with_the_connection() {
    let url = answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(ask(&url, Duration::from_secs(30)).await.unwrap(), "abcde");
}

#[tokio::test]
async fn a_body_that_stops_in_its_middle_ends_by_time() {
    let url = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc").await;
    let error = ask(&url, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains("no answer within 0.3 s"), "{error}");
}
