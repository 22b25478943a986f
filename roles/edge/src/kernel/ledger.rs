//! What was changed on the host: on disk before it is changed, so that the next start undoes what a
//! killed process left behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::opening::Opening;

const FILE: &str = "edge-host.json";

/// What was changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The nftables table (family `inet`) that was made; absent: none.
    #[serde(default)]
    pub table: Option<String>,
    /// Interfaces that were made to forward, and whether they did before.
    #[serde(default)]
    pub forwarding: BTreeMap<String, bool>,
    /// What was open: connections by it are tracked.
    #[serde(default)]
    pub opening: Option<Opening>,
}

impl Ledger {
    /// As it was left behind; empty if nothing was, or it can't be read.
    pub fn load(folder: &Path) -> Self {
        let Ok(text) = fs::read(path(folder)) else { return Self::default() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, "the note of what the edge changed on this host is damaged");
            Self::default()
        })
    }

    /// Whether nothing was left behind.
    pub fn is_absent(folder: &Path) -> bool {
        !path(folder).exists()
    }

    /// Writes it, or removes it if nothing is changed.
    ///
    /// # Errors
    ///
    /// The disk is full, or the folder can't be written.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        if *self == Self::default() {
            return match fs::remove_file(path(folder)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        replace(&path(folder), &serde_json::to_vec(self)?)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Replaces a file: after a crash at any moment, either the old or the new contents are there.
///
/// # Errors
///
/// What the system says; the old contents are there then.
pub fn replace(target: &Path, contents: &[u8]) -> io::Result<()> {
    replace_with(target, |file| file.write_all(contents))
}

/// As [`replace`], of contents that `write` writes.
///
/// # Errors
///
/// What the system or `write` says; the old contents are there then.
pub fn replace_with(
    target: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = target.with_extension("new");
    let written = (|| {
        let mut file = File::create(&temporary)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, target)?;
        target.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    written.inspect_err(|_| {
        // A full disk needs the room back.
        let _ = fs::remove_file(&temporary);
    })
}
