use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{Apply, CheckInState, ConnectSignal, Delta, DeviceId, Netmap};

use crate::{
    BrokerState, Config, Event, Inbound, LocalAddress, MapSource, Netcheck, Outbound, PeerHandle,
    PeerStatus, Transmit,
};

/// One node. See the crate's documentation.
#[derive(Debug)]
pub struct Mesh {}

impl Mesh {
    /// Creates a node that knows nothing yet.
    pub fn new(config: Config, now: Instant) -> Self {
        let _ = (config, now);
        unimplemented!()
    }

    /// Tells that the wall clock at `now` is at least `unix` (the broker's time, for a device
    /// without a clock). A clock that went back is ignored.
    pub fn raise_clock(&mut self, unix: Duration, now: Instant) {
        let _ = (unix, now);
    }

    /// What the wall clock is at least, as the time since 1970; to be persisted and given, plus one
    /// second, to [`Config::unix`] after a restart.
    pub fn clock(&self, now: Instant) -> Duration {
        let _ = now;
        unimplemented!()
    }

    /// Takes a whole netmap; only what differs from the one before acts. A cached one is ignored
    /// once the broker has sent one.
    pub fn handle_netmap(&mut self, netmap: Netmap, source: MapSource, now: Instant) {
        let _ = (netmap, source, now);
    }

    /// Takes a delta. Emits [`Event::FetchNetmap`] when it doesn't fit.
    pub fn handle_delta(&mut self, delta: &Delta, now: Instant) -> Apply {
        let _ = (delta, now);
        Apply::BaseMismatch
    }

    /// The netmap as it is, deltas applied; to be kept on disk.
    pub fn netmap(&self) -> Option<&Netmap> {
        None
    }

    /// The broker says that a peer is about to probe this device.
    pub fn handle_connect(&mut self, signal: &ConnectSignal, now: Instant) {
        let _ = (signal, now);
    }

    /// The control session came up or was lost.
    pub fn handle_broker(&mut self, state: BrokerState, now: Instant) {
        let _ = (state, now);
    }

    /// The host's addresses (without those of the mesh's own interface) and the UDP port that the
    /// data sockets listen on: at the start and on every change.
    pub fn handle_local_addresses(
        &mut self,
        addresses: &[LocalAddress],
        listen_port: u16,
        now: Instant,
    ) {
        let _ = (addresses, listen_port, now);
    }

    /// What the port mapper has open in the router, all of it; empty when nothing.
    pub fn handle_mapping(&mut self, mapped: &[SocketAddr], now: Instant) {
        let _ = (mapped, now);
    }

    /// Seeks a path to a peer and builds the tunnel, without a packet (`warren ping`).
    /// Unknown peers are ignored.
    pub fn connect(&mut self, peer: DeviceId, now: Instant) {
        let _ = (peer, now);
    }

    /// Says where an IP packet from the own host goes: the hot path out.
    ///
    /// Only the header is read. `segment` is the length of the longest IP packet that it will be
    /// cut into (its own length, if it is no super-packet): one that the peer's path doesn't carry
    /// is refused with an ICMP 'too big' in [`Self::poll_tun`].
    pub fn handle_outbound(&mut self, packet: &[u8], segment: usize, now: Instant) -> Outbound<'_> {
        let _ = (packet, segment, now);
        unimplemented!()
    }

    /// Keeps a packet that [`Outbound::Wait`] was said of until the tunnel stands: at most
    /// [`crate::QUEUE_PER_PEER`], the oldest is dropped. It is sealed into
    /// [`Self::poll_transmit`] then.
    pub fn enqueue(&mut self, peer: PeerHandle, packet: &[u8], now: Instant) {
        let _ = (peer, packet, now);
    }

    /// Takes a datagram from the data socket (one segment of a GRO batch) and decrypts it in
    /// place: the hot path in.
    pub fn handle_datagram(
        &mut self,
        remote: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Inbound {
        let _ = (remote, datagram, now);
        unimplemented!()
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`Self::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// The next thing that the shell should do or know.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The next IP packet for the own host: ICMP errors.
    pub fn poll_tun(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// All peers of the netmap, by id.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        std::iter::empty()
    }

    /// One peer.
    pub fn peer(&self, id: DeviceId) -> Option<PeerStatus> {
        let _ = id;
        None
    }

    /// What this device would check in with at this moment.
    pub fn check_in_state(&self) -> CheckInState {
        unimplemented!()
    }

    /// What is known of the own way out.
    pub fn netcheck(&self) -> Netcheck {
        unimplemented!()
    }

    /// The interface's MTU as it should be: fixed, or as discovered.
    pub fn mtu(&self) -> u16 {
        1280
    }
}
