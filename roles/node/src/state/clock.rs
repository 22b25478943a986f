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

/// A time at or beyond the year 2500 is garbage, and would lock this device out of every peer for life.
const IMPLAUSIBLE: Duration = Duration::from_secs(16_725_225_600);

/// Whether a clock may be raised to this time since the Unix epoch.
pub(crate) fn is_plausible(unix: Duration) -> bool {
    unix < IMPLAUSIBLE
}

/// Reads the floor; zero if there is none.
pub(crate) fn floor(folder: &Path) -> Duration {
    let text = read(&folder.join(FILE)).ok().flatten();
    let seconds = text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
    seconds.map(Duration::from_secs).filter(|floor| is_plausible(*floor)).unwrap_or_default()
}

/// Writes the floor, rounded up to the next second.
pub(crate) fn set_floor(folder: &Path, floor: Duration) -> Result<(), StateError> {
    atomic::replace(folder, FILE, format!("{}\n", floor.as_secs() + 1).as_bytes())
}
