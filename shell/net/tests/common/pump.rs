//! The data path without the crypto: TUN ↔ UDP, slots laid out as a sealed packet's would be.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;

use warren_net::{
    Coalescer, HostConfig, HostNetwork, InterfaceConfig, Outgoing, SlotLayout, Tun, TunConfig,
    TunCounters, TunReader, UdpConfig, UdpCounters, UdpReceiver, UdpSockets,
};

use super::Host;

pub const HEADROOM: usize = 16;
pub const TAILROOM: usize = 16;

/// Reads taken from one side before the other gets its turn.
const BURST: usize = 8;

/// A node without crypto in a namespace.
pub struct Node {
    pub number: u8,
    pub peer: u8,
    pub offload: bool,
    pub mtu: u16,
}

impl Node {
    /// Its end of the wire.
    pub fn endpoint(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 9, 0, number], 5000))
    }

    pub fn interface(&self) -> InterfaceConfig {
        InterfaceConfig {
            ipv4: [100, 72, 0, self.number].into(),
            ipv6: format!("fd00:72::{}", self.number).parse().expect("an address"),
            range4: "100.72.0.0/16".parse().expect("a network"),
            range6: "fd00:72::/48".parse().expect("a network"),
            mtu: self.mtu,
            peers4: Vec::new(),
            exit: None,
        }
    }

    /// Forwards until `stop`, after `ready` was called.
    pub async fn forward(
        &self,
        ready: impl FnOnce(),
        stop: impl Future<Output = ()>,
    ) -> (TunCounters, UdpCounters) {
        let offload = self.offload;
        let tun = Tun::open(&TunConfig { offload, ..TunConfig::default() }).expect("a TUN");
        let mut host = HostNetwork::new(&tun, HostConfig::default()).expect("a host");
        host.configure(&self.interface()).expect("an interface");
        let config = UdpConfig { port: Some(5000), offload, ..UdpConfig::default() };
        let sockets = UdpSockets::bind(&config).expect("sockets");
        ready();
        let mut stop = pin!(stop);
        tokio::select! {
            () = pump(&tun, &sockets, Self::endpoint(self.peer)) => unreachable!(),
            () = &mut stop => {}
        }
        (tun.counters(), sockets.counters())
    }
}

/// Two hosts on one wire, `10.9.0.1` and `10.9.0.2`.
pub fn wire() -> (Host, Host) {
    let (a, b) = (Host::new(), Host::new());
    a.connect("va", "10.9.0.1/24 fd09::1/64", &b, "vb", "10.9.0.2/24 fd09::2/64");
    (a, b)
}

pub async fn pump(tun: &Tun, sockets: &UdpSockets, remote: SocketAddr) {
    let mut reader = TunReader::new();
    let mut outgoing = Outgoing::new();
    let mut receiver = UdpReceiver::new();
    let mut coalescer = Coalescer::new();
    let layout = SlotLayout { headroom: HEADROOM, tailroom: TAILROOM, align: 1, mtu: 0 };
    loop {
        tokio::select! {
            ready = tun.readable(), if !outgoing.is_blocked() => {
                ready.expect("the runtime lives");
                for _ in 0..BURST {
                    let Ok(packet) = tun.try_recv(&mut reader) else { break };
                    outgoing.push(sockets, &packet, remote, layout, |slot, _| slot.len());
                }
                outgoing.flush(sockets);
            }
            ready = sockets.writable(), if outgoing.is_blocked() => {
                ready.expect("the runtime lives");
                outgoing.flush(sockets);
            }
            ready = sockets.readable() => {
                ready.expect("the runtime lives");
                for _ in 0..BURST {
                    let Ok(received) = sockets.try_recv(&mut receiver) else { break };
                    let mut writes = coalescer.begin(tun);
                    for (_, datagram) in received {
                        let end = datagram.len().saturating_sub(TAILROOM);
                        if let Some(packet) = datagram.get(HEADROOM..end) {
                            writes.push(packet);
                        }
                    }
                    writes.flush();
                }
            }
        }
    }
}
