//! The queue between an account and one control session's stream.
//!
//! An idle one holds no memory but itself: a thousand sessions wait most of the time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use warren_proto::SessionEvent;

/// More events than this waiting: the reader is too slow, it gets the whole map later.
const CAPACITY: usize = 64;

/// Makes both ends of a queue.
pub(crate) fn outbox() -> (Sender, Receiver) {
    let shared = Arc::new(Mutex::new(State::default()));
    (Sender(shared.clone()), Receiver(shared))
}

#[derive(Default)]
struct State {
    queue: VecDeque<SessionEvent>,
    overflowed: bool,
    /// No more events will come, or nobody reads them any more.
    closed: bool,
    waker: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The account's end.
pub(crate) struct Sender(Arc<Mutex<State>>);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Sent {
    Queued,
    /// The queue is full and was emptied; the session needs the whole map once it reads again.
    Overflow,
}

impl Sender {
    pub(crate) fn send(&self, event: SessionEvent) -> Sent {
        let mut state = lock(&self.0);
        if state.queue.len() >= CAPACITY && !matches!(event, SessionEvent::Revoked) {
            state.queue.clear();
            state.queue.shrink_to_fit();
            state.overflowed = true;
            state.wake();
            return Sent::Overflow;
        }
        state.queue.push_back(event);
        state.wake();
        Sent::Queued
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.closed = true;
        state.wake();
    }
}

/// The stream's end.
pub(crate) struct Receiver(Arc<Mutex<State>>);

/// What the stream is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Event(SessionEvent),
    /// Events were lost and everything before them has been read: ask for the whole map.
    Drained,
    End,
}

impl Receiver {
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut state = lock(&self.0);
        if let Some(event) = state.queue.pop_front() {
            if state.queue.is_empty() {
                state.queue.shrink_to_fit();
            }
            return Poll::Ready(Next::Event(event));
        }
        if std::mem::take(&mut state.overflowed) {
            return Poll::Ready(Next::Drained);
        }
        if state.closed {
            return Poll::Ready(Next::End);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use warren_proto::MapVersion;

    use super::*;

    fn event(sequence: u64) -> SessionEvent {
        SessionEvent::Current(MapVersion { epoch: 1, sequence })
    }

    #[tokio::test]
    async fn events_come_in_order_and_end_with_the_sender() {
        let (sender, receiver) = outbox();
        assert_eq!(sender.send(event(1)), Sent::Queued);
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            loop {
                match poll_fn(|cx| receiver.poll_next(cx)).await {
                    Next::End => return read,
                    next @ (Next::Event(_) | Next::Drained) => read.push(next),
                }
            }
        });
        tokio::task::yield_now().await;
        assert_eq!(sender.send(event(2)), Sent::Queued);
        drop(sender);
        assert_eq!(reading.await.unwrap(), [Next::Event(event(1)), Next::Event(event(2))]);
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_told_that_it_missed_something() {
        let (sender, receiver) = outbox();
        for n in 0..CAPACITY {
            assert_eq!(sender.send(event(n as u64)), Sent::Queued);
        }
        assert_eq!(sender.send(event(99)), Sent::Overflow);
        assert_eq!(poll_fn(|cx| receiver.poll_next(cx)).await, Next::Drained);
        assert_eq!(sender.send(event(100)), Sent::Queued);
        assert_eq!(poll_fn(|cx| receiver.poll_next(cx)).await, Next::Event(event(100)));
    }

    #[tokio::test]
    async fn the_last_word_reaches_even_a_full_queue() {
        let (sender, receiver) = outbox();
        for n in 0..CAPACITY {
            assert_eq!(sender.send(event(n as u64)), Sent::Queued);
        }
        assert_eq!(sender.send(SessionEvent::Revoked), Sent::Queued);
        drop(sender);
        let mut last = None;
        loop {
            match poll_fn(|cx| receiver.poll_next(cx)).await {
                Next::End => break,
                next @ (Next::Event(_) | Next::Drained) => last = Some(next),
            }
        }
        assert_eq!(last, Some(Next::Event(SessionEvent::Revoked)));
    }
}
