//! A userspace line between two TAP devices, with delay, jitter, loss and reordering per direction.
//!
//! One thread per wire: it waits on both devices and on the earliest frame's departure, reads whatever
//! there is, gives every frame its departure time and writes those whose time has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::Host;

/// What one direction of a wire does to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WireSpec {
    /// Time on the wire.
    pub delay: Duration,
    /// Up to this much is added, evenly spread; frames keep their order all the same.
    pub jitter: Duration,
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Share of frames, 0 to 1, that overtake by skipping the delay.
    pub reorder: f64,
    /// Nothing passes.
    pub cut: bool,
}

impl WireSpec {
    /// A wire of so much one-way delay and nothing else.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// Which way a setting applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the host into the segment.
    Out,
    /// From the segment to the host.
    In,
}

enum Order {
    Set(Direction, WireSpec),
    Stop,
}

/// A running wire. Dropping it takes it out, with both devices.
#[derive(Debug)]
pub struct Wire {
    orders: Sender<Order>,
    waker: std::os::unix::net::UnixDatagram,
    thread: Option<JoinHandle<()>>,
    spec: std::sync::Mutex<[WireSpec; 2]>,
}

impl Wire {
    /// Lays a wire between two new TAP devices, each named and on its host, the same both ways.
    ///
    /// # Errors
    /// When a device can't be made.
    pub fn lay(left: (&Host, &str), right: (&Host, &str), spec: WireSpec) -> Result<Self> {
        let devices = [tap(left.0, left.1)?, tap(right.0, right.1)?];
        let (orders, inbox) = channel();
        let (waker, woken) = std::os::unix::net::UnixDatagram::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let line = Line::new(devices, inbox, woken, spec);
        let thread = std::thread::Builder::new()
            .name(format!("wire-{}", left.0.name()))
            .spawn(move || line.run())?;
        let spec = std::sync::Mutex::new([spec; 2]);
        Ok(Self { orders, waker, thread: Some(thread), spec })
    }

    /// Changes both directions while the wire runs.
    pub fn set(&self, spec: WireSpec) {
        self.set_direction(Direction::Out, spec);
        self.set_direction(Direction::In, spec);
    }

    /// Changes one direction while the wire runs.
    pub fn set_direction(&self, direction: Direction, spec: WireSpec) {
        if let Ok(mut specs) = self.spec.lock() {
            specs[direction as usize] = spec;
        }
        self.order(Order::Set(direction, spec));
    }

    /// Lets nothing pass in either direction; the devices stay up, as with a dead uplink further on.
    pub fn cut(&self) {
        self.set_cut(true);
    }

    /// Undoes [`Self::cut`].
    pub fn restore(&self) {
        self.set_cut(false);
    }

    fn set_cut(&self, cut: bool) {
        let Ok(specs) = self.spec.lock().map(|specs| *specs) else { return };
        self.set_direction(Direction::Out, WireSpec { cut, ..specs[0] });
        self.set_direction(Direction::In, WireSpec { cut, ..specs[1] });
    }

    pub(crate) fn remove(mut self) -> Result<()> {
        self.stop()
    }

    fn order(&self, order: Order) {
        // A wire whose thread is gone has lost its devices; nothing is left to change.
        let _ = self.orders.send(order);
        let _ = self.waker.send(&[0]);
    }

    fn stop(&mut self) -> Result<()> {
        self.order(Order::Stop);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => bail!("the wire's thread panicked"),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn tap(host: &Host, name: &str) -> Result<SyncDevice> {
    let build = || -> std::io::Result<SyncDevice> {
        let device = DeviceBuilder::new().name(name).layer(Layer::L2).build_sync()?;
        device.set_nonblocking(true)?;
        Ok(device)
    };
    host.enter(build)?.with_context(|| format!("cannot make the TAP device {name}"))
}

/// A frame on its way; ordered by departure, then by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    leaves: Instant,
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

struct Line {
    devices: [SyncDevice; 2],
    specs: [WireSpec; 2],
    last_leaves: [Instant; 2],
    inbox: Receiver<Order>,
    woken: std::os::unix::net::UnixDatagram,
    queue: BinaryHeap<Reverse<Frame>>,
    spare: Vec<Vec<u8>>,
    number: u64,
    chance: Chance,
}

impl Line {
    /// Frames that a direction holds at most: 64 MB of full-size ones.
    const QUEUE: usize = 40_000;
    /// Frames read from a device in a row, so that departures aren't late.
    const BURST: usize = 32;
    const FRAME: usize = 9_216;

    fn new(
        devices: [SyncDevice; 2],
        inbox: Receiver<Order>,
        woken: std::os::unix::net::UnixDatagram,
        spec: WireSpec,
    ) -> Self {
        let last_leaves = [Instant::now(); 2];
        let (queue, spare) = (BinaryHeap::new(), Vec::new());
        let chance = Chance(0x9E37_79B9_7F4A_7C15);
        Self {
            devices,
            specs: [spec; 2],
            last_leaves,
            inbox,
            woken,
            queue,
            spare,
            number: 0,
            chance,
        }
    }

    fn run(mut self) {
        loop {
            if !self.follow_orders() {
                return;
            }
            self.write_due();
            let Ok(readable) = self.wait() else { return };
            for (from, _) in readable.into_iter().enumerate().filter(|(_, ready)| *ready) {
                self.read(from);
            }
        }
    }

    fn follow_orders(&mut self) -> bool {
        let mut byte = [0];
        while self.woken.recv(&mut byte).is_ok() {}
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Set(direction, spec)) => self.specs[direction as usize] = spec,
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn write_due(&mut self) {
        let now = Instant::now();
        while self.queue.peek().is_some_and(|Reverse(frame)| frame.leaves <= now) {
            let Some(Reverse(frame)) = self.queue.pop() else { return };
            // A device that is down or full loses the frame, as a real line would.
            let _ = self.devices[frame.to].send(&frame.bytes);
            self.spare.push(frame.bytes);
        }
    }

    fn wait(&self) -> nix::Result<[bool; 2]> {
        let wake = PollFlags::POLLIN;
        let mut fds = [
            PollFd::new(self.devices[0].as_fd(), wake),
            PollFd::new(self.devices[1].as_fd(), wake),
            PollFd::new(self.woken.as_fd(), wake),
        ];
        let timeout = self.queue.peek().map(|Reverse(frame)| {
            TimeSpec::from(frame.leaves.saturating_duration_since(Instant::now()))
        });
        match nix::poll::ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let readable =
            |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
        Ok([readable(&fds[0]), readable(&fds[1])])
    }

    fn read(&mut self, from: usize) {
        for _ in 0..Self::BURST {
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.resize(Self::FRAME, 0);
            let Ok(length) = self.devices[from].recv(&mut bytes) else {
                self.spare.push(bytes);
                return;
            };
            bytes.truncate(length);
            match self.departure(from) {
                Some(leaves) => {
                    self.number += 1;
                    let frame = Frame { leaves, number: self.number, to: 1 - from, bytes };
                    self.queue.push(Reverse(frame));
                }
                None => self.spare.push(bytes),
            }
        }
    }

    /// When a frame that has just come in from device `from` leaves; `None`: never.
    fn departure(&mut self, from: usize) -> Option<Instant> {
        let spec = self.specs[from];
        if spec.cut || self.queue.len() >= Self::QUEUE || self.chance.hits(spec.loss) {
            return None;
        }
        let now = Instant::now();
        if self.chance.hits(spec.reorder) {
            return Some(now);
        }
        let leaves = now + spec.delay + spec.jitter.mul_f64(self.chance.share());
        let leaves = leaves.max(self.last_leaves[from]);
        self.last_leaves[from] = leaves;
        Some(leaves)
    }
}

/// Marsaglia's xorshift64: loss must be spread evenly, not be unpredictable.
struct Chance(u64);

impl Chance {
    fn share(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
        let share = (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        share
    }

    fn hits(&mut self, share: f64) -> bool {
        share > 0.0 && self.share() < share
    }
}
