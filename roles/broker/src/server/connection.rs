//! One connection's life: handshake, requests, idleness, the end.
//!
//! A stranger, who has shown no valid token yet, has little time for it in all, whatever it does
//! meanwhile.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower_service::Service as _;
use tracing::debug;

use super::Server;
use super::flow::{Flow, Streams, Watch};
use super::gate::{Holder, Permit};
use super::stream::{Stalling, Stream};
use crate::config::Limits;
use crate::embedded::RunningRelay;
use crate::tls::Acceptor;

/// HTTP/2 windows: what strangers may have on the way to handlers that haven't asked for it. The
/// connection's can't be smaller (RFC 9113 §6.9.2).
const H2_STREAM_WINDOW: u32 = 16 * 1024;
const H2_CONNECTION_WINDOW: u32 = 65_535;
const H2_STREAMS: u32 = 16;
const H2_SEND_BUFFER: usize = 2 * 1024;
const MAX_HEADERS: u32 = 16 * 1024;

/// Who is at the other end, as each request carries it in its extensions.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Connection>);

impl Peer {
    /// The connection's source: the client, or the proxy before it.
    pub(crate) fn source(&self) -> SocketAddr {
        self.0.source
    }

    /// Notes that a valid token was shown on this connection.
    pub(crate) fn set_known(&self, holder: Holder) {
        self.0.permit.set_known(holder);
    }
}

struct Connection {
    source: SocketAddr,
    permit: Permit,
    accepted: Instant,
    in_flight: AtomicUsize,
    /// When the last request ended.
    idle_since: Mutex<Instant>,
}

impl Connection {
    /// How long until this connection may have been idle for too long; zero: it has been.
    fn idle_left(&self, limits: &Limits) -> Duration {
        let known = self.permit.is_known();
        let patience = if known { limits.idle } else { limits.stranger_idle };
        let left = if self.in_flight.load(Ordering::Acquire) > 0 {
            patience
        } else {
            let idle_since =
                self.idle_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            patience.saturating_sub(idle_since.elapsed())
        };
        if known {
            return left;
        }
        left.min(limits.stranger_lifetime.saturating_sub(self.accepted.elapsed()))
    }
}

/// Counts a request as under way until its response's body is gone.
struct InFlight(Arc<Connection>);

impl InFlight {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(connection.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Instant::now();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Context {
    acceptor: Acceptor,
    router: Router,
    limits: Arc<Limits>,
    http: Arc<auto::Builder<Streams>>,
    relay: Option<Arc<dyn RunningRelay>>,
    shutdown: watch::Receiver<bool>,
}

impl Context {
    pub(crate) fn new(server: &Server, shutdown: watch::Receiver<bool>) -> Self {
        let limits = server.limits.clone();
        let mut http = auto::Builder::new(Streams { patience: limits.write_stall });
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_timeout)
            .max_buf_size(MAX_HEADERS as usize);
        http.http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_concurrent_streams(H2_STREAMS)
            .max_send_buf_size(H2_SEND_BUFFER)
            .max_header_list_size(MAX_HEADERS);
        Self {
            acceptor: server.acceptor.clone(),
            router: server.router.clone(),
            limits,
            http: Arc::new(http),
            relay: server.relay.clone(),
            shutdown,
        }
    }

    /// Serves one connection to its end.
    pub(crate) async fn run(mut self, socket: TcpStream, source: SocketAddr, permit: Permit) {
        let accepted = Instant::now();
        let evicted = Watch::new(permit.flow().clone(), self.limits.stranger_lifetime);
        // In a box of its own: it is large, and over before the connection has begun to be long.
        let (acceptor, relays) = (self.acceptor.clone(), self.relay.is_some());
        let handshake = Box::pin(async move {
            let Some(mut stream) = Stream::accept(socket, &acceptor).await? else {
                return Ok(None);
            };
            let is_turn = relays && stream.is_turn().await?;
            Ok::<_, std::io::Error>(Some((stream, is_turn)))
        });
        let (stream, is_turn) = tokio::select! {
            done = tokio::time::timeout(self.limits.handshake_timeout, handshake) => match done {
                Ok(Ok(Some(accepted))) => accepted,
                Ok(Ok(None)) => return,
                Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
                Err(_) => return debug!("TLS handshake took too long"),
            },
            () = evicted => return debug!("gave a stranger's place to another"),
            _ = self.shutdown.wait_for(|stop| *stop) => return,
        };
        if let (Some(relay), true) = (&self.relay, is_turn) {
            let stream = Stalling::new(stream, self.limits.write_stall);
            let relaying = relay.serve(Box::new(stream), source);
            let evicted = Watch::new(permit.flow().clone(), self.limits.write_stall);
            tokio::select! {
                () = relaying => {}
                () = evicted => debug!("gave a stranger's place to another"),
                _ = self.shutdown.wait_for(|stop| *stop) => {}
            }
            return;
        }
        let connection = Arc::new(Connection {
            source,
            permit,
            accepted,
            in_flight: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        });
        if let Err(error) = self.serve(stream, connection).await {
            debug!(%error, "connection ended");
        }
    }

    async fn serve(
        &mut self,
        stream: Stream,
        connection: Arc<Connection>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let io = TokioIo::new(Stalling::new(stream, self.limits.write_stall));
        let service = Requests { router: self.router.clone(), connection: connection.clone() };
        let serving = self.http.serve_connection(io, service);
        let mut serving = Box::pin(serving);
        let mut watch = Watch::new(connection.permit.flow().clone(), self.limits.write_stall);
        let mut shutdown = self.shutdown.clone();
        let mut ending = false;
        loop {
            let nap = match connection.idle_left(&self.limits) {
                Duration::ZERO if ending => return Ok(()),
                Duration::ZERO => {
                    serving.as_mut().graceful_shutdown();
                    ending = true;
                    self.limits.handshake_timeout
                }
                left => left,
            };
            tokio::select! {
                biased;
                done = serving.as_mut() => return done,
                () = &mut watch => return Ok(()),
                () = tokio::time::sleep(nap) => {}
                _ = shutdown.wait_for(|stop| *stop), if !ending => {
                    serving.as_mut().graceful_shutdown();
                    ending = true;
                }
            }
        }
    }
}

/// Hands each request to the router, with who sent it.
struct Requests {
    router: Router,
    connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response<Tracked>;
    type Error = Infallible;
    type Future =
        Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send + 'static>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let in_flight = InFlight::new(&self.connection);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(self.connection.clone()));
        let mut router = self.router.clone();
        let connection = self.connection.clone();
        Box::pin(async move {
            // HTTP/1 has one response at a time, which the connection's own task drives.
            let flow = Flow::current().unwrap_or_else(|| connection.permit.flow().clone());
            request.extensions_mut().insert(flow.clone());
            let response = router.call(request).await?;
            flow.wait_for_client();
            Ok(response.map(|body| Tracked { body, flow, _in_flight: in_flight }))
        })
    }
}

/// A response's body that keeps its connection in use and tells whose turn it is.
struct Tracked {
    body: Body,
    flow: Arc<Flow>,
    _in_flight: InFlight,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // What HTTP/1 hasn't written yet, the connection's own patience is for.
        self.flow.wait_for_body();
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match frame {
            Poll::Ready(Some(_)) => self.flow.wait_for_client(),
            Poll::Ready(None) | Poll::Pending => self.flow.wait_for_body(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The client's address: the connection's, or what a trusted proxy says of it. Of a chain of
/// proxies the last one that isn't ours is believed, and nothing before it.
pub(crate) fn client_of(
    source: SocketAddr,
    forwarded_for: impl DoubleEndedIterator<Item = impl AsRef<str>>,
    trusted: &[IpNet],
) -> std::net::IpAddr {
    let is_trusted = |ip: &std::net::IpAddr| trusted.iter().any(|net| net.contains(ip));
    let mut client = source.ip().to_canonical();
    for hop in forwarded_for.rev() {
        if !is_trusted(&client) {
            break;
        }
        let Ok(ip) = hop.as_ref().trim().parse::<std::net::IpAddr>() else { break };
        client = ip.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let client = |source: &str, chain: &str| {
            client_of(source.parse().unwrap(), chain.split(','), &trusted).to_string()
        };
        assert_eq!(client("10.0.0.1:1", "198.51.100.9"), "198.51.100.9");
        assert_eq!(client("192.0.2.1:1", "198.51.100.9"), "192.0.2.1");
        assert_eq!(client("10.0.0.1:1", "1.2.3.4, 198.51.100.9, 10.0.0.2"), "198.51.100.9");
        assert_eq!(client("10.0.0.1:1", "1.2.3.4, garbage"), "10.0.0.1");
        assert_eq!(client("[::ffff:10.0.0.1]:1", "2001:db8::1"), "2001:db8::1");
    }
}
