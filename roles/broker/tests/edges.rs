//! Edges, as the edge itself asks for changes of them, and as an operator sees it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Device, TestBroker, broker, until};
use http::{Method, StatusCode};
use serde_json::json;
use warren_broker::admin::{ActivityQuery, EdgeEdit};
use warren_proto::{EdgeChanged, EdgeSpec, ErrorCode, Netmap};

async fn map(device: &Device) -> Netmap {
    device.client.get("/v1/node/netmap").await.json()
}

async fn is_enabled(broker: &TestBroker, enabled: bool) -> bool {
    broker.admin.edge("home", "site").await.unwrap().enabled == enabled
}

#[tokio::test]
async fn a_device_is_asked_to_be_an_edge_and_that_is_said() {
    let (_folder, broker) = broker().await;
    let site = broker.device("home", "site").await;
    for asked in [true, false] {
        let edit = EdgeEdit { asked: Some(asked) };
        let edge = broker.admin.change_edge("home", "site", &edit).await.unwrap();
        assert_eq!((edge.asked, edge.enabled), (asked, false));
        assert_eq!(map(&site).await.edge_asked, asked);
    }
    let nothing = broker.admin.change_edge("home", "site", &EdgeEdit::default()).await.unwrap();
    assert!(!nothing.asked);
    let entries = broker.admin.activity(&ActivityQuery::default()).await.unwrap().entries;
    let said: Vec<&str> = entries
        .iter()
        .map(|entry| entry.action.as_str())
        .filter(|action| action.starts_with("edge."))
        .collect();
    assert_eq!(said, ["edge.unasked", "edge.asked"]);
}

#[tokio::test]
async fn an_edge_rules_what_it_opens_and_an_operator_sees_it() {
    let (_folder, broker) = broker().await;
    let site = broker.device("home", "site").await;
    let laptop = broker.device("home", "laptop").await;
    let state = json!({ "endpoints": [], "capabilities": ["edge"], "edge": {
        "scanned_unix": 1_800_000_000, "devices": 3, "problems": ["nothing\u{7} works"],
        "networks": ["192.168.1.2/24"] } });
    site.client.post("/v1/node/check-in", &state).await;

    let new = json!({ "change": "add-virtual-device", "name": "camera",
        "target": { "ip": "192.168.1.9", "mac": "3c:52:82:01:02:03" } });
    let answer = site.client.post("/v1/node/edge", &new).await;
    let EdgeChanged::VirtualDevice(camera) = answer.json() else { panic!("{answer:?}") };
    let forward = json!({ "change": "add-forward", "protocol": "tcp", "port": 8080,
        "target": { "ip": "192.168.1.9" }, "target_port": 80 });
    site.client.post("/v1/node/edge", &forward).await;
    let again = site.client.post("/v1/node/edge", &forward).await;
    assert_eq!((again.status, again.problem().code), (StatusCode::CONFLICT, ErrorCode::Conflict));
    let reserved = json!({ "change": "add-forward", "protocol": "tcp", "port": 80,
        "target": { "ip": "192.168.1.9" } });
    let refused = site.client.post("/v1/node/edge", &reserved).await;
    assert_eq!(
        (refused.status, refused.problem().code),
        (StatusCode::BAD_REQUEST, ErrorCode::Invalid)
    );
    let newer = json!({ "change": "add-gateway", "lan": "10.1.2.0/24", "only_on": "mondays" });
    let newer = site.client.post("/v1/node/edge", &newer).await;
    assert_eq!(newer.status, StatusCode::BAD_REQUEST, "not by halves");
    let spec: EdgeSpec = site.client.get("/v1/node/edge").await.json();
    assert_eq!((spec.forwards.len(), spec.virtual_devices.len()), (1, 1));

    until("the edge is one", || is_enabled(&broker, true)).await;
    let duty = map(&site).await.edge.unwrap();
    assert_eq!(duty.virtual_devices[0].ipv4, camera.ipv4);
    let seen = map(&laptop).await.peers.into_iter().find(|peer| peer.edge.is_some()).unwrap();
    assert_eq!(seen.edge.unwrap().virtual_devices[0].name.as_str(), "camera");
    assert!(map(&laptop).await.edge.is_none());

    let edges = broker.admin.edges("home").await.unwrap();
    assert_eq!(edges.len(), 1);
    assert!(edges[0].enabled && edges[0].found == 3);
    assert_eq!(edges[0].problems, ["nothing works"]);
    assert_eq!(edges[0].networks, ["192.168.1.0/24".parse().unwrap()]);
    let forwards = broker.admin.forwards("home", "site").await.unwrap();
    assert_eq!((forwards[0].name.as_str(), forwards[0].target_port), ("port 8080", 80));

    let id = forwards[0].id;
    let answer = site
        .client
        .call(
            Method::POST,
            "/v1/node/edge",
            format!(r#"{{"change":"remove-forward","id":"{id}"}}"#),
        )
        .await;
    assert_eq!(answer.json::<EdgeChanged>(), EdgeChanged::Removed);
    let entries = broker.admin.activity(&ActivityQuery::default()).await.unwrap().entries;
    let said = |action: &str| entries.iter().find(|entry| entry.action == action).unwrap();
    assert_eq!(said("forward.removed").actor.name, "site");
    assert_eq!(said("virtual-device.created").subject.name, "camera");
    assert_eq!(said("edge.enabled").subject.name, "site");

    // Nobody's device: who asked the edge from it may not.
    let asked = format!("/v1/node/edge?asked_from={}", map(&laptop).await.this.id);
    let refused = site.client.post(&asked, &forward).await;
    assert_eq!(refused.problem().code, ErrorCode::Forbidden);
    let odd = site.client.post("/v1/node/edge?asked_from=x", &forward).await;
    assert_eq!(odd.problem().code, ErrorCode::Invalid);

    let gone = json!({ "endpoints": [] });
    site.client.post("/v1/node/check-in", &gone).await;
    until("the edge is none", || is_enabled(&broker, false)).await;
    assert!(map(&site).await.edge.is_none());
    assert!(map(&laptop).await.peers.iter().all(|peer| peer.edge.is_none()));
    broker.stop().await;
}
