//! The data folder: 0700, its secrets 0600, one broker at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use warren_tls::secret;

/// The data folder, held by this process until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the folder if need be and takes its lock.
    ///
    /// # Errors
    /// Another broker holds it, or it can't be made or entered.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        secret::create_folder(path)?;
        let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).with_context(|| {
                format!(
                    "others may enter {} (mode {mode:o}) and it can't be changed",
                    path.display()
                )
            })?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| format!("can't write in the data folder {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another broker is running on {}; stop it first, or give this one its own --data",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("can't lock {}", path.display()))
            }
        }
    }

    /// A path inside.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file, if it is there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    /// Replaces a secret as a whole: after a crash there is the old one or the new one.
    pub(crate) fn write_secret(&self, name: &str, contents: &[u8]) -> Result<()> {
        secret::write(&self.join(name), contents)
    }

    /// Makes renames durable.
    pub(crate) fn sync(&self) -> Result<()> {
        File::open(&self.path)?.sync_all().context("can't sync the data folder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_folder_and_its_secrets_are_the_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();

        let data = DataDir::open(&path).unwrap();
        data.write_secret("secret", b"one").unwrap();
        data.write_secret("secret", b"two").unwrap();

        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("secret")), 0o600);
        assert_eq!(data.read("secret").unwrap().as_deref(), Some("two"));
        assert_eq!(data.read("other").unwrap(), None);
    }

    #[test]
    fn a_second_holder_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        let why = DataDir::open(folder.path()).unwrap_err().to_string();
        assert!(why.contains("another broker is running"), "{why}");
        drop(first);
        DataDir::open(folder.path()).unwrap();
    }
}
