use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Warren;
use crate::{Host, Process, wait_until};

/// `warren serve` on a host.
#[derive(Debug)]
pub struct Broker {
    warren: Warren,
    host: Host,
    data: PathBuf,
    arguments: Vec<String>,
    process: Process,
}

impl Broker {
    const START: Duration = Duration::from_secs(15);

    /// Starts one that devices reach by HTTPS and STUN at `addresses[0]`, and by STUN at all of them.
    /// It relays for its accounts.
    ///
    /// # Errors
    /// When it doesn't come up within 15 s.
    pub fn start(warren: &Warren, host: &Host, addresses: &[IpAddr]) -> Result<Self> {
        let arguments = Self::arguments(addresses)?;
        Self::start_with(warren, host, &host.folder().join("broker"), arguments)
    }

    /// As [`Broker::start`], but it relays for nobody: what has no direct path shows as such, unless
    /// a relay is named.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_without_relay(warren: &Warren, host: &Host, addresses: &[IpAddr]) -> Result<Self> {
        let mut arguments = Self::arguments(addresses)?;
        arguments.push("--no-relay".to_owned());
        Self::start_with(warren, host, &host.folder().join("broker"), arguments)
    }

    fn arguments(addresses: &[IpAddr]) -> Result<Vec<String>> {
        let first = addresses.first().context("a broker has an address")?;
        let public = if first.is_ipv6() { format!("[{first}]") } else { first.to_string() };
        let mut arguments: Vec<String> =
            ["--listen", "[::]:443", "--public-url"].map(str::to_owned).into();
        arguments.push(format!("https://{public}"));
        for address in addresses {
            arguments.extend([
                "--stun".to_owned(),
                std::net::SocketAddr::new(*address, 3478).to_string(),
            ]);
        }
        Ok(arguments)
    }

    /// Starts one with flags and a data folder of the caller's choice.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_with(
        warren: &Warren,
        host: &Host,
        data: &Path,
        arguments: Vec<String>,
    ) -> Result<Self> {
        let process = Self::launch(warren, host, data, &arguments)?;
        let mut broker = Self {
            warren: warren.clone(),
            host: host.clone(),
            data: data.to_owned(),
            arguments,
            process,
        };
        broker.wait_ready()?;
        Ok(broker)
    }

    fn launch(warren: &Warren, host: &Host, data: &Path, arguments: &[String]) -> Result<Process> {
        let data = data.to_string_lossy();
        let mut command = warren.on(host);
        command.args(["serve", "--data", data.as_ref(), "--log", &log_filter()]).args(arguments);
        command.label(&format!("{}-broker", host.name())).spawn()
    }

    /// Ready is when it answers its own command line.
    fn wait_ready(&mut self) -> Result<()> {
        wait_until("the broker to come up", Self::START, || {
            if let Some(status) = self.process.exited()? {
                bail!("the broker ended ({status}):\n{}", self.process.log());
            }
            Ok(self.admin(&["accounts", "list"]).is_ok())
        })?;
        Ok(())
    }

    /// The machine it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The running program.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs `warren admin … --json` on its machine.
    ///
    /// # Errors
    /// When the command fails, or doesn't print JSON.
    pub fn admin(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.change(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} printed {text}"))
    }

    /// Runs `warren admin …` on its machine and returns what it says.
    ///
    /// # Errors
    /// When the command fails.
    pub fn change(&self, arguments: &[&str]) -> Result<String> {
        let data = self.data.to_string_lossy();
        self.warren.run(&self.host, &[&["admin", "--data", data.as_ref()], arguments].concat())
    }

    /// A join link for any number of devices of account `home`.
    ///
    /// # Errors
    /// As [`Broker::admin`].
    pub fn join_link(&self) -> Result<String> {
        self.new_join_link(&["--reusable"])
    }

    /// A join link by `join-keys create` with these flags.
    ///
    /// # Errors
    /// As [`Broker::admin`].
    pub fn new_join_link(&self, flags: &[&str]) -> Result<String> {
        let made = self.admin(&[&["join-keys", "create"], flags].concat())?;
        let link = made["link"].as_str().with_context(|| format!("no link in {made}"))?;
        ensure!(link.contains("/join#"), "{link} is no join link");
        Ok(link.to_owned())
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again with the flags and data folder it had.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = Self::launch(&self.warren, &self.host, &self.data, &self.arguments)?;
        self.wait_ready()
    }
}

/// The level of the daemons' logs: `WARREN_LAB_LOG`, or our own crates' debug.
pub(super) fn log_filter() -> String {
    const OURS: &str = "info,warren=debug,warren_broker=debug,warren_coord=debug,\
                        warren_mesh=debug,warren_net=debug,warren_node=debug,warren_relay=debug,\
                        warren_turn=debug,warren_wg=debug";
    std::env::var("WARREN_LAB_LOG").unwrap_or_else(|_| OURS.to_owned())
}
