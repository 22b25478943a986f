//! Webhooks: signed, tried again, kept over a restart, and led nowhere inside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{TestBroker, config, until, within};
use ring::hmac;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use warren_broker::admin::{NewWebhook, WebhookChange, WebhookCreated};

/// A request as it arrived.
struct Message {
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether one of its signatures is right, as the receiving side checks it.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let (id, at) = (&self.headers["webhook-id"], &self.headers["webhook-timestamp"]);
        let signed = format!("{id}.{at}.{}", self.body);
        self.headers["webhook-signature"].split(' ').any(|signature| {
            let signature = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
        })
    }
}

/// Somebody who takes messages.
struct Receiver {
    addr: SocketAddr,
    messages: mpsc::UnboundedReceiver<Message>,
    /// What he answers.
    status: Arc<AtomicU16>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (told, messages) = mpsc::unbounded_channel();
        let status = Arc::new(AtomicU16::new(204));
        let answers = status.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, status) = (told.clone(), answers.load(Ordering::SeqCst));
                tokio::spawn(async move { take(stream, status).await.map(|it| told.send(it)) });
            }
        });
        Self { addr, messages, status }
    }

    fn url(&self) -> String {
        format!("http://{}/in?x=1", self.addr)
    }

    async fn next(&mut self) -> Message {
        within("a message", self.messages.recv()).await.unwrap()
    }
}

async fn take(mut stream: TcpStream, status: u16) -> Option<Message> {
    let mut text = Vec::new();
    loop {
        stream.read_buf(&mut text).await.ok().filter(|read| *read > 0)?;
        let all = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = all.split_once("\r\n\r\n") else { continue };
        let mut lines = head.lines();
        let path = lines.next()?.split(' ').nth(1)?.to_owned();
        let header =
            |line: &str| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned()));
        let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
        if body.len() < headers["content-length"].parse().ok()? {
            continue;
        }
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        return Some(Message { path, headers, body: body.to_owned() });
    }
}

async fn start(data: &Path) -> TestBroker {
    let mut config = config(data);
    config.webhook_targets = vec!["127.0.0.0/8".parse().unwrap()];
    TestBroker::start_with(config).await
}

async fn create(broker: &TestBroker, url: String, events: &[&str]) -> WebhookCreated {
    let events = events.iter().map(|event| (*event).to_owned()).collect();
    broker.admin.create_webhook("home", &NewWebhook { url, events }).await.unwrap()
}

/// Changes the policy, for the `n`-th time.
async fn set_policy(broker: &TestBroker, n: u32) {
    let text = format!("# {n}\n[[rules]]\nfrom = '*'\nto = '*'\n");
    broker.admin.set_policy("home", &text, None).await.unwrap();
}

#[tokio::test]
async fn what_happens_is_told_signed_and_nothing_from_before() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut receiver = Receiver::start().await;
    broker.device("home", "before").await;
    let webhook = create(&broker, receiver.url(), &["device"]).await;
    let pi = broker.device("home", "pi").await;
    let joined = receiver.next().await;
    assert_eq!(joined.path, "/in?x=1");
    assert!(joined.is_signed_with(&webhook.secret), "{:?}", joined.headers);
    assert!(joined.headers["webhook-id"].starts_with("msg_"));
    let said = joined.json();
    assert_eq!(
        (said["type"].as_str(), said["data"]["subject"]["name"].as_str()),
        (Some("device.joined"), Some("pi"))
    );
    let session = pi.client.events(None).await;
    let online = receiver.next().await.json();
    assert_eq!(online["type"], "device.online");
    assert_eq!(online["data"]["device"]["name"], "pi");
    drop(session);
    assert_eq!(receiver.next().await.json()["type"], "device.offline");

    let rotated = broker.admin.rotate_webhook("home", webhook.id).await.unwrap();
    broker.admin.test_webhook("home", webhook.id).await.unwrap();
    let test = receiver.next().await;
    assert_eq!(test.json()["type"], "webhook.test");
    assert!(test.is_signed_with(&webhook.secret) && test.is_signed_with(&rotated.secret));
    let log = broker.admin.deliveries("home", webhook.id).await.unwrap();
    assert_eq!(log.len(), 4);
    until("the log says so", async || {
        let log = broker.admin.deliveries("home", webhook.id).await.unwrap();
        log.iter().all(|it| it.arrived && it.status == Some(204) && it.due.is_none())
    })
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn what_does_not_arrive_is_tried_again_after_a_restart_too_and_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut receiver = Receiver::start().await;
    receiver.status.store(500, Ordering::SeqCst);
    let webhook = create(&broker, receiver.url(), &["policy"]).await;
    set_policy(&broker, 1).await;
    let first = receiver.next().await;
    until("the failure is noted", async || {
        let log = broker.admin.deliveries("home", webhook.id).await.unwrap();
        log[0].status == Some(500) && log[0].due.is_some() && !log[0].arrived
    })
    .await;
    until("the webhook is seen to fail", async || {
        broker.admin.webhooks("home").await.unwrap()[0].failing_since.is_some()
    })
    .await;
    broker.stop().await;

    receiver.status.store(200, Ordering::SeqCst);
    let broker = start(folder.path()).await;
    let second = receiver.next().await;
    assert_eq!(second.headers["webhook-id"], first.headers["webhook-id"], "the same message");
    assert_eq!(second.body, first.body);
    until("it has arrived", async || {
        let log = broker.admin.deliveries("home", webhook.id).await.unwrap();
        log[0].arrived && log[0].attempts == 2
    })
    .await;
    until("the webhook is well", async || {
        broker.admin.webhooks("home").await.unwrap()[0].failing_since.is_none()
    })
    .await;
    let log = broker.admin.deliveries("home", webhook.id).await.unwrap();
    broker.admin.send_again("home", webhook.id, log[0].id).await.unwrap();
    assert_eq!(receiver.next().await.headers["webhook-id"], first.headers["webhook-id"]);

    let off = WebhookChange { on: Some(false), ..WebhookChange::default() };
    broker.admin.change_webhook("home", webhook.id, &off).await.unwrap();
    set_policy(&broker, 2).await;
    let on = WebhookChange { on: Some(true), ..WebhookChange::default() };
    broker.admin.change_webhook("home", webhook.id, &on).await.unwrap();
    set_policy(&broker, 3).await;
    let told = receiver.next().await.json();
    let changes = told["data"]["changes"].as_array().unwrap();
    let version = changes.iter().find(|it| it["field"] == "version").unwrap();
    assert_eq!(version["after"], "3", "not of what it missed");
    broker.admin.remove_webhook("home", webhook.id).await.unwrap();
    assert!(broker.admin.deliveries("home", webhook.id).await.is_err());
    broker.stop().await;
}

#[tokio::test]
async fn no_message_goes_to_what_only_the_broker_reaches() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(folder.path()).await;
    let mut receiver = Receiver::start().await;
    let addr = receiver.addr;
    for url in [
        format!("http://{addr}/"),
        format!("https://{addr}/"),
        format!("https://localhost:{}/", addr.port()),
        format!("https://[::ffff:127.0.0.1]:{}/", addr.port()),
        "https://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let webhook = create(&broker, url.clone(), &["device"]).await;
        broker.admin.test_webhook("home", webhook.id).await.unwrap();
        until("it is refused", async || {
            let log = broker.admin.deliveries("home", webhook.id).await.unwrap();
            let error = log[0].error.clone().unwrap_or_default();
            assert!(!log[0].arrived, "{url}");
            error.contains("no address of the internet") && error.contains("--allow-webhook")
        })
        .await;
    }
    assert!(receiver.messages.try_recv().is_err());
    for wrong in ["ftp://example.org/", "https://", "example.org", "https://user@example.org/"] {
        let new = NewWebhook { url: wrong.to_owned(), events: ["device".to_owned()].into() };
        assert!(broker.admin.create_webhook("home", &new).await.is_err(), "{wrong}");
    }
    broker.stop().await;
}
