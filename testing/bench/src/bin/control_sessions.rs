//! What a connected node costs the broker: a thousand real control sessions over TLS, from this
//! process, to `warren serve` (`WARREN_BIN`, or the one built beside this program).
//!
//! `cargo build --release -p warren && cargo run --release -p warren-bench --bin control_sessions -- [NODES]`

#[path = "../../../../roles/broker/tests/common/client.rs"]
#[expect(dead_code, unreachable_pub, reason = "the broker's tests use the rest")]
mod client;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use warren_bench::{binary, cpu_seconds, resident_kib};
use warren_broker::admin::{self, NewJoinKey};
use warren_proto::{
    Change, CheckIn, CheckInState, DeviceId, Endpoint, EndpointKind, JoinLink, MapVersion, Peer,
    Registered, SessionEvent,
};
use x25519_dalek::StaticSecret;

use client::{Client, Events};

/// In the last line that a broker greets with.
const LAST_LINE: &str = "join-keys create";
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let argument = std::env::args().nth(1);
    let nodes = argument.map_or(Ok(1000), |text| text.parse()).context("how many nodes")?;
    runtime.block_on(measure(nodes))
}

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Broker {
    /// Starts `warren serve` on loopback, as it is for everybody but for these flags.
    fn start(data: &Path, more: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        let broker = Self(child);
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        ensure!(lines.any(|line| line.contains(LAST_LINE)), "the broker ended");
        Ok(broker)
    }

    /// Resident memory in bytes.
    fn resident(&self) -> Result<usize> {
        Ok(usize::try_from(resident_kib(self.0.id())?)? * 1024)
    }

    /// CPU time in seconds, of all threads.
    fn cpu(&self) -> Result<f64> {
        cpu_seconds(self.0.id())
    }
}

/// A node as far as this measurement goes: who is online, and on which port.
#[derive(Default)]
struct Seen {
    this: Option<DeviceId>,
    version: Option<MapVersion>,
    port_by_peer: BTreeMap<DeviceId, Option<u16>>,
}

impl Seen {
    fn take(&mut self, event: SessionEvent) -> Result<()> {
        match event {
            SessionEvent::Netmap(map) => {
                self.this = Some(map.this.id);
                self.version = Some(map.version);
                self.port_by_peer = map.peers.iter().map(|peer| (peer.id, port_of(peer))).collect();
            }
            SessionEvent::Delta(delta) => {
                let fits = self.version.is_some_and(|ours| {
                    delta.base.epoch == ours.epoch && delta.base.sequence <= ours.sequence
                });
                ensure!(fits, "a delta didn't fit");
                self.version = Some(delta.version);
                delta.changes.into_iter().for_each(|change| self.change(change));
            }
            SessionEvent::Current(_)
            | SessionEvent::Reach(_)
            | SessionEvent::Wake(_)
            | SessionEvent::Connect(_) => {}
            SessionEvent::Revoked => anyhow::bail!("a node was revoked"),
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Peer { peer } => {
                self.port_by_peer.insert(peer.id, port_of(&peer));
            }
            Change::Removed { id } => {
                self.port_by_peer.remove(&id);
            }
            Change::Presence { id, online, endpoints, .. } => {
                let port = endpoints.first().filter(|_| online).map(|first| first.addr.port());
                self.port_by_peer.insert(id, port);
            }
            Change::This { .. }
            | Change::Stun { .. }
            | Change::NextPin { .. }
            | Change::Dns { .. }
            | Change::Relays { .. }
            | Change::RelayDuty { .. }
            | Change::PeerRelays { .. }
            | Change::Filter { .. }
            | Change::Edge { .. }
            | Change::Unknown => {}
        }
    }

    fn sees_everybody(&self, count: usize) -> bool {
        self.port_by_peer.len() == count - 1 && self.port_by_peer.values().all(Option::is_some)
    }
}

fn port_of(peer: &Peer) -> Option<u16> {
    peer.endpoints.first().filter(|_| peer.online).map(|first| first.addr.port())
}

struct Node {
    client: Client,
    seen: Arc<Mutex<Seen>>,
    following: JoinHandle<Result<()>>,
}

impl Node {
    async fn connect(link: &JoinLink, token: &str) -> Result<Self> {
        let client = Client::connect(link).await?.with_token(token);
        let mut events = client.events(None).await;
        let first = events.event().await.context("the stream ended")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        lock(&seen).take(first)?;
        let following = tokio::spawn(follow(events, seen.clone()));
        let answer = client.post("/v1/node/check-in", &state(1)).await;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(Self { client, seen, following })
    }
}

/// Reads a stream for as long as it goes on, as a node does.
async fn follow(mut events: Events, seen: Arc<Mutex<Seen>>) -> Result<()> {
    loop {
        let event = events.event().await.context("a stream ended")?;
        lock(&seen).take(event)?;
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn measure(count: usize) -> Result<()> {
    let data = std::env::temp_dir().join(format!("warren-sessions-{}", std::process::id()));
    let broker = Broker::start(&data, &[])?;
    let link: JoinLink = admin::Client::new(&data)
        .create_join_key("home", &NewJoinKey { reusable: true, ..NewJoinKey::default() })
        .await?
        .link
        .parse()?;
    let mut tokens = join(&link, 0..1).await?;
    // One node has come: code and caches are warm, the next ones cost what each costs.
    let first = connect_all(&link, &tokens).await?;
    let warm = broker.resident()?;
    drop((first, broker));

    // One source may join only so often; these are many, behind a proxy.
    let broker = Broker::start(&data, &["--trusted-proxy", "127.0.0.0/8"])?;
    let begin = Instant::now();
    tokens.extend(join(&at(&data, &link).await?, 1..count).await?);
    println!("{count} nodes joined in {:.1} s", begin.elapsed().as_secs_f64());
    drop(broker);

    // The memory of joining isn't that of being connected: measured from a fresh process.
    let broker = Broker::start(&data, &[])?;
    let link = at(&data, &link).await?;
    let begin = Instant::now();
    let nodes = connect_all(&link, &tokens).await?;
    settle(&nodes, |seen| seen.sees_everybody(count)).await?;
    println!("all connected, each with a map of all, in {:.1} s", begin.elapsed().as_secs_f64());
    report("connected", &broker, warm, count)?;

    for round in 0..3 {
        let cpu = broker.cpu()?;
        let begin = Instant::now();
        roam(&nodes, round).await?;
        let (wall, cpu) = (begin.elapsed(), broker.cpu()? - cpu);
        println!(
            "a roam reached {count} nodes in {:.0} ms, {cpu:.2} s CPU",
            wall.as_secs_f64() * 1e3
        );
    }
    let cpu = broker.cpu()?;
    for node in &nodes {
        let answer = node.client.post("/v1/node/check-in", &CheckIn::default()).await;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let each = (broker.cpu()? - cpu) / count as f64 * 1e6;
    println!("an unchanged check-in costs the broker {each:.0} µs CPU");
    report("after roaming and check-ins", &broker, warm, count)?;
    drop(broker);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

fn report(when: &str, broker: &Broker, warm: usize, count: usize) -> Result<()> {
    let resident = broker.resident()?;
    let each = resident.saturating_sub(warm) as f64 / (count - 1) as f64 / 1024.0;
    println!(
        "{when}: {:.1} MiB resident, {:.1} MiB with one node: {each:.1} KiB for each further one",
        resident as f64 / 1048576.0,
        warm as f64 / 1048576.0,
    );
    Ok(())
}

/// A link to the broker that runs by now.
async fn at(data: &Path, link: &JoinLink) -> Result<JoinLink> {
    Ok(JoinLink { url: admin::Client::new(data).status().await?.url, ..link.clone() })
}

async fn join(link: &JoinLink, nodes: Range<usize>) -> Result<Vec<Registered>> {
    let client = Client::connect(link).await?;
    let mut tokens = Vec::new();
    for n in nodes {
        let secret = StaticSecret::from(rand::random::<[u8; 32]>());
        let register = client.registration(&secret, &link.key, &format!("node {n}")).await;
        let headers = [("x-forwarded-for", format!("198.51.{}.{}", n / 250, n % 250))];
        let body = serde_json::to_vec(&register)?;
        let response = client.request(Method::POST, "/v1/node/register", &headers, body).await?;
        ensure!(response.status() == 200, "{response:?}");
        let body = response.into_body().collect().await?.to_bytes();
        tokens.push(serde_json::from_slice(&body)?);
    }
    Ok(tokens)
}

async fn connect_all(link: &JoinLink, tokens: &[Registered]) -> Result<Vec<Node>> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = tokio::task::JoinSet::new();
    for registered in tokens {
        let (places, link, token) = (places.clone(), link.clone(), registered.token.clone());
        tasks.spawn(async move {
            let _place = places.acquire_owned().await?;
            Node::connect(&link, &token).await
        });
    }
    let mut nodes = Vec::new();
    while let Some(node) = tasks.join_next().await {
        nodes.push(node??);
    }
    Ok(nodes)
}

fn state(port: u16) -> CheckIn {
    let endpoints = (0..4)
        .map(|n| Endpoint {
            addr: ([203, 0, 113, n], 1000 + port).into(),
            kind: EndpointKind::Reflexive,
        })
        .collect();
    CheckIn { state: Some(CheckInState { endpoints, ..CheckInState::default() }) }
}

/// Waits until a condition holds for what every node sees.
async fn settle(nodes: &[Node], done: impl Fn(&Seen) -> bool) -> Result<()> {
    let all_done = async {
        for node in nodes {
            while !done(&lock(&node.seen)) {
                ensure!(!node.following.is_finished(), "a node's stream ended");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all_done).await.context("a map never converged")?
}

/// One node's endpoints change; everybody hears of it.
async fn roam(nodes: &[Node], round: u16) -> Result<()> {
    let (roamer, others) = nodes.split_first().context("a node")?;
    let id = lock(&roamer.seen).this.context("a map")?;
    let answer = roamer.client.post("/v1/node/check-in", &state(100 + round)).await;
    ensure!(answer.status == 200, "{answer:?}");
    let port = Some(1100 + round);
    settle(others, |seen| seen.port_by_peer.get(&id) == Some(&port)).await
}
