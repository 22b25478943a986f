//! A program that runs on a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_for;

/// A running program. Its output goes to a log; dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn new(label: String, child: Child, log: PathBuf) -> Self {
        Self { label, child, log }
    }

    /// The process id, as seen inside the world.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where standard output and standard error go.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All that the program has written.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the program has ended and been reaped.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a pid is positive")?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.label))
    }

    /// The exit status, if the program has ended.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.label))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When the program still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.label);
        wait_for(&what, limit, || self.exited())
    }

    /// Asks the program to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Ends the program as `kill -9` does, and reaps it.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn kill(&mut self) -> Result<()> {
        if self.exited()?.is_none() {
            self.child.kill().with_context(|| format!("cannot kill {}", self.label))?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
