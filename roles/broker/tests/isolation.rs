//! Two accounts of one broker never learn of each other, whatever one of them asks.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use bytes::Bytes;
use common::{Device, TestBroker, broker, within};
use http::{Method, StatusCode};
use warren_broker::admin::{DeviceChange, Error, NewAccount, WhyQuery};
use warren_proto::{
    Change, CheckIn, CheckInState, ConnectRequest, DeviceId, Endpoint, EndpointKind, ErrorCode,
    NatReport, Netmap, SessionEvent,
};

async fn two_accounts() -> (tempfile::TempDir, TestBroker, Device, Device) {
    let (folder, broker) = broker().await;
    let new = NewAccount { name: "work".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&new).await.unwrap();
    let home = broker.device("home", "laptop").await;
    let work = broker.device("work", "laptop").await;
    (folder, broker, home, work)
}

#[tokio::test]
async fn each_account_has_its_own_names_and_ranges() {
    let (_folder, broker, home, work) = two_accounts().await;
    let home_map: Netmap = home.client.get("/v1/node/netmap").await.json();
    let work_map: Netmap = work.client.get("/v1/node/netmap").await.json();
    assert_eq!(home_map.this.name, work_map.this.name, "names are unique per account only");
    assert_ne!(home_map.ipv4_range, work_map.ipv4_range);
    assert_ne!(home_map.ipv6_range, work_map.ipv6_range);
    assert_eq!(work_map.dns.domain, "work.warren.internal");
    assert!(home_map.peers.is_empty() && work_map.peers.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn another_accounts_device_is_as_unknown_as_one_that_does_not_exist() {
    let (_folder, broker, home, work) = two_accounts().await;
    let _session = work.client.events(None).await;
    let ask = |peer| ConnectRequest {
        peer,
        endpoints: Vec::new(),
        nat: NatReport::default(),
        relay: None,
    };
    let foreign = home.client.post("/v1/node/connect", &ask(work.registered.device)).await;
    let nobody = home.client.post("/v1/node/connect", &ask(DeviceId(12345))).await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    assert_eq!(foreign.body, nobody.body, "not even the words differ");
    broker.stop().await;
}

#[tokio::test]
async fn a_stream_carries_nothing_of_another_account() {
    let (_folder, broker, home, work) = two_accounts().await;
    let mut events = home.client.events(None).await;
    let Some(SessionEvent::Netmap(map)) = within("the map", events.event()).await else {
        panic!("a session begins with the map")
    };
    let _work_session = work.client.events(None).await;
    let endpoints =
        vec![Endpoint { addr: "203.0.113.66:6666".parse().unwrap(), kind: EndpointKind::Host }];
    let state = CheckInState { endpoints, ..CheckInState::default() };
    work.client.post("/v1/node/check-in", &CheckIn { state: Some(state) }).await;
    broker.device("work", "second").await;
    let change = DeviceChange { name: Some("renamed".to_owned()), ..DeviceChange::default() };
    broker.admin.change_device("work", "laptop", &change).await.unwrap();

    let own = broker.device("home", "desktop").await;
    match within("our own change", events.event()).await.unwrap() {
        SessionEvent::Delta(delta) => {
            assert_eq!(delta.base, map.version, "foreign changes don't even count");
            let ids: Vec<DeviceId> = delta
                .changes
                .iter()
                .map(|change| match change {
                    Change::Peer { peer } => peer.id,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(ids, [own.registered.device]);
        }
        other => panic!("{other:?}"),
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_version_of_another_account_resumes_nothing() {
    let (_folder, broker, home, mut work) = two_accounts().await;
    let foreign: Netmap = home.client.get("/v1/node/netmap").await.json();
    work.reconnect().await;
    let mut events = work.client.events(Some(foreign.version.to_string())).await;
    match within("an event", events.event()).await.unwrap() {
        SessionEvent::Netmap(map) => {
            assert_eq!(map.account, work.registered.account);
            assert!(map.peers.is_empty());
        }
        // Both accounts may be at one and the same version: then nothing is sent at all.
        SessionEvent::Current(version) => assert_eq!(version, foreign.version),
        other => panic!("{other:?}"),
    }
    broker.stop().await;
}

#[tokio::test]
async fn logging_out_ends_only_ones_own_device() {
    let (_folder, broker, home, work) = two_accounts().await;
    let answer = home.client.call(Method::POST, "/v1/node/logout", Bytes::new()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(work.client.get("/v1/node/netmap").await.status, StatusCode::OK);
    broker.stop().await;
}

#[tokio::test]
async fn an_account_named_in_the_admin_api_bounds_what_is_found() {
    let (_folder, broker, home, work) = two_accounts().await;
    let foreign = work.registered.device.to_string();
    let admin = &broker.admin;
    let not_found = |error: Error| match error {
        Error::Problem(problem) => assert_eq!(problem.code, ErrorCode::NotFound, "{problem:?}"),
        other => panic!("{other}"),
    };
    not_found(admin.device("home", &foreign).await.unwrap_err());
    not_found(admin.expire_device("home", &foreign).await.unwrap_err());
    not_found(admin.remove_device("home", &foreign).await.unwrap_err());
    let change = DeviceChange { name: Some("x".to_owned()), ..DeviceChange::default() };
    not_found(admin.change_device("home", &foreign, &change).await.unwrap_err());
    let key = admin.join_keys("work").await.unwrap()[0].id;
    not_found(admin.remove_join_key("home", key).await.unwrap_err());
    not_found(admin.devices("nobody").await.unwrap_err());
    assert_eq!(admin.devices("home").await.unwrap().len(), 1);
    assert_eq!(admin.devices("work").await.unwrap().len(), 1);
    assert_eq!(admin.devices("home").await.unwrap()[0].id, home.registered.device);
    broker.stop().await;
}

#[tokio::test]
async fn nobody_hides_another_by_a_name_like_its_id() {
    let (_folder, broker, home, _work) = two_accounts().await;
    let admin = &broker.admin;
    let id = home.registered.device;
    let impostor = broker.device("home", &id.to_string()).await;
    let found = admin.device("home", &id.to_string()).await.unwrap();
    assert_eq!((found.id, found.name.as_str()), (id, "laptop"));
    let account = home.registered.account;
    let new = NewAccount { name: account.to_string().parse().unwrap(), ipv4_range: None };
    let refused = admin.create_account(&new).await.unwrap_err().to_string();
    assert!(refused.contains("are an id, not a name"), "{refused}");
    assert_ne!(impostor.registered.device, id);
    broker.stop().await;
}

#[tokio::test]
async fn a_policy_reaches_and_knows_its_own_account_alone() {
    let (_folder, broker, home, work) = two_accounts().await;
    let admin = &broker.admin;
    let secret = broker.device("work", "secret").await;
    let theirs = "[[rules]]\nfrom = '*'\nto = 'device:secret'\n";
    let nobodys = "[[rules]]\nfrom = '*'\nto = 'device:nobody'\n";
    let said = admin.check_policy("home", theirs).await.unwrap();
    let unsaid = admin.check_policy("home", nobodys).await.unwrap();
    assert_eq!(said.problems[0].message.replace("secret", "nobody"), unsaid.problems[0].message);
    assert_eq!(said.difference, unsaid.difference);

    admin.set_policy("home", theirs, None).await.unwrap();
    assert_eq!(admin.policy("work").await.unwrap().version, 0);
    let map: Netmap = home.client.get("/v1/node/netmap").await.json();
    assert!(map.peers.is_empty());
    let map: Netmap = work.client.get("/v1/node/netmap").await.json();
    let seen: Vec<DeviceId> = map.peers.iter().map(|peer| peer.id).collect();
    assert_eq!(seen, [secret.registered.device], "theirs goes on as it was");
    let from = home.registered.device.to_string();
    let ask = WhyQuery { from, to: secret.registered.device.to_string(), port: None };
    let Err(Error::Problem(problem)) = admin.why("home", &ask).await else { panic!("{ask:?}") };
    assert_eq!(problem.code, ErrorCode::NotFound);
    broker.stop().await;
}
