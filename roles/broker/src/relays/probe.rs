//! Whether relays can be reached: the broker asks each for a Binding (RFC 8489 §2), from a port of
//! its own for each question, so that no router lets the answer through as one to another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout_at};
use warren_coord::{RelayFace, RelayKind, RelayProbe};
use warren_proto::RelayId;
use warren_turn::{Builder, Class, Message, Method, TransactionId};

use super::{Relays, Server, resolve_again};
use crate::accounts::AccountHandle;

/// How often each relay is asked.
const INTERVAL: Duration = Duration::from_secs(60);
/// How often the names of TURN servers are looked up, in such intervals.
const RESOLVE_EVERY: u32 = 60;
/// When a question is repeated, and when it is given up.
const TRIES: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(500);
/// Relays that are asked at the same time.
const AT_ONCE: usize = 32;

/// Whether an answer comes from there.
pub(crate) async fn answers(addr: SocketAddr) -> bool {
    ask(addr).await.unwrap_or(false)
}

async fn ask(addr: SocketAddr) -> std::io::Result<bool> {
    let id = TransactionId(rand::random());
    let mut request = Vec::new();
    Builder::new(&mut request, Class::Request, Method::BINDING, id).fingerprint();
    let is_answer = |it: &Message<'_>| it.class() == Class::Success && it.transaction_id() == id;
    Ok(exchange(addr, &request, is_answer).await?.rtt.is_some())
}

/// What became of a question.
pub(crate) struct Asked {
    /// The own address that it left from.
    pub(crate) from: IpAddr,
    /// From the last time it was sent until the answer, if there was one.
    pub(crate) rtt: Option<Duration>,
}

/// Sends a request until it is answered, or [`PATIENCE`] is over the fourth time.
pub(crate) async fn exchange(
    addr: SocketAddr,
    request: &[u8],
    is_answer: impl Fn(&Message<'_>) -> bool,
) -> std::io::Result<Asked> {
    let any: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    let from = socket.local_addr()?.ip();
    let mut buffer = [0; 1500];
    for _ in 0..TRIES {
        // A port that is closed shows as an error here; it may open.
        let _ = socket.send(request).await;
        let sent = Instant::now();
        let end = sent + PATIENCE;
        while let Ok(received) = timeout_at(end, socket.recv(&mut buffer)).await {
            let Ok(len) = received else {
                tokio::time::sleep_until(end).await;
                break;
            };
            if Message::parse(&buffer[..len]).is_ok_and(|it| is_answer(&it)) {
                return Ok(Asked { from, rtt: Some(sent.elapsed()) });
            }
        }
    }
    Ok(Asked { from, rtt: None })
}

async fn probes(addresses: Vec<SocketAddr>) -> Vec<RelayProbe> {
    let mut probes = Vec::new();
    for addr in addresses {
        probes.push(RelayProbe { addr, answered: answers(addr).await });
    }
    probes
}

/// Asks all relays of an account at once.
pub(crate) async fn probe_account(account: &Arc<AccountHandle>) {
    let mut asking = JoinSet::new();
    for (id, addresses) in account.read(warren_coord::Account::relay_addresses) {
        asking.spawn(async move { (id, probes(addresses).await) });
    }
    while let Some(asked) = asking.join_next().await {
        let Ok((id, probes)) = asked else { continue };
        account.soft(|account, _| account.handle_relay_probes(id, probes));
    }
}

impl Relays {
    /// Asks one relay server.
    pub(super) async fn probe_server(&self, server: Server, face: &RelayFace) {
        let found = probes(face.udp.clone()).await;
        match server {
            Server::Of(account, id) => {
                if let Some(account) = self.accounts.get(account) {
                    account.soft(|account, _| account.handle_relay_probes(id, found));
                }
            }
            Server::Operators(id) => self.note_probes(id, found),
        }
    }

    fn note_probes(&self, id: RelayId, probes: Vec<RelayProbe>) {
        self.lock().live.entry(id).or_default().probes = probes;
    }

    async fn probe_all(self: &Arc<Self>) {
        let mut asking: JoinSet<()> = JoinSet::new();
        let shared: Vec<(RelayId, Vec<SocketAddr>)> = self.look(|records| {
            let asked = |record: &warren_coord::RelayRecord| record.kind != RelayKind::Own;
            let records = records.filter(|(record, _)| asked(record));
            records.map(|(record, _)| (record.id, record.face.udp.clone())).collect()
        });
        for (id, addresses) in shared {
            let this = self.clone();
            asking.spawn(async move { this.note_probes(id, probes(addresses).await) });
        }
        for account in self.accounts.all() {
            while asking.len() >= AT_ONCE {
                asking.join_next().await;
            }
            asking.spawn(async move { probe_account(&account).await });
        }
        while asking.join_next().await.is_some() {}
    }
}

/// Asks all relays again and again, until `stop` turns true.
pub(crate) async fn keep_asking(relays: Arc<Relays>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(INTERVAL);
    for round in 0u32.. {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            () = async {
                if round % RESOLVE_EVERY == 0 {
                    resolve_again(&relays).await;
                }
                relays.probe_all().await;
            } => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stun_server_answers_and_a_closed_port_does_not() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            for n in 0.. {
                let (len, from) = server.recv_from(&mut buffer).await.unwrap();
                let id = Message::parse(&buffer[..len]).unwrap().transaction_id();
                let (mut answer, mut other) = (Vec::new(), Vec::new());
                Builder::new(&mut answer, Class::Success, Method::BINDING, id).fingerprint();
                // The first question is lost, and a stranger interferes.
                let stranger = TransactionId([9; 12]);
                Builder::new(&mut other, Class::Success, Method::BINDING, stranger).fingerprint();
                server.send_to(&other, from).await.unwrap();
                if n > 0 {
                    server.send_to(&answer, from).await.unwrap();
                }
            }
        });
        assert!(answers(addr).await);
        serving.abort();
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(!answers(closed).await);
    }
}
