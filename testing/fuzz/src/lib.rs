//! What comes from strangers, as functions that a fuzzer can call.
//!
//! Each `fuzz_<target>` takes any bytes, and panics if the code under it does, or breaks what it
//! promises. [`TARGETS`] lists them; [`seeds()`] makes genuine inputs. What fuzzers have found worth
//! keeping is in `corpus/<target>/`; `tests/replay.rs` runs it all, and mutations of it, without a
//! fuzzer. `testing/fuzz/run TARGET SECONDS` runs libFuzzer.

mod control;
mod input;
mod mesh;
mod mutate;
mod pair;
mod seeds;
mod sse;
mod stun;
mod turn;
mod turn_client;
mod turn_seeds;
mod wg;
mod world;

pub use control::fuzz_control;
pub use mesh::fuzz_mesh;
pub use mutate::Mutator;
pub use pair::fuzz_pair;
pub use seeds::seeds;
pub use sse::fuzz_sse;
pub use stun::fuzz_stun;
pub use turn::{fuzz_turn_server, fuzz_turn_stream};
pub use turn_client::fuzz_turn_client;
pub use wg::fuzz_wg;

/// A target: its name, and what to call.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("control", fuzz_control),
    ("mesh", fuzz_mesh),
    ("pair", fuzz_pair),
    ("sse", fuzz_sse),
    ("stun", fuzz_stun),
    ("turn_client", fuzz_turn_client),
    ("turn_server", fuzz_turn_server),
    ("turn_stream", fuzz_turn_stream),
    ("wg", fuzz_wg),
];
