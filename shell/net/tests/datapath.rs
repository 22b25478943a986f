//! The data path through the kernel: TUN ↔ UDP over a veth pair, in namespaces.

mod common;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

use common::pump::{Node, wire};
use common::{Host, isolated, run, runtime};
use tokio::sync::oneshot;
use warren_net::{
    Error, Outgoing, SlotLayout, SuperPacket, Tun, TunConfig, TunCounters, UdpConfig, UdpCounters,
    UdpReceiver, UdpSockets,
};

type Counters = (TunCounters, UdpCounters);

/// Runs a node in `host` until the result is called.
fn start(host: &Host, number: u8, offload: bool) -> impl FnOnce() -> Counters {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = mpsc::channel();
    let end = host.start(move || {
        let node = Node { number, peer: 3 - number, offload, mtu: 1420 };
        runtime().block_on(node.forward(
            move || tell.send(()).expect("somebody waits"),
            async move {
                stopped.await.unwrap_or(());
            },
        ))
    });
    told.recv_timeout(Duration::from_secs(20)).expect("the node starts");
    move || {
        stop.send(()).expect("the node runs");
        end()
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Sends `len` bytes by TCP from `a` to `address` on `b`; what arrives must be the same.
fn tcp_is_intact(a: &Host, b: &Host, address: &str, len: usize) {
    let address: SocketAddr = address.parse().expect("an address");
    let (tell, told) = mpsc::channel();
    let received = b.start(move || {
        let listener = TcpListener::bind(address).expect("a listener");
        tell.send(()).expect("somebody waits");
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("all of it");
        bytes
    });
    told.recv().expect("the listener starts");
    let sent = noise(len);
    let copy = sent.clone();
    a.within(move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        // Odd pieces: pushes and short segments in between.
        for piece in copy.chunks(100_003) {
            stream.write_all(piece).expect("it is taken");
        }
    });
    assert!(received() == sent, "the bytes differ");
}

/// Sends messages by UDP as the application would with USO; each must arrive by itself.
fn udp_is_intact(a: &Host, b: &Host, from: &str, to: &str, size: usize, count: usize) {
    let (from, to): (SocketAddr, SocketAddr) =
        (from.parse().expect("an address"), to.parse().expect("an address"));
    let (tell, told) = mpsc::channel();
    let received = b.start(move || {
        let socket = UdpSocket::bind(to).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        tell.send(()).expect("somebody waits");
        (0..count + 1)
            .map(|_| {
                let mut message = vec![0; 65_536];
                let len = socket.recv(&mut message).expect("a message");
                message.truncate(len);
                message
            })
            .collect::<Vec<_>>()
    });
    told.recv().expect("the receiver starts");
    // All of one size but the last.
    let bytes = noise(size * count + size / 2);
    let copy = bytes.clone();
    a.within(move || {
        let socket = UdpSocket::bind(from).expect("a socket");
        let size = size as libc::c_int;
        // SAFETY: the option is an int, passed with its size.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const size).cast(),
                4,
            )
        };
        assert_eq!(result, 0);
        socket.send_to(&copy, to).expect("it is taken");
    });
    let expected: Vec<&[u8]> = bytes.chunks(size).collect();
    let received = received();
    assert!(received == expected, "{:?}", received.iter().map(Vec::len).collect::<Vec<_>>());
}

fn everything_is_intact(a: &Host, b: &Host) {
    tcp_is_intact(a, b, "100.72.0.2:7001", 24 << 20);
    tcp_is_intact(b, a, "[fd00:72::1]:7002", 24 << 20);
    udp_is_intact(a, b, "100.72.0.1:7003", "100.72.0.2:7004", 1000, 30);
    udp_is_intact(a, b, "[fd00:72::1]:7005", "[fd00:72::2]:7006", 1200, 40);
    a.run("ping -c 3 -i 0.1 -W 5 100.72.0.2 && ping -c 3 -i 0.1 -s 1392 -M do -W 5 100.72.0.2");
}

#[test]
fn tcp_and_udp_arrive_intact_in_large_batches() {
    isolated("tcp_and_udp_arrive_intact_in_large_batches", || {
        let (a, b) = wire();
        let (end_a, end_b) = (start(&a, 1, true), start(&b, 2, true));
        everything_is_intact(&a, &b);
        for (tun, udp) in [end_a(), end_b()] {
            let ratios = [
                tun.segments_read as f64 / tun.reads as f64,
                tun.segments_written as f64 / tun.writes as f64,
                udp.segments_sent as f64 / udp.sends as f64,
                udp.segments_received as f64 / udp.receives as f64,
            ];
            // Each end sends data one way and bare ACKs the other; without batching all are 1.
            assert!(ratios.iter().all(|ratio| *ratio > 3.0), "{ratios:?} {tun:?} {udp:?}");
            assert_eq!((tun.write_errors, udp.send_errors, udp.fallbacks), (0, 0, 0));
        }
    });
}

#[test]
fn one_way_bulk_fills_writes_with_dozens_of_segments() {
    isolated("one_way_bulk_fills_writes_with_dozens_of_segments", || {
        let (a, b) = wire();
        let (end_a, end_b) = (start(&a, 1, true), start(&b, 2, true));
        tcp_is_intact(&a, &b, "100.72.0.2:7001", 64 << 20);
        let ((tun_a, udp_a), (tun_b, udp_b)) = (end_a(), end_b());
        let sent = udp_a.segments_sent as f64 / udp_a.sends as f64;
        let written = tun_b.segments_written as f64 / tun_b.writes as f64;
        assert!(sent > 20.0 && written > 20.0, "{sent} {written} {tun_a:?} {udp_b:?}");
    });
}

#[test]
fn without_offloads_the_same_bytes_arrive() {
    isolated("without_offloads_the_same_bytes_arrive", || {
        let (a, b) = wire();
        let (end_a, end_b) = (start(&a, 1, false), start(&b, 2, false));
        everything_is_intact(&a, &b);
        let ((tun_a, udp_a), (tun_b, udp_b)) = (end_a(), end_b());
        for (tun, udp) in [(tun_a, udp_a), (tun_b, udp_b)] {
            assert_eq!(tun.segments_written, tun.writes);
            assert_eq!(udp.segments_sent, udp.sends);
        }
    });
}

#[test]
fn an_end_with_offloads_understands_one_without() {
    isolated("an_end_with_offloads_understands_one_without", || {
        let (a, b) = wire();
        let (end_a, end_b) = (start(&a, 1, true), start(&b, 2, false));
        everything_is_intact(&a, &b);
        end_a();
        end_b();
    });
}

fn sockets(port: Option<u16>) -> Result<UdpSockets, Error> {
    UdpSockets::bind(&UdpConfig { port, ..UdpConfig::default() })
}

async fn receive(sockets: &UdpSockets, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut receiver = UdpReceiver::new();
    let mut all = Vec::new();
    while all.len() < count {
        tokio::time::timeout(Duration::from_secs(10), sockets.readable())
            .await
            .unwrap_or_else(|_| panic!("only {} arrived", all.len()))
            .expect("the runtime lives");
        while let Ok(received) = sockets.try_recv(&mut receiver) {
            all.extend(received.map(|(from, datagram)| (from, datagram.to_vec())));
        }
    }
    all
}

#[test]
fn batches_beyond_the_mtu_go_out_one_by_one() {
    isolated("batches_beyond_the_mtu_go_out_one_by_one", || {
        let (a, b) = wire();
        let (tell, told) = mpsc::channel();
        let received = b.start(move || {
            runtime().block_on(async {
                let sockets = sockets(Some(5000)).expect("sockets");
                tell.send(()).expect("somebody waits");
                receive(&sockets, 20).await
            })
        });
        told.recv().expect("the receiver starts");
        let counters = a.within(|| {
            runtime().block_on(async {
                let sockets = sockets(Some(5001)).expect("sockets");
                let mut outgoing = Outgoing::new();
                let layout = SlotLayout { headroom: 0, tailroom: 0, align: 1, mtu: 0 };
                for remote in ["10.9.0.2:5000", "[fd09::2]:5000"] {
                    let remote = remote.parse().expect("an address");
                    for i in 0..10u8 {
                        let bytes = vec![i; 2000];
                        let packet = SuperPacket::complete(&bytes);
                        outgoing.push(&sockets, &packet, remote, layout, |slot, _| slot.len());
                    }
                }
                outgoing.flush(&sockets);
                assert!(!outgoing.is_blocked());
                sockets.counters()
            })
        });
        assert_eq!((counters.fallbacks, counters.send_errors), (2, 0));
        assert_eq!((counters.sends, counters.segments_sent), (20, 20));
        let expected: Vec<Vec<u8>> = (0..10u8).map(|i| vec![i; 2000]).collect();
        let (ipv4, ipv6): (Vec<_>, Vec<_>) =
            received().into_iter().partition(|(from, _)| from.is_ipv4());
        for family in [ipv4, ipv6] {
            // The order across families is free.
            let got: Vec<Vec<u8>> = family.into_iter().map(|(_, bytes)| bytes).collect();
            assert!(got == expected);
        }
    });
}

/// Receives `count` datagrams on port 5000 of `host`, from the call of this on.
fn start_receiving(host: &Host, count: usize) -> impl FnOnce() -> Vec<Vec<u8>> {
    let (tell, told) = mpsc::channel();
    let received = host.start(move || {
        runtime().block_on(async {
            let sockets = sockets(Some(5000)).expect("sockets");
            tell.send(()).expect("somebody waits");
            receive(&sockets, count).await.into_iter().map(|(_, bytes)| bytes).collect()
        })
    });
    told.recv().expect("the receiver starts");
    received
}

#[test]
fn an_interface_without_checksum_offload_gets_the_same_datagrams() {
    isolated("an_interface_without_checksum_offload_gets_the_same_datagrams", || {
        let (a, b) = wire();
        a.run("ethtool -K va tx off >/dev/null");
        let received = start_receiving(&b, 40);
        a.within(|| {
            runtime().block_on(async {
                let sockets = sockets(Some(5001)).expect("sockets");
                let mut outgoing = Outgoing::new();
                let layout = SlotLayout { headroom: 0, tailroom: 0, align: 1, mtu: 0 };
                let remote = "10.9.0.2:5000".parse().expect("an address");
                for i in 0..40u8 {
                    let bytes = vec![i; 1300];
                    let packet = SuperPacket::complete(&bytes);
                    outgoing.push(&sockets, &packet, remote, layout, |slot, _| slot.len());
                }
                outgoing.flush(&sockets);
                assert_eq!(sockets.counters().segments_sent, 40, "{:?}", sockets.counters());
            });
        });
        let expected: Vec<Vec<u8>> = (0..40u8).map(|i| vec![i; 1300]).collect();
        assert!(received() == expected);
    });
}

#[test]
fn a_full_socket_buffer_holds_batches_back_and_loses_none() {
    isolated("a_full_socket_buffer_holds_batches_back_and_loses_none", || {
        let (a, b) = wire();
        // Nobody answers for the address, so what is sent stays in the socket's buffer.
        b.run("echo 8 >/proc/sys/net/ipv4/conf/all/arp_ignore");
        let link = b.run("ip -o link show vb");
        let mac = link.split("link/ether ").nth(1).expect("a veth").split(' ').next();
        let mac = mac.expect("an address").to_owned();
        let received = start_receiving(&b, 160);
        let counters = a.within(move || {
            runtime().block_on(async {
                let config = UdpConfig { port: Some(5001), buffer: 16_384, ..UdpConfig::default() };
                let sockets = UdpSockets::bind(&config).expect("sockets");
                let mut outgoing = Outgoing::new();
                let layout = SlotLayout { headroom: 0, tailroom: 0, align: 1, mtu: 0 };
                let remote = "10.9.0.2:5000".parse().expect("an address");
                for i in 0..160u8 {
                    let bytes = vec![i; 1000];
                    let packet = SuperPacket::complete(&bytes);
                    outgoing.push(&sockets, &packet, remote, layout, |slot, _| slot.len());
                }
                outgoing.flush(&sockets);
                assert!(outgoing.is_blocked(), "{:?}", sockets.counters());
                assert!(sockets.counters().segments_sent < 160);
                let early =
                    tokio::time::timeout(Duration::from_millis(100), sockets.writable()).await;
                assert!(early.is_err(), "it can't be writable yet");
                run(&format!("ip neigh replace 10.9.0.2 lladdr {mac} dev va"));
                while outgoing.is_blocked() {
                    tokio::time::timeout(Duration::from_secs(10), sockets.writable())
                        .await
                        .expect("in time")
                        .expect("the runtime lives");
                    outgoing.flush(&sockets);
                }
                assert_eq!(outgoing.dropped(), 0);
                sockets.counters()
            })
        });
        assert_eq!((counters.segments_sent, counters.send_errors), (160, 0));
        let expected: Vec<Vec<u8>> = (0..160u8).map(|i| vec![i; 1000]).collect();
        assert!(received() == expected);
    });
}

#[test]
fn a_probe_of_the_mtu_is_never_fragmented() {
    isolated("a_probe_of_the_mtu_is_never_fragmented", || {
        let (a, b) = wire();
        let (tell, told) = mpsc::channel();
        let received = b.start(move || {
            runtime().block_on(async {
                let sockets = sockets(Some(5000)).expect("sockets");
                tell.send(()).expect("somebody waits");
                receive(&sockets, 4).await
            })
        });
        told.recv().expect("the receiver starts");
        a.within(|| {
            runtime().block_on(async {
                let sockets = sockets(None).expect("sockets");
                for (remote, headers) in [("10.9.0.2:5000", 28), ("[fd09::2]:5000", 48)] {
                    let remote = remote.parse().expect("an address");
                    let fits = vec![1; 1500 - headers];
                    let too_long = vec![2; 1501 - headers];
                    sockets.try_send(remote, &fits, true).expect("it fits");
                    let error = sockets.try_send(remote, &too_long, true).expect_err("too long");
                    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
                    sockets.try_send(remote, &too_long, false).expect("in fragments");
                }
            });
        });
        let lengths: Vec<usize> = received().iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 1472 + 1473 + 1452 + 1453);
    });
}

#[test]
fn refusals_of_the_network_end_nothing() {
    isolated("refusals_of_the_network_end_nothing", || {
        let (a, b) = wire();
        run("true");
        a.run(
            "nft 'add table inet t; add chain inet t out { type filter hook output priority 0; }; \
               add rule inet t out ip daddr 10.9.0.77 drop'",
        );
        let (tell, told) = mpsc::channel();
        let received = b.start(move || {
            runtime().block_on(async {
                let sockets = sockets(Some(5000)).expect("sockets");
                tell.send(()).expect("somebody waits");
                receive(&sockets, 64).await
            })
        });
        told.recv().expect("the receiver starts");
        a.within(|| {
            runtime().block_on(async {
                let sockets = sockets(None).expect("sockets");
                let mut outgoing = Outgoing::new();
                let layout = SlotLayout { headroom: 0, tailroom: 0, align: 1, mtu: 0 };
                // No route; a firewall's refusal; nobody listens there.
                for refusing in ["192.0.2.1:9", "10.9.0.77:9", "10.9.0.2:9", "[2001:db8::1]:9"] {
                    let remote: SocketAddr = refusing.parse().expect("an address");
                    let _ = sockets.try_send(remote, b"hello", false);
                    let packet = SuperPacket::complete(b"hello");
                    for _ in 0..3 {
                        outgoing.push(&sockets, &packet, remote, layout, |slot, _| slot.len());
                    }
                    outgoing.flush(&sockets);
                }
                assert!(sockets.counters().send_errors >= 8, "{:?}", sockets.counters());
                // The ICMP answer to the third must not be an error of the next receive.
                tokio::time::timeout(Duration::from_millis(200), async {
                    let mut receiver = UdpReceiver::new();
                    loop {
                        sockets.readable().await.expect("the runtime lives");
                        let result = sockets.try_recv(&mut receiver);
                        assert_eq!(result.expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
                    }
                })
                .await
                .expect_err("nothing comes");
                let remote = "10.9.0.2:5000".parse().expect("an address");
                for i in 0..64u8 {
                    let bytes = [i; 100];
                    let packet = SuperPacket::complete(&bytes);
                    outgoing.push(&sockets, &packet, remote, layout, |slot, _| slot.len());
                }
                outgoing.flush(&sockets);
            });
        });
        let received = received();
        assert!(received.iter().enumerate().all(|(i, (_, bytes))| *bytes == [i as u8; 100]));
    });
}

#[test]
fn the_port_is_one_in_both_families_or_a_clear_error() {
    isolated("the_port_is_one_in_both_families_or_a_clear_error", || {
        runtime().block_on(async {
            let first = sockets(None).expect("sockets");
            assert!(first.has_ipv4() && first.has_ipv6());
            assert!((49_152..=65_535).contains(&first.port()));
            let error = sockets(Some(first.port())).expect_err("taken");
            assert!(matches!(error, Error::PortInUse { port } if port == first.port()));
            assert!(error.to_string().contains(&first.port().to_string()));
            // Taken in one family is taken.
            let other = UdpSocket::bind("[::1]:50505").expect("a socket");
            assert!(matches!(sockets(Some(50_505)), Err(Error::PortInUse { port: 50_505 })));
            drop(other);
            sockets(Some(50_505)).expect("free again");
        });
    });
}

#[test]
fn a_tun_device_that_cannot_be_had_says_what_to_do() {
    isolated("a_tun_device_that_cannot_be_had_says_what_to_do", || {
        runtime().block_on(async {
            let named =
                |name: &str| TunConfig { name: Some(name.to_owned()), ..TunConfig::default() };
            let first = Tun::open(&named("mesh0")).expect("a TUN");
            assert_eq!(first.name(), "mesh0");
            assert!(run("ip link show mesh0").contains("qlen 1000"));
            let taken = Tun::open(&named("mesh0")).expect_err("taken");
            assert!(matches!(&taken, Error::TunNameTaken { name } if name == "mesh0"), "{taken}");
            run("ip link add mesh1 type bridge");
            assert!(matches!(Tun::open(&named("mesh1")), Err(Error::TunNameTaken { .. })));
            for name in ["", "with space", "a/b", "sixteen-bytes-is", "x%d"] {
                assert!(matches!(Tun::open(&named(name)), Err(Error::TunNameInvalid { .. })));
            }
            let numbered = Tun::open(&TunConfig::default()).expect("a TUN");
            assert!(numbered.name().starts_with("warren"), "{}", numbered.name());
            drop(first);
            Tun::open(&named("mesh0")).expect("free again");

            // Without the capability in this namespace.
            let unprivileged = std::thread::spawn(|| {
                let header: [u32; 2] = [0x2008_0522, 0];
                let none = [0u32; 6];
                // SAFETY: both arrays are laid out as capset(2) has it; only this thread changes.
                let result =
                    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
                assert_eq!(result, 0);
                runtime().block_on(async { Tun::open(&TunConfig::default()).map(drop) })
            });
            let error = unprivileged.join().expect("it ends").expect_err("no privilege");
            assert!(matches!(error, Error::NoPrivilege { .. }), "{error}");
            assert!(error.to_string().contains("CAP_NET_ADMIN"));

            run("mount -t tmpfs tmpfs /dev/net");
            let missing = Tun::open(&TunConfig::default()).expect_err("missing");
            assert!(matches!(missing, Error::NoTunDevice), "{missing}");
            assert!(missing.to_string().contains("--device /dev/net/tun"));
        });
    });
}
