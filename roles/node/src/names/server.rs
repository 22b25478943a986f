use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::flights::Flights;
use super::forward::{Way, forward, name_asked};
use super::zone::{Answer, Zone};

/// Questions passed on at once.
const IN_FLIGHT: usize = 256;
/// The same for those that use this device as their exit node, all together.
const GUESTS_IN_FLIGHT: usize = 256;
/// Connections at once.
const CONNECTIONS: usize = 32;
/// A connection without a question is closed (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// The response code 'server failure', in the header's fourth byte.
const SERVFAIL: u8 = 2;
/// The response code 'refused'.
const REFUSED: u8 = 5;

/// Where answers come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) zone: Option<Arc<Zone>>,
    /// Who knows all other names; none means that nobody asks us for them.
    pub(crate) servers: Vec<SocketAddr>,
    /// The servers of the host's own network, whoever is asked for all other names.
    pub(crate) uplinks: Vec<SocketAddr>,
    /// While this device uses an exit node: who is asked in place of `servers`.
    pub(crate) exit: Option<Exit>,
    /// Who uses this device as its exit node, by mesh address.
    pub(crate) guests: BTreeSet<IpAddr>,
}

/// Who is asked while an exit node is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit node, through the tunnel, and those that stand by for it. Empty: none offers itself, and
    /// nobody is asked.
    pub(crate) servers: Vec<SocketAddr>,
    /// Names that the tunnel itself is built with, in lower case: they are asked of the host's own network.
    pub(crate) besides: BTreeSet<String>,
}

/// A running resolver; ends when dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
pub(super) struct Context {
    /// The only one who may ask.
    own: IpAddr,
    sources: watch::Receiver<Sources>,
    in_flight: Arc<Semaphore>,
    guests_in_flight: Arc<Semaphore>,
    flights: Flights,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// A program of this host.
    Host,
    /// A device that uses this one as its exit node.
    Guest,
}

impl Resolver {
    /// Listens at `address`, UDP and TCP; port 0 picks one.
    ///
    /// # Errors
    /// The port is taken, or may not be had.
    pub(crate) async fn start(
        address: SocketAddr,
        sources: watch::Receiver<Sources>,
    ) -> io::Result<Self> {
        let udp = UdpSocket::bind(address).await?;
        let address = udp.local_addr()?;
        let tcp = TcpListener::bind(address).await?;
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        let flights = Flights::default();
        let guests_in_flight = Arc::new(Semaphore::new(GUESTS_IN_FLIGHT));
        let own = address.ip();
        let context = Context { own, sources, in_flight, guests_in_flight, flights };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), context.clone()));
        tasks.spawn(serve_tcp(tcp, context));
        Ok(Self { address, _tasks: tasks })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, context: Context) {
    let mut buffer = vec![0; 4_096];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "the resolver received nothing");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(asker) = context.asker(from) else { continue };
        let question = &buffer[..len];
        match context.answer(question, asker) {
            Answer::Reply(answer) => {
                let _ = socket.send_to(&answer, from).await;
            }
            Answer::Ignore => {}
            Answer::Forward => {
                let Ok(permit) = context.room(asker).try_acquire_owned() else {
                    // The client asks again; by then there is room.
                    continue;
                };
                let (socket, context) = (Arc::clone(&socket), context.clone());
                let question = question.to_vec();
                tokio::spawn(async move {
                    let _permit = permit;
                    if let Some(answer) = context.ask_others(&question, true, asker).await {
                        let _ = socket.send_to(&answer, from).await;
                    }
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, context: Context) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(asker) = context.asker(from) else { continue };
                let context = context.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    let _ = serve_connection(stream, &context, asker).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "the resolver accepted nothing");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    context: &Context,
    asker: Asker,
) -> io::Result<()> {
    loop {
        let question = timeout(IDLE, async {
            let len = stream.read_u16().await?;
            let mut question = vec![0; usize::from(len)];
            stream.read_exact(&mut question).await?;
            Ok::<_, io::Error>(question)
        });
        let Ok(question) = question.await else { return Ok(()) };
        let question = question?;
        let answer = match context.answer(&question, asker) {
            Answer::Reply(answer) => Some(answer),
            Answer::Ignore => None,
            Answer::Forward => context.ask_others(&question, false, asker).await,
        };
        let Some(answer) = answer else { return Ok(()) };
        let len = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let answer = [&len.to_be_bytes(), answer.as_slice()].concat();
        // Whoever doesn't read keeps nobody else from asking.
        let Ok(sent) = timeout(IDLE, stream.write_all(&answer)).await else { return Ok(()) };
        sent?;
    }
}

impl Context {
    /// The host's own programs reach the mesh address from itself; peers come from theirs.
    fn asker(&self, from: SocketAddr) -> Option<Asker> {
        let from = from.ip().to_canonical();
        if from == self.own || from.is_loopback() {
            return Some(Asker::Host);
        }
        self.sources.borrow().guests.contains(&from).then_some(Asker::Guest)
    }

    fn room(&self, asker: Asker) -> Arc<Semaphore> {
        Arc::clone(match asker {
            Asker::Host => &self.in_flight,
            Asker::Guest => &self.guests_in_flight,
        })
    }

    fn answer(&self, question: &[u8], asker: Asker) -> Answer {
        let Some(zone) = self.sources.borrow().zone.clone() else { return Answer::Forward };
        match (zone.answer(question), asker) {
            // Which names of the mesh a guest may know, its own map says.
            (Answer::Reply(_), Asker::Guest) => {
                failure(question, REFUSED).map_or(Answer::Ignore, Answer::Reply)
            }
            (answer, Asker::Host | Asker::Guest) => answer,
        }
    }

    /// Who is asked, and how the question gets there; `None`: nobody may be.
    fn servers_for(&self, question: &[u8], asker: Asker) -> Option<(Vec<SocketAddr>, Way)> {
        let sources = self.sources.borrow();
        let own = |servers: &Vec<SocketAddr>| Some((servers.clone(), Way::Own));
        match (&sources.exit, asker) {
            (_, Asker::Guest) => own(&sources.uplinks),
            (None, Asker::Host) => own(&sources.servers),
            (Some(exit), Asker::Host) => {
                if name_asked(question).is_some_and(|name| exit.besides.contains(&name)) {
                    return own(&sources.uplinks);
                }
                (!exit.servers.is_empty()).then(|| (exit.servers.clone(), Way::Mesh))
            }
        }
    }

    async fn ask_others(&self, question: &[u8], udp: bool, asker: Asker) -> Option<Vec<u8>> {
        let Some((servers, way)) = self.servers_for(question, asker) else {
            return failure(question, SERVFAIL);
        };
        if servers.is_empty() {
            return failure(question, REFUSED);
        }
        let flight = self.flights.begin(question);
        match forward(question, &flight.choose(servers), udp, way).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(%error, "no name server answered");
                failure(question, SERVFAIL)
            }
        }
    }
}

#[cfg(test)]
impl Context {
    pub(super) fn for_test(own: IpAddr, sources: watch::Receiver<Sources>) -> Self {
        let in_flight = || Arc::new(Semaphore::new(1));
        let flights = Flights::default();
        Self { own, sources, in_flight: in_flight(), guests_in_flight: in_flight(), flights }
    }

    /// What comes back to that address; loopback isn't the host here.
    pub(super) async fn ask_from(&self, from: IpAddr, question: &[u8]) -> Option<Vec<u8>> {
        let is_guest = self.sources.borrow().guests.contains(&from);
        let asker = if is_guest { Asker::Guest } else { self.asker((from, 1).into())? };
        match self.answer(question, asker) {
            Answer::Reply(answer) => Some(answer),
            Answer::Ignore => None,
            Answer::Forward => self.ask_others(question, true, asker).await,
        }
    }
}

/// The question as an answer that says why there is none.
fn failure(question: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut answer = question.to_vec();
    let header = answer.get_mut(..12)?;
    // QR and RA are set, opcode and RD stay (RFC 1035 §4.1.1).
    header[2] = (header[2] | 0x80) & !0x06;
    header[3] = 0x80 | code;
    Some(answer)
}
