//! A broker that is killed in the midst of registrations: nothing acknowledged is lost, and what
//! was under way can be repeated. `WARREN_CRASH_ROUNDS` says how often (10 unless set).

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Client, config, new_secret, within};
use http::StatusCode;
use warren_broker::admin::{self, NewJoinKey};
use warren_proto::{BrokerIdentity, DeviceId, JoinLink, Netmap, Registered};
use x25519_dalek::StaticSecret;

const WORKERS: usize = 4;

/// A broker in a process of its own, killed when dropped.
struct Process {
    child: Child,
    admin: admin::Client,
}

impl Process {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_until_killed", "--ignored", "--nocapture"])
            .env("WARREN_CRASH_DATA", data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.unwrap().contains("READY"));
        assert!(ready, "the broker didn't start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, admin: admin::Client::new(data) }
    }

    /// SIGKILL.
    fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the broker process of the crash test"]
async fn serve_until_killed() {
    let data = std::env::var("WARREN_CRASH_DATA").expect("run by the crash test");
    let running = warren_broker::start(&config(Path::new(&data))).await.unwrap();
    println!("\nREADY");
    running.run(std::future::pending()).await.unwrap();
}

/// One device that joins with a one-time link of its own.
struct Joining {
    secret: StaticSecret,
    link: JoinLink,
}

#[derive(Default)]
struct Ledger {
    acknowledged: BTreeMap<DeviceId, Registered>,
    /// Begun and not answered: they try again with the same link.
    pending: Vec<Joining>,
    begun: usize,
    interrupted: usize,
}

/// Joins one device after the other until the broker is gone.
async fn join_until_killed(links: Arc<Mutex<Vec<JoinLink>>>, ledger: Arc<Mutex<Ledger>>) {
    loop {
        let Some(link) = links.lock().unwrap().pop() else { return };
        let joining = Joining { secret: new_secret(), link };
        ledger.lock().unwrap().begun += 1;
        let joined = try_join(&joining).await;
        let mut ledger = ledger.lock().unwrap();
        match joined {
            Some(registered) => {
                ledger.acknowledged.insert(registered.device, registered);
            }
            None => {
                ledger.pending.push(joining);
                ledger.interrupted += 1;
                return;
            }
        }
    }
}

async fn try_join(joining: &Joining) -> Option<Registered> {
    let client = Client::connect(&joining.link).await.ok()?;
    let challenge = client.try_call(http::Method::GET, "/v1/node/challenge", "").await.ok()?;
    let Joining { link, secret, .. } = joining;
    let known = BrokerIdentity::of(link);
    let register =
        common::client::registration(&known, &challenge.json(), secret, &link.key, "crash test");
    let body = serde_json::to_vec(&register).unwrap();
    let answer = client.try_call(http::Method::POST, "/v1/node/register", body).await.ok()?;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    Some(answer.json())
}

async fn links(broker: &Process, count: usize) -> Vec<JoinLink> {
    let mut links = Vec::new();
    for _ in 0..count {
        let created = broker.admin.create_join_key("home", &NewJoinKey::default()).await.unwrap();
        links.push(created.link.parse().unwrap());
    }
    links
}

/// An account lists a thousand keys at most.
async fn remove_keys(broker: &Process) {
    for key in broker.admin.join_keys("home").await.unwrap() {
        broker.admin.remove_join_key("home", key.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_forgets_nothing_that_it_has_acknowledged() {
    let crashes: u32 =
        std::env::var("WARREN_CRASH_ROUNDS").map_or(10, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    for crash in 0..crashes {
        let broker = Process::start(folder.path());
        let url = broker.admin.status().await.unwrap().url;
        retry_pending(&ledger, &url).await;
        remove_keys(&broker).await;
        let fresh = links(&broker, 40).await;
        let fresh = Arc::new(Mutex::new(fresh));
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| tokio::spawn(join_until_killed(fresh.clone(), ledger.clone())))
            .collect();
        // Each time at another moment.
        let moment = Duration::from_millis(u64::from(crash * 37 % 120));
        tokio::time::sleep(moment).await;
        broker.kill();
        for worker in workers {
            within("a worker to notice", worker).await.unwrap();
        }
    }

    let broker = Process::start(folder.path());
    let host = links(&broker, 1).await.remove(0);
    retry_pending(&ledger, &host.url).await;
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    println!("{crashes} crashes: {} joined, {} interrupted", ledger.begun, ledger.interrupted);
    assert!(ledger.interrupted > 0, "no crash came in the midst of anything");
    let client = Client::connect(&host).await.unwrap();
    for registered in ledger.acknowledged.values() {
        let client = client.with_token(&registered.token);
        let map: Netmap = client.get("/v1/node/netmap").await.json();
        assert_eq!((map.this.id, &map.this.name), (registered.device, &registered.name));
    }
    let devices = broker.admin.devices("home").await.unwrap();
    assert_eq!(devices.len(), ledger.begun, "each that joined is there once");
    assert_eq!(ledger.acknowledged.len(), ledger.begun);
    let mut addresses: Vec<_> = devices.iter().map(|device| device.ipv4).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), ledger.begun, "no address is given twice");
    broker.kill();
}

/// Those that had no answer come again with the same one-time link.
async fn retry_pending(ledger: &Mutex<Ledger>, url: &str) {
    let pending = std::mem::take(&mut ledger.lock().unwrap().pending);
    for mut joining in pending {
        joining.link.url = url.to_owned();
        let registered = try_join(&joining).await.expect("the broker is up");
        ledger.lock().unwrap().acknowledged.insert(registered.device, registered);
    }
}
