//! The whole mesh on virtual time.
