//! One TCP connection with a peer, and nothing beside it: an interface of its own, with one socket.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Cidr};

use crate::flow::Limits;
use crate::packet::{HOP_LIMIT, MTU};

/// What a connection that is over may still wait for: acknowledgements are delayed by less.
const LINGER: Duration = Duration::from_secs(1);

/// The wire: one packet in, one packet out.
#[derive(Debug, Default)]
struct Wire<'a> {
    incoming: Option<&'a [u8]>,
    outgoing: Option<Vec<u8>>,
}

struct Incoming<'a>(&'a [u8]);
struct Outgoing<'w>(&'w mut Option<Vec<u8>>);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        f(self.0.insert(vec![0; len]))
    }
}

impl<'a> Device for Wire<'a> {
    type RxToken<'t>
        = Incoming<'a>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'a>, Outgoing<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        self.outgoing.is_none().then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// An interface with one address.
fn interface(address: Ipv4Addr, seed: u64, now: Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut Wire::default(), now);
    interface.update_ip_addrs(|addresses| {
        // There is room for two.
        let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, 32)));
    });
    interface
}

/// The reset that answers a segment which belongs to no connection (RFC 9293 §3.10.7.1); none answers
/// a reset.
pub(crate) fn reset(segment: &[u8], local: Ipv4Addr, now: Instant) -> Option<Vec<u8>> {
    let mut wire = Wire { incoming: Some(segment), outgoing: None };
    let mut nobody = SocketSet::new(Vec::new());
    interface(local, 0, now).poll_ingress_single(now, &mut wire, &mut nobody);
    wire.outgoing
}

/// What a look at a connection shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Bytes that the peer has sent.
    pub received: usize,
    /// Whether the peer sends no more, and all of it was taken.
    pub ended: bool,
    /// Bytes that may be sent to the peer.
    pub room: usize,
}

/// A connection.
pub(crate) struct Connection {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    silence: Duration,
    keepalive: Duration,
    /// Whether the peer has agreed to it.
    established: bool,
    /// Whether both sides have closed it, and nobody has broken it off.
    orderly: bool,
    /// Whether all that the peer has sent was taken, and its end seen.
    end_seen: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("state", &self.socket().state()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Waits for its SYN. `None`: nobody can listen at `local`.
    pub(crate) fn listen(
        local: SocketAddrV4,
        seed: u64,
        limits: &Limits,
        now: Instant,
    ) -> Option<Self> {
        let buffer = || SocketBuffer::new(vec![0; limits.buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Reno);
        socket.set_nagle_enabled(false);
        socket.set_hop_limit(Some(HOP_LIMIT));
        socket.set_timeout(Some(limits.connect.into()));
        socket.listen((*local.ip(), local.port())).ok()?;
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Some(Self {
            interface: interface(*local.ip(), seed, now),
            sockets,
            handle,
            silence: limits.silence.into(),
            keepalive: limits.keepalive.into(),
            established: false,
            orderly: false,
            end_seen: false,
        })
    }

    /// Takes a packet from the peer; what answers it at once is returned.
    pub(crate) fn receive(&mut self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let before = self.socket().state();
        let mut wire = Wire { incoming: Some(packet), outgoing: None };
        self.interface.poll_ingress_single(now, &mut wire, &mut self.sockets);
        self.note(before);
        wire.outgoing
    }

    /// Makes the next packet, if there is one to be sent.
    pub(crate) fn egress(&mut self, now: Instant) -> Option<Vec<u8>> {
        let before = self.socket().state();
        let mut wire = Wire::default();
        self.interface.poll_egress(now, &mut wire, &mut self.sockets);
        self.note(before);
        wire.outgoing
    }

    /// When it wants to be looked at; in the past: at once.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    /// Whether the peer has ever agreed to it.
    pub(crate) fn is_established(&self) -> bool {
        self.established
    }

    /// Whether nothing is left of it: neither a packet to be sent, nor anything to be taken.
    pub(crate) fn is_gone(&mut self, now: Instant) -> bool {
        let next = self.poll_at(now);
        let socket = self.socket();
        let is_over = match socket.state() {
            State::Closed => socket.remote_endpoint().is_none(),
            // A reset before the connection stood: smoltcp would wait for the next SYN.
            State::Listen => true,
            // Once the peer's FIN is acknowledged; should that get lost, a reset answers what the peer
            // sends again.
            State::TimeWait => next.is_none_or(|next| next > now + LINGER),
            State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => false,
        };
        is_over && (!self.orderly || self.end_seen)
    }

    /// Whether it was reset, or has timed out.
    pub(crate) fn is_broken(&self) -> bool {
        !self.orderly && matches!(self.socket().state(), State::Closed | State::Listen)
    }

    /// What there is to do.
    pub(crate) fn look(&mut self) -> Stream {
        let socket = self.socket();
        let received = socket.recv_queue();
        let room = if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 };
        let ended = self.established && received == 0 && !socket.may_recv();
        self.end_seen |= ended;
        Stream { received, ended, room }
    }

    /// Shows what has come from the peer, as far as it lies in one piece; `take` says how much of it
    /// was taken.
    pub(crate) fn take(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let shown = self.socket_mut().recv(|bytes| {
            let taken = take(bytes).min(bytes.len());
            (taken, taken)
        });
        shown.unwrap_or(0)
    }

    /// Shows the room for what goes to the peer, as far as it lies in one piece; `fill` says how much
    /// was written there.
    pub(crate) fn give(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let shown = self.socket_mut().send(|room| {
            let written = fill(room).min(room.len());
            (written, written)
        });
        shown.unwrap_or(0)
    }

    /// Nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        self.socket_mut().close();
    }

    /// Has the peer reset.
    pub(crate) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    /// Notes what has become of it since its state was `before`.
    fn note(&mut self, before: State) {
        let (keepalive, silence) = (self.keepalive, self.silence);
        let state = self.socket().state();
        self.orderly |= state == State::TimeWait
            || state == State::Closed && matches!(before, State::LastAck | State::Closing);
        let agreed = !matches!(state, State::Listen | State::SynReceived | State::Closed);
        if agreed && !self.established {
            let socket = self.socket_mut();
            socket.set_timeout(Some(silence));
            socket.set_keep_alive(Some(keepalive));
            self.established = true;
        }
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}
