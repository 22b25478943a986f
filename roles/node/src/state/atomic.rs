use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::StateError;

/// Replaces `folder/name` by `contents` with mode 0600: after a crash at any moment, either the old
/// or the new contents are there.
pub(super) fn replace(folder: &Path, name: &str, contents: &[u8]) -> Result<(), StateError> {
    let target = folder.join(name);
    let temporary = folder.join(format!(".{name}.new"));
    let error = |error| StateError::io("can't write", &target)(error);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &target)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|reason| {
        // A full disk needs the room back, and a half-written file is of no use to anyone.
        let _ = std::fs::remove_file(&temporary);
        error(reason)
    })
}
