//! Listening where only the mesh comes in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use crate::Sources;
use crate::site::Site;
use crate::surround::router;

/// Where the pages are.
pub const PORT: u16 = 80;

/// How many connections there may be.
const CONNECTIONS: usize = 128;
/// How many of them from one address.
const EACH: usize = 16;
/// How many wait to be accepted.
const BACKLOG: i32 = 64;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(15);
/// A pause after the system had no place for a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// The address that a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(pub(crate) IpAddr);

/// The pages, being served. Dropped, they are not.
#[derive(Debug)]
pub struct Pages {
    _tasks: JoinSet<()>,
}

impl Pages {
    /// Serves at port 80 of these addresses, to what comes in by that interface.
    ///
    /// Must be called within a tokio runtime, on a thread in the host's network namespace.
    ///
    /// # Errors
    /// The port is somebody else's, or an address isn't there (yet).
    pub fn start(sources: Sources, addresses: &[IpAddr], interface: &str) -> anyhow::Result<Self> {
        let bind = |ip: &IpAddr| bind(SocketAddr::new(*ip, PORT), Some(interface));
        let listeners = addresses.iter().map(bind).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self::serve(sources, listeners, PORT))
    }

    /// Serves at that address to whoever comes, by whatever interface: for tests.
    ///
    /// # Errors
    /// The address isn't to be had.
    pub fn start_at(sources: Sources, address: SocketAddr) -> anyhow::Result<(Self, SocketAddr)> {
        let listener = bind(address, None)?;
        let address = listener.local_addr()?;
        Ok((Self::serve(sources, vec![listener], address.port()), address))
    }

    fn serve(sources: Sources, listeners: Vec<TcpListener>, port: u16) -> Self {
        let site = Arc::new(Site::new(sources, port));
        let app = router(Arc::clone(&site));
        let places = Places::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(site.watch());
        for listener in listeners {
            tasks.spawn(accept(listener, app.clone(), places.clone()));
        }
        Self { _tasks: tasks }
    }
}

fn bind(address: SocketAddr, interface: Option<&str>) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(interface) = interface {
        socket
            .bind_device(Some(interface.as_bytes()))
            .context("binding to the mesh's interface")?;
    }
    socket.bind(&address.into()).with_context(|| address.to_string())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Who has how many connections.
#[derive(Debug, Clone)]
struct Places {
    all: Arc<Semaphore>,
    by_source: Arc<std::sync::Mutex<std::collections::BTreeMap<IpAddr, usize>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS)), by_source: Arc::default() }
    }
}

impl Places {
    /// A place for one more connection from there, if there is one.
    fn take(&self, source: IpAddr) -> Option<Seat> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut counts = self.by_source.lock().ok()?;
        let count = counts.entry(source).or_default();
        if *count >= EACH {
            return None;
        }
        *count += 1;
        Some(Seat { places: self.clone(), source, _permit: permit })
    }
}

/// A connection's place, given back when it ends.
struct Seat {
    places: Places,
    source: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Ok(mut counts) = self.places.by_source.lock() else { return };
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// Ends its connections with itself.
struct Served(Vec<AbortHandle>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn accept(listener: TcpListener, app: Router, places: Places) {
    let mut served = Served(Vec::new());
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                // Who is over his share is closed, and may come again.
                let Some(seat) = places.take(from.ip().to_canonical()) else { continue };
                let task = tokio::spawn(converse(stream, from, app.clone(), seat));
                served.0.retain(|task| !task.is_finished());
                served.0.push(task.abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the edge's pages wasn't taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, app: Router, seat: Seat) {
    let source = Source(from.ip().to_canonical());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(source);
        let mut app = app.clone();
        // A router is always ready.
        async move { tower_call(&mut app, request).await }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::trace!(%error, "a connection to the edge's pages has ended");
    }
    drop(seat);
}

async fn tower_call(
    app: &mut Router,
    request: hyper::Request<Incoming>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    use tower_service::Service as _;
    app.call(request.map(axum::body::Body::new)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_its_share_of_connections_and_no_more() {
        let places = Places::default();
        let (one, other) = ("100.80.1.1".parse().unwrap(), "100.80.1.2".parse().unwrap());
        let seats: Vec<Seat> = (0..EACH).filter_map(|_| places.take(one)).collect();
        assert_eq!(seats.len(), EACH);
        assert!(places.take(one).is_none() && places.take(other).is_some());
        drop(seats);
        assert!(places.take(one).is_some());
        assert_eq!(places.all.available_permits(), CONNECTIONS);
    }
}
