//! Name wiring as the host's programs see it: the real systemd-resolved, and a resolv.conf that is
//! a bind mount, as in containers.

mod common;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::tools::{tool, unpacked};
use common::{attempt, isolated, run, runtime};
use warren_net::{
    HostConfig, HostNetwork, InterfaceConfig, NameConfig, NameMethod, NameWiring, Tun, TunConfig,
    Undone,
};

const DOMAIN: &str = "home.warren.internal";
const NAME: &str = "kitchen-pi.home.warren.internal";

/// The node's resolver: knows one name both ways, and remembers what it was asked.
#[derive(Clone, Default)]
struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Resolver {
    fn serve(&self, address: SocketAddr) {
        let socket = UdpSocket::bind(address).expect("a socket");
        let resolver = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let reply = resolver.answer(&buffer[..len]);
                let _ = socket.send_to(&reply, from);
            }
        });
    }

    /// RFC 1035 §4, for one question.
    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let (mut name, mut at) = (String::new(), 12);
        while query[at] != 0 {
            let label = &query[at + 1..at + 1 + usize::from(query[at])];
            name = name + &String::from_utf8_lossy(label).to_lowercase() + ".";
            at += 1 + label.len();
        }
        let kind = query[at + 2];
        self.asked.lock().expect("nobody panics").push(name.clone());
        let data: Option<Vec<u8>> = match (name.as_str(), kind) {
            ("kitchen-pi.home.warren.internal.", 1) => Some(vec![100, 72, 0, 7]),
            ("7.0.72.100.in-addr.arpa.", 12) => {
                let labels = NAME.split('.');
                let wire = labels.flat_map(|l| std::iter::once(l.len() as u8).chain(l.bytes()));
                Some(wire.chain([0]).collect())
            }
            _ => None,
        };
        let known = name.starts_with("kitchen-pi.home") || data.is_some();
        let mut reply = query[..2].to_vec();
        reply.extend([0x85, if known { 0x80 } else { 0x83 }, 0, 1, 0, data.is_some().into()]);
        reply.extend([0, 0, 0, 0]);
        reply.extend(&query[12..at + 5]);
        if let Some(data) = data {
            reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
            reply.extend(data);
        }
        reply
    }

    fn was_asked_of(&self, name: &str) -> bool {
        self.asked.lock().expect("nobody panics").iter().any(|asked| asked == name)
    }
}

/// A private copy of /etc, a LAN, and the mesh interface with its address.
fn mesh() -> (Tun, HostNetwork) {
    run("cp -a /etc /run/etc 2>/dev/null; mount --bind /run/etc /etc; rm -f /etc/resolv.conf; \
         echo 'hosts: files dns' >/etc/nsswitch.conf; \
         ip link add eth0 type veth peer name lan0; ip link set lan0 up; ip link set eth0 up; \
         ip addr add 192.168.7.5/24 dev eth0; ip route add default via 192.168.7.1");
    let tun = Tun::open(&TunConfig::default()).expect("a TUN");
    let mut host = HostNetwork::new(&tun, HostConfig::default()).expect("a host");
    host.configure(&InterfaceConfig {
        ipv4: [100, 72, 0, 5].into(),
        ipv6: "fd00:72::5".parse().expect("an address"),
        range4: "100.72.0.0/16".parse().expect("a network"),
        range6: "fd00:72::/48".parse().expect("a network"),
        mtu: 1280,
        peers4: Vec::new(),
        exit: None,
    })
    .expect("configured");
    (tun, host)
}

fn config(tun: &Tun, server: &str) -> NameConfig {
    NameConfig {
        all: false,
        interface: tun.index(),
        server: server.parse().expect("an address"),
        domain: DOMAIN.to_owned(),
        zones: vec!["72.100.in-addr.arpa".to_owned()],
        state_dir: "/run/warren".into(),
        resolv_conf: "/etc/resolv.conf".into(),
    }
}

/// What getent (glibc) says.
fn getent(line: &str) -> Option<String> {
    let (found, text) = attempt(&format!("timeout 20 getent {line}"));
    found.then_some(text)
}

/// Waits until a condition holds; says which when it doesn't.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that ends with its test.
struct Daemon(Child);

impl Daemon {
    fn start(program: &Path, arguments: &[&str], libraries: &Path) -> Self {
        let log = fs::File::create("/run/daemon.log").expect("/run is ours");
        let child = Command::new(program)
            .args(arguments)
            .env("LD_LIBRARY_PATH", libraries)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{}: {error}", program.display())))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
    <allow send_type="signal"/> <allow send_type="method_call"/>
  </policy>
</busconfig>
"#;

fn resolved() -> Daemon {
    // It gives up root for this user; here that is the only one there is.
    let users = fs::read_to_string("/etc/passwd").expect("a file");
    if !users.contains("systemd-resolve:x:0:") {
        let others = users.lines().filter(|line| !line.starts_with("systemd-resolve:"));
        let users = others.collect::<Vec<_>>().join("\n");
        fs::write("/etc/passwd", users + "\nsystemd-resolve:x:0:0::/:/bin/sh\n").expect("ours");
    }
    let libraries = unpacked("libsystemd-shared").join("usr/lib/x86_64-linux-gnu/systemd");
    let program = unpacked("systemd-resolved").join("lib/systemd/systemd-resolved");
    let daemon = Daemon::start(&program, &[], &libraries);
    wait("systemd-resolved listens", || run("ss -uln").contains("127.0.0.53"));
    wait("systemd-resolved is on the bus", || {
        let call = "dbus-send --system --print-reply --dest=org.freedesktop.DBus / \
                    org.freedesktop.DBus.GetNameOwner string:org.freedesktop.resolve1";
        attempt(call).0
    });
    daemon
}

#[test]
fn systemd_resolved_asks_us_for_our_names_alone() {
    // Inside there is no internet.
    unpacked("libsystemd-shared");
    unpacked("systemd-resolved");
    isolated("systemd_resolved_asks_us_for_our_names_alone", || {
        let runtime = runtime();
        let _entered = runtime.enter();
        let (tun, _host) = mesh();
        run("mkdir -p /run/dbus /run/systemd");
        fs::write("/run/bus.conf", BUS).expect("/run is ours");
        let bus = tool("dbus-daemon", "usr/bin/dbus-daemon");
        let _bus =
            Daemon::start(&bus, &["--config-file=/run/bus.conf", "--nofork"], Path::new("/"));
        wait("the bus listens", || Path::new("/run/dbus/system_bus_socket").exists());
        let daemon = resolved();
        run("ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf");

        let resolver = Resolver::default();
        // Not port 53: resolved needs none.
        resolver.serve("100.72.0.5:5300".parse().expect("an address"));
        runtime.block_on(async {
            assert_eq!(getent(&format!("ahostsv4 {NAME}")), None);
            let mut names = NameWiring::wire(config(&tun, "100.72.0.5:5300")).await.expect("wired");
            assert_eq!(names.method(), NameMethod::Resolved);
            assert!(names.upstreams().is_empty());
            let found = getent(&format!("ahostsv4 {NAME}")).expect("found");
            assert!(found.contains("100.72.0.7"), "{found}");
            // resolved writes the search list a moment later.
            wait("the bare name is found", || {
                getent("ahostsv4 kitchen-pi").is_some_and(|text| text.contains("100.72.0.7"))
            });
            assert!(getent("hosts 100.72.0.7").expect("found").contains(NAME));
            getent("ahostsv4 www.example.org");
            assert!(!resolver.was_asked_of("www.example.org."));
            assert!(!names.refresh().await.expect("nothing to do"));

            drop(daemon);
            let _again = resolved();
            assert!(names.refresh().await.expect("wired again"));
            assert!(getent(&format!("ahostsv4 {NAME}")).is_some());

            assert_eq!(names.unwire().await.expect("unwired"), Undone::Restored);
            assert_eq!(getent(&format!("ahostsv4 {NAME}")), None);
            assert!(fs::symlink_metadata("/etc/resolv.conf").expect("it is there").is_symlink());
        });
    });
}

#[test]
fn a_resolv_conf_that_is_a_bind_mount_is_written_in_place_and_put_back() {
    isolated("a_resolv_conf_that_is_a_bind_mount_is_written_in_place_and_put_back", || {
        let runtime = runtime();
        let _entered = runtime.enter();
        let (tun, _host) = mesh();
        let original = "nameserver 192.168.7.1\noptions timeout:1 attempts:1\n";
        fs::write("/run/mounted", original).expect("/run is ours");
        run("touch /etc/resolv.conf; mount --bind /run/mounted /etc/resolv.conf");
        let text = || fs::read_to_string("/etc/resolv.conf").expect("a file");
        let resolver = Resolver::default();
        resolver.serve("100.72.0.5:53".parse().expect("an address"));
        runtime.block_on(async {
            let mut names = NameWiring::wire(config(&tun, "100.72.0.5:53")).await.expect("wired");
            assert_eq!(names.method(), NameMethod::ResolvConf);
            assert_eq!(names.upstreams(), ["192.168.7.1".parse::<std::net::IpAddr>().expect("ip")]);
            assert!(getent("ahostsv4 kitchen-pi").expect("found").contains("100.72.0.7"));
            assert!(getent("hosts 100.72.0.7").expect("found").contains(NAME));
            getent("ahostsv4 www.example.org");
            assert!(resolver.was_asked_of("www.example.org."), "it forwards the others");

            // A DHCP client writes the file; ours comes back above it.
            fs::write("/etc/resolv.conf", "nameserver 9.9.9.9\n").expect("it is writable");
            assert!(names.refresh().await.expect("wired again"));
            assert_eq!(names.upstreams(), ["9.9.9.9".parse::<std::net::IpAddr>().expect("ip")]);
            assert!(getent("ahostsv4 kitchen-pi").is_some());
            assert_eq!(names.unwire().await.expect("unwired"), Undone::Restored);
            assert_eq!(text(), "nameserver 9.9.9.9\n");

            // A crash, and the next start.
            fs::write("/etc/resolv.conf", original).expect("it is writable");
            let names = NameWiring::wire(config(&tun, "100.72.0.5:53")).await.expect("wired");
            std::mem::forget(names);
            assert_ne!(text(), original);
            let undone = NameWiring::clean_up(&config(&tun, "100.72.0.5:53")).expect("cleaned");
            assert_eq!(undone, Undone::Restored);
            assert_eq!(text(), original);
        });
    });
}
