//! A real broker on loopback, with a real database in a temporary folder.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "each test uses some of it"
)]

pub mod client;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use warren_broker::ServeConfig;
use warren_broker::admin::{self, NewJoinKey};
use warren_proto::JoinLink;
use x25519_dalek::StaticSecret;

pub use client::Client;

/// Longer than anything takes; whoever waits this long waits in vain.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    within(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A broker that serves in this process.
pub struct TestBroker {
    pub url: String,
    pub listen: std::net::SocketAddr,
    pub stun: Vec<std::net::SocketAddr>,
    pub first_link: Option<JoinLink>,
    pub set_up_link: Option<String>,
    pub admin: admin::Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// What every test's broker has: loopback and free ports.
pub fn config(data: &Path) -> ServeConfig {
    let mut config = ServeConfig::new(data);
    config.listen = Some("127.0.0.1:0".parse().unwrap());
    config.stun = vec!["127.0.0.1:0".parse().unwrap()];
    config
}

impl TestBroker {
    pub async fn start(data: &Path) -> Self {
        Self::start_with(config(data)).await
    }

    pub async fn start_with(config: ServeConfig) -> Self {
        let running = warren_broker::start(&config).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        Self {
            url: running.url(),
            listen: running.listen(),
            stun: running.stun().to_vec(),
            first_link: running.first().join_link.as_ref().map(|link| link.parse().unwrap()),
            set_up_link: running.first().set_up_link.clone(),
            admin: admin::Client::at(config.admin_socket()),
            stop,
            task: tokio::spawn(running.run(async {
                let _ = stopped.await;
            })),
        }
    }

    /// Ends it in an orderly way.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        within("the broker's end", self.task).await.unwrap().unwrap();
    }

    /// A fresh link for an account.
    pub async fn link(&self, account: &str, new: NewJoinKey) -> JoinLink {
        self.admin.create_join_key(account, &new).await.unwrap().link.parse().unwrap()
    }

    /// A link that any number of devices may use.
    pub async fn reusable(&self, account: &str) -> JoinLink {
        self.link(account, NewJoinKey { reusable: true, ..NewJoinKey::default() }).await
    }

    /// Joins a new device and opens its connection.
    pub async fn device(&self, account: &str, name: &str) -> Device {
        let link = self.link(account, NewJoinKey::default()).await;
        Device::join(&link, name).await
    }
}

/// A device that has joined, with a connection of its own.
pub struct Device {
    pub secret: StaticSecret,
    pub registered: warren_proto::Registered,
    pub client: Client,
    pub link: JoinLink,
}

impl Device {
    pub async fn join(link: &JoinLink, name: &str) -> Self {
        let secret = new_secret();
        let client = Client::connect(link).await.unwrap();
        let registered = client.join(&secret, &link.key, name).await;
        let client = client.with_token(&registered.token);
        Self { secret, registered, client, link: link.clone() }
    }

    /// A new connection with the same token.
    pub async fn reconnect(&mut self) {
        let client = Client::connect(&self.link).await.unwrap();
        self.client = client.with_token(&self.registered.token);
    }
}

pub fn new_secret() -> StaticSecret {
    StaticSecret::from(rand::random::<[u8; 32]>())
}

/// A folder and a broker in it.
pub async fn broker() -> (TempDir, TestBroker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(folder.path()).await;
    (folder, broker)
}
