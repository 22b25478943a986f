//! What attackers have found once.

use bytes::Bytes;
use http::{Method, StatusCode};
use ring::hmac;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use warren_broker::admin::{
    AccountChange, DeviceChange, Error, NewAccount, NewApiToken, NewInvitation, Role, Scope,
};
use warren_proto::{ErrorCode, JoinLink};

use crate::common::client::{Client, address_of, connect_tls, pinned_tls};
use crate::common::{TestBroker, broker, until, within};
use crate::person::{PASSWORD, Person};

type Stream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// A connection that speaks HTTP/1.1, so that its end is the request's.
async fn raw(link: &JoinLink) -> Stream {
    let mut tls = (*pinned_tls(link.pin.unwrap())).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    connect_tls(address_of(link), tls.into()).await.unwrap()
}

async fn token(
    broker: &TestBroker,
    name: &str,
    scopes: &[Scope],
) -> (warren_proto::ApiTokenId, String) {
    let scopes = scopes.iter().copied().collect();
    let new = NewApiToken { name: name.to_owned(), scopes, expires_in: None };
    let created = broker.admin.create_token(Some("home"), &new).await.unwrap();
    (created.id, created.token)
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorCode {
    let Err(Error::Problem(problem)) = outcome else { panic!("not refused: {outcome:?}") };
    problem.code
}

const KEYS: &str = "/api/v1/accounts/home/join-keys";

#[tokio::test]
async fn a_request_whose_connection_broke_is_done_once() {
    let (_folder, broker) = broker().await;
    let (_, token) = token(&broker, "script", &[Scope::JoinKeysWrite]).await;
    let link = broker.reusable("home").await;
    let client = Client::connect(&link).await.unwrap().with_token(&token);
    let before = broker.admin.join_keys("home").await.unwrap().len();
    for n in 0..20 {
        let mut stream = raw(&link).await;
        let request = format!(
            "POST {KEYS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nidempotency-key: \
             k{n}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        let again = async || {
            let headers = [("idempotency-key", format!("k{n}"))];
            let body = Bytes::from_static(b"{}");
            let answer = client.request(Method::POST, KEYS, &headers, body).await.unwrap();
            answer.status()
        };
        until("the answer", async || again().await == StatusCode::CREATED).await;
        assert_eq!(again().await, StatusCode::CREATED);
    }
    assert_eq!(broker.admin.join_keys("home").await.unwrap().len(), before + 20);
    broker.stop().await;
}

#[tokio::test]
async fn a_token_that_is_deleted_while_a_request_arrives_does_nothing_more() {
    let (_folder, broker) = broker().await;
    let (id, token) = token(&broker, "script", &[Scope::JoinKeysWrite]).await;
    let mut stream = raw(&broker.reusable("home").await).await;
    let before = broker.admin.join_keys("home").await.unwrap().len();
    let head = format!(
        "POST {KEYS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 2\r\n\
         expect: 100-continue\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    // The broker asks for the body once it has let the token in.
    within("'continue'", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    broker.admin.remove_token(Some("home"), id).await.unwrap();
    stream.write_all(b"{}").await.unwrap();
    let mut rest = Vec::new();
    let _ = within("an answer", stream.read_to_end(&mut rest)).await;
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("HTTP/1.1 401"), "{rest}");
    assert_eq!(broker.admin.join_keys("home").await.unwrap().len(), before);
    broker.stop().await;
}

#[tokio::test]
async fn an_open_invitation_takes_no_address_that_the_policy_names() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let policy = "[[rules]]\nfrom = 'user:carol@example.org'\nto = '*'\n";
    broker.admin.set_policy("home", policy, None).await.unwrap();
    let nobody = |role| NewInvitation { role, email: None, expires_in: None, mail: false };
    assert_eq!(code(broker.admin.invite("home", &nobody(Role::Admin)).await), ErrorCode::Invalid);
    let users = ada.get("/a/home/users").await;
    let made = ada.submit(&users, "/a/home/users", &[("email", ""), ("role", "member")]).await;
    let link = made.value("data-copy=\"").unwrap();
    let (_, secret) = link.split_once('#').unwrap();
    let mut stranger = Person::stranger(&broker).await;
    let asked = stranger.get("/invitation").await;
    let form = stranger.submit(&asked, "/invitation", &[("secret", secret)]).await;
    let come = async |stranger: &mut Person, email: &str| {
        let fields = [("secret", secret), ("name", "X"), ("email", email), ("password", PASSWORD)];
        stranger.submit(&form, "/invitation/new", &fields).await.status
    };
    assert_eq!(
        come(&mut stranger, "carol@example.org").await,
        StatusCode::UNPROCESSABLE_ENTITY,
        "she has rights of her own"
    );
    assert_eq!(come(&mut stranger, "dave@example.org").await, StatusCode::SEE_OTHER);
    broker.stop().await;
}

#[tokio::test]
async fn nothing_gets_a_name_that_reads_as_an_id() {
    let (_folder, broker) = broker().await;
    for name in ["nas", "evil"] {
        broker.device("home", name).await;
    }
    let id = broker.admin.device("home", "nas").await.unwrap().id;
    let change = DeviceChange { name: Some(id.to_string()), ..DeviceChange::default() };
    assert_eq!(code(broker.admin.change_device("home", "evil", &change).await), ErrorCode::Invalid);
    let joined = broker.device("home", &id.to_string()).await;
    let found = broker.admin.device("home", &id.to_string()).await.unwrap();
    assert_eq!((found.id, found.name.as_str()), (id, "nas"));
    assert_ne!(joined.registered.device, id);
    let home = broker.admin.account("home").await.unwrap().id;
    let new = NewAccount { name: home.to_string().parse().unwrap(), ipv4_range: None };
    assert_eq!(code(broker.admin.create_account(&new).await), ErrorCode::Invalid);
    broker.stop().await;
}

#[tokio::test]
async fn how_long_activity_is_kept_is_an_owners_to_say() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut bob = Person::invited(&broker, &mut ada, "home", "admin", "bob@example.org").await;
    let keep = "/a/home/activity/keep";
    let page = ada.get("/a/home/activity").await;
    assert!(page.token(keep).is_some());
    assert_eq!(bob.get("/a/home/activity").await.token(keep), None);
    let (_, token) = token(&broker, "script", &[Scope::AccountRead, Scope::SettingsWrite]).await;
    let client = Client::connect(&broker.reusable("home").await).await.unwrap().with_token(&token);
    let patch = async |change: serde_json::Value| {
        let body = serde_json::to_vec(&change).unwrap();
        client.call(Method::PATCH, "/api/v1/accounts/home", body).await.status
    };
    assert_eq!(patch(json!({ "activity_days": 30 })).await, StatusCode::FORBIDDEN);
    assert_eq!(patch(json!({ "key_expiry_days": 90 })).await, StatusCode::OK);
    let change = AccountChange { activity_days: Some(Some(30)), ..AccountChange::default() };
    broker.admin.change_account("home", &change).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_policy_is_saved_so_often_and_then_one_waits() {
    let (_folder, broker) = broker().await;
    let mut saved = 0;
    let refused = loop {
        let policy = format!("# {saved}\n");
        match broker.admin.set_policy("home", &policy, None).await {
            Ok(_) => saved += 1,
            Err(error) => break code(Err::<(), _>(error)),
        }
        assert!(saved < 200, "without end");
    };
    assert_eq!(refused, ErrorCode::RateLimited);
    assert!(saved >= 60, "{saved}");
    broker.stop().await;
}

/// RFC 6238, for the secret as a page shows it.
fn totp(secret: &str, step: u64) -> String {
    let (mut bits, mut held, mut key) = (0u64, 0, Vec::new());
    for letter in secret.bytes() {
        let value = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".bytes().position(|it| it == letter).unwrap();
        (bits, held) = (bits << 5 | value as u64, held + 5);
        if held >= 8 {
            held -= 8;
            key.push((bits >> held) as u8);
        }
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let offset = usize::from(tag.as_ref()[19] & 15);
    let number = u32::from_be_bytes(tag.as_ref()[offset..offset + 4].try_into().unwrap());
    format!("{:06}", (number & 0x7fff_ffff) % 1_000_000)
}

#[tokio::test]
async fn whoever_finds_a_browser_open_changes_no_second_factor() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let has_factor = async || broker.admin.user("ada@example.org").await.unwrap().has_second_factor;
    let page = ada.get("/profile/totp").await;
    let secret = page.value("data-copy=\"").unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 30;
    let code = totp(&secret, now);
    for password in ["", "wrong password"] {
        let fields = [("code", code.as_str()), ("confirm", password)];
        let refused = ada.submit(&page, "/profile/totp", &fields).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{password}");
        assert!(!has_factor().await);
    }
    let fields = [("code", code.as_str()), ("confirm", PASSWORD)];
    let codes = ada.submit(&page, "/profile/totp", &fields).await;
    assert!(has_factor().await && codes.text.contains("recovery codes"), "{}", codes.text);

    let page = ada.get("/profile").await;
    let form = "/profile/recovery-codes";
    let refused = ada.submit(&page, form, &[("confirm", "wrong password")]).await;
    assert_eq!(refused.status, StatusCode::SEE_OTHER, "no codes");
    let codes = ada.submit(&page, form, &[("confirm", PASSWORD)]).await;
    assert_eq!(codes.status, StatusCode::OK, "{}", codes.text);
    broker.stop().await;
}
