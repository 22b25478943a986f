//! Finding, and if need be building, the program under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

/// Whose change makes the program out of date.
const SOURCES: [&str; 5] = ["core", "shell", "roles", "warren", "testing/lab/src"];

pub(super) fn locate() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WARREN_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "WARREN_BIN names {}, which is no file", path.display());
        return path.canonicalize().context("WARREN_BIN");
    }
    // <target>/<profile>/deps/<test>-<hash>
    let test = std::env::current_exe().context("this program's own path is unknown")?;
    let profile = test.ancestors().nth(2).context("a test lies in <target>/<profile>/deps")?;
    let binary = profile.join("warren");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = modified(&binary);
    if built.is_none() || built < SOURCES.iter().filter_map(|it| newest(&workspace.join(it))).max()
    {
        build(&workspace, profile)?;
    }
    ensure!(
        binary.is_file(),
        "there is no {}: run `cargo build -p warren` first, or set WARREN_BIN",
        binary.display()
    );
    Ok(binary)
}

fn build(workspace: &Path, profile: &Path) -> Result<()> {
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = profile.parent().context("a profile's folder lies in the target folder")?;
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace)
        .args(["build", "--quiet", "--package", "warren", "--profile", name, "--target-dir"])
        .arg(target)
        .output()
        .context("cannot run cargo: set WARREN_BIN to a built `warren`")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`cargo build -p warren` failed:\n{complaint}");
    Ok(())
}

/// The latest change of what cargo compiles into the program; tests and documents are no part of it.
fn newest(folder: &Path) -> Option<SystemTime> {
    const ELSEWHERE: [&str; 3] = ["tests", "examples", "benches"];
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                let is_elsewhere = ELSEWHERE.iter().any(|name| entry.file_name() == *name);
                return if is_elsewhere { None } else { newest(&path) };
            }
            path.extension()
                .filter(|end| *end == "rs" || *end == "sql")
                .and_then(|_| modified(&path))
        })
        .max()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}
