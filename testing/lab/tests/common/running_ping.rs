//! A ping that runs while something changes.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use warren_lab::warren::Node;
use warren_lab::{Host, NatKind, Process, Router, wait_for};

use super::{Lab, SECOND, mesh_ipv4};

/// How long after a change it may take until it is in force everywhere.
pub(crate) const IN_FORCE: Duration = SECOND;

/// A ping by the kernel that runs until it is stopped, one request each 50 ms.
pub(crate) struct RunningPing {
    process: Process,
}

impl RunningPing {
    pub(crate) fn start(host: &Host, to: Ipv4Addr) -> Result<Self> {
        let mut command = host.command("ping");
        command.args(["-n", "-i", "0.05", "-W", "1", &to.to_string()]).label("running-ping");
        Ok(Self { process: command.spawn()? })
    }

    pub(crate) fn answers(&self) -> usize {
        self.process.log().matches(" bytes from ").count()
    }

    /// Waits until it is answered again.
    pub(crate) fn flows(&self, limit: Duration) -> Result<()> {
        let before = self.answers();
        let more = || Ok((self.answers() > before + 2).then_some(()));
        wait_for("the ping to be answered", limit, more)
    }

    /// Checks that from `IN_FORCE` after now on nothing is answered any more.
    pub(crate) fn is_cut(&self) -> Result<()> {
        std::thread::sleep(IN_FORCE);
        let before = self.answers();
        // Twenty more requests.
        std::thread::sleep(SECOND);
        let after = self.answers();
        ensure!(after == before, "{} answers after the change", after - before);
        Ok(())
    }
}

/// A laptop behind a NAT, and a server, with a ping from one to the other under way.
pub(crate) fn pair(lab: &Lab<'_>) -> Result<(Node, Node, Router, RunningPing)> {
    let (mut laptop, _, router) = lab.home_node("laptop", NatKind::EimApdf)?;
    let (server, _) = lab.public_node("server")?;
    laptop.wait_peers(&["server"])?;
    let ping = RunningPing::start(laptop.host(), mesh_ipv4(&server)?)?;
    ping.flows(10 * SECOND)?;
    Ok((laptop, server, router, ping))
}
