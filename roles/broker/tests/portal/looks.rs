//! Every page in light, dark and narrow: pictures, axe, the console.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use warren_broker::admin::{NewAccount, NewUser, NewWebhook};
use warren_browser::Browser;
use warren_proto::DeviceId;

use crate::common::{TestBroker, broker, config};
use crate::edges::edge;
use crate::person::{PASSWORD, Person};
use crate::ports::free_port;
use crate::provider::{certify, oidc};
use crate::world::{POLICY, ask_to_join, furnish};

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portal").join(name)
}

/// An edge that opens something of each kind.
async fn furnish_edge(broker: &TestBroker) -> DeviceId {
    let site = edge(broker, "site-7").await;
    let target = json!({ "ip": "192.168.1.9", "mac": "3c:52:82:01:02:03" });
    for change in [
        json!({ "change": "add-forward", "protocol": "tcp", "port": 8080, "target": target,
            "target_port": 80, "name": "Printer", "allow": ["role:admin"], "note": "Second floor" }),
        json!({ "change": "add-forward", "protocol": "udp", "port": 5000, "last_port": 5010,
            "target": target, "enabled": false }),
        json!({ "change": "add-virtual-device", "name": "camera", "target": target,
            "ports": ["tcp:554", "tcp:80"] }),
        json!({ "change": "add-gateway", "lan": "192.168.7.0/24", "source": "transparent" }),
    ] {
        let answer = site.client.post("/v1/node/edge", &change).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    site.registered.device
}

/// Opens every page in one of the script's sizes.
async fn look(size: &str) {
    let browser = Browser::find().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Nobody is there: what people are told then is looked at, too.
    certify(folder.path());
    let mut config = config(&folder.path().join("data"));
    config.oidc = Some(oidc(folder.path(), free_port()));
    let broker = TestBroker::start_with(config).await;
    let _world = furnish(&broker).await;
    let mut stranger = Person::stranger(&broker).await;
    assert_eq!(stranger.get("/").await.location(), "/sign-in?next=/");
    let new = NewAccount { name: "work".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&new).await.unwrap();
    broker.admin.set_policy("home", POLICY, None).await.unwrap();
    let new = NewUser {
        email: "bob@example.org".parse().unwrap(),
        name: "Bob".to_owned(),
        operator: false,
    };
    let bob = broker.admin.create_user(&new).await.unwrap().user.id;
    let code = ask_to_join(&broker, "Kitchen Pi").await;
    let url = "https://hooks.example.org/warren".to_owned();
    let new = NewWebhook { url, events: ["device".to_owned()].into() };
    let webhook = broker.admin.create_webhook("home", &new).await.unwrap().id;
    let edge = furnish_edge(&broker).await;
    let devices = broker.admin.devices("home").await.unwrap();
    let id = |name: &str| devices.iter().find(|it| it.name.as_str() == name).unwrap().id;
    let pages = json!([
        ["devices", "/a/home/devices"],
        ["devices-none-found", "/a/home/devices?q=zzz"],
        ["device", format!("/a/home/devices/{}#advanced", id("frankfurt"))],
        ["device-expired", format!("/a/home/devices/{}", id("old-laptop"))],
        ["edges", "/a/home/edges"],
        ["edges-none", "/a/work/edges"],
        ["edge", format!("/a/home/edges/{edge}")],
        ["edge-form", format!("/a/home/edges/{edge}?add=forwards")],
        ["map", "/a/home/map"],
        ["access", "/a/home/access"],
        ["access-text", "/a/home/access?view=text"],
        ["access-start", "/a/work/access"],
        ["join", "/a/home/join"],
        ["join-request", "/join/request"],
        ["join-request-unknown", "/join/request?code=0000-0000"],
        ["join-confirm", format!("/join/request?code={code}")],
        ["relays", "/a/home/relays"],
        ["settings", "/a/home/settings"],
        ["activity", "/a/home/activity"],
        ["users", "/a/home/users"],
        ["tokens", "/a/home/tokens"],
        ["webhooks", "/a/home/webhooks"],
        ["webhook", format!("/a/home/webhooks/{webhook}")],
        ["webhooks-none", "/a/work/webhooks"],
        ["api", "/api"],
        ["operator", "/operator"],
        ["operator-account", "/operator/accounts/work"],
        ["operator-user", format!("/operator/users/{bob}")],
        ["profile", "/profile"],
        ["totp", "/profile/totp"],
        ["not-found", "/a/nobody/devices"],
    ]);
    let job = browser
        .script(script("looks.mjs"))
        .arguments(json!({
            "size": size,
            "url": broker.url,
            "setUp": broker.set_up_link,
            "password": PASSWORD,
            "pages": pages,
        }))
        .within(Duration::from_secs(250));
    let found = tokio::task::spawn_blocking(move || job.run()).await.unwrap().unwrap();
    assert_eq!(found["problems"], Value::Array(Vec::new()));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_accessible_and_quiet_in_light() {
    look("light").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_accessible_and_quiet_in_the_dark() {
    look("dark").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_accessible_and_quiet_on_a_phone() {
    look("narrow").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_accessible_and_quiet_on_the_narrowest_screen() {
    look("tiny").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebodys_first_hour() {
    let browser = Browser::find().unwrap();
    let (_folder, broker) = broker().await;
    let signals = tempfile::tempdir().unwrap();
    let job = browser
        .script(script("flows.mjs"))
        .arguments(json!({
            "url": broker.url,
            "setUp": broker.set_up_link,
            "password": PASSWORD,
            "signals": signals.path(),
        }))
        .within(Duration::from_secs(120));
    let flow = tokio::task::spawn_blocking(move || job.run());
    let device = async {
        while !signals.path().join("device").exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let device = broker.device("home", "late-comer").await;
        let online = device.client.events(None).await;
        (device, online)
    };
    // As soon as the page waits for it, the device comes online and stays.
    let (_device, done) =
        tokio::join!(async { tokio::time::timeout(Duration::from_secs(100), device).await }, flow);
    assert_eq!(done.unwrap().unwrap(), json!("done"));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_admins_change_a_policy() {
    let browser = Browser::find().unwrap();
    let (_folder, broker) = broker().await;
    broker.device("home", "laptop").await;
    broker.device("home", "nas").await;
    let job = browser
        .script(script("access.mjs"))
        .arguments(json!({
            "url": broker.url,
            "setUp": broker.set_up_link,
            "password": PASSWORD,
        }))
        .within(Duration::from_secs(120));
    let errors = tokio::task::spawn_blocking(move || job.run()).await.unwrap().unwrap();
    assert_eq!(errors, json!([]));
    broker.stop().await;
}
