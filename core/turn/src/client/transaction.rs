//! A request until it is answered: repeated over UDP, given up after 39.5 s with the default
//! time-out (RFC 8489 §6.2.1, §6.2.2).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::timers::Timer;
use super::{Client, Event, Failure, State, Transport};
use crate::codec::TransactionId;
use crate::credential::MessageKey;

/// How often a request is sent in all, Rc.
const TRANSMISSIONS: u32 = 7;

/// How long after the last transmission it is given up, in first time-outs: Rm.
const LAST_WAIT: u32 = 16;

/// The longest wait for an answer on a stream, Ti.
const STREAM_WAIT: Duration = Duration::from_millis(39_500);

/// Nobody waits for long for the answer to a good-bye.
const REMOVE_TRANSMISSIONS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Allocate,
    /// Removes an allocation of before that is in the way of ours (437).
    Clear,
    Refresh,
    /// Ends our own allocation.
    Remove,
    ChannelBind(SocketAddr),
    CreatePermission(IpAddr),
    Binding,
}

#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) request: Request,
    /// What an answer must be signed with, if the request was.
    pub(super) key: Option<MessageKey>,
    /// How often the server has refused nonce or credential on the way to this one.
    pub(super) refusals: u8,
    pub(super) begun: Instant,
    contents: Vec<u8>,
    pub(super) sent: u32,
    wait: Duration,
    next: Instant,
}

impl Client {
    pub(super) fn request(&mut self, request: Request, now: Instant) {
        self.request_again(request, 0, now);
    }

    /// Sends a request whose predecessors the server has refused so often.
    pub(super) fn request_again(&mut self, request: Request, refusals: u8, now: Instant) {
        let id = self.random.transaction_id();
        let (contents, key) = self.compose(request, id);
        let wait = match self.config.transport {
            Transport::Udp => self.config.rto,
            Transport::Stream => STREAM_WAIT,
        };
        let next = now + wait;
        self.transmits.push_back(contents.clone());
        self.timers.set(next, Timer::Transaction(id));
        let transaction =
            Transaction { request, key, refusals, begun: now, contents, sent: 1, wait, next };
        self.transactions.insert(id, transaction);
    }

    pub(super) fn handle_transaction_timeout(&mut self, id: TransactionId, now: Instant) {
        let Some(open) = self.transactions.get_mut(&id) else { return };
        let most = match open.request {
            Request::Remove => REMOVE_TRANSMISSIONS,
            Request::Allocate
            | Request::Clear
            | Request::Refresh
            | Request::ChannelBind(_)
            | Request::CreatePermission(_)
            | Request::Binding => TRANSMISSIONS,
        };
        if self.config.transport == Transport::Stream || open.sent >= most {
            self.give_up(id);
            return;
        }
        open.sent += 1;
        open.wait = if open.sent == most { self.config.rto * LAST_WAIT } else { open.wait * 2 };
        open.next = now + open.wait;
        self.timers.set(open.next, Timer::Transaction(id));
        self.transmits.push_back(open.contents.clone());
    }

    fn give_up(&mut self, id: TransactionId) {
        self.transactions.remove(&id);
        match self.state {
            State::Closing => self.end(Event::Closed),
            State::Allocating | State::Allocated(_) => self.fail(Failure::Timeout),
            State::Ended => {}
        }
    }

    /// Takes the transaction that an answer belongs to.
    pub(super) fn finish(&mut self, id: TransactionId) -> Option<Transaction> {
        let transaction = self.transactions.remove(&id)?;
        self.timers.remove(transaction.next, Timer::Transaction(id));
        Some(transaction)
    }

    pub(super) fn forget_requests(&mut self) {
        while let Some((id, transaction)) = self.transactions.pop_first() {
            self.timers.remove(transaction.next, Timer::Transaction(id));
        }
    }

    /// Forgets the open requests of which this holds.
    pub(super) fn forget_requests_that(&mut self, is_meant: impl Fn(Request) -> bool) {
        let meant: Vec<_> = self
            .transactions
            .iter()
            .filter(|(_, open)| is_meant(open.request))
            .map(|(id, _)| *id)
            .collect();
        for id in meant {
            self.finish(id);
        }
    }
}
