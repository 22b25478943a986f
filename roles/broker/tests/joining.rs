//! Joining over real TLS: pins, join keys, proof of possession.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use common::client::{Client, address_of, connect_tls, pinned_tls, registration};
use common::{Device, TestBroker, broker, new_secret, until};
use http::StatusCode;
use warren_broker::admin::{DeviceChange, JoinKeyStatus, NewJoinKey};
use warren_proto::{
    Admission, BrokerIdentity, Challenge, ErrorCode, JoinLink, Netmap, Pin, Register, Registered,
};

#[tokio::test]
async fn the_first_start_prints_a_link_that_joins_one_device() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().expect("a first start has a link");
    assert_eq!(link.url, broker.url);

    let laptop = Device::join(&link, "Laptop").await;
    assert_eq!(laptop.registered.account_name.as_str(), "home");
    assert_eq!(laptop.registered.name.as_str(), "laptop");
    let netmap: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert_eq!(netmap.this.id, laptop.registered.device);
    assert!(netmap.ipv4_range.contains(&netmap.this.ipv4));
    assert!(netmap.ipv6_range.contains(&netmap.this.ipv6));
    assert_eq!(netmap.dns.domain, "home.warren.internal");

    let client = Client::connect(&link).await.unwrap();
    let second = client.register(&new_secret(), &link.key, "Other").await;
    assert_eq!(second.status, StatusCode::FORBIDDEN);
    assert_eq!(second.problem().code, ErrorCode::JoinKeyUsed);
    broker.stop().await;
}

#[tokio::test]
async fn a_link_is_printed_until_somebody_has_joined() {
    let folder = tempfile::tempdir().unwrap();
    TestBroker::start(folder.path()).await.stop().await;
    let broker = TestBroker::start(folder.path()).await;
    let link = broker.first_link.clone().expect("nobody has joined");
    Device::join(&link, "laptop").await;
    broker.stop().await;
    let broker = TestBroker::start(folder.path()).await;
    assert_eq!(broker.first_link, None);
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_with_another_key_is_not_spoken_to() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let error = connect_tls(address_of(&link), pinned_tls(Pin([1; 32]))).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn the_same_device_may_repeat_its_registration_and_keeps_everything() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let client = Client::connect(&link).await.unwrap();
    let secret = new_secret();
    let first: Registered = client.join(&secret, &link.key, "laptop").await;
    let again: Registered = client.join(&secret, &link.key, "laptop").await;
    assert_eq!((first.device, &first.name), (again.device, &again.name));
    assert_ne!(first.token, again.token);
    let stale = client.with_token(&first.token).get("/v1/node/netmap").await;
    assert_eq!(stale.status, StatusCode::UNAUTHORIZED);
    let fresh = client.with_token(&again.token).get("/v1/node/netmap").await;
    assert_eq!(fresh.status, StatusCode::OK);
    broker.stop().await;
}

#[tokio::test]
async fn an_expired_key_is_refused_and_says_so() {
    let (_folder, broker) = broker().await;
    let new = NewJoinKey { expires_in: Some(1), reusable: true, ..NewJoinKey::default() };
    let link = broker.link("home", new).await;
    until("the key to expire", || async {
        let keys = broker.admin.join_keys("home").await.unwrap();
        keys.iter().any(|key| key.status == JoinKeyStatus::Expired)
    })
    .await;
    let client = Client::connect(&link).await.unwrap();
    let answer = client.register(&new_secret(), &link.key, "late").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.problem().code, ErrorCode::JoinKeyExpired);
    broker.stop().await;
}

#[tokio::test]
async fn a_reusable_key_joins_many_and_equal_names_are_numbered() {
    let (_folder, broker) = broker().await;
    let link = broker.reusable("home").await;
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(Device::join(&link, "Kitchen Pi").await.registered.name.to_string());
    }
    assert_eq!(names, ["kitchen-pi", "kitchen-pi-2", "kitchen-pi-3"]);

    let keys = broker.admin.join_keys("home").await.unwrap();
    let key = keys.iter().find(|key| key.reusable).unwrap();
    assert_eq!((key.status, key.uses), (JoinKeyStatus::Usable, 3));
    broker.admin.remove_join_key("home", key.id).await.unwrap();
    let client = Client::connect(&link).await.unwrap();
    let answer = client.register(&new_secret(), &link.key, "late").await;
    assert_eq!(answer.problem().code, ErrorCode::JoinKeyUnknown);
    broker.stop().await;
}

#[tokio::test]
async fn a_key_carries_its_tags_to_the_devices() {
    let (_folder, broker) = broker().await;
    let tags = ["server".to_owned()].into();
    let link = broker.link("home", NewJoinKey { tags, ..NewJoinKey::default() }).await;
    let device = Device::join(&link, "nas").await;
    let shown = broker.admin.device("home", "nas").await.unwrap();
    assert_eq!(shown.id, device.registered.device);
    assert_eq!(shown.tags, ["server".to_owned()].into());
    assert_eq!(shown.dns_name, "nas.home.warren.internal");
    broker.stop().await;
}

#[tokio::test]
async fn who_does_not_hold_the_private_key_cannot_join() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let client = Client::connect(&link).await.unwrap();
    let challenge: Challenge = client.get("/v1/node/challenge").await.json();
    let good =
        registration(&BrokerIdentity::of(&link), &challenge, &new_secret(), &link.key, "laptop");
    let stolen = Register { key: warren_proto::PublicKey([9; 32]), ..good.clone() };
    let answer = client.post("/v1/node/register", &stolen).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.problem().code, ErrorCode::ProofFailed);
    let answer = client.post("/v1/node/register", &good).await;
    assert_eq!(answer.status, StatusCode::OK, "the key was not used up: {answer:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_hostile_broker_cannot_join_an_honest_one_in_the_name_of_who_joins_it() {
    let ((_one, honest), (_other, hostile)) = (broker().await, broker().await);
    // The hostile one has an honest account's key, and gives its victim a link with that very key.
    let stolen = honest.reusable("home").await;
    let bait = JoinLink { key: stolen.key.clone(), ..hostile.first_link.clone().unwrap() };
    let passing_on = Client::connect(&stolen).await.unwrap();
    let challenge: Challenge = passing_on.get("/v1/node/challenge").await.json();
    let (victim, key) = (new_secret(), &stolen.key);
    let unpinned =
        JoinLink { pin: None, url: "https://hostile.example".to_owned(), ..bait.clone() };
    for link in [bait, unpinned] {
        let answered = registration(&BrokerIdentity::of(&link), &challenge, &victim, key, "victim");
        let answer = passing_on.post("/v1/node/register", &answered).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert_eq!(answer.problem().code, ErrorCode::ProofFailed);
    }
    assert!(honest.admin.devices("home").await.unwrap().is_empty());
    let meant = registration(&BrokerIdentity::of(&stolen), &challenge, &victim, key, "guest");
    assert_eq!(passing_on.post("/v1/node/register", &meant).await.status, StatusCode::OK);
    honest.stop().await;
    hostile.stop().await;
}

#[tokio::test]
async fn a_node_that_is_too_old_is_told_to_upgrade() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let client = Client::connect(&link).await.unwrap();
    let register = client.registration(&new_secret(), &link.key, "old").await;
    let answer = client.post("/v1/node/register", &Register { protocol: 0, ..register }).await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED);
    assert_eq!(answer.problem().code, ErrorCode::UpgradeRequired);

    let device = Device::join(&link, "laptop").await;
    let headers = [(warren_proto::PROTOCOL_HEADER, "0".to_owned())];
    let answer =
        device.client.request(http::Method::GET, "/v1/node/netmap", &headers, "").await.unwrap();
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
    broker.stop().await;
}

#[tokio::test]
async fn guessing_join_keys_is_slowed_down() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let client = Client::connect(&link).await.unwrap();
    for n in 0.. {
        assert!(n < 200, "guessing is never slowed down");
        let guess = format!("guess-guess-guess-{n}");
        let answer = client.register(&new_secret(), &guess, "guesser").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer.problem().code, ErrorCode::RateLimited);
            assert!(n >= 10, "the first few mistakes are forgiven, not only {n}");
            break;
        }
        assert_eq!(answer.problem().code, ErrorCode::JoinKeyUnknown);
    }
    broker.stop().await;
}

#[tokio::test]
async fn an_expired_device_joins_again_as_itself() {
    let (_folder, broker) = broker().await;
    let link = broker.first_link.clone().unwrap();
    let client = Client::connect(&link).await.unwrap();
    let secret = new_secret();
    let first = client.join(&secret, &link.key, "laptop").await;
    let before: Netmap = client.with_token(&first.token).get("/v1/node/netmap").await.json();
    let change = DeviceChange { name: Some("Work Horse".to_owned()), ..DeviceChange::default() };
    broker.admin.change_device("home", "laptop", &change).await.unwrap();

    let shown = broker.admin.expire_device("home", "work-horse").await.unwrap();
    assert_eq!(shown.admission, Admission::Expired);
    let told: Netmap = client.with_token(&first.token).get("/v1/node/netmap").await.json();
    assert_eq!((told.this.admission, told.peers.len()), (Admission::Expired, 0));
    let answer = client.register(&secret, &link.key, "laptop").await;
    assert_eq!(answer.problem().code, ErrorCode::JoinKeyUsed, "the old link isn't enough");

    let link = broker.link("home", NewJoinKey::default()).await;
    let again = client.join(&secret, &link.key, "laptop").await;
    let after: Netmap = client.with_token(&again.token).get("/v1/node/netmap").await.json();
    assert_eq!(again.device, first.device);
    assert_eq!(again.name.as_str(), "work-horse");
    assert_eq!((before.this.ipv4, before.this.ipv6), (after.this.ipv4, after.this.ipv6));
    broker.stop().await;
}
