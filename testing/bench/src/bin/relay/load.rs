//! Offers traffic and counts what arrives.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use warren_net::UdpReceiver;

use crate::flows::Flows;
use crate::stage::{Cpu, Stage};

/// What is offered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// Datagrams a second; `None` for all that the generator can.
    pub(crate) rate: Option<f64>,
    /// Datagrams sent at once on one flow.
    pub(crate) burst: usize,
    /// Payload of each, in bytes.
    pub(crate) size: usize,
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu: Cpu,
    /// For how long that was counted: the last arrivals included.
    counted: f64,
}

impl Sample {
    pub(crate) fn offered(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    pub(crate) fn delivered(&self) -> f64 {
        self.received as f64 / self.seconds
    }

    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    /// The share of the relay's core that others used.
    pub(crate) fn others(&self) -> f64 {
        self.cpu.others() / self.counted
    }

    /// CPU seconds for a million delivered datagrams.
    pub(crate) fn cpu_per_million(&self) -> f64 {
        self.cpu.total() / self.received.max(1) as f64 * 1e6
    }
}

/// Bursts sent before arrivals are taken again.
const BURSTS_AT_ONCE: u64 = 8;
/// How long the last datagrams may take.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// Offers it to the relay that is process `pid`.
pub(crate) fn offer(stage: &Stage, pid: u32, flows: &Flows, offer: Offer) -> Result<Sample> {
    let bursts = bursts(flows, offer);
    let mut receiver = Counter::new(flows, offer.size);
    let mut sample = Sample::default();
    let before = stage.cpu(pid)?;
    let start = Instant::now();
    let mut sent: u64 = 0;
    let mut forgiven: u64 = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= offer.time {
            break;
        }
        let burst_rate = offer.rate.map(|rate| rate / offer.burst as f64);
        let due = match burst_rate {
            Some(rate) => (elapsed.as_secs_f64() * rate) as u64,
            None => sent + BURSTS_AT_ONCE,
        };
        // Whoever falls behind by more than 10 ms doesn't make up for it in one blast.
        let limit = burst_rate.map_or(u64::MAX / 2, |rate| (rate / 100.0) as u64 + BURSTS_AT_ONCE);
        forgiven = forgiven.max(due.saturating_sub(sent + limit));
        let now = due.saturating_sub(sent + forgiven).min(BURSTS_AT_ONCE);
        for _ in 0..now {
            let flow = (sent % bursts.len() as u64) as usize;
            let (bytes, stride) = &bursts[flow];
            flows.senders[flow].send_run(flows.routes[flow].to, bytes, *stride);
            sent += 1;
        }
        receiver.take(if now == 0 { EpollTimeout::from(1_u8) } else { EpollTimeout::ZERO })?;
    }
    sample.seconds = start.elapsed().as_secs_f64();
    sample.sent = sent * offer.burst as u64;
    let end = Instant::now() + STRAGGLERS;
    while receiver.count < sample.sent && Instant::now() < end {
        receiver.take(EpollTimeout::from(10_u8))?;
    }
    sample.received = receiver.count;
    sample.cpu = stage.cpu(pid)?.since(before);
    sample.counted = start.elapsed().as_secs_f64();
    Ok(sample)
}

/// Waits until nothing arrives any more, as long as `patience`: a relay that queues without bound
/// goes on delivering a flood when it is over.
pub(crate) fn settle(flows: &Flows, size: usize, patience: Duration) -> Result<()> {
    let mut receiver = Counter::new(flows, size);
    let end = Instant::now() + patience;
    let mut last = Instant::now();
    while last.elapsed() < STRAGGLERS && Instant::now() < end {
        let before = receiver.count;
        receiver.take(EpollTimeout::from(10_u8))?;
        if receiver.count > before {
            last = Instant::now();
        }
    }
    Ok(())
}

/// One burst for each flow, and its stride.
fn bursts(flows: &Flows, offer: Offer) -> Vec<(Vec<u8>, usize)> {
    let burst = |flow: &crate::flows::Route| {
        let mut datagram = match flow.channel {
            Some(channel) => channel.header(offer.size as u16).to_vec(),
            None => vec![0; flows.sent_header],
        };
        datagram.resize(datagram.len() + offer.size, 0x5a);
        (datagram.repeat(offer.burst), datagram.len())
    };
    flows.routes.iter().map(burst).collect()
}

/// Counts arrivals of the right length.
pub(crate) struct Counter<'f> {
    flows: &'f Flows,
    length: usize,
    receiver: UdpReceiver,
    events: Vec<EpollEvent>,
    pub(crate) count: u64,
}

impl<'f> Counter<'f> {
    pub(crate) fn new(flows: &'f Flows, size: usize) -> Self {
        Self {
            flows,
            length: size + flows.received_header,
            receiver: UdpReceiver::new(),
            events: vec![EpollEvent::empty(); 64],
            count: 0,
        }
    }

    /// Takes what there is, waiting for it as long as `timeout`.
    pub(crate) fn take(&mut self, timeout: EpollTimeout) -> Result<()> {
        let ready = self.flows.readable.wait(&mut self.events, timeout)?;
        for event in &self.events[..ready] {
            let socket = &self.flows.receivers[event.data() as usize];
            while let Ok(runs) = socket.try_recv(&mut self.receiver) {
                let is_full = runs.is_full();
                for run in runs {
                    let right = run.bytes.chunks(run.stride).filter(|it| it.len() == self.length);
                    self.count += right.count() as u64;
                }
                if !is_full {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// How long single datagrams take at 10,000 a second, in microseconds, sorted; lost ones are left
/// out.
pub(crate) fn latencies(flows: &Flows, size: usize, count: usize) -> Result<Vec<f64>> {
    let offer = Offer { rate: None, burst: 1, size, time: Duration::ZERO };
    let bursts = bursts(flows, offer);
    let mut receiver = Counter::new(flows, size);
    let mut latencies = Vec::with_capacity(count);
    let start = Instant::now();
    for number in 0..count {
        let due = start + Duration::from_micros(100) * number as u32;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let flow = number % bursts.len();
        let (bytes, stride) = &bursts[flow];
        let before = receiver.count;
        let sent = Instant::now();
        flows.senders[flow].send_run(flows.routes[flow].to, bytes, *stride);
        while receiver.count == before && sent.elapsed() < Duration::from_millis(50) {
            receiver.take(EpollTimeout::from(1_u8))?;
        }
        if receiver.count > before {
            latencies.push(sent.elapsed().as_secs_f64() * 1e6);
        }
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}
