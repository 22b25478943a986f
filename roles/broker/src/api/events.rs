//! The bodies that may be large: the control session's stream (server-sent events, one per
//! [`warren_proto::SessionEvent`]) and a map alone. Both go out piece by piece.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use warren_proto::Netmap;

use super::pieces::Pieces;
use crate::accounts::{Place, Session, Turn};
use crate::outbox::Next;

const HEARTBEAT_COMMENT: &[u8] = b":\n\n";

/// The body of `GET /v1/node/events`. The session ends when it is dropped.
pub(crate) struct EventBody {
    session: Session,
    rest: Pieces,
    /// Silence after which a comment goes out.
    silence: Duration,
    heartbeat: Pin<Box<Sleep>>,
    /// Given back when the first event is out.
    turn: Option<Turn>,
}

impl EventBody {
    pub(crate) fn new(session: Session, silence: Duration, turn: Option<Turn>) -> Self {
        Self {
            session,
            rest: Pieces::default(),
            silence,
            heartbeat: Box::pin(tokio::time::sleep(silence)),
            turn,
        }
    }

    fn piece(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.next();
        if self.rest.is_empty() {
            self.turn = None;
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

/// The body of `GET /v1/node/netmap`.
pub(crate) struct MapBody {
    rest: Pieces,
    _turn: Option<Turn>,
    _place: Place,
}

impl MapBody {
    pub(crate) fn new(map: Netmap, turn: Option<Turn>, place: Place) -> Self {
        Self { rest: Pieces::of_netmap(map), _turn: turn, _place: place }
    }
}

impl http_body::Body for MapBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = (!self.rest.is_empty()).then(|| self.rest.next());
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }
}
