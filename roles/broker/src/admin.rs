//! Administration over the broker's local socket: what can be asked, and a client that asks it.
//!
//! REST with JSON bodies under `/api/v1`; errors are problem details (RFC 9457). Only root, the
//! broker's own user and members of the group `warren` are served.

mod activity;
mod client;
mod download;
mod people;
mod people_types;
mod relay_types;
pub(crate) mod relays;
pub(crate) mod routes;
pub(crate) mod server;
mod time;
mod types;

use std::path::{Path, PathBuf};

pub use client::{Client, Error};
pub use people_types::{
    ActivityEntry, ActivityPage, ActivityQuery, ChainHead, ChainState, FieldChange, Invitation,
    InvitationCreated, Link, Membership, Named, NewInvitation, NewPasswordLink, NewUser, User,
    UserChange, UserCreated,
};
pub use relay_types::{
    DeviceRemoved, NewRelay, NewTurn, Relay, RelayCreated, RelayOrigin, SetRelays,
};
pub use time::Time;
pub use types::{
    Account, BrokerStatus, Device, DeviceChange, DevicePath, JoinKey, JoinKeyCreated, NewAccount,
    NewJoinKey, Pins, SetLog,
};
pub use warren_coord::{Email, JoinKeyStatus, Role};

/// The group whose members may administrate.
pub const GROUP: &str = "warren";

/// The admin socket of the service that `warren service install --role broker` installs: in a folder
/// that members of the group can reach, unlike the data folder.
pub const SERVICE_SOCKET: &str = "/run/warren-broker/admin.sock";

/// The admin socket of a data folder.
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("admin.sock")
}
