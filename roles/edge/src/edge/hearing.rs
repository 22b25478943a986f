//! Ears on the LAN: one task for each Ethernet interface on which a followed device may be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use warren_net::{ArpSocket, LanInterface};
use warren_proto::{LanTarget, MacAddr};

/// The largest network that is asked as a whole.
const LARGEST: u8 = 22;
/// Between two questions of a sweep.
const PACE: Duration = Duration::from_millis(4);
/// How much may wait to be taken; more is lost, as on the wire.
const QUEUE: usize = 256;

/// So often a network is asked as a whole at most, by however many cards are lost in it.
const SWEEPS: Duration = Duration::from_secs(15);

/// How long an ear rests that has heard of nothing but trouble.
const DEAF: Duration = Duration::from_secs(1);

/// What was heard: on which interface, from which card, at which address.
type Word = (u32, MacAddr, Ipv4Addr);

/// All ears.
#[derive(Debug)]
pub(super) struct Hearing {
    ears: BTreeMap<u32, Ear>,
    sender: mpsc::Sender<Word>,
    heard: mpsc::Receiver<Word>,
    /// When which network was last asked as a whole.
    swept: BTreeMap<Ipv4Net, Instant>,
}

impl Default for Hearing {
    fn default() -> Self {
        let (sender, heard) = mpsc::channel(QUEUE);
        Self { ears: BTreeMap::new(), sender, heard, swept: BTreeMap::new() }
    }
}

#[derive(Debug)]
struct Ear {
    socket: Arc<ArpSocket>,
    networks: Vec<Ipv4Net>,
    task: AbortHandle,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hearing {
    /// Listens where targets that are bound to a card may be, and nowhere else.
    pub(super) fn listen(
        &mut self,
        interfaces: &[LanInterface],
        targets: &[&LanTarget],
    ) -> Result<(), warren_net::Error> {
        let bound: Vec<Ipv4Addr> =
            targets.iter().filter(|target| target.mac.is_some()).map(|target| target.ip).collect();
        let mut wanted = BTreeMap::new();
        for interface in interfaces {
            let networks: Vec<Ipv4Net> = interface
                .addresses
                .iter()
                .filter_map(|net| match net {
                    IpNet::V4(net) => Some(*net),
                    IpNet::V6(_) => None,
                })
                .collect();
            let near = bound.iter().any(|ip| networks.iter().any(|net| net.contains(ip)));
            if let Some(mac) = interface.mac.filter(|_| near) {
                wanted.insert(interface.index, (mac, networks));
            }
        }
        self.ears.retain(|index, ear| wanted.contains_key(index) && !ear.task.is_finished());
        for (index, (mac, networks)) in wanted {
            if let Some(ear) = self.ears.get_mut(&index) {
                ear.networks = networks;
                continue;
            }
            let socket = Arc::new(ArpSocket::open(index, mac)?);
            let task = tokio::spawn(hear(index, Arc::clone(&socket), self.sender.clone()));
            self.ears.insert(index, Ear { socket, networks, task: task.abort_handle() });
        }
        Ok(())
    }

    /// The next that was heard, with the network of the interface in which the address is. What is said
    /// of other addresses isn't believed.
    pub(super) async fn next(&mut self) -> Option<(MacAddr, Ipv4Addr, Ipv4Net)> {
        loop {
            let (index, mac, ip) = self.heard.recv().await?;
            let networks = self.ears.get(&index).map(|ear| &ear.networks);
            let network = networks.and_then(|nets| nets.iter().find(|net| net.contains(&ip)));
            if let Some(network) = network {
                return Some((mac, ip, network.trunc()));
            }
        }
    }

    /// Whether a card that speaks from `ip` would be heard.
    pub(super) fn is_audible(&self, ip: Ipv4Addr) -> bool {
        self.ear_for(ip).is_some()
    }

    /// Asks who has `ip`.
    pub(super) fn ask(&self, ip: Ipv4Addr) {
        if let Some((ear, net)) = self.ear_for(ip) {
            // A lost question is like a lost packet.
            let _ = ear.socket.ask(net.addr(), ip);
        }
    }

    /// Asks everybody in the network of `ip`.
    pub(super) fn sweep(&mut self, ip: Ipv4Addr) {
        let Some((ear, net)) = self.ear_for(ip).filter(|(_, n)| n.prefix_len() >= LARGEST) else {
            return;
        };
        let (socket, now) = (Arc::clone(&ear.socket), Instant::now());
        if self.swept.get(&net).is_some_and(|at| now < *at + SWEEPS) {
            return;
        }
        self.swept.retain(|_, at| now < *at + SWEEPS);
        self.swept.insert(net, now);
        tokio::spawn(async move {
            for host in net.hosts() {
                let _ = socket.ask(net.addr(), host);
                tokio::time::sleep(PACE).await;
            }
        });
    }

    fn ear_for(&self, ip: Ipv4Addr) -> Option<(&Ear, Ipv4Net)> {
        self.ears.values().find_map(|ear| {
            ear.networks.iter().find(|net| net.contains(&ip)).map(|net| (ear, *net))
        })
    }
}

async fn hear(index: u32, socket: Arc<ArpSocket>, sender: mpsc::Sender<Word>) {
    loop {
        match socket.hear().await {
            // A flood on the LAN must not hold anything up.
            Ok(heard) => match sender.try_send((index, MacAddr(heard.mac), heard.ip)) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            },
            // It hears again once the interface is up; one that is gone is listened to no more.
            Err(error) => {
                tracing::debug!(%error, "an interface went down");
                tokio::time::sleep(DEAF).await;
            }
        }
    }
}
