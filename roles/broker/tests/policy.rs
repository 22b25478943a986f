//! Policy, as an operator at the local socket changes it and devices see it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Device, TestBroker, broker, until};
use warren_broker::admin::{
    ActivityQuery, DeviceChange, Error, NewUser, Role, Severity, UserChange, WhyQuery,
};
use warren_proto::{ErrorCode, Netmap};

const OWN: &str = "[[rules]]\nname = 'own devices'\nfrom = '*'\nto = 'own'\n";

async fn peers(device: &Device) -> Vec<String> {
    let map: Netmap = device.client.get("/v1/node/netmap").await.json();
    map.peers.iter().map(|peer| peer.name.to_string()).collect()
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (u16, ErrorCode, String) {
    let Err(Error::Problem(problem)) = outcome else { panic!("not refused: {outcome:?}") };
    (problem.status, problem.code, problem.title)
}

async fn user(broker: &TestBroker, email: &str, role: Role) {
    let new = NewUser { email: email.parse().unwrap(), name: String::new(), operator: false };
    broker.admin.create_user(&new).await.unwrap();
    broker.admin.set_role("home", email, role).await.unwrap();
}

async fn give(broker: &TestBroker, device: &str, owner: &str) {
    let change = DeviceChange { owner: Some(owner.to_owned()), ..DeviceChange::default() };
    broker.admin.change_device("home", device, &change).await.unwrap();
}

#[tokio::test]
async fn of_two_admins_the_second_is_told_that_the_policy_has_changed() {
    let (_folder, broker) = broker().await;
    let admin = &broker.admin;
    let first = admin.policy("home").await.unwrap();
    assert!(first.text.contains("everybody reaches everything"));
    let saved = admin.set_policy("home", OWN, Some(first.version)).await.unwrap();
    assert_eq!(saved.version, first.version + 1);
    let late = admin.set_policy("home", "", Some(first.version)).await;
    let (status, code, title) = code(late);
    assert_eq!((status, code), (412, ErrorCode::Conflict));
    assert!(title.contains("somebody else"), "{title}");
    assert_eq!(admin.policy("home").await.unwrap().text, OWN);
    assert_eq!(admin.set_policy("home", "", None).await.unwrap().version, saved.version + 1);

    let entries = admin.activity(&ActivityQuery::default()).await.unwrap().entries;
    let entry = entries.iter().find(|entry| entry.action == "policy.changed").unwrap();
    let text = entry.changes.iter().find(|change| change.field == "text").unwrap();
    assert_eq!(text.before.as_deref(), Some(OWN), "what differs");
    let hash = entry.changes.iter().find(|change| change.field == "sha256").unwrap();
    assert!(hash.before.is_some() && hash.before != hash.after);
    broker.stop().await;
}

#[tokio::test]
async fn a_text_is_checked_before_it_counts() {
    let (_folder, broker) = broker().await;
    broker.device("home", "laptop").await;
    broker.device("home", "nas").await;
    let wrong = "[[rules]]\nfrom = '*'\nto = 'tag:Server'\n";
    let report = broker.admin.check_policy("home", wrong).await.unwrap();
    assert!(!report.is_good());
    let problem = &report.problems[0];
    assert_eq!((problem.severity, problem.line, problem.column), (Severity::Error, 3, 6));
    let (status, _, title) = code(broker.admin.set_policy("home", wrong, None).await);
    assert_eq!(status, 400);
    assert!(title.contains("line 3, column 6"), "{title}");

    let tested =
        format!("{OWN}[[tests]]\nfrom = 'device:laptop'\nto = 'device:nas'\nexpect = 'allow'\n");
    let report = broker.admin.check_policy("home", &tested).await.unwrap();
    assert!(!report.tests[0].holds);
    let losses = &report.difference.losses;
    assert_eq!((losses.pairs, losses.rows[0].ports.as_slice()), (2, &["*".to_owned()][..]));
    assert!(report.difference.gains.rows.is_empty());
    let endless = "#".repeat(300 << 10);
    assert!(!broker.admin.check_policy("home", &endless).await.unwrap().is_good());
    broker.stop().await;
}

#[tokio::test]
async fn people_count_as_they_come_go_and_change_over_a_restart_too() {
    let (folder, broker) = broker().await;
    let laptop = broker.device("home", "laptop").await;
    broker.device("home", "phone").await;
    broker.device("home", "nas").await;
    user(&broker, "ada@example.org", Role::Owner).await;
    user(&broker, "bob@example.org", Role::Member).await;
    broker.admin.set_policy("home", OWN, None).await.unwrap();
    assert!(peers(&laptop).await.is_empty());
    give(&broker, "laptop", "ada@example.org").await;
    give(&broker, "phone", "ada@example.org").await;
    give(&broker, "nas", "bob@example.org").await;
    assert_eq!(peers(&laptop).await, ["phone"]);
    let shown = broker.admin.device("home", "laptop").await.unwrap();
    assert_eq!(shown.owner.as_deref(), Some("ada@example.org"));
    let stranger = DeviceChange { owner: Some("eve@x.org".to_owned()), ..DeviceChange::default() };
    let (_, code, _) = code(broker.admin.change_device("home", "nas", &stranger).await);
    assert_eq!(code, ErrorCode::NotFound);

    let by_role = "[[rules]]\nfrom = 'role:admin'\nto = '*'\nports = 'tcp:22'\n";
    broker.admin.set_policy("home", by_role, None).await.unwrap();
    assert!(peers(&laptop).await.is_empty());
    broker.admin.set_role("home", "bob@example.org", Role::Admin).await.unwrap();
    until("Bob's devices to be an admin's", || async { peers(&laptop).await == ["nas"] }).await;
    broker.stop().await;

    let broker = TestBroker::start(folder.path()).await;
    let mut laptop = laptop;
    laptop.link.url.clone_from(&broker.url);
    laptop.reconnect().await;
    assert_eq!(peers(&laptop).await, ["nas"], "known from the first moment");
    let suspend = UserChange { suspended: Some(true), ..UserChange::default() };
    broker.admin.change_user("bob@example.org", &suspend).await.unwrap();
    until("Bob to be nobody", || async { peers(&laptop).await.is_empty() }).await;
    broker.stop().await;
}

#[tokio::test]
async fn why_names_the_rule_and_who_has_whose_key() {
    let (_folder, broker) = broker().await;
    broker.device("home", "laptop").await;
    broker.device("home", "nas").await;
    let text = "[[rules]]\nname = 'ssh'\nfrom = 'device:laptop'\nto = '*'\nports = 'tcp:22'\n";
    broker.admin.set_policy("home", text, None).await.unwrap();
    let ask = |from: &str, to: &str, port: &str| WhyQuery {
        from: from.to_owned(),
        to: to.to_owned(),
        port: Some(port.to_owned()),
    };
    let why = broker.admin.why("home", &ask("laptop", "nas", "tcp:22")).await.unwrap();
    assert_eq!(why.allowed_by[0].name.as_deref(), Some("ssh"));
    assert_eq!(why.allowed_by[0].line, 1);
    assert!(why.see_each_other && why.back_allowed_by.is_empty());
    assert!(why.from.has_key_of_other && why.to.has_key_of_other && why.to.is_filtering);
    let why = broker.admin.why("home", &ask("laptop", "nas", "udp:53")).await.unwrap();
    assert!(why.allowed_by.is_empty() && why.see_each_other);

    broker.admin.set_policy("home", "", None).await.unwrap();
    let why = broker.admin.why("home", &ask("nas", "laptop", "tcp:22")).await.unwrap();
    assert!(!why.see_each_other && !why.from.has_key_of_other && !why.to.has_key_of_other);
    let (_, wrong, _) = code(broker.admin.why("home", &ask("nas", "laptop", "http")).await);
    assert_eq!(wrong, ErrorCode::Invalid);
    let (_, same, _) = code(broker.admin.why("home", &ask("nas", "nas", "tcp:1")).await);
    assert_eq!(same, ErrorCode::Invalid);
    broker.stop().await;
}
