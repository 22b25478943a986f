//! Entering the namespaces that a world lives in.
//!
//! A process that has threads can't enter a user namespace, and a test always has threads. So the
//! program runs itself once more through `setpriv` and `unshare` (util-linux): in user, network, mount,
//! UTS, IPC and pid namespaces of its own. Being the first process of its pid namespace it takes
//! every descendant along when it ends; `--pdeathsig` and `--kill-child` end it when its parent goes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::World;

const INSIDE: &str = "WARREN_LAB_INSIDE";
const LOGS: &str = "WARREN_LAB_LOGS";
const DONE: &str = "WARREN_LAB_DONE";

/// Whether this process already is the one inside the namespaces.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Where the world's processes write their logs, as the process outside chose it.
pub(crate) fn log_directory() -> PathBuf {
    std::env::var_os(LOGS).map_or_else(|| std::env::temp_dir().join("warren-lab"), PathBuf::from)
}

/// A command that runs this very program again, with `arguments`, inside fresh namespaces.
/// `logs` is created and handed on as the place for the logs of all processes.
///
/// # Errors
/// In one line, and with what to do: a tool is missing, or the system forbids user namespaces.
pub fn reenter(arguments: &[OsString], logs: &Path) -> Result<Command> {
    for (tool, package) in [
        ("setpriv", "util-linux"),
        ("unshare", "util-linux"),
        ("ip", "iproute2"),
        ("nft", "nftables"),
    ] {
        ensure!(
            tool_folders().iter().any(|folder| folder.join(tool).is_file()),
            "`{tool}` is missing: install the package {package} (`sudo apt-get install {package}`)"
        );
    }
    let with_user = choose()?;
    std::fs::create_dir_all(logs)
        .with_context(|| format!("cannot create the log folder {}", logs.display()))?;
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let mut command = namespaced(program.as_os_str(), with_user);
    command.args(arguments).env(INSIDE, "1").env(LOGS, logs);
    Ok(command)
}

fn namespaced(program: &std::ffi::OsStr, with_user: bool) -> Command {
    let mut command = Command::new("setpriv");
    command.env("PATH", search_path());
    command.args(["--pdeathsig", "KILL", "--", "unshare"]);
    if with_user {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]);
    command.args(["--propagation", "private", "--"]).arg(program);
    command
}

/// Whether to make a user namespace too. Root does without where only that is refused.
fn choose() -> Result<bool> {
    let Err(refusal) = probe(true) else { return Ok(true) };
    if nix::unistd::geteuid().is_root() {
        return match probe(false) {
            Ok(()) => Ok(false),
            Err(as_root) => bail!("namespaces cannot be made here, not even by root: {as_root}"),
        };
    }
    bail!("{}", explain(&refusal))
}

fn probe(with_user: bool) -> std::result::Result<(), String> {
    let output = namespaced("ip".as_ref(), with_user)
        .args(["link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().next().unwrap_or("no reason given").to_owned())
}

fn explain(refusal: &str) -> String {
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let setting = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cause = if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "AppArmor forbids unprivileged user namespaces, as on Ubuntu since 24.04".to_owned()
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "kernel.unprivileged_userns_clone is 0".to_owned()
    } else if setting("/proc/sys/user/max_user_namespaces") == "0" {
        "user.max_user_namespaces is 0".to_owned()
    } else {
        refusal.to_owned()
    };
    format!("this needs namespaces and may not make them ({cause}): run `sudo -E {command}`")
}

/// Where programs are looked for: `PATH`, and what an ordinary user's lacks on Debian, where `nft` is
/// in `/usr/sbin`.
fn tool_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for more in ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from) {
        if !folders.contains(&more) {
            folders.push(more);
        }
    }
    folders
}

/// [`tool_folders`] as the `PATH` of whatever is started.
pub(crate) fn search_path() -> OsString {
    // A folder with a colon in its name can't have come from `PATH`.
    std::env::join_paths(tool_folders()).unwrap_or_default()
}

/// Runs the body of a `#[test]` inside a fresh [`World`].
///
/// Outside, it runs the same test again in namespaces and judges the outcome; inside, it runs `test`.
/// The test's name is the name of its thread, as libtest sets it.
///
/// # Panics
/// When the test fails, when the namespaces can't be made, or when the run inside didn't reach its end.
pub fn isolated(test: impl FnOnce(&World) -> Result<()>) {
    let name = test_name();
    if is_inside() {
        run_inside(&name, test);
    } else if let Err(error) = run_outside(&name) {
        panic!("{error:#}");
    }
}

fn run_inside(name: &str, test: impl FnOnce(&World) -> Result<()>) {
    let world = World::enter(name).unwrap_or_else(|error| panic!("the world: {error:#}"));
    if let Err(error) = test(&world) {
        world.show_logs();
        panic!("{name}: {error:#}");
    }
    let done = std::env::var_os(DONE).expect("the process outside names the file");
    std::fs::write(done, name).unwrap_or_else(|error| panic!("cannot report success: {error}"));
}

fn run_outside(name: &str) -> Result<()> {
    let logs = test_logs(name)?;
    let _ = std::fs::remove_dir_all(&logs);
    let arguments = ["--exact", name, "--nocapture", "--include-ignored"].map(OsString::from);
    let mut command = reenter(&arguments, &logs)?;
    let done = logs.join("done");
    let status = command
        .env(DONE, &done)
        .stdin(Stdio::null())
        .status()
        .context("cannot start the run inside the namespaces")?;
    ensure!(
        status.success(),
        "{name} failed inside its namespaces ({status}); what it said is above, the logs are in {}",
        logs.display()
    );
    // libtest is content with zero tests run; a name that matched nothing must not pass.
    let finished = std::fs::read_to_string(&done).unwrap_or_default();
    ensure!(finished == name, "{name} did not run to its end inside the namespaces");
    let _ = std::fs::remove_file(&done);
    Ok(())
}

/// In the target folder, beside the test program: two clones never share it.
fn test_logs(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("this program's own path is unknown")?;
    let target = test.ancestors().nth(3).context("a test lies in <target>/<profile>/deps")?;
    Ok(target.join("tmp/lab").join(name.replace("::", ".")))
}

fn test_name() -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => panic!("the lab learns a test's name from its thread: run without --test-threads=1"),
    }
}
