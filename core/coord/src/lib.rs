//! The broker's state machine: registry, addresses, presence, deltas.
