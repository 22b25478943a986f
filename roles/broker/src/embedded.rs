//! The relay inside the broker's process.
//!
//! Roles don't depend on each other, so the broker says here what it needs of a relay, and whoever
//! builds the program brings one (docs/adr/0011). Where there is one it takes the STUN sockets over:
//! STUN and TURN share their port.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use warren_proto::{RelayInit, RelayLoad};

/// Starts relays.
pub trait RelayRuntime: Debug + Send + Sync {
    /// Begins to serve STUN and TURN; it ends when what is returned is dropped.
    ///
    /// # Errors
    /// An address can't be listened at.
    fn start(&self, plan: RelayPlan) -> Starting<'_>;
}

/// A relay that is being started.
pub type Starting<'a> =
    Pin<Box<dyn Future<Output = anyhow::Result<Arc<dyn RunningRelay>>> + Send + 'a>>;

/// What a relay is to be.
#[derive(Debug, Clone)]
pub struct RelayPlan {
    /// Where to listen for datagrams.
    pub udp: Vec<SocketAddr>,
    /// How those addresses are seen from outside, by their order (RFC 5780).
    pub seen: Vec<SocketAddr>,
    /// Who is let in.
    pub init: RelayInit,
}

/// A relay that serves.
pub trait RunningRelay: Debug + Send + Sync {
    /// Who is let in from now on.
    fn tell(&self, init: &RelayInit);

    /// What it carries.
    fn load(&self) -> RelayLoad;

    /// Waits until it can't serve any more, which it should never come to.
    fn failed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Serves a connection that came in on the HTTPS port, to its end.
    fn serve(
        &self,
        connection: Box<dyn RelayConnection>,
        remote: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A client's byte stream, out of TLS.
pub trait RelayConnection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> RelayConnection for T {}
