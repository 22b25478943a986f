//! TCP through a tunnel: Warren and wireguard-go on the same two hosts, alternating in one run.
//!
//! `cargo run --release -p warren-bench --bin throughput -- [--rounds N] [--seconds N] [--mtu N]`
//!
//! Two hosts, one veth, offloads on; both tunnels stand side by side. Each round measures each of
//! them: 1 and 4 streams, both ways, then ping under one stream. Printed: medians and ratios.
//! wireguard-go comes from `WIREGUARD_GO`; Debian sid's is the one to beat (docs/measurements.md).

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use warren_bench::{cpu_seconds, median, resident_kib};
use warren_lab::warren::{Broker, Node, Warren};
use warren_lab::{Host, Process, World, wait_for};

struct Options {
    rounds: usize,
    seconds: u32,
    mtu: Option<u32>,
}

/// A tunnel under test.
struct Tunnel {
    name: &'static str,
    /// The mesh addresses of the two ends.
    ends: [String; 2],
    /// The two daemons.
    pids: [u32; 2],
    _daemons: Daemons,
}

/// What runs as long as the tunnel is measured.
enum Daemons {
    Warren { _broker: Box<Broker>, _nodes: Vec<Node> },
    WireguardGo { _processes: Vec<Process> },
}

#[derive(Default)]
struct Samples {
    gbit: Vec<f64>,
    cpu_per_gib: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    warren_bench::enter_namespaces("throughput", &arguments)?;
    let options = options(&arguments)?;
    let world = World::enter("throughput")?;
    let (left, right) = two_hosts(&world)?;
    let tunnels = [warren(&left, &right, options.mtu)?, wireguard_go(&left, &right)?];
    let _server = left.command("iperf3").args(["-s"]).spawn()?;
    measure(&options, &right, &tunnels)
}

fn options(arguments: &[OsString]) -> Result<Options> {
    let mut options = Options { rounds: 3, seconds: 5, mtu: Some(1420) };
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} takes a value"))?;
        match name.as_ref() {
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--mtu" if value == "default" => options.mtu = None,
            "--mtu" => options.mtu = Some(value.parse()?),
            _ => bail!("unknown flag {name}"),
        }
    }
    Ok(options)
}

fn two_hosts(world: &World) -> Result<(Host, Host)> {
    let (left, right) = (world.host("left")?, world.host("right")?);
    left.ip(&["link set lo up", "link add wire type veth peer name wire netns right"])?;
    left.ip(&["address add 192.0.2.1/24 dev wire", "link set wire up"])?;
    right.ip(&["link set lo up", "address add 192.0.2.2/24 dev wire", "link set wire up"])?;
    Ok((left, right))
}

fn warren(left: &Host, right: &Host, mtu: Option<u32>) -> Result<Tunnel> {
    let warren = Warren::at(&warren_bench::binary()?);
    let broker = Broker::start_without_relay(&warren, left, &["192.0.2.1".parse()?])?;
    let link = broker.join_link()?;
    let mut flags = vec!["--join".to_owned(), link, "--dns".to_owned(), "off".to_owned()];
    if let Some(mtu) = mtu {
        flags.extend(["--mtu".to_owned(), mtu.to_string()]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut nodes = [Node::start(&warren, left, &flags)?, Node::start(&warren, right, &flags)?];
    let mut ends = Vec::new();
    for node in &mut nodes {
        let address = node.wait_connected()?.node.ipv4;
        ends.push(address.context("a connected node has an address")?.to_string());
    }
    nodes[1].wait_peers(&["left"])?;
    let pids = [nodes[0].process().pid(), nodes[1].process().pid()];
    Ok(Tunnel {
        name: "warren",
        ends: array(ends)?,
        pids,
        _daemons: Daemons::Warren { _broker: Box::new(broker), _nodes: nodes.into() },
    })
}

fn wireguard_go(left: &Host, right: &Host) -> Result<Tunnel> {
    let binary =
        env::var_os("WIREGUARD_GO").map_or_else(|| PathBuf::from("wireguard-go"), PathBuf::from);
    let keys = [key_pair()?, key_pair()?];
    let mut processes = Vec::new();
    let mut pids = Vec::new();
    for (number, host) in [left, right].into_iter().enumerate() {
        let process =
            host.command(&binary).args(["-f", "wg0"]).env("LOG_LEVEL", "error").spawn()?;
        pids.push(process.pid());
        processes.push(process);
        let peer = 1 - number;
        let configuration = format!(
            "set=1\nprivate_key={}\nlisten_port=51820\npublic_key={}\nendpoint=192.0.2.{}:51820\n\
             allowed_ip=10.99.0.{}/32\n\n",
            keys[number].0,
            keys[peer].1,
            peer + 1,
            peer + 1
        );
        let socket = Path::new("/var/run/wireguard/wg0.sock");
        wait_for("wireguard-go's socket", Duration::from_secs(10), || {
            host.enter(|| configure(socket, &configuration))
        })?;
        host.ip(&[
            format!("address add 10.99.0.{}/24 dev wg0", number + 1),
            "link set wg0 mtu 1420 up".to_owned(),
        ])?;
    }
    let ends = ["10.99.0.1".to_owned(), "10.99.0.2".to_owned()];
    Ok(Tunnel {
        name: "wireguard-go",
        ends,
        pids: array(pids)?,
        _daemons: Daemons::WireguardGo { _processes: processes },
    })
}

/// Writes a configuration in wireguard-go's own protocol; `None` while its socket isn't there.
fn configure(socket: &Path, configuration: &str) -> Option<()> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.write_all(configuration.as_bytes()).ok()?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).ok()?;
    answer[..length].starts_with(b"errno=0").then_some(())
}

/// A private and a public key in hexadecimal.
fn key_pair() -> Result<(String, String)> {
    use std::io::Read as _;
    let mut private = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut private)?;
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(private));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok((hex(&private), hex(public.as_bytes())))
}

fn measure(options: &Options, client: &Host, tunnels: &[Tunnel; 2]) -> Result<()> {
    for tunnel in tunnels {
        client.run(&["ping", "-c", "3", "-i", "0.3", "-W", "5", &tunnel.ends[0]])?;
    }
    for (title, streams, reverse) in [
        ("1 stream, there", 1, false),
        ("1 stream, back", 1, true),
        ("4 streams, there", 4, false),
        ("4 streams, back", 4, true),
    ] {
        let mut samples = [Samples::default(), Samples::default()];
        for round in 0..options.rounds {
            for (tunnel, samples) in tunnels.iter().zip(&mut samples) {
                let (gbit, cpu_per_gib) = iperf(client, tunnel, options.seconds, streams, reverse)?;
                eprintln!(
                    "{title}, round {round}: {} {gbit:.2} Gbit/s, {cpu_per_gib:.2} s/GiB",
                    tunnel.name
                );
                samples.gbit.push(gbit);
                samples.cpu_per_gib.push(cpu_per_gib);
            }
        }
        let rate = samples.each_ref().map(|samples| median(&samples.gbit));
        let cpu = samples.each_ref().map(|samples| median(&samples.cpu_per_gib));
        println!(
            "{title}: {:.2} against {:.2} Gbit/s ({:.2} times), {:.2} against {:.2} CPU s/GiB ({:.2} times)",
            rate[0],
            rate[1],
            rate[0] / rate[1],
            cpu[0],
            cpu[1],
            cpu[0] / cpu[1]
        );
    }
    let mut rtt = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (tunnel, rtt) in tunnels.iter().zip(&mut rtt) {
            rtt.push(ping_under_load(client, tunnel, options.seconds)?);
        }
    }
    println!("ping under one stream: {:.2} against {:.2} ms", median(&rtt[0]), median(&rtt[1]));
    for tunnel in tunnels {
        let memory = [resident_kib(tunnel.pids[0])?, resident_kib(tunnel.pids[1])?];
        println!("resident, {}: {:.1} and {:.1} MiB", tunnel.name, mib(memory[0]), mib(memory[1]));
    }
    Ok(())
}

/// Gbit/s received, and CPU seconds of both daemons per GiB.
fn iperf(
    client: &Host,
    tunnel: &Tunnel,
    seconds: u32,
    streams: u32,
    reverse: bool,
) -> Result<(f64, f64)> {
    let cpu = |tunnel: &Tunnel| -> Result<f64> {
        Ok(cpu_seconds(tunnel.pids[0])? + cpu_seconds(tunnel.pids[1])?)
    };
    let before = cpu(tunnel)?;
    let (seconds, streams) = (seconds.to_string(), streams.to_string());
    let mut argv = vec!["iperf3", "-J", "-c", &tunnel.ends[0], "-t", &seconds, "-P", &streams];
    if reverse {
        argv.push("-R");
    }
    let report: Value = serde_json::from_str(&client.run(&argv)?)?;
    let used = cpu(tunnel)? - before;
    let received = &report["end"]["sum_received"];
    let bytes = received["bytes"].as_f64().context("iperf3 reported no bytes")?;
    let rate = received["bits_per_second"].as_f64().context("iperf3 reported no rate")?;
    Ok((rate / 1e9, used / (bytes / f64::from(1 << 30))))
}

/// Average round trip in milliseconds while one TCP stream runs.
fn ping_under_load(client: &Host, tunnel: &Tunnel, seconds: u32) -> Result<f64> {
    let mut load = client
        .command("iperf3")
        .args(["-c", &tunnel.ends[0], "-t", &(seconds + 2).to_string()])
        .spawn()?;
    let count = (seconds * 10).to_string();
    let text = client.run(&["ping", "-q", "-i", "0.1", "-c", &count, &tunnel.ends[0]])?;
    load.wait(Duration::from_secs(u64::from(seconds) + 20))?;
    let times = text.split("mdev = ").nth(1).context("ping printed no times")?;
    times.split('/').nth(1).context("ping printed no average")?.parse().context("ping's average")
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn array<T>(items: Vec<T>) -> Result<[T; 2]> {
    items.try_into().map_err(|_| anyhow::anyhow!("two ends"))
}
