use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::edge::EdgeLink;

/// Changes what is logged while the daemon runs; an error says what is wrong with the filter.
pub type SetLogFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What `warren node` was told.
#[derive(Default)]
pub struct NodeConfig {
    /// The folder of everything that this node keeps; made if missing.
    pub state: PathBuf,
    /// The text of a join link: a secret. Ignored when this device has already joined with it, or
    /// with any other.
    pub join: Option<String>,
    /// What to be called; the host's name otherwise.
    pub name: Option<String>,
    /// The UDP port; otherwise the one set by `warren lport`, or one chosen once and kept.
    pub listen_port: Option<u16>,
    /// The TUN device's name; otherwise `warren<n>`, chosen by the kernel.
    pub tun: Option<String>,
    /// The interface's MTU, fixed; otherwise as much as the paths in use have proved.
    pub mtu: Option<u16>,
    /// Whether the host's resolver is told of the mesh's names.
    pub dns: DnsMode,
    /// How [`crate::local::Request::Log`] takes effect; refused without it.
    pub set_log_filter: Option<SetLogFilter>,
    /// To the role that opens the LAN, if this program has it: without it this device can't be an edge.
    pub edge: Option<EdgeLink>,
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig")
            .field("state", &self.state)
            .field("join", &self.join.is_some())
            .field("name", &self.name)
            .field("listen_port", &self.listen_port)
            .field("tun", &self.tun)
            .field("mtu", &self.mtu)
            .field("dns", &self.dns)
            .finish_non_exhaustive()
    }
}

/// Whether the host's resolver is told of the mesh's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DnsMode {
    /// By systemd-resolved where it runs, else by `/etc/resolv.conf`.
    #[default]
    Auto,
    /// Not at all, and no resolver runs.
    Off,
}
