//! `warren serve` and `warren admin`, the real binary.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

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
        greeting(&mut child);
        Self(child)
    }
}

/// What a broker prints until it is up.
fn greeting(child: &mut Child) -> String {
    let mut text = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        text.push_str(&format!("{line}\n"));
        if line.contains("join-keys create") {
            return text;
        }
    }
    panic!("the broker ended: {:?}: {text}", child.wait());
}

#[test]
fn a_link_is_printed_for_who_reads_along_and_not_into_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let serve = format!("exec '{WARREN}' serve --listen 127.0.0.1:0 --stun 127.0.0.1:0 --data");
    let data = folder.path().join("data");
    let command = format!("{serve} '{}'", data.display());
    let piped = Command::new("sh")
        .args(["-c", &command])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut broker = Broker(piped.unwrap());
    let text = greeting(&mut broker.0);
    assert!(text.contains("No device has joined yet") && !text.contains('#'), "{text}");
    assert!(!done(&admin(&data, &["join-keys", "list"])).contains("unused"), "none was made");
    drop(broker);

    let seen = Command::new("script")
        .args(["--quiet", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut broker = Broker(seen.expect("script comes with bsdutils, which Debian always has"));
    let text = greeting(&mut broker.0);
    assert!(text.contains("/join#"), "{text}");
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
    complaint_with(1, output)
}

/// As a command ends that was wrongly put.
fn bad_usage(output: &Output) -> String {
    complaint_with(2, output)
}

fn complaint_with(code: i32, output: &Output) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
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

    let why = bad_usage(&admin(&data, &["restore", file]));
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

#[test]
fn what_a_broker_logs_is_changed_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = Command::new(WARREN);
    command.args(["serve", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--data"]);
    command.arg(&data).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut broker = Broker(command.spawn().unwrap());
    greeting(&mut broker.0);

    let wrong = bad_usage(&admin(&data, &["log", "warren_broker=loud"]));
    assert!(wrong.contains("debug"), "{wrong}");
    let said = done(&admin(&data, &["log", "error,warren_broker=debug"]));
    assert_eq!(said.trim(), "Logging error,warren_broker=debug until the broker restarts.");
    // Who hangs up in the midst of a handshake is worth a debug line, and no more.
    let listen = done(&admin(&data, &["status", "--json"]));
    let status: serde_json::Value = serde_json::from_str(&listen).unwrap();
    drop(std::net::TcpStream::connect(status["listen"].as_str().unwrap()).unwrap());
    let stderr = BufReader::new(broker.0.stderr.take().unwrap());
    let is_it = |line: &String| line.contains("DEBUG") && line.contains("handshake");
    assert!(stderr.lines().map_while(Result::ok).any(|line| is_it(&line)));
}

#[test]
fn errors_name_their_cause_once_and_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("b1");
    fs::write(&file, "").unwrap();
    let _broker = Broker::start(&data, &[]);
    let there = complaint(&admin(&data, &["backup", file.to_str().unwrap()]));
    assert!(there.contains("File exists"), "{there}");
    let nowhere = complaint(&admin(&folder.path().join("nowhere"), &["status"]));
    assert!(nowhere.contains("warren serve"), "{nowhere}");
    let account = complaint(&admin(&data, &["devices", "list", "--account", "nope"]));
    assert!(account.contains("accounts list"), "{account}");
    let device = complaint(&admin(&data, &["devices", "show", "nope"]));
    assert!(device.contains("devices list"), "{device}");
    let pin = complaint(&admin(&data, &["pins", "activate"]));
    assert!(pin.contains("pins prepare"), "{pin}");
    for text in [there, nowhere, account, device, pin] {
        let segments: Vec<&str> = text.trim().split(": ").collect();
        for (number, segment) in segments.iter().enumerate() {
            assert!(!segments[..number].contains(segment), "said twice: {text}");
        }
    }
}

#[test]
fn what_is_wrongly_put_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _broker = Broker::start(&data, &[]);
    for args in [
        &["accounts", "remove", "home"] as &[&str],
        &["accounts", "create", "💥"],
        &["join-keys", "create", "--expires", "7y"],
        &["join-keys", "remove", "nonsense"],
        &["devices", "set", "laptop"],
        &["devices", "set", "laptop", "--static-endpoint", "foo"],
    ] {
        bad_usage(&admin(&data, args));
    }
    let data = data.to_str().unwrap();
    for args in [
        &["serve", "--data", data, "--suffix", "Foo."] as &[&str],
        &["serve", "--data", data, "--tls", "off"],
        &["serve", "--data", data, "--tls", "acme"],
        &["serve", "--data", data, "--stun", "127.0.0.1:65535"],
        &["serve", "--data", data, "--log", "very=much=of=it"],
        &["serve", "--data", data, "--trusted-proxy", "localhost"],
        &["serve", "--state", data],
        &["up", "--join", "https://nowhere"],
        &["lport", "abc"],
        &["node", "--listen-port", "0"],
    ] {
        let output = Command::new(WARREN).args(args).output().unwrap();
        let why = bad_usage(&output);
        assert!(!why.contains("nowhere"), "a join link is a secret: {why}");
    }
    let output = Command::new(WARREN)
        .args(["admin", "--data", data, "join-keys", "create"])
        .env("WARREN_EXPIRES", "nonsense")
        .output()
        .unwrap();
    assert!(bad_usage(&output).contains("nonsense"));
}

#[test]
fn asking_makes_no_folder_and_a_reader_that_leaves_hurts_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(WARREN)
        .args(["admin", "status"])
        .env("XDG_DATA_HOME", folder.path())
        .env("HOME", folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    for args in ["completions bash", "help", "status --help"] {
        let script = format!("'{WARREN}' {args} | head -c 1");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    }
}

#[test]
fn keys_are_shown_and_a_backup_tells_programs_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _broker = Broker::start(&data, &[]);
    let made = done(&admin(&data, &["join-keys", "create", "--json"]));
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let shown = done(&admin(&data, &["join-keys", "show", made["key_id"].as_str().unwrap()]));
    assert!(shown.contains("usable") && shown.contains("once"), "{shown}");
    let file = folder.path().join("backup");
    let told = done(&admin(&data, &["backup", file.to_str().unwrap(), "--json"]));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["bytes"], fs::metadata(&file).unwrap().len());
    assert_eq!(told["file"], file.to_str().unwrap());
}

#[test]
fn a_broker_that_can_name_no_stun_server_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _broker = Broker::start(&data, &[]);
    let status = done(&admin(&data, &["status"]));
    let line: String = status.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(line.contains("! Devices are told of no STUN server"), "{status}");
    assert!(line.contains("--stun-public ADDR:"), "{status}");
}

#[test]
fn relays_are_made_named_shown_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _broker = Broker::start(&data, &["--no-relay"]);
    let relays = |args: &[&str]| admin(&data, &[&["relays"], args].concat());
    let text = done(&relays(&["list"]));
    assert!(text.contains("admin relays set NAME"), "{text}");

    let created = relays(&["create", "frankfurt"]);
    let token = done(&created);
    assert!(token.trim().len() >= 32 && token.lines().count() == 1, "the token alone: {token}");
    let hint = String::from_utf8_lossy(&created.stderr).into_owned();
    assert!(hint.contains("warren relay --broker https://") && hint.contains("--pin"), "{hint}");
    let why = complaint(&relays(&["create", "frankfurt"]));
    assert!(why.contains("taken"), "{why}");
    done(&relays(&["create", "everybodys", "--operator"]));

    let secret = folder.path().join("secret");
    fs::write(&secret, "s3cret\n").unwrap();
    let secret = secret.to_str().unwrap();
    done(&relays(&["add-turn", "turn:192.0.2.9", "--name", "other", "--secret-file", secret]));
    let args = ["add-turn", "turns:turn.example.org", "--username", "me", "--password", "pw"];
    done(&relays(&args));
    let why = complaint(&relays(&["add-turn", "https://192.0.2.9", "--secret-file", secret]));
    assert!(why.contains("turns:turn.example.org:443"), "{why}");
    for usage in [&["add-turn", "turn:192.0.2.9"][..], &["set"], &["set", "a", "--default"]] {
        assert_eq!(relays(usage).status.code(), Some(2), "{usage:?}");
    }

    let text = done(&relays(&["set", "other", "frankfurt=turn-example-org"]));
    let order: Vec<&str> =
        text.lines().skip(1).take(3).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(order, ["1", "2", "2"], "{text}");
    assert!(text.contains("! frankfurt: it hasn't reported"), "{text}");
    assert!(text.contains("no answer to the broker from 192.0.2.9:3478"), "{text}");
    let why = complaint(&relays(&["set", "nobody"]));
    assert!(why.contains("no device or relay 'nobody'"), "{why}");

    let shown = Command::new(WARREN)
        .args(["--json", "admin", "--data"])
        .arg(&data)
        .args(["relays", "show", "other"])
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_str(&done(&shown)).unwrap();
    assert_eq!((shown["rank"].as_u64(), shown["url"].as_str()), (Some(0), Some("turn:192.0.2.9")));
    assert!(!shown.to_string().contains("s3cret"), "{shown}");

    let why = complaint(&relays(&["rotate", "other"]));
    assert!(why.contains("add it again"), "{why}");
    done(&relays(&["rotate", "frankfurt"]));
    let why = bad_usage(&relays(&["remove", "frankfurt"]));
    assert!(why.contains("token is void") && why.contains("--yes"), "{why}");
    done(&relays(&["remove", "--yes", "frankfurt"]));
    done(&relays(&["set", "--default"]));
    let text = done(&relays(&["list", "--operator"]));
    assert!(text.contains("everybodys") && !text.contains("frankfurt"), "{text}");
}
