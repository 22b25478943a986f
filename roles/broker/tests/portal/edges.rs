//! The pages of edge devices.

use http::StatusCode;
use serde_json::json;
use warren_broker::admin::DeviceChange;

use crate::common::{TestBroker, broker, until};
use crate::person::Person;

/// A device that says that it is an edge, with a problem whose words are markup.
pub(crate) async fn edge(broker: &TestBroker, name: &str) -> crate::common::Device {
    let site = broker.device("home", name).await;
    let state = json!({ "endpoints": [], "capabilities": ["edge"], "edge": {
        "scanned_unix": 1_780_000_000, "devices": 3, "networks": ["192.168.1.0/24"],
        "problems": ["the firewall <b>ufw</b> drops what is forwarded: ufw route allow in on warren0"] } });
    site.client.post("/v1/node/check-in", &state).await;
    until("the edge is one", async || {
        broker.admin.edge("home", name).await.is_ok_and(|edge| edge.enabled)
    })
    .await;
    site
}

#[tokio::test]
async fn a_device_is_asked_to_be_an_edge_from_its_page() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let site = broker.device("home", "site").await;
    let id = site.registered.device;
    let device = ada.get(&format!("/a/home/devices/{id}")).await;
    let path = format!("/a/home/edges/{id}");
    assert!(device.text.contains(&format!("href=\"{path}\"")), "{}", device.text);
    let page = ada.get(&path).await;
    assert!(page.text.contains("warren edge enable"), "{}", page.text);
    let action = format!("{path}/ask");
    let done = ada.submit(&page, &action, &[("enabled", "on")]).await;
    assert_eq!(done.location(), path, "{}", done.text);
    assert!(broker.admin.edge("home", "site").await.unwrap().asked);
    let page = ada.get(&path).await;
    assert!(page.text.contains("waits for its owner's word"), "{}", page.text);
    ada.submit(&page, &action, &[]).await;
    assert!(!broker.admin.edge("home", "site").await.unwrap().asked);
}

#[tokio::test]
async fn an_edge_is_shown_and_what_it_opens_is_added_changed_and_removed() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let empty = ada.get("/a/home/edges").await;
    assert!(empty.text.contains("warren edge enable"), "{}", empty.text);
    let site = edge(&broker, "site").await;
    let list = ada.get("/a/home/edges").await;
    assert!(
        list.text.contains("3 devices found") && list.text.contains("&#60;b&#62;ufw"),
        "{}",
        list.text
    );
    let path = format!("/a/home/edges/{}", site.registered.device);
    let page = ada.get(&path).await;
    assert!(page.text.contains("href=\"http://site.home.warren.internal/\""), "{}", page.text);

    assert!(page.text.contains("It stands in 192.168.1.0/24."), "{}", page.text);
    assert!(page.text.contains("Wake a device of its LAN"), "{}", page.text);
    ada.submit(&page, &format!("{path}/wake"), &[("mac", "the printer")]).await;
    assert!(ada.get(&path).await.text.contains("A MAC address is written"));
    ada.submit(&page, &format!("{path}/wake"), &[("mac", "3c:52:82:01:02:03")]).await;
    let told = ada.get(&path).await;
    assert!(told.text.contains("is offline"), "it has no session: {}", told.text);

    let page = ada.get(&format!("{path}?add=forwards")).await;
    let action = format!("{path}/forwards");
    let fields = [("protocol", "tcp"), ("port", "8443"), ("target", "printer")];
    let wrong = ada.submit(&page, &action, &fields).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.text.contains("192.168.1.9") && wrong.text.contains("value=\"8443\""));
    let fields = [("protocol", "tcp"), ("port", "80"), ("target", "192.168.1.9")];
    let reserved = ada.submit(&page, &action, &fields).await;
    assert_eq!(reserved.status, StatusCode::UNPROCESSABLE_ENTITY, "its own pages");
    let fields = [
        ("protocol", "tcp"),
        ("port", "8443"),
        ("target", "192.168.1.9"),
        ("target_port", "443"),
        ("hours", "mon@08:00-18:00+01:00"),
        ("note", "</td><script>"),
    ];
    let added = ada.submit(&page, &action, &fields).await;
    assert_eq!(added.location(), path, "{}", added.text);
    let page = ada.get(&path).await;
    assert!(page.text.contains("TCP 8443 of site leads to port 443 of the LAN device 192.168.1.9"));
    assert!(page.text.contains("https://site.home.warren.internal:8443/"), "{}", page.text);
    assert!(!page.text.contains("</td><script>"));

    let id = broker.admin.forwards("home", "site").await.unwrap()[0].id;
    let form = ada.get(&format!("{path}?change=forwards/{id}")).await;
    assert!(form.text.contains("value=\"mon@08:00-18:00+01:00\""), "{}", form.text);
    assert!(page.text.contains("It is open mon 08:00 to 18:00 (UTC+01:00)."), "{}", page.text);
    assert!(form.text.contains("value=\"8443\"") && form.text.contains("value=\"443\""));
    let fields = [
        ("protocol", "tcp"),
        ("port", "9443"),
        ("target", "192.168.1.9"),
        ("target_port", "443"),
        ("hours", ""),
    ];
    ada.submit(&form, &format!("{action}/{id}"), &fields).await;
    let forward = broker.admin.forwards("home", "site").await.unwrap().remove(0);
    assert_eq!((forward.port, forward.schedule), (9443, None));
    let page = ada.get(&path).await;
    ada.submit(&page, &format!("{action}/{id}/switch"), &[]).await;
    assert!(!broker.admin.forwards("home", "site").await.unwrap()[0].enabled);
    ada.submit(&page, &format!("{action}/{id}/remove"), &[]).await;
    assert!(broker.admin.forwards("home", "site").await.unwrap().is_empty());

    for (kind, fields, said) in [
        (
            "virtual-devices",
            [("name", "camera"), ("target", "192.168.1.9"), ("ports", "tcp:80")],
            "camera.site.home.warren.internal",
        ),
        ("gateways", [("lan", "192.168.7.0/24"), ("name", ""), ("target", "")], "192.168.7.1 as"),
    ] {
        let page = ada.get(&format!("{path}?add={kind}")).await;
        let added = ada.submit(&page, &format!("{path}/{kind}"), &fields).await;
        assert_eq!(added.location(), path, "{}", added.text);
        assert!(ada.get(&path).await.text.contains(said), "{said}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_member_sees_the_edges_that_are_his_and_no_others() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut bob = Person::invited(&broker, &mut ada, "home", "member", "bob@example.org").await;
    let (own, other) = (edge(&broker, "own").await, edge(&broker, "other").await);
    let owner = Some("bob@example.org".to_owned());
    let change = DeviceChange { owner, ..DeviceChange::default() };
    broker.admin.change_device("home", "own", &change).await.unwrap();
    let list = bob.get("/a/home/edges").await.text;
    assert!(list.contains(">own</a>") && !list.contains(">other</a>"), "{list}");
    let path =
        |device: &crate::common::Device| format!("/a/home/edges/{}", device.registered.device);
    assert_eq!(bob.get(&path(&other)).await.status, StatusCode::FORBIDDEN);
    let page = bob.get(&format!("{}?add=gateways", path(&own))).await;
    let action = format!("{}/gateways", path(&own));
    let added = bob.submit(&page, &action, &[("lan", "10.1.2.0/24")]).await;
    assert_eq!(added.status, StatusCode::SEE_OTHER, "{}", added.text);
    let theirs = format!("{}/gateways", path(&other));
    let token = ada.get(&format!("{}?add=gateways", path(&other))).await.token(&theirs).unwrap();
    let fields = [("csrf", token.as_str()), ("lan", "10.1.3.0/24")];
    assert_eq!(bob.post(&theirs, &fields, "same-origin").await.status, StatusCode::FORBIDDEN);
    broker.stop().await;
}
