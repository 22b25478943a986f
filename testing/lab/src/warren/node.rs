use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::broker::log_filter;
use super::{PeerView, PingReply, Status, Warren};
use crate::{Host, Process, wait_for};

/// `warren node` on a host.
#[derive(Debug)]
pub struct Node {
    warren: Warren,
    host: Host,
    state: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    process: Process,
}

impl Node {
    const JOIN: Duration = Duration::from_secs(20);

    /// Starts one that joins by `link`, under the host's name, and waits until it is connected.
    ///
    /// # Errors
    /// When it isn't connected within 20 s.
    pub fn join(warren: &Warren, host: &Host, link: &str) -> Result<Self> {
        let mut node = Self::start(warren, host, &["--join", link])?;
        node.wait_connected()?;
        Ok(node)
    }

    /// Starts one with these flags besides state folder, log level and the interface `warren0`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(warren: &Warren, host: &Host, flags: &[&str]) -> Result<Self> {
        Self::start_in(warren, host, &host.folder().join("node"), flags)
    }

    /// As [`Node::start`], with a state folder of the caller's choice.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_in(warren: &Warren, host: &Host, state: &Path, flags: &[&str]) -> Result<Self> {
        Self::launch(warren, host, state, flags, &[])
    }

    /// As [`Node::start`], with more in the daemon's environment.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_with_environment(
        warren: &Warren,
        host: &Host,
        flags: &[&str],
        environment: &[(&'static str, String)],
    ) -> Result<Self> {
        Self::launch(warren, host, &host.folder().join("node"), flags, environment)
    }

    fn launch(
        warren: &Warren,
        host: &Host,
        state: &Path,
        flags: &[&str],
        environment: &[(&'static str, String)],
    ) -> Result<Self> {
        let mut arguments = vec!["--tun".to_owned(), "warren0".to_owned()];
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        let process = spawn(warren, host, state, &arguments, environment)?;
        Ok(Self {
            warren: warren.clone(),
            host: host.clone(),
            state: state.to_owned(),
            arguments,
            environment: environment.to_vec(),
            process,
        })
    }

    /// The machine it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The running program.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs another command of this node's to its end, whatever comes out.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let state = self.state.to_string_lossy();
        self.warren.on(&self.host).args(arguments).args(["--state", state.as_ref()]).output()
    }

    /// Starts another command of this node's, and leaves it running.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Process> {
        let state = self.state.to_string_lossy();
        self.warren.on(&self.host).args(arguments).args(["--state", state.as_ref()]).spawn()
    }

    /// Runs another command of this node's and returns its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let state = self.state.to_string_lossy();
        self.warren.run(&self.host, &[arguments, &["--state", state.as_ref()]].concat())
    }

    /// `warren status --json`.
    ///
    /// # Errors
    /// When the daemon doesn't answer, or not in the documented form.
    pub fn status(&self) -> Result<Status> {
        let text = self.run(&["status", "--all", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("status printed {text}"))
    }

    /// A peer of that name in the status.
    ///
    /// # Errors
    /// When there is none, or as [`Node::status`].
    pub fn peer(&self, name: &str) -> Result<PeerView> {
        let status = self.status()?;
        status.peer(name).cloned().with_context(|| format!("{} knows no {name}", self.host.name()))
    }

    /// What its mesh has counted under that name (`warren status --counters`).
    ///
    /// # Errors
    /// When the daemon doesn't answer, or not in JSON.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let text = self.run(&["status", "--counters", "--json"])?;
        let all: Value =
            serde_json::from_str(&text).with_context(|| format!("status printed {text}"))?;
        Ok(all["core"][name].as_u64().unwrap_or(0))
    }

    /// Waits until `accept` likes the status; a daemon that doesn't answer yet is waited for.
    ///
    /// # Errors
    /// After `limit`, or when the daemon has ended.
    pub fn wait_status(
        &mut self,
        what: &str,
        limit: Duration,
        accept: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = String::new();
        let outcome = wait_for(&format!("{}: {what}", self.host.name()), limit, || {
            if let Some(status) = self.process.exited()? {
                bail!("the node on {} ended ({status}):\n{}", self.host.name(), self.process.log());
            }
            match self.status() {
                Ok(status) if accept(&status) => return Ok(Some(status)),
                Ok(status) => last = format!("{status:?}"),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        outcome.with_context(|| format!("the last answer was {last}"))
    }

    /// Waits until it has its broker and its map.
    ///
    /// # Errors
    /// After 20 s.
    pub fn wait_connected(&mut self) -> Result<Status> {
        self.wait_status("connected", Self::JOIN, |status| {
            status.node.state == "connected" && status.broker.connected
        })
    }

    /// Waits until it sees these peers online.
    ///
    /// # Errors
    /// After 20 s.
    pub fn wait_peers(&mut self, names: &[&str]) -> Result<Status> {
        self.wait_status(&format!("sees {names:?}"), Self::JOIN, |status| {
            names.iter().all(|name| status.peer(name).is_some_and(|peer| peer.online))
        })
    }

    /// `warren ping PEER`: all its answers, also when it failed.
    ///
    /// # Errors
    /// When it can't be run or prints something else than answers.
    pub fn ping(&self, peer: &str, count: Option<u32>) -> Result<Vec<PingReply>> {
        let mut arguments = vec!["ping".to_owned(), peer.to_owned(), "--json".to_owned()];
        if let Some(count) = count {
            arguments.extend(["--count".to_owned(), count.to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.cli(&arguments)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.stdout.is_empty(), "ping {peer}: {}: {complaint}", output.status);
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("ping printed {line}")))
            .collect()
    }

    /// Waits until the peer is seen online, and pings until the path is direct; returns the last answer.
    ///
    /// # Errors
    /// When it isn't direct after all the attempts that `warren ping` makes by itself.
    pub fn ping_direct(&self, peer: &str) -> Result<PingReply> {
        let what = format!("{} to see {peer} online", self.host.name());
        wait_for(&what, Self::JOIN, || {
            Ok(self.status()?.peer(peer).is_some_and(|peer| peer.online).then_some(()))
        })?;
        let replies = self.ping(peer, None)?;
        match replies.last() {
            Some(last) if last.path == "direct" && last.rtt_ms.is_some() => Ok(last.clone()),
            last => bail!("{} has no direct path to {peer}: {last:?}", self.host.name()),
        }
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Ends it politely.
    ///
    /// # Errors
    /// When it still runs after 10 s.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop(Duration::from_secs(10)).map(|_| ())
    }

    /// Starts it again, killed first if it runs, with the flags and state folder it had.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        let Self { warren, host, state, arguments, environment, .. } = &*self;
        self.process = spawn(warren, host, state, arguments, environment)?;
        Ok(())
    }
}

fn spawn(
    warren: &Warren,
    host: &Host,
    state: &Path,
    arguments: &[String],
    environment: &[(&'static str, String)],
) -> Result<Process> {
    let state = state.to_string_lossy();
    let mut command = warren.on(host);
    command.args(["node", "--state", state.as_ref(), "--log", &log_filter()]).args(arguments);
    for (name, value) in environment {
        command.env(name, value);
    }
    command.label(&format!("{}-node", host.name())).spawn()
}
