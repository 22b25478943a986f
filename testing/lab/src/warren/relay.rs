use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::broker::log_filter;
use super::{Broker, Warren};
use crate::{Host, Process, wait_until};

/// `warren relay` on a host, as a part of a warren.
#[derive(Debug)]
pub struct RelayServer {
    host: Host,
    process: Process,
}

impl RelayServer {
    const START: Duration = Duration::from_secs(20);
    /// Where it says what goes on, on its own machine.
    const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9478);

    /// Makes a token for a relay of the host's name in account `home`, starts it and waits until it
    /// serves.
    ///
    /// # Errors
    /// When it doesn't serve within 20 s.
    pub fn start(warren: &Warren, broker: &Broker, host: &Host) -> Result<Self> {
        let made = broker.admin(&["relays", "create", host.name()])?;
        let said = |field: &str| {
            made[field].as_str().with_context(|| format!("no {field} in {made}")).map(str::to_owned)
        };
        let token = host.folder().join("relay-token");
        std::fs::write(&token, said("token")?)?;
        let (ip, port) = Self::METRICS;
        let arguments = [
            format!("--broker={}", said("url")?),
            format!("--pin={}", said("pin")?),
            format!("--token-file={}", token.display()),
            format!("--metrics={ip}:{port}"),
        ];
        let mut command = warren.on(host);
        command.args(["relay", "--log", &log_filter()]).args(&arguments);
        let process = command.label(&format!("{}-relay", host.name())).spawn()?;
        let mut relay = Self { host: host.clone(), process };
        relay.wait_ready()?;
        Ok(relay)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let what = format!("the relay {} to serve", self.host.name());
        wait_until(&what, Self::START, || {
            if let Some(status) = self.process.exited()? {
                bail!("it ended ({status}):\n{}", self.process.log());
            }
            Ok(self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
        })?;
        Ok(())
    }

    fn get(&self, path: &str) -> Result<String> {
        let ask = || -> Result<String> {
            let mut stream = TcpStream::connect(Self::METRICS)?;
            stream.set_read_timeout(Some(Self::START))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        self.host.enter(ask)?
    }

    /// One of its metrics, by the name after `warren_turn_`.
    ///
    /// # Errors
    /// When it doesn't answer, or has no such metric.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let answer = self.get("/metrics")?;
        let value = answer.lines().find_map(|line| {
            line.strip_prefix("warren_turn_")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()
        });
        value.with_context(|| format!("no {name} in {answer}"))
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}
