//! A server's socket against the kernel, on loopback.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use warren_net::{Error, ServerSocket, ServerSocketConfig, UdpReceiver};

fn socket(address: &str, offload: bool) -> ServerSocket {
    let address = address.parse().expect("an address");
    let config = ServerSocketConfig { offload, ..ServerSocketConfig::new(address) };
    ServerSocket::bind(&config).expect("a socket")
}

/// Receives `count` datagrams.
fn receive(socket: &ServerSocket, count: usize) -> Vec<Vec<u8>> {
    let mut receiver = UdpReceiver::new();
    let mut datagrams = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while datagrams.len() < count {
        assert!(Instant::now() < end, "{} of {count} datagrams came", datagrams.len());
        match socket.try_recv(&mut receiver) {
            Ok(runs) => {
                for run in runs {
                    let before = datagrams.len();
                    datagrams.extend(run.bytes.chunks(run.stride).map(<[u8]>::to_vec));
                    if run.bytes.is_empty() {
                        datagrams.push(Vec::new());
                    }
                    assert_eq!(datagrams.len() - before, run.datagrams());
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                std::thread::yield_now();
            }
        }
    }
    datagrams
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|number| (number % 251) as u8).collect()
}

#[test]
fn a_run_arrives_as_it_was_sent_whatever_the_offloads() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for (offload_out, offload_in) in [(true, true), (true, false), (false, true)] {
            let (out, into) = (socket(address, offload_out), socket(address, offload_in));
            // More than one call takes, and a shorter last one.
            let run = numbered(150 * 300 - 7);
            out.send_run(into.address(), &run, 300);
            let expected: Vec<_> = run.chunks(300).map(<[u8]>::to_vec).collect();
            assert!(receive(&into, 150) == expected, "{address} {offload_out} {offload_in}");
            let counters = out.counters();
            assert_eq!((counters.segments_sent, counters.send_errors), (150, 0));
            assert_eq!(counters.sends, if offload_out { 3 } else { 150 });
            let counters = into.counters();
            assert_eq!(counters.segments_received, 150);
            if offload_out && offload_in {
                assert!(counters.receives < 10, "{} receives", counters.receives);
            }
        }
    }
}

#[test]
fn pieces_are_sent_without_what_lies_between_them() {
    for offload in [true, false] {
        let (out, into) = (socket("127.0.0.1:0", offload), socket("127.0.0.1:0", true));
        let run = numbered(20 * 104 - 50);
        let pieces: Vec<_> = run.chunks(104).map(|chunk| IoSlice::new(&chunk[4..])).collect();
        out.send_pieces(into.address(), &pieces);
        let expected: Vec<_> = run.chunks(104).map(|chunk| chunk[4..].to_vec()).collect();
        assert_eq!(receive(&into, 20), expected);
        out.send_pieces(into.address(), &pieces[..1]);
        assert_eq!(receive(&into, 1), expected[..1]);
        assert_eq!(out.counters().segments_sent, 21);
    }
}

#[test]
fn empty_datagrams_go_through() {
    let (out, into) = (socket("127.0.0.1:0", true), socket("127.0.0.1:0", true));
    out.send_run(into.address(), &[], 0);
    assert_eq!(receive(&into, 1), [Vec::<u8>::new()]);
}

#[test]
fn a_port_is_shared_only_by_those_that_say_so() {
    let mut config = ServerSocketConfig::new("127.0.0.1:0".parse().expect("an address"));
    config.shared = true;
    let first = ServerSocket::bind(&config).expect("a socket");
    config.address = first.address();
    let _second = ServerSocket::bind(&config).expect("it is shared");
    config.shared = false;
    let refused = ServerSocket::bind(&config);
    assert!(matches!(refused, Err(Error::PortInUse { .. })), "{refused:?}");
}

#[test]
fn what_cannot_be_sent_is_counted_and_harms_nobody() {
    let socket = socket("127.0.0.1:0", true);
    socket.send_run("[::1]:9".parse::<std::net::SocketAddr>().expect("an address"), &[0; 900], 300);
    assert_eq!(socket.counters().send_errors, 3);
}

#[test]
fn datagrams_of_several_parts_arrive_whole_whatever_the_offloads() {
    for (offload_out, offload_in) in [(true, true), (true, false), (false, true)] {
        let (out, into) = (socket("127.0.0.1:0", offload_out), socket("127.0.0.1:0", offload_in));
        let data = numbered(20 * 300 - 7);
        let (head, last_head, tail) = ([1, 2, 3, 4], [5, 6, 7, 8], [0, 0]);
        let datagrams: Vec<&[u8]> = data.chunks(300).collect();
        let heads = (0..20).map(|n| if n == 19 { &last_head } else { &head });
        let parts: Vec<IoSlice<'_>> = heads
            .clone()
            .zip(&datagrams)
            .flat_map(|(head, data)| [&head[..], *data, &tail].map(IoSlice::new))
            .collect();
        out.send_parts(into.address(), &parts, 3);
        let expected: Vec<_> =
            heads.zip(&datagrams).map(|(head, data)| [&head[..], *data, &tail].concat()).collect();
        assert!(receive(&into, 20) == expected, "{offload_out} {offload_in}");
        assert_eq!(out.counters().sends, if offload_out { 1 } else { 20 });
    }
}

#[test]
fn a_datagram_that_must_not_be_fragmented_is_sent_whole_or_not_at_all() {
    let (out, into) = (socket("127.0.0.1:0", true), socket("127.0.0.1:0", true));
    let datagram = numbered(5000);
    out.send_unfragmented(into.address(), &datagram);
    out.send_run(into.address(), &datagram, 5000);
    assert_eq!(receive(&into, 2), [datagram.clone(), datagram]);
    assert_eq!(out.counters().send_errors, 0);
}
