//! What node and broker say to each other, and the words they use for it.
//!
//! Plain data: ids, keys, names, endpoints, the netmap and its deltas, the requests and replies of
//! the control session. Everything is JSON on the wire; unknown fields are ignored, missing ones
//! take a documented default, so that a newer side can talk to an older one. [`PROTOCOL`] counts
//! the steps; the golden files in `tests/golden` only grow.

mod cap;
mod check;
mod edge;
mod edge_open;
mod edge_spec;
mod endpoint;
mod event_codec;
mod filter;
mod id;
mod join_link;
mod join_request;
mod key;
mod lan;
mod message;
mod name;
mod netmap;
mod paths;
mod possession;
mod reach;
mod relay;
mod relay_event_codec;
mod schedule;
mod text;

pub use cap::LanCap;
pub use check::{IPV6_PREFIX, InvalidMap, InvalidRange, check_range};
pub use edge::{
    ASKED_FROM, EDGE, EdgeDuty, EdgeOffer, EdgeState, Forward, ForwardProtocol, Gateway, INTERNET,
    InternetOffer, LanSource, LanTarget, MAX_EDGE_NETWORKS, MAX_EDGE_PROBLEM, MAX_EDGE_PROBLEMS,
    MAX_FORWARDS, MAX_GATEWAYS, MAX_VIRTUAL_DEVICES, MacAddr, ParseMacError, RESERVED_PORTS,
    VirtualDevice, VirtualPeer, WakeOrder, reserved_port,
};
pub use edge_open::{CardAt, EdgeOpen};
pub use edge_spec::{
    EdgeChange, EdgeChanged, EdgeSpec, ForwardEdit, ForwardSpec, GatewayEdit, GatewaySpec,
    NewForward, NewGateway, NewVirtualDevice, VirtualDeviceEdit, VirtualDeviceSpec,
};
pub use endpoint::{
    Endpoint, EndpointKind, MAX_ENDPOINTS, MappingBehaviour, NatReport, is_usable_endpoint,
};
pub use event_codec::ParseEventError;
pub use filter::{Filter, FilterLimit, FilterRule, InvalidPorts, Ports, Sources, Target};
pub use id::{
    AccountId, ApiTokenId, DeliveryId, DeviceId, ForwardId, GatewayId, InstanceId, InvitationId,
    JoinKeyId, ParseIdError, ReachId, RelayId, UserId, VirtualDeviceId, WebSessionId, WebhookId,
};
pub use join_link::{JoinLink, ParseJoinLinkError, Pin};
pub use join_request::{
    JOIN_REQUEST_LIFETIME, JoinAsk, JoinAsked, JoinDecision, JoinReveal, join_code,
    join_code_message, read_join_code,
};
pub use key::{ParseKeyError, PublicKey};
pub use lan::LanAddress;
pub use message::{
    Challenge, CheckIn, CheckInReply, CheckInState, ConnectRequest, ConnectSignal, ErrorCode,
    Problem, Register, Registered, SessionEvent,
};
pub use name::{DeviceName, InvalidName, MAX_NAME};
pub use netmap::{
    Admission, Apply, Change, Delta, DnsConfig, MAX_APPROVERS, MapVersion, Netmap,
    ParseVersionError, Peer, SelfEntry, WIREGUARD_ONLY,
};
pub use paths::{MAX_PATH_REPORTS, PathKind, PathReport, PathReports};
pub use possession::{BrokerIdentity, possession_message};
pub use reach::ReachCheck;
pub use relay::{
    FIXED_PORT, Relay, RelayChoice, RelayCredential, RelayDuty, RelayEvent, RelayInit, RelayLimits,
    RelayLoad, RelayReport, RelayReported, RelayRtt, RelayScope, RelayState, RelayTls,
    RelayTransport, TURN_ALPN,
};
pub use schedule::{
    MAX_UTC_OFFSET, ParseScheduleError, ParseTimeOfDayError, Schedule, TimeOfDay, Weekday,
};
pub use text::{is_plain_text, is_unseen};

/// The version of the node-broker protocol that this build speaks.
///
/// | version | date | what it added |
/// | --- | --- | --- |
/// | 1 | 2026-11-21 | registration by join link, check-in, netmap, deltas, connect signals |
/// | 1 | 2026-11-21 | relays: `relays` and `relay_duty` in the netmap, `relay_rtts` and `relay` in the
///   check-in, `relay` in connect signals, the changes that carry them, `/v1/relay` |
/// | 1 | 2026-11-29 | path reports: `/v1/node/paths` |
/// | 1 | 2026-11-29 | the proof in the registration names the broker that the device has verified |
/// | 2 | 2026-11-29 | policy: `filter` in the netmap, and the change of it; a node of version 1 is not
///   told of devices that it may not see, but lets in whatever those send that it does see |
/// | 3 | 2026-11-29 | admission: `admission`, `expires_unix` and `approvers` in the netmap's own entry;
///   an older node that waits, or has expired, has a map without peers and can't say why |
/// | 4 | 2026-11-29 | edges: `edge` in the netmap, in its peers and in the check-in, and the change of it;
///   an older node reaches an edge itself, and nothing behind it |
/// | 4 | 2026-11-29 | edges: `managers` in the duty, `asked_from` in `POST /v1/node/edge` |
/// | 4 | 2026-11-30 | exit nodes: `internet` in an edge's offer and in a filter's targets, gateways to
///   `0.0.0.0/0`; an older edge opens none, an older node uses none |
/// | 4 | 2026-11-30 | edges: `untested` of forwards and virtual devices; an older edge tests them |
pub const PROTOCOL: u32 = 4;

/// The oldest protocol version that this build's broker still serves.
pub const OLDEST_PROTOCOL: u32 = 1;

/// The request header of `GET /v1/node/events` that carries the node's [`InstanceId`].
pub const INSTANCE_HEADER: &str = "warren-instance";

/// The request header in which a node says which protocol it speaks. Absent: the first one.
pub const PROTOCOL_HEADER: &str = "warren-protocol";
