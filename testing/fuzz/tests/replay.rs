//! Runs every kept input, and mutations of it, through its target: no fuzzer needed.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use warren_fuzz::{Mutator, TARGETS, seeds};

/// The most files of a corpus, and bytes of one.
const MAX_FILES: usize = 200;
const MAX_BYTES: usize = 8 << 10;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// Runs one input; on a panic keeps it in a file, so that it can become a corpus entry.
fn run(target: &str, fuzz: fn(&[u8]), origin: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| fuzz(input))).is_err() {
        let kept = std::env::temp_dir().join(format!("warren-fuzz-{target}-{origin}"));
        fs::write(&kept, input).unwrap();
        panic!("{target}: an input made from {origin} fails; it is kept in {}", kept.display());
    }
}

/// Runs a target's inputs, and so many mutations in all.
fn replay(target: &str, mutations: usize) {
    let &(_, fuzz) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let mut inputs = corpus(target);
    assert!(!inputs.is_empty() && inputs.len() <= MAX_FILES, "{} files", inputs.len());
    inputs.extend(seeds(target).into_iter().map(|(name, input)| (format!("seed-{name}"), input)));
    for (name, input) in &inputs {
        assert!(input.len() <= MAX_BYTES, "{name} is too long");
        run(target, fuzz, name, input);
    }
    let mut mutator = Mutator::new(0x5eed);
    let mut inputs_and_others = inputs.iter().zip(inputs.iter().cycle().skip(1)).cycle();
    for n in 0..mutations {
        let Some(((name, input), (_, other))) = inputs_and_others.next() else { break };
        run(target, fuzz, &format!("{name}-{n}"), &mutator.mutate(input, other));
    }
}

#[test]
fn control_messages() {
    replay("control", 50_000);
}

#[test]
fn a_nodes_network() {
    replay("mesh", 2_000);
}

#[test]
fn pair_relay_clients() {
    replay("pair", 5_000);
}

#[test]
fn server_sent_events() {
    replay("sse", 5_000);
}

#[test]
fn stun_datagrams() {
    replay("stun", 10_000);
}

#[test]
fn a_turn_clients_server() {
    replay("turn_client", 5_000);
}

#[test]
fn a_turn_servers_clients() {
    replay("turn_server", 3_000);
}

#[test]
fn turn_streams() {
    replay("turn_stream", 5_000);
}

#[test]
fn wireguard_datagrams() {
    replay("wg", 2_000);
}

#[test]
fn every_target_has_a_test_and_seeds() {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "control",
            "mesh",
            "pair",
            "sse",
            "stun",
            "turn_client",
            "turn_server",
            "turn_stream",
            "wg"
        ]
    );
    for name in names {
        assert!(!seeds(name).is_empty());
    }
}
