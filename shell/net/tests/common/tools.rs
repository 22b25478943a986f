//! Other people's programs to test against: from the system, or else Debian's package unpacked into
//! the target folder, without being installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of `program` (`usr/sbin/x`) of Debian's `package`.
pub fn tool(package: &str, program: &str) -> PathBuf {
    let installed = Path::new("/").join(program);
    if installed.exists() {
        return installed;
    }
    let unpacked = unpacked(package).join(program);
    assert!(unpacked.exists(), "{package} has no {program}");
    unpacked
}

/// The folder of the unpacked `package`.
pub fn unpacked(package: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools");
    let folder = tools.join(package);
    if folder.exists() {
        return folder;
    }
    let fresh = tools.join(format!("{package}.{}", std::process::id()));
    std::fs::create_dir_all(&fresh).expect("the target folder is writable");
    let script = format!("apt-get -q download {package} && dpkg -x {package}_*.deb .");
    let output = Command::new("sh").args(["-c", &script]).current_dir(&fresh).output();
    let output = output.expect("sh");
    assert!(
        output.status.success(),
        "{package} is neither installed nor could it be downloaded (`apt-get install {package}`): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Another test may have been quicker.
    if std::fs::rename(&fresh, &folder).is_err() {
        let _ = std::fs::remove_dir_all(&fresh);
    }
    folder
}
