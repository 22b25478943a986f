//! Where servers keep their things unless they are told.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Of the broker or a relay: with the system's where this user may write there, or where they are
/// already; else below the user's home. Makes nothing. `None` where there is no home either.
pub(crate) fn of(role: &str) -> Option<PathBuf> {
    let system = PathBuf::from("/var/lib/warren").join(role);
    if is_root() || system.exists() {
        return Some(system);
    }
    let home = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    Some(home?.join("warren").join(role))
}

/// For what is gone when the machine restarts; `None` where this user has no such folder.
#[cfg(feature = "relay")]
pub(crate) fn runtime() -> Option<PathBuf> {
    if is_root() {
        return Some(PathBuf::from("/run/warren-relay"));
    }
    std::env::var_os("XDG_RUNTIME_DIR").map(|folder| PathBuf::from(folder).join("warren-relay"))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}
