//! A small internet on one machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::nat::{NatSpec, Router};
use crate::{Host, Segment, isolate};

/// The folder of the world's own files (one per host below `hosts`), in memory.
pub(crate) const FOLDER: &str = "/run/lab";

/// What all hosts of a world share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) logs: PathBuf,
    serial: AtomicU32,
}

impl Shared {
    /// A number that no other caller gets: names of interfaces and of logs are made with it.
    pub(crate) fn next(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

/// A small internet: a core router that everything public hangs on, and what the caller adds.
///
/// Dropped while panicking, it shows the end of every log.
#[derive(Debug)]
pub struct World {
    name: String,
    shared: Arc<Shared>,
    internet: Segment,
}

impl World {
    /// Makes this process's namespaces (see [`isolate`]) the home of a world.
    ///
    /// # Errors
    /// When the process isn't [inside](isolate::is_inside), or the kernel refuses a mount or a namespace.
    pub fn enter(name: &str) -> Result<Self> {
        ensure!(isolate::is_inside(), "a world lives in namespaces only: re-enter first");
        let none = None::<&str>;
        // A container that masks parts of /proc forbids a fresh one; the old one serves as well.
        let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none);
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .context("cannot mount a tmpfs on /run")?;
        fs::create_dir_all("/run/netns")?;
        fs::create_dir_all(format!("{FOLDER}/hosts"))?;
        let etc = format!("{FOLDER}/etc");
        fs::create_dir(&etc)?;
        mount(Some("/etc"), etc.as_str(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .context("cannot keep /etc in sight")?;
        let logs = isolate::log_directory();
        fs::create_dir_all(&logs)?;
        let shared = Arc::new(Shared { logs, serial: AtomicU32::new(0) });
        let core = Host::create("internet", Arc::clone(&shared))?;
        core.forward_packets()?;
        let internet = Segment::internet(core);
        Ok(Self { name: name.to_owned(), shared, internet })
    }

    /// The world's name: a test's, or `demo`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the logs of all processes are, outside the world too.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.shared.logs
    }

    /// The public internet: each link is a routed /30 and /64 of its own.
    #[must_use]
    pub fn internet(&self) -> &Segment {
        &self.internet
    }

    /// Adds a machine with no links yet. `name` is its host name too.
    ///
    /// # Errors
    /// When the kernel refuses a namespace or a mount, or the name is taken.
    pub fn host(&self, name: &str) -> Result<Host> {
        Host::create(name, Arc::clone(&self.shared))
    }

    /// Adds a router that stands between `uplink` and a LAN of its own.
    ///
    /// # Errors
    /// As [`Self::host`]; also when `ip` or `nft` fails.
    pub fn router(&self, name: &str, uplink: &Segment, spec: NatSpec) -> Result<Router> {
        Router::create(self.host(name)?, uplink, spec)
    }

    /// Writes the end of every log to standard error.
    pub fn show_logs(&self) {
        const LINES: usize = 60;
        let Ok(folder) = fs::read_dir(self.logs()) else { return };
        let mut paths: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "log")) {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- {} (last {LINES} of {} lines)", path.display(), lines.len());
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}
