//! Brokers and nodes of this crate's tests: the real ones, each in a thread that has entered the
//! namespaces of its host.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use warren_broker::ServeConfig;
use warren_broker::admin::{self, NewJoinKey};
use warren_lab::{Host, Plug, World};
use warren_node::NodeConfig;
use warren_node::local::{Client, NodeState, Status};

/// A broker and two hosts on the internet.
pub(crate) struct Mesh {
    pub(crate) broker: Broker,
    pub(crate) hub: Host,
    pub(crate) laptop: Host,
    pub(crate) laptop_ip: std::net::Ipv4Addr,
    pub(crate) desktop: Host,
    pub(crate) link: String,
}

impl Mesh {
    pub(crate) fn new(world: &World) -> Result<Self> {
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let host = |name: &str| -> Result<(Host, std::net::Ipv4Addr)> {
            let host = world.host(name)?;
            let link = world.internet().plug(&host, &Plug::dual())?;
            let address = link.v4()?;
            Ok((host, address))
        };
        let (hub, hub_ip) = host("hub")?;
        let (laptop, laptop_ip) = host("laptop")?;
        let (desktop, _) = host("desktop")?;
        let broker = Broker::start(&hub, hub_ip.into())?;
        let link = broker.link()?;
        Ok(Self { broker, hub, laptop, laptop_ip, desktop, link })
    }

    /// A node's configuration with a join link in it.
    pub(crate) fn join(&self) -> impl Fn(&mut NodeConfig) + use<> {
        let link = self.link.clone();
        move |config| config.join = Some(link.clone())
    }

    /// Both nodes, connected.
    pub(crate) fn nodes(&self) -> Result<(Node, Node)> {
        let a = Node::start(&self.laptop, self.join())?;
        let b = Node::start(&self.desktop, self.join())?;
        a.wait_connected()?;
        b.wait_connected()?;
        a.wait("desktop is seen", |status| status.peers.iter().any(|peer| peer.online))?;
        Ok((a, b))
    }
}

/// How long anything may take here before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system has file descriptors left")
}

/// Something that runs on a host until it is stopped or dropped.
pub(crate) struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    /// Runs what `body` makes of a shutdown signal.
    pub(crate) fn start<F>(
        host: &Host,
        body: impl FnOnce(oneshot::Receiver<()>) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>>,
    {
        let (stop, stopped) = oneshot::channel();
        let thread =
            host.enter(|| std::thread::spawn(move || runtime().block_on(body(stopped))))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) -> Result<()> {
        self.thread.take().expect("it was not waited for").join().expect("it doesn't panic")
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => thread.join().expect("it doesn't panic"),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A broker on a host.
pub(crate) struct Broker {
    pub(crate) running: Running,
    pub(crate) data: PathBuf,
    pub(crate) config: ServeConfig,
}

impl Broker {
    /// Starts a broker that listens on all addresses and tells `address` to the world.
    pub(crate) fn start(host: &Host, address: std::net::IpAddr) -> Result<Self> {
        let data = host.folder().join("broker");
        let mut config = ServeConfig::new(&data);
        config.listen = Some("0.0.0.0:8443".parse()?);
        config.public_url = Some(format!("https://{address}:8443"));
        config.stun = vec!["0.0.0.0:3478".parse()?];
        config.stun_public = vec![(address, 3478).into(), (address, 3479).into()];
        Self::run(host, config)
    }

    pub(crate) fn run(host: &Host, config: ServeConfig) -> Result<Self> {
        let data = config.data.clone();
        let given = config.clone();
        let running = Running::start(host, move |stopped| async move {
            let broker = warren_broker::start(&given).await?;
            broker.run(async { drop(stopped.await) }).await
        })?;
        let broker = Self { running, data, config };
        runtime().block_on(until("the broker answers", async || {
            Ok(broker.admin().status().await.is_ok())
        }))?;
        Ok(broker)
    }

    pub(crate) fn admin(&self) -> admin::Client {
        admin::Client::new(&self.data)
    }

    /// A reusable join link of the first account.
    pub(crate) fn link(&self) -> Result<String> {
        let new = NewJoinKey { reusable: true, ..NewJoinKey::default() };
        let key = runtime().block_on(self.admin().create_join_key("home", &new))?;
        Ok(key.link)
    }
}

/// A node on a host.
pub(crate) struct Node {
    pub(crate) running: Running,
    pub(crate) state: PathBuf,
}

impl Node {
    pub(crate) fn start(host: &Host, change: impl FnOnce(&mut NodeConfig)) -> Result<Self> {
        let state = host.folder().join("state");
        let mut config = NodeConfig {
            state: state.clone(),
            name: Some(host.name().to_owned()),
            ..NodeConfig::default()
        };
        change(&mut config);
        let running = Running::start(host, move |stopped| {
            warren_node::run(config, async { drop(stopped.await) })
        })?;
        Ok(Self { running, state })
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.state)
    }

    pub(crate) fn status(&self) -> Result<Status> {
        Ok(runtime().block_on(self.client().status())?)
    }

    /// Waits until the status is as `condition` wants it.
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Result<Status> {
        wait_status(&self.state, what, condition)
    }

    pub(crate) fn wait_connected(&self) -> Result<Status> {
        self.wait("connected", |status| status.node.state == NodeState::Connected)
    }
}

pub(crate) fn wait_status(
    state: &Path,
    what: &str,
    condition: impl Fn(&Status) -> bool,
) -> Result<Status> {
    let client = Client::new(state);
    let mut last = None;
    runtime()
        .block_on(until(what, async || {
            let Ok(status) = client.status().await else { return Ok(false) };
            let done = condition(&status);
            last = Some(status);
            Ok(done)
        }))
        .with_context(|| format!("the last status was {last:#?}"))?;
    last.context("there was a status")
}

/// Waits for a condition, with a deadline.
pub(crate) async fn until(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await? {
        ensure!(tokio::time::Instant::now() < deadline, "'{what}' did not come true in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
