//! The edge: what a device does that opens the LAN it stands in, as a library behind `warren node`.
//!
//! [`Edge::start`] takes the broker's [`EdgeDuty`](warren_proto::EdgeDuty) and keeps the host doing
//! it: forwards, virtual devices and gateways go through the kernel ([`kernel`]), or, where that can't
//! be had, the first two through a proxy in this process; devices that are bound to their card's
//! address are followed ([`follow`]), and the LAN is scanned when somebody asks for it ([`EdgeTools`]).
//! What doesn't work is a [`Problem`] with its remedy, never the end of anything.
//!
//! # Invariants
//!
//! - Nothing but our own nftables table is written, and the `forwarding` switch of interfaces; both
//!   go when the edge stops, and after a kill at the next start.
//! - A table is replaced as a whole, or not at all.
//! - Nothing new comes from the LAN into the mesh, and nothing from the mesh passes that wasn't
//!   opened.

mod edge;
pub mod follow;
pub mod kernel;
mod problem;
mod scan;
mod tools;
mod userspace;

pub use edge::{Edge, EdgeConfig, EdgeReport, Use};
pub use kernel::opening::Opened;
pub use kernel::path::clean_up;
pub use problem::Problem;
pub use scan::{Adjacent, ScanError, Scanner};
pub use tools::{CheckError, EdgeTools, WakeError};
pub use warren_scan::{
    Change, Device, Inventory, Listing, Looked, PortAnswer, Rescan, RescanStatus, ScanPlan,
    ScanStatus, Woken,
};
