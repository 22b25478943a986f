//! Many virtual allocations in one relay: memory, time to set them up, and what idle ones cost.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use warren_bench::{median, resident_kib};
use warren_turn::client::{Client, Config, Credential, Event};
use warren_turn::{Message, TransactionId, rest};

use crate::flows::{Direction, Flows, credential};
use crate::load::{Offer, offer};
use crate::stage::{LISTEN, Stage, TURN_PORT, turn_address};
use crate::targets::{Kind, SECRET, Target};

/// Ports that the many clients send from; each with every address of [`crate::stage::MANY`].
const PORTS: [u16; 2] = [50_000, 50_001];
/// Requests on their way at once.
const WINDOW: usize = 512;
/// A fixed load that is well below what one core forwards.
const RATE: f64 = 200_000.0;

/// Sets allocations up, 10,000 first, and prints time and memory.
pub(crate) fn allocations(stage: &Stage, flags: &[String], count: u32) -> Result<()> {
    let target = start(stage, flags)?;
    let pid = target.pid();
    let before = resident_kib(pid)?;
    let first = count.min(10_000);
    let cpu = stage.cpu(pid)?;
    let time = allocate(stage, 0..first)?;
    let cpu = stage.cpu(pid)?.since(cpu);
    println!(
        "{first} virtual allocations set up in {:.2} s ({:.2} s of CPU in the relay)",
        time.as_secs_f64(),
        cpu.process
    );
    allocate(stage, first..count)?;
    let after = resident_kib(pid)?;
    println!(
        "{count} virtual allocations: {:.0} bytes resident each ({:.1} MiB before, {:.1} after)",
        (after - before) as f64 * 1024.0 / f64::from(count),
        before as f64 / 1024.0,
        after as f64 / 1024.0
    );
    Ok(())
}

/// What forwarding costs beside idle allocations, in alternating runs.
pub(crate) fn idle(stage: &Stage, flags: &[String], count: u32, seconds: f64) -> Result<()> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 1..=5 {
        let target = start(stage, flags)?;
        let flows = Flows::join(stage, Kind::Ours, Direction::Across, 100)?;
        let measure = || -> Result<f64> {
            let time = Duration::from_secs_f64(seconds);
            let load = Offer { rate: Some(RATE), burst: 16, size: 300, time };
            let sample = offer(stage, target.pid(), &flows, load)?;
            // What a busy machine's wires lose never reaches the relay.
            if sample.loss() > 0.01 {
                eprintln!("{:.0} % were lost; is the machine busy?", sample.loss() * 100.0);
            }
            Ok(sample.cpu_per_million())
        };
        stage.wait_for_quiet(Duration::from_secs(5))?;
        measure()?;
        alone.push(measure()?);
        allocate(stage, 0..count)?;
        beside.push(measure()?);
        eprintln!(
            "round {round}: {:.3} CPU s/M alone, {:.3} beside {count} idle",
            alone[round - 1],
            beside[round - 1]
        );
    }
    let (alone, beside) = (median(&alone), median(&beside));
    println!(
        "medians of five: {alone:.3} CPU s/M alone, {beside:.3} beside {count} idle allocations \
         ({:+.1} %)",
        (beside / alone - 1.0) * 100.0
    );
    Ok(())
}

fn start(stage: &Stage, flags: &[String]) -> Result<Target> {
    Target::start(Kind::Ours, stage, Direction::Across, flags)?.context("no `warren relay` here")
}

/// Allocates for clients of these numbers, each at an address and port of its own.
fn allocate(stage: &Stage, numbers: std::ops::Range<u32>) -> Result<Duration> {
    let sockets = stage.client.enter(|| -> Result<Vec<UdpSocket>> {
        PORTS
            .iter()
            .map(|&port| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect()
    })??;
    let unix = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    let nonce = rest::nonce(SECRET.as_bytes(), unix);
    let mut waiting = numbers.clone();
    let mut open: BTreeMap<TransactionId, (u32, Client)> = BTreeMap::new();
    let mut done = 0;
    let start = Instant::now();
    let mut progress = start;
    let mut buffer = [0; 2048];
    while done < numbers.len() {
        while open.len() < WINDOW
            && let Some(number) = waiting.next()
        {
            let client = Client::new(config(number, &nonce)?, rand::random(), Instant::now());
            send(&sockets, number, client, &mut open)?;
        }
        for socket in &sockets {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        if received(&sockets, &buffer[..length], &mut open)? {
                            done += 1;
                            progress = Instant::now();
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if progress.elapsed() > Duration::from_millis(500) {
            repeat(&sockets, &mut open)?;
        }
        ensure!(
            progress.elapsed() < Duration::from_secs(10),
            "stuck at {done} of {} allocations",
            numbers.len()
        );
    }
    Ok(start.elapsed())
}

fn config(number: u32, nonce: &str) -> Result<Config> {
    let credential = Credential {
        realm: Some("bench".to_owned()),
        nonce: Some(nonce.to_owned()),
        ..credential(&format!("idle{number}"))?
    };
    Ok(Config { virtual_address: true, keepalive: None, ..Config::new(credential) })
}

/// Sends what a client has to say, and waits for its answer.
fn send(
    sockets: &[UdpSocket],
    number: u32,
    mut client: Client,
    open: &mut BTreeMap<TransactionId, (u32, Client)>,
) -> Result<()> {
    let mut id = None;
    while let Some(datagram) = client.poll_transmit() {
        id = Some(Message::parse(&datagram)?.transaction_id());
        send_from(sockets, number, &datagram)?;
    }
    if let Some(id) = id {
        open.insert(id, (number, client));
    }
    Ok(())
}

/// Sends from the address that belongs to the number.
fn send_from(sockets: &[UdpSocket], number: u32, datagram: &[u8]) -> Result<()> {
    let [high, low] = ((number & 0xffff) as u16).to_be_bytes();
    let source = Ipv4Addr::new(10, 78, high, low);
    let socket = sockets.get((number >> 16) as usize).context("too many clients")?;
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let SocketAddr::V4(to) = turn_address() else { bail!("{LISTEN}:{TURN_PORT} is IPv4") };
    let to = SockaddrIn::from(to);
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    let pieces = [IoSlice::new(datagram)];
    loop {
        match sendmsg(socket.as_raw_fd(), &pieces, &control, MsgFlags::empty(), Some(&to)) {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_micros(50)),
            Err(error) => return Err(error).context("sending from one of many addresses"),
        }
    }
}

/// Whether this answer gave an allocation.
fn received(
    sockets: &[UdpSocket],
    datagram: &[u8],
    open: &mut BTreeMap<TransactionId, (u32, Client)>,
) -> Result<bool> {
    let Ok(message) = Message::parse(datagram) else { return Ok(false) };
    let Some((number, mut client)) = open.remove(&message.transaction_id()) else {
        return Ok(false);
    };
    let _ = client.handle_datagram(datagram, Instant::now());
    while let Some(event) = client.poll_event() {
        match event {
            Event::Allocated { virtual_address, .. } => {
                ensure!(virtual_address, "the relay gave no virtual address");
                return Ok(true);
            }
            Event::Failed { reason } => bail!("client {number}: {reason}"),
            Event::ChannelReady { .. }
            | Event::ChannelFailed { .. }
            | Event::Permitted(_)
            | Event::PermissionFailed { .. }
            | Event::Rtt(_)
            | Event::Closed => {}
        }
    }
    send(sockets, number, client, open)?;
    Ok(false)
}

fn repeat(sockets: &[UdpSocket], open: &mut BTreeMap<TransactionId, (u32, Client)>) -> Result<()> {
    for (number, client) in open.values_mut() {
        client.handle_timeout(Instant::now());
        while let Some(datagram) = client.poll_transmit() {
            send_from(sockets, *number, &datagram)?;
        }
    }
    Ok(())
}
