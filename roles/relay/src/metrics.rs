//! A small HTTP server for those who watch over a relay: `/metrics` in Prometheus' text format,
//! `/healthz` (it runs), `/readyz` (it takes new work).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::{Display, Write as _};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use crate::listen;

/// The most connections at once, and of one address.
const MAX_CONNECTIONS: usize = 64;
const MAX_PER_SOURCE: usize = 16;
/// How long a request may take to come.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a connection may take.
const MAX_TIME: Duration = Duration::from_secs(30);

/// What a relay says of itself.
pub trait Watched: Send + Sync + 'static {
    /// Writes the metrics.
    fn metrics(&self, page: &mut Page);
    /// Whether it takes new work.
    fn is_ready(&self) -> bool;

    /// Answers a request of its own kind; `None` for none of them.
    fn call(&self, request: &Request<()>, from: IpAddr) -> Option<Response<Full<Bytes>>> {
        let _ = (request, from);
        None
    }
}

/// Metrics in Prometheus' text format.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// A number that only grows; its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, help, "counter");
        self.sample(name, value);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, help, "gauge");
        self.sample(name, value);
    }

    /// A counter with a label; the values of the label are of our own making and hold no quotes.
    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (impl Display, impl Display)>,
    ) {
        self.begin(name, help, "counter");
        for (key, value) in values {
            let _ = writeln!(self.text, "{name}{{{label}=\"{key}\"}} {value}");
        }
    }

    fn begin(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.text, "{name} {value}");
    }

    /// The page so far.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Listens at `address`; the result serves until it is dropped. To be called within a tokio runtime.
///
/// # Errors
///
/// If the address can't be listened at.
pub fn listen(
    address: SocketAddr,
    watched: Arc<impl Watched>,
) -> anyhow::Result<impl Future<Output = Infallible> + Send> {
    let listener = listen::tcp("metrics", address, "--metrics")?;
    tracing::info!(address = %listener.local_addr()?, "metrics are served");
    Ok(serve(listener, watched))
}

async fn serve(listener: TcpListener, watched: Arc<impl Watched>) -> Infallible {
    let mut connections = Connections::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok((stream, from)) => (stream, from.ip()),
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        connections.make_room(from);
        let watched = Arc::clone(&watched);
        connections.spawn(from, async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let response = answer(&request.map(drop), from, &*watched);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .serve_connection(TokioIo::new(stream), answer);
            let _ = tokio::time::timeout(MAX_TIME, connection).await;
        });
    }
}

/// The connections there are, the oldest first. An answer takes no time, so whoever is old has asked
/// nothing yet, or has had his answer: he makes room.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    by_age: VecDeque<(IpAddr, AbortHandle)>,
}

impl Connections {
    fn make_room(&mut self, from: IpAddr) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|(_, task)| !task.is_finished());
        let is_neighbour = |(source, _): &&(IpAddr, AbortHandle)| *source == from;
        let victim = if self.by_age.iter().filter(is_neighbour).count() >= MAX_PER_SOURCE {
            self.by_age.iter().position(|one| is_neighbour(&one))
        } else {
            (self.by_age.len() >= MAX_CONNECTIONS).then_some(0)
        };
        if let Some((_, task)) = victim.and_then(|place| self.by_age.remove(place)) {
            task.abort();
        }
    }

    fn spawn(&mut self, from: IpAddr, serving: impl Future<Output = ()> + Send + 'static) {
        self.by_age.push_back((from, self.tasks.spawn(serving)));
    }
}

fn answer(request: &Request<()>, from: IpAddr, watched: &impl Watched) -> Response<Full<Bytes>> {
    if let Some(response) = watched.call(request, from) {
        return response;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => {
            let mut page = Page::default();
            watched.metrics(&mut page);
            text(StatusCode::OK, page.into_text())
        }
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if watched.is_ready() => text(StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "see /metrics, /healthz, /readyz\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Three {
        ready: bool,
    }

    impl Watched for Three {
        fn metrics(&self, page: &mut Page) {
            page.gauge("things", "Things there are.", 3);
            page.counters("gone_total", "Things gone.", "why", [("old", 1), ("lost", 2)]);
        }

        fn is_ready(&self) -> bool {
            self.ready
        }
    }

    fn get(path: &str, ready: bool) -> (StatusCode, String) {
        let request = Request::get(path).body(()).unwrap();
        let response = answer(&request, IpAddr::from([127, 0, 0, 1]), &Three { ready });
        let status = response.status();
        let mut body = response.into_body();
        let frame = std::pin::Pin::new(&mut body);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let frame = hyper::body::Body::poll_frame(frame, &mut context);
        let std::task::Poll::Ready(Some(Ok(frame))) = frame else { panic!("no body") };
        (status, String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    #[test]
    fn metrics_are_prometheus_text() {
        let expected = "# HELP things Things there are.\n# TYPE things gauge\nthings 3\n\
             # HELP gone_total Things gone.\n# TYPE gone_total counter\n\
             gone_total{why=\"old\"} 1\ngone_total{why=\"lost\"} 2\n";
        assert_eq!(get("/metrics", true), (StatusCode::OK, expected.to_owned()));
    }

    #[test]
    fn a_relay_that_takes_nothing_new_is_healthy_but_not_ready() {
        assert_eq!(get("/healthz", false).0, StatusCode::OK);
        assert_eq!(get("/readyz", false).0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get("/readyz", true).0, StatusCode::OK);
        assert_eq!(get("/", true).0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn connections_that_say_nothing_keep_nobody_out() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        use tokio::net::{TcpSocket, TcpStream};

        let listener = listen::tcp("metrics", ([127, 0, 0, 1], 0).into(), "--metrics").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, Arc::new(Three { ready: true })));
        let mut silent = Vec::new();
        for n in 0..3 * MAX_CONNECTIONS {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 1 + (n % 8) as u8, 1], 0).into()).unwrap();
            silent.push(socket.connect(address).await.unwrap());
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        // Sooner than the silent ones are given up.
        let read = tokio::time::timeout(HEADER_TIME / 2, stream.read_to_string(&mut answer));
        read.await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        serving.abort();
    }
}
