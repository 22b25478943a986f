//! The relay inside `warren serve` (docs/adr/0011).

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use warren_broker::{RelayConnection, RelayPlan, RelayRuntime, RunningRelay, Starting};
use warren_proto::{RelayInit, RelayLoad};
use warren_relay::turn::{ServerConfig, Turn, TurnConfig, settings_of};

/// Starts [`Turn`] as the broker's own relay. It gives virtual addresses alone, which is all that
/// nodes want of it: nobody gets a port of this host.
#[derive(Debug)]
pub(crate) struct Embedded;

impl RelayRuntime for Embedded {
    fn start(&self, plan: RelayPlan) -> Starting<'_> {
        let config = TurnConfig {
            udp: plan.udp,
            tcp: Vec::new(),
            tls: None,
            server: ServerConfig {
                stun: plan.seen,
                ..ServerConfig::private(settings_of(&plan.init))
            },
            metrics: None,
            mint: None,
            drain_timeout: Duration::ZERO,
        };
        Box::pin(async move {
            let running: Arc<dyn RunningRelay> = Arc::new(Running(Turn::start(&config).await?));
            Ok(running)
        })
    }
}

#[derive(Debug)]
struct Running(Turn);

impl RunningRelay for Running {
    fn tell(&self, init: &RelayInit) {
        self.0.set_settings(settings_of(init));
    }

    fn load(&self) -> RelayLoad {
        self.0.load()
    }

    fn failed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.0.failed())
    }

    fn serve(
        &self,
        connection: Box<dyn RelayConnection>,
        remote: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.0.serve_connection(connection, remote))
    }
}
