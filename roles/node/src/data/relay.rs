//! This device as a private relay: the TURN server on the node's own sockets, with virtual
//! addresses alone, for as long as the netmap says so.
//!
//! What the mesh doesn't take for its own comes here ([`warren_mesh::Inbound::Relay`]). Between two
//! clients a run of datagrams of one client and one channel is looked up once; of each only the
//! channel number is rewritten, where it lies, and the run leaves in one call.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_mesh::Mesh;
use warren_net::UdpSockets;
use warren_proto::{RelayDuty, RelayState};
use warren_turn::server::{
    ClientAddr, Config, Delivery, Handled, Heading, Listener, Quotas, Route, Run, Server, Settings,
};
use warren_turn::{CHANNEL_HEADER_LEN, ChannelNumber, channel_data, is_stun};

/// The most allocations of this device's whole account.
const MAX_ALLOCATIONS: u32 = 20_000;

/// The most allocations of one device: the one that it has, and the one that takes its place.
const MAX_OF_ONE: u32 = 4;

/// The most datagrams in one call (`UDP_MAX_SEGMENTS` of the kernel).
const MAX_RUN: usize = 64;

/// The most bytes in one call.
const MAX_RUN_BYTES: usize = 65_507;

/// The relay, while there is one.
#[derive(Default)]
pub(super) struct PrivateRelay {
    serving: Option<Serving>,
}

struct Serving {
    duty: RelayDuty,
    server: Server,
}

impl PrivateRelay {
    /// Takes up, changes or ends the duty, as the netmap has it.
    pub(super) fn update(&mut self, mesh: &mut Mesh, unix: Duration, now: Instant) {
        let duty = mesh.netmap().and_then(|netmap| netmap.relay_duty.as_ref());
        let state = match (duty, &mut self.serving) {
            (None, None) => return,
            (None, Some(_)) => {
                self.serving = None;
                tracing::info!("this device is no connection relay any more");
                None
            }
            (Some(duty), Some(serving)) => {
                if serving.duty == *duty {
                    return;
                }
                serving.server.set_settings(settings(duty), now);
                serving.duty = duty.clone();
                Some(state_of(duty))
            }
            (Some(duty), None) => {
                let mut seed = [0; 32];
                rand::Rng::fill_bytes(&mut rand::rng(), &mut seed);
                let quotas = Quotas {
                    allocations: MAX_OF_ONE,
                    total_allocations: MAX_ALLOCATIONS,
                    waiting_streams: 0,
                    ..Quotas::default()
                };
                let config = Config { quotas, ..Config::private(settings(duty)) };
                let server = Server::new(config, seed, now, unix);
                self.serving = Some(Serving { duty: duty.clone(), server });
                tracing::info!("this device is a connection relay of its account");
                Some(state_of(duty))
            }
        };
        mesh.handle_relay_state(state, now);
    }

    /// Credentials expire by the broker's clock.
    pub(super) fn set_clock(&mut self, unix: Duration, now: Instant) {
        if let Some(serving) = &mut self.serving {
            serving.server.set_clock(unix, now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.serving.as_ref()?.server.poll_timeout().map(|(due, _)| due)
    }

    pub(super) fn handle_timeout(&mut self, sockets: &UdpSockets, now: Instant) {
        if let Some(serving) = &mut self.serving
            && serving.server.poll_timeout().is_some_and(|(due, _)| due <= now)
        {
            serving.server.handle_timeout(now);
            serving.drain(sockets);
        }
    }

    /// The server's counts, by name.
    pub(super) fn counters(&self, mut note: impl FnMut(String, u64)) {
        let Some(serving) = &self.serving else { return };
        let (counters, gauges) = (serving.server.counters(), serving.server.gauges());
        note("relay-allocations".to_owned(), gauges.allocations as u64);
        note("relay-channels".to_owned(), gauges.channels as u64);
        note("relay-packets".to_owned(), counters.between_clients.packets);
        note("relay-bytes".to_owned(), counters.between_clients.bytes);
        note("relay-auth-failures".to_owned(), counters.auth_failures);
        for (reason, count) in counters.drops() {
            note(format!("relay-dropped-{}", reason.name().replace('_', "-")), count);
        }
    }
}

/// Datagrams of one client and channel that have come one after the other.
#[derive(Default)]
pub(super) struct PendingRun<'b> {
    key: Option<(SocketAddr, ChannelNumber)>,
    pieces: Vec<&'b mut [u8]>,
    bytes: usize,
}

impl<'b> PendingRun<'b> {
    /// Whether a datagram goes the way of those before it.
    pub(super) fn continues(&self, remote: SocketAddr, datagram: &[u8]) -> bool {
        self.key.is_some_and(|key| {
            channel_data(datagram).is_some_and(|(channel, _)| key == (remote, channel))
        })
    }

    /// Takes one more ChannelData message, and sends those before it if it can't join them.
    pub(super) fn push(
        &mut self,
        remote: SocketAddr,
        datagram: &'b mut [u8],
        out: (&mut PrivateRelay, &UdpSockets),
        now: Instant,
    ) {
        let Some((channel, range)) = channel_data(datagram) else { return };
        let key = Some((remote, channel));
        let len = range.end;
        let stride = self.pieces.first().map(|first| first.len());
        let joins = self.key == key
            && self.pieces.len() < MAX_RUN
            && self.bytes + len <= MAX_RUN_BYTES
            && stride.is_none_or(|stride| len <= stride);
        if !joins {
            self.flush((&mut *out.0, out.1), now);
        }
        // One that is shorter than those before it is the last of its call.
        let is_last = joins && stride.is_some_and(|stride| len < stride);
        self.key = key;
        self.bytes += len;
        self.pieces.push(&mut datagram[..len]);
        if is_last {
            self.flush(out, now);
            self.key = key;
        }
    }

    /// Sends what there is.
    pub(super) fn flush(&mut self, out: (&mut PrivateRelay, &UdpSockets), now: Instant) {
        let (relay, sockets) = out;
        let key = self.key.take();
        if let (Some(serving), Some((remote, channel)), false) =
            (&mut relay.serving, key, self.pieces.is_empty())
        {
            serving.forward(remote, channel, &mut self.pieces, sockets, now);
        }
        self.pieces.clear();
        self.bytes = 0;
    }
}

impl PrivateRelay {
    /// Takes a STUN message, or anything that isn't plain ChannelData.
    pub(super) fn handle_message(
        &mut self,
        remote: SocketAddr,
        datagram: &[u8],
        sockets: &UdpSockets,
        now: Instant,
    ) {
        let Some(serving) = &mut self.serving else { return };
        debug_assert!(is_stun(datagram), "ChannelData goes through a run");
        match serving.server.handle_datagram(client(remote), datagram, now) {
            Handled::Relay { route: Route::Client(delivery), range } => {
                serving.deliver(delivery, &datagram[range], sockets);
            }
            // There are no relayed ports.
            Handled::Relay { route: Route::Peer { .. }, range: _ } | Handled::Consumed => {}
            Handled::Dropped(reason) => {
                tracing::trace!(%remote, reason = reason.name(), "a message to the relay was dropped");
            }
        }
        serving.drain(sockets);
    }
}

impl Serving {
    fn forward(
        &mut self,
        remote: SocketAddr,
        channel: ChannelNumber,
        pieces: &mut [&mut [u8]],
        sockets: &UdpSockets,
        now: Instant,
    ) {
        let bytes: usize = pieces.iter().map(|piece| piece.len() - CHANNEL_HEADER_LEN).sum();
        let run =
            Run { packets: u32::try_from(pieces.len()).unwrap_or(u32::MAX), bytes: bytes as u64 };
        let delivery = match self.server.route_channel(client(remote), channel, run, now) {
            Ok(Route::Client(delivery)) => delivery,
            Ok(Route::Peer { .. }) | Err(_) => return,
        };
        match (delivery.heading, delivery.to) {
            (Heading::Channel(there), ClientAddr::Udp { listener: _, addr }) => {
                let number = there.number().to_be_bytes();
                for piece in pieces.iter_mut() {
                    piece[..2].copy_from_slice(&number);
                }
                let slices: Vec<IoSlice<'_>> =
                    pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                sockets.send_pieces(addr, &slices);
            }
            (Heading::Channel(_), ClientAddr::Stream(_)) | (Heading::Indication(_), _) => {
                for piece in pieces.iter() {
                    self.deliver(delivery, &piece[CHANNEL_HEADER_LEN..], sockets);
                }
            }
        }
    }

    /// The slow way: one message, made anew.
    fn deliver(&mut self, delivery: Delivery, data: &[u8], sockets: &UdpSockets) {
        let ClientAddr::Udp { listener: _, addr } = delivery.to else { return };
        let message = match delivery.heading {
            Heading::Channel(channel) => {
                let Ok(len) = u16::try_from(data.len()) else { return };
                [&channel.header(len), data].concat()
            }
            Heading::Indication(peer) => {
                let Some(head) = self.server.indication(peer, data.len()) else { return };
                [head.bytes(), data, &[0; 3][..head.padding()]].concat()
            }
        };
        send(sockets, addr, &message);
    }

    fn drain(&mut self, sockets: &UdpSockets) {
        while let Some(transmit) = self.server.poll_transmit() {
            if let ClientAddr::Udp { listener: _, addr } = transmit.to {
                send(sockets, addr, &transmit.contents);
            }
        }
        // Without ports and streams there is nothing to do for it.
        while self.server.poll_event().is_some() {}
    }
}

fn send(sockets: &UdpSockets, remote: SocketAddr, message: &[u8]) {
    if let Err(error) = sockets.try_send(remote, message, false) {
        tracing::trace!(%remote, %error, "a relay's message was not sent");
    }
}

fn client(addr: SocketAddr) -> ClientAddr {
    ClientAddr::Udp { listener: Listener(u16::from(addr.is_ipv6())), addr }
}

fn settings(duty: &RelayDuty) -> Settings {
    Settings {
        realm: duty.realm.clone(),
        secrets: duty.secrets.iter().map(|secret| secret.clone().into_bytes()).collect(),
        users: Vec::new(),
        revoked: duty.revoked.iter().map(ToString::to_string).collect(),
    }
}

fn state_of(duty: &RelayDuty) -> RelayState {
    let problem = duty.public.is_empty().then(|| {
        "no address is known by which the others could reach it; set its static endpoint".to_owned()
    });
    RelayState { serving: true, problem }
}
