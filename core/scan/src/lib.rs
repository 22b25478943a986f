//! A scan of a LAN, as decisions: what to ask whom and when ([`Scan`]), what was found
//! ([`Inventory`]), what has changed since ([`Change`]), when to scan again ([`Rescans`]). Asking itself
//! is the shell's.
//!
//! Whatever a device says of itself is hostile until [`clean`] has seen it.

mod inventory;
mod plan;
mod report;
mod rescan;
mod scan;
mod text;

pub use inventory::{
    Change, Device, Few, Inventory, Kind, Known, Listing, NameSource, NoPort, Port, Scope, Service,
    Transport,
};
pub use plan::{COMMON_PORTS, MAX_ADDRESSES, MAX_RATE, Refused, ScanPlan, UdpService};
pub use report::{Looked, PortAnswer, ScanStatus, Woken};
pub use rescan::{Begun, KeptRescan, MAX_EVERY, MIN_EVERY, Rescan, RescanStatus, Rescans};
pub use scan::{Ended, Finding, Ipv6Neighbour, Probe, Progress, Scan, ScanEvent};
pub use text::clean;
