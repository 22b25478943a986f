//! What a connected node costs the broker: a thousand real control sessions over TLS, from this
//! process, to a broker in a process of its own.
//!
//! `cargo run --release -p warren-bench --bin control_sessions -- [NODES]`

#[path = "../../../../roles/broker/tests/common/client.rs"]
#[expect(dead_code, missing_docs, unreachable_pub, reason = "the broker's tests use the rest")]
mod client;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::Semaphore;
use warren_broker::ServeConfig;
use warren_broker::admin::{self, NewJoinKey};
use warren_proto::{
    Apply, CheckIn, CheckInState, Endpoint, EndpointKind, JoinLink, NatReport, Netmap, Registered,
    SessionEvent,
};
use x25519_dalek::StaticSecret;

use client::{Client, Events};

const SERVE: &str = "--serve";
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(SERVE) {
        let data = std::env::args().nth(2).context("a data folder")?;
        return runtime.block_on(serve(Path::new(&data)));
    }
    let nodes = argument.map_or(Ok(1000), |text| text.parse()).context("how many nodes")?;
    runtime.block_on(measure(nodes))
}

async fn serve(data: &Path) -> Result<()> {
    let mut config = ServeConfig::new(data);
    config.listen = Some("127.0.0.1:0".parse()?);
    config.stun_enabled = false;
    let running = warren_broker::start(&config).await?;
    println!("READY");
    running.run(std::future::pending()).await
}

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Broker {
    fn start(data: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        let broker = Self(child);
        let first = BufReader::new(stdout).lines().next().context("the broker ended")??;
        ensure!(first == "READY", "the broker said {first}");
        Ok(broker)
    }

    /// Resident memory in bytes.
    fn resident(&self) -> Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        let kilobytes: usize =
            line.split_whitespace().nth(1).context("a number")?.parse().context("VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// CPU time in seconds, of all threads.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }
}

struct Node {
    client: Client,
    events: Events,
    map: Netmap,
}

async fn measure(count: usize) -> Result<()> {
    let data = std::env::temp_dir().join(format!("warren-sessions-{}", std::process::id()));
    let broker = Broker::start(&data)?;
    let link: JoinLink = admin::Client::new(&data)
        .create_join_key("home", &NewJoinKey { reusable: true, ..NewJoinKey::default() })
        .await?
        .link
        .parse()?;

    let begin = Instant::now();
    let tokens = join_all(&link, count).await?;
    println!("{count} nodes joined in {:.1} s", begin.elapsed().as_secs_f64());
    // The memory of joining isn't that of being connected: measured from a fresh process.
    drop(broker);
    let broker = Broker::start(&data)?;
    let url = admin::Client::new(&data).status().await?.url;
    let link = JoinLink { url, ..link };
    let empty = broker.resident()?;

    let begin = Instant::now();
    let mut nodes = connect_all(&link, &tokens).await?;
    settle(&mut nodes, |_| true).await?;
    println!("all connected, each with a map of all, in {:.1} s", begin.elapsed().as_secs_f64());
    report("connected", &broker, empty, count)?;

    for round in 0..3 {
        let cpu = broker.cpu()?;
        let begin = Instant::now();
        roam(&mut nodes, round).await?;
        let (wall, cpu) = (begin.elapsed(), broker.cpu()? - cpu);
        println!("a roam reached {count} nodes in {:.0} ms, {cpu:.2} s CPU", wall.as_secs_f64() * 1e3);
    }
    let cpu = broker.cpu()?;
    for node in &nodes {
        let answer = node.client.post("/v1/node/check-in", &CheckIn::default()).await;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let each = (broker.cpu()? - cpu) / count as f64 * 1e6;
    println!("an unchanged check-in costs the broker {each:.0} µs CPU");
    report("after roaming and check-ins", &broker, empty, count)?;
    drop(broker);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

fn report(when: &str, broker: &Broker, empty: usize, count: usize) -> Result<()> {
    let resident = broker.resident()?;
    let each = resident.saturating_sub(empty) as f64 / count as f64 / 1024.0;
    println!(
        "{when}: {:.1} MiB resident, {:.1} MiB before anybody came: {each:.1} KiB per node",
        resident as f64 / 1048576.0,
        empty as f64 / 1048576.0,
    );
    Ok(())
}

async fn join_all(link: &JoinLink, count: usize) -> Result<Vec<Registered>> {
    let client = Client::connect(link).await?;
    let mut tokens = Vec::new();
    for n in 0..count {
        // The broker lets one source join twice a second in the long run, 200 at once.
        loop {
            let secret = StaticSecret::from(rand::random::<[u8; 32]>());
            let answer = client.register(&secret, &link.key, &format!("node {n}")).await;
            if answer.status == 200 {
                tokens.push(answer.json());
                break;
            }
            ensure!(answer.status == 429, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
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
            let client = Client::connect(&link).await?.with_token(&token);
            let mut events = client.events(None).await;
            let Some(SessionEvent::Netmap(map)) = events.event().await else {
                anyhow::bail!("a session begins with the map")
            };
            let answer = client.post("/v1/node/check-in", &state(1)).await;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(Node { client, events, map: *map })
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
    CheckIn {
        state: Some(CheckInState { endpoints, nat: NatReport::default(), capabilities: Vec::new() }),
    }
}

/// Follows every stream until all maps are at the version of the newest, and `done` holds.
async fn settle(nodes: &mut [Node], done: impl Fn(&Netmap) -> bool) -> Result<()> {
    let newest = async {
        let target: Netmap = nodes[0].client.get("/v1/node/netmap").await.json();
        target.peers.iter().all(|peer| peer.online && !peer.endpoints.is_empty())
    };
    ensure!(newest.await, "somebody isn't online");
    for node in nodes {
        let follow = async {
            let everybody = |map: &Netmap| {
                map.peers.iter().all(|peer| peer.online && !peer.endpoints.is_empty())
            };
            while !(everybody(&node.map) && done(&node.map)) {
                match node.events.event().await.context("the stream ended")? {
                    SessionEvent::Delta(delta) => {
                        ensure!(node.map.apply(&delta) == Apply::Applied, "a delta didn't fit");
                    }
                    SessionEvent::Netmap(map) => node.map = *map,
                    SessionEvent::Current(_)
                    | SessionEvent::Connect(_)
                    | SessionEvent::Revoked => {}
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, follow).await.context("a map never converged")??;
    }
    Ok(())
}

/// One node's endpoints change; everybody hears of it.
async fn roam(nodes: &mut [Node], round: u16) -> Result<()> {
    let (roamer, others) = nodes.split_first_mut().context("a node")?;
    let id = roamer.map.this.id;
    let answer = roamer.client.post("/v1/node/check-in", &state(100 + round)).await;
    ensure!(answer.status == 200, "{answer:?}");
    let port = 1100 + round;
    settle(others, |map| {
        map.peers
            .iter()
            .filter(|peer| peer.id == id)
            .all(|peer| peer.endpoints.iter().any(|endpoint| endpoint.addr.port() == port))
    })
    .await
}
