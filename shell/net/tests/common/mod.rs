//! Network namespaces of a test's own, without root: the test runs itself again under `unshare`.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its share of this")]

pub mod pump;
#[cfg(test)]
pub mod tools;

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

const INSIDE: &str = "WARREN_NET_TEST_INSIDE";

/// Runs `body` in user, network and mount namespaces of its own; `name` is the calling test's.
pub fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        run("mount --make-rprivate /");
        run("mount -t tmpfs tmpfs /run");
        run("ip link set lo up");
        body();
        println!("inside: done");
        return;
    }
    let exe = std::env::current_exe().expect("the test knows itself");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(exe)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .stdin(Stdio::null())
        .output()
        .expect("unshare (util-linux) is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("inside: done"),
        "in the namespace (where unprivileged user namespaces are forbidden, run as root):\n{text}"
    );
}

/// Runs a command line and returns what it printed.
#[track_caller]
pub fn run(line: &str) -> String {
    let (ok, text) = attempt(line);
    assert!(ok, "{line}: {text}");
    text
}

/// Runs a command line; whether it succeeded, and what it printed.
pub fn attempt(line: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in a network namespace of its own.
pub struct Host {
    jobs: mpsc::Sender<Job>,
    tid: i32,
}

impl Host {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            // SAFETY: only this thread changes its namespace.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            run("ip link set lo up");
            // SAFETY: no arguments.
            tell.send(unsafe { libc::gettid() }).expect("somebody waits");
            for job in queue {
                job();
            }
        });
        Self { jobs, tid: told.recv().expect("the thread lives") }
    }

    /// Begins something in this namespace; call the result to wait for it.
    pub fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        let (tell, told) = mpsc::channel();
        let namespace = format!("/proc/self/task/{}/ns/net", self.tid);
        thread::spawn(move || {
            enter(&namespace);
            let _ = tell.send(job());
        });
        Box::new(move || told.recv().expect("the job ends well"))
    }

    /// Does something in this namespace.
    pub fn within<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job)()
    }

    /// Its thread, by which `ip link … netns` knows the namespace.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs a command line in this namespace.
    pub fn run(&self, line: &str) -> String {
        let line = line.to_owned();
        self.within(move || run(&line))
    }

    /// Connects two hosts by a veth pair, MTU 1,500.
    pub fn connect(&self, name: &str, address: &str, other: &Self, far_name: &str, far: &str) {
        let far_tid = other.tid;
        self.run(&format!(
            "ip link add {name} type veth peer name {far_name} netns {far_tid}; ip link set {name} up"
        ));
        other.run(&format!("ip link set {far_name} up"));
        for address in address.split_whitespace() {
            self.run(&format!("ip addr add {address} dev {name} {}", nodad(address)));
        }
        for address in far.split_whitespace() {
            other.run(&format!("ip addr add {address} dev {far_name} {}", nodad(address)));
        }
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { "nodad" } else { "" }
}

fn enter(namespace: &str) {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(namespace).expect("the host lives");
    // SAFETY: the descriptor is a network namespace's; only this thread changes.
    assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
}

/// A runtime like the daemon's data thread has.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
