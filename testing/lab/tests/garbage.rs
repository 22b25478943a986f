//! Garbage, truncated and replayed datagrams at every port of a broker and a node that work on.

mod common;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Lab, SECOND, mesh_ipv4};
use warren_lab::{Host, Plug, isolated};

/// Deterministic bytes: xorshift64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Bytes that begin as one of our protocols does, so that more than the first check is met.
    fn datagram(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.next() % 1400).unwrap_or(0);
        let mut bytes = self.bytes(length);
        let front: &[u8] = match self.next() % 8 {
            0 => &[1, 0, 0, 0],
            1 => &[2, 0, 0, 0],
            2 => &[3, 0, 0, 0],
            3 => &[4, 0, 0, 0],
            4 => &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42],
            5 => &[1, 1, 0, 8, 0x21, 0x12, 0xA4, 0x42],
            6 => &[0x40, 0, 0, 4],
            _ => &[],
        };
        let shared = front.len().min(bytes.len());
        bytes[..shared].copy_from_slice(&front[..shared]);
        bytes
    }
}

#[test]
fn garbage_at_every_port_disturbs_nobody() {
    isolated(|world| {
        let mut lab = Lab::start(world)?;
        let (mut left, left_link) = lab.public_node("left")?;
        let (mut right, right_link) = lab.public_node("right")?;
        left.ping_direct("right")?;
        let to = mesh_ipv4(&right)?.to_string();
        let (attacker, attacker_link) = lab.host("attacker", world.internet(), &Plug::ipv4())?;
        let broker = lab.broker_link.v4()?;
        let mut targets: Vec<SocketAddr> = vec![(broker, 3478).into(), (broker, 3479).into()];
        for (node, link) in [(&left, &left_link), (&right, &right_link)] {
            targets.push((link.v4()?, node.status()?.node.listen_port).into());
        }
        std::thread::scope(|scope| -> Result<()> {
            // 100 echo requests in 5 s, while the garbage comes.
            let arguments = ["-n", "-q", "-c", "100", "-i", "0.05", "-W", "2", to.as_str()];
            let host = left.host().clone();
            let pinging = scope.spawn(move || host.command("ping").args(arguments).output());
            flood_udp(&attacker, &targets)?;
            feed_tcp(&attacker, (broker, 443).into())?;
            let output = pinging.join().expect("no panic")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            println!("{}", text.lines().rev().take(3).collect::<Vec<_>>().join(" | "));
            let lost = loss_percent(&text)?;
            ensure!(lost <= 2.0, "{lost} % of the pings were lost: {text}");
            Ok(())
        })?;
        let own = attacker_link.v4()?;
        for (node, peer) in [(&mut left, "right"), (&mut right, "left")] {
            ensure!(node.process().exited()?.is_none(), "a node ended");
            let view = node.peer(peer)?;
            ensure!(view.endpoint.is_none_or(|it| it.ip() != IpAddr::V4(own)), "{view:?}");
            ensure!(!node.process().log().contains("panicked"), "a node panicked");
        }
        ensure!(lab.broker.process().exited()?.is_none(), "the broker ended");
        ensure!(!lab.broker.process().log().contains("panicked"), "the broker panicked");
        let (third, _) = lab.public_node("third")?;
        third.ping_direct("left")?;
        Ok(())
    });
}

/// What `ping -q` says of the loss.
fn loss_percent(text: &str) -> Result<f32> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let place = words.iter().position(|&word| word == "packet").context("no summary")?;
    Ok(words[place - 1].trim_end_matches('%').parse()?)
}

/// 20,000 random datagrams over all targets.
fn flood_udp(attacker: &Host, targets: &[SocketAddr]) -> Result<()> {
    let socket = attacker.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let mut noise = Noise(0x5EED);
    for number in 0..20_000_usize {
        let target = targets[number % targets.len()];
        // A send can fail for an ICMP error of an earlier one; the flood goes on.
        let _ = socket.send_to(&noise.datagram(), target);
        if number % 100 == 99 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Connections that say nonsense, half a TLS hello, or nothing at all.
fn feed_tcp(attacker: &Host, target: SocketAddr) -> Result<()> {
    let mut noise = Noise(0xFEED);
    let mut open = Vec::new();
    for number in 0..60 {
        let mut stream = attacker.enter(|| TcpStream::connect_timeout(&target, 5 * SECOND))??;
        stream.set_write_timeout(Some(SECOND))?;
        let bytes = match number % 3 {
            0 => noise.bytes(4096),
            1 => [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &noise.bytes(300)].concat(),
            _ => Vec::new(),
        };
        let _ = stream.write_all(&bytes);
        open.push(stream);
    }
    Ok(())
}

#[test]
fn recorded_datagrams_sent_again_from_elsewhere_whole_or_cut_short_move_nothing() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (left, left_link) = lab.public_node("left")?;
        let (right, right_link) = lab.public_node("right")?;
        let port = right.status()?.node.listen_port;
        // tcpdump isn't everywhere: a socket on the router's side sees what passes.
        let (recorder, frames) = record(world.internet().router(), port)?;
        left.ping_direct("right")?;
        let to = mesh_ipv4(&right)?.to_string();
        left.host().run(&["ping", "-n", "-q", "-c", "20", "-i", "0.05", &to])?;
        drop(recorder);
        let recorded: Vec<Vec<u8>> = frames.iter().collect();
        ensure!(recorded.len() >= 20, "only {} datagrams were seen", recorded.len());

        let (attacker, link) = lab.host("attacker", world.internet(), &Plug::ipv4())?;
        let socket = attacker.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let before = right.peer("left")?;
        let target = (right_link.v4()?, port);
        for datagram in &recorded {
            socket.send_to(datagram, target)?;
            for length in [datagram.len() / 2, datagram.len().saturating_sub(1)] {
                socket.send_to(&datagram[..length], target)?;
            }
        }
        left.host().run(&["ping", "-n", "-q", "-c", "20", "-i", "0.05", "-W", "2", &to])?;
        let after = right.peer("left")?;
        let expected = IpAddr::V4(left_link.v4()?);
        ensure!(
            after.endpoint.map(|it| it.ip()) == Some(expected),
            "moved to {:?}",
            after.endpoint
        );
        ensure!(after.endpoint.map(|it| it.ip()) != Some(IpAddr::V4(link.v4()?)), "{after:?}");
        // 20 echo requests are 2,560 bytes of datagrams; those recorded would be as many once more.
        let grown = after.rx_bytes - before.rx_bytes;
        ensure!(grown <= 20 * 128 * 3 / 2, "{grown} bytes were received for 20 pings");
        Ok(())
    });
}

/// Records the payloads of UDP datagrams to `port` that pass `router`, until the handle is dropped.
fn record(router: &Host, port: u16) -> Result<(Recorder, std::sync::mpsc::Receiver<Vec<u8>>)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let open = || {
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
    };
    let fd = router.enter(open)??;
    let (sender, receiver) = std::sync::mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let mut frame = [0; 65536];
        while !stopped.load(Ordering::Relaxed) {
            match nix::unistd::read(&fd, &mut frame) {
                Ok(length) => {
                    if let Some(payload) = udp_payload(&frame[..length], port) {
                        let _ = sender.send(payload.to_vec());
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    Ok((Recorder { stop, thread: Some(thread) }, receiver))
}

struct Recorder {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ethernet, IPv4 without options, UDP to `port`.
fn udp_payload(frame: &[u8], port: u16) -> Option<&[u8]> {
    let ip = frame.get(14..)?;
    let is_udp = frame.get(12..14)? == [8, 0] && *ip.first()? == 0x45 && *ip.get(9)? == 17;
    let to = ip.get(22..24)?;
    let length = usize::from(u16::from_be_bytes([*ip.get(24)?, *ip.get(25)?]));
    let wanted = is_udp && to == port.to_be_bytes();
    if wanted { ip.get(28..20 + length) } else { None }
}
