//! Who is let into the mesh and stays there, over the node's protocol and the API.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeSet;

use common::client::{Client, Events};
use common::{TestBroker, broker, new_secret, within};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use warren_broker::admin::{AccountChange, NewApiToken, NewJoinKey, Scope};
use warren_proto::{Admission, ErrorCode, Netmap, SessionEvent};

async fn set(broker: &TestBroker, change: AccountChange) {
    broker.admin.change_account("home", &change).await.unwrap();
}

fn approval() -> AccountChange {
    AccountChange { device_approval: Some(true), ..AccountChange::default() }
}

fn suspension(on: bool) -> AccountChange {
    AccountChange { suspended: Some(on), ..AccountChange::default() }
}

/// The next whole map of a stream.
async fn whole_map(events: &mut Events) -> Netmap {
    within("a whole map", async {
        loop {
            if let Some(SessionEvent::Netmap(map)) = events.event().await {
                return *map;
            }
        }
    })
    .await
}

async fn token(broker: &TestBroker, account: Option<&str>, scopes: &[Scope]) -> Client {
    let scopes: BTreeSet<Scope> = scopes.iter().copied().collect();
    let new = NewApiToken { name: "test".to_owned(), scopes, expires_in: None };
    let created = broker.admin.create_token(account, &new).await.unwrap();
    let link = broker.reusable("home").await;
    Client::connect(&link).await.unwrap().with_token(&created.token)
}

#[tokio::test]
async fn a_device_that_waits_is_connected_and_is_in_the_mesh_without_coming_back() {
    let (_folder, broker) = broker().await;
    let left = broker.device("home", "left").await;
    set(&broker, approval()).await;
    let pi = broker.device("home", "pi").await;
    let mut events = pi.client.events(None).await;
    let map = whole_map(&mut events).await;
    assert_eq!((map.this.name.as_str(), map.this.admission), ("pi", Admission::Waiting));
    assert!(map.peers.is_empty() && map.relays.is_empty());
    let account = broker.admin.account("home").await.unwrap();
    assert_eq!((account.devices, account.waiting), (2, 1));

    let api = token(&broker, Some("home"), &[Scope::AccountRead, Scope::DevicesWrite]).await;
    let path = "/api/v1/accounts/home/devices/pi/approve";
    let approved = api.call(Method::POST, path, Vec::new()).await;
    assert_eq!(approved.status, StatusCode::OK, "{approved:?}");
    assert_eq!(approved.json::<Value>()["admission"], "member");
    let map = whole_map(&mut events).await;
    assert_eq!((map.this.admission, map.peers.len()), (Admission::Member, 1));
    let theirs: Netmap = left.client.get("/v1/node/netmap").await.json();
    assert_eq!(theirs.peers.len(), 1);

    let link = broker.link("home", NewJoinKey { approves: true, ..NewJoinKey::default() }).await;
    let let_in = common::Device::join(&link, "known").await;
    let map: Netmap = let_in.client.get("/v1/node/netmap").await.json();
    assert_eq!(map.this.admission, Admission::Member, "its link says so");
    broker.stop().await;
}

#[tokio::test]
async fn settings_of_an_account_are_its_admins_and_limits_the_operators() {
    let (_folder, broker) = broker().await;
    let api = token(&broker, Some("home"), &[Scope::SettingsWrite]).await;
    let patch = async |body: Value| {
        api.call(Method::PATCH, "/api/v1/accounts/home", serde_json::to_vec(&body).unwrap()).await
    };
    let set = patch(json!({ "device_approval": true, "key_expiry_days": 90 })).await;
    assert_eq!(set.status, StatusCode::OK, "{set:?}");
    assert_eq!(set.json::<Value>()["key_expiry_days"], 90);
    let never = patch(json!({ "key_expiry_days": null })).await;
    assert_eq!(never.json::<Value>()["key_expiry_days"], Value::Null);
    for body in
        [json!({ "suspended": false }), json!({ "max_devices": 9 }), json!({ "max_users": 9 })]
    {
        assert_eq!(patch(body.clone()).await.status, StatusCode::FORBIDDEN, "{body}");
    }
    assert_eq!(patch(json!({ "key_expiry_days": 0 })).await.status, StatusCode::BAD_REQUEST);
    broker.stop().await;
}

#[tokio::test]
async fn a_suspended_account_refuses_its_tokens_and_keeps_the_operators() {
    let (_folder, broker) = broker().await;
    let own = token(&broker, Some("home"), &[Scope::AccountRead]).await;
    let above = token(&broker, None, &[Scope::AccountRead, Scope::BrokerRead]).await;
    let path = "/api/v1/accounts/home/devices";
    assert_eq!(own.get(path).await.status, StatusCode::OK);
    set(&broker, suspension(true)).await;
    let refused = own.get(path).await;
    assert_eq!(
        (refused.status, refused.problem().code),
        (StatusCode::FORBIDDEN, ErrorCode::Suspended)
    );
    assert!(refused.problem().title.contains("operator"));
    assert_eq!(above.get(path).await.status, StatusCode::OK);
    let link = broker.link("home", NewJoinKey::default()).await;
    let client = Client::connect(&link).await.unwrap();
    let joining = client.register(&new_secret(), &link.key, "late").await;
    assert_eq!(joining.problem().code, ErrorCode::Suspended);
    set(&broker, suspension(false)).await;
    assert_eq!(own.get(path).await.status, StatusCode::OK);
    client.join(&new_secret(), &link.key, "late").await;
    broker.stop().await;
}
