//! Side-by-side benchmarks against named peers.
fn main() {}
