//! Worlds, wires and roaming, without the program under test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use warren_lab::{
    Host, NatKind, NatSpec, Plug, Segment, WireSpec, World, isolated, wait_for, wait_until,
};

fn plugged(world: &World, segment: &Segment, name: &str, plug: &Plug) -> Result<(Host, Ipv4Addr)> {
    let host = world.host(name)?;
    let address = segment.plug(&host, plug)?.v4()?;
    Ok((host, address))
}

#[test]
fn a_world_of_a_dozen_hosts_behind_nats_is_made_within_a_second() {
    isolated(|world| {
        let begun = Instant::now();
        for kind in NatKind::ALL {
            let router =
                world.router(&format!("r-{kind}"), world.internet(), NatSpec::new(kind))?;
            let host = world.host(kind.name())?;
            router.lan().plug(&host, &Plug::ipv4())?;
        }
        // A figure to read, no assertion: machines differ.
        println!("eleven machines, ten links, five NATs: {:?}", begun.elapsed());
        Ok(())
    });
}

#[test]
fn a_host_sees_its_own_name_and_resolver_and_may_replace_them() {
    isolated(|world| {
        let (left, right) = (world.host("left")?, world.host("right")?);
        ensure!(left.run(&["uname", "-n"])?.trim() == "left", "the host name is another");
        let replace = "echo nameserver 192.0.2.53 >/etc/new && mv /etc/new /etc/resolv.conf";
        left.run(&["sh", "-c", replace])?;
        ensure!(left.run(&["cat", "/etc/resolv.conf"])?.contains("192.0.2.53"), "not replaced");
        ensure!(std::fs::read_to_string(left.resolv_conf())?.contains("192.0.2.53"), "not seen");
        ensure!(right.run(&["cat", "/etc/resolv.conf"])?.is_empty(), "another host's changed too");
        Ok(())
    });
}

/// Answers every datagram on port 7 until the world ends.
fn start_echo(host: &Host) -> Result<()> {
    let echo = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7)))??;
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

/// The round trips of `count` datagrams, those that came back, shortest first.
fn round_trips(from: &Host, address: Ipv4Addr, count: u32) -> Result<Vec<Duration>> {
    let socket = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.connect((address, 7))?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        socket.send(&number.to_be_bytes())?;
        if socket.recv(&mut [0; 16]).is_ok() {
            times.push(begun.elapsed());
        }
    }
    times.sort();
    Ok(times)
}

#[test]
fn a_wire_delays_both_ways_and_can_be_changed_cut_and_restored_while_it_runs() {
    isolated(|world| {
        let left = world.host("left")?;
        let (right, far) = plugged(world, world.internet(), "right", &Plug::ipv4())?;
        start_echo(&right)?;
        let spec = WireSpec::delay(Duration::from_millis(20));
        let link = world.internet().plug(&left, &Plug::ipv4().wire(spec))?;
        let slow = round_trips(&left, far, 20)?;
        println!("20 ms each way: {:?}", slow.get(slow.len() / 2));
        ensure!(slow.len() == 20, "{} of 20 came back", slow.len());
        ensure!(slow[0] >= Duration::from_millis(40), "too quick: {:?}", slow[0]);

        let wire = link.wire().context("the link is a wire")?;
        wire.set(WireSpec::delay(Duration::from_millis(2)));
        let quick = round_trips(&left, far, 20)?;
        ensure!(quick[0] < slow[0], "no change: {:?}", quick[0]);

        wire.cut();
        ensure!(round_trips(&left, far, 2)?.is_empty(), "a cut wire carried something");
        wire.restore();
        // A neighbour entry that failed while the wire was cut may cost the first packets.
        wait_until(
            "all of 5 to come back over the restored wire",
            Duration::from_secs(10),
            || Ok(round_trips(&left, far, 5)?.len() == 5),
        )?;
        Ok(())
    });
}

#[test]
fn a_wire_loses_the_share_it_was_told_to() {
    isolated(|world| {
        let (left, right) = (world.host("left")?, world.host("right")?);
        let far = world.internet().plug(&right, &Plug::ipv4())?.v4()?;
        let near = world.internet().plug(&left, &Plug::ipv4().wire(WireSpec::default()))?;
        left.run(&["ping", "-c1", "-W2", &far.to_string()])?;
        near.wire().context("a wire")?.set(WireSpec { loss: 0.3, ..WireSpec::default() });
        let receiver = right.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)))??;
        receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
        let sender = left.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let mut buffer = [0; 8];
        let mut arrived = 0;
        for burst in 0..20 {
            for _ in 0..50 {
                sender.send_to(&[burst], (far, 9))?;
            }
            // One burst at a time: the receiver's buffer must not be what loses them.
            receiver.set_read_timeout(Some(Duration::from_millis(30)))?;
            while receiver.recv(&mut buffer).is_ok() {
                arrived += 1;
            }
        }
        println!("{arrived} of 1000 arrived over 30 % loss");
        // The generator's seed is fixed; the band is for frames that aren't ours (ARP, IPv6).
        ensure!((620..=780).contains(&arrived), "{arrived} of 1000 arrived");
        Ok(())
    });
}

#[test]
fn jitter_keeps_the_order_and_reordering_breaks_it() {
    isolated(|world| {
        let (left, right) = (world.host("left")?, world.host("right")?);
        let far = world.internet().plug(&right, &Plug::ipv4())?.v4()?;
        let near = world.internet().plug(&left, &Plug::ipv4().wire(WireSpec::default()))?;
        left.run(&["ping", "-c1", "-W2", &far.to_string()])?;
        let receiver = right.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)))??;
        receiver.set_read_timeout(Some(Duration::from_millis(300)))?;
        let sender = left.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let inversions = || -> Result<usize> {
            for number in 0..100_u8 {
                sender.send_to(&[number], (far, 9))?;
            }
            let mut seen = Vec::new();
            let mut buffer = [0; 8];
            while receiver.recv(&mut buffer).is_ok() {
                seen.push(buffer[0]);
            }
            ensure!(seen.len() == 100, "{} of 100 arrived", seen.len());
            Ok(seen.windows(2).filter(|pair| pair[0] > pair[1]).count())
        };
        let ms = Duration::from_millis;
        let wire = near.wire().context("a wire")?;
        wire.set(WireSpec { delay: ms(5), jitter: ms(10), ..WireSpec::default() });
        let kept = inversions()?;
        ensure!(kept == 0, "jitter alone put {kept} out of order");
        wire.set(WireSpec { delay: ms(5), reorder: 0.2, ..WireSpec::default() });
        ensure!(inversions()? > 0, "nothing was put out of order");
        Ok(())
    });
}

#[test]
fn a_host_that_roams_keeps_its_processes_and_gets_another_address() {
    isolated(|world| {
        let (server, address) = plugged(world, world.internet(), "server", &Plug::ipv4())?;
        let home = world.router("home", world.internet(), NatSpec::new(NatKind::EimApdf))?;
        let cafe = world.router("cafe", world.internet(), NatSpec::new(NatKind::EimAdf))?;
        let laptop = world.host("laptop")?;
        let link = home.lan().plug(&laptop, &Plug::ipv4())?;
        let mut sleeper = laptop.command("sleep").args(["60"]).spawn()?;

        let listener = server.enter(|| TcpListener::bind((address, 80)))??;
        let seen = || -> Result<std::net::IpAddr> {
            let mut client = laptop.enter(|| TcpStream::connect((address, 80)))??;
            let (mut stream, from) = listener.accept()?;
            stream.write_all(b"x")?;
            client.read_exact(&mut [0])?;
            Ok(from.ip())
        };
        let before = seen()?;
        let link = link.roam(cafe.lan(), &Plug::ipv4())?;
        let after = seen()?;
        ensure!(before == home.wan().v4()? && after == cafe.wan().v4()?, "{before} then {after}");
        ensure!(sleeper.exited()?.is_none(), "roaming ended a process");
        ensure!(link.interface() == "eth1", "the interface is {}", link.interface());
        Ok(())
    });
}

#[test]
fn when_the_test_is_killed_everything_in_its_world_ends() {
    const VICTIM: &str = "a_victim_that_waits_to_be_killed";
    let mark = std::env::temp_dir().join(format!("warren-lab-victim-{}", std::process::id()));
    let mut outer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", VICTIM, "--nocapture", "--ignored"])
        .env("WARREN_LAB_VICTIM", &mark)
        .spawn()
        .unwrap();
    let marked = wait_for("the victim's world", Duration::from_secs(20), || {
        Ok(std::fs::read_to_string(&mark).ok().filter(|text| text.ends_with('\n')))
    });
    let marker = marked.unwrap();
    let lives = || -> Result<bool> {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(marker.trim()) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    assert!(lives().unwrap(), "the process in the world isn't seen from outside");
    kill(Pid::from_raw(outer.id().cast_signed()), Signal::SIGKILL).unwrap();
    outer.wait().unwrap();
    let ended = wait_until("the end of the world", Duration::from_secs(5), || Ok(!lives()?));
    let _ = std::fs::remove_file(&mark);
    ended.unwrap();
}

#[test]
#[ignore = "is started, and killed, by the test above"]
fn a_victim_that_waits_to_be_killed() {
    let Some(mark) = std::env::var_os("WARREN_LAB_VICTIM").map(PathBuf::from) else { return };
    isolated(|world| {
        let host = world.host("victim")?;
        let seconds =
            100_000 + std::process::id() + std::time::UNIX_EPOCH.elapsed()?.subsec_micros();
        let _sleeper = host.command("sleep").args([seconds.to_string()]).spawn()?;
        std::fs::write(&mark, format!("{seconds}\n"))?;
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    });
}
