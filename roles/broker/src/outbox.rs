//! The queue between an account and one control session's stream.
//!
//! An idle one holds no memory but itself: a thousand sessions wait most of the time. While a
//! stream can't be written (a thousand nodes come back at once), deltas that wait are joined into
//! one, in which each peer is mentioned once.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use warren_proto::{Change, Delta, DeviceId, Peer, SessionEvent};

/// A waiting delta with more changes than this isn't searched through any more.
const MERGED_CHANGES: usize = 256;

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
        let event = match (state.queue.back_mut(), event) {
            (Some(SessionEvent::Delta(last)), SessionEvent::Delta(next))
                if last.version == next.base && last.changes.len() <= MERGED_CHANGES =>
            {
                merge(last, next);
                return Sent::Queued;
            }
            (_, event) => event,
        };
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

impl Sender {
    /// Ends the queue at once: what waits in it is for nobody any more.
    pub(crate) fn abandon(self) {
        let mut state = lock(&self.0);
        state.queue = VecDeque::new();
        state.overflowed = false;
    }
}

/// Appends a delta to the one before it, which nobody has seen yet. What it says of a thing takes
/// the place of what was said before.
fn merge(last: &mut Delta, next: Delta) {
    last.version = next.version;
    for change in next.changes {
        match change {
            Change::Presence { id, online, ref endpoints, nat } => {
                match last_said(
                    last,
                    |said| matches!(said, Change::Presence { id: of, .. } if *of == id),
                    id,
                ) {
                    Said::Entry(peer) => {
                        (peer.online, peer.nat) = (online, nat);
                        peer.endpoints.clone_from(endpoints);
                    }
                    Said::Part(earlier) => *earlier = change,
                    Said::Gone => {}
                    Said::Nothing => last.changes.push(change),
                }
            }
            Change::PeerRelays { id, ref relays } => {
                match last_said(
                    last,
                    |said| matches!(said, Change::PeerRelays { id: of, .. } if *of == id),
                    id,
                ) {
                    Said::Entry(peer) => peer.relays.clone_from(relays),
                    Said::Part(earlier) => *earlier = change,
                    Said::Gone => {}
                    Said::Nothing => last.changes.push(change),
                }
            }
            Change::Peer { .. } | Change::Removed { .. } => {
                let id = subject(&change);
                last.changes.retain(|earlier| subject(earlier) != id);
                last.changes.push(change);
            }
            Change::This { .. }
            | Change::Stun { .. }
            | Change::NextPin { .. }
            | Change::Dns { .. }
            | Change::Relays { .. }
            | Change::RelayDuty { .. }
            | Change::Filter { .. }
            | Change::Edge { .. }
            | Change::Unknown => {
                last.changes.retain(|earlier| discriminant(earlier) != discriminant(&change));
                last.changes.push(change);
            }
        }
    }
}

/// What a waiting delta says of a part of a peer.
enum Said<'a> {
    /// The whole peer, with that part.
    Entry(&'a mut Peer),
    /// That part alone.
    Part(&'a mut Change),
    /// That the peer is gone: there is no part of it to tell.
    Gone,
    Nothing,
}

fn last_said(delta: &mut Delta, is_part: impl Fn(&Change) -> bool, id: DeviceId) -> Said<'_> {
    for said in delta.changes.iter_mut().rev() {
        if is_part(said) {
            return Said::Part(said);
        }
        match said {
            Change::Peer { peer } if peer.id == id => return Said::Entry(peer),
            Change::Removed { id: of } if *of == id => return Said::Gone,
            Change::Peer { .. }
            | Change::Removed { .. }
            | Change::Presence { .. }
            | Change::PeerRelays { .. }
            | Change::This { .. }
            | Change::Stun { .. }
            | Change::NextPin { .. }
            | Change::Dns { .. }
            | Change::Relays { .. }
            | Change::RelayDuty { .. }
            | Change::Filter { .. }
            | Change::Edge { .. }
            | Change::Unknown => {}
        }
    }
    Said::Nothing
}

/// The peer that a change is about.
fn subject(change: &Change) -> Option<DeviceId> {
    match change {
        Change::Peer { peer } => Some(peer.id),
        Change::Removed { id } | Change::Presence { id, .. } | Change::PeerRelays { id, .. } => {
            Some(*id)
        }
        Change::This { .. }
        | Change::Stun { .. }
        | Change::NextPin { .. }
        | Change::Dns { .. }
        | Change::Relays { .. }
        | Change::RelayDuty { .. }
        | Change::Filter { .. }
        | Change::Edge { .. }
        | Change::Unknown => None,
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

    use proptest::prelude::*;
    use warren_proto::{
        Apply, Endpoint, EndpointKind, MapVersion, NatReport, Netmap, RelayId, RelayRtt,
        RelayTransport,
    };

    use super::*;
    use crate::fixture::{self, peer};

    fn event(sequence: u64) -> SessionEvent {
        SessionEvent::Current(MapVersion { epoch: 1, sequence })
    }

    fn change() -> impl Strategy<Value = Change> {
        let id = 0..4u64;
        prop_oneof![
            (id.clone(), "[a-z]{3}").prop_map(|(id, name)| Change::Peer { peer: peer(id, &name) }),
            id.clone().prop_map(|id| Change::Removed { id: DeviceId(id) }),
            (id, any::<bool>(), 1..9u16).prop_map(|(id, online, port)| Change::Presence {
                id: DeviceId(id),
                online,
                endpoints: vec![Endpoint {
                    addr: ([192, 0, 2, 1], port).into(),
                    kind: EndpointKind::Host,
                }],
                nat: NatReport::default(),
            }),
            (0..4u64, 1..9u32).prop_map(|(id, rtt_us)| Change::PeerRelays {
                id: DeviceId(id),
                relays: vec![RelayRtt {
                    relay: RelayId(1),
                    rtt_us,
                    transport: RelayTransport::Udp,
                }],
            }),
            (1..9u16).prop_map(|port| Change::Stun { stun: vec![([192, 0, 2, 9], port).into()] }),
            any::<bool>().prop_map(|open| Change::Filter {
                filter: (!open).then(warren_proto::Filter::default),
            }),
        ]
    }

    fn map() -> Netmap {
        fixture::map(vec![peer(0, "a"), peer(1, "b")])
    }

    proptest! {
        #[test]
        fn joined_deltas_lead_to_the_same_map(
            deltas in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..12)
        ) {
            let (sender, receiver) = outbox();
            let (mut expected, mut reached) = (map(), map());
            for changes in deltas {
                let base = expected.version;
                let version = MapVersion { sequence: base.sequence + 1, ..base };
                let delta = Delta { base, version, changes };
                prop_assert_eq!(expected.apply(&delta), Apply::Applied);
                prop_assert_eq!(sender.send(SessionEvent::Delta(delta)), Sent::Queued);
            }
            let cx = &mut Context::from_waker(Waker::noop());
            let Poll::Ready(Next::Event(SessionEvent::Delta(joined))) = receiver.poll_next(cx) else {
                return Err(TestCaseError::fail("one delta waits"));
            };
            prop_assert!(receiver.poll_next(cx).is_pending(), "and nothing besides");
            prop_assert_eq!(reached.apply(&joined), Apply::Applied);
            prop_assert_eq!(reached, expected);
        }
    }

    #[test]
    fn a_waiting_delta_mentions_each_peer_once() {
        let (sender, receiver) = outbox();
        for sequence in 1..=100 {
            let version = |sequence| MapVersion { epoch: 1, sequence };
            let changes = vec![
                Change::Peer { peer: peer(1, "a") },
                Change::Presence {
                    id: DeviceId(2),
                    online: true,
                    endpoints: Vec::new(),
                    nat: NatReport::default(),
                },
            ];
            let delta = Delta { base: version(sequence - 1), version: version(sequence), changes };
            assert_eq!(sender.send(SessionEvent::Delta(delta)), Sent::Queued);
        }
        let next = receiver.poll_next(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Next::Event(SessionEvent::Delta(joined))) = next else {
            panic!("one delta waits")
        };
        assert_eq!((joined.base.sequence, joined.version.sequence), (0, 100));
        assert_eq!(joined.changes.len(), 2);
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
    async fn nothing_of_an_abandoned_queue_is_kept() {
        let (sender, receiver) = outbox();
        assert_eq!(sender.send(event(1)), Sent::Queued);
        sender.abandon();
        assert_eq!(lock(&receiver.0).queue.capacity(), 0);
        assert_eq!(poll_fn(|cx| receiver.poll_next(cx)).await, Next::End);
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
