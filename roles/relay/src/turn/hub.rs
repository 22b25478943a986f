//! What the forwarding thread and the connections share.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::watch;
use warren_net::{Poller, ServerSocket, ServerSocketConfig, UdpCounters};
use warren_turn::Family;
use warren_turn::server::{ClientAddr, Event, Listener, PortError, RelayedPort, Server, StreamId};

use super::listeners::Listeners;
use super::outbox::Outbox;
use super::{TurnConfig, sockets};
use crate::listen;

/// Kernel buffer of a relayed port, each way, in bytes: it has one client.
const PORT_BUFFER: usize = 1 << 20;

/// A token of the poller: a socket that clients send to, or a relayed port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Listener(Listener),
    Port(RelayedPort),
    End,
}

impl Token {
    pub(super) fn encode(self) -> u64 {
        match self {
            Self::Listener(Listener(number)) => u64::from(number),
            Self::Port(RelayedPort { family, port }) => {
                let kind = match family {
                    Family::V4 => 1,
                    Family::V6 => 2,
                };
                kind << 16 | u64::from(port)
            }
            Self::End => 3 << 16,
        }
    }

    pub(super) fn decode(token: u64) -> Self {
        let number = (token & 0xFFFF) as u16;
        match token >> 16 {
            0 => Self::Listener(Listener(number)),
            1 => Self::Port(RelayedPort { family: Family::V4, port: number }),
            2 => Self::Port(RelayedPort { family: Family::V6, port: number }),
            _ => Self::End,
        }
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    pub(super) poller: Poller,
    listeners: Vec<Arc<ServerSocket>>,
    next_stream: AtomicU64,
    is_draining: AtomicBool,
    is_serving: AtomicBool,
    /// Whether there is a thread that forwards.
    forwarding: watch::Sender<bool>,
}

/// What is only touched under the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) server: Server,
    pub(super) listeners: Listeners,
    pub(super) ports: HashMap<RelayedPort, Arc<ServerSocket>>,
    pub(super) streams: HashMap<StreamId, Outbox>,
    /// Messages lost because a connection didn't take them.
    pub(super) stream_losses: u64,
    /// Where a run gets its channel's heads.
    pub(super) headed: Vec<u8>,
    bind_ipv4: Option<IpAddr>,
    bind_ipv6: Option<IpAddr>,
}

impl Hub {
    pub(super) fn new(config: &TurnConfig, now: Instant, unix: Duration) -> anyhow::Result<Self> {
        let poller = Poller::new().context("can't watch sockets")?;
        let mut listeners = Vec::new();
        for (number, address) in (0_u16..).zip(&config.udp) {
            let socket = listen::udp(&ServerSocketConfig::new(*address), "--listen")?;
            poller
                .add(&socket, Token::Listener(Listener(number)).encode())
                .context("can't watch a socket")?;
            listeners.push(Arc::new(socket));
        }
        let bind = |ip: Option<IpAddr>| ip.map(sockets::where_to_bind);
        let state = State {
            server: Server::new(config.server.clone(), rand::random(), now, unix),
            listeners: Listeners::new(listeners.clone()),
            ports: HashMap::new(),
            streams: HashMap::new(),
            stream_losses: 0,
            headed: Vec::new(),
            bind_ipv4: bind(config.server.relayed_ipv4.map(IpAddr::V4)),
            bind_ipv6: bind(config.server.relayed_ipv6.map(IpAddr::V6)),
        };
        Ok(Self {
            state: Mutex::new(state),
            poller,
            listeners,
            next_stream: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            is_serving: AtomicBool::new(true),
            forwarding: watch::Sender::new(true),
        })
    }

    /// Does something with the state, and then what the server wants done.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        // Whatever has panicked, the state is used on: without the forwarding thread the process ends,
        // and of a connection's message a part at most was handled.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let result = act(&mut state, now);
        state.drain(&self.poller, now);
        result
    }

    pub(super) fn listener(&self, listener: Listener) -> Option<&Arc<ServerSocket>> {
        self.listeners.get(usize::from(listener.0))
    }

    pub(super) fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|socket| socket.address()).collect()
    }

    pub(super) fn udp_counters(&self) -> Vec<UdpCounters> {
        self.listeners.iter().map(|socket| socket.counters()).collect()
    }

    pub(super) fn next_stream(&self) -> StreamId {
        StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn set_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_serving(&self, is_serving: bool) {
        self.is_serving.store(is_serving, Ordering::Relaxed);
    }

    pub(super) fn forwarding(&self) -> watch::Receiver<bool> {
        self.forwarding.subscribe()
    }

    /// The thread that forwards has ended.
    pub(super) fn end_forwarding(&self) {
        self.forwarding.send_replace(false);
    }

    /// Whether new clients are served.
    pub(super) fn is_ready(&self) -> bool {
        *self.forwarding.borrow()
            && self.is_serving.load(Ordering::Relaxed)
            && !self.is_draining.load(Ordering::Relaxed)
    }
}

impl State {
    fn drain(&mut self, poller: &Poller, now: Instant) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::OpenPort(port) => {
                    let result = self.open(port, poller);
                    self.server.handle_port(port, result, now);
                }
                // Closing a descriptor ends its being watched.
                Event::ClosePort(port) => drop(self.ports.remove(&port)),
                // The connection ends when there is nobody left to send to it.
                Event::CloseStream(stream) => drop(self.streams.remove(&stream)),
            }
        }
        while let Some(transmit) = self.server.poll_transmit() {
            match transmit.to {
                ClientAddr::Udp { listener, addr } => {
                    if let Some((socket, to)) = self.listeners.reach(listener, addr) {
                        socket.send_run(to, &transmit.contents, transmit.contents.len());
                    }
                }
                ClientAddr::Stream(stream) => self.send_to_stream(stream, transmit.contents),
            }
        }
    }

    pub(super) fn send_to_stream(&mut self, stream: StreamId, message: impl Into<Bytes>) {
        let Some(outbox) = self.streams.get(&stream) else { return };
        if !outbox.put(message.into()) {
            self.stream_losses += 1;
        }
    }

    fn open(&mut self, port: RelayedPort, poller: &Poller) -> Result<(), PortError> {
        let ip = match port.family {
            Family::V4 => self.bind_ipv4,
            Family::V6 => self.bind_ipv6,
        };
        let ip = ip.ok_or(PortError::Unavailable)?;
        let config = ServerSocketConfig {
            receive_buffer: PORT_BUFFER,
            send_buffer: PORT_BUFFER,
            ..ServerSocketConfig::new(SocketAddr::new(ip, port.port))
        };
        let socket = match ServerSocket::bind(&config) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, port = port.port, "a relayed port can't be opened");
                let is_taken = matches!(error, warren_net::Error::PortInUse { .. });
                return Err(if is_taken { PortError::InUse } else { PortError::Unavailable });
            }
        };
        if let Err(error) = poller.add(&socket, Token::Port(port).encode()) {
            tracing::debug!(%error, port = port.port, "a relayed port can't be watched");
            return Err(PortError::Unavailable);
        }
        self.ports.insert(port, Arc::new(socket));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_mean_one_thing() {
        for token in [
            Token::Listener(Listener(0)),
            Token::Listener(Listener(9)),
            Token::Port(RelayedPort { family: Family::V4, port: 9 }),
            Token::Port(RelayedPort { family: Family::V6, port: 65_535 }),
            Token::End,
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
