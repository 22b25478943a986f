//! Relays as they are stored, and the credentials that devices get for them.

use std::fmt;

use warren_proto::{
    DeviceId, DeviceName, Relay, RelayCredential, RelayDuty, RelayId, RelayTls, is_usable_endpoint,
};
use warren_turn::rest;

use crate::secret::secret_text;
use crate::{Ctx, SecretHash, UnixTime};

/// The realm of the credentials for our relays.
pub const RELAY_REALM: &str = "warren";

/// How long a credential is good, in seconds. A device gets a fresh one each day.
pub const CREDENTIAL_LIFETIME: u64 = 7 * DAY;

pub(crate) const DAY: u64 = 24 * 60 * 60;

/// The most addresses of one kind that a relay server may report.
const MAX_ADDRESSES: usize = 2;
const MAX_TLS: usize = 4;
const MAX_HOST: usize = 253;

/// A relay as it is stored: an account's, or one that the operator offers to all accounts.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayRecord {
    /// Its id.
    pub id: RelayId,
    /// Its name, unique among the account's or the operator's. A device goes by its own instead.
    pub name: DeviceName,
    /// What it is.
    pub kind: RelayKind,
    /// What credentials are made with; for a TURN server with a user list the password.
    pub secret: String,
    /// The secret before, which relays go on taking.
    pub previous_secret: Option<String>,
    /// Where it is reached, as far as that is known for certain; a device's is known otherwise.
    pub face: RelayFace,
    /// When it was created.
    pub created: UnixTime,
}

impl fmt::Debug for RelayRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayRecord")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("face", &self.face)
            .finish_non_exhaustive()
    }
}

/// What a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayKind {
    /// One of the account's devices.
    Device(DeviceId),
    /// A relay server with this token.
    Server {
        /// The token's hash.
        token: SecretHash,
    },
    /// Anybody's TURN server.
    Turn {
        /// Its URL (RFC 7065), as it was given.
        url: String,
        /// The user that all devices are. Without one the secret makes credentials by the TURN
        /// REST convention.
        username: Option<String>,
    },
    /// The broker itself; never stored with the others.
    Own,
}

/// Where a relay is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayFace {
    /// Datagrams: at most one address of each family.
    pub udp: Vec<std::net::SocketAddr>,
    /// TCP: at most one address of each family.
    pub tcp: Vec<std::net::SocketAddr>,
    /// TLS.
    pub tls: Vec<RelayTls>,
}

impl RelayFace {
    /// Without what no device could use: bad addresses, more than one of a family, what is too
    /// much.
    pub fn clean(&self) -> Self {
        let addresses = |given: &[std::net::SocketAddr]| {
            let mut clean: Vec<std::net::SocketAddr> = Vec::new();
            for addr in given {
                let addr = std::net::SocketAddr::new(addr.ip().to_canonical(), addr.port());
                let is_new = clean.iter().all(|other| other.is_ipv4() != addr.is_ipv4());
                if is_new && is_usable_endpoint(&addr) && clean.len() < MAX_ADDRESSES {
                    clean.push(addr);
                }
            }
            clean
        };
        let is_host = |host: &str| {
            (1..=MAX_HOST).contains(&host.len()) && host.chars().all(|c| c.is_ascii_graphic())
        };
        let tls = self.tls.iter().filter(|tls| tls.port != 0 && is_host(&tls.host));
        Self {
            udp: addresses(&self.udp),
            tcp: addresses(&self.tcp),
            tls: tls.take(MAX_TLS).cloned().collect(),
        }
    }

    /// Whether it can't be reached at all.
    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty() && self.tls.is_empty()
    }
}

/// One entry of an account's list of connection relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedRelay {
    /// Which relay: one of the account's, or one that is offered to all.
    pub relay: RelayId,
    /// Smaller is preferred; equal ones are chosen by their round-trip times.
    pub rank: u16,
}

/// A relay server's token. It exists nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayCreated {
    /// The relay.
    pub id: RelayId,
    /// Its bearer token: a secret.
    pub token: String,
}

impl fmt::Debug for RelayCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayCreated({})", self.id)
    }
}

impl RelayRecord {
    pub(crate) fn new_server(
        name: DeviceName,
        is_taken: impl Fn(RelayId) -> bool,
        ctx: &Ctx,
    ) -> (Self, RelayCreated) {
        let token = secret_text(&ctx.bytes("relay token")[..24]);
        let kind = RelayKind::Server { token: SecretHash::of(&token) };
        let record = Self::new(name, kind, is_taken, ctx);
        let created = RelayCreated { id: record.id, token };
        (record, created)
    }

    pub(crate) fn new(
        name: DeviceName,
        kind: RelayKind,
        is_taken: impl Fn(RelayId) -> bool,
        ctx: &Ctx,
    ) -> Self {
        let purpose = format!("relay {name}");
        Self {
            id: RelayId(ctx.fresh_id(&purpose, |id| is_taken(RelayId(id)))),
            secret: secret_text(&ctx.bytes(&format!("{purpose} secret"))[..24]),
            previous_secret: None,
            name,
            kind,
            face: RelayFace::default(),
            created: ctx.unix_time(),
        }
    }

    /// The relay that the broker itself is.
    pub fn own(id: RelayId, name: DeviceName, secret: String, face: RelayFace) -> Self {
        Self {
            id,
            name,
            kind: RelayKind::Own,
            secret,
            previous_secret: None,
            face,
            created: UnixTime(0),
        }
    }

    /// The same with a new secret; relays go on taking the one before.
    pub(crate) fn rotated(&self, ctx: &Ctx) -> Self {
        let secret = secret_text(&ctx.bytes(&format!("relay {} new secret", self.id))[..24]);
        let previous_secret = Some(self.secret.clone());
        Self { secret, previous_secret, ..self.clone() }
    }

    /// The secrets that the relay is to take, the present one first.
    pub fn secrets(&self) -> Vec<String> {
        [Some(self.secret.clone()), self.previous_secret.clone()].into_iter().flatten().collect()
    }

    /// Whether it is one of ours: its credentials are made here, its addresses are virtual.
    pub fn is_ours(&self) -> bool {
        match self.kind {
            RelayKind::Device(_) | RelayKind::Server { .. } | RelayKind::Own => true,
            RelayKind::Turn { .. } => false,
        }
    }

    /// As one device is told of it.
    pub(crate) fn entry(
        &self,
        name: &DeviceName,
        rank: u16,
        face: RelayFace,
        viewer: DeviceId,
        expiry: u64,
    ) -> Relay {
        let device = match self.kind {
            RelayKind::Device(device) => Some(device),
            RelayKind::Server { .. } | RelayKind::Turn { .. } | RelayKind::Own => None,
        };
        Relay {
            id: self.id,
            name: name.to_string(),
            rank,
            device,
            udp: face.udp,
            tcp: face.tcp,
            tls: face.tls,
            virtual_addresses: self.is_ours(),
            credential: self.credential(viewer, expiry),
        }
    }

    fn credential(&self, viewer: DeviceId, expiry: u64) -> RelayCredential {
        if let RelayKind::Turn { username: Some(username), .. } = &self.kind {
            return RelayCredential {
                username: username.clone(),
                password: self.secret.clone(),
                realm: None,
                nonce: None,
                expires_unix: None,
            };
        }
        let secret = self.secret.as_bytes();
        let (username, password) = rest::mint(secret, expiry, &viewer.to_string());
        let issued = expiry.saturating_sub(CREDENTIAL_LIFETIME);
        RelayCredential {
            username,
            password,
            realm: self.is_ours().then(|| RELAY_REALM.to_owned()),
            nonce: self.is_ours().then(|| rest::nonce(secret, issued)),
            expires_unix: Some(expiry),
        }
    }

    pub(crate) fn duty(
        &self,
        public: Vec<std::net::SocketAddr>,
        revoked: Vec<DeviceId>,
    ) -> RelayDuty {
        RelayDuty { realm: RELAY_REALM.to_owned(), secrets: self.secrets(), public, revoked }
    }
}
