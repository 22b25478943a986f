//! The control session's stream: server-sent events, one per [`SessionEvent`].

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use warren_proto::SessionEvent;

use crate::accounts::Session;
use crate::outbox::Next;

const HEARTBEAT_COMMENT: &[u8] = b":\n\n";
/// Bytes of one frame: a whole map goes out piece by piece.
const PIECE: usize = 16 * 1024;

/// Writes an event as the stream has it.
pub(crate) fn encode(event: &SessionEvent) -> Bytes {
    let (name, data) = (event.name(), event.data());
    let mut text = String::with_capacity(data.len() + 64);
    if let Some(version) = event.version() {
        text.push_str("id: ");
        text.push_str(&version.to_string());
        text.push('\n');
    }
    for part in ["event: ", name, "\ndata: ", &data, "\n\n"] {
        text.push_str(part);
    }
    text.into()
}

/// The body of `GET /v1/node/events`. The session ends when it is dropped.
pub(crate) struct EventBody {
    session: Session,
    rest: Bytes,
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
            rest: Bytes::new(),
            silence,
            heartbeat: Box::pin(tokio::time::sleep(silence)),
            opening,
        }
    }

    fn piece(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        if self.rest.is_empty() {
            self.rest = Bytes::new();
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
                    this.rest = encode(&event);
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
        this.rest = Bytes::from_static(HEARTBEAT_COMMENT);
        this.piece()
    }
}

#[cfg(test)]
mod tests {
    use warren_proto::MapVersion;

    use super::*;

    #[test]
    fn an_event_has_the_fields_that_its_kind_has() {
        let version = MapVersion { epoch: 0xabc, sequence: 5 };
        assert_eq!(
            encode(&SessionEvent::Current(version)),
            "event: current\ndata: \"abc-5\"\n\n".as_bytes()
        );
        assert_eq!(encode(&SessionEvent::Revoked), "event: revoked\ndata: null\n\n".as_bytes());
    }
}
