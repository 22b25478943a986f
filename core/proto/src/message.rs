//! Requests and replies of the control session. The routes are listed in `docs/protocol.md`.

use serde::{Deserialize, Serialize};

use crate::{
    AccountId, Delta, DeviceId, DeviceName, EdgeState, Endpoint, MapVersion, NatReport, Netmap,
    PublicKey, ReachCheck, RelayChoice, RelayRtt, RelayState, WakeOrder,
};

/// `GET /v1/node/challenge`: what a device must answer to prove that it holds its private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The broker's X25519 key of this process, for [`crate::possession_message`].
    pub broker_key: PublicKey,
    /// Opaque, base64url; valid for a few minutes; the broker keeps no state for it.
    pub challenge: String,
    /// The broker's protocol version.
    pub protocol: u32,
}

/// `POST /v1/node/register`: a device asks to join.
///
/// Idempotent by public key: repeated after a crash, with the same (even if by now used) one-time
/// join key, it returns the same device with a fresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The node's protocol version.
    pub protocol: u32,
    /// The secret out of the join link.
    pub join_key: String,
    /// The device's public key.
    pub key: PublicKey,
    /// [`Challenge::challenge`], as received.
    pub challenge: String,
    /// The HMAC over [`crate::possession_message`], in base64url without padding.
    pub proof: String,
    /// What the device calls itself, as free text.
    pub name: String,
    /// Its operating system, e.g. `linux`.
    #[serde(default)]
    pub os: String,
    /// Its software's version.
    #[serde(default)]
    pub software: String,
}

/// What a device must know to start after joining.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The device's id.
    pub device: DeviceId,
    /// The account it has joined.
    pub account: AccountId,
    /// The account's name.
    pub account_name: DeviceName,
    /// The name that the device got.
    pub name: DeviceName,
    /// Bearer token for every later request. Stored 0600; the broker keeps a hash.
    pub token: String,
}

/// `POST /v1/node/check-in`: what the node sees of itself. An empty JSON object means 'as before'.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// Its state, if it differs from what this broker process was told before.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub state: Option<CheckInState>,
}

/// The node's own state in a [`CheckIn`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckInState {
    /// All of its endpoints, the most promising first; at most [`crate::MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// What it knows of the NATs in front of it.
    #[serde(default)]
    pub nat: NatReport,
    /// What it can do beyond this protocol's first version.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The relays that it reaches; those that it doesn't reach are absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relay_rtts: Vec<RelayRtt>,
    /// How it does its duty, if it is a connection relay of its account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayState>,
    /// How it does its duty, if it is an edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeState>,
}

/// The broker's answer to a [`CheckIn`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckInReply {
    /// This broker process doesn't know the node's state: send it in full.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resend: bool,
}

/// `POST /v1/node/connect`: the sender is about to probe `peer`, and asks that `peer` probes too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// Whom to tell.
    pub peer: DeviceId,
    /// The sender's endpoints at this moment.
    pub endpoints: Vec<Endpoint>,
    /// The sender's NAT report.
    #[serde(default)]
    pub nat: NatReport,
    /// The relay that the sender has chosen for the pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayChoice>,
}

/// The broker's word to the other side of a [`ConnectRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectSignal {
    /// Who is about to probe.
    pub from: DeviceId,
    /// Its endpoints at this moment.
    pub endpoints: Vec<Endpoint>,
    /// Its NAT report.
    #[serde(default)]
    pub nat: NatReport,
    /// The relay that it has chosen for the pair: follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayChoice>,
}

/// One event of the control session's stream (`GET /v1/node/events`, server-sent events).
///
/// The event's name is the variant in kebab case, its data the content in JSON. `netmap` and
/// `delta` carry the map's version as their id, which `Last-Event-ID` brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The whole map: at the start of a session, or when deltas can't bridge the gap.
    Netmap(Box<Netmap>),
    /// What changed since the map or delta sent before.
    Delta(Delta),
    /// The map that the node resumed with is still the newest.
    Current(MapVersion),
    /// A peer is about to probe this node.
    Connect(ConnectSignal),
    /// A request is coming that shows whether an endpoint of this node is reached.
    Reach(ReachCheck),
    /// Somebody who manages this edge wants a device of its LAN awake.
    Wake(WakeOrder),
    /// The device was removed or expired: it must join again. The stream ends.
    Revoked,
}

/// Why a request failed, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The join key is unknown, or was deleted.
    JoinKeyUnknown,
    /// The one-time join key has been used by another device.
    JoinKeyUsed,
    /// The join key has expired.
    JoinKeyExpired,
    /// The proof of possession was wrong, or its challenge too old.
    ProofFailed,
    /// The token is unknown: the device was removed, or must join again.
    Revoked,
    /// The node's protocol is older than the broker serves.
    UpgradeRequired,
    /// The account is full (addresses, devices).
    AccountFull,
    /// The relay token is for another account than the relay is meant for.
    WrongScope,
    /// Nobody is signed in, or the API token is unknown.
    SignInRequired,
    /// E-mail address, password or code were wrong; or there is no such user.
    SignInFailed,
    /// Who asks has no right to this.
    Forbidden,
    /// The account or the user is suspended.
    Suspended,
    /// The one-time link is unknown, was used or has expired.
    LinkInvalid,
    /// Too many requests; try again later.
    RateLimited,
    /// The request is malformed.
    Invalid,
    /// No such thing.
    NotFound,
    /// It exists already.
    Conflict,
    /// The broker can't do it now (disk full, shutting down).
    Unavailable,
    /// From a newer version.
    #[serde(other)]
    Other,
}

/// Problem details (RFC 9457) as the broker sends them, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What went wrong and what to do next, for people.
    pub title: String,
    /// What went wrong, for programs.
    pub code: ErrorCode,
}
