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
use super::forward::forward;
use super::zone::{Answer, Zone};

/// Questions passed on at once.
const IN_FLIGHT: usize = 256;
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
}

/// A running resolver; ends when dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Context {
    /// The only one who may ask.
    own: IpAddr,
    sources: watch::Receiver<Sources>,
    in_flight: Arc<Semaphore>,
    flights: Flights,
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
        let context = Context { own: address.ip(), sources, in_flight, flights };
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
        if !context.may_ask(from) {
            continue;
        }
        let question = &buffer[..len];
        match context.answer(question) {
            Answer::Reply(answer) => {
                let _ = socket.send_to(&answer, from).await;
            }
            Answer::Ignore => {}
            Answer::Forward => {
                let Ok(permit) = Arc::clone(&context.in_flight).try_acquire_owned() else {
                    // The client asks again; by then there is room.
                    continue;
                };
                let (socket, context) = (Arc::clone(&socket), context.clone());
                let question = question.to_vec();
                tokio::spawn(async move {
                    let _permit = permit;
                    if let Some(answer) = context.ask_others(&question, true).await {
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
            Ok((stream, from)) if context.may_ask(from) => {
                let context = context.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    let _ = serve_connection(stream, &context).await;
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the resolver accepted nothing");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, context: &Context) -> io::Result<()> {
    loop {
        let question = timeout(IDLE, async {
            let len = stream.read_u16().await?;
            let mut question = vec![0; usize::from(len)];
            stream.read_exact(&mut question).await?;
            Ok::<_, io::Error>(question)
        });
        let Ok(question) = question.await else { return Ok(()) };
        let question = question?;
        let answer = match context.answer(&question) {
            Answer::Reply(answer) => Some(answer),
            Answer::Ignore => None,
            Answer::Forward => context.ask_others(&question, false).await,
        };
        let Some(answer) = answer else { return Ok(()) };
        let len = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        stream.write_all(&[&len.to_be_bytes(), answer.as_slice()].concat()).await?;
    }
}

impl Context {
    /// The host's own programs reach the mesh address from itself; peers would come from theirs.
    fn may_ask(&self, from: SocketAddr) -> bool {
        let from = from.ip().to_canonical();
        from == self.own || from.is_loopback()
    }

    fn answer(&self, question: &[u8]) -> Answer {
        match &self.sources.borrow().zone {
            Some(zone) => zone.answer(question),
            None => Answer::Forward,
        }
    }

    async fn ask_others(&self, question: &[u8], udp: bool) -> Option<Vec<u8>> {
        let servers = self.sources.borrow().servers.clone();
        if servers.is_empty() {
            return failure(question, REFUSED);
        }
        let flight = self.flights.begin(question);
        match forward(question, &flight.choose(servers), udp).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(%error, "no name server answered");
                failure(question, SERVFAIL)
            }
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
