//! Folders and files that only their owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Creates a folder of mode 0700, unless it is there.
///
/// # Errors
/// When the system refuses it.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("can't create the folder {}", path.display()))
}

/// Writes `contents` to a file of mode 0600 beside `path`, syncs it and renames it over `path`: after
/// a crash there is the old one or the new one.
///
/// # Errors
/// When the system refuses it; what was there remains.
pub fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = path.parent().context("a secret needs a folder")?;
    let name = path.file_name().context("a secret needs a name")?.to_string_lossy();
    let temporary = folder.join(format!(".{name}.new"));
    let write = || -> std::io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn folder_and_file_are_the_owners_alone_and_the_last_contents_count() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("deep/folder");
        create_folder(&folder).unwrap();
        create_folder(&folder).unwrap();
        let file = folder.join("secret");
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read(&file).unwrap(), b"two");
    }
}
