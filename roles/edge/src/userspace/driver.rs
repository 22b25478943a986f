//! Drives the core: packets in, packets out, sockets for its flows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use warren_net::Counter;
use warren_proxy::{Event, FlowId, Lead, Limits, Protocol, Proxy};

use super::lan::{Datagrams, Shared, Stream};
use super::{Leads, Uses};
use crate::kernel::opening::{Opened, TCP, UDP};

/// Packets that are taken before everything else gets its turn.
const BATCH: usize = 64;
/// How often what was used is told.
const COUNT: Duration = Duration::from_secs(1);

/// Runs until nobody can say any more what is open.
pub(super) fn run(
    packets: mpsc::Receiver<Vec<u8>>,
    answers: mpsc::Sender<Vec<u8>>,
    leads: watch::Receiver<Leads>,
    uses: Uses,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the userspace proxy can't run");
            return;
        }
    };
    let mut seed = [0; 16];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut seed);
    let core = Proxy::new(Limits::default(), seed, Instant::now());
    let shared = Shared { core: Rc::new(RefCell::new(core)), kick: Rc::new(Notify::new()) };
    let driver = Driver { shared, packets, answers, leads, uses, lan: BTreeMap::new() };
    LocalSet::new().block_on(&runtime, driver.run());
}

/// What a flow has of the LAN.
enum Lan {
    Stream(Stream),
    Datagrams(Datagrams),
}

struct Driver {
    shared: Shared,
    packets: mpsc::Receiver<Vec<u8>>,
    answers: mpsc::Sender<Vec<u8>>,
    leads: watch::Receiver<Leads>,
    uses: Uses,
    lan: BTreeMap<FlowId, Lan>,
}

enum Wake {
    Packets,
    Room(mpsc::OwnedPermit<Vec<u8>>),
    Leads(bool),
    Count,
    Other,
}

impl Driver {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut counts = interval(COUNT);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let kick = Rc::clone(&self.shared.kick);
        loop {
            self.do_events();
            let due = self.shared.core.borrow().poll_timeout().map(|(due, _)| due);
            let speaks = self.shared.core.borrow().wants_to_transmit();
            let wake = tokio::select! {
                Ok(room) = self.answers.clone().reserve_owned(), if speaks => Wake::Room(room),
                count = self.packets.recv_many(&mut batch, BATCH), if !self.packets.is_closed() => {
                    if count > 0 { Wake::Packets } else { Wake::Other }
                }
                changed = self.leads.changed() => Wake::Leads(changed.is_ok()),
                () = kick.notified() => Wake::Other,
                _ = counts.tick() => Wake::Count,
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    Wake::Other
                }
            };
            match wake {
                Wake::Packets => self.take(&mut batch),
                Wake::Room(room) => self.speak(room),
                Wake::Leads(true) => self.retain(),
                Wake::Leads(false) => break,
                Wake::Count => self.count(),
                Wake::Other => {}
            }
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                self.shared.core.borrow_mut().handle_timeout(now);
            }
        }
        self.close();
    }

    fn take(&mut self, batch: &mut Vec<Vec<u8>>) {
        let leads = self.leads.borrow().clone();
        let now = Instant::now();
        for packet in batch.drain(..) {
            let taken = self.shared.core.borrow_mut().handle_packet(&packet, lead(&leads), now);
            if let Err(reason) = taken {
                tracing::trace!(%reason, "a packet to the LAN was dropped");
            }
            // A core that isn't drained queues a datagram for each packet.
            self.do_events();
        }
    }

    /// Hands over packets for the mesh, as many as there is room for.
    fn speak(&mut self, room: mpsc::OwnedPermit<Vec<u8>>) {
        let now = Instant::now();
        let mut room = Some(room);
        for _ in 0..BATCH {
            let Some(place) = room.take().or_else(|| self.answers.clone().try_reserve_owned().ok())
            else {
                return;
            };
            let Some(packet) = self.shared.core.borrow_mut().poll_transmit(now) else { return };
            place.send(packet);
        }
    }

    fn retain(&mut self) {
        let leads = self.leads.borrow_and_update().clone();
        let lead = lead(&leads);
        self.shared.core.borrow_mut().retain(lead, Instant::now());
    }

    fn do_events(&mut self) {
        loop {
            let event = self.shared.core.borrow_mut().poll_event();
            let Some(event) = event else { return };
            match event {
                Event::Connect { flow, target } => {
                    let mesh = self.mesh();
                    let stream = Stream::connect(self.shared.clone(), flow, target, mesh);
                    self.lan.insert(flow, Lan::Stream(stream));
                }
                Event::Open { flow, target } => {
                    let opened = Datagrams::open(self.shared.clone(), flow, target, self.mesh());
                    match opened {
                        Ok(datagrams) => {
                            self.lan.insert(flow, Lan::Datagrams(datagrams));
                        }
                        Err(error) => {
                            tracing::debug!(%error, "a device of the LAN can't be reached");
                            self.shared.refuse(flow);
                        }
                    }
                }
                Event::Datagram { flow, payload } => {
                    if let Some(Lan::Datagrams(datagrams)) = self.lan.get(&flow) {
                        datagrams.send(&payload);
                    }
                }
                Event::Ready(flow) => {
                    if let Some(Lan::Stream(stream)) = self.lan.get(&flow) {
                        stream.wake();
                    }
                }
                // A stream's task sees it, and ends by itself.
                Event::Closed(flow) => {
                    if let Some(Lan::Stream(stream)) = self.lan.remove(&flow) {
                        stream.wake();
                    }
                }
            }
        }
    }

    fn mesh(&self) -> std::net::Ipv4Addr {
        self.leads.borrow().opening().mesh
    }

    fn count(&self) {
        let core = self.shared.core.borrow();
        let counts = core.uses().iter().map(|(opened, usage)| {
            (*opened, Counter { packets: usage.packets, bytes: usage.bytes })
        });
        *self.uses.lock().unwrap_or_else(PoisonError::into_inner) = counts.collect();
    }

    /// Tells the peers, as far as there is room.
    fn close(mut self) {
        self.shared.core.borrow_mut().retain(|_, _| None, Instant::now());
        while let Ok(room) = self.answers.clone().try_reserve_owned() {
            if !self.shared.core.borrow().wants_to_transmit() {
                break;
            }
            self.speak(room);
        }
        self.do_events();
        self.count();
    }
}

/// Where a flow leads, as the core asks.
fn lead(leads: &Leads) -> impl Fn(Protocol, SocketAddrV4) -> Option<Lead<Opened>> + '_ {
    |protocol, local| {
        let protocol = match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        let lead = leads.lead(protocol, *local.ip(), local.port())?;
        Some(Lead { key: lead.by, target: SocketAddrV4::new(lead.target, lead.port) })
    }
}
