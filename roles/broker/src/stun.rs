//! The STUN server's sockets: each asked-for port and the next one beside it, both families.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tracing::{debug, trace};
use warren_turn::{Answer, BindingServer, Limits, is_public};

use crate::addresses;

/// A Binding request with padding fits; what is longer is no honest one.
const MAX_DATAGRAM: usize = 1500;
const BUFFER: usize = 1 << 20;
/// How often another pair of ports is tried when port 0 was asked for.
const PORT_TRIES: usize = 20;

/// Whether the host lacks the address family altogether (IPv6 switched off).
pub(crate) fn is_family_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

/// The bound sockets; serving begins with [`Stun::spawn`].
pub(crate) struct Stun {
    sockets: Vec<UdpSocket>,
    bound: Vec<SocketAddr>,
}

impl Stun {
    /// Binds every listener and its next port.
    ///
    /// # Errors
    /// An address is taken or isn't this host's.
    pub(crate) fn bind(listeners: &[SocketAddr]) -> Result<Self> {
        let mut sockets = Vec::new();
        for addr in listeners {
            let pairs = bind_pairs(*addr).with_context(|| {
                format!(
                    "can't serve STUN on UDP {addr} and the next port; is another STUN or TURN \
                     server there? Choose another one: --stun ADDR:PORT"
                )
            })?;
            sockets.extend(pairs);
        }
        let bound = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
        Ok(Self { sockets, bound })
    }

    /// The addresses that are bound: all asked-for ports, then the next ports. An address is worth
    /// more than a port to who wants to know how his NAT maps.
    pub(crate) fn bound(&self) -> Vec<SocketAddr> {
        let asked_for = self.bound.iter().step_by(2);
        asked_for.chain(self.bound.iter().skip(1).step_by(2)).copied().collect()
    }

    /// How the bound addresses look from outside, in the order of [`Stun::bound`].
    pub(crate) fn seen(&self) -> Vec<SocketAddr> {
        let own = addresses::own_addresses();
        self.bound().iter().map(|addr| from_outside(*addr, &own)).collect()
    }

    /// Answers until the tasks are dropped.
    ///
    /// # Errors
    /// The sockets refuse an option that every Linux since 3.x has.
    pub(crate) fn spawn(self) -> Result<JoinSet<()>> {
        let own = addresses::own_addresses();
        let seen: Vec<SocketAddr> =
            self.bound.iter().map(|addr| from_outside(*addr, &own)).collect();
        let server = BindingServer::new(seen, Limits::default(), rand::random(), Instant::now());
        let server = Arc::new(Mutex::new(server));
        let sockets: Arc<[Port]> =
            self.sockets.into_iter().map(Port::new).collect::<io::Result<_>>()?;
        let mut tasks = JoinSet::new();
        for index in 0..sockets.len() {
            let (sockets, server) = (sockets.clone(), server.clone());
            tasks.spawn(async move {
                if let Err(error) = answer(&sockets, index, &server).await {
                    tracing::error!(%error, "a STUN socket failed");
                }
            });
        }
        Ok(tasks)
    }
}

/// A socket with what is known of its offloads.
struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
    bound: IpAddr,
}

impl Port {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let bound = socket.local_addr()?.ip();
        Ok(Self { socket, state, bound })
    }

    async fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> io::Result<usize> {
        self.socket
            .async_io(Interest::READABLE, || {
                self.state.recv(UdpSockRef::from(&self.socket), buffers, metas)
            })
            .await
    }

    /// Whether it is bound to that address, or to all of its family.
    fn may_send_from(&self, ip: IpAddr) -> bool {
        self.bound == ip || self.bound.is_unspecified() && self.bound.is_ipv4() == ip.is_ipv4()
    }

    /// A full buffer drops the reply: the client asks again.
    fn send(&self, transmit: &Transmit<'_>) {
        let sent = self.socket.try_io(Interest::WRITABLE, || {
            self.state.try_send(UdpSockRef::from(&self.socket), transmit)
        });
        if let Err(error) = sent {
            trace!(%error, "a STUN reply wasn't sent");
        }
    }
}

/// What a client sees of a socket that is bound to all addresses.
fn from_outside(bound: SocketAddr, own: &[IpAddr]) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == bound.is_ipv4() && !ip.is_loopback();
    let public = own.iter().filter(same_family).find(|ip| is_public(ip));
    match public.or_else(|| own.iter().find(same_family)) {
        Some(ip) => SocketAddr::new(*ip, bound.port()),
        None => bound,
    }
}

/// `[::]` stands for both families: two sockets, so that each knows its own kind of address.
fn bind_pairs(addr: SocketAddr) -> io::Result<Vec<UdpSocket>> {
    let both_families = addr.is_ipv6() && addr.ip().is_unspecified();
    let ips = if both_families {
        vec![addr.ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED)]
    } else {
        vec![addr.ip()]
    };
    let tries = if addr.port() == 0 { PORT_TRIES } else { 1 };
    let mut last = io::Error::from(ErrorKind::AddrInUse);
    for _ in 0..tries {
        match bind_ports(&ips, addr.port()) {
            Ok(sockets) => return Ok(sockets),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_ports(ips: &[IpAddr], port: u16) -> io::Result<Vec<UdpSocket>> {
    let mut first = port;
    let mut sockets = Vec::new();
    for ip in ips {
        let socket = match bind_one(SocketAddr::new(*ip, first)) {
            Err(error) if ips.len() > 1 && ip.is_ipv6() && is_family_missing(&error) => continue,
            other => other?,
        };
        first = socket.local_addr()?.port();
        let next = first.checked_add(1).ok_or(ErrorKind::AddrInUse)?;
        let next = bind_one(SocketAddr::new(*ip, next))?;
        sockets.extend([socket, next]);
    }
    Ok(sockets)
}

fn bind_one(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Best effort: the kernel caps it.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

/// Receives in batches, answers each datagram from the address that it was sent to.
async fn answer(ports: &[Port], index: usize, server: &Mutex<BindingServer>) -> io::Result<()> {
    let size = MAX_DATAGRAM * ports[index].state.gro_segments();
    let mut storage = vec![0; size * BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut reply = Vec::with_capacity(256);
    loop {
        let mut slices: Vec<IoSliceMut<'_>> =
            storage.chunks_mut(size).map(IoSliceMut::new).collect();
        let count = match ports[index].receive(&mut slices, &mut metas).await {
            Ok(count) => count,
            Err(error) => {
                debug!(%error, "can't receive");
                tokio::task::yield_now().await;
                continue;
            }
        };
        for (meta, buffer) in metas[..count].iter().zip(storage.chunks(size)) {
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                let answer = server
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .handle_datagram(index, meta.addr, datagram, &mut reply, Instant::now());
                match answer {
                    Answer::Reply { socket } => ports[socket].send(&Transmit {
                        destination: meta.addr,
                        ecn: None,
                        contents: &reply,
                        segment_size: None,
                        src_ip: meta.dst_ip.filter(|ip| ports[socket].may_send_from(*ip)),
                    }),
                    Answer::Refused(refusal) => trace!(%refusal, "a datagram got no answer"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_asked_for_port_and_the_next_one_are_bound_in_both_families() {
        let stun = Stun::bind(&["[::]:0".parse().unwrap()]).unwrap();
        let ports: Vec<u16> = stun.bound().iter().map(SocketAddr::port).collect();
        let port = ports[0];
        let families = ports.len() / 2;
        assert!(families == 1 || families == 2, "{ports:?}");
        assert_eq!(ports, [vec![port; families], vec![port + 1; families]].concat());
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_says_what_to_do() {
        let first = Stun::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let Err(error) = Stun::bind(&[first.bound()[0]]) else { panic!("must fail") };
        assert!(error.to_string().contains("--stun"), "{error}");
    }

    #[test]
    fn a_wildcard_socket_is_known_by_the_public_address() {
        let own: Vec<IpAddr> =
            ["127.0.0.1", "10.0.0.1", "203.0.113.1"].map(|ip| ip.parse().unwrap()).to_vec();
        let outside = |text: &str| from_outside(text.parse().unwrap(), &own).to_string();
        assert_eq!(outside("0.0.0.0:3478"), "203.0.113.1:3478");
        assert_eq!(outside("192.0.2.9:3478"), "192.0.2.9:3478");
        assert_eq!(outside("[::]:3478"), "[::]:3478");
    }
}
