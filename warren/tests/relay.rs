//! `warren relay`, the real binary: by itself, and as a part of a warren.

#![cfg(all(feature = "broker", feature = "relay"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../shell/tls/tests/support/ports.rs"]
mod ports;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ports::free_port;

const WARREN: &str = env!("CARGO_BIN_EXE_warren");
const PATIENCE: Duration = Duration::from_secs(30);

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A broker, and the link's `https://…` that it listens at.
fn serve(data: &Path, port: u16) -> Running {
    let mut child = Command::new(WARREN)
        .args(["serve", "--stun", "127.0.0.1:0", "--no-relay", "--listen"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("--data")
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_up = lines.map_while(Result::ok).any(|line| line.contains("join-keys create"));
    assert!(is_up, "the broker ended: {:?}", child.wait());
    Running(child)
}

fn admin(data: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(WARREN);
    command.args(["admin", "--data"]).arg(data).args(args).output().unwrap()
}

/// A relay at loopback, and where its metrics are; `state` is its folder.
fn relay(state: &Path, args: &[String], listen: u16) -> (Running, SocketAddr) {
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let child = Command::new(WARREN)
        .args(["relay", "--public-ip", "127.0.0.1", "--listen", &format!("127.0.0.1:{listen}")])
        .args(["--metrics", &metrics.to_string()])
        .arg("--state")
        .arg(state)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (Running(child), metrics)
}

fn get(metrics: SocketAddr, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(metrics).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "{request}\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text))
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} doesn't come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_ready(metrics: SocketAddr, status: u16) -> bool {
    get(metrics, "GET /readyz HTTP/1.1").is_some_and(|(found, _)| found == status)
}

#[test]
fn by_itself_it_says_what_goes_on_and_makes_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let file = secret.display().to_string();
    let arguments = ["--standalone", "--secret-file", &file, "--mint-token", "token"];
    let (_relay, metrics) = relay(folder.path(), &arguments.map(str::to_owned), free_port());
    wait_for("readiness", || is_ready(metrics, 200));
    let (status, text) = get(metrics, "GET /metrics HTTP/1.1").unwrap();
    assert!(status == 200 && text.contains("\nwarren_turn_allocations 0\n"), "{text}");
    let ask = "POST /credentials?id=phone HTTP/1.1";
    assert_eq!(get(metrics, ask).unwrap().0, 401);
    assert!(has_secret(metrics, b"s3cret"));
    std::fs::write(&secret, "n3wer\ns3cret\n").unwrap();
    wait_for("the new secret", || has_secret(metrics, b"n3wer"));
    // A guesser is held up.
    let is_held_up = |_| get(metrics, ask).is_some_and(|(status, _)| status == 429);
    assert!((0..2000).any(is_held_up), "nobody is held up");
}

/// The password of a credential that the relay makes, and the secret's own.
fn has_secret(metrics: SocketAddr, secret: &[u8]) -> bool {
    let ask = "POST /credentials?id=phone HTTP/1.1\r\nAuthorization: Bearer token";
    let Some((200, text)) = get(metrics, ask) else { return false };
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let minted: serde_json::Value = serde_json::from_str(body).unwrap();
    let (expires, id) = minted["username"].as_str().unwrap().split_once(':').unwrap();
    let (_, password) = warren_turn::rest::mint(secret, expires.parse().unwrap(), id);
    minted["password"] == password
}

#[test]
fn environment_and_file_say_what_flags_say() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("warren.toml");
    let (port, metrics) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let listen = format!("127.0.0.1:{port}");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(WARREN);
        command.arg("relay").args(arguments).envs(variables.iter().copied());
        command.env("WARREN_STATE", folder.path()).stderr(Stdio::null());
        let _relay = Running(command.spawn().unwrap());
        wait_for(&format!("{arguments:?} {variables:?}"), || has_secret(metrics, b"new"));
    };
    let metrics_text = metrics.to_string();
    run(
        &[],
        &[
            ("WARREN_STANDALONE", "true"),
            ("WARREN_SECRET", "new,old"),
            ("WARREN_LISTEN", &listen),
            ("WARREN_METRICS", &metrics_text),
            ("WARREN_PUBLIC_IP", "127.0.0.1"),
            ("WARREN_MINT_TOKEN", "token"),
        ],
    );
    let common = format!(
        "[relay]\nlisten = [\"{listen}\"]\nmetrics = \"{metrics}\"\npublic-ip = [\"127.0.0.1\"]\n\
         mint-token = \"token\"\nmax-allocations = 5\nports = \"50000-50100\"\n"
    );
    let path = file.to_str().unwrap();
    let file_says = |more: &str| std::fs::write(&file, format!("{common}{more}")).unwrap();
    file_says("standalone = true\nsecret = [\"new\", \"old\"]\n");
    run(&["--config", path], &[]);
    // Some from here, some from there; a flag wins.
    file_says("secret = [\"new\"]\n");
    run(&["--standalone"], &[("WARREN_CONFIG", path)]);
    file_says("standalone = true\nsecret = [\"other\"]\n");
    run(&["--config", path, "--secret", "new"], &[]);
    // What a file says is checked as flags are.
    for (more, hint) in [
        ("", "--standalone"),
        ("standalone = true", "--secret"),
        ("standalone = true\nsecret = \"new\"\ntls = \"127.0.0.1:0\"", "--cert"),
        ("standalone = true\nsecret = \"new\"\nacme = \"relay.example.org\"", "--tls"),
    ] {
        file_says(more);
        let output = Command::new(WARREN).args(["relay", "--config", path]).output().unwrap();
        assert!(!output.status.success(), "{more}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(hint), "{more}: {said}");
    }
}

#[test]
fn environment_and_file_say_what_the_flags_of_a_pair_relay_say() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("warren.toml"), folder.path().join("key"));
    std::fs::write(&key, "c29tZWJvZHkncyBvd24ga2V5LCB0byBiZSBmb3Jnb3R0ZW4=\n").unwrap();
    let (port, metrics) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(WARREN);
        command.arg("pair-relay").args(arguments).envs(variables.iter().copied());
        command.env("WARREN_STATE", folder.path()).stderr(Stdio::null());
        let _relay = Running(command.spawn().unwrap());
        wait_for(&format!("{arguments:?} {variables:?}"), || is_ready(metrics, 200));
        let probe =
            ["pair-relay", "probe", &format!("127.0.0.1:{port}"), "--key-file"].map(str::to_owned);
        let probe = Command::new(WARREN).args(probe).arg(&key).output().unwrap();
        assert!(probe.status.success(), "{}", String::from_utf8_lossy(&probe.stderr));
    };
    let (path, key_file) = (file.to_str().unwrap(), key.to_str().unwrap());
    let (port_text, metrics_text) = (port.to_string(), metrics.to_string());
    run(
        &[],
        &[
            ("WARREN_LISTEN", "127.0.0.1"),
            ("WARREN_PORT", &port_text),
            ("WARREN_KEY_FILE", key_file),
            ("WARREN_METRICS", &metrics_text),
        ],
    );
    let common = format!("[pair-relay]\nlisten = \"127.0.0.1\"\nmetrics = \"{metrics}\"\n");
    let file_says = |more: &str| std::fs::write(&file, format!("{common}{more}")).unwrap();
    file_says(&format!(
        "port = {port}\nkey-file = \"{key_file}\"\nmax-pairs = 5\nidle-timeout = \"10s\"\n"
    ));
    run(&["--config", path], &[]);
    // A flag wins.
    file_says(&format!("port = 1\nkey-file = \"{key_file}\"\n"));
    run(&["--config", path, "--port", &port_text], &[]);
    // What is wrong in a file is told with the file's name.
    for (more, hint) in [
        ("port = 70000", "70000"),
        ("key-file = \"/nonexistent\"", "/nonexistent"),
        ("prt = 6060", "prt"),
        ("", "UDP_RELAY_SECRET_KEY"),
    ] {
        file_says(more);
        let output = Command::new(WARREN).args(["pair-relay", "--config", path]).output().unwrap();
        assert!(!output.status.success(), "{more}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(hint), "{more}: {said}");
    }
}

#[test]
fn sigterm_drains_and_it_ends_with_its_last_allocation() {
    use warren_turn::client::{Client, Config, Credential};

    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let arguments = ["--standalone", "--secret", "s3cret"].map(str::to_owned);
    let (mut relay, metrics) = relay(folder.path(), &arguments, port);
    wait_for("readiness", || is_ready(metrics, 200));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (username, password) = warren_turn::rest::mint(b"s3cret", unix + 600, "a");
    let credential = Credential { username, password, realm: None, nonce: None };
    let config = Config { virtual_address: true, ..Config::new(credential) };
    let mut client = Client::new(config, [3; 32], Instant::now());
    let drive = |client: &mut Client, is_done: &dyn Fn(&Client) -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(client) {
            assert!(Instant::now() < deadline, "it takes too long");
            while let Some(message) = client.poll_transmit() {
                socket.send(&message).unwrap();
            }
            let mut buffer = [0; 2048];
            if let Ok(length) = socket.recv(&mut buffer) {
                let _ = client.handle_datagram(&buffer[..length], Instant::now());
            }
            client.handle_timeout(Instant::now());
        }
    };
    drive(&mut client, &|client| client.relayed().is_some());
    let pid = relay.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    wait_for("the drain", || is_ready(metrics, 503));
    assert_eq!(get(metrics, "GET /healthz HTTP/1.1").unwrap().0, 200);
    // Whoever is there is served on.
    client.verify(Instant::now());
    drive(&mut client, &|client| client.unanswered_for(Instant::now()).is_none());
    assert!(client.relayed().is_some() && relay.0.try_wait().unwrap().is_none());
    client.close(Instant::now());
    drive(&mut client, &Client::is_ended);
    assert!(relay.0.wait().unwrap().success());
}

#[test]
fn what_it_logs_is_changed_by_its_owner_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--standalone", "--secret", "s3cret"].map(str::to_owned);
    let port = free_port();
    let (mut relay, metrics) = relay(folder.path(), &arguments, port);
    wait_for("readiness", || is_ready(metrics, 200));
    let log = |state: &Path, level: &str| {
        let mut command = Command::new(WARREN);
        command.args(["relay", "log", level, "--state"]).arg(state).output().unwrap()
    };
    let output = log(folder.path(), "warn,warren_relay=trace");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(log(folder.path(), "loud=very").status.code(), Some(2));
    let output = log(&folder.path().join("elsewhere"), "info");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--state"), "{output:?}");
    let stderr = relay.0.stderr.take().unwrap();
    let heard = Arc::new(Mutex::new(String::new()));
    let hear = Arc::clone(&heard);
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            hear.lock().unwrap().push_str(&line);
        }
    });
    // Nothing that a relay knows, so the connection ends: that is told at trace alone.
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(&[0xFF; 64]).unwrap();
    let _ = client.read(&mut [0]);
    wait_for("the message", || heard.lock().unwrap().contains("a connection failed"));
}

#[test]
fn it_says_what_is_missing() {
    let broker = ["relay", "--broker", "https://127.0.0.1:1", "--token-file", "/nowhere"];
    for (arguments, hint) in [
        (&["relay"][..], "--standalone"),
        (&["relay", "--standalone"], "--secret"),
        (&["relay", "--standalone", "--users", "/nowhere"], "/nowhere"),
        (&["relay", "--broker", "https://127.0.0.1:1"], "--token-file"),
        (&["relay", "--standalone", "--secret", "x", "--tls", "127.0.0.1:0"], "--acme"),
        (&["relay", "--standalone", "--secret", "x", "--acme", "relay.example.org"], "--tls"),
        (&["relay", "--standalone", "--secret", ""], "--secret-file"),
        (&["relay", "--standalone", "--secret", "x", "--listen", "127.0.0.1"], "0.0.0.0:3478"),
        (&["relay", "--standalone", "--secret", "x", "--metrics", "1"], "0.0.0.0:3478"),
        (&["relay", "--standalone", "--secret", "x", "--public-ip", "0.0.0.0"], "others see"),
        (&["relay", "--standalone", "--secret", "x", "--max-lifetime", "5"], "10m"),
        (&[&broker[..], &["--secret", "x"][..]].concat(), "--standalone"),
        (&[&broker[..], &["--pin", "x"][..]].concat(), "relays create"),
    ] {
        let output = Command::new(WARREN).args(arguments).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
}

#[test]
fn in_a_warren_it_waits_for_its_broker_outlives_it_and_ends_when_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, port) = (folder.path().join("data"), free_port());
    let broker = serve(&data, port);
    let made = admin(&data, &["relays", "create", "harbour"]);
    let said = String::from_utf8(made.stderr).unwrap();
    let pin = said.split(" --pin ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let token = folder.path().join("token");
    std::fs::write(&token, made.stdout).unwrap();
    let arguments = |account: &str| {
        let url = format!("https://127.0.0.1:{port}");
        let token = token.display().to_string();
        ["--broker", &url, "--pin", &pin, "--token-file", &token, "--account", account]
            .map(str::to_owned)
    };

    let (mut elsewhere, _) = relay(folder.path(), &arguments("office"), free_port());
    let mut said = String::new();
    elsewhere.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!elsewhere.0.wait().unwrap().success());
    assert!(said.contains("account"), "a token of another account: {said}");

    drop(broker);
    let (mut relay, metrics) = relay(folder.path(), &arguments("home"), free_port());
    wait_for("waiting", || is_ready(metrics, 503));
    let broker = serve(&data, port);
    wait_for("readiness", || is_ready(metrics, 200));
    let shown = admin(&data, &["relays", "show", "harbour"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("online"), "{shown}");

    drop(broker);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(is_ready(metrics, 200), "it goes on without its broker");
    let _broker = serve(&data, port);
    assert!(admin(&data, &["relays", "remove", "harbour", "--yes"]).status.success());
    let deadline = Instant::now() + 2 * PATIENCE;
    while relay.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on although it was removed");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!relay.0.wait().unwrap().success());
}
