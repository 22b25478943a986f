//! Whether what a LAN device answers to the mesh's addresses comes back by this edge.
//!
//! Where the LAN is shown who asks (`transparent`), its answers must be routed here; otherwise every
//! connection hangs. So the device is asked first, from the edge's own mesh address: by a ping and by
//! connections to what is to be opened, without a word. If only the same questions from the edge's LAN
//! address are answered, the way back leads elsewhere. Of what is said to need no test nobody is asked.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use warren_proto::{EdgeDuty, LanAddress, LanSource, LanTarget, Ports};

use super::EdgeConfig;
use crate::follow::{Follower, Place};
use crate::kernel::resolve::WayBack;
use crate::scan::ping;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How soon it is asked again where none came.
const AGAIN: Duration = Duration::from_secs(9);
/// The most ports that are tried.
const MOST_PORTS: usize = 4;
/// How many devices are asked at a time.
const AT_ONCE: usize = 16;
/// How many answers may wait to be taken: one test of a device is under way at a time.
const QUEUE: usize = 64;

/// What is known of the ways back.
#[derive(Debug)]
pub(super) struct WaysBack {
    by_target: BTreeMap<Ipv4Addr, Tested>,
    at_once: Arc<Semaphore>,
    sender: mpsc::Sender<(Ipv4Addr, WayBack)>,
    answers: mpsc::Receiver<(Ipv4Addr, WayBack)>,
}

#[derive(Debug)]
struct Tested {
    way: WayBack,
    begun: Instant,
    running: bool,
}

impl Default for WaysBack {
    fn default() -> Self {
        let (sender, answers) = mpsc::channel(QUEUE);
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        Self { by_target: BTreeMap::new(), at_once, sender, answers }
    }
}

impl WaysBack {
    /// Tests the ways back from what a duty opens transparently, unless one is known to lead here or was
    /// just tested.
    pub(super) fn test(&mut self, duty: &EdgeDuty, follower: &Follower, config: &EdgeConfig) {
        let mut wanted = transparent(duty, follower);
        // What isn't to be opened isn't asked, either; nor anybody on the internet, or this host itself.
        wanted.retain(|target, _| {
            config.cap.admits_network((*target).into())
                && LanAddress::of(*target) == LanAddress::Private
        });
        let mesh = config.mesh_ipv4;
        self.by_target.retain(|target, _| wanted.contains_key(target));
        let now = Instant::now();
        for (target, ports) in wanted {
            let known = self.by_target.get(&target);
            let is_fresh = |known: &Tested| {
                known.running || known.way == WayBack::Here || now < known.begun + AGAIN
            };
            if known.is_some_and(is_fresh) {
                continue;
            }
            let way = known.map_or(WayBack::Untested, |known| known.way);
            self.by_target.insert(target, Tested { way, begun: now, running: true });
            let (sender, at_once) = (self.sender.clone(), Arc::clone(&self.at_once));
            tokio::spawn(async move {
                let Ok(_turn) = at_once.acquire_owned().await else { return };
                let way = ask(mesh, target, &ports).await;
                let _ = sender.send((target, way)).await;
            });
        }
    }

    /// Whether there is one of which nothing is known yet.
    pub(super) fn is_awaited(&self) -> bool {
        self.by_target.values().any(|tested| tested.way == WayBack::Untested)
    }

    /// Waits for the next answer; whether that is news.
    pub(super) async fn next(&mut self) -> bool {
        let Some((target, way)) = self.answers.recv().await else { return false };
        let Some(tested) = self.by_target.get_mut(&target) else { return false };
        tested.running = false;
        std::mem::replace(&mut tested.way, way) != way
    }

    /// What is known of one.
    pub(super) fn of(&self, target: Ipv4Addr) -> WayBack {
        self.by_target.get(&target).map_or(WayBack::Untested, |tested| tested.way)
    }
}

/// Where what is opened transparently leads, as far as that is known, and to which ports of TCP.
fn transparent(duty: &EdgeDuty, follower: &Follower) -> BTreeMap<Ipv4Addr, Vec<u16>> {
    let mut wanted: BTreeMap<Ipv4Addr, Vec<u16>> = BTreeMap::new();
    let mut add = |source, untested: bool, target: &LanTarget, port: Option<u16>| {
        if source == LanSource::Transparent
            && !untested
            && let Place::At(ip) = follower.place(target)
        {
            let ports = wanted.entry(ip).or_default();
            ports.extend(port.filter(|port| ports.len() < MOST_PORTS && !ports.contains(port)));
        }
    };
    for forward in &duty.forwards {
        add(forward.source, forward.untested, &forward.target, Some(forward.target_port));
    }
    for device in &duty.virtual_devices {
        let first = device.ports.iter().find_map(|ports| match ports {
            Ports::Tcp(first, _) => Some(*first),
            Ports::All | Ports::Udp(..) | Ports::Icmp | Ports::Protocol(_) | Ports::Unknown => None,
        });
        add(device.source, device.untested, &device.target, first);
    }
    wanted
}

async fn ask(mesh: Ipv4Addr, target: Ipv4Addr, ports: &[u16]) -> WayBack {
    if answers(mesh, target, ports).await {
        WayBack::Here
    } else if answers(Ipv4Addr::UNSPECIFIED, target, ports).await {
        WayBack::Elsewhere
    } else {
        WayBack::Silent
    }
}

/// Whether a device answers anything that is asked from an address.
async fn answers(from: Ipv4Addr, target: Ipv4Addr, ports: &[u16]) -> bool {
    let mut asked = JoinSet::new();
    asked.spawn(async move { ping(from, target).await.is_ok() });
    // With no port known, one that devices often have; a refusal is an answer, too.
    for port in ports.iter().copied().chain(ports.is_empty().then_some(80)) {
        asked.spawn(async move { connect(from, target, port).await });
    }
    let any = async {
        while let Some(answered) = asked.join_next().await {
            if answered.unwrap_or(false) {
                return true;
            }
        }
        false
    };
    timeout(LIMIT, any).await.unwrap_or(false)
}

async fn connect(from: Ipv4Addr, target: Ipv4Addr, port: u16) -> bool {
    let connected = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect((target, port).into()).await
    };
    match connected.await {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}
