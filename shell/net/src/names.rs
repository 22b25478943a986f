//! Sends questions for the mesh's names to the node's own resolver.
//!
//! systemd-resolved, where the host's programs ask it, gets a server and domains for the mesh
//! interface and forgets them with it. Elsewhere `/etc/resolv.conf` names the node's resolver,
//! which then forwards everything else to the servers that stood there before.

mod resolv_conf;
#[cfg(target_os = "linux")]
mod resolved;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use resolv_conf::ResolvConf;
#[cfg(target_os = "linux")]
use resolved::Resolved;

pub use resolv_conf::Undone;

/// What is to be wired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameConfig {
    /// Index of the mesh interface.
    pub interface: u32,
    /// Where the node's resolver listens. `/etc/resolv.conf` can only name port 53.
    pub server: SocketAddr,
    /// The account's domain; bare names are looked up in it.
    pub domain: String,
    /// Further zones (reverse ones) that the resolver answers.
    pub zones: Vec<String>,
    /// Whether it answers for all names, and nobody else shall be asked for any.
    pub all: bool,
    /// The node's own folder, where the original of `/etc/resolv.conf` is kept meanwhile.
    pub state_dir: PathBuf,
    /// The resolver configuration file, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// How the host's programs reach the node's resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameMethod {
    /// systemd-resolved asks it for the mesh's domains alone.
    Resolved,
    /// `/etc/resolv.conf` names it for everything.
    ResolvConf,
}

/// Why names couldn't be wired.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Another node's names stand in the file.
    #[error(
        "{path} is in the hands of another running Warren node (process {pid}): this account's \
         names are answered by its own resolver only; run one of the nodes with --dns off"
    )]
    OtherNode {
        /// The file.
        path: String,
        /// The other daemon's process.
        pid: u32,
    },
    /// The file can only name port 53.
    #[error(
        "{path} can only name a resolver on port 53, and ours is on port {port}: free port 53 or \
         run systemd-resolved"
    )]
    NotPort53 {
        /// The file.
        path: String,
        /// Where the resolver listens.
        port: u16,
    },
    /// A file couldn't be read or written.
    #[error("{path}: {source}; run as root, or with --dns off to leave names alone")]
    File {
        /// The file.
        path: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// systemd-resolved refused.
    #[error("systemd-resolved: {0}")]
    Resolved(String),
}

/// The servers that a resolver configuration file names; none where there is no such file.
pub fn name_servers(file: &Path) -> Vec<IpAddr> {
    resolv_conf::servers(&std::fs::read_to_string(file).unwrap_or_default())
}

/// Names that are wired; [`unwire`](Self::unwire) undoes it.
#[derive(Debug)]
pub struct NameWiring {
    config: NameConfig,
    wired: Wired,
}

#[derive(Debug)]
enum Wired {
    #[cfg(target_os = "linux")]
    Resolved(Resolved),
    ResolvConf(ResolvConf),
}

impl NameWiring {
    /// Undoes what a crashed daemon with this state folder left in the file; to be called at every
    /// start, whether or not names are wanted.
    ///
    /// # Errors
    ///
    /// [`NameError::File`].
    pub fn clean_up(config: &NameConfig) -> Result<Undone, NameError> {
        ResolvConf::clean_up(config)
    }

    /// Wires the names.
    ///
    /// # Errors
    ///
    /// See [`NameError`]; nothing is changed then.
    pub async fn wire(config: NameConfig) -> Result<Self, NameError> {
        ResolvConf::clean_up(&config)?;
        #[cfg(target_os = "linux")]
        if let Some(resolved) = Resolved::find(&config).await {
            resolved.apply(&config).await?;
            return Ok(Self { config, wired: Wired::Resolved(resolved) });
        }
        let file = ResolvConf::install(&config)?;
        Ok(Self { config, wired: Wired::ResolvConf(file) })
    }

    /// How it is done.
    pub fn method(&self) -> NameMethod {
        match &self.wired {
            #[cfg(target_os = "linux")]
            Wired::Resolved(_) => NameMethod::Resolved,
            Wired::ResolvConf(_) => NameMethod::ResolvConf,
        }
    }

    /// Servers of the host's own network that know all other names.
    pub fn upstreams(&self) -> Vec<IpAddr> {
        match &self.wired {
            #[cfg(target_os = "linux")]
            Wired::Resolved(_) => {
                let mut servers = name_servers(Path::new(resolved::UPLINKS));
                servers.retain(|server| *server != self.config.server.ip());
                servers
            }
            Wired::ResolvConf(file) => file.upstreams().to_vec(),
        }
    }

    /// Whether the resolver answers for all names.
    pub fn is_for_all(&self) -> bool {
        self.config.all
    }

    /// Has the resolver answer for all names, or for the mesh's alone where the host's own resolver can
    /// tell them apart.
    ///
    /// # Errors
    ///
    /// See [`NameError`].
    pub async fn answer_for_all(&mut self, all: bool) -> Result<(), NameError> {
        let config = NameConfig { all, ..self.config.clone() };
        match &self.wired {
            #[cfg(target_os = "linux")]
            Wired::Resolved(resolved) => resolved.apply(&config).await?,
            Wired::ResolvConf(_) => {}
        }
        // Only what has come to be isn't tried again.
        self.config = config;
        Ok(())
    }

    /// Wires anew what another program has undone meanwhile (a DHCP client that wrote the file, a
    /// restart of systemd-resolved); to be called now and then and when the network has changed.
    /// Returns whether there was anything to do.
    ///
    /// # Errors
    ///
    /// See [`NameError`].
    pub async fn refresh(&mut self) -> Result<bool, NameError> {
        match &mut self.wired {
            #[cfg(target_os = "linux")]
            Wired::Resolved(resolved) => resolved.refresh(&self.config).await,
            Wired::ResolvConf(file) => {
                if file.is_in_place() {
                    return Ok(false);
                }
                *file = ResolvConf::install(&self.config)?;
                Ok(true)
            }
        }
    }

    /// Undoes the wiring. A file that somebody else has changed since is left alone.
    ///
    /// # Errors
    ///
    /// See [`NameError`].
    pub async fn unwire(self) -> Result<Undone, NameError> {
        match self.wired {
            #[cfg(target_os = "linux")]
            Wired::Resolved(resolved) => {
                resolved.revert(self.config.interface).await.map(|()| Undone::Restored)
            }
            Wired::ResolvConf(file) => file.restore(),
        }
    }
}
