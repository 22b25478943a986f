//! The standalone relays.

pub(crate) mod pair;
