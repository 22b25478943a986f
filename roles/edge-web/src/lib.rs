//! The edge's own pages and its REST API: what people do on the edge itself, from their browsers and
//! programs elsewhere in the mesh, also while the broker is away.
//!
//! [`Pages::start`] listens at port 80 of the mesh addresses alone, bound to the mesh's interface. Who
//! asks is known by the address that he comes from: the tunnel has proven it to be a device's
//! ([`Place`]). Whoever the policy lets reach that port is told that the edge is there; all else is for the devices
//! that the duty names (`managers`). What is to be open is the broker's to decide: it is asked by the
//! [`Desk`].
//!
//! # Invariants
//!
//! - No request is answered that didn't come in by the mesh's interface.
//! - Nothing is done for a page of another site: the host's name is one of ours, the origin is our own,
//!   and each form has a token.
//! - What the LAN says of itself is text, never markup.

mod api;
mod desk;
mod journal;
mod listen;
mod openapi;
mod pages;
mod site;
mod surround;
mod traffic;
mod words;

pub use desk::{Answer, Desk, Place, Refusal, Why};
pub use listen::{PORT, Pages};

use std::sync::Arc;

use tokio::sync::watch;
use warren_edge::{EdgeReport, EdgeTools};

/// What the pages show and use.
#[derive(Clone)]
pub struct Sources {
    /// Where the edge stands in the mesh, and what it is to open; changes are told.
    pub place: watch::Receiver<Place>,
    /// Scans, checks, calls to wake.
    pub tools: EdgeTools,
    /// How the edge does.
    pub report: watch::Receiver<EdgeReport>,
    /// What is set, and changes of it.
    pub desk: Arc<dyn Desk>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sources")
    }
}
