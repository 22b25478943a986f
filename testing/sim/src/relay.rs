//! A relay: the real TURN server on a host, with the sockets and streams that a shell would keep.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_proto::RelayId;
use warren_turn::server::{
    ClientAddr, Config, Delivery as ToClient, Event, Handled, Heading, Listener, RelayedPort,
    Route, Run, Server, StreamId as TurnStream,
};
use warren_turn::stream::{MAX_FRAME, StreamDecoder, channel_padding};

use crate::net::{Delivery, HostId, Network};

/// The UDP port of every relay, and its TCP port for TLS.
pub const RELAY_PORT: u16 = 3478;

/// What a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayKind {
    /// One of ours: virtual relayed addresses.
    Ours,
    /// Somebody's TURN server: ordinary allocations.
    ThirdParty,
}

/// A relay on a host of the network.
#[derive(Debug)]
pub struct RelayHost {
    /// The host.
    pub host: HostId,
    /// What the broker knows it by.
    pub id: RelayId,
    /// Whether its process runs.
    pub is_up: bool,
    /// Whether it lies: whatever it forwards it also damages, repeats, and passes on to others.
    pub is_hostile: bool,
    /// What a hostile one has forwarded.
    heard: Vec<(ToClient, Vec<u8>)>,
    listeners: Vec<SocketAddr>,
    /// The relayed address of its ordinary allocations.
    relayed: Option<IpAddr>,
    server: Server,
    config: Config,
    start: Instant,
    decoders: BTreeMap<TurnStream, StreamDecoder>,
    /// Bytes for streams.
    streams_out: Vec<(TurnStream, Vec<u8>)>,
    /// Streams that the server wants closed.
    closed: Vec<TurnStream>,
    pub(crate) scheduled: Option<Instant>,
}

impl RelayHost {
    pub(crate) fn new(
        network: &Network,
        host: HostId,
        id: RelayId,
        config: Config,
        (start, now): (Instant, Instant),
    ) -> Self {
        let listeners: Vec<SocketAddr> =
            network.addresses(host).map(|addr| SocketAddr::new(addr.addr(), RELAY_PORT)).collect();
        let unix = crate::UNIX_START + (now - start);
        Self {
            host,
            id,
            is_up: true,
            is_hostile: false,
            heard: Vec::new(),
            listeners,
            relayed: config.relayed_ipv4.map(IpAddr::V4),
            server: Server::new(config.clone(), [0x77; 32], now, unix),
            config,
            start,
            decoders: BTreeMap::new(),
            streams_out: Vec::new(),
            closed: Vec::new(),
            scheduled: None,
        }
    }

    /// Where it takes datagrams.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The process ends: all that it knew is gone.
    pub(crate) fn kill(&mut self) {
        self.is_up = false;
        self.decoders.clear();
        self.streams_out.clear();
        self.scheduled = None;
    }

    /// The process starts anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        let unix = crate::UNIX_START + (now - self.start);
        self.server = Server::new(self.config.clone(), [0x78; 32], now, unix);
        self.is_up = true;
    }

    pub(crate) fn handle_delivery(
        &mut self,
        delivery: &Delivery,
        network: &mut Network,
        now: Instant,
    ) {
        if !self.is_up {
            return;
        }
        if let Some(index) = self.listeners.iter().position(|listener| *listener == delivery.to) {
            let listener = Listener(u16::try_from(index).expect("a few"));
            let client = ClientAddr::Udp { listener, addr: delivery.from };
            self.handle_message(client, &delivery.payload, network, now);
        } else if Some(delivery.to.ip()) == self.relayed {
            let port = RelayedPort { family: warren_turn::Family::V4, port: delivery.to.port() };
            let run = Run::one(delivery.payload.len());
            if let Ok(route) = self.server.route_peer(port, delivery.from, run, now) {
                self.deliver(route, &delivery.payload, network, now);
            }
        }
        self.drain(network, now);
    }

    fn handle_message(
        &mut self,
        client: ClientAddr,
        message: &[u8],
        network: &mut Network,
        now: Instant,
    ) {
        let Handled::Relay { route, range } = self.server.handle_datagram(client, message, now)
        else {
            return;
        };
        let data = &message[range];
        match route {
            Route::Client(delivery) => self.deliver(delivery, data, network, now),
            Route::Peer { from, to, dont_fragment: _ } => {
                let ip = self.relayed.expect("it has relayed ports");
                let from = SocketAddr::new(ip, from.port);
                network.send_from(self.host, from, to, data.to_vec(), now);
            }
        }
    }

    fn deliver(&mut self, delivery: ToClient, data: &[u8], network: &mut Network, now: Instant) {
        if self.is_hostile {
            self.lie(delivery, data, network, now);
        }
        self.pass_on(delivery, data, network, now);
    }

    /// One damaged copy, one old message again, and one of somebody else's.
    fn lie(&mut self, delivery: ToClient, data: &[u8], network: &mut Network, now: Instant) {
        let turn = self.heard.len();
        let mut damaged = data.to_vec();
        if let Some(byte) = damaged.get_mut(turn % data.len().max(1)) {
            *byte ^= 1 << (turn % 8);
        }
        self.pass_on(delivery, &damaged, network, now);
        let nested = [&[0x40, 0, 0, u8::try_from(data.len().min(200)).unwrap_or(0)], data].concat();
        self.pass_on(delivery, &nested, network, now);
        if turn > 0 {
            let (_, old) = self.heard[(turn * 7919) % turn].clone();
            self.pass_on(delivery, &old, network, now);
            let (elsewhere, _) = self.heard[(turn * 104_729) % turn];
            self.pass_on(elsewhere, data, network, now);
        }
        if turn < 5000 {
            self.heard.push((delivery, data.to_vec()));
        }
    }

    fn pass_on(&mut self, delivery: ToClient, data: &[u8], network: &mut Network, now: Instant) {
        let message = match delivery.heading {
            Heading::Channel(channel) => {
                let len = u16::try_from(data.len()).expect("a datagram");
                let mut message = channel.header(len).to_vec();
                message.extend_from_slice(data);
                if let ClientAddr::Stream(_) = delivery.to {
                    message.extend_from_slice(&[0; 3][..channel_padding(data.len())]);
                }
                message
            }
            Heading::Indication(peer) => {
                let Some(head) = self.server.indication(peer, data.len()) else { return };
                [head.bytes(), data, &[0; 3][..head.padding()]].concat()
            }
        };
        self.send(delivery.to, message, network, now);
    }

    fn send(&mut self, to: ClientAddr, message: Vec<u8>, network: &mut Network, now: Instant) {
        match to {
            ClientAddr::Udp { listener, addr } => {
                let from = self.listeners[usize::from(listener.0)];
                network.send_from(self.host, from, addr, message, now);
            }
            ClientAddr::Stream(stream) => self.streams_out.push((stream, message)),
        }
    }

    fn drain(&mut self, network: &mut Network, now: Instant) {
        loop {
            if let Some(transmit) = self.server.poll_transmit() {
                self.send(transmit.to, transmit.contents, network, now);
            } else if let Some(event) = self.server.poll_event() {
                match event {
                    // Every port of the virtual host is free.
                    Event::OpenPort(port) => self.server.handle_port(port, Ok(()), now),
                    Event::ClosePort(_) => {}
                    Event::CloseStream(stream) => self.closed.push(stream),
                }
            } else {
                return;
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, network: &mut Network, now: Instant) {
        self.server.handle_timeout(now);
        self.drain(network, now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.server.poll_timeout().filter(|_| self.is_up)
    }

    /// A connection has come in.
    pub(crate) fn accept(&mut self, stream: u64, from: SocketAddr, now: Instant) {
        let stream = TurnStream(stream);
        assert!(self.server.handle_stream(stream, from, now), "few wait");
        self.decoders.insert(stream, StreamDecoder::new(MAX_FRAME));
    }

    pub(crate) fn handle_stream(
        &mut self,
        stream: u64,
        bytes: &[u8],
        network: &mut Network,
        now: Instant,
    ) {
        let stream = TurnStream(stream);
        let Some(mut decoder) = self.decoders.remove(&stream) else { return };
        decoder.push(bytes);
        while let Some(frame) = decoder.next_frame().expect("nodes speak TURN") {
            let frame = frame.to_vec();
            self.handle_message(ClientAddr::Stream(stream), &frame, network, now);
        }
        self.decoders.insert(stream, decoder);
        self.drain(network, now);
    }

    pub(crate) fn handle_stream_closed(&mut self, stream: u64, now: Instant) {
        let stream = TurnStream(stream);
        self.decoders.remove(&stream);
        self.server.handle_stream_closed(stream, now);
    }

    /// What is to be written to streams, and which are to be closed.
    pub(crate) fn take_streams(&mut self) -> (Vec<(u64, Vec<u8>)>, Vec<u64>) {
        let out = std::mem::take(&mut self.streams_out);
        let closed = std::mem::take(&mut self.closed);
        (
            out.into_iter().map(|(id, bytes)| (id.0, bytes)).collect(),
            closed.iter().map(|id| id.0).collect(),
        )
    }

    /// How long after the start an instant is.
    pub fn age(&self, now: Instant) -> Duration {
        now - self.start
    }
}
