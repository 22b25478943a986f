//! Running a scenario over many seeds, and one seed again.

/// Runs a scenario once for each seed; `SIM_SEED` names another set: one seed, or a range `a..b`.
/// When it fails, the command that replays it is printed.
///
/// # Panics
/// When the scenario does, or `SIM_SEED` can't be read.
pub fn for_seeds(test: &str, seeds: impl IntoIterator<Item = u64>, mut scenario: impl FnMut(u64)) {
    let run = |seed, scenario: &mut dyn FnMut(u64)| {
        let _replay = Replay { test, seed };
        scenario(seed);
    };
    match std::env::var("SIM_SEED") {
        Ok(text) => {
            let (from, to) =
                text.split_once("..").map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
            let number = |text: &str| -> u64 { text.parse().expect("SIM_SEED is N or A..B") };
            let from = number(from);
            for seed in from..to.map_or(from + 1, number) {
                run(seed, &mut scenario);
            }
        }
        Err(_) => seeds.into_iter().for_each(|seed| run(seed, &mut scenario)),
    }
}

struct Replay<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed } = self;
            eprintln!("replay: SIM_SEED={seed} cargo nextest run -p warren-sim {test}");
        }
    }
}
