//! Three namespaces in a row, and how their work is counted.
//!
//! ```text
//! client  wbcr 10.77.1.2 ── 10.77.1.1 wbrc  relay  wbrp 10.77.2.1 ── 10.77.2.2 wbpr  peer
//! ```
//!
//! The relay and the network work of its interfaces run on one core, the generator and that of its
//! own interfaces on another. Threaded NAPI makes the network's work kernel threads, so that it can
//! be counted; for that GRO must be on and TSO off. The generator's interfaces don't segment UDP, so
//! the relay receives single datagrams, as it would from a wire.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use warren_lab::{Host, World};

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
/// Where relays listen to clients.
pub(crate) const LISTEN: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// Where relays talk to peers from.
pub(crate) const RELAYED: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);
pub(crate) const TURN_PORT: u16 = 3478;
pub(crate) const PAIR_PORT: u16 = 6060;
/// Source addresses of many clients, all of the client's host.
pub(crate) const MANY: &str = "10.78.0.0/16";

const GENERATOR_CORE: usize = 0;
const RELAY_CORE: usize = 1;
const INSIDE: &str = "WARREN_LAB_INSIDE";

pub(crate) struct Stage {
    pub(crate) client: Host,
    pub(crate) relay: Host,
    pub(crate) peer: Host,
    /// The kernel threads of the relay's interfaces.
    relay_network: Vec<i32>,
    spawner: mpsc::Sender<Order>,
    world: World,
}

/// A program to be started, and whom to tell.
type Order = (Command, SyncSender<std::io::Result<Child>>);

/// CPU seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) process: f64,
    pub(crate) network: f64,
    /// All that ran on the relay's core, the two included.
    core: f64,
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            process: self.process - before.process,
            network: self.network - before.network,
            core: self.core - before.core,
        }
    }

    /// What others used of the relay's core.
    pub(crate) fn others(self) -> f64 {
        (self.core - self.total()).max(0.0)
    }

    pub(crate) fn total(self) -> f64 {
        self.process + self.network
    }
}

/// Runs this program again in namespaces of its own, but among the host's processes: kernel threads
/// can't be seen from a pid namespace. Ends the process outside.
pub(crate) fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    ensure!(nix::unistd::geteuid().is_root(), "run this as root: it counts kernel threads' work");
    let logs = std::env::temp_dir().join(format!("warren-relay-bench-{}", std::process::id()));
    fs::create_dir_all(&logs)?;
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--uts", "--ipc"])
        .args(["--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .env("WARREN_LAB_LOGS", &logs)
        .status()
        .context("unshare and setpriv (util-linux) are needed")?;
    std::process::exit(status.code().unwrap_or(1));
}

impl Stage {
    pub(crate) fn set_up() -> Result<Self> {
        let world = World::enter("relay-bench")?;
        let (client, relay, peer) =
            (world.host("client")?, world.host("relay")?, world.host("peer")?);
        link(&client, "wbcr", CLIENT, &relay, "wbrc", LISTEN)?;
        link(&peer, "wbpr", PEER, &relay, "wbrp", RELAYED)?;
        client.ip(&[format!("route add local {MANY} dev lo")])?;
        relay.ip(&[format!("route add {MANY} via {CLIENT}")])?;
        for (host, device) in [(&client, "wbcr"), (&peer, "wbpr")] {
            tune(host, device, &["tx-udp-segmentation", "off"])?;
            pin_network(device, GENERATOR_CORE)?;
        }
        let mut relay_network = Vec::new();
        for device in ["wbrc", "wbrp"] {
            tune(&relay, device, &[])?;
            relay_network.extend(pin_network(device, RELAY_CORE)?);
        }
        let spawner = spawner(&relay);
        let stage = Self { client, relay, peer, relay_network, spawner, world };
        stage.client.run(&["ping", "-c", "1", "-W", "2", &LISTEN.to_string()])?;
        stage.peer.run(&["ping", "-c", "1", "-W", "2", &RELAYED.to_string()])?;
        Ok(stage)
    }

    /// Starts a program on the relay's host and core; it ends with this one, however that ends.
    pub(crate) fn spawn(&self, program: &Path, arguments: &mut Command) -> Result<Child> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "taskset", "-c", &RELAY_CORE.to_string()]);
        command.arg(program).args(arguments.get_args());
        for (name, value) in arguments.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let log = fs::File::create(self.log())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let (tell, told) = mpsc::sync_channel(1);
        self.spawner.send((command, tell)).context("the spawner lives")?;
        told.recv().context("the spawner answers")?.context("setpriv and taskset (util-linux)")
    }

    /// Packets that the two wires to the client dropped so far, because the kernel thread at their
    /// end didn't run for longer than its 256 packets last: that of the way there, and back.
    pub(crate) fn wire_drops(&self) -> Result<[u64; 2]> {
        let read = |host: &Host, device: &str| -> Result<u64> {
            let path = format!("/sys/class/net/{device}/statistics/tx_dropped");
            let text = host.enter(|| fs::read_to_string(&path))??;
            Ok(text.trim().parse()?)
        };
        Ok([read(&self.client, "wbcr")?, read(&self.relay, "wbrc")?])
    }

    /// Waits until the relay's core has been idle for half a second, as long as `limit`.
    pub(crate) fn wait_for_quiet(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let before = busy(RELAY_CORE)?;
            std::thread::sleep(Duration::from_millis(500));
            if busy(RELAY_CORE)? - before <= 0.03 {
                break;
            }
        }
        Ok(())
    }

    /// Where the latest program's output goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.world.logs().join("relay.log")
    }

    /// What a process and the network of the relay's host have used so far.
    pub(crate) fn cpu(&self, process: u32) -> Result<Cpu> {
        let mut cpu = Cpu { core: busy(RELAY_CORE)?, ..Cpu::default() };
        let tasks = format!("/proc/{process}/task");
        let tasks = fs::read_dir(tasks).with_context(|| format!("process {process} is gone"))?;
        for task in tasks.flatten() {
            cpu.process += run_time(&task.path()).unwrap_or(0.0);
        }
        for thread in &self.relay_network {
            cpu.network += run_time(Path::new(&format!("/proc/{thread}")))?;
        }
        Ok(cpu)
    }
}

/// A thread on the relay's host that starts programs. They are to end with their parent, which for
/// the kernel is the thread that started them; so it lives as long as the benchmark.
fn spawner(relay: &Host) -> mpsc::Sender<Order> {
    let (order, orders) = mpsc::channel::<Order>();
    let relay = relay.clone();
    std::thread::spawn(move || {
        relay.enter(move || {
            for (mut command, tell) in orders {
                let _ = tell.send(command.spawn());
            }
        })
    });
    order
}

/// Seconds on a CPU: the first field of `schedstat`, in nanoseconds.
fn run_time(task: &Path) -> Result<f64> {
    let text = fs::read_to_string(task.join("schedstat"))?;
    let field = text.split_whitespace().next().context("an empty schedstat")?;
    Ok(field.parse::<f64>()? / 1e9)
}

/// Seconds in which a core wasn't idle: all but the fourth and fifth field (proc_stat(5)), in ticks
/// of 10 ms.
fn busy(core: usize) -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).context("no such core")?;
    let fields = line.split_whitespace().take(8).enumerate();
    let ticks: f64 = fields
        .filter(|(number, _)| !matches!(number, 3 | 4))
        .filter_map(|(_, field)| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / 100.0)
}

fn link(
    here: &Host,
    name: &str,
    address: Ipv4Addr,
    there: &Host,
    their_name: &str,
    their_address: Ipv4Addr,
) -> Result<()> {
    here.ip(&[
        format!("link add {name} type veth peer name {their_name} netns {}", there.name()),
        format!("address add {address}/24 dev {name}"),
        format!("link set {name} txqueuelen 10000 up"),
    ])?;
    there.ip(&[
        format!("address add {their_address}/24 dev {their_name}"),
        format!("link set {their_name} txqueuelen 10000 up"),
    ])
}

fn tune(host: &Host, device: &str, more: &[&str]) -> Result<()> {
    host.run(&["ethtool", "-K", device, "gro", "on", "tso", "off"])?;
    if !more.is_empty() {
        host.run(&[&["ethtool", "-K", device], more].concat())?;
    }
    let threaded = format!("/sys/class/net/{device}/threaded");
    host.enter(|| fs::write(&threaded, "1"))?
        .with_context(|| format!("{threaded}: threaded NAPI is needed"))
}

/// Puts the kernel threads of an interface onto a core; returns them.
fn pin_network(device: &str, core: usize) -> Result<Vec<i32>> {
    let prefix = format!("napi/{device}-");
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            pin(pid, core)?;
            threads.push(pid);
        }
    }
    if threads.is_empty() {
        bail!("{device} has no NAPI thread");
    }
    Ok(threads)
}

/// To a core, and before whatever else wants to run there.
fn pin(pid: i32, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(pid), &set).with_context(|| format!("pinning {pid}"))?;
    let renice = Command::new("renice").args(["-n", "-19", "-p", &pid.to_string()]).output();
    ensure!(renice.context("renice (util-linux)")?.status.success(), "renice {pid}");
    Ok(())
}

/// Puts this program onto the generator's core. To be called before there are threads, so that
/// they and the relays, which they start, are preferred as well.
pub(crate) fn pin_generator() -> Result<()> {
    // Niceness counts among the processes of a session, and again among sessions (sched(7)).
    if nix::unistd::setsid().is_ok() {
        let _ = fs::write("/proc/self/autogroup", "-19");
    }
    pin(Pid::this().as_raw(), GENERATOR_CORE)
}

pub(crate) fn turn_address() -> SocketAddr {
    (LISTEN, TURN_PORT).into()
}
