//! Side-by-side benchmarks against named peers: what several of them share.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use warren_lab::isolate;

/// Runs the rest of the program in namespaces of its own. The process outside ends here, with the
/// inside's exit code.
///
/// # Errors
/// When the system forbids it; the text says what to do.
pub fn enter_namespaces(name: &str, arguments: &[OsString]) -> Result<()> {
    if isolate::is_inside() {
        return Ok(());
    }
    let logs = env::temp_dir().join(format!("warren-{name}-{}", std::process::id()));
    let status = isolate::reenter(arguments, &logs)?.status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// The `warren` to measure: `WARREN_BIN`, or the one built beside this program.
///
/// # Errors
/// When it isn't there.
pub fn binary() -> Result<PathBuf> {
    let path = match env::var_os("WARREN_BIN") {
        Some(path) => PathBuf::from(path),
        None => env::current_exe()?.with_file_name("warren"),
    };
    ensure!(path.exists(), "{} isn't there: cargo build --release -p warren", path.display());
    Ok(path)
}

/// CPU time that a process has used, user and system, in seconds, all its threads together.
///
/// # Errors
/// If the process is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |index: usize| -> f64 {
        after_name.split_whitespace().nth(index).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    // utime and stime are the 14th and 15th fields (proc_pid_stat(5)); USER_HZ is 100 everywhere.
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// Resident memory of a process in KiB.
///
/// # Errors
/// If the process is gone.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|text| text.parse().ok()).context("no VmRSS in /proc/PID/status")
}

/// The middle value; the upper one of two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
