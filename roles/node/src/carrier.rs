//! A stream to a relay, where datagrams don't get through: opened by the first target that works
//! (also through an HTTP proxy that the environment names), then bytes both ways.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use warren_control::{Pins, Tls, dial_tcp};
use warren_mesh::{StreamId, StreamTarget};
use warren_proto::{RelayTls, TURN_ALPN};

/// How long one target may take.
const TIMEOUT: Duration = Duration::from_secs(4);

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
    let mut opened = None;
    for target in &targets {
        let (result, tls) = match target {
            StreamTarget::Tls(tls) => (timed(open_tls(tls)).await, true),
            StreamTarget::Tcp(address) => (timed(open_tcp(*address)).await, false),
        };
        match result {
            Ok(stream) => {
                opened = Some((stream, tls));
                break;
            }
            Err(error) => tracing::debug!(%error, ?target, "a relay wasn't reached by a stream"),
        }
    }
    if let Some((stream, tls)) = opened
        && events.send(StreamEvent::Opened(id, tls)).await.is_ok()
        && let Err(error) = run(id, stream, &events, &mut outgoing).await
    {
        tracing::debug!(%error, "a stream to a relay has ended");
    }
    let _ = events.send(StreamEvent::Closed(id)).await;
}

/// A byte stream.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

async fn timed(
    opening: impl Future<Output = io::Result<Box<dyn Bytes>>>,
) -> io::Result<Box<dyn Bytes>> {
    tokio::time::timeout(TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
