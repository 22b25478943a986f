//! A connection's bytes, plain or over TLS, given up when the other side stops reading.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use warren_proto::TURN_ALPN;

use crate::tls::Acceptor;

/// The first two bits of a STUN message are zero (RFC 8489 §5); HTTP begins with a letter.
const STUN_BELOW: u8 = 0x40;

/// What HTTP is spoken over.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Opened>),
}

/// A TLS stream of which the first byte may have been read ahead.
pub(crate) struct Opened {
    first: Option<u8>,
    stream: TlsStream<TcpStream>,
}

impl Stream {
    /// Goes through the TLS handshake, where there is one. `None`: it was an ACME challenge, which
    /// is answered by the handshake itself.
    pub(crate) async fn accept(socket: TcpStream, acceptor: &Acceptor) -> io::Result<Option<Self>> {
        let acceptor = match acceptor {
            Acceptor::Plain => return Ok(Some(Self::Plain(socket))),
            Acceptor::Tls(acceptor) => acceptor,
        };
        let Some(stream) = acceptor.accept(socket).await? else { return Ok(None) };
        Ok(Some(Self::Tls(Box::new(Opened { first: None, stream }))))
    }

    /// Whether the client speaks TURN: it said so (RFC 7443), or, where it said nothing, begins as
    /// STUN does and HTTP never (RFC 8489 §5).
    pub(crate) async fn is_turn(&mut self) -> io::Result<bool> {
        let Self::Tls(opened) = self else { return Ok(false) };
        match opened.stream.get_ref().1.alpn_protocol() {
            Some(protocol) => Ok(protocol == TURN_ALPN.as_bytes()),
            None => {
                let first = tokio::io::AsyncReadExt::read_u8(&mut opened.stream).await?;
                opened.first = Some(first);
                Ok(first < STUN_BELOW)
            }
        }
    }

    fn as_io(&mut self) -> Pin<&mut dyn Io> {
        let io: &mut dyn Io = match self {
            Self::Plain(stream) => stream,
            Self::Tls(opened) => &mut **opened,
        };
        Pin::new(io)
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Opened {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream whose writes fail once nothing could be written for a while.
pub(crate) struct Stalling {
    stream: Stream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stalling {
    pub(crate) fn new(stream: Stream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    fn watch<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let deadline = Instant::now() + self.patience;
        let sleep =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Stalling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.stream.as_io().poll_write(cx, buf);
        self.watch(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.stream.as_io().poll_write_vectored(cx, bufs);
        self.watch(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(opened) => opened.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.stream.as_io().poll_flush(cx);
        self.watch(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.stream.as_io().poll_shutdown(cx);
        self.watch(outcome, cx)
    }
}
