//! Running a broker: backup, restore, a second one on the same folder, the end, a full disk.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use common::{Client, Device, TestBroker, broker, config, new_secret, until, within};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use warren_broker::admin::{Error, NewJoinKey};
use warren_proto::{ErrorCode, Netmap, Problem, SessionEvent};

#[tokio::test]
async fn a_backup_of_a_running_broker_restores_into_an_empty_folder() {
    let (folder, broker) = broker().await;
    let link = broker.reusable("home").await;
    let laptop = Device::join(&link, "laptop").await;
    let before: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    let archives = tempfile::tempdir().unwrap();
    let archive = archives.path().join("warren.tar");

    let joining = tokio::spawn({
        let link = link.clone();
        async move {
            for n in 0..20 {
                Device::join(&link, &format!("meanwhile-{n}")).await;
            }
        }
    });
    let size = broker.admin.backup(&archive).await.unwrap();
    within("the others to join", joining).await.unwrap();
    let metadata = std::fs::metadata(&archive).unwrap();
    assert_eq!(metadata.len(), size);
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let again = broker.admin.backup(&archive).await.unwrap_err();
    assert!(matches!(again, Error::File(..)), "a backup overwrites nothing: {again}");
    broker.stop().await;
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".backup"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let occupied = warren_broker::restore(&archive, folder.path()).await.unwrap_err();
    assert!(occupied.to_string().contains("isn't empty"), "{occupied}");

    let elsewhere = archives.path().join("deep/restored");
    let manifest = warren_broker::restore(&archive, &elsewhere).await.unwrap();
    assert_eq!(manifest.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(std::fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o700);
    let broker = TestBroker::start(&elsewhere).await;
    let new = broker.reusable("home").await;
    assert_eq!(new.pin, link.pin, "the same broker to all devices");
    let client = Client::connect(&new).await.unwrap().with_token(&laptop.registered.token);
    let after: Netmap = client.get("/v1/node/netmap").await.json();
    assert_eq!(after.this, before.this);
    assert!(after.version.epoch > before.version.epoch, "never an epoch that was used before");
    broker.stop().await;
}

#[tokio::test]
async fn a_running_broker_is_restored_in_place() {
    let (_folder, broker) = broker().await;
    let link = broker.reusable("home").await;
    let kept = Device::join(&link, "kept").await;
    let archives = tempfile::tempdir().unwrap();
    let archive = archives.path().join("warren.tar");
    broker.admin.backup(&archive).await.unwrap();

    let late = Device::join(&link, "late").await;
    broker.admin.remove_device("home", "kept").await.unwrap();
    broker.admin.prepare_pin().await.unwrap();
    let mut events = late.client.events(None).await;
    assert!(matches!(within("the map", events.event()).await, Some(SessionEvent::Netmap(_))));

    broker.admin.restore(&archive).await.unwrap();
    while within("the stream to end", events.event()).await.is_some() {}
    let devices = broker.admin.devices("home").await.unwrap();
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["kept"]);
    assert_eq!(kept.client.get("/v1/node/netmap").await.status, StatusCode::OK);
    let unknown = late.client.get("/v1/node/netmap").await;
    assert_eq!(unknown.problem().code, ErrorCode::Revoked);
    let pins = broker.admin.pins().await.unwrap();
    assert_eq!((Some(pins.current), pins.next), (link.pin, None));

    std::fs::write(&archive, b"not a backup").unwrap();
    let refused = broker.admin.restore(&archive).await.unwrap_err();
    assert!(matches!(&refused, Error::Problem(p) if p.code == ErrorCode::Invalid), "{refused}");
    assert_eq!(kept.client.get("/v1/node/netmap").await.status, StatusCode::OK);
    Device::join(&link, "after").await;
    broker.stop().await;
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_nothing_appears() {
    let (_folder, broker) = broker().await;
    let work = tempfile::tempdir().unwrap();
    let archive = work.path().join("good.tar");
    broker.admin.backup(&archive).await.unwrap();
    broker.stop().await;
    let good = std::fs::read(&archive).unwrap();
    let mut flipped = good.clone();
    let database = good.windows(15).position(|bytes| bytes == b"SQLite format 3").unwrap();
    flipped[database..database + 4096].fill(0xaa);
    let data = work.path().join("data");
    for (name, bytes) in [
        ("empty", &[][..]),
        ("garbage", &[7; 5000][..]),
        ("cut", &good[..good.len() / 2]),
        ("flipped", &flipped[..]),
    ] {
        let archive = work.path().join(name);
        std::fs::write(&archive, bytes).unwrap();
        let error = warren_broker::restore(&archive, &data).await;
        assert!(error.is_err(), "{name} was restored");
        assert!(!data.exists(), "{name} left something");
    }
    let left = std::fs::read_dir(work.path()).unwrap().count();
    assert_eq!(left, 5, "nothing but the archives is left");
}

#[tokio::test]
async fn a_second_broker_on_the_same_folder_is_told_so() {
    let (folder, first) = broker().await;
    let Err(error) = warren_broker::start(&config(folder.path())).await else {
        panic!("two brokers on one folder")
    };
    assert!(error.to_string().contains("another broker is running"), "{error:#}");
    first.admin.status().await.expect("the first one isn't harmed");
    first.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_so() {
    let (_folder, first) = broker().await;
    let other = tempfile::tempdir().unwrap();
    let mut config = config(other.path());
    config.listen = Some(first.listen);
    let Err(error) = warren_broker::start(&config).await else { panic!("two on one port") };
    assert!(format!("{error:#}").contains("in use"), "{error:#}");
    first.stop().await;
}

#[tokio::test]
async fn an_orderly_end_closes_streams_and_loses_nothing() {
    let (folder, broker) = broker().await;
    let laptop = broker.device("home", "laptop").await;
    let mut events = laptop.client.events(None).await;
    assert!(events.event().await.is_some());
    broker.stop().await;
    assert_eq!(within("the stream to end", events.event()).await, None);
    assert!(!folder.path().join("admin.sock").exists());

    let broker = TestBroker::start(folder.path()).await;
    let device = broker.admin.device("home", "laptop").await.unwrap();
    assert!(device.last_seen.is_some());
    broker.stop().await;
}

/// How many guesses at join keys a proxy's client has before it is told to wait.
async fn guesses_from(client: &Client, forwarded_for: &str) -> usize {
    for n in 0..200 {
        let guess = format!("guess-guess-guess-{n}");
        let register = client.registration(&new_secret(), &guess, "guesser").await;
        let headers = [("x-forwarded-for", forwarded_for.to_owned())];
        let body = serde_json::to_vec(&register).unwrap();
        let response =
            client.request(Method::POST, "/v1/node/register", &headers, body).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        if serde_json::from_slice::<Problem>(&body).unwrap().code == ErrorCode::RateLimited {
            return n;
        }
    }
    panic!("guessing is never slowed down")
}

#[tokio::test]
async fn behind_a_proxy_plain_http_is_served_and_links_have_no_pin() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.tls = warren_broker::TlsMode::Off;
    config.public_url = Some("https://warren.example.org".to_owned());
    config.trusted_proxies = vec!["192.0.2.1/32".parse().unwrap()];
    let broker = TestBroker::start_with(config.clone()).await;
    let link = broker.first_link.clone().unwrap();
    assert_eq!((link.url.as_str(), link.pin), ("https://warren.example.org", None));
    let stream = tokio::net::TcpStream::connect(broker.listen).await.unwrap();
    let client = Client::over(stream, "warren.example.org".to_owned()).await.unwrap();
    client.join(&new_secret(), &link.key, "laptop").await;
    assert!(broker.admin.pins().await.is_err());
    guesses_from(&client, "198.51.100.1").await;
    let other = guesses_from(&client, "198.51.100.2").await;
    assert!(other < 9, "a proxy that nobody trusts is one source: {other} guesses");
    broker.stop().await;

    config.trusted_proxies.clear();
    let broker = TestBroker::start_with(config).await;
    let stream = tokio::net::TcpStream::connect(broker.listen).await.unwrap();
    let client = Client::over(stream, "warren.example.org".to_owned()).await.unwrap();
    guesses_from(&client, "1.2.3.4, 198.51.100.1").await;
    let other = guesses_from(&client, "1.2.3.4, 198.51.100.2").await;
    assert!(other > 9, "clients are told apart by what the proxy says: {other} guesses");
    broker.stop().await;
}

#[tokio::test]
async fn the_netmap_names_the_stun_servers_it_is_told_and_no_private_ones() {
    let (_folder, broker) = broker().await;
    let laptop = broker.device("home", "laptop").await;
    let map: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert!(map.stun.is_empty(), "loopback shows a device nothing: {:?}", map.stun);
    broker.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.stun_public = vec!["198.51.100.1:3478".parse().unwrap()];
    let broker = TestBroker::start_with(config).await;
    let laptop = broker.device("home", "laptop").await;
    let map: Netmap = laptop.client.get("/v1/node/netmap").await.json();
    assert_eq!(map.stun, ["198.51.100.1:3478".parse().unwrap()]);
    broker.stop().await;
}

#[tokio::test]
async fn stun_shows_the_address_it_saw_on_both_ports() {
    let (_folder, broker) = broker().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    assert_eq!(broker.stun.len(), 2);
    for (n, server) in broker.stun.iter().enumerate() {
        let id = [u8::try_from(n).unwrap(); 12];
        let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        request.extend_from_slice(&id);
        socket.send_to(b"garbage", server).await.unwrap();
        socket.send_to(&request, server).await.unwrap();
        let mut reply = [0; 512];
        let (len, from) = within("the answer", socket.recv_from(&mut reply)).await.unwrap();
        assert_eq!(from, *server);
        assert_eq!((&reply[..2], &reply[8..20]), (&[1, 1][..], &id[..]));
        // XOR-MAPPED-ADDRESS (RFC 8489 §14.2) comes first.
        assert_eq!(reply[20..24], [0, 0x20, 0, 8]);
        let port = u16::from_be_bytes([reply[26], reply[27]]) ^ 0x2112;
        assert_eq!(port, own.port());
        assert!(len <= 4 * request.len());
    }
    broker.stop().await;
}

/// Runs a test of this file in a mount namespace of its own, with `/mnt` a small disk.
fn on_a_small_disk(test: &str) {
    let root = nix::unistd::Uid::effective().is_root();
    let namespace = if root { vec!["-m"] } else { vec!["-r", "-m"] };
    let script = "mount -t tmpfs -o size=3m tmpfs /mnt && exec \"$0\" \"$@\"";
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(namespace)
        .args(["sh", "-c", script])
        .arg(exe)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("WARREN_SMALL_DISK", "/mnt")
        .status()
        .expect("unshare is part of util-linux");
    assert!(status.success(), "{test} failed on a small disk");
}

#[test]
fn a_full_disk_is_an_honest_refusal() {
    on_a_small_disk("on_a_full_disk_nothing_acknowledged_is_lost");
}

#[tokio::test]
#[ignore = "the inner half of a_full_disk_is_an_honest_refusal, which gives it a small disk"]
async fn on_a_full_disk_nothing_acknowledged_is_lost() {
    let disk = std::env::var("WARREN_SMALL_DISK").expect("run by its outer half");
    let (disk, ballast) = (Path::new(&disk), Path::new(&disk).join("ballast"));
    let data = disk.join("data");
    let broker = TestBroker::start(&data).await;
    let link = broker.reusable("home").await;
    let client = Client::connect(&link).await.unwrap();
    let mut acknowledged = vec![client.join(&new_secret(), &link.key, "before").await];

    while std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&ballast)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[1; 4096]))
        .is_ok()
    {}
    let mut refused = None;
    for n in 0..200 {
        let answer = client.register(&new_secret(), &link.key, &format!("during-{n}")).await;
        if answer.status == StatusCode::OK {
            acknowledged.push(answer.json());
            continue;
        }
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key("retry-after"));
        let problem = answer.problem();
        assert!(!problem.title.contains("/mnt"), "a node need not know: {}", problem.title);
        refused = Some(problem.code);
        break;
    }
    assert_eq!(refused, Some(ErrorCode::Unavailable), "the disk never became full");
    let known = client.with_token(&acknowledged[0].token);
    assert_eq!(known.get("/v1/node/netmap").await.status, StatusCode::OK, "who is in stays in");
    let backup = broker.admin.backup(&disk.join("backup.tar")).await;
    assert!(backup.is_err(), "a backup has no room");
    let mut reason = None;
    for _ in 0..200 {
        reason = broker.admin.create_join_key("home", &NewJoinKey::default()).await.err();
        if reason.is_some() {
            break;
        }
    }
    let reason = reason.expect("the disk is full").to_string();
    let expected = format!("disk full: free space on {}, then repeat", data.display());
    assert!(reason.contains(&expected), "{reason}");

    std::fs::remove_file(&ballast).unwrap();
    until("the broker to recover by itself", || async {
        client.register(&new_secret(), &link.key, "after").await.status == StatusCode::OK
    })
    .await;
    broker.stop().await;
    let broker = TestBroker::start(&data).await;
    let link = broker.link("home", NewJoinKey::default()).await;
    let client = Client::connect(&link).await.unwrap();
    for device in acknowledged {
        let map: Netmap = client.with_token(&device.token).get("/v1/node/netmap").await.json();
        assert_eq!((map.this.id, map.this.name), (device.device, device.name));
    }
    broker.stop().await;
}
