//! The pair relay as games use it: many pairs, small datagrams, no loss.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::flows::{Direction, Flows};
use crate::load::{Offer, offer};
use crate::stage::Stage;
use crate::targets::{Kind, Target};

const SIZE: usize = 300;
const INTERVAL: f64 = 0.024;
const SECONDS: f64 = 30.0;

/// Each pair carries 300 bytes each 24 ms for 30 s, one way; none may be lost.
pub(crate) fn pairs(stage: &Stage, pairs: u16) -> Result<()> {
    stage.wait_for_quiet(Duration::from_secs(60))?;
    let target =
        Target::start(Kind::Pair, stage, Direction::Across, &[])?.context("the pair relay")?;
    let flows = Flows::join(stage, Kind::Pair, Direction::Across, pairs)?;
    let rate = f64::from(pairs) / INTERVAL;
    let time = Duration::from_secs_f64(SECONDS);
    let steady = Offer { rate: Some(rate), burst: 1, size: SIZE, time };
    let wires = stage.wire_drops()?;
    let sample = offer(stage, target.pid(), &flows, steady)?;
    let wires = stage.wire_drops()?.into_iter().zip(wires).map(|(after, before)| after - before);
    let on_wires: u64 = wires.sum();
    let lost = sample.sent - sample.received.min(sample.sent);
    println!(
        "{pairs} pairs, {SIZE} bytes each {} ms, one way, {SECONDS} s: {} sent, {lost} lost, {on_wires} of them by \
         the wires; {:.1} kpps, \
         {:.1} % of a core (others used {:.0} %)",
        INTERVAL * 1e3,
        sample.sent,
        sample.offered() / 1e3,
        sample.cpu.total() / sample.seconds * 100.0,
        sample.others() * 100.0
    );
    ensure!(lost == on_wires, "the relay lost some");
    ensure!(lost == 0, "the wires lost some: others kept the cores busy");
    ensure!(sample.offered() > rate * 0.98, "the generator didn't keep up");
    Ok(())
}
