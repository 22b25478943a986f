//! How long pages take to make, and what a first visit weighs.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::common::client::Client;
use crate::common::{TestBroker, config, new_secret};
use crate::person::Person;

/// As many as are asked for, in an optimised build or where `WARREN_LARGE_ACCOUNT` is set; an ordinary
/// test only sees that it works.
fn size() -> (usize, usize) {
    if is_judged() { (1_000, 100) } else { (120, 5) }
}

fn is_judged() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("WARREN_LARGE_ACCOUNT").is_some()
}

const ROUNDS: usize = 40;
/// What is asked for.
const GOAL: Duration = Duration::from_millis(50);

/// Prints the figures; judges those of a large account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_large_account_are_quick() {
    let (devices, users) = size();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let broker = TestBroker::start_with(config).await;
    let mut ada = Person::operator(&broker).await;
    let link = broker.reusable("home").await;
    let client = Client::connect(&link).await.unwrap();
    for number in 0..devices {
        // From a place of its own: one place alone joins no thousand devices.
        let name = format!("device-{number}");
        let asked = client.registration(&new_secret(), &link.key, &name).await;
        let source = format!("198.51.{}.{}", number / 250, number % 250);
        let body = bytes::Bytes::from(serde_json::to_vec(&asked).unwrap());
        let headers = [("x-forwarded-for", source)];
        let sent = client.request(Method::POST, "/v1/node/register", &headers, body);
        assert_eq!(sent.await.unwrap().status(), StatusCode::OK);
    }
    for number in 0..users {
        let email = format!("user-{number}@example.org");
        Person::invited(&broker, &mut ada, "home", "member", &email).await;
    }
    let device = broker.admin.device("home", "device-7").await.unwrap().id;
    println!("page | p50 ms | p95 ms | bytes over the wire");
    for path in [
        "/a/home/devices".to_owned(),
        "/a/home/devices?q=device-9&sort=seen".to_owned(),
        format!("/a/home/devices/{device}"),
        "/a/home/map".to_owned(),
        "/a/home/access".to_owned(),
        "/a/home/join".to_owned(),
        "/a/home/relays".to_owned(),
        "/a/home/users".to_owned(),
        "/a/home/activity".to_owned(),
        "/a/home/settings".to_owned(),
        "/profile".to_owned(),
    ] {
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let (status, length) = ada.weigh(&path).await;
            times.push(begun.elapsed());
            assert_eq!(status, StatusCode::OK, "{path}");
            bytes = length;
        }
        times.sort_unstable();
        let (p50, p95) = (times[ROUNDS / 2], times[ROUNDS * 95 / 100]);
        println!("{path} | {:.1} | {:.1} | {bytes}", millis(p50), millis(p95));
        assert!(!is_judged() || p95 <= GOAL, "{path}: {p95:?}");
    }
    broker.stop().await;
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
