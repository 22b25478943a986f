//! The API, version 1: what can be asked, and a client that asks it over the local socket.
//!
//! REST with JSON bodies under `/api/v1`; errors are problem details (RFC 9457). The local socket
//! serves root, the broker's own user and members of the group `warren` as operators; HTTPS serves
//! the holders of API tokens (`https`). `rest` has all operations, each a row that says what it
//! takes to be allowed it.

pub(crate) mod activity;
mod activity_file;
mod client;
pub(crate) mod devices;
mod download;
mod edges;
mod events;
mod guard;
pub(crate) mod https;
mod metrics;
mod once;
pub(crate) mod openapi;
mod operation;
mod paged;
mod people;
mod people_types;
mod policy;
mod policy_types;
mod reach;
mod relay_types;
pub(crate) mod relays;
mod rest;
pub(crate) mod routes;
pub(crate) mod server;
mod time;
mod tokens;
mod types;
mod webhooks;

use std::path::{Path, PathBuf};

pub use activity_file::{ActivityFileError, FileChain, verify_activity};
pub use client::{Client, Error};
pub use edges::{Edge, EdgeEdit, Wake};
pub use people_types::{
    ActivityEntry, ActivityPage, ActivityQuery, ChainHead, ChainState, ExportQuery, FieldChange,
    Invitation, InvitationCreated, Link, MailTest, Membership, Named, NewInvitation,
    NewPasswordLink, NewUser, User, UserChange, UserCreated,
};
pub use policy_types::{PolicyCheck, PolicySaved, PolicyText, Why, WhyDevice, WhyQuery, WhyRule};
pub use reach::Reachability;
pub use relay_types::{
    DeviceRemoved, NewRelay, NewTurn, Relay, RelayCreated, RelayOrigin, SetRelays,
};
pub use time::Time;
pub use tokens::{ApiToken, ApiTokenCreated, NewApiToken, Scope};
pub use types::{
    Account, AccountChange, BrokerStatus, Device, DeviceChange, DevicePath, JoinApproval, JoinKey,
    JoinKeyCreated, JoinRequest, NewAccount, NewJoinKey, Pins, SetLog,
};
pub use warren_coord::policy::{
    Difference, Problem as PolicyProblem, Report, Row, Severity, Side, TestResult,
};
pub use warren_coord::{Email, JoinKeyStatus, Role, WebhookOff};
pub use webhooks::{Delivery, NewWebhook, Webhook, WebhookChange, WebhookCreated};

/// The group whose members may administrate.
pub const GROUP: &str = "warren";

/// The admin socket of the service that `warren service install --role broker` installs: in a folder
/// that members of the group can reach, unlike the data folder.
pub const SERVICE_SOCKET: &str = "/run/warren-broker/admin.sock";

/// The admin socket of a data folder.
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("admin.sock")
}
