//! A stream to a relay, where datagrams don't get through: opened by the first target that works
//! (also through an HTTP proxy that the environment names), then bytes both ways. A target that is slow
//! isn't waited for: the next one is tried beside it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use warren_control::{Pins, Tls, dial_tcp};
use warren_mesh::{StreamId, StreamTarget};
use warren_proto::{RelayTls, TURN_ALPN};

/// How long one target may take.
const TIMEOUT: Duration = Duration::from_secs(4);

/// How long a target is alone before the next one is tried too (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The same where the next one is plain TCP, which stands sooner than TLS, and where a middlebox answers
/// that lets nothing through.
const HEAD_START_OF_TLS: Duration = Duration::from_secs(1);

/// How much is read at a time.
const READ: usize = 16 * 1024;

/// What a stream reports.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    /// It stands; by TLS, or by plain TCP.
    Opened(StreamId, bool),
    /// Bytes have come.
    Data(StreamId, Vec<u8>),
    /// Bytes were written, so that there is room for more.
    Written,
    /// It couldn't be opened, or has ended.
    Closed(StreamId),
}

/// Keeps a stream until it ends, or nobody listens any more.
pub(crate) async fn carry(
    id: StreamId,
    targets: Vec<StreamTarget>,
    events: mpsc::Sender<StreamEvent>,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
) {
    if let Some((stream, tls)) = open_first(targets, open).await
        && events.send(StreamEvent::Opened(id, tls)).await.is_ok()
        && let Err(error) = run(id, stream, &events, &mut outgoing).await
    {
        tracing::debug!(%error, "a stream to a relay has ended");
    }
    let _ = events.send(StreamEvent::Closed(id)).await;
}

/// The first stream that stands, and whether it is TLS.
async fn open_first<S, F>(
    targets: Vec<StreamTarget>,
    open: impl Fn(StreamTarget) -> F,
) -> Option<(S, bool)>
where
    S: Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut targets = targets.into_iter().peekable();
    let mut opening = JoinSet::new();
    loop {
        if let Some(target) = targets.next() {
            let is_tls = matches!(target, StreamTarget::Tls(_));
            let opened = tokio::time::timeout(TIMEOUT, open(target.clone()));
            opening.spawn(async move {
                let opened = opened.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                opened.map(|stream| (stream, is_tls)).map_err(|error| (error, target))
            });
        }
        let head_start = match targets.peek() {
            Some(StreamTarget::Tls(_)) => HEAD_START,
            Some(StreamTarget::Tcp(_)) => HEAD_START_OF_TLS,
            None => TIMEOUT,
        };
        match tokio::time::timeout(head_start, opening.join_next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(Ok(opened)))) => return Some(opened),
            Ok(Some(Ok(Err((error, target))))) => {
                tracing::debug!(%error, ?target, "a relay wasn't reached by a stream");
            }
            Ok(Some(Err(error))) => tracing::debug!(%error, "opening a stream was cut short"),
            Err(_) => {}
        }
    }
}

/// A byte stream.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

async fn open(target: StreamTarget) -> io::Result<Box<dyn Bytes>> {
    match target {
        StreamTarget::Tls(tls) => open_tls(&tls).await,
        StreamTarget::Tcp(address) => open_tcp(address).await,
    }
}

async fn open_tcp(address: SocketAddr) -> io::Result<Box<dyn Bytes>> {
    Ok(Box::new(dial_tcp(&address.ip().to_string(), address.port()).await?))
}

async fn open_tls(target: &RelayTls) -> io::Result<Box<dyn Bytes>> {
    let stream = dial_tcp(&target.host, target.port).await?;
    let pins = Pins(target.pin.into_iter().collect());
    let tls = Tls::with_protocol(&pins, TURN_ALPN.as_bytes()).map_err(io::Error::other)?;
    let name = target.server_name.as_deref().unwrap_or(&target.host).to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls.config()).connect(name, stream).await?;
    Ok(Box::new(stream))
}

async fn run(
    id: StreamId,
    stream: Box<dyn Bytes>,
    events: &mpsc::Sender<StreamEvent>,
    outgoing: &mut mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut buffer = vec![0; READ];
        loop {
            let len = reader.read(&mut buffer).await?;
            if len == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let event = StreamEvent::Data(id, buffer[..len].to_vec());
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some(bytes) = outgoing.recv().await {
            writer.write_all(&bytes).await?;
            writer.flush().await?;
            if events.send(StreamEvent::Written).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
        Ok(())
    };
    tokio::select! {
        result = reading => result,
        result = writing => result,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn tls(port: u16) -> StreamTarget {
        let host = "relay.test".to_owned();
        StreamTarget::Tls(RelayTls { host, port, server_name: None, pin: None })
    }

    /// Opens by port: 1 never does, 2 fails, others do.
    async fn pretend(target: StreamTarget) -> io::Result<u16> {
        let port = match target {
            StreamTarget::Tls(tls) => tls.port,
            StreamTarget::Tcp(address) => address.port(),
        };
        match port {
            1 => std::future::pending().await,
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            port => Ok(port),
        }
    }

    #[tokio::test]
    async fn a_target_that_does_not_answer_holds_up_no_other() {
        let tcp = |port| StreamTarget::Tcp(([127, 0, 0, 1], port).into());
        let begun = Instant::now();
        // One after the other these would take eight seconds, and a relay is given up after five.
        let targets = vec![tls(1), tls(1), tls(443)];
        assert_eq!(open_first(targets, pretend).await, Some((443, true)));
        assert_eq!(open_first(vec![tls(2), tcp(2), tcp(3478)], pretend).await, Some((3478, false)));
        assert_eq!(open_first(vec![tls(1), tcp(3478)], pretend).await, Some((3478, false)));
        assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
        assert_eq!(open_first(vec![tls(2), tcp(2)], pretend).await, None);
        assert_eq!(open_first(Vec::new(), pretend).await, None::<(u16, bool)>);
    }
}
