//! TCP to an edge, and through one of its forwards to a device of its LAN, by the kernel and by the userspace
//! proxy, alternating in one run.
//!
//! `cargo run --release -p warren-bench --bin edge_forward -- [--rounds N] [--seconds N]`
//!
//! ```text
//! laptop 192.0.2.2 ── 192.0.2.1 edge 192.168.1.2 ── 192.168.1.9 device
//! ```
//!
//! Printed: medians of 1 and 4 streams, both ways, and what of the tunnel's own rate each forward leaves.

use std::env;
use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use warren_bench::{binary, median, resident_kib};
use warren_lab::warren::{Broker, Node, Warren};
use warren_lab::{Host, Process, World, wait_for};

const IPERF: &str = "5201";
/// The edge's port that leads to the device's [`IPERF`].
const FORWARDED: &str = "15201";

struct Options {
    rounds: usize,
    seconds: u32,
}

fn main() -> Result<()> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    warren_bench::enter_namespaces("edge-forward", &arguments)?;
    let options = options(&arguments)?;
    let world = World::enter("edge-forward")?;
    let site = Site::build(&world)?;
    site.measure(&options)
}

fn options(arguments: &[OsString]) -> Result<Options> {
    let mut options = Options { rounds: 5, seconds: 3 };
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} takes a value"))?;
        match name.as_ref() {
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            _ => bail!("unknown flag {name}"),
        }
    }
    Ok(options)
}

/// An edge with an open forward, and a laptop with a tunnel to it.
struct Site {
    laptop: Host,
    /// The edge's mesh address.
    mesh: String,
    edge: Node,
    _laptop: Node,
    _broker: Broker,
    _servers: [Process; 2],
}

impl Site {
    fn build(world: &World) -> Result<Self> {
        let (edge, laptop) = (world.host("edge")?, world.host("laptop")?);
        let device = world.host("device")?;
        edge.ip(&["link set lo up", "link add wire type veth peer name wire netns laptop"])?;
        edge.ip(&["address add 192.0.2.1/24 dev wire", "link set wire up"])?;
        laptop.ip(&["link set lo up", "address add 192.0.2.2/24 dev wire", "link set wire up"])?;
        edge.ip(&["link add lan type veth peer name lan netns device"])?;
        edge.ip(&["address add 192.168.1.2/24 dev lan", "link set lan up"])?;
        device.ip(&["link set lo up", "address add 192.168.1.9/24 dev lan", "link set lan up"])?;

        let warren = Warren::at(&binary()?);
        let broker = Broker::start_without_relay(&warren, &edge, &["192.0.2.1".parse()?])?;
        let link = broker.join_link()?;
        let flags = ["--join", &link, "--dns", "off", "--mtu", "1420"];
        let mut node = Node::start(&warren, &edge, &flags)?;
        let mesh = node.wait_connected()?.node.ipv4.context("the edge has no mesh address")?;
        let mut other = Node::start(&warren, &laptop, &flags)?;
        other.wait_connected()?;
        other.wait_peers(&["edge"])?;
        let site = Self {
            mesh: mesh.to_string(),
            _servers: [
                edge.command("iperf3").args(["-s", "-p", IPERF]).spawn()?,
                device.command("iperf3").args(["-s", "-p", IPERF]).spawn()?,
            ],
            laptop,
            edge: node,
            _laptop: other,
            _broker: broker,
        };
        site.open()?;
        Ok(site)
    }

    fn open(&self) -> Result<()> {
        let limit = std::time::Duration::from_secs(20);
        self.edge.run(&["edge", "enable"])?;
        wait_for("the broker's word on the edge", limit, || {
            Ok((self.status()?["accepted"] == true).then_some(()))
        })?;
        let target = format!("192.168.1.9:{IPERF}");
        self.edge.run(&["edge", "forwards", "add", FORWARDED, &target])?;
        wait_for("the forward", limit, || {
            let mut probe = self.laptop.command("iperf3");
            let probe = probe.args(["-c", &self.mesh, "-p", FORWARDED, "-t", "1"]);
            Ok(probe.output()?.status.success().then_some(()))
        })
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.edge.run(&["--json", "edge", "status"])?)?)
    }

    /// Has the forward go by the userspace proxy, or by the kernel.
    fn choose(&self, userspace: bool) -> Result<()> {
        let words: &[&str] =
            if userspace { &["edge", "enable", "--userspace"] } else { &["edge", "enable"] };
        self.edge.run(words)?;
        wait_for("the way", std::time::Duration::from_secs(20), || {
            let problems = self.status()?["state"]["problems"].to_string();
            let is_chosen = problems.contains("userspace proxy") == userspace;
            let mut probe = self.laptop.command("iperf3");
            let probe = probe.args(["-c", &self.mesh, "-p", FORWARDED, "-n", "1K"]);
            Ok((is_chosen && probe.output()?.status.success()).then_some(()))
        })
    }

    fn measure(mut self, options: &Options) -> Result<()> {
        for (title, streams, reverse) in [
            ("1 stream, to the site", 1, false),
            ("1 stream, from the site", 1, true),
            ("4 streams, to the site", 4, false),
            ("4 streams, from the site", 4, true),
        ] {
            let mut rates = [Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..options.rounds {
                let ways = [(IPERF, false), (FORWARDED, false), (FORWARDED, true)];
                for ((port, userspace), rates) in ways.into_iter().zip(&mut rates) {
                    self.choose(userspace)?;
                    rates.push(self.iperf(port, options.seconds, streams, reverse)?);
                }
            }
            let [tunnel, kernel, proxy] = rates.each_ref().map(|rates| median(rates));
            let share = |rate: f64| rate / tunnel * 100.0;
            println!(
                "{title}: {tunnel:.2} Gbit/s to the edge, {kernel:.2} through its forward by the kernel \
                 ({:.0} %), {proxy:.2} by the userspace proxy ({:.0} %)",
                share(kernel),
                share(proxy)
            );
        }
        let kib = resident_kib(self.edge.process().pid())?;
        println!("the edge's node has {:.1} MiB resident", kib as f64 / 1024.0);
        Ok(())
    }

    /// Gbit/s received.
    fn iperf(&self, port: &str, seconds: u32, streams: u32, reverse: bool) -> Result<f64> {
        let (seconds, streams) = (seconds.to_string(), streams.to_string());
        let mut argv =
            vec!["iperf3", "-J", "-c", &self.mesh, "-p", port, "-t", &seconds, "-P", &streams];
        if reverse {
            argv.push("-R");
        }
        let report: Value = serde_json::from_str(&self.laptop.run(&argv)?)?;
        let rate = &report["end"]["sum_received"]["bits_per_second"];
        Ok(rate.as_f64().context("iperf3 reported no rate")? / 1e9)
    }
}
