//! `warren demo`, as a person runs it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use warren_lab::wait_until;
use warren_lab::warren::Warren;

/// A demo with a run folder of its own, so that a developer's is left alone.
struct Demo {
    child: Child,
    folder: tempfile::TempDir,
    /// Held open: a demo whose output nobody takes ends.
    output: Option<BufReader<ChildStdout>>,
}

fn command(arguments: &[&str], folder: &Path) -> Result<Command> {
    let mut command = Command::new(Warren::locate()?.program());
    command.arg("demo").args(arguments).env("XDG_RUNTIME_DIR", folder).stdin(Stdio::null());
    Ok(command)
}

impl Demo {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = command(&["--json"], folder.path())?;
        Self::follow(&mut command, folder)
    }

    fn follow(command: &mut Command, folder: tempfile::TempDir) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Self { child, folder, output })
    }

    /// Reads its lines until one shows that four pairs are direct, two relayed, and that the camera was
    /// seen.
    fn wait_complete(&mut self) -> Result<()> {
        for line in self.output.as_mut().context("piped")?.lines() {
            let view: serde_json::Value = serde_json::from_str(&line?)?;
            let paths = view["paths"].as_array().context("no paths")?;
            let of_kind = |kind: &str| paths.iter().filter(|path| path["path"] == kind).count();
            let camera = view["camera"]["answered_ms"].is_u64();
            if of_kind("direct") == 4 && of_kind("relayed") == 2 && camera {
                let relays = paths.iter().filter(|path| path["relay"] == "broker").count();
                ensure!(relays == 2, "relayed by whom? {view}");
                return Ok(());
            }
        }
        let mut complaint = String::new();
        std::io::Read::read_to_string(
            &mut self.child.stderr.take().context("piped")?,
            &mut complaint,
        )?;
        anyhow::bail!("the demo ended early: {complaint}")
    }

    fn shell(&self, arguments: &[&str]) -> Result<std::process::Output> {
        let all = [&["shell"], arguments].concat();
        Ok(command(&all, self.folder.path())?.output()?)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)?;
        let what = format!("the demo to end on {signal}");
        wait_until(&what, Duration::from_secs(10), || Ok(self.child.try_wait()?.is_some()))?;
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Programs of the demo whose command line names its hosts' folders; it sees them from outside.
fn survivors(program: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command);
        let ours = text.contains(&program.to_string_lossy().into_owned());
        let elsewhere = fs::read_link(entry.path().join("ns/pid")).ok()
            != fs::read_link("/proc/self/ns/pid").ok();
        count += usize::from(ours && elsewhere && text.contains("/run/lab/hosts/laptop/node"));
    }
    Ok(count)
}

#[test]
fn the_demo_connects_four_devices_lets_one_in_and_leaves_nothing() {
    let check = || -> Result<()> {
        // A copy of its own, so that the processes of other worlds aren't taken for this one's.
        let place = tempfile::tempdir()?;
        let program = place.path().join("warren");
        fs::copy(Warren::locate()?.program(), &program)?;
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(&program);
        command.args(["demo", "--json"]).env("XDG_RUNTIME_DIR", folder.path());
        let mut demo = Demo::follow(command.stdin(Stdio::null()), folder)?;
        demo.wait_complete()?;
        ensure!(survivors(&program)? > 0, "the demo's processes are not seen from outside");

        let pinged = demo.shell(&["laptop", "ping", "-c", "1", "-W", "5", "desktop"])?;
        ensure!(pinged.status.success(), "{pinged:?}");
        let fetch =
            "exec 3<>/dev/tcp/camera.office/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let page = demo.shell(&["phone", "bash", "-c", fetch])?;
        ensure!(String::from_utf8_lossy(&page.stdout).contains("Camera 2"), "{page:?}");
        let status = demo.shell(&["phone", "warren", "status"])?;
        let text = String::from_utf8_lossy(&status.stdout);
        ensure!(text.contains("laptop") && text.contains("connected"), "{status:?}");
        let devices = demo.shell(&["broker", "warren", "admin", "devices", "list"])?;
        ensure!(String::from_utf8_lossy(&devices.stdout).contains("phone"), "{devices:?}");
        let failing = demo.shell(&["laptop", "sh", "-c", "exit 7"])?;
        ensure!(failing.status.code() == Some(7), "the exit code is lost: {failing:?}");
        let nobody = demo.shell(&["toaster"])?;
        let complaint = String::from_utf8_lossy(&nobody.stderr).into_owned();
        ensure!(!nobody.status.success() && complaint.contains("laptop"), "{complaint}");

        let second = self::command(&["--once"], demo.folder.path())?.output()?;
        let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
        ensure!(!second.status.success() && complaint.contains("already"), "{complaint}");

        demo.end(Signal::SIGTERM)?;
        wait_until("all its processes to end", Duration::from_secs(5), || {
            Ok(survivors(&program)? == 0)
        })?;
        let left: Vec<_> = fs::read_dir(demo.folder.path())?.flatten().collect();
        ensure!(left.is_empty(), "files are left: {left:?}");
        let late = demo.shell(&["laptop"])?;
        let complaint = String::from_utf8_lossy(&late.stderr).into_owned();
        ensure!(!late.status.success() && complaint.contains("warren demo"), "{complaint}");
        Ok(())
    };
    check().unwrap();
}

#[test]
fn a_demo_killed_outright_leaves_no_process_and_the_next_one_starts() {
    let check = || -> Result<()> {
        let mut demo = Demo::start()?;
        demo.wait_complete()?;
        demo.end(Signal::SIGKILL)?;
        let again = command(&["--once"], demo.folder.path())?.output()?;
        let text = String::from_utf8_lossy(&again.stdout);
        ensure!(again.status.success(), "{again:?}");
        ensure!(text.contains("direct") && text.contains("relayed via broker"), "{text}");
        Ok(())
    };
    check().unwrap();
}

/// Debian's default for people who aren't root has no `/usr/sbin`, where `nft` is.
const ORDINARY_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";

#[test]
fn an_ordinary_user_with_debians_path_gets_the_whole_demo() {
    let check = || -> Result<()> {
        let place = tempfile::tempdir()?;
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
        let program = place.path().join("warren");
        fs::copy(Warren::locate()?.program(), &program)?;
        let mut command = if nix::unistd::geteuid().is_root() {
            // Where the device is root's alone, an ordinary machine's takes its place.
            let script = "if [ \"$(stat -c %a /dev/net/tun)\" != 666 ]; then \
                          mount -t tmpfs -o mode=755 none /dev/net && \
                          mknod -m 666 /dev/net/tun c 10 200 || exit 9; fi; \
                          exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all \
                          env PATH=\"$0\" \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, ORDINARY_PATH]).arg(&program);
            command
        } else {
            let mut command = Command::new(&program);
            command.env("PATH", ORDINARY_PATH);
            command
        };
        command.args(["demo", "--once"]).env_remove("XDG_RUNTIME_DIR");
        let folder = place.path().join("tmp");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777))?;
        let output = command.env("TMPDIR", &folder).stdin(Stdio::null()).output()?;
        let left: Vec<_> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
        ensure!(output.status.success(), "{output:?}");
        ensure!(left.is_empty(), "files are left: {left:?}");
        Ok(())
    };
    check().unwrap();
}

#[test]
fn a_demo_that_cannot_start_says_why_in_a_line_and_leaves_nothing() {
    let check = || -> Result<()> {
        let tools = tempfile::tempdir()?;
        // The first thing that the world needs of `ip` fails; the check before it passes.
        let script = "#!/bin/sh\ncase \"$*\" in *-batch*) echo no ip today >&2; exit 1;; esac\n\
                      exec /sbin/ip \"$@\"\n";
        let fake = tools.path().join("ip");
        fs::write(&fake, script)?;
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755))?;
        let folder = tempfile::tempdir()?;
        let path = format!("{}:{ORDINARY_PATH}", tools.path().display());
        let output = command(&["--once"], folder.path())?.env("PATH", path).output()?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{complaint}");
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(complaint.contains("no ip today"), "{complaint}");
        ensure!(complaint.trim().lines().count() <= 2, "too much: {complaint}");
        let left: Vec<_> = fs::read_dir(folder.path())?.flatten().collect();
        ensure!(left.is_empty(), "files are left: {left:?}");
        Ok(())
    };
    check().unwrap();
}

#[test]
fn where_user_namespaces_are_forbidden_one_line_gives_the_sudo_form() {
    let check = || -> Result<()> {
        let folder = tempfile::tempdir()?;
        // A user namespace whose one child is spent on an unprivileged user: he may make no other.
        let script = "echo 1 >/proc/sys/user/max_user_namespaces && \
                      exec unshare --user --map-user=1000 \"$0\" demo --once";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", script])
            .arg(Warren::locate()?.program())
            .env("XDG_RUNTIME_DIR", folder.path())
            .output()?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{complaint}");
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(complaint.trim_end().lines().count() == 1, "more than one line: {complaint}");
        ensure!(complaint.contains("sudo -E") && complaint.contains("demo --once"), "{complaint}");
        Ok(())
    };
    check().unwrap();
}
