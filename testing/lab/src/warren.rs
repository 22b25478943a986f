//! The real program on the hosts of a world: brokers, nodes and relay servers, driven by nothing but
//! the command line.

mod binary;
mod broker;
mod node;
mod relay;
mod status;

pub use broker::Broker;
pub use node::Node;
pub use relay::RelayServer;
pub use status::{NodeView, PeerView, PingReply, Status};

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::{Host, HostCommand};

/// The `warren` program.
#[derive(Clone, Debug)]
pub struct Warren(PathBuf);

impl Warren {
    /// Finds it for a test: `WARREN_BIN`, or the workspace's own in the profile and target folder of the
    /// test, built first where it is missing or older than any source file.
    ///
    /// # Errors
    /// In one line, when it can be neither found nor built.
    pub fn locate() -> Result<Self> {
        binary::locate().map(Self)
    }

    /// The program at `path`.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.0
    }

    /// A command of it on `host`.
    #[must_use]
    pub fn on(&self, host: &Host) -> HostCommand {
        host.command(&self.0)
    }

    /// Runs a command of it on `host` to its end and returns its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, host: &Host, arguments: &[&str]) -> Result<String> {
        let mut command = self.on(host);
        let output = command.args(arguments).output()?;
        let (said, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success(),
            "{}: {}: {complaint}{said}",
            command.words(),
            output.status
        );
        Ok(said.into_owned())
    }
}
