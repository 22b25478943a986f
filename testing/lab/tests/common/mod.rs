//! A broker on the public internet, and how the tests place devices around it.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod forward;
pub(crate) mod impostors;
pub(crate) mod lan;
pub(crate) mod running_ping;
pub(crate) mod traffic;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use warren_lab::warren::{Broker, Node, Warren};
use warren_lab::{Host, Link, NatKind, NatSpec, Plug, Router, Segment, World};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A world with a broker in it, reachable at two IPv4 and one IPv6 address.
pub(crate) struct Lab<'w> {
    pub(crate) world: &'w World,
    pub(crate) warren: Warren,
    pub(crate) broker: Broker,
    pub(crate) broker_link: Link,
    addresses: Vec<IpAddr>,
    pub(crate) link: String,
}

impl<'w> Lab<'w> {
    /// The broker relays for nobody: a path that isn't direct is a failure.
    pub(crate) fn start(world: &'w World) -> Result<Self> {
        Self::start_by(world, Broker::start_without_relay)
    }

    /// The broker relays where there is no direct path.
    pub(crate) fn relaying(world: &'w World) -> Result<Self> {
        Self::start_by(world, Broker::start)
    }

    fn start_by(
        world: &'w World,
        serve: impl FnOnce(&Warren, &Host, &[IpAddr]) -> Result<Broker>,
    ) -> Result<Self> {
        let warren = Warren::locate()?;
        let host = world.host("broker")?;
        let first = world.internet().plug(&host, &Plug::dual())?;
        let second = world.internet().plug(&host, &Plug::ipv4())?;
        let addresses: Vec<IpAddr> =
            vec![first.v4()?.into(), second.v4()?.into(), first.v6()?.into()];
        let broker = serve(&warren, &host, &addresses)?;
        let link = broker.join_link()?;
        Ok(Self { world, warren, broker, broker_link: first, addresses, link })
    }

    /// Where the broker is reached over IPv4.
    pub(crate) fn broker_ipv4(&self) -> Vec<Ipv4Addr> {
        let ipv4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        self.addresses.iter().filter_map(ipv4).collect()
    }

    /// A host of that name on `segment`, and its link.
    pub(crate) fn host(&self, name: &str, segment: &Segment, plug: &Plug) -> Result<(Host, Link)> {
        let host = self.world.host(name)?;
        let link = segment.plug(&host, plug)?;
        Ok((host, link))
    }

    /// A home's router.
    pub(crate) fn home(&self, name: &str, kind: NatKind) -> Result<Router> {
        self.world.router(name, self.world.internet(), NatSpec::new(kind))
    }

    /// A connected node of that name, public.
    pub(crate) fn public_node(&self, name: &str) -> Result<(Node, Link)> {
        let (host, link) = self.host(name, self.world.internet(), &Plug::ipv4())?;
        Ok((self.join(&host)?, link))
    }

    /// A connected node of that name in a home of its own.
    pub(crate) fn home_node(&self, name: &str, kind: NatKind) -> Result<(Node, Link, Router)> {
        let router = self.home(&format!("{name}-home"), kind)?;
        let (host, link) = self.host(name, router.lan(), &Plug::ipv4())?;
        Ok((self.join(&host)?, link, router))
    }

    pub(crate) fn join(&self, host: &Host) -> Result<Node> {
        Node::join(&self.warren, host, &self.link)
    }
}

/// Runs the jobs at most `limit` at once and returns what they gave, in order.
pub(crate) fn in_parallel<T: Send>(
    limit: usize,
    jobs: Vec<impl FnOnce() -> Result<T> + Send>,
) -> Result<Vec<T>> {
    const NO_PANIC: &str = "no job panics while it holds a lock";
    let next = std::sync::Mutex::new(jobs.into_iter().enumerate());
    let done = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..limit {
            scope.spawn(|| {
                loop {
                    let Some((number, job)) = next.lock().expect(NO_PANIC).next() else { return };
                    let outcome = job();
                    done.lock().expect(NO_PANIC).push((number, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect(NO_PANIC);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A ping by the kernel, through the tunnel: works once, within `limit`.
pub(crate) fn kernel_ping(host: &Host, to: impl Into<IpAddr>, limit: Duration) -> Result<Duration> {
    let to = to.into().to_string();
    let begun = Instant::now();
    let seconds = limit.as_secs().max(1).to_string();
    // -w ends at the first answer with -c 1, or at the deadline; one request each 200 ms.
    host.run(&["ping", "-n", "-c", "1", "-i", "0.2", "-W", "1", "-w", &seconds, &to])
        .with_context(|| format!("{} cannot ping {to} in {limit:?}", host.name()))?;
    Ok(begun.elapsed())
}

/// The mesh address of a node.
pub(crate) fn mesh_ipv4(node: &Node) -> Result<std::net::Ipv4Addr> {
    node.status()?.node.ipv4.context("the node has no mesh address")
}

/// Checks that a command failed and said `needle`, and returns all that it said.
pub(crate) fn refused(output: &std::process::Output, needle: &str) -> Result<String> {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!output.status.success(), "it was not refused, and said: {text}");
    ensure!(
        text.to_lowercase().contains(&needle.to_lowercase()),
        "it was refused, but without '{needle}': {text}"
    );
    Ok(text)
}

/// The folder of an unpacked Debian package: `testing/debian-package.sh` with these arguments.
/// Fetched outside the world, where the network is: by the test's first, outer run.
pub(crate) fn debian_package(arguments: &[&str]) -> Result<std::path::PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../debian-package.sh");
    let output = std::process::Command::new(script).args(arguments).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{complaint}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}
