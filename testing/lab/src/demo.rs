//! `warren demo`: a whole warren on this machine, without root.
//!
//! The program re-enters itself in namespaces of its own (see [`crate::isolate`]), builds three homes
//! and an office around a public broker, starts the real program on every machine, and shows how the devices find
//! each other, and how one of them looks at a camera of the office's LAN. A second terminal gets in by [`shell`], which learns from a small file in the user's
//! run folder which process holds the namespaces.

mod camera;
mod run_folder;
mod stage;
mod view;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::{World, isolate};
use run_folder::{Control, Machine, Note, RunFolder};
use stage::Stage;
use view::{Form, Screen};

/// How `warren demo` is to behave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// One JSON object a line instead of text.
    pub json: bool,
    /// End, successfully, as soon as every pair of devices has the best path that there is for it, and
    /// the camera has shown its page.
    pub once: bool,
}

/// How long `--once` waits for the last pair.
const ONCE: Duration = Duration::from_secs(60);
/// How often the screen is drawn anew, in milliseconds.
const FRAME_MS: u8 = 250;

/// Runs the demo until Ctrl-C (or as [`Options::once`] says). Call it before any thread is started:
/// it blocks the signals that end it in the whole process.
///
/// # Errors
/// In one line, and with what to do: the system forbids namespaces, a tool or `/dev/net/tun` is missing, a
/// demo runs already, or a daemon doesn't come up.
pub fn run(options: Options) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot hold signals back")?;
    if isolate::is_inside() {
        return inside(options, &signals);
    }
    outside(&signals)
}

/// Makes the namespaces, and passes on a wish to end that reaches only this process.
fn outside(signals: &SigSet) -> Result<()> {
    check_tun()?;
    let folder = RunFolder::claim()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut command = isolate::reenter(&arguments, &folder.logs())?;
    folder.tell(&mut command);
    let mut child = command.spawn().context("cannot start the demo in its namespaces")?;
    let wishes = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK)?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        wait_readable(&wishes)?;
        if wishes.read_signal()?.is_some() {
            // The terminal's Ctrl-C has reached the child too; asking twice does no harm.
            folder.ask_to_end();
        }
    };
    if !status.success() {
        // Before the folder with the logs goes, which says why.
        match folder.keep_logs() {
            Some(kept) => bail!("the demo ended early; its logs are in {}", kept.display()),
            None => bail!("the demo ended early"),
        }
    }
    Ok(())
}

fn wait_readable(fd: &impl AsFd) -> Result<()> {
    match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], FRAME_MS) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("cannot wait"),
    }
}

fn inside(options: Options, signals: &SigSet) -> Result<()> {
    // Before the world mounts a /proc of its own, this one tells how others see this process.
    let pid = fs::read_link("/proc/self").context("/proc is not mounted")?;
    let folder = RunFolder::told()?;
    let wishes = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK)?;
    let control = Control::listen(&folder)?;
    let form = match (options.json, std::io::stdout().is_terminal()) {
        (true, _) => Form::Json,
        (false, true) => Form::Table,
        (false, false) => Form::Lines,
    };
    let mut screen = Screen::new(form);
    let world = World::enter("demo")?;
    let stage = Stage::build(&world, &std::env::current_exe()?)?;
    folder.write(&note(&pid, &stage)?)?;
    let scene = stage.play();
    let begun = Instant::now();
    loop {
        let view = scene.view();
        match screen.draw(&view) {
            Ok(()) => {}
            // As in `warren demo | head`: nobody looks on.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).context("cannot show the demo"),
        }
        if let Some(trouble) = &view.trouble {
            screen.end();
            bail!("{trouble}");
        }
        let complete = view.is_complete();
        if wishes.read_signal()?.is_some() || control.end_wished() || (options.once && complete) {
            break;
        }
        ensure!(
            !options.once || begun.elapsed() < ONCE,
            "not every pair found its path, or the camera was not reached, within {ONCE:?}"
        );
        wait_readable(&wishes)?;
    }
    // The threads that look on may wait for a ping; the namespaces end with this process anyway.
    screen.end();
    Ok(())
}

fn check_tun() -> Result<()> {
    let opened = fs::File::options().read(true).write(true).open("/dev/net/tun");
    match opened {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let command = std::env::args().collect::<Vec<_>>().join(" ");
            bail!("/dev/net/tun is closed to you on this system: run `sudo -E {command}`")
        }
        Err(error) => {
            bail!("/dev/net/tun cannot be opened ({error}): `sudo modprobe tun` may help")
        }
    }
}

fn note(pid: &Path, stage: &Stage) -> Result<Note> {
    let pid = pid.to_string_lossy().parse().context("/proc/self is not a number")?;
    let mut machines = BTreeMap::new();
    for (host, environment) in stage.machines() {
        let namespaces =
            host.namespace_fds().map(|(kind, fd)| (kind.to_owned(), fd)).into_iter().collect();
        machines.insert(host.name().to_owned(), Machine { namespaces, environment });
    }
    Ok(Note { pid, machines })
}

/// Enters a machine of the running demo, from another terminal: runs `command` there, or a shell.
/// On success it doesn't return: this process becomes that command.
///
/// # Errors
/// When no demo runs, it has no such machine, or `nsenter` (util-linux) can't be run.
pub fn shell(host: &str, command: &[String]) -> Result<()> {
    let note = RunFolder::find()?;
    let Some(machine) = note.machines.get(host) else {
        let names: Vec<&str> = note.machines.keys().map(String::as_str).collect();
        bail!("the demo has no machine '{host}'; it has {}", names.join(", "));
    };
    let holder = PathBuf::from(format!("/proc/{}", note.pid));
    let mut enter = Command::new("nsenter");
    let namespace = |of: &str| fs::read_link(format!("{of}/ns/user")).ok();
    if namespace("/proc/self") != namespace(&holder.to_string_lossy()) {
        enter.arg(format!("--user={}", holder.join("ns/user").display()));
        enter.arg("--preserve-credentials");
    }
    for (kind, fd) in &machine.namespaces {
        enter.arg(format!("--{kind}={}", holder.join("fd").join(fd.to_string()).display()));
    }
    enter.arg(format!("--pid={}", holder.join("ns/pid").display())).arg("--");
    if command.is_empty() {
        enter.arg(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    } else {
        enter.args(command);
    }
    enter.env("PATH", path_with_own_folder()?).envs(&machine.environment);
    enter.env("debian_chroot", host);
    let error = enter.exec();
    bail!("`nsenter` cannot be run ({error}): install the package util-linux")
}

/// So that `warren` in the shell is the program that the demo runs.
fn path_with_own_folder() -> Result<OsString> {
    let program = std::env::current_exe()?;
    let own = program.parent().map(Path::to_path_buf);
    let rest = isolate::search_path();
    let folders = own.into_iter().chain(std::env::split_paths(&rest));
    std::env::join_paths(folders).context("PATH cannot be extended")
}

/// What to type to run this very program: `warren` where the shell finds it so, otherwise its path,
/// from here where that is shorter.
pub(crate) fn own_name() -> String {
    let Ok(program) = std::env::current_exe() else { return "warren".to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("warren"))
        .find(|file| file.is_file())
        .and_then(|file| file.canonicalize().ok());
    if found.is_some() && found == program.canonicalize().ok() {
        return "warren".to_owned();
    }
    let here = std::env::current_dir().ok();
    let relative = here.as_deref().and_then(|here| program.strip_prefix(here).ok());
    match relative {
        Some(relative) => Path::new(".").join(relative).display().to_string(),
        None => program.display().to_string(),
    }
}
