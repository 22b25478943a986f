//! Sockets of clients and peers, joined through a relay.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use warren_lab::Host;
use warren_net::{ServerSocket, ServerSocketConfig, UdpReceiver};
use warren_pair::{Authenticator, Guid, Key};
use warren_turn::client::{Client, Config, Credential, Event};
use warren_turn::{CHANNEL_HEADER_LEN, ChannelNumber, rest};

use crate::stage::{CLIENT, LISTEN, PAIR_PORT, PEER, RELAYED, Stage, TURN_PORT, turn_address};
use crate::targets::{Kind, PAIR_KEY, SECRET};

pub(crate) const FIRST_CLIENT: u16 = 20_000;
pub(crate) const OTHER_CLIENT: u16 = 40_000;
pub(crate) const PEER_PORT: u16 = 30_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From clients to peers.
    Up,
    /// From peers to clients.
    Down,
    /// From clients to clients of the same relay.
    Across,
}

impl Direction {
    pub(crate) const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Across];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Across => "across",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|direction| direction.name() == name)
    }
}

/// Where a sender's datagrams go, and what each begins with.
pub(crate) struct Route {
    pub(crate) to: SocketAddr,
    pub(crate) channel: Option<ChannelNumber>,
}

/// Joined sockets: what `senders[i]` sends along `routes[i]` arrives at one of `receivers`.
pub(crate) struct Flows {
    pub(crate) senders: Vec<ServerSocket>,
    pub(crate) routes: Vec<Route>,
    pub(crate) receivers: Vec<ServerSocket>,
    /// How much longer datagrams are than their payload: when sent, and when received.
    pub(crate) sent_header: usize,
    pub(crate) received_header: usize,
    pub(crate) readable: Epoll,
    /// They keep what they know of their allocations.
    _clients: Vec<Client>,
}

impl Flows {
    pub(crate) fn join(
        stage: &Stage,
        kind: Kind,
        direction: Direction,
        pairs: u16,
    ) -> Result<Self> {
        let firsts = sockets(&stage.client, CLIENT, FIRST_CLIENT, pairs)?;
        match kind {
            Kind::Ours | Kind::Coturn | Kind::TurnServer => {
                turn(stage, kind, direction, pairs, firsts)
            }
            Kind::Bare => bare(stage, direction, pairs, firsts),
            Kind::Pair => pair(stage, pairs, firsts),
        }
    }

    fn new(
        senders: Vec<ServerSocket>,
        routes: Vec<Route>,
        receivers: Vec<ServerSocket>,
        (sent_header, received_header): (usize, usize),
        clients: Vec<Client>,
    ) -> Result<Self> {
        let readable = Epoll::new(EpollCreateFlags::empty())?;
        for (number, socket) in receivers.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            readable.add(socket.as_fd(), event)?;
        }
        let mut receiver = UdpReceiver::new();
        for socket in &receivers {
            while socket.try_recv(&mut receiver).is_ok() {}
        }
        Ok(Self {
            senders,
            routes,
            receivers,
            sent_header,
            received_header,
            readable,
            _clients: clients,
        })
    }
}

fn sockets(host: &Host, ip: Ipv4Addr, first: u16, count: u16) -> Result<Vec<ServerSocket>> {
    host.enter(|| {
        (first..first + count)
            .map(|port| Ok(ServerSocket::bind(&ServerSocketConfig::new((ip, port).into()))?))
            .collect()
    })?
}

fn bare(
    stage: &Stage,
    direction: Direction,
    pairs: u16,
    firsts: Vec<ServerSocket>,
) -> Result<Flows> {
    let peers = || sockets(&stage.peer, PEER, PEER_PORT, pairs);
    let routes = |ip| (0..pairs).map(move |_| Route { to: (ip, TURN_PORT).into(), channel: None });
    let header = CHANNEL_HEADER_LEN;
    match direction {
        Direction::Up => {
            Flows::new(firsts, routes(LISTEN).collect(), peers()?, (header, header), Vec::new())
        }
        Direction::Down => {
            Flows::new(peers()?, routes(RELAYED).collect(), firsts, (0, 0), Vec::new())
        }
        Direction::Across => {
            let others = sockets(&stage.client, CLIENT, OTHER_CLIENT, pairs)?;
            Flows::new(firsts, routes(LISTEN).collect(), others, (header, header), Vec::new())
        }
    }
}

/// Joins two sockets each by their handshakes.
fn pair(stage: &Stage, pairs: u16, firsts: Vec<ServerSocket>) -> Result<Flows> {
    let others = sockets(&stage.client, CLIENT, OTHER_CLIENT, pairs)?;
    let authenticator = Authenticator::new(Some(Key::from_base64(PAIR_KEY)?));
    let relay = SocketAddr::from((LISTEN, PAIR_PORT));
    let mut receiver = UdpReceiver::new();
    for (number, (first, other)) in (1..).zip(firsts.iter().zip(&others)) {
        let guid = Guid::from_words([1, 1, 1, number]).context("not zero")?;
        let hello = authenticator.write(guid, &[]);
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            first.send_run(relay, &hello, hello.len());
            other.send_run(relay, &hello, hello.len());
            std::thread::sleep(Duration::from_millis(1));
            if first.try_recv(&mut receiver).is_ok() || other.try_recv(&mut receiver).is_ok() {
                break;
            }
            ensure!(Instant::now() < end, "pair {number} wasn't joined");
        }
    }
    std::thread::sleep(Duration::from_millis(100));
    let routes = (0..pairs).map(|_| Route { to: relay, channel: None }).collect();
    Flows::new(firsts, routes, others, (0, 0), Vec::new())
}

/// A client and its socket, on their way.
struct Seat<'s> {
    socket: &'s ServerSocket,
    client: Client,
    relayed: Option<SocketAddr>,
    channel: Option<ChannelNumber>,
    ready: bool,
}

pub(crate) fn credential(id: &str) -> Result<Credential> {
    let unix = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    let (username, password) = rest::mint(SECRET.as_bytes(), unix + 86_400, id);
    Ok(Credential { username, password, realm: None, nonce: None })
}

impl<'s> Seat<'s> {
    fn new(socket: &'s ServerSocket, id: &str, virtual_address: bool) -> Result<Self> {
        let config = Config { virtual_address, keepalive: None, ..Config::new(credential(id)?) };
        let client = Client::new(config, rand::random(), Instant::now());
        Ok(Self { socket, client, relayed: None, channel: None, ready: false })
    }

    fn drive(&mut self, receiver: &mut UdpReceiver) -> Result<()> {
        let now = Instant::now();
        match self.socket.try_recv(receiver) {
            Ok(runs) => {
                for run in runs {
                    for datagram in run.bytes.chunks(run.stride) {
                        let _ = self.client.handle_datagram(datagram, now);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        self.client.handle_timeout(now);
        while let Some(datagram) = self.client.poll_transmit() {
            self.socket.send_run(turn_address(), &datagram, datagram.len());
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Allocated { relayed, .. } => self.relayed = Some(relayed),
                Event::ChannelReady { number, .. } => {
                    self.ready = true;
                    self.channel = Some(number);
                }
                Event::ChannelFailed { reason, .. } | Event::Failed { reason } => bail!("{reason}"),
                Event::PermissionFailed { reason, .. } => bail!("{reason}"),
                Event::Permitted(_) | Event::Rtt(_) | Event::Closed => {}
            }
        }
        Ok(())
    }
}

fn drive(seats: &mut [Seat<'_>], what: &str, is_done: impl Fn(&Seat<'_>) -> bool) -> Result<()> {
    let mut receiver = UdpReceiver::new();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        for seat in seats.iter_mut() {
            seat.drive(&mut receiver)?;
        }
        let missing = seats.iter().filter(|seat| !is_done(seat)).count();
        if missing == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{missing} of {} have no {what}", seats.len());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn turn(
    stage: &Stage,
    kind: Kind,
    direction: Direction,
    pairs: u16,
    firsts: Vec<ServerSocket>,
) -> Result<Flows> {
    let across = direction == Direction::Across;
    let others = if across {
        sockets(&stage.client, CLIENT, OTHER_CLIENT, pairs)?
    } else {
        sockets(&stage.peer, PEER, PEER_PORT, pairs)?
    };
    // The mesh's case; the others know no virtual addresses.
    let virtual_address = across && kind == Kind::Ours;
    let mut seats = Vec::new();
    for (number, socket) in firsts.iter().enumerate() {
        seats.push(Seat::new(socket, &format!("a{number}"), virtual_address)?);
    }
    if across {
        for (number, socket) in others.iter().enumerate() {
            seats.push(Seat::new(socket, &format!("b{number}"), virtual_address)?);
        }
    }
    drive(&mut seats, "allocation", |seat| seat.relayed.is_some())?;
    let relayed: Vec<SocketAddr> = seats.iter().filter_map(|seat| seat.relayed).collect();
    let count = seats.len();
    for (number, seat) in seats.iter_mut().enumerate() {
        let peer =
            if across { relayed[(number + count / 2) % count] } else { others[number].address() };
        seat.client.bind(peer, Instant::now()).context("a channel is free")?;
    }
    drive(&mut seats, "channel", |seat| seat.ready)?;
    let channels: Vec<Option<ChannelNumber>> = seats.iter().map(|seat| seat.channel).collect();
    let clients: Vec<Client> = seats.into_iter().map(|seat| seat.client).collect();
    let header = CHANNEL_HEADER_LEN;
    let up = |channels: &[Option<ChannelNumber>]| {
        let route = |channel: &Option<_>| Route { to: turn_address(), channel: *channel };
        channels.iter().take(usize::from(pairs)).map(route).collect()
    };
    match direction {
        Direction::Up => Flows::new(firsts, up(&channels), others, (header, 0), clients),
        Direction::Across => Flows::new(firsts, up(&channels), others, (header, header), clients),
        Direction::Down => {
            let routes = relayed.into_iter().map(|to| Route { to, channel: None }).collect();
            Flows::new(others, routes, firsts, (0, header), clients)
        }
    }
}
