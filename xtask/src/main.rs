//! The project's own commands, so that a fresh clone needs nothing but Rust:
//!
//! - `cargo xtask demo [ARGS]` builds Warren and runs `warren demo`.
//! - `cargo xtask test [NEXTEST ARGS]` builds everything and passes all the tests.
//! - `cargo xtask arm64 [CARGO ARGS]` builds the program for 64-bit ARM and tries it under qemu-user.
//! - `cargo xtask docs` regenerates the documents that come out of code and tests.
//!
//! Each first runs `testing/setup.sh`, which installs what the machine lacks and says what it does.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The tests that write what they check when `WARREN_REGENERATE` is set: the NAT matrix, the command
/// line's reference, and golden files that are missing.
const GENERATORS: &str =
    "test(the_nat_matrix) | test(the_reference_in_docs) | (package(warren-proto) & binary(golden))";

const USAGE: &str =
    "usage: cargo xtask demo [ARGS] | test [NEXTEST ARGS] | arm64 [CARGO ARGS] | docs";

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let command = args.next();
    let rest: Vec<OsString> = args.collect();
    let outcome = match command.as_ref().and_then(|name| name.to_str()) {
        Some("demo") => demo(&rest),
        Some("test") => test(&rest),
        Some("arm64") => run(Command::new(root().join("testing/arm64.sh")).args(&rest)),
        Some("docs") => docs(),
        Some("-h" | "--help") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(_) | None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &[OsString]) -> Result<(), String> {
    setup("demo")?;
    // Built in half the time that an optimised one takes, and nobody waits for its speed.
    run(cargo().args(["build", "--package", "warren"]))?;
    run(Command::new(target_folder().join("debug/warren")).arg("demo").args(args))
}

fn test(args: &[OsString]) -> Result<(), String> {
    setup("test")?;
    // Building the workspace's tests builds the program too, with the same features.
    run(cargo()
        .args(["nextest", "run", "--workspace", "--no-fail-fast"])
        .env("WARREN_BIN", target_folder().join("debug/warren"))
        .env("PATH", path_with_tools())
        .args(args))
}

fn docs() -> Result<(), String> {
    setup("test")?;
    run(cargo()
        .args(["nextest", "run", "-p", "warren-sim", "-p", "warren", "-p", "warren-proto", "-E"])
        .arg(GENERATORS)
        .env("WARREN_REGENERATE", "1")
        .env("PATH", path_with_tools()))
}

/// Installs what the machine lacks for `purpose`.
fn setup(purpose: &str) -> Result<(), String> {
    run(Command::new(root().join("testing/setup.sh")).arg(purpose))
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .current_dir(root())
        .status()
        .map_err(|error| format!("can't start {program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} failed ({status})")) }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

fn target_folder() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// `PATH` with the folder where `setup.sh` puts the tools that it installs for this project alone.
fn path_with_tools() -> OsString {
    let mut folders = vec![root().join("target/tools/bin")];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    env::join_paths(folders).unwrap_or_default()
}
