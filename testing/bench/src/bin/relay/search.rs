//! The highest rate without loss.

use std::time::Duration;

use anyhow::Result;

use crate::flows::{Direction, Flows};
use crate::load::{Offer, Sample, offer, settle};
use crate::stage::Stage;
use crate::targets::{Kind, Target};

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) direction: Direction,
    pub(crate) size: usize,
    pub(crate) pairs: u16,
    pub(crate) burst: usize,
    pub(crate) seconds: f64,
}

pub(crate) const HEADING: &str = "relay        dir     bytes pairs burst | max kpps  loss | CPU s/M  process network | flood: offered delivered kpps  of max | others";

const MAX_LOSS: f64 = 0.01;
const STEPS: usize = 7;
/// A rate counts as lossy only when it was so each time: a neighbour on the core for 3 ms is enough
/// for a loss, as an interface queues no more than 256 packets.
const TRIES: usize = 3;
/// A cell is measured so often at most, while others use more of the relay's core than this.
const ATTEMPTS: usize = 4;
const DISTURBED: f64 = 0.04;
/// How long a relay may take to get rid of a flood.
const SETTLE: Duration = Duration::from_secs(10);
const QUIET_WAIT: Duration = Duration::from_secs(20);

impl Cell {
    pub(crate) fn describe(&self, kind: Kind) -> String {
        format!(
            "{:12} {:7} {:5} {:5} {:5} | ",
            kind.name(),
            self.direction.name(),
            self.size,
            self.pairs,
            self.burst
        )
    }

    fn offer(&self, rate: Option<f64>, seconds: f64) -> Offer {
        let time = Duration::from_secs_f64(seconds);
        Offer { rate, burst: self.burst, size: self.size, time }
    }
}

/// Measures a cell, and again while others disturb it.
pub(crate) fn measure(stage: &Stage, target: &Target, flows: &Flows, cell: Cell) -> Result<String> {
    let mut best = measure_once(stage, target, flows, cell)?;
    for _ in 1..ATTEMPTS {
        if best.sample.others() <= DISTURBED {
            break;
        }
        stage.wait_for_quiet(QUIET_WAIT)?;
        let next = measure_once(stage, target, flows, cell)?;
        if next.sample.others() < best.sample.others() {
            best = next;
        }
    }
    Ok(best.row())
}

/// A flood, and the highest rate without loss.
struct Measured {
    flood: Sample,
    sample: Sample,
}

fn measure_once(stage: &Stage, target: &Target, flows: &Flows, cell: Cell) -> Result<Measured> {
    let pid = target.pid();
    let try_rate = |rate, seconds| offer(stage, pid, flows, cell.offer(rate, seconds));
    // The first packets find cold caches and unresolved neighbours.
    try_rate(Some(20_000.0), 0.3)?;
    let flood = try_rate(None, cell.seconds)?;
    settle(flows, cell.size, SETTLE)?;
    let best_of = |rate: f64, seconds: f64| -> Result<Sample> {
        let mut best = try_rate(Some(rate), seconds)?;
        for _ in 1..TRIES {
            if best.loss() <= MAX_LOSS {
                break;
            }
            let next = try_rate(Some(rate), seconds)?;
            if next.loss() < best.loss() {
                best = next;
            }
        }
        Ok(best)
    };
    let best = search(&flood, |rate| best_of(rate, cell.seconds / 4.0))?;
    let mut rate = best;
    let mut sample = best_of(rate, cell.seconds)?;
    while sample.loss() > MAX_LOSS && rate > best / 2.0 {
        rate *= 0.95;
        sample = best_of(rate, cell.seconds)?;
    }
    Ok(Measured { flood, sample })
}

impl Measured {
    fn row(&self) -> String {
        let Self { flood, sample } = self;
        let million = sample.received.max(1) as f64 / 1e6;
        format!(
            "{:8.0} {:4.1}% | {:7.2} {:8.2} {:7.2} | {:14.0} {:14.0} {:6.0}% | {:5.0}%",
            sample.delivered() / 1e3,
            sample.loss().max(0.0) * 100.0,
            sample.cpu_per_million(),
            sample.cpu.process / million,
            sample.cpu.network / million,
            flood.offered() / 1e3,
            flood.delivered() / 1e3,
            flood.delivered() / sample.delivered() * 100.0,
            sample.others() * 100.0
        )
    }
}

/// Bisects between nothing and somewhat more than a flood brings.
fn search(flood: &Sample, mut try_rate: impl FnMut(f64) -> Result<Sample>) -> Result<f64> {
    let (mut good, mut bad) = (0.0, flood.offered().min(flood.delivered() * 4.0).max(10_000.0));
    let all = try_rate(bad)?;
    if all.loss() <= MAX_LOSS {
        return Ok(bad);
    }
    let mut rate = flood.delivered().clamp(bad / 8.0, bad * 0.95);
    for _ in 0..STEPS {
        let sample = try_rate(rate)?;
        if sample.loss() <= MAX_LOSS {
            good = rate;
        } else {
            bad = rate;
        }
        rate = f64::midpoint(good, bad);
    }
    Ok(good)
}
