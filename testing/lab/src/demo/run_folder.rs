//! The user's folder for a running demo: a note on how to get in, a socket that ends it, the logs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::own_name;

const TOLD: &str = "WARREN_DEMO_FOLDER";

/// Which process holds the namespaces, and by which of its file descriptors.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Note {
    /// As seen from outside.
    pub(super) pid: u32,
    pub(super) machines: BTreeMap<String, Machine>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Machine {
    /// By `nsenter`'s name of the kind.
    pub(super) namespaces: BTreeMap<String, RawFd>,
    /// So that `warren` there finds its daemon without a flag.
    pub(super) environment: BTreeMap<String, String>,
}

/// Held by the process outside for as long as the demo runs, and then removed.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    /// The process outside; the one inside only knows the path.
    lock: Option<Flock<File>>,
}

impl RunFolder {
    /// Makes the folder this user's alone and locks it; what a killed demo left is removed.
    pub(super) fn claim() -> Result<Self> {
        let path = own_path();
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
        check_owner(&path)?;
        let file = File::create(path.join("lock"))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "a demo is running already: look into it with `{} demo shell laptop`",
                own_name()
            );
        };
        for stale in ["note.json", "control.sock"] {
            let _ = fs::remove_file(path.join(stale));
        }
        let folder = Self { path, lock: Some(lock) };
        let _ = fs::remove_dir_all(folder.logs());
        Ok(folder)
    }

    /// The folder that the process outside has claimed.
    pub(super) fn told() -> Result<Self> {
        let path = std::env::var_os(TOLD).context("no demo was started outside")?;
        Ok(Self { path: path.into(), lock: None })
    }

    pub(super) fn tell(&self, command: &mut Command) {
        command.env(TOLD, &self.path);
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub(super) fn write(&self, note: &Note) -> Result<()> {
        let draft = self.path.join("note.json.new");
        fs::write(&draft, serde_json::to_vec(note)?)?;
        fs::rename(draft, self.path.join("note.json"))
            .context("cannot leave a note for `demo shell`")
    }

    /// The note of the demo that runs now.
    pub(super) fn find() -> Result<Note> {
        let path = own_path();
        let running = check_owner(&path).is_ok()
            && File::open(path.join("lock"))
                .is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err());
        if !running {
            let name = own_name();
            // Root's folder is elsewhere, and nobody else may look into it.
            ensure!(
                nix::unistd::getuid().is_root() || !root_has_one(),
                "no demo of yours is running; root's is entered by `sudo {name} demo shell HOST`"
            );
            bail!("no demo is running: start one with `{name} demo` in another terminal");
        }
        let text = fs::read(path.join("note.json"))
            .context("the demo is still starting: try again in a moment")?;
        serde_json::from_slice(&text).context("the demo's note cannot be read")
    }

    pub(super) fn ask_to_end(&self) {
        // While the demo is still building its world nobody listens; the next wish will find it.
        if let Ok(mut stream) = UnixStream::connect(self.path.join("control.sock")) {
            let _ = stream.write_all(b"end\n");
        }
    }

    /// Moves the logs, if there are any, out of the folder, which is about to be removed.
    pub(super) fn keep_logs(&self) -> Option<PathBuf> {
        let mut logs = fs::read_dir(self.logs()).ok()?.flatten();
        if !logs.any(|log| log.metadata().is_ok_and(|found| found.len() > 0)) {
            return None;
        }
        let kept = self.path.with_extension("logs");
        let _ = fs::remove_dir_all(&kept);
        fs::rename(self.logs(), &kept).ok()?;
        Some(kept)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Hears the wish to end.
#[derive(Debug)]
pub(super) struct Control(UnixListener);

impl Control {
    pub(super) fn listen(folder: &RunFolder) -> Result<Self> {
        let listener = UnixListener::bind(folder.path.join("control.sock"))
            .context("cannot make the demo's control socket")?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    pub(super) fn end_wished(&self) -> bool {
        let Ok((mut stream, _)) = self.0.accept() else { return false };
        let mut word = [0; 4];
        stream.set_nonblocking(false).is_ok()
            && stream.read_exact(&mut word).is_ok()
            && word == *b"end\n"
    }
}

fn own_path() -> PathBuf {
    let uid = nix::unistd::getuid();
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir()) {
        // Under sudo -E the variable is another user's.
        Some(folder) if fs::metadata(&folder).is_ok_and(|it| it.uid() == uid.as_raw()) => {
            folder.join("warren-demo")
        }
        Some(_) | None => std::env::temp_dir().join(format!("warren-demo-{uid}")),
    }
}

/// Whether a demo runs that was started by `sudo`.
fn root_has_one() -> bool {
    ["/run/user/0/warren-demo", "/tmp/warren-demo-0"].iter().any(|path| Path::new(path).exists())
}

/// In a folder that everybody may write to, the name may have been taken by somebody else.
fn check_owner(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path).with_context(|| format!("no {}", path.display()))?;
    let own = found.is_dir() && found.uid() == nix::unistd::getuid().as_raw();
    ensure!(own, "{} belongs to somebody else: remove it first", path.display());
    Ok(())
}
