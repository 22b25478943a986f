//! The state folder: everything that a node keeps over a restart.
//!
//! | file | content | when damaged |
//! | --- | --- | --- |
//! | `node.json` | key pair, membership, listen port ([`Identity`]) | an error: it can't be made up |
//! | `netmap.json` | the last netmap ([`CachedMap`]) | ignored, fetched again |
//! | `broker.json` | the broker's last good addresses | ignored |
//! | `clock` | the floor of WireGuard's TAI64N ([`clock`]) | ignored |
//! | `node.lock` | held with `flock` by the one daemon, with its pid | |
//! | `node.sock` | [`crate::local`] | |
//!
//! Files are replaced atomically: written beside, synced, renamed, and the folder synced.

mod atomic;
pub(crate) mod clock;
mod identity;
mod lock;
mod map;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub(crate) use identity::{ExitChoice, Identity, Joined, Joining};
pub(crate) use map::{BrokerAddresses, CachedMap};

use lock::Lock;

/// The state folder can't be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// A daemon uses it already.
    #[error(
        "another warren node (pid {pid}) uses {folder}; for a second node on this machine give it a folder of its own with --state"
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other daemon's process id, or `?`.
        pid: String,
    },
    /// `node.json` can't be understood.
    #[error(
        "{file} is damaged ({reason}); restore it from a backup, or move it away to start as a new device"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `node.json` was written by a newer version.
    #[error(
        "{file} was written by a newer version of warren (format {format}); upgrade this one, or move the file away to start as a new device"
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        format: u32,
    },
    /// The system refused.
    #[error("{action} {path}: {source}{}", advice(source))]
    Io {
        /// What was being done, e.g. `can't write`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's enum, ever growing")]
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room on that disk, warren tries again by itself"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; remount it writable, or choose another with --state"
        }
        io::ErrorKind::PermissionDenied => "; run as root, or choose another folder with --state",
        _ => "",
    }
}

impl StateError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// An open state folder; no other daemon can open it until this is dropped.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: Lock,
}

impl StateFolder {
    /// Opens a state folder, made with mode 0700 if missing, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(StateError::io("can't make the folder", path))?;
        let lock = Lock::take(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads a file that may be missing.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::io("can't read", path)(error)),
    }
}

#[cfg(test)]
mod tests;
