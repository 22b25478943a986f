//! The node's local socket: what the command line says to the daemon.
//!
//! `<state>/node.sock`, mode 0600, or 0660 for the group `warren` where that group exists. One
//! request per connection: a line of JSON; one or more lines of JSON come back, the last of a
//! stream being [`Reply::Done`] or [`Reply::Error`]. Unknown fields are ignored. `docs/protocol.md`
//! ('The node's local socket') lists what travels.

mod client;
mod edge;
mod exit;
mod message;
mod status;
mod why;

pub(crate) mod server;

pub use client::{Client, LocalError, Replies};
pub use edge::{EdgeFound, EdgeKind, EdgeReply, EdgeRequest, EdgeStatus, EdgeWork, Enabling};
pub use exit::{ExitNode, ExitNodeChange, ExitNodeStatus, ExitNodes, ExitState};
pub use message::{
    DebugCounters, FailureCode, ListenPort, ListenPortChange, MappingReport, NetcheckReport,
    PingReport, PingRequest, RelayReport, Reply, Request, StunReport,
};
pub use status::{
    BrokerStatus, Health, HealthCode, NodeState, NodeStatus, PeerStatus, SCHEMA, Status,
};
pub use warren_proto::PathKind;
pub use why::{CandidateReport, Fate, WhyReport, WhyRequest};
