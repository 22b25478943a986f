//! A peer with a TCP stack, the proxy, and a LAN that does as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant as At;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Cidr};
use warren_proxy::{Dropped, Event, FlowId, Lead, Limits, Protocol, Proxy};

pub(crate) const EDGE: Ipv4Addr = Ipv4Addr::new(100, 80, 0, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(100, 80, 0, 5);
pub(crate) const CAMERA: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 9), 80);

/// One packet's way from peer to proxy or back.
const DELAY: Duration = Duration::from_millis(20);

/// What the LAN does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lan {
    Accepts,
    Refuses,
    IsSilent,
    /// Accepts, and takes nothing.
    IsFull,
}

/// The LAN's end of a connection.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// What has come.
    pub(crate) got: Vec<u8>,
    /// What is to be sent.
    pub(crate) sends: VecDeque<u8>,
    /// Whether it closes its side when all is sent.
    pub(crate) closes: bool,
    /// Whether the peer has closed its side.
    pub(crate) ended: bool,
    pub(crate) finished: bool,
}

#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

struct In(Vec<u8>);
struct Out<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: At) -> Option<(In, Out<'_>)> {
        Some((In(self.incoming.pop_front()?), Out(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: At) -> Option<Out<'_>> {
        Some(Out(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1280;
        capabilities
    }
}

pub(crate) struct World {
    pub(crate) proxy: Proxy<u32>,
    pub(crate) now: Instant,
    pub(crate) lan: Lan,
    /// Where port 8080 of the edge leads.
    pub(crate) target: Option<SocketAddrV4>,
    pub(crate) ends: BTreeMap<FlowId, End>,
    /// UDP: what the LAN got.
    pub(crate) datagrams: Vec<(FlowId, Vec<u8>)>,
    pub(crate) connects: usize,
    pub(crate) closed: Vec<FlowId>,
    /// Every so many packets one is lost; 0: none.
    pub(crate) loses: u64,
    /// What came for the peer beside its stack's own: UDP and ICMP.
    pub(crate) heard: Vec<Vec<u8>>,
    epoch: Instant,
    interface: Interface,
    wire: Wire,
    pub(crate) sockets: SocketSet<'static>,
    under_way: VecDeque<(Instant, bool, Vec<u8>)>,
    packets: u64,
}

impl World {
    pub(crate) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut wire, At::from_millis(0));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(PEER, 16))).unwrap();
        });
        Self {
            proxy: Proxy::new(limits, [7; 16], now),
            now,
            lan: Lan::Accepts,
            target: Some(CAMERA),
            ends: BTreeMap::new(),
            datagrams: Vec::new(),
            connects: 0,
            closed: Vec::new(),
            loses: 0,
            heard: Vec::new(),
            epoch: now,
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            under_way: VecDeque::new(),
            packets: 0,
        }
    }

    pub(crate) fn connect(&mut self, port: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 65_536]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.connect(self.interface.context(), (EDGE, 8080), port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Gives a packet to the proxy, without the way there.
    pub(crate) fn packet(&mut self, packet: &[u8]) -> Result<(), Dropped> {
        let lead = leads(self.target);
        let result = self.proxy.handle_packet(packet, lead, self.now);
        self.drain();
        result
    }

    pub(crate) fn retarget(&mut self, target: Option<SocketAddrV4>) {
        self.target = target;
        self.proxy.retain(leads(target), self.now);
        self.drain();
    }

    /// Lets time pass until `done`, or for so long.
    pub(crate) fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.step();
            if done(self) {
                return true;
            }
            let peer = self.interface.poll_at(at(self.epoch, self.now), &self.sockets);
            let peer = peer.map(|at| self.epoch + Duration::from_micros(at.total_micros() as u64));
            let way = self.under_way.front().map(|(due, ..)| *due);
            let timer = self.proxy.poll_timeout().map(|(due, _)| due);
            let next = [peer, way, timer].into_iter().flatten().min();
            match next {
                Some(next) if next <= end => {
                    self.now = next.max(self.now + Duration::from_micros(1));
                }
                Some(_) | None => {
                    self.now = end;
                    self.step();
                    return done(self);
                }
            }
        }
    }

    /// Packets that are on their way to the peer.
    pub(crate) fn sent_to_peer(&self) -> usize {
        self.under_way.iter().filter(|(_, to_proxy, _)| !to_proxy).count()
    }

    /// Takes them from their way.
    pub(crate) fn take_sent_to_peer(&mut self) -> Vec<Vec<u8>> {
        let (taken, left) = self.under_way.drain(..).partition(|(_, to_proxy, _)| !to_proxy);
        self.under_way = left;
        let taken: VecDeque<(Instant, bool, Vec<u8>)> = taken;
        taken.into_iter().map(|(.., packet)| packet).collect()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    fn step(&mut self) {
        while let Some((_, to_proxy, packet)) =
            self.under_way.pop_front_if(|(due, ..)| *due <= self.now)
        {
            if to_proxy {
                let _ = self.proxy.handle_packet(&packet, leads(self.target), self.now);
            } else if packet[9] == 6 {
                self.wire.incoming.push_back(packet);
            } else {
                self.heard.push(packet);
            }
        }
        if self.proxy.poll_timeout().is_some_and(|(due, _)| due <= self.now) {
            self.proxy.handle_timeout(self.now);
        }
        self.drain();
        self.interface.poll(at(self.epoch, self.now), &mut self.wire, &mut self.sockets);
        for packet in std::mem::take(&mut self.wire.outgoing) {
            self.send(true, packet);
        }
    }

    fn send(&mut self, to_proxy: bool, packet: Vec<u8>) {
        self.packets += 1;
        if self.loses == 0 || !self.packets.is_multiple_of(self.loses) {
            self.under_way.push_back((self.now + DELAY, to_proxy, packet));
        }
    }

    /// As the driver does.
    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.proxy.poll_event() {
            match event {
                Event::Connect { flow, .. } => {
                    self.connects += 1;
                    match self.lan {
                        Lan::Accepts | Lan::IsFull => {
                            self.ends.insert(flow, End::default());
                            self.proxy.handle_connected(flow, self.now);
                        }
                        Lan::Refuses => self.proxy.handle_refused(flow, self.now),
                        Lan::IsSilent => {}
                    }
                }
                Event::Open { .. } => {}
                Event::Datagram { flow, payload } => self.datagrams.push((flow, payload)),
                Event::Ready(_) => {}
                Event::Closed(flow) => self.closed.push(flow),
            }
        }
        let flows: Vec<FlowId> = self.ends.keys().copied().collect();
        for flow in flows {
            self.serve(flow);
        }
        while let Some(packet) = self.proxy.poll_transmit(self.now) {
            self.send(false, packet);
        }
        while let Some(event) = self.proxy.poll_event() {
            if let Event::Closed(flow) = event {
                self.closed.push(flow);
            }
        }
        let timeout = self.proxy.poll_timeout();
        assert!(timeout.is_none_or(|(due, _)| due > self.now), "a busy loop: {timeout:?}");
    }

    fn serve(&mut self, flow: FlowId) {
        let Some(stream) = self.proxy.stream(flow, self.now) else { return };
        let Some(end) = self.ends.get_mut(&flow) else { return };
        if self.lan != Lan::IsFull {
            while self.proxy.take(flow, self.now, |bytes| {
                end.got.extend(bytes);
                bytes.len()
            }) > 0
            {}
        }
        end.ended |= stream.ended;
        while self.proxy.give(flow, self.now, |room| {
            let count = room.len().min(end.sends.len());
            for (place, byte) in room.iter_mut().zip(end.sends.drain(..count)) {
                *place = byte;
            }
            count
        }) > 0
        {}
        if end.closes && end.sends.is_empty() && !std::mem::replace(&mut end.finished, true) {
            self.proxy.finish(flow, self.now);
        }
    }
}

fn at(epoch: Instant, now: Instant) -> At {
    At::from_micros(now.duration_since(epoch).as_micros() as i64)
}

fn leads(
    target: Option<SocketAddrV4>,
) -> impl Fn(Protocol, SocketAddrV4) -> Option<Lead<u32>> + Copy {
    move |_, local| {
        let target = target.filter(|_| local == SocketAddrV4::new(EDGE, 8080))?;
        Some(Lead { key: 1, target })
    }
}
