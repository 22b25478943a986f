//! NAT × NAT: direct or not, and how fast. Writes `docs/nat-matrix.md`.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::time::Duration;

use warren_sim::Nat;
use warren_sim::matrix::{
    BAD_LEG, Beside, Measured, Times, attempt, attempt_with_one_stun_address, expectations, page,
    percentile,
};
use warren_sim::net::Link;
use warren_sim::replay::for_seeds;

const TABLE: &str = include_str!("../../expectations/nat-matrix.tsv");
const SEEDS: u64 = 12;

#[test]
fn the_table_names_each_pair_once() {
    let mut pairs: Vec<_> = expectations(TABLE)
        .iter()
        .map(|row| (row.left.min(row.right), row.left.max(row.right)))
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    assert_eq!(pairs.len(), 28);
}

#[test]
fn the_nat_matrix_is_as_rfc_4787_allows_and_its_page_is_current() {
    let mut rows = Vec::new();
    let (mut all, mut bad, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for expected in expectations(TABLE) {
        let (left, right) = (expected.left, expected.right);
        let (mut times, mut reason) = (Vec::new(), None);
        for_seeds("the_nat_matrix", 0..SEEDS, |seed| {
            for (from, to) in [(left, right), (right, left)] {
                let attempt = attempt(seed, from, to, Link::ACCESS);
                assert_eq!(
                    attempt.direct.is_some(),
                    expected.direct,
                    "seed {seed}: {from} to {to}, {attempt:?}: {}",
                    expected.why
                );
                if !expected.direct {
                    assert!(attempt.relayed.is_some(), "seed {seed}: {from} to {to}, {attempt:?}");
                    assert!(attempt.reason.is_some(), "{from} to {to}: no reason is given");
                    times.extend(attempt.relayed);
                    reason = attempt.reason;
                } else {
                    assert_eq!(attempt.allocations, 0, "seed {seed}: {from} to {to}");
                    times.extend(attempt.direct);
                    // A lost ping, or a lost reply, is nobody's fault: such attempts have no time.
                    bad.extend(attempt_over_bad_legs(seed, from, to));
                }
            }
        });
        times.sort_unstable();
        if expected.direct { &mut all } else { &mut relayed }.extend_from_slice(&times);
        rows.push(Measured { expected, times, reason });
    }
    all.sort_unstable();
    relayed.sort_unstable();
    let p95 = percentile(&relayed, 0.95).unwrap();
    println!("through a relay: p95 {p95:?}, longest {:?}", relayed.last().unwrap());
    assert!(p95 <= Duration::from_millis(1500), "p95 {p95:?}");
    let (p50, p95) = (percentile(&all, 0.5).unwrap(), percentile(&all, 0.95).unwrap());
    println!("time to first reply: p50 {p50:?}, p95 {p95:?} over {} attempts", all.len());
    assert!(p50 <= Duration::from_millis(700), "p50 {p50:?}");
    assert!(p95 <= Duration::from_millis(1000), "p95 {p95:?}");
    bad.sort_unstable();
    let (p50, p95) = (percentile(&bad, 0.5).unwrap(), percentile(&bad, 0.95).unwrap());
    assert!(bad.len() >= all.len() * 8 / 10, "{} of {}", bad.len(), all.len());
    println!("over bad legs: p50 {p50:?}, p95 {p95:?}");
    assert!(p50 <= Duration::from_millis(700), "p50 {p50:?}");
    assert!(p95 <= Duration::from_millis(1000), "p95 {p95:?}");
    let besides: Vec<_> = Beside::ALL.map(|beside| (beside, times_of(beside))).into();
    if std::env::var_os("SIM_SEED").is_none() {
        let times = Times { direct: &all, bad: &bad, relayed: &relayed };
        compare(&page(&rows, &besides, usize::try_from(SEEDS).unwrap(), times));
    }
}

fn times_of(beside: Beside) -> Vec<Duration> {
    let mut times = Vec::new();
    for_seeds("the_nat_matrix", 0..SEEDS, |seed| {
        let attempt = beside.attempt(seed);
        assert_eq!(attempt.direct.is_some(), beside.is_direct(), "{beside:?}: {attempt:?}");
        if beside.is_direct() {
            assert_eq!(attempt.allocations, 0, "{beside:?}: {attempt:?}");
        }
        times.extend(attempt.direct.or(attempt.relayed));
    });
    times.sort_unstable();
    times
}

/// The time to the first reply, or `None` if the ping itself or its reply was lost.
fn attempt_over_bad_legs(seed: u64, from: Nat, to: Nat) -> Option<Duration> {
    attempt(seed, from, to, BAD_LEG).direct
}

fn compare(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/nat-matrix.md");
    if std::env::var_os("WARREN_REGENERATE").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/nat-matrix.md is stale; write it anew: cargo xtask docs\n{page}"
    );
}

#[test]
fn one_seed_gives_one_trace() {
    use warren_sim::Nat::{Cgnat, EimAdf};
    let first = attempt(1, EimAdf, Cgnat, BAD_LEG);
    assert_eq!(attempt(1, EimAdf, Cgnat, BAD_LEG), first);
    assert_ne!(attempt(2, EimAdf, Cgnat, BAD_LEG).trace, first.trace);
}

#[test]
fn with_one_stun_address_the_same_pairs_connect() {
    for expected in expectations(TABLE) {
        let (left, right) = (expected.left, expected.right);
        for_seeds("with_one_stun_address", 0..2, |seed| {
            for (from, to) in [(left, right), (right, left)] {
                let attempt = attempt_with_one_stun_address(seed, from, to);
                let direct = attempt.direct;
                assert_eq!(direct.is_some(), expected.direct, "{from} to {to}: {attempt:?}");
                assert!(direct.is_none_or(|time| time <= Duration::from_secs(1)), "{direct:?}");
            }
        });
    }
}
