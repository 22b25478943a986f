use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp::State;
use smoltcp::wire::{
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use warren_proxy::{Dropped, Limits};

use crate::world::{CAMERA, EDGE, End, Lan, PEER, World};

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
}

/// A segment of a peer that has no stack.
fn segment(peer: Ipv4Addr, port: u16, control: TcpControl, ack: Option<i32>) -> Vec<u8> {
    let tcp = TcpRepr { src_port: port, control, ack_number: ack.map(TcpSeqNumber), ..PLAIN };
    packet(peer, &tcp)
}

const PLAIN: TcpRepr<'static> = TcpRepr {
    src_port: 1,
    dst_port: 8080,
    control: TcpControl::None,
    seq_number: TcpSeqNumber(1),
    ack_number: None,
    window_len: 1000,
    window_scale: None,
    max_seg_size: None,
    sack_permitted: false,
    sack_ranges: [None; 3],
    timestamp: None,
    payload: &[],
};

fn packet(peer: Ipv4Addr, tcp: &TcpRepr<'_>) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let ip = Ipv4Repr {
        src_addr: peer,
        dst_addr: EDGE,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; ip.buffer_len() + tcp.buffer_len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
    let mut inside = TcpPacket::new_unchecked(&mut packet[20..]);
    tcp.emit(&mut inside, &peer.into(), &EDGE.into(), &checksums);
    packet
}

pub(crate) fn syn(peer: Ipv4Addr, port: u16) -> Vec<u8> {
    segment(peer, port, TcpControl::Syn, None)
}

/// A megabyte in each direction, at once; both sides close when they have sent all.
fn exchange(loses: u64) -> Duration {
    let mut world = World::new(Limits::default());
    world.loses = loses;
    let begun = world.now;
    let handle = world.connect(40_000);
    let data = pattern(MIB);
    assert!(world.run(LONG, |world| !world.ends.is_empty()));
    let flow = *world.ends.keys().next().unwrap();
    let end = world.ends.get_mut(&flow).unwrap();
    end.sends.extend(&data);
    end.closes = true;
    let (mut sent, mut got) = (0, Vec::new());
    let done = world.run(LONG * 10, |world| {
        let socket = world.socket(handle);
        if sent < MIB && socket.may_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
            if sent == MIB {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
        }
        got.len() == MIB && world.ends[&flow].ended
    });
    assert!(done, "{sent} sent, {} came, {} arrived", got.len(), world.ends[&flow].got.len());
    assert!(got == data && world.ends[&flow].got == data);
    world.loses = 0;
    assert!(world.run(LONG, |world| world.proxy.flows() == 0), "{:?}", world.proxy);
    world.now - begun
}

#[test]
fn a_megabyte_goes_both_ways_and_both_ends_close() {
    let took = exchange(0);
    assert!(took < SECOND * 15, "{took:?}");
}

#[test]
fn what_is_lost_is_sent_again() {
    exchange(50);
    exchange(13);
}

#[test]
fn each_side_may_close_first_and_still_be_sent_to() {
    let mut world = World::new(Limits::default());
    let handle = world.connect(40_000);
    assert!(world.run(LONG, |world| world.socket(handle).may_send()));
    world.socket(handle).send_slice(b"that is all").unwrap();
    world.socket(handle).close();
    let flow = *world.ends.keys().next().unwrap();
    assert!(world.run(LONG, |world| world.ends[&flow].ended));
    assert_eq!(world.ends[&flow].got, b"that is all");
    world.ends.get_mut(&flow).unwrap().sends.extend(b"an answer, after the end");
    assert!(world.run(LONG, |world| world.socket(handle).recv_queue() == 24));
    world.ends.get_mut(&flow).unwrap().closes = true;
    assert!(world.run(LONG, |world| world.proxy.flows() == 0));
    assert_eq!(world.closed, [flow]);

    let handle = world.connect(40_001);
    assert!(world.run(LONG, |world| world.ends.len() == 2));
    let flow = *world.ends.keys().last().unwrap();
    *world.ends.get_mut(&flow).unwrap() =
        End { sends: b"short".iter().copied().collect(), closes: true, ..End::default() };
    assert!(world.run(LONG, |world| world.socket(handle).state() == State::CloseWait));
    world.socket(handle).send_slice(b"late").unwrap();
    assert!(world.run(LONG, |world| world.ends[&flow].got == b"late"));
    world.socket(handle).close();
    assert!(world.run(LONG, |world| world.proxy.flows() == 0));
}

#[test]
fn a_refusal_of_the_lan_is_one_for_the_peer_and_silence_is_a_late_one() {
    let mut world = World::new(Limits::default());
    world.lan = Lan::Refuses;
    let handle = world.connect(40_000);
    assert!(world.run(SECOND, |world| world.socket(handle).state() == State::Closed));
    world.lan = Lan::IsSilent;
    let handle = world.connect(40_001);
    world.pass(SECOND * 20);
    assert_eq!(world.socket(handle).state(), State::SynSent, "nobody is connected to nothing");
    assert_eq!(world.connects, 2, "a SYN that is sent again is the same one");
    assert!(world.run(SECOND * 20, |world| world.socket(handle).state() == State::Closed));
    assert_eq!(world.proxy.flows(), 0);
    // Nothing open: no answer, no flow.
    world.retarget(None);
    assert_eq!(world.packet(&syn(PEER, 40_002)), Err(Dropped::Closed));
    assert_eq!((world.proxy.flows(), world.proxy.wants_to_transmit()), (0, false));
}

#[test]
fn a_segment_of_no_connection_is_reset_and_a_reset_is_not() {
    let mut world = World::new(Limits::default());
    world.packet(&segment(PEER, 40_000, TcpControl::None, Some(5))).unwrap();
    world.packet(&segment(PEER, 40_000, TcpControl::Rst, None)).unwrap();
    assert_eq!(world.proxy.flows(), 0);
    assert_eq!(world.sent_to_peer(), 1);
}

#[test]
fn who_takes_nothing_is_sent_no_more_than_the_buffers_hold() {
    let limits = Limits::default();
    let mut world = World::new(limits.clone());
    world.lan = Lan::IsFull;
    let handle = world.connect(40_000);
    let data = pattern(MIB);
    let mut sent = 0;
    world.run(SECOND * 60, |world| {
        let socket = world.socket(handle);
        if sent < MIB && socket.can_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        false
    });
    assert!(sent <= limits.buffer + 65_536, "{sent}");
    assert!(sent >= limits.buffer, "{sent}");
    // It goes on where it stood, however long that was.
    world.lan = Lan::Accepts;
    let flow = *world.ends.keys().next().unwrap();
    let done = world.run(LONG * 10, |world| {
        let socket = world.socket(handle);
        if sent < MIB && socket.can_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        world.ends[&flow].got.len() == MIB
    });
    assert!(done && world.ends[&flow].got == data);
}

#[test]
fn a_flood_of_syns_holds_no_more_than_one_peers_share() {
    let limits = Limits::default();
    let mut world = World::new(limits.clone());
    world.lan = Lan::IsSilent;
    for port in 1..=10_000 {
        let _ = world.packet(&syn(PEER, port));
    }
    assert_eq!(world.proxy.flows(), limits.half_open_per_peer);
    assert_eq!(world.connects, limits.half_open_per_peer);
    // Another peer is served all the same.
    world.lan = Lan::Accepts;
    assert_eq!(world.packet(&syn(Ipv4Addr::new(100, 80, 0, 6), 1)), Ok(()));
    assert_eq!(world.proxy.flows(), limits.half_open_per_peer + 1);
    // Who never answers the LAN's agreement is half open, too.
    let mut world = World::new(limits.clone());
    for port in 1..=10_000 {
        let _ = world.packet(&syn(PEER, port));
    }
    assert_eq!(world.proxy.flows(), limits.half_open_per_peer);
    world.pass(limits.connect * 2);
    assert_eq!(world.proxy.flows(), 0, "they are let go");
    assert_eq!(world.closed.len(), limits.half_open_per_peer);
}

#[test]
fn connections_are_limited_for_each_peer_and_room_comes_back() {
    let limits = Limits { connections_per_peer: 3, ..Limits::default() };
    let mut world = World::new(limits);
    let handles: Vec<_> = (0..4).map(|n| world.connect(40_000 + n)).collect();
    world.pass(SECOND * 5);
    assert!(handles[..3].iter().all(|h| world.socket(*h).state() == State::Established));
    assert_eq!(world.socket(handles[3]).state(), State::SynSent);
    world.socket(handles[0]).abort();
    assert!(world.run(LONG, |world| world.socket(handles[3]).state() == State::Established));
}

#[test]
fn a_connection_that_leads_elsewhere_now_is_reset_and_the_next_goes_there() {
    let mut world = World::new(Limits::default());
    let handle = world.connect(40_000);
    assert!(world.run(LONG, |world| world.socket(handle).may_send()));
    world.retarget(Some(CAMERA));
    world.pass(SECOND);
    assert_eq!(world.socket(handle).state(), State::Established, "nothing has changed");
    world.retarget(Some("192.168.1.77:80".parse().unwrap()));
    assert!(world.run(SECOND, |world| world.socket(handle).state() == State::Closed));
    assert_eq!(world.proxy.flows(), 0);
    let handle = world.connect(40_001);
    assert!(world.run(LONG, |world| world.socket(handle).may_send()));
}

#[test]
fn a_peer_that_has_gone_for_good_is_noticed() {
    let limits = Limits::default();
    let mut world = World::new(limits.clone());
    let handle = world.connect(40_000);
    assert!(world.run(LONG, |world| world.socket(handle).may_send()));
    // An idle one that answers stays.
    world.pass(limits.silence * 3);
    assert_eq!(world.socket(handle).state(), State::Established);
    assert_eq!(world.proxy.flows(), 1);
    world.loses = 1;
    world.pass(limits.silence + limits.keepalive * 2);
    assert_eq!(world.proxy.flows(), 0);
    assert_eq!(world.closed.len(), 1);
}

/// A segment that is whole, but says anything.
fn any_segment() -> impl Strategy<Value = (TcpRepr<'static>, usize)> {
    const CONTROLS: [TcpControl; 5] =
        [TcpControl::None, TcpControl::Psh, TcpControl::Syn, TcpControl::Fin, TcpControl::Rst];
    let numbers = (-3..2000_i32, proptest::option::of(any::<i32>()), any::<bool>());
    let options = (proptest::option::of(0..20_u8), proptest::option::of(any::<u16>()));
    let all = (0..5_usize, numbers, any::<u16>(), options, 0..600_usize, 1..4_u16);
    all.prop_map(|(control, (seq, ack, near), window_len, (scale, mss), len, src_port)| {
        let is_syn = CONTROLS[control] == TcpControl::Syn;
        let tcp = TcpRepr {
            src_port,
            control: CONTROLS[control],
            seq_number: TcpSeqNumber(seq),
            // Near what was said last, half of the time.
            ack_number: ack.map(|ack| TcpSeqNumber(if near { ack % 3 } else { ack })),
            window_len,
            window_scale: scale.filter(|_| is_syn),
            max_seg_size: mss.filter(|_| is_syn),
            ..PLAIN
        };
        (tcp, len)
    })
}

proptest! {
    #[test]
    fn whatever_a_peer_says_nothing_panics_and_his_share_is_all_he_gets(
        segments in proptest::collection::vec((any_segment(), 0..3000_u64), 1..60),
    ) {
        let limits = Limits { buffer: 4096, connections_per_peer: 2, ..Limits::default() };
        let mut world = World::new(limits);
        let payload = pattern(600);
        let mut last = None;
        for ((mut tcp, len), wait) in segments {
            // What the proxy said last to that port makes an acknowledgement believable.
            if let (Some(seq), Some(ack)) = (last, tcp.ack_number.as_mut())
                && (-2..=2).contains(&ack.0)
            {
                *ack = TcpSeqNumber(ack.0.wrapping_add(seq));
            }
            tcp.payload = &payload[..len];
            let _ = world.packet(&packet(PEER, &tcp));
            for packet in world.take_sent_to_peer() {
                let ip = Ipv4Packet::new_checked(&packet[..]).unwrap();
                last = Some(TcpPacket::new_checked(ip.payload()).unwrap().seq_number().0 + 1);
            }
            world.pass(Duration::from_millis(wait));
            prop_assert!(world.proxy.flows() <= 2);
        }
    }
}
