//! The ceiling of the data path: iperf3 through TUN ↔ UDP ↔ TUN without crypto, both nodes in this
//! process, each on a thread of its own.
//!
//! `cargo run --release -p warren-net --example forward -- [streams] [seconds]`

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::Command;
use std::time::Instant;

use common::pump::{Node, wire};
use common::{Host, run, runtime};
use tokio::sync::oneshot;
use warren_net::{TunCounters, UdpCounters};

const INSIDE: &str = "WARREN_NET_FORWARD_INSIDE";

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount"])
            .arg(std::env::current_exe().expect("the example knows itself"))
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .status()
            .expect("unshare (util-linux) is installed");
        std::process::exit(status.code().unwrap_or(1));
    }
    let number = |at: usize, default: u32| {
        std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (streams, seconds) = (number(1, 1), number(2, 5));
    let (a, b) = wire();
    for mtu in [1420, 1280] {
        measure(&a, &b, mtu, streams, seconds);
    }
}

fn measure(a: &Host, b: &Host, mtu: u16, streams: u32, seconds: u32) {
    let (end_a, stop_a) = start(a, 1, 2, mtu);
    let (end_b, stop_b) = start(b, 2, 1, mtu);
    let server = b.start(|| run("iperf3 -s -1 >/dev/null"));
    b.run("until ss -ltn | grep -q 5201; do sleep 0.05; done");
    let (before, begin) = (cpu_seconds(), Instant::now());
    let report = a.run(&format!("iperf3 -c 100.72.0.2 -P {streams} -t {seconds} -J"));
    let (cpu, wall) = (cpu_seconds() - before, begin.elapsed().as_secs_f64());
    server();
    let bits = field(&report, "\"sum_received\":", "\"bits_per_second\":");
    let bytes = field(&report, "\"sum_received\":", "\"bytes\":");
    let ends = (stop_a.send(()), stop_b.send(()));
    assert_eq!(ends, (Ok(()), Ok(())));
    println!(
        "MTU {mtu}, {streams} streams: {:.2} Gbit/s, {:.2} CPU s per GiB (both nodes), {:.0} % CPU",
        bits / 1e9,
        cpu / (bytes / f64::from(1 << 30)),
        100.0 * cpu / wall,
    );
    print_counters("sender", &end_a());
    print_counters("receiver", &end_b());
}

fn start(
    host: &Host,
    number: u8,
    peer: u8,
    mtu: u16,
) -> (impl FnOnce() -> (TunCounters, UdpCounters) + use<>, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = std::sync::mpsc::channel();
    let end = host.start(move || {
        let node = Node { number, peer, offload: true, mtu };
        runtime().block_on(node.forward(
            move || tell.send(()).expect("somebody waits"),
            async move {
                stopped.await.unwrap_or(());
            },
        ))
    });
    told.recv().expect("the node starts");
    (end, stop)
}

fn print_counters(name: &str, (tun, udp): &(TunCounters, UdpCounters)) {
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    println!(
        "  {name}: {:.1} segments per TUN read, {:.1} per UDP send, {:.1} per message received, \
         {:.1} per TUN write; errors {} {} {}, fallbacks {}",
        ratio(tun.segments_read, tun.reads),
        ratio(udp.segments_sent, udp.sends),
        ratio(udp.segments_received, udp.receives),
        ratio(tun.segments_written, tun.writes),
        tun.write_errors,
        udp.send_errors,
        udp.receive_errors,
        udp.fallbacks,
    );
}

/// The number after `key` after `section` in iperf3's report.
fn field(report: &str, section: &str, key: &str) -> f64 {
    let from = report.find(section).expect("iperf3 reports");
    let from = from + report[from..].find(key).expect("iperf3 reports") + key.len();
    let text = report[from..].trim_start();
    let end = text.find([',', '\n', '}']).expect("JSON goes on");
    text[..end].trim().parse().expect("a number")
}

fn cpu_seconds() -> f64 {
    // SAFETY: all zeros is a valid `rusage`, and the call fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
