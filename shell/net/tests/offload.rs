//! Splitting and coalescing through the public API: what is cut is right by itself, and what is
//! joined gives back the same packets when it is cut again.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;

use proptest::prelude::*;
use warren_net::{Coalescer, Joined, PacketSink, Preamble, Segmentation, SuperPacket, checksum};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// A flow's next super-packet, in numbers.
#[derive(Debug, Clone)]
struct Burst {
    ipv6: bool,
    udp: bool,
    /// Tells flows apart (the source port).
    flow: u8,
    flags: u8,
    /// TCP options in words.
    options: usize,
    payload: usize,
    size: usize,
    dont_fragment: bool,
}

fn bursts() -> impl Strategy<Value = Vec<Burst>> {
    let burst = (
        any::<(bool, bool, bool)>(),
        0..3u8,
        prop::sample::select(vec![
            ACK,
            ACK | PSH,
            ACK | FIN,
            ACK | PSH | FIN,
            ACK | ECE,
            ACK | CWR,
            ACK | CWR | PSH,
        ]),
        0..=10usize,
        prop_oneof![1..200usize, 1..20_000usize, Just(64_000usize)],
        prop_oneof![1..40usize, 500..1500usize, Just(1368usize)],
    )
        .prop_map(|((ipv6, udp, dont_fragment), flow, flags, options, payload, size)| {
            let size = size.max(payload / 60);
            Burst { ipv6, udp, flow, flags, options, payload, size, dont_fragment }
        });
    prop::collection::vec(burst, 1..12)
}

/// The super-packet as a kernel would hand it over, with the offset of its transport header.
fn build(burst: &Burst, seq: u32, id: u16) -> (Vec<u8>, usize) {
    let header = if burst.udp { 8 } else { 20 + burst.options * 4 };
    let transport_len = header + burst.payload;
    let mut packet = Vec::new();
    if burst.ipv6 {
        packet.extend([0x60, 0x0a, 0xbc, 0xde]);
        packet.extend((transport_len as u16).to_be_bytes());
        packet.extend([if burst.udp { 17 } else { 6 }, 61]);
        packet.extend([0xfd; 15]);
        packet.push(1);
        packet.extend([0xfd; 15]);
        packet.push(2);
    } else {
        packet.extend([0x45, 0x02]);
        packet.extend((20 + transport_len as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend([if burst.dont_fragment { 0x40 } else { 0 }, 0]);
        packet.extend([63, if burst.udp { 17 } else { 6 }, 0, 0]);
        packet.extend([100, 72, 0, 1, 100, 72, 0, 2]);
    }
    let transport = packet.len();
    packet.extend([0x90, burst.flow, 0x14, 0x51]);
    if burst.udp {
        packet.extend((transport_len as u16).to_be_bytes());
        packet.extend([0xaa, 0xaa]);
    } else {
        packet.extend(seq.to_be_bytes());
        packet.extend(0x0102_0304u32.to_be_bytes());
        packet.extend([
            ((5 + burst.options) << 4) as u8,
            burst.flags,
            0x20,
            0x00,
            0xaa,
            0xaa,
            0,
            0,
        ]);
        packet.extend((0..burst.options * 4).map(|i| i as u8));
    }
    packet.extend((0..burst.payload).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8 ^ id as u8));
    (packet, transport)
}

fn super_packet<'a>(burst: &Burst, packet: &'a [u8], start: usize) -> SuperPacket<'a> {
    let size = burst.size;
    let segmentation = if burst.udp {
        Segmentation::Udp { start, size }
    } else {
        Segmentation::Tcp { start, size }
    };
    SuperPacket::new(packet, segmentation).expect("a sound super-packet")
}

fn cut(packet: &SuperPacket<'_>) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    packet.for_each_segment(&mut Vec::new(), |segment| segments.push(segment.to_vec()));
    segments
}

/// Both checksums, computed over a pseudo-header that is really laid out.
fn checksums_hold(packet: &[u8]) -> bool {
    let (transport, addresses, protocol) = match packet[0] >> 4 {
        4 => (20, packet[12..20].to_vec(), packet[9]),
        _ => (40, packet[8..40].to_vec(), packet[6]),
    };
    let mut pseudo = addresses;
    pseudo.extend(((packet.len() - transport) as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo.extend(&packet[transport..]);
    checksum(&pseudo) == [0, 0] && (transport == 40 || checksum(&packet[..20]) == [0, 0])
}

/// Everything but IPv4's identification, which is free where fragmentation is forbidden.
fn comparable(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

fn flow_of(packet: &[u8]) -> Vec<u8> {
    let transport = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let protocol = packet.get(if transport == 20 { 9 } else { 6 }).copied().unwrap_or(0);
    let mut flow = vec![packet[0] >> 4, protocol];
    flow.extend(packet.get(transport..transport + 2).unwrap_or_default());
    flow
}

/// How it was joined, its bytes, how many packets it stands for.
type Written = (Option<Joined>, Vec<u8>, usize);

/// Records what would be written; the system's side of the seam.
#[derive(Default)]
struct Recorder {
    joined: Cell<Option<Joined>>,
    writes: RefCell<Vec<Written>>,
}

impl PacketSink for Recorder {
    fn joins(&self, _udp: bool) -> bool {
        true
    }

    fn preamble(&self, joined: Option<&Joined>) -> Preamble {
        self.joined.set(joined.copied());
        Preamble::new(b"preamble")
    }

    fn write(&self, buffers: &[IoSlice<'_>], segments: usize) {
        assert_eq!(&*buffers[0], b"preamble");
        let bytes = buffers[1..].iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.writes.borrow_mut().push((self.joined.take(), bytes, segments));
    }
}

/// Writes `packets` coalesced and cuts every write again.
fn through(packets: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
    let recorder = Recorder::default();
    let mut coalescer = Coalescer::new();
    // Two rounds with the same storage, so that reuse is seen too.
    for half in packets.chunks(packets.len().div_ceil(2).max(1)) {
        let mut writes = coalescer.begin(&recorder);
        for packet in half {
            writes.push(packet);
        }
        writes.flush();
    }
    let mut result = Vec::new();
    let writes = recorder.writes.into_inner();
    let count = writes.len();
    for (joined, bytes, segments) in writes {
        let Some(joined) = joined else {
            assert_eq!(segments, 1);
            result.push(bytes);
            continue;
        };
        assert_eq!(joined.ipv6, bytes[0] >> 4 == 6);
        let (start, size) = (joined.transport, joined.size);
        let segmentation = if joined.udp {
            Segmentation::Udp { start, size }
        } else {
            Segmentation::Tcp { start, size }
        };
        let packet = SuperPacket::new(&bytes, segmentation).expect("a sound super-packet");
        assert_eq!(packet.segments(), segments);
        assert_eq!(joined.cwr, !joined.udp && bytes[start + 13] & CWR != 0);
        result.extend(cut(&packet));
    }
    (result, count)
}

proptest! {
    #[test]
    fn each_segment_is_a_sound_packet_of_its_own(bursts in bursts()) {
        for burst in &bursts {
            let (bytes, transport) = build(burst, 0xffff_f000, 0xfff0);
            let packet = super_packet(burst, &bytes, transport);
            let headers = bytes.len() - burst.payload;
            let segments = cut(&packet);
            prop_assert_eq!(segments.len(), burst.payload.div_ceil(burst.size));
            let mut payload: Vec<u8> = Vec::new();
            for (i, segment) in segments.iter().enumerate() {
                prop_assert!(checksums_hold(segment));
                prop_assert_eq!(segment.len(), packet.segment_len(i));
                let last = i + 1 == segments.len();
                let ip_len = u16::from_be_bytes(if burst.ipv6 {
                    [segment[4], segment[5]]
                } else {
                    [segment[2], segment[3]]
                });
                prop_assert_eq!(usize::from(ip_len), segment.len() - if burst.ipv6 { 40 } else { 0 });
                if !burst.ipv6 {
                    let id = u16::from_be_bytes([segment[4], segment[5]]);
                    prop_assert_eq!(id, 0xfff0u16.wrapping_add(i as u16));
                }
                if burst.udp {
                    let len = u16::from_be_bytes([segment[transport + 4], segment[transport + 5]]);
                    prop_assert_eq!(usize::from(len), segment.len() - transport);
                } else {
                    let seq = u32::from_be_bytes(segment[transport + 4..transport + 8].try_into().unwrap());
                    prop_assert_eq!(seq, 0xffff_f000u32.wrapping_add((i * burst.size) as u32));
                    let mut flags = burst.flags;
                    if !last { flags &= !(FIN | PSH); }
                    if i > 0 { flags &= !CWR; }
                    prop_assert_eq!(segment[transport + 13], flags);
                }
                payload.extend(&segment[headers..]);
            }
            prop_assert_eq!(&payload, &bytes[headers..]);
        }
    }

    #[test]
    fn joining_and_cutting_gives_back_every_flow_in_its_order(
        bursts in bursts(),
        shuffle in any::<u64>(),
        odd in prop::collection::vec((any::<u8>(), 1..80usize), 0..6),
    ) {
        let mut queues: Vec<Vec<Vec<u8>>> = Vec::new();
        let (mut seq, mut id) = (77u32, 1u16);
        for burst in &bursts {
            let (bytes, transport) = build(burst, seq, id);
            let segments = cut(&super_packet(burst, &bytes, transport));
            seq = seq.wrapping_add(burst.payload as u32);
            id = id.wrapping_add(segments.len() as u16);
            queues.push(segments);
        }
        // Flows overlap in blocks; inside a burst the order stays.
        let mut packets = Vec::new();
        let mut random = shuffle | 1;
        while queues.iter().any(|queue| !queue.is_empty()) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % queues.len();
            let take = ((random >> 20) as usize % 50).min(queues[at].len());
            packets.extend(queues[at].drain(..take));
        }
        for (i, (first, len)) in odd.iter().enumerate() {
            let at = (i * 7919) % (packets.len() + 1);
            packets.insert(at, std::iter::once(*first).chain(1..*len as u8).collect());
        }
        let (result, _) = through(&packets);
        prop_assert_eq!(result.len(), packets.len());
        let flows: std::collections::BTreeSet<Vec<u8>> =
            packets.iter().filter(|p| p.len() >= 28).map(|p| flow_of(p)).collect();
        for flow in flows {
            let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|p| p.len() >= 28 && flow_of(p) == flow).cloned()
                    .map(comparable).collect()
            };
            prop_assert_eq!(of(&packets), of(&result));
        }
        let (mut sent, mut got) = (packets, result);
        sent = sent.into_iter().map(comparable).collect();
        got = got.into_iter().map(comparable).collect();
        sent.sort();
        got.sort();
        prop_assert_eq!(sent, got);
    }

    #[test]
    fn arbitrary_super_packets_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        version in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0x10]),
        start in 0..100usize,
        size in 0..50usize,
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        for segmentation in [
            Segmentation::Tcp { start, size },
            Segmentation::Udp { start, size },
            Segmentation::Checksum { start, offset: size },
            Segmentation::Complete,
        ] {
            if let Some(packet) = SuperPacket::new(&bytes, segmentation) {
                let total: usize = cut(&packet).iter().map(Vec::len).sum();
                prop_assert!(total >= bytes.len());
            }
        }
        through(&[bytes]);
    }
}

fn tcp(payload: usize, size: usize, flags: u8) -> Burst {
    Burst {
        ipv6: false,
        udp: false,
        flow: 1,
        flags,
        options: 3,
        payload,
        size,
        dont_fragment: true,
    }
}

#[test]
fn a_full_tcp_burst_becomes_one_write() {
    let burst = tcp(47 * 1368, 1368, ACK | PSH);
    let (bytes, transport) = build(&burst, 5, 9);
    let recorder = Recorder::default();
    let segments = cut(&super_packet(&burst, &bytes, transport));
    let mut coalescer = Coalescer::new();
    let mut writes = coalescer.begin(&recorder);
    for segment in &segments {
        writes.push(segment);
    }
    drop(writes);
    let writes = recorder.writes.into_inner();
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].2, 47);
    // But for the checksum, which covers the pseudo-header alone as yet, it is what was cut.
    let mut joined = writes[0].1.clone();
    joined[transport + 16..transport + 18].fill(0xaa);
    joined[10..12].fill(0);
    assert_eq!(joined, bytes);
}

#[test]
fn udp_of_equal_size_becomes_one_write_of_at_most_64() {
    let burst = Burst { udp: true, ..tcp(100 * 500, 500, 0) };
    let (bytes, transport) = build(&burst, 0, 0);
    let segments = cut(&super_packet(&burst, &bytes, transport));
    // One round, not the two of `through`.
    let recorder = Recorder::default();
    let mut coalescer = Coalescer::new();
    let mut writes = coalescer.begin(&recorder);
    for segment in &segments {
        writes.push(segment);
    }
    writes.flush();
    let counts: Vec<usize> = recorder.writes.borrow().iter().map(|write| write.2).collect();
    assert_eq!(counts, [64, 36]);
}

#[test]
fn a_wrong_checksum_is_never_laundered() {
    let burst = tcp(10 * 1000, 1000, ACK);
    let (bytes, transport) = build(&burst, 5, 9);
    for broken in 0..10 {
        let mut segments = cut(&super_packet(&burst, &bytes, transport));
        segments[broken][500] ^= 1;
        let recorder = Recorder::default();
        let mut coalescer = Coalescer::new();
        let mut writes = coalescer.begin(&recorder);
        for segment in &segments {
            writes.push(segment);
        }
        writes.flush();
        let writes = recorder.writes.into_inner();
        let alone = writes.iter().find(|(_, bytes, _)| *bytes == segments[broken]);
        assert!(alone.is_some_and(|(joined, _, _)| joined.is_none()), "segment {broken}");
        assert_eq!(writes.iter().map(|write| write.2).sum::<usize>(), 10);
    }
}

#[test]
fn a_bare_ack_stays_between_the_data_around_it() {
    let burst = tcp(3 * 1000, 1000, ACK);
    let (bytes, transport) = build(&burst, 5, 9);
    let mut packets = cut(&super_packet(&burst, &bytes, transport));
    let mut ack = packets[0][..transport + 32].to_vec();
    ack[2..4].copy_from_slice(&((transport + 32) as u16).to_be_bytes());
    packets.insert(2, ack.clone());
    let recorder = Recorder::default();
    let mut coalescer = Coalescer::new();
    let mut writes = coalescer.begin(&recorder);
    for packet in &packets {
        writes.push(packet);
    }
    writes.flush();
    let writes = recorder.writes.into_inner();
    assert_eq!(writes.iter().map(|write| write.2).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(writes[1].1, ack);
}
