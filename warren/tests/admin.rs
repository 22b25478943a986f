//! `warren serve` and `warren admin`, the real binary.

#![cfg(feature = "broker")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for a process"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// A broker of its own on free ports, killed when dropped.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Broker {
    fn start(data: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(WARREN);
        command.args(["serve", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--data"]);
        Self::spawn(command.arg(data).args(more))
    }

    /// Waits until it has printed its last line, the one that says how to get more links.
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let up = output.lines().map_while(Result::ok).any(|line| line.starts_with("More links:"));
        assert!(up, "the broker ended: {:?}", child.wait());
        Self(child)
    }
}

fn admin(data: &Path, args: &[&str]) -> Output {
    Command::new(WARREN).args(["admin", "--data"]).arg(data).args(args).output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn accounts(data: &Path) -> String {
    done(&admin(data, &["accounts", "list"]))
}

#[test]
fn restoring_into_a_running_broker_is_asked_about_first() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let backup = folder.path().join("backup.tar");
    let file = backup.to_str().unwrap();
    let broker = Broker::start(&data, &[]);
    done(&admin(&data, &["accounts", "create", "before"]));
    done(&admin(&data, &["backup", file]));
    done(&admin(&data, &["accounts", "create", "after"]));

    let why = complaint(&admin(&data, &["restore", file]));
    assert!(why.contains("Replace all 3 accounts") && why.contains("--yes"), "{why}");
    assert!(accounts(&data).contains("after"), "nothing was changed");

    for (answer, restored) in [("n\n", false), ("y\n", true)] {
        let command = format!("'{WARREN}' admin --data '{}' restore '{file}'", data.display());
        let mut terminal = Command::new("script")
            .args(["--quiet", "--return", "--echo", "never", "--command", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script comes with bsdutils, which Debian always has");
        terminal.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = terminal.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("[y/N]"), "{output:?}");
        assert_eq!(output.status.success(), restored, "{output:?}");
        assert_eq!(accounts(&data).contains("after"), !restored);
        assert!(accounts(&data).contains("before"));
    }

    done(&admin(&data, &["accounts", "create", "later"]));
    let text = done(&admin(&data, &["restore", "--yes", file]));
    assert!(text.contains("running broker"), "{text}");
    assert!(!accounts(&data).contains("later"));

    fs::write(&backup, "no tar file").unwrap();
    complaint(&admin(&data, &["restore", "--yes", file]));
    assert!(accounts(&data).contains("before"), "a bad backup changes nothing");
    drop(broker);
}

#[test]
fn restoring_without_a_broker_makes_a_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let backup = folder.path().join("backup.tar");
    let file = backup.to_str().unwrap();
    let broker = Broker::start(&data, &[]);
    done(&admin(&data, &["accounts", "create", "before"]));
    done(&admin(&data, &["backup", file]));
    drop(broker);

    let why = complaint(&admin(&data, &["restore", "--yes", file]));
    assert!(why.contains("isn't empty"), "{why}");
    let elsewhere = folder.path().join("elsewhere");
    let text = done(&admin(&elsewhere, &["restore", file]));
    assert!(text.contains("Next: warren serve"), "{text}");
    let _broker = Broker::start(&elsewhere, &[]);
    assert!(accounts(&elsewhere).contains("before"));
}

/// As under the service: data that the broker alone may enter, and the socket in a folder of its
/// own. Only root can be somebody else for a moment, so anybody else just looks at the modes.
#[test]
fn the_group_reaches_the_socket_though_not_the_data() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (data, run) = (folder.path().join("data"), folder.path().join("run"));
    fs::create_dir(&run).unwrap();
    let socket = run.join("admin.sock");
    let socket_text = socket.to_str().unwrap();
    let is_root = fs::metadata("/proc/self").is_ok_and(|it| {
        use std::os::unix::fs::MetadataExt as _;
        it.uid() == 0
    });
    if !is_root {
        let _broker = Broker::start(&data, &["--admin-socket", socket_text]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&data), 0o700);
        assert!([0o600, 0o660].contains(&mode(&socket)));
        return;
    }
    let binary = folder.path().join("warren");
    fs::copy(WARREN, &binary).unwrap();
    let group = folder.path().join("group");
    fs::write(&group, "root:x:0:\nwarren:x:4711:\n").unwrap();
    let here = |script: &str| {
        let mut command = Command::new("unshare");
        let script = format!("mount --bind {} /etc/group && {script}", group.display());
        command.args(["--mount", "sh", "-c", &script]).env("WARREN", &binary).env("DATA", &data);
        command.env("SOCKET", &socket);
        command
    };
    let serve = "exec \"$WARREN\" serve --listen 127.0.0.1:0 --stun 127.0.0.1:0 --data \"$DATA\" \
                 --admin-socket \"$SOCKET\"";
    let _broker = Broker::spawn(&mut here(serve));
    let ask = |uid: u32, gid: u32, flag: &str| {
        let script = format!(
            "exec setpriv --reuid {uid} --regid {gid} --clear-groups \"$WARREN\" admin {flag} status"
        );
        here(&script).output().unwrap()
    };
    let member = ask(4712, 4711, "--admin-socket \"$SOCKET\"");
    assert!(done(&member).contains("accounts"), "{member:?}");
    let stranger = complaint(&ask(4713, 4713, "--admin-socket \"$SOCKET\""));
    assert!(stranger.contains("group `warren`"), "{stranger}");
    complaint(&ask(4712, 4711, "--data \"$DATA\""));
}
