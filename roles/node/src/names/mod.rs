//! The node's resolver: the mesh's names from the map at hand, everything else from whoever knew it
//! before.
//!
//! [`Zone`] decides without I/O; [`Resolver`] listens on the device's own mesh address and serves
//! the host alone, and on an exit node those that use it; `forward` passes questions on untouched but for their id.

mod flights;
mod forward;
mod server;
mod zone;

pub(crate) use server::{Exit, Resolver, Sources};
pub(crate) use zone::Zone;

#[cfg(test)]
mod tests;
