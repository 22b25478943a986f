//! The node daemon: event loop, control session, names.
