//! coturn's own clients against the TURN server: UDP, TCP and TLS, channels and indications, IPv4,
//! IPv6 and across, in namespaces of their own (`testing/setup.sh test` installs the clients).
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use warren_relay::turn::{
    CertificateSource, Quotas, ServerConfig, Settings, TlsConfig, Turn, TurnConfig, User,
    interface_addresses,
};

const SECRET: &str = "s3cret";

#[test]
fn coturns_clients_are_served() {
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "inside_a_namespace", "--nocapture"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The network on the other side of a cable: 203.0.113.2 and .3, 2001:db8::2 and ::3.
struct Outside(Running);

impl Outside {
    fn new() -> Self {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let outside = Self(Running(holder.spawn().unwrap()));
        let pid = outside.0.0.id().to_string();
        let deadline = Instant::now() + Duration::from_secs(10);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
            assert!(Instant::now() < deadline, "there is no second namespace");
            std::thread::yield_now();
        }
        sh("ip link set lo up");
        sh("ip link add r0 type veth peer name o0");
        sh(&format!("ip link set o0 netns {pid}"));
        sh("ip addr add 203.0.113.1/24 dev r0");
        sh("ip -6 addr add 2001:db8::1/64 dev r0 nodad");
        sh("ip link set r0 up");
        for command in [
            "ip link set lo up",
            "ip addr add 203.0.113.2/24 dev o0",
            "ip addr add 203.0.113.3/24 dev o0",
            "ip -6 addr add 2001:db8::2/64 dev o0 nodad",
            "ip -6 addr add 2001:db8::3/64 dev o0 nodad",
            "ip link set o0 up",
        ] {
            let parts: Vec<&str> = command.split(' ').collect();
            let output = outside.command(parts[0]).args(&parts[1..]).output().unwrap();
            assert!(output.status.success(), "{command}: {output:?}");
        }
        outside
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.0.0.id().to_string(), program]);
        command.stdin(Stdio::null());
        command
    }
}

fn sh(command: &str) {
    let mut parts = command.split(' ');
    let output = Command::new(parts.next().unwrap()).args(parts).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

fn certificate(folder: &std::path::Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

fn config(folder: &std::path::Path) -> TurnConfig {
    let listen = ["203.0.113.1:3478", "[2001:db8::1]:3478"].map(|at| at.parse().unwrap());
    let (chain, key) = certificate(folder);
    let user = User { name: "alice".to_owned(), password: "wonder".to_owned(), realm: None };
    let settings = Settings {
        realm: "warren".to_owned(),
        secrets: vec![SECRET.as_bytes().to_vec()],
        users: vec![user],
        revoked: Vec::new(),
    };
    TurnConfig {
        udp: listen.to_vec(),
        tcp: listen.to_vec(),
        tls: Some(TlsConfig {
            listen: ["203.0.113.1:5349", "[2001:db8::1]:5349"].map(|at| at.parse().unwrap()).into(),
            certificate: CertificateSource::Files { chain, key },
        }),
        server: ServerConfig {
            relayed_ipv4: Some("203.0.113.1".parse().unwrap()),
            relayed_ipv6: Some("2001:db8::1".parse().unwrap()),
            own: interface_addresses(),
            allow_peers: ["203.0.113.0/24", "2001:db8::/32"].map(|net| net.parse().unwrap()).into(),
            quotas: Quotas::default(),
            ..ServerConfig::private(settings)
        },
        metrics: None,
        mint: None,
        drain_timeout: Duration::ZERO,
    }
}

/// What a client says; each tells 4 × 15 messages to the peer and hears them again.
const CLIENTS: &[(&str, &str)] = &[
    ("UDP", "-u alice -w wonder -L 203.0.113.2 -e 203.0.113.3 203.0.113.1"),
    ("UDP, TURN REST", "-u bob -W s3cret -L 203.0.113.2 -e 203.0.113.3 203.0.113.1"),
    ("UDP, indications", "-s -u alice -w wonder -L 203.0.113.2 -e 203.0.113.3 203.0.113.1"),
    ("UDP, to each other", "-y -u alice -w wonder -L 203.0.113.2 203.0.113.1"),
    ("TCP", "-t -u alice -w wonder -L 203.0.113.2 -e 203.0.113.3 203.0.113.1"),
    ("TCP, indications", "-t -s -u alice -w wonder -L 203.0.113.2 -e 203.0.113.3 203.0.113.1"),
    ("TLS", "-t -S -p 5349 -u alice -w wonder -L 203.0.113.2 -e 203.0.113.3 203.0.113.1"),
    (
        "TLS, indications",
        "-t -S -s -p 5349 -u alice -w wonder -L 203.0.113.2 -e 203.0.113.3 203.0.113.1",
    ),
    ("UDP, IPv6", "-x -u alice -w wonder -L 2001:db8::2 -e 2001:db8::3 2001:db8::1"),
    ("UDP, IPv4 to IPv6", "-x -u alice -w wonder -L 203.0.113.2 -e 2001:db8::3 203.0.113.1"),
    ("UDP, IPv6 to IPv4", "-u alice -w wonder -L 2001:db8::2 -e 203.0.113.3 2001:db8::1"),
    (
        "UDP, IPv6, indications",
        "-s -x -u alice -w wonder -L 2001:db8::2 -e 2001:db8::3 2001:db8::1",
    ),
    ("TCP, IPv6", "-t -x -u alice -w wonder -L 2001:db8::2 -e 2001:db8::3 2001:db8::1"),
    ("TLS, IPv6", "-t -S -x -p 5349 -u alice -w wonder -L 2001:db8::2 -e 2001:db8::3 2001:db8::1"),
];

#[test]
#[ignore = "the other test runs it in a namespace"]
fn inside_a_namespace() {
    let outside = Outside::new();
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let turn = runtime.block_on(Turn::start(&config(folder.path()))).unwrap();

    for server in ["203.0.113.1", "2001:db8::1"] {
        let output = outside.command("turnutils_stunclient").arg(server).output().unwrap();
        let said = text(&output);
        assert!(said.contains("reflexive addr"), "{said}");
    }

    let mut peer = outside.command("turnutils_peer");
    peer.args(["-L", "203.0.113.3", "-L", "2001:db8::3", "-p", "3480"]);
    let _peer = Running(peer.stdout(Stdio::null()).process_group(0).spawn().unwrap());
    wait_for_peer(&outside);

    let running: Vec<_> = CLIENTS
        .iter()
        .map(|(name, arguments)| {
            let mut client = outside.command("turnutils_uclient");
            client.args(["-n", "15", "-m", "4", "-c", "-r", "3480"]);
            client.args(arguments.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
            (name, client.spawn().unwrap())
        })
        .collect();
    for (name, client) in running {
        let output = client.wait_with_output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{name}: {said}");
        assert!(said.contains("tot_send_msgs=60, tot_recv_msgs=60"), "{name}: {said}");
        assert!(said.contains("Total lost packets 0 "), "{name}: {said}");
    }
    let counters = turn.counters();
    let (to, from, between) =
        (counters.to_peers.packets, counters.to_clients.packets, counters.between_clients.packets);
    assert!(to >= 600 && from >= 600 && between >= 60, "{counters:?}");

    let wrong = outside
        .command("turnutils_uclient")
        .args(["-n", "1", "-c", "-u", "alice", "-w", "guess", "-e", "203.0.113.3", "203.0.113.1"])
        .output()
        .unwrap();
    assert!(!wrong.status.success());
    assert!(turn.counters().auth_failures > 0);
}

fn wait_for_peer(outside: &Outside) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = outside.command("ss").args(["-Huln", "sport = :3480"]).output().unwrap();
        if text(&output).lines().count() >= 2 {
            return;
        }
        assert!(Instant::now() < deadline, "the peer doesn't listen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}{}", String::from_utf8_lossy(&output.stderr))
}
