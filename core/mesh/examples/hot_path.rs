//! What a packet costs on its way through a node with 200 peers, in nanoseconds:
//! `cargo run --release -p warren-mesh --example hot_path`.
//!
//! `route` is the look-up alone (what a super-packet costs before it is sealed), `seal` and `open`
//! include the cryptography of a packet of 1,400 bytes. Then the same where the filter restricts
//! every peer.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use warren_mesh::{Config, Inbound, LocalAddress, MapSource, Mesh, Outbound, TAILROOM};
use warren_proto::{
    AccountId, Apply, Change, Delta, DeviceId, DnsConfig, Endpoint, EndpointKind, Filter,
    FilterRule, MapVersion, Netmap, Peer, Ports, PublicKey, SelfEntry, Sources, Target,
};

const PEERS: u16 = 200;
const ROUNDS: u32 = 300_000;
const LEN: usize = 1400;

fn main() {
    let now = clock();
    let mut nodes = [node(0, now), node(1, now)];
    let packet = packet(0, 1);
    send(&mut nodes, 0, &packet, now);
    let answer = self::packet(1, 0);
    exchange(&mut nodes, now);
    send(&mut nodes, 1, &answer, now);
    exchange(&mut nodes, now);

    measure(&mut nodes, now);
    println!("with a filter:");
    for node in &mut nodes {
        let base = node.netmap().expect("a map").version;
        let version = MapVersion { sequence: base.sequence + 1, ..base };
        let ports = (0..20).map(|n| Ports::Udp(n * 100, n * 100 + 50)).collect();
        let rule = FilterRule { from: Sources::All, ports, to: vec![Target::This] };
        let filter = Some(Filter { rules: vec![rule], ..Filter::default() });
        let delta = Delta { base, version, changes: vec![Change::Filter { filter }] };
        assert_eq!(node.handle_delta(&delta, now), Apply::Applied);
    }
    measure(&mut nodes, now);
}

fn measure(nodes: &mut [Mesh; 2], now: Instant) {
    let packet = packet(0, 1);
    let begin = clock();
    for _ in 0..ROUNDS {
        let outbound = nodes[0].handle_outbound(&packet, LEN, now);
        assert!(matches!(outbound, Outbound::Seal { .. }));
    }
    report("route", begin.elapsed_since());

    let mut spent_sealing = Duration::ZERO;
    let mut spent_opening = Duration::ZERO;
    let mut slots = vec![vec![0; 16 + LEN + TAILROOM]; 64];
    for _ in 0..ROUNDS / 64 {
        let begin = clock();
        for slot in &mut slots {
            slot[16..16 + LEN].copy_from_slice(&packet);
            slot.resize(16 + LEN + TAILROOM, 0);
            let len = match nodes[0].handle_outbound(&packet, LEN, now) {
                Outbound::Seal { mut sealer, .. } => sealer.seal(slot, LEN),
                Outbound::Wait(_) | Outbound::Dropped(_) => panic!("no tunnel"),
            };
            slot.truncate(len);
        }
        spent_sealing += begin.elapsed_since();
        let begin = clock();
        for slot in &mut slots {
            let inbound = nodes[1].handle_datagram(address(0), slot, now);
            assert!(matches!(inbound, Inbound::Deliver { .. }), "{inbound:?}");
        }
        spent_opening += begin.elapsed_since();
    }
    report("seal", spent_sealing);
    report("open", spent_opening);
}

trait Elapsed {
    fn elapsed_since(self) -> Duration;
}

impl Elapsed for Instant {
    fn elapsed_since(self) -> Duration {
        clock().duration_since(self)
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn clock() -> Instant {
    Instant::now()
}

fn report(what: &str, spent: Duration) {
    println!("{what:>6} {:>6} ns", spent.as_nanos() / u128::from(ROUNDS));
}

fn address(index: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, index as u8 + 1], 4000))
}

fn mesh_address(index: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x6450_0001 + u32::from(index))
}

fn key(index: u16) -> [u8; 32] {
    let mut key = [7; 32];
    key[..2].copy_from_slice(&index.to_be_bytes());
    key
}

fn config(index: u16) -> Config {
    Config {
        private_key: key(index),
        seed: [index as u8 + 1; 32],
        unix: Duration::from_secs(1_800_000_000),
        mtu: Some(1420),
    }
}

fn node(this: u16, now: Instant) -> Mesh {
    let mut mesh = Mesh::new(config(this), now);
    let local = LocalAddress { ip: address(this).ip(), prefix_len: 32 };
    mesh.handle_local_addresses(&[local], 4000, now);
    let peers = (0..PEERS).filter(|i| *i != this).map(|i| Peer {
        id: DeviceId(u64::from(i) + 1),
        name: "peer".parse().expect("a name"),
        key: PublicKey(Mesh::new(config(i), now).public_key()),
        ipv4: mesh_address(i),
        ipv6: (0xFD00 << 112 | u128::from(i)).into(),
        endpoints: vec![Endpoint { addr: address(i), kind: EndpointKind::Host }],
        nat: Default::default(),
        online: true,
        capabilities: Vec::new(),
        relays: Vec::new(),
        edge: None,
        signature: None,
    });
    let map = Netmap {
        version: MapVersion { epoch: 1, sequence: 1 },
        account: AccountId(1),
        account_name: "home".parse().expect("a name"),
        ipv4_range: "100.80.0.0/16".parse().expect("a range"),
        ipv6_range: "fd00::/48".parse().expect("a range"),
        this: SelfEntry {
            id: DeviceId(u64::from(this) + 1),
            name: "this".parse().expect("a name"),
            ipv4: mesh_address(this),
            ipv6: (0xFD00 << 112 | u128::from(this)).into(),
            static_endpoint: None,
            admission: warren_proto::Admission::Member,
            expires_unix: None,
            approvers: Vec::new(),
        },
        peers: peers.collect(),
        stun: Vec::new(),
        dns: DnsConfig { domain: "home.warren.internal".into() },
        next_pin: None,
        relays: Vec::new(),
        relay_duty: None,
        filter: None,
        edge: None,
        edge_asked: false,
    };
    mesh.handle_netmap(map, MapSource::Broker, now);
    mesh
}

fn packet(from: u16, to: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&(LEN as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&mesh_address(from).octets());
    packet.extend_from_slice(&mesh_address(to).octets());
    packet.resize(LEN, 0);
    packet
}

fn send(nodes: &mut [Mesh; 2], from: usize, packet: &[u8], now: Instant) {
    let wait = match nodes[from].handle_outbound(packet, LEN, now) {
        Outbound::Wait(peer) => Some(peer),
        Outbound::Seal { .. } | Outbound::Dropped(_) => None,
    };
    if let Some(peer) = wait {
        nodes[from].enqueue(peer, packet, now);
    }
}

/// Carries datagrams to and fro until none is left.
fn exchange(nodes: &mut [Mesh; 2], now: Instant) {
    loop {
        let mut idle = true;
        for from in 0..2 {
            while let Some(mut transmit) = nodes[from].poll_transmit() {
                idle = false;
                if transmit.remote == address(1 - from as u16) {
                    let source = address(from as u16);
                    let _ = nodes[1 - from].handle_datagram(source, &mut transmit.contents, now);
                }
            }
        }
        if idle {
            return;
        }
    }
}
