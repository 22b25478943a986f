//! A node's state machine: peers, paths, demultiplexing.
