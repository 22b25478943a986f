use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Mapped, Out, ServerStatus, Transmit};
use crate::codec::{Builder, Class, Method, TransactionId};

/// How long after each transmission the next one follows; after the last, the question is given up.
const WAITS: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
    Duration::from_millis(4000),
];

/// How long a knock (a question that is sent once) waits for its answer.
const KNOCK_WAIT: Duration = Duration::from_secs(3);

/// After so many unanswered transmissions the next server is asked too.
const DOUBTFUL: usize = 3;

/// One STUN server and the question that it is being asked.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    /// Learned from OTHER-ADDRESS, so only good for telling the mapping behaviour.
    pub(super) learned: bool,
    pub(super) mapped: Option<Mapped>,
    pub(super) answered: Option<Instant>,
    pub(super) silent: bool,
    pub(super) rtt: Option<Duration>,
    question: Option<Question>,
}

#[derive(Debug)]
struct Question {
    id: TransactionId,
    asked: Instant,
    sent: usize,
    next: Instant,
    is_knock: bool,
}

/// What a timeout did to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Nothing,
    /// Repeated for so long that others should be asked.
    Doubtful,
    GivenUp,
}

impl Server {
    pub(super) fn new(addr: SocketAddr, learned: bool) -> Self {
        Self {
            addr,
            learned,
            mapped: None,
            answered: None,
            silent: false,
            rtt: None,
            question: None,
        }
    }

    pub(super) fn forget(&mut self) {
        *self = Self { rtt: self.rtt, ..Self::new(self.addr, self.learned) };
    }

    pub(super) fn is_asked(&self) -> bool {
        self.question.is_some()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.question.as_ref().map(|question| question.next)
    }

    pub(super) fn ask(&mut self, now: Instant, out: &mut Out<'_>) {
        self.put(now, WAITS[0], false, out);
    }

    /// Asks once, without repeating it: while nobody answers.
    pub(super) fn knock(&mut self, now: Instant, out: &mut Out<'_>) {
        self.put(now, KNOCK_WAIT, true, out);
    }

    fn put(&mut self, now: Instant, wait: Duration, is_knock: bool, out: &mut Out<'_>) {
        let id = out.ids.transaction_id();
        self.question = Some(Question { id, asked: now, sent: 1, next: now + wait, is_knock });
        out.transmits.push_back(self.request(id));
    }

    fn request(&self, id: TransactionId) -> Transmit {
        let mut contents = Vec::with_capacity(28);
        Builder::new(&mut contents, Class::Request, Method::BINDING, id).fingerprint();
        Transmit { to: self.addr, contents }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Out<'_>) -> Progress {
        let Some(question) = self.question.as_mut().filter(|question| question.next <= now) else {
            return Progress::Nothing;
        };
        let Some(wait) = WAITS.get(question.sent).filter(|_| !question.is_knock) else {
            self.question = None;
            self.silent = true;
            return Progress::GivenUp;
        };
        question.sent += 1;
        question.next = now + *wait;
        let (id, sent) = (question.id, question.sent);
        out.transmits.push_back(self.request(id));
        if sent > DOUBTFUL { Progress::Doubtful } else { Progress::Nothing }
    }

    pub(super) fn is_asked_with(&self, id: TransactionId) -> bool {
        self.question.as_ref().is_some_and(|question| question.id == id)
    }

    pub(super) fn refuse(&mut self) {
        self.question = None;
        self.silent = true;
    }

    /// Takes an answer; returns the mapped address that it replaces.
    pub(super) fn answer(&mut self, mapped: Mapped, now: Instant) -> Option<Mapped> {
        if let Some(question) = self.question.take() {
            let rtt = now.saturating_duration_since(question.asked);
            // An answer to a repeated request may belong to any of them (Karn's algorithm).
            if question.sent == 1 || self.rtt.is_none() {
                self.rtt = Some(rtt);
            }
        }
        self.silent = false;
        self.answered = Some(now);
        self.mapped.replace(mapped)
    }

    pub(super) fn status(&self) -> ServerStatus {
        ServerStatus {
            server: self.addr,
            mapped: self.mapped,
            rtt: self.rtt,
            answered: self.answered,
            silent: self.silent,
        }
    }
}
