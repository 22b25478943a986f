//! The broker's state machine: registry, addresses, presence, deltas.
//!
//! Driven as `docs/sans-io.md` says. One [`Account`] is one private network; a [`Directory`] finds
//! the account that a token or join key belongs to; a [`Gatekeeper`] makes devices prove that they
//! hold their private keys.
//!
//! # Durable and soft
//!
//! What must survive a crash moves in three steps, so that nothing is acknowledged before it is
//! safe:
//!
//! ```text
//! let prepared = account.prepare_register(&proven, &ctx)?;          // decides, changes nothing
//! store.commit(account_id, lease_epoch, &prepared.changes).await?;  // fenced by the lease
//! directory.apply(account_id, &prepared.changes);
//! let reply = account.apply(prepared, now);                         // only after the commit
//! ```
//!
//! The shell does these steps of **one account one after the other** (what is prepared is right
//! only as long as no other durable change comes between); soft calls (`handle_*`, `open_session`,
//! `poll_*`) may run in between. When the commit fails, the shell drops the [`Prepared`]: nothing
//! has happened. Endpoints, presence and sessions are soft: they live in memory and end with the
//! process, which is why each process serves its maps under an epoch of its own ([`LeaseEpoch`]).
//!
//! # Driving an account
//!
//! After each call, drain [`Account::poll_event`] to `None`, write it to the sessions' streams, and
//! sleep until [`Account::poll_timeout`]. After [`Account::handle_timeout`], besides, commit and
//! apply what [`Account::poll_housekeeping`] returns. A session whose stream doesn't keep up is
//! reported with [`Account::handle_overflow`] and gets the whole map after
//! [`Account::handle_drained`].

mod account;
mod activity;
mod address;
mod challenge;
mod change;
mod context;
mod directory;
mod edge;
mod limit;
pub mod lines;
mod name;
mod people;
pub mod policy;
mod pool;
mod refused;
mod relay;
mod secret;
mod snapshot;
mod webhook;

pub use account::{
    Account, COALESCE_WINDOW, CheckedPolicy, DeviceEdit, DeviceView, EPHEMERAL_AFTER, EdgeView,
    HOUSEKEEPING_INTERVAL, JoinKeyCreated, JoinKeyStatus, JoinKeyView, NewJoinKey, NewTurn,
    NewWebhook, OFFLINE_GRACE, Opened, PathView, PolicyCase, Presence, RelayGroups, RelayOrigin,
    RelayProbe, RelayView, RelayWarning, SessionId, SettingsEdit, TRAFFIC_STEP, TRAFFIC_STEPS,
    TrafficPoint, Verdict, WebhookCreated, WebhookEdit, account_activity, relay_activity,
    relay_init, relay_update,
};
pub use activity::{
    Actor, By, CHAIN_START, Chain, ChainBroken, ChainCheck, ChainedEntry, Entry, FieldChange, Named,
};
pub use address::SERVICE_ADDRESSES;
pub use challenge::{CHALLENGE_LIFETIME, Gatekeeper, Proven, prove};
pub use change::{Change, Prepared};
pub use context::{BrokerSettings, Ctx, DeviceLimit, LeaseEpoch, UnixTime};
pub use directory::{AccountEntry, Directory};
pub use edge::{EdgeItem, EdgeItemId, EdgeItemRecord, EdgeRecord};
pub use limit::Bucket;
pub use people::{
    ApiTokenCreated, ApiTokenRecord, Asker, ClientInfo, Email, Enrolment, Identity, InvalidEmail,
    InvalidRole, InvalidScope, Invitation, InvitationCreated, InvitationRecord, LinkCreated,
    LinkPurpose, LinkRecord, Member, MembershipRecord, NewApiToken, NewInvitation, NewUser,
    PasswordHash, People, PeopleChange, PeopleSnapshot, Proof, Right, Role, SESSION_IDLE,
    SESSION_LIFETIME, Scope, SignInMethod, SignInStep, SignInThrottle, SignedIn, SsoBegun,
    SsoPurpose, SsoReturned, SsoVisits, Standing, TokenGrant, TokenReach, TotpRecord, UserEdit,
    UserRecord, Vouched, WebSessionCreated, WebSessionRecord, check_password, may, right_for_role,
};
pub use pool::RelayPool;
pub use refused::Refused;
pub use relay::{
    CREDENTIAL_LIFETIME, ListedRelay, RELAY_REALM, RelayCreated, RelayFace, RelayKind, RelayRecord,
};
pub use secret::SecretHash;
pub use snapshot::{
    AccountRecord, AccountSettings, DeviceRecord, InvalidTag, JoinKeyRecord, PolicyRecord,
    Snapshot, Tag,
};
pub use webhook::{WebhookOff, WebhookRecord, WebhookSecret};
