//! A machine: a network, a mount and a UTS namespace.
//!
//! A thread unshares them, mounts what the machine sees of its own (`/etc` with a `resolv.conf` that can be
//! replaced by rename, `/run`, `/sys`) and hands out handles; the handles keep the namespaces
//! alive. Whatever runs on the machine is started from a thread that has entered them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Process;
use crate::world::{FOLDER, Shared};

/// A machine of a [`World`](crate::World). Clones are handles to the same machine.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    folder: PathBuf,
    namespaces: Namespaces,
    interfaces: AtomicU32,
    shared: Arc<Shared>,
}

/// Open handles: they keep the namespaces alive and let threads enter them.
#[derive(Debug)]
struct Namespaces {
    net: File,
    mnt: File,
    uts: File,
}

impl Host {
    pub(crate) fn create(name: &str, shared: Arc<Shared>) -> Result<Self> {
        let folder = Path::new(FOLDER).join("hosts").join(name);
        fs::create_dir(&folder).with_context(|| format!("the name {name} is taken"))?;
        let namespaces =
            std::thread::scope(|scope| scope.spawn(|| Namespaces::make(name, &folder)).join());
        let namespaces = match namespaces {
            Ok(made) => made.with_context(|| format!("cannot make the host {name}"))?,
            Err(_) => bail!("cannot make the host {name}: its thread panicked"),
        };
        let interfaces = AtomicU32::new(0);
        let inner = Inner { name: name.to_owned(), folder, namespaces, interfaces, shared };
        Ok(Self(Arc::new(inner)))
    }

    /// The machine's host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A folder in memory of this machine's own, seen by all machines.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The machine's `resolv.conf`, as a path that everybody sees.
    #[must_use]
    pub fn resolv_conf(&self) -> PathBuf {
        self.0.folder.join("etc/resolv.conf")
    }

    /// Paths that `nsenter --net= --mount= --uts=` takes, under `/proc/self/fd` of this process.
    #[must_use]
    pub fn namespace_fds(&self) -> [(&'static str, std::os::fd::RawFd); 3] {
        use std::os::fd::AsRawFd;
        let Namespaces { net, mnt, uts } = &self.0.namespaces;
        [("net", net.as_raw_fd()), ("mount", mnt.as_raw_fd()), ("uts", uts.as_raw_fd())]
    }

    /// Runs `work` on a thread that has entered the machine. Sockets made there stay on the machine.
    ///
    /// # Errors
    /// When the namespaces can't be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        let outcome = std::thread::scope(|scope| {
            let entered = || -> Result<R> {
                self.0.namespaces.enter().with_context(|| format!("entering {}", self.name()))?;
                Ok(work())
            };
            scope.spawn(entered).join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A program to be run on this machine.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> HostCommand {
        let label = Path::new(program.as_ref()).file_name().unwrap_or(program.as_ref());
        let label = format!("{}-{}", self.name(), label.to_string_lossy());
        HostCommand { host: self.clone(), label, command: Command::new(program) }
    }

    /// Runs a program to its end and returns its standard output.
    ///
    /// # Errors
    /// When it can't be started or ends unsuccessfully; with its standard error.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<String> {
        let (program, arguments) = argv.split_first().context("a command has a program")?;
        let mut command = self.command(program);
        command.args(arguments);
        let output = command.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {} {errors}", command.words(), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs lines of `ip` in one go.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        ip_batch(Some(self.name()), lines)
    }

    /// Loads an nftables script.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn nft(&self, script: &str) -> Result<()> {
        let loaded = self.enter(|| feed(Command::new("nft").args(["-f", "-"]), script))?;
        loaded.with_context(|| {
            // Too long for a message; whoever mends it finds it beside the other logs.
            let log = self.shared().logs.join(format!("{}-nft.log", self.name()));
            let _ = fs::write(&log, script);
            format!("the rules of {} can't be loaded (they are in {})", self.name(), log.display())
        })
    }

    /// Sets a kernel parameter of the machine's network, named as `sysctl` does.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.enter(|| write_sysctl(name, value))?
    }

    /// Mounts a fresh in-memory file system of `bytes` at `path`, for this machine alone.
    ///
    /// # Errors
    /// When the mount is refused.
    pub fn mount_tmpfs(&self, path: &Path, bytes: u64) -> Result<()> {
        let options = format!("mode=755,size={bytes}");
        self.enter(|| {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        })?
        .with_context(|| format!("cannot mount a tmpfs on {}", path.display()))
    }

    pub(crate) fn forward_packets(&self) -> Result<()> {
        self.enter(|| {
            write_sysctl("net.ipv4.ip_forward", "1")?;
            write_sysctl("net.ipv4.conf.all.rp_filter", "0")?;
            write_sysctl("net.ipv4.conf.default.rp_filter", "0")?;
            write_sysctl("net.ipv6.conf.all.forwarding", "1")
        })?
    }

    pub(crate) fn next_interface(&self) -> String {
        format!("eth{}", self.0.interfaces.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }
}

impl Namespaces {
    /// On a thread of its own, which ends afterwards; the handles remain.
    fn make(name: &str, folder: &Path) -> Result<Self> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNET).context("unshare(NEWNET)")?;
        let by_name = Path::new("/run/netns").join(name);
        File::create(&by_name)?;
        let own = Path::new("/proc/thread-self/ns");
        mount(Some(&own.join("net")), &by_name, none, MsFlags::MS_BIND, none)
            .context("cannot name the network namespace")?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).context("unshare(NEWNS)")?;
        nix::unistd::sethostname(name)?;
        own_etc(folder, name)?;
        mount(Some(&folder.join("etc")), "/etc", none, MsFlags::MS_BIND, none)
            .context("cannot mount /etc")?;
        own_run()?;
        // Shows this machine's interfaces; refused in containers that mask parts of /sys.
        let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none);
        for family in ["all", "default"] {
            // Addresses are usable at once, and only the lab hands them out.
            write_sysctl(&format!("net.ipv6.conf.{family}.accept_dad"), "0")?;
            write_sysctl(&format!("net.ipv6.conf.{family}.accept_ra"), "0")?;
        }
        let open = |kind: &str| File::open(own.join(kind)).context("cannot open a namespace");
        let made = Self { net: open("net")?, mnt: open("mnt")?, uts: open("uts")? };
        feed(Command::new("ip").args(["-batch", "-"]), "link set lo up\n")?;
        Ok(made)
    }

    fn enter(&self) -> Result<()> {
        // A mount namespace can't be joined while the working directory is shared with other threads.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.mnt, CloneFlags::CLONE_NEWNS)?;
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        setns(&self.uts, CloneFlags::CLONE_NEWUTS)?;
        Ok(())
    }
}

/// Fills `folder/etc` with links to the real `/etc`, except for what the machine owns.
/// Links rather than an overlay: they work on every kernel, and a file can be replaced by rename.
fn own_etc(folder: &Path, name: &str) -> Result<()> {
    let real = Path::new(FOLDER).join("etc");
    let etc = folder.join("etc");
    fs::create_dir(&etc)?;
    for entry in fs::read_dir("/etc")?.flatten() {
        if ["resolv.conf", "hosts", "hostname"].iter().all(|own| entry.file_name() != *own) {
            symlink(real.join(entry.file_name()), etc.join(entry.file_name()))?;
        }
    }
    fs::write(etc.join("resolv.conf"), "")?;
    fs::write(etc.join("hostname"), format!("{name}\n"))?;
    let hosts = format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n");
    fs::write(etc.join("hosts"), hosts)?;
    Ok(())
}

/// Gives the machine a `/run` of its own that still shows the world's folder.
fn own_run() -> Result<()> {
    let none = None::<&str>;
    let world = File::open(FOLDER)?;
    let seen = {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/thread-self/fd/{}", world.as_raw_fd()))
    };
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    fs::create_dir(FOLDER)?;
    mount(Some(&seen), FOLDER, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .context("cannot keep the world's folder in sight")
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::write(&path, value).with_context(|| format!("cannot set {name} to {value}"))
}

/// Runs lines of `ip`, in the network namespace named `host` or in the world's own.
pub(crate) fn ip_batch<S: AsRef<str>>(host: Option<&str>, lines: &[S]) -> Result<()> {
    let script: String = lines.iter().flat_map(|line| [line.as_ref(), "\n"]).collect();
    let mut command = Command::new("ip");
    if let Some(host) = host {
        command.args(["-n", host]);
    }
    feed(command.args(["-batch", "-"]), &script)
        .with_context(|| format!("the network of {} can't be set up", host.unwrap_or("the world")))
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let program = piped.get_program().to_string_lossy().into_owned();
    let mut child = piped.spawn().with_context(|| format!("can't start `{program}`"))?;
    let taken = child.stdin.take().context("standard input is piped")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program}`: {} {}", output.status, faulty(&errors, input));
    taken.with_context(|| format!("`{program}` takes no input"))
}

/// What a program complained of in its input, with the line that `ip -batch` only counts.
fn faulty(errors: &str, input: &str) -> String {
    let number = errors
        .rsplit("Command failed -:")
        .next()
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok());
    let line = number.and_then(|number| input.lines().nth(number.checked_sub(1)?));
    match line {
        Some(line) => format!("{} ({line})", errors.trim()),
        None => errors.trim().to_owned(),
    }
}

/// A program to be run on a host.
#[derive(Debug)]
pub struct HostCommand {
    host: Host,
    label: String,
    command: Command,
}

impl HostCommand {
    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Names the log of the process; default: host and program.
    pub fn label(&mut self, label: &str) -> &mut Self {
        label.clone_into(&mut self.label);
        self
    }

    /// The command line, for messages.
    #[must_use]
    pub fn words(&self) -> String {
        let program = self.command.get_program();
        let words: Vec<_> = std::iter::once(program)
            .chain(self.command.get_args())
            .map(OsStr::to_string_lossy)
            .collect();
        format!("{}: {}", self.host.name(), words.join(" "))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn output(&mut self) -> Result<Output> {
        let words = self.words();
        let Self { host, command, .. } = self;
        command.stdin(Stdio::null());
        host.enter(|| command.output())?.with_context(|| format!("cannot run {words}"))
    }

    /// Runs it to its end with `input` on its standard input.
    ///
    /// # Errors
    /// When it can't be started, or doesn't take the input.
    pub fn output_with(&mut self, input: &str) -> Result<Output> {
        let words = self.words();
        let Self { host, command, .. } = self;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = || -> Result<Output> {
            let mut child = command.spawn()?;
            child.stdin.take().context("standard input is piped")?.write_all(input.as_bytes())?;
            Ok(child.wait_with_output()?)
        };
        host.enter(run)?.with_context(|| format!("cannot run {words}"))
    }

    /// Starts it; its output goes to `<label>.log` (appended) in the world's log folder.
    ///
    /// # Errors
    /// When it can't be started or the log can't be written.
    pub fn spawn(&mut self) -> Result<Process> {
        let words = self.words();
        let Self { host, command, label } = self;
        let path = host.shared().logs.join(format!("{label}.log"));
        let mut log = File::options().create(true).append(true).open(&path)?;
        writeln!(log, "$ {words}")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = host.enter(|| command.spawn())?;
        let child = child.with_context(|| format!("cannot start {words}"))?;
        Ok(Process::new(label.clone(), child, path))
    }
}
