//! TURN over TCP and TLS (RFC 8656 §3.1).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_proto::Pin;
use warren_tls::Acceptor;
use warren_turn::server::{ClientAddr, StreamId};
use warren_turn::stream::{MAX_FRAME, StreamDecoder};

use super::hub::Hub;
use super::outbox::{Outbox, Waiting};
use super::{TurnConfig, tls};
use crate::listen;

/// The longest message of somebody who has no allocation yet.
const MAX_FIRST_FRAME: usize = 4096;
/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a write may make no progress.
const WRITE_TIME: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 16 << 10;
/// Messages that wait are written together up to so many bytes.
const WRITE_BYTES: usize = 64 << 10;

/// A byte stream to a client.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Gives the certificate's pin, and the next ones, where it comes out of files.
pub(super) fn listen(
    config: &TurnConfig,
    hub: &Arc<Hub>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Option<watch::Receiver<Pin>>> {
    for address in &config.tcp {
        let listener = listen::tcp("TURN over TCP", *address, "--listen")?;
        tracing::info!(address = %listener.local_addr()?, "TURN over TCP");
        tasks.spawn(accept_tcp(Arc::clone(hub), listener));
    }
    let Some(wanted) = &config.tls else { return Ok(None) };
    let (acceptor, pin) = tls::acceptor(&wanted.certificate, tasks)?;
    for address in &wanted.listen {
        let listener = listen::tcp("TURN over TLS", *address, "--tls")?;
        tracing::info!(address = %listener.local_addr()?, "TURN over TLS");
        tasks.spawn(accept_tls(Arc::clone(hub), listener, acceptor.clone()));
    }
    Ok(pin)
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let _ = stream.set_nodelay(true);
                return (stream, remote);
            }
            Err(error) => {
                tracing::debug!(%error, "a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn accept_tcp(hub: Arc<Hub>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, remote) = accept(&listener) => {
                connections.spawn(serve(Arc::clone(&hub), stream, remote));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept_tls(hub: Arc<Hub>, listener: TcpListener, acceptor: Acceptor) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, remote) = accept(&listener) => {
                let (hub, acceptor) = (Arc::clone(&hub), acceptor.clone());
                connections.spawn(async move {
                    // Handshakes wait for an allocation already, and are limited like that.
                    let Some((seat, mut messages)) = Seat::take(hub, remote) else { return };
                    let handshake = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream));
                    let handshake = tokio::select! {
                        handshake = handshake => handshake,
                        // Nothing is sent before; it ends only because others need its place.
                        _ = messages.next() => return,
                    };
                    match handshake {
                        Ok(Ok(Some(stream))) => seat.serve(stream, messages).await,
                        Ok(Ok(None)) => tracing::debug!("an ACME authority has looked"),
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection until either side ends it.
pub(super) async fn serve(hub: Arc<Hub>, connection: impl Connection, remote: SocketAddr) {
    if let Some((seat, messages)) = Seat::take(hub, remote) {
        seat.serve(connection, messages).await;
    }
}

/// A connection that the state machine knows; it forgets it when this is dropped.
struct Seat {
    hub: Arc<Hub>,
    stream: StreamId,
}

impl Seat {
    /// With what is to be written; `None` where too many wait already.
    fn take(hub: Arc<Hub>, remote: SocketAddr) -> Option<(Self, Waiting)> {
        let stream = hub.next_stream();
        let (outbox, messages) = Outbox::new();
        let is_taken = hub.with(|state, now| {
            let is_taken = state.server.handle_stream(stream, remote, now);
            if is_taken {
                state.streams.insert(stream, outbox);
            }
            is_taken
        });
        is_taken.then(|| (Self { hub, stream }, messages))
    }

    async fn serve(self, connection: impl Connection, messages: Waiting) {
        let (reader, writer) = tokio::io::split(connection);
        tokio::select! {
            result = read(&self.hub, self.stream, reader) => log(&result, "reading ended"),
            result = write(writer, messages) => log(&result, "writing ended"),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.with(|state, now| {
            state.streams.remove(&self.stream);
            state.server.handle_stream_closed(self.stream, now);
        });
    }
}

fn log(result: &io::Result<()>, what: &'static str) {
    if let Err(error) = result {
        tracing::trace!(%error, what, "a connection failed");
    }
}

async fn read(
    hub: &Hub,
    stream: StreamId,
    mut reader: ReadHalf<impl Connection>,
) -> io::Result<()> {
    let mut decoder = StreamDecoder::new(MAX_FIRST_FRAME);
    let mut is_known = false;
    let mut bytes = BytesMut::with_capacity(READ_BYTES);
    loop {
        bytes.clear();
        bytes.reserve(READ_BYTES);
        if reader.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        decoder.push(&bytes);
        let is_sound = hub.with(|state, now| {
            loop {
                match decoder.next_frame() {
                    Ok(Some(message)) => {
                        state.handle_message(ClientAddr::Stream(stream), message, now);
                    }
                    Ok(None) => return true,
                    Err(_) if is_known => return false,
                    Err(_) => {
                        // It may have become known by what came before in this read.
                        is_known = state.is_known(stream);
                        decoder.set_max_frame(MAX_FRAME);
                        if !is_known {
                            return false;
                        }
                    }
                }
            }
        });
        if !is_sound {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !is_known && hub.with(|state, _| state.is_known(stream)) {
            is_known = true;
            decoder.set_max_frame(MAX_FRAME);
        }
        if decoder.buffered() == 0 {
            decoder.shrink();
        }
    }
}

/// Writes what there is together, until nobody sends any more.
async fn write(mut writer: WriteHalf<impl Connection>, mut messages: Waiting) -> io::Result<()> {
    let mut together = BytesMut::new();
    while let Some(first) = messages.next().await {
        together.clear();
        together.extend_from_slice(&first);
        while together.len() < WRITE_BYTES {
            let Some(next) = messages.try_next() else { break };
            together.extend_from_slice(&next);
        }
        let written = async {
            writer.write_all(&together).await?;
            writer.flush().await
        };
        tokio::time::timeout(WRITE_TIME, written).await??;
        if together.capacity() > WRITE_BYTES {
            together = BytesMut::new();
        }
    }
    let _ = tokio::time::timeout(WRITE_TIME, writer.shutdown()).await;
    Ok(())
}
