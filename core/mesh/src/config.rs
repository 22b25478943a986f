use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// What a [`crate::Mesh`] is built from.
#[derive(Clone)]
pub struct Config {
    /// The device's static X25519 private key.
    pub private_key: [u8; 32],
    /// Fresh randomness from the operating system; never the same twice.
    pub seed: [u8; 32],
    /// Wall-clock time since the Unix epoch at the `now` of [`crate::Mesh::new`]: the larger of the
    /// system's clock and what was persisted from [`crate::Mesh::clock`].
    pub unix: Duration,
    /// A fixed interface MTU; `None` discovers it (1,280 until the paths in use prove more).
    pub mtu: Option<u16>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { private_key: _, seed: _, unix, mtu } = self;
        f.debug_struct("Config").field("unix", unix).field("mtu", mtu).finish_non_exhaustive()
    }
}

/// An address of one of the host's own interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// The length of its on-link prefix, in bits.
    pub prefix_len: u8,
}

/// Where a whole netmap came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapSource {
    /// The control session.
    Broker,
    /// The node's own disk: used until the broker sends one, never instead of the broker's.
    Cache,
}

/// Whether the control session works, as its transport sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerState {
    /// The session is up.
    Connected {
        /// The round-trip time to the broker.
        rtt: Duration,
    },
    /// Two heartbeats were missed, or the first attempt to connect failed.
    Lost,
}
