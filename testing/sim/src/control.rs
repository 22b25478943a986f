//! Control sessions: what TCP, TLS and HTTP/2 between a node and the broker amount to in time and
//! bytes.
//!
//! Each connection has two lanes, up and down. A message arrives in order, one way later; a loss on
//! the way costs a retransmission timeout; while the way is cut, nothing arrives until it is whole
//! again or one side gives the connection up. Opening one costs two round trips (TCP, TLS 1.3).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use warren_proto::{CheckIn, CheckInReply, ConnectRequest, MapVersion, Netmap, SessionEvent};

use crate::world::NodeId;

/// Round trips before the first request leaves: TCP and TLS 1.3.
pub(crate) const SETUP_ROUND_TRIPS: u32 = 2;

/// A heartbeat on the event stream (protocols.md §1).
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(25);

/// A stream that was silent for so long is dead (protocols.md §1).
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// How long a connection attempt into the void takes to fail.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// TCP's smallest retransmission timeout on Linux.
pub(crate) const MIN_RTO: Duration = Duration::from_millis(200);

/// How often a sender tries again while the way is cut.
pub(crate) const CUT_RETRY: Duration = Duration::from_millis(500);

/// A connection; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// What a node says.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    /// `GET /v1/node/events`.
    Events { last_event_id: Option<MapVersion> },
    /// `POST /v1/node/check-in`.
    CheckIn(CheckIn),
    /// `POST /v1/node/connect`.
    Connect(ConnectRequest),
    /// `GET /v1/node/netmap`.
    FetchNetmap,
}

/// What the broker says.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    Event(SessionEvent),
    Heartbeat,
    /// With the broker's clock, as the `Date` header says it.
    CheckedIn {
        reply: CheckInReply,
        unix: Duration,
    },
    /// A check-in was refused; it must be sent again.
    CheckInRefused,
    /// A connect request was taken or refused; nobody waits for it.
    Done,
    Netmap(Box<Netmap>),
    /// The device is no longer one of the account.
    Revoked,
    /// Another session of the device took this one's place.
    Closed,
}

#[derive(Debug, Clone)]
pub(crate) enum Message {
    Up(Up),
    Down(Box<Down>),
}

impl Message {
    /// Bytes on the wire, both ways, for this message: its JSON, HTTP/2 frames (9 bytes each; HEADERS
    /// of a kept connection about 45 up and 40 down with HPACK's table, a date among them), one TLS
    /// record (22) and one TCP segment (52 with timestamps) for each 1,400 bytes, and a pure ACK (52)
    /// for each segment, although many would ride on something else.
    pub(crate) fn wire_bytes(&self) -> u64 {
        let content = match self {
            Self::Up(up) => 9 + 45 + up.body_len().map_or(0, |len| 9 + len),
            Self::Down(down) => down.content_len(),
        };
        segments(content)
    }
}

fn segments(content: usize) -> u64 {
    let count = content.div_ceil(1400).max(1);
    (content + count * (22 + 52 + 52)) as u64
}

/// The bytes of opening a connection: TCP's three segments (60 + 60 + 52), a TLS 1.3 handshake with
/// a short self-signed chain (about 2,200), HTTP/2 preface and settings (about 150), their ACKs.
pub(crate) const SETUP_BYTES: u64 = 60 + 60 + 52 + 2200 + 150 + 6 * 52;

impl Up {
    fn body_len(&self) -> Option<usize> {
        match self {
            Self::Events { .. } | Self::FetchNetmap => None,
            Self::CheckIn(check_in) => Some(json_len(check_in)),
            Self::Connect(request) => Some(json_len(request)),
        }
    }
}

impl Down {
    fn content_len(&self) -> usize {
        let reply = |body: usize| 9 + 40 + 9 + body;
        match self {
            Self::Event(event) => {
                let id =
                    event.version().map_or(0, |version| "id: \n".len() + version.to_string().len());
                9 + "event: \ndata: \n\n".len() + event.name().len() + id + event.data().len()
            }
            Self::Heartbeat => 9 + ":\n\n".len(),
            Self::CheckedIn { reply: body, .. } => reply(json_len(body)),
            Self::CheckInRefused | Self::Revoked => reply(100),
            Self::Done => reply(0),
            Self::Netmap(netmap) => reply(json_len(netmap)),
            Self::Closed => 9,
        }
    }
}

fn json_len(value: &impl serde::Serialize) -> usize {
    serde_json::to_string(value).map_or(0, |text| text.len())
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) node: NodeId,
    pub(crate) up: Lane,
    pub(crate) down: Lane,
}

impl Connection {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, up: Lane::default(), down: Lane::default() }
    }

    pub(crate) fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

/// One direction of a connection: a queue in order.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    queue: VecDeque<(Instant, Message)>,
}

impl Lane {
    /// Queues a message that could arrive at `ready`; when its arrival is to be tried, if nobody
    /// waits for an earlier one.
    pub(crate) fn push(&mut self, ready: Instant, message: Message) -> Option<Instant> {
        let ready = self.queue.back().map_or(ready, |(last, _)| ready.max(*last));
        self.queue.push_back((ready, message));
        (self.queue.len() == 1).then_some(ready)
    }

    /// Takes the message that has arrived; when the next one does.
    pub(crate) fn pop(&mut self) -> Option<(Message, Option<Instant>)> {
        let (_, message) = self.queue.pop_front()?;
        Some((message, self.queue.front().map(|(ready, _)| *ready)))
    }
}
