//! `core/wg` against Debian sid's wireguard-go: the same keys, a TUN device each, both beginning.

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{SECOND, debian_package, kernel_ping};
use nix::poll::{PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use tun_rs::{DeviceBuilder, SyncDevice};
use warren_lab::{Host, Plug, World, isolated, wait_for};
use warren_wg::{
    Destination, HEADROOM, Interface, PeerConfig, PeerIndex, Received, TAILROOM, Transmit,
};

const PORT: u16 = 51820;
const OURS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const MTU: usize = 1420;

fn wireguard_go() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WIREGUARD_GO") {
        return Ok(path.into());
    }
    Ok(debian_package(&["sid", "wireguard-go"])?.join("usr/bin/wireguard-go"))
}

/// Fetched outside the world, where there is a network.
fn fetch() {
    if !warren_lab::isolate::is_inside() {
        wireguard_go().expect("wireguard-go");
    }
}

fn hex(key: [u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Our end: one thread that drives the core between a TUN device and a socket.
struct Ours {
    tun: SyncDevice,
    socket: UdpSocket,
    interface: Interface,
    peer: PeerIndex,
    remote: SocketAddr,
    waiting: Vec<Vec<u8>>,
}

impl Ours {
    fn start(
        host: &Host,
        private: [u8; 32],
        peer: [u8; 32],
        psk: [u8; 32],
        remote: SocketAddr,
    ) -> Result<Running> {
        let (tun, socket) = host.enter(|| -> Result<_> {
            let device = DeviceBuilder::new().name("ours0").mtu(MTU as u16).build_sync()?;
            device.set_nonblocking(true)?;
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.set_nonblocking(true)?;
            Ok((device, socket))
        })??;
        host.ip(&[format!("addr add {OURS}/24 dev ours0"), "link set ours0 up".to_owned()])?;
        let now = Instant::now();
        let unix = std::time::UNIX_EPOCH.elapsed()?;
        let mut interface = Interface::new(private, [7; 32], now, unix);
        let config = PeerConfig { preshared_key: Some(psk), persistent_keepalive: None };
        let peer = interface.add_peer(peer, config, now);
        let ours = Self { tun, socket, interface, peer, remote, waiting: Vec::new() };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || ours.run(&stopped));
        Ok(Running { stop, thread: Some(thread) })
    }

    fn run(mut self, stop: &AtomicBool) -> Result<Interface> {
        while !stop.load(Ordering::Relaxed) {
            self.drain()?;
            self.wait()?;
            self.read_tun()?;
            self.read_socket()?;
            self.interface.handle_timeout(Instant::now());
        }
        Ok(self.interface)
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(Transmit { to, contents }) = self.interface.poll_transmit() {
            let remote = match to {
                Destination::Peer(_) => self.remote,
                Destination::Source(source) => source,
            };
            self.socket.send_to(&contents, remote)?;
        }
        while self.interface.poll_event().is_some() {}
        for packet in std::mem::take(&mut self.waiting) {
            self.send(&packet)?;
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let mut fds = [
            PollFd::new(self.tun.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
        ];
        let timer = self.interface.poll_timeout().map(|(at, _)| at - Instant::now().min(at));
        let limit = timer.unwrap_or(SECOND).min(Duration::from_millis(100));
        nix::poll::ppoll(&mut fds, Some(TimeSpec::from(limit)), None)?;
        Ok(())
    }

    fn read_tun(&mut self) -> Result<()> {
        let mut packet = [0; 2048];
        while let Ok(length) = self.tun.recv(&mut packet) {
            self.send(&packet[..length])?;
        }
        Ok(())
    }

    fn send(&mut self, packet: &[u8]) -> Result<()> {
        let now = Instant::now();
        let mut slot = vec![0; HEADROOM + packet.len() + TAILROOM];
        slot[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let Some(mut sealer) = self.interface.sealer(self.peer, now) else {
            self.interface.initiate(self.peer, now);
            if self.waiting.len() < 128 {
                self.waiting.push(packet.to_vec());
            }
            return Ok(());
        };
        let length = sealer.seal(&mut slot, packet.len());
        match self.socket.send_to(&slot[..length], self.remote) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn read_socket(&mut self) -> Result<()> {
        let mut datagram = [0; 2048];
        while let Ok((length, source)) = self.socket.recv_from(&mut datagram) {
            let now = Instant::now();
            let received = self.interface.handle_datagram(source, &mut datagram[..length], now);
            if let Received::Data { range, .. } = received {
                self.tun.send(&datagram[range])?;
            }
        }
        Ok(())
    }
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Interface>>>,
}

impl Running {
    /// Ends it and gives back the core, for its counters.
    fn stop(mut self) -> Result<Interface> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().context("it runs")?.join().expect("no panic")
    }
}

/// Starts wireguard-go on `host` and configures it in its own protocol.
fn start_theirs(
    host: &Host,
    private: [u8; 32],
    peer: [u8; 32],
    psk: [u8; 32],
    endpoint: SocketAddr,
) -> Result<warren_lab::Process> {
    let binary = wireguard_go()?;
    let process = host.command(binary).args(["-f", "wg0"]).env("LOG_LEVEL", "verbose").spawn()?;
    let configuration = format!(
        "set=1\nprivate_key={}\nlisten_port={PORT}\npublic_key={}\npreshared_key={}\n\
         endpoint={endpoint}\nallowed_ip={OURS}/32\n\n",
        hex(private),
        hex(peer),
        hex(psk)
    );
    wait_for("wireguard-go's socket", 10 * SECOND, || {
        host.enter(|| configure(Path::new("/var/run/wireguard/wg0.sock"), &configuration))
    })?;
    host.ip(&[format!("addr add {THEIRS}/24 dev wg0"), format!("link set wg0 mtu {MTU} up")])?;
    Ok(process)
}

/// `None` while the socket isn't there.
fn configure(socket: &Path, configuration: &str) -> Option<()> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.write_all(configuration.as_bytes()).ok()?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).ok()?;
    answer[..length].starts_with(b"errno=0").then_some(())
}

/// Two hosts over the internet, a tunnel end on each; `work` gets them.
fn tunnel(world: &World, work: impl FnOnce(&Host, &Host) -> Result<()>) -> Result<Interface> {
    let (left, right) = (world.host("ours")?, world.host("theirs")?);
    let near = world.internet().plug(&left, &Plug::ipv4())?.v4()?;
    let far = world.internet().plug(&right, &Plug::ipv4())?.v4()?;
    let (private, their_private, psk) = ([0x11; 32], [0x22; 32], [0x33; 32]);
    let public = |private| Interface::new(private, [0; 32], Instant::now(), SECOND).public_key();
    let _theirs = start_theirs(&right, their_private, public(private), psk, (near, PORT).into())?;
    let ours = Ours::start(&left, private, public(their_private), psk, (far, PORT).into())?;
    work(&left, &right)?;
    ours.stop()
}

#[test]
fn we_begin_and_wireguard_go_answers_and_tcp_runs_both_ways() {
    fetch();
    isolated(|world| {
        let interface = tunnel(world, |ours, theirs| {
            kernel_ping(ours, THEIRS, 10 * SECOND)?;
            for size in ["0", "1", "15", "16", "17", "1392"] {
                ours.run(&[
                    "ping",
                    "-n",
                    "-M",
                    "do",
                    "-c",
                    "3",
                    "-i",
                    "0.05",
                    "-W",
                    "2",
                    "-s",
                    size,
                    &THEIRS.to_string(),
                ])
                .with_context(|| format!("{size} bytes"))?;
            }
            let _server = theirs.command("iperf3").args(["-s"]).spawn()?;
            for direction in [None, Some("-R")] {
                let report = wait_for("iperf3's server", 10 * SECOND, || {
                    let mut client = ours.command("iperf3");
                    client.args(["-J", "-t", "2", "-c", &THEIRS.to_string()]).args(direction);
                    let report = client.output()?.stdout;
                    let report: serde_json::Value = serde_json::from_slice(&report)?;
                    Ok(report["error"].is_null().then_some(report))
                })?;
                let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
                let rate = rate.context("iperf3 names no rate")? / 1e6;
                println!(
                    "TCP with wireguard-go, {direction:?}: {rate:.0} Mbit/s (unbatched driver)"
                );
                ensure!(rate > 1.0, "only {rate} Mbit/s");
            }
            Ok(())
        })?;
        ensure!(interface.counters().dropped_total() == 0, "{:?}", interface.counters());
        Ok(())
    });
}

#[test]
fn wireguard_go_begins_and_we_answer() {
    fetch();
    isolated(|world| {
        tunnel(world, |_, theirs| {
            kernel_ping(theirs, OURS, 10 * SECOND)?;
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn both_begin_at_once_and_a_session_comes_of_it() {
    fetch();
    isolated(|world| {
        tunnel(world, |ours, theirs| {
            std::thread::scope(|scope| -> Result<()> {
                let left = scope.spawn(|| kernel_ping(ours, THEIRS, 10 * SECOND));
                kernel_ping(theirs, OURS, 10 * SECOND)?;
                left.join().expect("no panic")?;
                Ok(())
            })
        })?;
        Ok(())
    });
}
