//! Relays side by side: TURN servers, the pair relay, and a bare forwarder as userspace's limit.
//!
//! ```text
//! cargo run --release -p warren-bench --bin relay -- [rates] [--relays bare,ours,coturn,turn-server,pair]
//!     [--sizes 64,300,1200] [--pairs 1,100] [--bursts 16,1] [--directions up,down,across] [--seconds 2]
//! … latency [--relays …]     one way at 10,000 datagrams a second
//! … pairs [--pairs 1000]     the pair relay: 300 bytes each 24 ms on each pair, 30 s, one way
//! … allocations [--count 100000]   virtual allocations of `warren relay`: set-up time and memory
//! … idle [--count 10000]     what forwarding costs beside idle allocations, median of five
//! ```
//!
//! `--flags "…"` are further flags for `warren relay`.
//!
//! As root (it counts kernel threads' work, see `stage.rs`). Each cell: a flood, then a search for
//! the highest rate with at most 1 % of loss, then that rate again, for the CPU time; at the end,
//! what others used of the relay's core meanwhile (a rate is worth little unless that is nothing, so
//! a disturbed cell is measured again, up to four times). `WARREN_BIN`
//! and `TURN_SERVER` name the programs; coturn is Debian's (`testing/setup.sh bench`), and
//! `testing/bench/turn-server` installs the other.

mod bare;
mod flows;
mod load;
mod many;
mod search;
mod stage;
mod steady;
mod targets;

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use flows::{Direction, Flows};
use search::Cell;
use stage::Stage;
use targets::{Kind, Target};

struct Options {
    mode: String,
    relays: Vec<Kind>,
    sizes: Vec<usize>,
    pairs: Vec<u16>,
    bursts: Vec<usize>,
    directions: Vec<Direction>,
    seconds: f64,
    count: Option<u32>,
    /// For `warren relay`.
    flags: Vec<String>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, direction] = &arguments[..]
        && first == "forward"
    {
        return bare::forward(direction);
    }
    let options = options(&arguments)?;
    stage::enter()?;
    stage::pin_generator()?;
    let stage = Stage::set_up()?;
    match options.mode.as_str() {
        "rates" => rates(&stage, &options),
        "latency" => latency(&stage, &options),
        "pairs" => steady::pairs(&stage, options.pairs.last().copied().unwrap_or(1000)),
        "allocations" => {
            many::allocations(&stage, &options.flags, options.count.unwrap_or(100_000))
        }
        "idle" => {
            let count = options.count.unwrap_or(10_000);
            many::idle(&stage, &options.flags, count, options.seconds)
        }
        mode => bail!("there is no mode {mode}"),
    }
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options {
        mode: "rates".to_owned(),
        relays: vec![Kind::Bare, Kind::Ours, Kind::Coturn, Kind::TurnServer],
        sizes: vec![300],
        pairs: vec![100],
        bursts: vec![16],
        directions: Direction::ALL.to_vec(),
        seconds: 2.0,
        count: None,
        flags: Vec::new(),
    };
    let mut arguments = arguments.iter().peekable();
    if let Some(mode) = arguments.next_if(|argument| !argument.starts_with('-')) {
        options.mode.clone_from(mode);
        if mode == "pairs" {
            options.pairs = vec![1000];
        }
    }
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} takes a value"))?;
        let values = value.split(',');
        match name.as_str() {
            "--relays" => {
                options.relays = values
                    .map(|name| Kind::named(name).with_context(|| format!("no relay {name}")))
                    .collect::<Result<_>>()?;
            }
            "--sizes" => options.sizes = values.map(str::parse).collect::<Result<_, _>>()?,
            "--pairs" => options.pairs = values.map(str::parse).collect::<Result<_, _>>()?,
            "--bursts" => options.bursts = values.map(str::parse).collect::<Result<_, _>>()?,
            "--directions" => {
                options.directions = values
                    .map(|name| Direction::named(name).with_context(|| format!("not {name}")))
                    .collect::<Result<_>>()?;
            }
            "--count" => options.count = Some(value.parse()?),
            "--flags" => options.flags = value.split(' ').map(str::to_owned).collect(),
            "--seconds" => options.seconds = value.parse()?,
            _ => bail!("unknown flag {name}"),
        }
    }
    Ok(options)
}

fn rates(stage: &Stage, options: &Options) -> Result<()> {
    for kind in &options.relays {
        println!("{}: {}", kind.name(), targets::version(*kind)?);
    }
    println!("{}", search::HEADING);
    for &direction in &options.directions {
        for &size in &options.sizes {
            for &pairs in &options.pairs {
                for &burst in &options.bursts {
                    let cell = Cell { direction, size, pairs, burst, seconds: options.seconds };
                    for &kind in &options.relays {
                        println!("{}", line(stage, kind, cell, &options.flags)?);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Measures one cell of one relay; what a relay can't do is part of the table.
fn line(stage: &Stage, kind: Kind, cell: Cell, flags: &[String]) -> Result<String> {
    let mut line = cell.describe(kind);
    if kind == Kind::Pair && cell.direction != Direction::Across {
        line.push_str("joins clients only");
        return Ok(line);
    }
    let Some(target) = Target::start(kind, stage, cell.direction, flags)? else {
        line.push_str("not installed");
        return Ok(line);
    };
    let flows = match Flows::join(stage, kind, cell.direction, cell.pairs) {
        Ok(flows) => flows,
        Err(error) => {
            let _ = write!(line, "can't: {error:#}");
            return Ok(line);
        }
    };
    stage.wait_for_quiet(std::time::Duration::from_secs(20))?;
    line.push_str(&search::measure(stage, &target, &flows, cell)?);
    Ok(line)
}

fn latency(stage: &Stage, options: &Options) -> Result<()> {
    println!("one way at 10,000 datagrams of 300 bytes a second, µs: median, 99 %, 99.9 %, lost");
    for &direction in &options.directions {
        for &kind in &options.relays {
            if kind == Kind::Pair && direction != Direction::Across {
                continue;
            }
            let Some(target) = Target::start(kind, stage, direction, &options.flags)? else {
                continue;
            };
            let flows = match Flows::join(stage, kind, direction, 1) {
                Ok(flows) => flows,
                Err(error) => {
                    println!("{:12} {:7} can't: {error:#}", kind.name(), direction.name());
                    continue;
                }
            };
            const COUNT: usize = 30_000;
            let all = load::latencies(&flows, 300, COUNT)?;
            let at = |share: f64| {
                all.get((all.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
            };
            println!(
                "{:12} {:7} {:7.0} {:7.0} {:7.0} {:6}",
                target.kind.name(),
                direction.name(),
                at(0.5),
                at(0.99),
                at(0.999),
                COUNT - all.len()
            );
        }
    }
    Ok(())
}
