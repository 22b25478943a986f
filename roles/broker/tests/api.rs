//! The API over HTTPS, as the holder of an API token has it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use common::client::{Answer, Client};
use common::{TestBroker, broker, within};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use warren_broker::admin::{Device, NewAccount, NewApiToken, NewRelay, NewUser, Role, Scope, User};
use warren_proto::ErrorCode;

/// A connection whose holder may this, of an account or (`None`) of the broker.
async fn holder(broker: &TestBroker, account: Option<&str>, scopes: &[Scope]) -> Client {
    let scopes: BTreeSet<Scope> = scopes.iter().copied().collect();
    let new = NewApiToken { name: "test".to_owned(), scopes, expires_in: None };
    let created = broker.admin.create_token(account, &new).await.unwrap();
    let link = broker.reusable("home").await;
    Client::connect(&link).await.unwrap().with_token(&created.token)
}

async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Answer {
    client.call(method, path, serde_json::to_vec(body).unwrap()).await
}

/// All operations with their scopes, as the API itself describes them; parameters are filled in.
async fn described(client: &Client, fill: impl Fn(&str) -> String) -> Vec<(Method, String, Value)> {
    let document: Value = client.get("/api/v1/openapi.json").await.json();
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let filled: Vec<String> = path
            .split('/')
            .map(|part| match part.strip_prefix('{') {
                Some(name) => fill(name.trim_end_matches('}')),
                None => part.to_owned(),
            })
            .collect();
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            all.push((method, filled.join("/"), operation.clone()));
        }
    }
    assert!(all.len() > 40, "{}", all.len());
    all
}

#[tokio::test]
async fn without_a_good_token_nothing_is_told() {
    let (_folder, broker) = broker().await;
    let link = broker.reusable("home").await;
    let stranger = Client::connect(&link).await.unwrap();
    for client in [stranger.clone(), stranger.with_token("warren_nonsense")] {
        for (method, path, _) in described(&client, |_| "home".to_owned()).await {
            let refused = send(&client, method.clone(), &path, &json!({})).await;
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(refused.headers["www-authenticate"], "Bearer realm=\"warren\"");
            assert_eq!(refused.problem().code, ErrorCode::SignInRequired);
        }
    }
    // A device's own token is none.
    let device = broker.device("home", "nas").await;
    let refused = device.client.get("/api/v1/accounts/home/devices").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    broker.stop().await;
}

#[tokio::test]
async fn every_answer_is_one_that_the_description_has() {
    let (_folder, broker) = broker().await;
    broker.device("home", "nas").await;
    let operator = holder(&broker, None, &[Scope::BrokerRead, Scope::BrokerWrite]).await;
    let scopes: Vec<Scope> = Scope::ALL.into_iter().filter(|it| !it.is_broker_wide()).collect();
    let member = holder(&broker, Some("home"), &scopes).await;
    const QUERY: &str = "?account=&limit=0&cursor=x&since=&from=nas";
    // The stream has no end; a backup is long, and a restored broker is another one.
    let left_out = ["/events", "/backup", "/restore"];
    for client in [operator, member] {
        for fill in ["nas", "a%20b"] {
            let named = |name: &str| if name == "account" { "home" } else { fill }.to_owned();
            for (method, path, operation) in described(&client, named).await {
                let deletes_all = method == Method::DELETE && path.ends_with("/accounts/home");
                if deletes_all || left_out.iter().any(|end| path.ends_with(end)) {
                    continue;
                }
                let asks = method == Method::GET;
                for (query, body) in [("", json!({})), (QUERY, json!([]))] {
                    let path = format!("{path}{}", if asks { query } else { "" });
                    let mut answer = send(&client, method.clone(), &path, &body).await;
                    while answer.status == StatusCode::TOO_MANY_REQUESTS {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        answer = send(&client, method.clone(), &path, &body).await;
                    }
                    let status = answer.status.as_str();
                    let documented = operation["responses"].get(status).is_some();
                    assert!(documented, "{method} {path} {body}: {status}");
                }
            }
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_until_it_is_deleted() {
    let (_folder, broker) = broker().await;
    broker.device("home", "nas").await;
    let reader = holder(&broker, Some("home"), &[Scope::AccountRead]).await;
    let devices: Vec<Device> = reader.get("/api/v1/accounts/home/devices").await.json();
    assert_eq!(devices[0].name.as_str(), "nas");
    let path = "/api/v1/accounts/home/devices/nas";
    let rename = json!({ "name": "Attic NAS" });
    let refused = send(&reader, Method::PATCH, path, &rename).await;
    assert_eq!(refused.problem().code, ErrorCode::Forbidden);

    let writer = holder(&broker, Some("home"), &[Scope::DevicesWrite]).await;
    let renamed: Device = send(&writer, Method::PATCH, path, &rename).await.json();
    assert_eq!(renamed.name.as_str(), "attic-nas");
    assert_eq!(writer.get("/api/v1/accounts").await.json::<Vec<Value>>(), Vec::<Value>::new());

    let tokens = broker.admin.tokens(Some("home")).await.unwrap();
    let token = tokens.iter().find(|it| it.scopes.contains(&Scope::AccountRead)).unwrap();
    assert!(token.last_used.is_some(), "{token:?}");
    broker.admin.remove_token(Some("home"), token.id).await.unwrap();
    let refused = reader.get("/api/v1/accounts/home/devices").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "the stolen token is worthless");
    broker.stop().await;
}

/// Every operation for somebody with all rights in another account, and for somebody with none.
#[tokio::test]
async fn no_operation_reaches_into_another_account() {
    let (_folder, broker) = broker().await;
    broker.device("home", "nas").await;
    let other = NewAccount { name: "other".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&other).await.unwrap();
    let all: Vec<Scope> = Scope::ALL.into_iter().filter(|it| !it.is_broker_wide()).collect();
    let eve = holder(&broker, Some("other"), &all).await;
    let device = broker.admin.device("home", "nas").await.unwrap().id;
    let key = broker.admin.join_keys("home").await.unwrap()[0].id;
    let new = NewRelay { name: "frankfurt".parse().unwrap() };
    let relay = broker.admin.create_relay(Some("home"), &new).await.unwrap().id;
    let fill = |name: &str| match name {
        "account" => "home".to_owned(),
        "device" => device.to_string(),
        "key" => key.to_string(),
        "relay" => relay.to_string(),
        _ => "ada@example.org".to_owned(),
    };
    let before = broker.admin.devices("home").await.unwrap();
    for (method, path, operation) in described(&eve, fill).await {
        let answer = send(&eve, method.clone(), &path, &json!({})).await;
        let expected = match path.as_str() {
            "/api/v1/accounts" if method == Method::GET => StatusCode::OK,
            path if path.contains("/accounts/home") => StatusCode::NOT_FOUND,
            _ => StatusCode::FORBIDDEN,
        };
        assert_eq!(answer.status, expected, "{method} {path}: {operation}");
        if expected == StatusCode::OK {
            assert!(!String::from_utf8_lossy(&answer.body).contains("home"), "{answer:?}");
        }
    }
    // An account that there isn't is answered in the very words.
    let there = eve.get("/api/v1/accounts/home/devices").await;
    let nowhere = eve.get("/api/v1/accounts/nowhere/devices").await;
    assert_eq!((there.status, there.body), (nowhere.status, nowhere.body));
    let after = broker.admin.devices("home").await.unwrap();
    assert_eq!(before.len(), after.len());
    broker.stop().await;
}

#[tokio::test]
async fn an_accounts_token_sees_its_members_and_nobody_elses() {
    let (_folder, broker) = broker().await;
    let other = NewAccount { name: "other".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&other).await.unwrap();
    for (email, accounts) in
        [("ada@example.org", &["home", "other"][..]), ("eve@example.org", &["other"])]
    {
        let new = NewUser { email: email.parse().unwrap(), name: String::new(), operator: false };
        broker.admin.create_user(&new).await.unwrap();
        for account in accounts {
            broker.admin.set_role(account, email, Role::Owner).await.unwrap();
        }
    }
    let home = holder(&broker, Some("home"), &[Scope::PeopleRead, Scope::PeopleWrite]).await;
    let members: Vec<User> = home.get("/api/v1/accounts/home/members").await.json();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].accounts.len(), 1, "in which other accounts he is, isn't told");
    for user in ["eve@example.org", "nobody@example.org"] {
        let path = format!("/api/v1/accounts/home/members/{user}");
        let refused = send(&home, Method::PUT, &path, &json!({ "role": "member" })).await;
        assert_eq!(refused.status, StatusCode::NOT_FOUND);
        assert_eq!(refused.problem().title, "there is no such user");
    }
    // Owners are made and unmade by owners, not by tokens.
    let path = "/api/v1/accounts/home/members/ada@example.org";
    let refused = send(&home, Method::PUT, path, &json!({ "role": "admin" })).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let invite = json!({ "role": "owner" });
    let refused = send(&home, Method::POST, "/api/v1/accounts/home/invitations", &invite).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    broker.stop().await;
}

#[tokio::test]
async fn a_repeated_request_does_nothing_again() {
    let (_folder, broker) = broker().await;
    let client = holder(&broker, Some("home"), &[Scope::JoinKeysWrite]).await;
    let path = "/api/v1/accounts/home/join-keys";
    let before = broker.admin.join_keys("home").await.unwrap().len();
    let make = async |key: &str, body: &Value| {
        let headers = [("idempotency-key", key.to_owned())];
        let body = Bytes::from(serde_json::to_vec(body).unwrap());
        let response = client.request(Method::POST, path, &headers, body).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    };
    let (first, made) = make("k1", &json!({ "reusable": true })).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let (second, again) = make("k1", &json!({ "reusable": true })).await;
    assert_eq!((second.status, &again), (StatusCode::CREATED, &made));
    assert_eq!(second.headers["idempotent-replayed"], "true");
    let (other, _) = make("k1", &json!({ "reusable": false })).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    let (new, fresh) = make("k2", &json!({ "reusable": true })).await;
    assert_eq!(new.status, StatusCode::CREATED);
    assert_ne!(fresh, made);
    let after = broker.admin.join_keys("home").await.unwrap().len();
    assert_eq!(after, before + 2);
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again_and_lists_come_in_pages() {
    let (_folder, broker) = broker().await;
    let link = broker.reusable("home").await;
    for name in ["a", "b", "c"] {
        common::Device::join(&link, name).await;
    }
    let client = holder(&broker, Some("home"), &[Scope::AccountRead]).await;
    let mut path = "/api/v1/accounts/home/devices?limit=2".to_owned();
    let mut names = Vec::new();
    for _ in 0..2 {
        let page = client.get(&path).await;
        names.extend(page.json::<Vec<Device>>().into_iter().map(|it| it.name.to_string()));
        if let Some(link) = page.headers.get("link") {
            let next = link.to_str().unwrap().split(['<', '>']).nth(1).unwrap();
            path = format!("/api/v1/accounts/home/devices{next}");
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    let first = client.get("/api/v1/accounts/home").await;
    let headers = [("if-none-match", first.headers["etag"].to_str().unwrap().to_owned())];
    let known =
        client.request(Method::GET, "/api/v1/accounts/home", &headers, Bytes::new()).await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    for path in ["?limit=0", "?limit=x", "?cursor=%25"] {
        let refused = client.get(&format!("/api/v1/accounts/home/devices{path}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        refused.problem();
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_stream_tells_of_devices_as_they_come_and_go() {
    let (_folder, broker) = broker().await;
    broker.device("home", "nas").await;
    let client = holder(&broker, Some("home"), &[Scope::AccountRead]).await;
    let path = "/api/v1/accounts/home/events";
    let response = client.request(Method::GET, path, &[], Bytes::new()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut told = String::new();
    let mut wait = async |what: &str| {
        within(what, async {
            while !told.contains(what) {
                let frame = body.frame().await.unwrap().unwrap();
                told.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
            }
        })
        .await;
        told.clear();
    };
    wait("event: devices\n").await;
    let late = broker.device("home", "late").await;
    wait("event: device.added\n").await;
    let _events = late.client.events(None).await;
    wait("event: device.online\n").await;
    broker.admin.remove_device("home", "late").await.unwrap();
    wait("event: device.removed\n").await;
    let token = broker.admin.tokens(Some("home")).await.unwrap()[0].id;
    broker.admin.remove_token(Some("home"), token).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(Ok(_)) = body.frame().await {}
    });
    ended.await.expect("the stream ends with its token");
    broker.stop().await;
}

#[tokio::test]
async fn an_operators_token_runs_the_broker_but_makes_no_backup() {
    let (_folder, broker) = broker().await;
    let client = holder(&broker, None, &[Scope::BrokerRead, Scope::BrokerWrite]).await;
    let made = send(&client, Method::POST, "/api/v1/accounts", &json!({ "name": "shop" })).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let metrics = client.get("/api/v1/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(text.contains("warren_devices{account=\"shop\"} 0"), "{text}");
    assert!(text.contains("warren_accounts 2"), "{text}");
    for path in ["/api/v1/backup", "/api/v1/tokens", "/api/v1/pins/prepare"] {
        let refused = send(&client, Method::POST, path, &json!({})).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path}");
    }
    let wrong = client.call(Method::PUT, "/api/v1/status", "").await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    let unknown = client.get("/api/v1/nothing").await;
    assert_eq!(unknown.problem().code, ErrorCode::NotFound);
    broker.stop().await;
}

#[tokio::test]
async fn a_token_that_is_used_too_often_is_slowed() {
    let (_folder, broker) = broker().await;
    let client = holder(&broker, Some("home"), &[Scope::AccountRead]).await;
    let mut last = StatusCode::OK;
    for _ in 0..2_000 {
        last = client.get("/api/v1/accounts/home").await.status;
        if last != StatusCode::OK {
            break;
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    broker.stop().await;
}
