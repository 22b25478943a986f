//! The pair relay, the real program: clients in C and Rust behind NATs, signals, floods of data.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use common::{SECOND, in_parallel, refused};
use nix::sys::signal::Signal;
use warren_lab::warren::Warren;
use warren_lab::{Host, NatKind, NatSpec, Plug, Process, World, isolated, wait_for};
use warren_net::{ServerSocket, ServerSocketConfig};
use warren_pair::wire::MAGIC;
use warren_pair::{Authenticator, Guid, Key, Proof};

const KEY: &str = "bm90IHRoZSB3ZWxsLWtub3duIGtleSwgYnV0IG9uZQ==";
const GUID: &str = "0123456789abcdef0123456789abcdef";
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);

/// A running pair relay on a host of its own.
struct Relay {
    warren: Warren,
    host: Host,
    process: Process,
    address: SocketAddr,
    address6: SocketAddr,
}

impl Relay {
    fn start(world: &World, flags: &[&str]) -> Result<Self> {
        let warren = Warren::locate()?;
        let host = world.host("relay")?;
        let link = world.internet().plug(&host, &Plug::dual())?;
        let mut command = warren.on(&host);
        let metrics = METRICS.to_string();
        command.args(["--log", "info", "pair-relay", "--ipv6", "--metrics", &metrics]);
        let process = command.args(flags).env("UDP_RELAY_SECRET_KEY", KEY).spawn()?;
        let (v4, v6) = (link.v4()?, link.v6()?);
        let relay = Self {
            warren,
            host,
            process,
            address: SocketAddr::from((v4, 6060)),
            address6: SocketAddr::from((v6, 6060)),
        };
        wait_for("the pair relay", 10 * SECOND, || Ok(relay.probe(&[]).ok()))?;
        Ok(relay)
    }

    fn probe(&self, flags: &[&str]) -> Result<String> {
        let output = self.probe_output(flags)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the probe says: {complaint}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn probe_output(&self, flags: &[&str]) -> Result<std::process::Output> {
        let mut command = self.warren.on(&self.host);
        command.args(["pair-relay", "probe", "--timeout", "2s"]).args(flags);
        command.env("UDP_RELAY_SECRET_KEY", KEY).output()
    }

    /// A page of its HTTP server, status line first.
    fn page(&self, path: &str) -> Result<String> {
        self.host.enter(|| {
            let mut stream = TcpStream::connect(METRICS)?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(page)
        })?
    }

    fn metric(&self, name: &str) -> Result<u64> {
        let page = self.page("/metrics")?;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("there is no {name} in {page}"))?.parse().context("a number")
    }
}

fn authenticator() -> Result<Authenticator> {
    Ok(Authenticator::new(Some(Key::from_base64(KEY)?)))
}

/// A socket on `host` that only talks to the relay.
fn socket(host: &Host, relay: SocketAddr) -> Result<UdpSocket> {
    let any = if relay.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    host.enter(|| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(relay)?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(socket)
    })?
}

fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
}

/// The next datagram that is no handshake: repeated ones may still be under way.
fn receive_data(socket: &UdpSocket) -> Option<Vec<u8>> {
    let is_data = |datagram: &Vec<u8>| !datagram.starts_with(&MAGIC.to_be_bytes());
    std::iter::from_fn(|| receive(socket)).find(is_data)
}

/// Joins two sockets as clients of the original do.
fn join(first: &UdpSocket, second: &UdpSocket, guid: Guid) -> Result<()> {
    let hello = authenticator()?.write(guid, &[]);
    let is_hello = |datagram: Option<Vec<u8>>| datagram.is_some_and(|datagram| datagram == hello);
    wait_for("a pair", 10 * SECOND, || {
        first.send(&hello)?;
        second.send(&hello)?;
        if !is_hello(receive(first)) {
            return Ok(None);
        }
        first.send(&hello)?;
        Ok(is_hello(receive(second)).then_some(()))
    })?;
    drain(first)?;
    drain(second)
}

fn drain(socket: &UdpSocket) -> Result<()> {
    socket.set_nonblocking(true)?;
    while receive(socket).is_some() {}
    Ok(socket.set_nonblocking(false)?)
}

fn guid(number: u32) -> Result<Guid> {
    Guid::from_words([7, 7, 7, number]).context("not zero")
}

fn carries(from: &UdpSocket, to: &UdpSocket, text: &str) -> Result<()> {
    from.send(text.as_bytes())?;
    let got = receive_data(to);
    ensure!(got.as_deref() == Some(text.as_bytes()), "{text} arrived as {got:?}");
    Ok(())
}

/// Builds the clients of `examples/`, the C one by the system's compiler.
fn examples() -> Result<(PathBuf, PathBuf)> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("a test lies in <target>/<profile>/deps")?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let (in_c, in_rust) = (profile.join("pair_client_c"), profile.join("examples/pair_client"));
    for name in ["pair_client.c", "pair_client.rs"] {
        let lines = std::fs::read_to_string(sources.join(name))?.lines().count();
        ensure!(lines < 80, "{name} has {lines} lines");
    }
    let flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"];
    let output = Command::new("cc")
        .args(flags)
        .arg(&in_c)
        .arg(sources.join("pair_client.c"))
        .arg("-lcrypto")
        .output()
        .context("there is no C compiler")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        in_rust.exists(),
        "{}: run without --test, which leaves examples out",
        in_rust.display()
    );
    Ok((in_c, in_rust))
}

#[test]
fn the_examples_in_c_and_rust_talk_from_behind_their_nats() {
    isolated(|world| {
        let (in_c, in_rust) = examples()?;
        let relay = Relay::start(world, &[])?;
        let ip = relay.address.ip().to_string();
        let home = |name: &str, kind| -> Result<Host> {
            let home =
                world.router(&format!("{name}-home"), world.internet(), NatSpec::new(kind))?;
            let host = world.host(name)?;
            home.lan().plug(&host, &Plug::ipv4())?;
            Ok(host)
        };
        let a = home("in-c", NatKind::Apdm)?;
        let b = home("in-rust", NatKind::EimApdf)?;
        let run =
            |host: &Host, program: &Path, arguments: &[&str], input: &str| -> Result<String> {
                let mut command = host.command(program);
                command.args(arguments).env("UDP_RELAY_SECRET_KEY", KEY);
                let output = command.output_with(input)?;
                let complaint = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{}: {complaint}", program.display());
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            };
        let address = relay.address.to_string();
        let jobs: Vec<Box<dyn FnOnce() -> Result<String> + Send>> = vec![
            Box::new(|| run(&a, &in_c, &[&ip, "6060", GUID], "from C\nagain\n")),
            Box::new(|| run(&b, &in_rust, &[&address, GUID], "from Rust\n")),
        ];
        let said = in_parallel(2, jobs)?;
        ensure!(said == ["from Rust\n", "from C\nagain\n"], "they printed {said:?}");
        Ok(())
    });
}

#[test]
fn a_hundred_pairs_lose_nothing() {
    isolated(|world| {
        const PAIRS: u32 = 100;
        const ROUNDS: u32 = 200;
        let relay = Relay::start(world, &["--workers", "2"])?;
        let host = world.host("clients")?;
        world.internet().plug(&host, &Plug::ipv4())?;
        let mut pairs = Vec::new();
        for number in 0..PAIRS {
            let (from, to) = (socket(&host, relay.address)?, socket(&host, relay.address)?);
            join(&from, &to, guid(number)?)?;
            pairs.push((from, to));
        }
        ensure!(relay.metric("warren_pair_pairs")? >= u64::from(PAIRS));
        for (_, to) in &pairs {
            to.set_nonblocking(true)?;
        }
        let mut received = vec![Vec::new(); pairs.len()];
        let mut take = || {
            for ((_, to), received) in pairs.iter().zip(&mut received) {
                received.extend(std::iter::from_fn(|| receive_data(to)));
            }
        };
        let start = Instant::now();
        for round in 0..ROUNDS {
            for (number, (from, _)) in (0_u32..).zip(&pairs) {
                let mut datagram = [0; 300];
                datagram[..4].copy_from_slice(&round.to_be_bytes());
                datagram[4..8].copy_from_slice(&number.to_be_bytes());
                from.send(&datagram)?;
            }
            take();
            let next = start + Duration::from_millis(24) * (round + 1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        std::thread::sleep(SECOND);
        take();
        let mut lost = 0;
        for (number, received) in (0_u32..).zip(&received) {
            let mut rounds = Vec::new();
            for datagram in received {
                ensure!(datagram[4..8] == number.to_be_bytes(), "from another pair");
                rounds.push(u32::from_be_bytes(datagram[..4].try_into()?));
            }
            ensure!(rounds.is_sorted_by(|one, next| one < next), "not in order: {rounds:?}");
            lost += ROUNDS - rounds.len() as u32;
        }
        ensure!(lost == 0, "{lost} of {} datagrams were lost", PAIRS * ROUNDS);
        Ok(())
    });
}

#[test]
fn runs_of_segments_arrive_byte_by_byte() {
    isolated(|world| {
        let relay = Relay::start(world, &[])?;
        let host = world.host("clients")?;
        world.internet().plug(&host, &Plug::dual())?;
        let from = host.enter(|| {
            ServerSocket::bind(&ServerSocketConfig::new(([0, 0, 0, 0], 7000).into()))
        })??;
        // From IPv4 to IPv6: two sockets of the relay.
        let to = socket(&host, relay.address6)?;
        let hello = authenticator()?.write(guid(1)?, &[]);
        wait_for("a pair", 10 * SECOND, || {
            from.send_run(relay.address, &hello, hello.len());
            to.send(&hello)?;
            Ok(receive(&to).filter(|datagram| *datagram == hello))
        })?;
        drain(&to)?;
        let before = relay.metric("warren_pair_socket_receives_total")?;
        let mut sent = 0;
        for (round, stride) in [1, 20, 56, 300, 1000, 1400, 1440].into_iter().enumerate() {
            for datagrams in [1, 2, 16, 40] {
                let length = stride * datagrams - usize::from(stride > 1);
                let run: Vec<u8> = (0..length).map(|at| (at * 7 + round) as u8).collect();
                from.send_run(relay.address, &run, stride);
                for expected in run.chunks(stride) {
                    let got = receive(&to);
                    ensure!(got.as_deref() == Some(expected), "{datagrams} of {stride} bytes");
                    sent += 1;
                }
            }
        }
        let receives = relay.metric("warren_pair_socket_receives_total")? - before;
        ensure!(receives * 3 < sent, "{sent} datagrams were received in {receives} runs");
        Ok(())
    });
}

#[test]
fn a_client_at_a_new_address_is_back_at_once_and_a_replay_is_not() {
    isolated(|world| {
        let relay = Relay::start(world, &[])?;
        let host = world.host("clients")?;
        world.internet().plug(&host, &Plug::ipv4())?;
        let [a, b, moved, thief] = [(); 4].map(|()| socket(&host, relay.address));
        let (a, b, moved, thief) = (a?, b?, moved?, thief?);
        let fresh = |nonce: u8| -> Result<Vec<u8>> {
            let time = SystemTime::UNIX_EPOCH.elapsed()?.as_micros();
            let proof = Proof { time: u64::try_from(time)?, nonce: [nonce; 16] };
            Ok(authenticator()?.write(guid(5)?, &proof.to_bytes()))
        };
        let (hello_a, hello_b) = (fresh(1)?, fresh(2)?);
        a.send(&hello_a)?;
        wait_for("the waiting client", SECOND, || {
            Ok((relay.metric("warren_pair_waiting")? == 1).then_some(()))
        })?;
        b.send(&hello_b)?;
        ensure!(receive(&a).as_deref() == Some(&hello_b[..]), "not joined");
        carries(&a, &b, "joined")?;
        thief.send(&hello_b)?;
        ensure!(receive(&a).is_none(), "a replay was forwarded");
        carries(&a, &b, "still here")?;
        let again = fresh(2)?;
        moved.send(&again)?;
        ensure!(receive(&a).as_deref() == Some(&again[..]), "not taken back");
        carries(&a, &moved, "there")?;
        carries(&moved, &a, "and back")?;
        b.send(b"from the old address")?;
        ensure!(receive(&a).is_none(), "the old address is still forwarded");
        ensure!(relay.metric("warren_pair_rebound_total")? == 1);
        Ok(())
    });
}

#[test]
fn sigterm_drains_and_sigint_ends_at_once() {
    isolated(|world| {
        let timers = ["--idle-timeout", "3s", "--sweep-interval", "200ms"];
        let mut relay = Relay::start(world, &timers)?;
        let host = world.host("clients")?;
        world.internet().plug(&host, &Plug::ipv4())?;
        let (a, b) = (socket(&host, relay.address)?, socket(&host, relay.address)?);
        join(&a, &b, guid(1)?)?;
        ensure!(relay.page("/readyz")?.starts_with("HTTP/1.1 200"));
        relay.process.signal(Signal::SIGTERM)?;
        wait_for("draining", 5 * SECOND, || {
            Ok(relay.page("/readyz")?.starts_with("HTTP/1.1 503").then_some(()))
        })?;
        ensure!(relay.page("/healthz")?.starts_with("HTTP/1.1 200"));
        refused(&relay.probe_output(&[])?, "draining")?;
        carries(&a, &b, "while draining")?;
        carries(&b, &a, "and back")?;
        let status = relay.process.wait(20 * SECOND)?;
        ensure!(status.success(), "it ended with {status}");
        ensure!(relay.process.log().contains("the last pair has ended"));

        let mut command = relay.warren.on(&relay.host);
        command.args(["pair-relay"]).env("UDP_RELAY_SECRET_KEY", KEY).label("second");
        relay.process = command.spawn()?;
        wait_for("the second relay", 10 * SECOND, || Ok(relay.probe(&[]).ok()))?;
        relay.process.signal(Signal::SIGINT)?;
        let status = relay.process.wait(2 * SECOND)?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    });
}

#[test]
fn an_unsafe_or_impossible_start_is_refused_and_says_what_to_do() {
    isolated(|world| {
        let relay = Relay::start(world, &[])?;
        let start = |key: Option<&str>, flags: &[&str]| {
            let mut command = relay.warren.on(&relay.host);
            command.args(["pair-relay", "--port", "7070"]).args(flags);
            if let Some(key) = key {
                command.env("UDP_RELAY_SECRET_KEY", key);
            }
            command.output()
        };
        let well_known = warren_pair::WELL_KNOWN_KEY;
        refused(&start(None, &[])?, "there is no key: make one")?;
        refused(&start(Some(""), &[])?, "is empty: make one")?;
        refused(&start(Some("%"), &[])?, "isn't base64")?;
        refused(&start(Some(well_known), &[])?, "well-known")?;
        refused(&start(Some(KEY), &["--port", "6060"])?, "--port")?;
        refused(&start(Some(KEY), &["--listen", "192.0.2.77"])?, "address of this machine")?;
        refused(&start(Some(KEY), &["--listen", "127.0.0.1,127.0.0.2"])?, "of each family")?;
        refused(&start(Some(KEY), &["--magic", "0x1G"])?, "32 bits")?;
        refused(&relay.probe_output(&["127.0.0.1:1"])?, "nothing listens")?;
        refused(&relay.probe_output(&["--magic", "7"])?, "the key the same")?;
        Ok(())
    });
}

#[test]
fn the_flags_that_open_a_relay_open_it_and_another_magic_closes_it() {
    isolated(|world| {
        let relay = Relay::start(world, &[])?;
        let file = relay.host.folder().join("key");
        std::fs::write(&file, format!("{KEY}\n"))?;
        let file = file.to_str().context("a path")?;
        for (port, flags) in [
            ("7001", &["--no-mac"][..]),
            ("7002", &["--allow-default-key"]),
            ("7003", &["--key-file", file, "--magic", "0x01020304"]),
        ] {
            let mut command = relay.warren.on(&relay.host);
            command.args(["pair-relay", "--port", port]).args(flags).label(port);
            let _process = command.spawn()?;
            let to = format!("127.0.0.1:{port}");
            let probe = |flags: &[&str]| -> Result<bool> {
                let mut command = relay.warren.on(&relay.host);
                command.args(["pair-relay", "probe", "--timeout", "1s", &to]).args(flags);
                Ok(command.output()?.status.success())
            };
            wait_for("the relay", 10 * SECOND, || Ok(probe(flags)?.then_some(())))?;
            if port == "7003" && probe(&["--key-file", file])? {
                bail!("the usual magic works too");
            }
        }
        Ok(())
    });
}
