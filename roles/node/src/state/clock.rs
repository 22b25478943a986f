//! The floor of the node's wall clock: a Raspberry Pi has none at boot, and WireGuard's responders
//! refuse a handshake whose timestamp isn't newer than the last.
//!
//! The file holds seconds since the Unix epoch that no timestamp handed out so far has reached. It
//! is written ahead ([`RESERVE`]), so that not every handshake costs a write to the SD card, and a
//! crash can't take the floor back.

use std::path::Path;
use std::time::Duration;

use super::{StateError, atomic, read};

const FILE: &str = "clock";

/// How far ahead of the clock the floor is written, and so about how often.
pub(crate) const RESERVE: Duration = Duration::from_secs(600);

/// Reads the floor; zero if there is none.
pub(crate) fn floor(folder: &Path) -> Duration {
    let text = read(&folder.join(FILE)).ok().flatten();
    let seconds = text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
    // Beyond the year 2500 it is garbage, and would lock this device out of every peer for life.
    let plausible = seconds.filter(|seconds: &u64| *seconds < 16_725_225_600);
    Duration::from_secs(plausible.unwrap_or(0))
}

/// Writes the floor, rounded up to the next second.
pub(crate) fn set_floor(folder: &Path, floor: Duration) -> Result<(), StateError> {
    atomic::replace(folder, FILE, format!("{}\n", floor.as_secs() + 1).as_bytes())
}
