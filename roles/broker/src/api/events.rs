//! The control session's stream: server-sent events, one per [`warren_proto::SessionEvent`].

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::pieces::Pieces;
use crate::accounts::Session;
use crate::outbox::Next;

const HEARTBEAT_COMMENT: &[u8] = b":\n\n";

/// The body of `GET /v1/node/events`. The session ends when it is dropped.
pub(crate) struct EventBody {
    session: Session,
    rest: Pieces,
    /// Silence after which a comment goes out.
    silence: Duration,
    heartbeat: Pin<Box<Sleep>>,
    /// Bounds how many whole maps are on their way at once; given back when the first is out.
    opening: Option<OwnedSemaphorePermit>,
}

impl EventBody {
    pub(crate) fn new(
        session: Session,
        silence: Duration,
        opening: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            session,
            rest: Pieces::default(),
            silence,
            heartbeat: Box::pin(tokio::time::sleep(silence)),
            opening,
        }
    }

    fn piece(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.next();
        if self.rest.is_empty() {
            self.opening = None;
        }
        self.heartbeat.as_mut().reset(Instant::now() + self.silence);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return this.piece();
        }
        loop {
            match this.session.events.poll_next(cx) {
                Poll::Ready(Next::Event(event)) => {
                    this.rest = Pieces::of(event);
                    return this.piece();
                }
                Poll::Ready(Next::Drained) => this.session.ask_for_map(),
                Poll::Ready(Next::End) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        if this.heartbeat.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.rest = Pieces::text(HEARTBEAT_COMMENT);
        this.piece()
    }
}
