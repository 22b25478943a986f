//! Who sent a request (RFC 8489 §9.2.4).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::nonces::Proof;
use super::owner::{Identity, Source};
use super::{ClientAddr, Server, Settings};
use crate::codec::{AttributeType, Integrity, Message, PasswordAlgorithm};
use crate::credential::{
    IntegrityKind, LongTermKey, MessageKey, NONCE_PREFIX, PASSWORD_ALGORITHMS,
};
use crate::rest;

/// Why a request isn't proved to be anybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    /// 400: it lacks what it must have.
    BadRequest,
    /// 401, with a nonce: no integrity, or an unknown or expired name, or a wrong password.
    Unauthenticated { failed: bool },
    /// 438, with a nonce. An owner is the credential's who has an allocation at this 5-tuple, and has
    /// proved before that he hears what is sent there.
    Stale { is_owner: bool },
}

/// Who sent a request.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) identity: Identity,
    /// What the answer is signed with.
    pub(super) key: MessageKey,
    pub(super) proof: Proof,
}

/// What credentials are compared with.
#[derive(Debug)]
pub(super) struct Credentials {
    realm: Vec<u8>,
    secrets: Vec<Vec<u8>>,
    user_by_name_and_realm: BTreeMap<(Vec<u8>, Vec<u8>), Known>,
    revoked: BTreeSet<String>,
}

impl Credentials {
    pub(super) fn new(settings: &Settings) -> Self {
        let users = settings.users.iter().map(|user| {
            let elsewhere = user.realm.as_ref().filter(|realm| **realm != settings.realm);
            let name = match elsewhere {
                Some(realm) => format!("{}\n{realm}", user.name),
                None => user.name.clone(),
            };
            let realm = elsewhere.unwrap_or(&settings.realm);
            let identity = Identity { source: Source::User, name: name.into() };
            let key = (user.name.clone().into_bytes(), realm.clone().into_bytes());
            (key, Known { password: user.password.clone().into_bytes(), identity })
        });
        Self {
            realm: settings.realm.clone().into_bytes(),
            secrets: settings.secrets.clone(),
            user_by_name_and_realm: users.collect(),
            revoked: settings.revoked.iter().cloned().collect(),
        }
    }

    /// Whether nobody can have one.
    pub(super) fn are_none(&self) -> bool {
        self.secrets.is_empty() && self.user_by_name_and_realm.is_empty()
    }

    pub(super) fn realm(&self) -> &[u8] {
        &self.realm
    }

    /// Whether somebody who has proved himself before still may.
    pub(super) fn is_welcome(&self, identity: &Identity) -> bool {
        match identity.source {
            Source::Rest => !self.revoked.contains(&*identity.name),
            Source::User => {
                self.user_by_name_and_realm.values().any(|known| known.identity == *identity)
            }
        }
    }
}

/// A user with a fixed password.
#[derive(Debug)]
struct Known {
    password: Vec<u8>,
    identity: Identity,
}

/// What is checked of a request that claims to be somebody's.
struct Claim<'m> {
    message: &'m Message<'m>,
    username: &'m [u8],
    realm: &'m [u8],
    algorithm: PasswordAlgorithm,
    kind: IntegrityKind,
}

impl Claim<'_> {
    /// The key of a password, if it is the one that the request was signed with.
    fn verify(&self, password: &[u8]) -> Option<MessageKey> {
        let key = LongTermKey::new(self.algorithm, self.username, self.realm, password);
        let key = MessageKey::new(&key, self.kind);
        (key.verify(self.message) == Integrity::Valid).then_some(key)
    }
}

impl Server {
    pub(super) fn authenticate(
        &self,
        client: ClientAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Proven, Rejection> {
        let kind = if message.has_sha256() {
            IntegrityKind::Sha256
        } else if message.has_sha1() {
            IntegrityKind::Sha1
        } else {
            return Err(Rejection::Unauthenticated { failed: false });
        };
        let (Some(username), Some(realm), Some(nonce), Some(remote)) =
            (message.username(), message.realm(), message.nonce(), self.remote(client))
        else {
            return Err(Rejection::BadRequest);
        };
        let algorithm = password_algorithm(message, nonce);
        let claim = algorithm.map(|algorithm| Claim { message, username, realm, algorithm, kind });
        let find = |claim: &Claim<'_>| {
            self.find_user(claim).or_else(|| self.find_rest(claim, client, now))
        };
        let Some(proof) = self.nonces.check(nonce, remote, self.unix(now)) else {
            let owner = self.proven_owner(client);
            let is_owner = owner.is_some_and(|owner| {
                claim.as_ref().and_then(find).is_some_and(|(found, _)| found == *owner)
            });
            return Err(Rejection::Stale { is_owner });
        };
        let claim = claim.ok_or(Rejection::BadRequest)?;
        let (identity, key) = find(&claim).ok_or(Rejection::Unauthenticated { failed: true })?;
        Ok(Proven { identity, key, proof })
    }

    /// Whose allocation a client has, if it hears what is sent to it.
    fn proven_owner(&self, client: ClientAddr) -> Option<&Identity> {
        let allocation = self.table.get(self.table.find(client)?)?;
        self.owners.identity(allocation.owner).filter(|_| allocation.credit.is_none())
    }

    fn find_user(&self, claim: &Claim<'_>) -> Option<(Identity, MessageKey)> {
        let name = (claim.username.to_vec(), claim.realm.to_vec());
        let known = self.credentials.user_by_name_and_realm.get(&name)?;
        Some((known.identity.clone(), claim.verify(&known.password)?))
    }

    fn find_rest(
        &self,
        claim: &Claim<'_>,
        client: ClientAddr,
        now: Instant,
    ) -> Option<(Identity, MessageKey)> {
        if claim.realm != self.credentials.realm {
            return None;
        }
        let (expires, id) = rest::parse_username(std::str::from_utf8(claim.username).ok()?)?;
        // A live allocation outlives its credential.
        let is_expired = expires < self.unix(now) && !self.holds_allocation(client, id);
        if is_expired || self.credentials.revoked.contains(id) {
            return None;
        }
        let key =
            self.credentials.secrets.iter().find_map(|secret| {
                claim.verify(rest::password(secret, claim.username).as_bytes())
            })?;
        let known = self.owners.find(Source::Rest, id).and_then(|id| self.owners.identity(id));
        let name = known.map_or_else(|| id.into(), |known| known.name.clone());
        Some((Identity { source: Source::Rest, name }, key))
    }

    fn holds_allocation(&self, client: ClientAddr, id: &str) -> bool {
        let allocation = self.table.find(client).and_then(|handle| self.table.get(handle));
        allocation
            .and_then(|allocation| self.owners.identity(allocation.owner))
            .is_some_and(|identity| identity.source == Source::Rest && &*identity.name == id)
    }
}

/// How the key is to be made; `None` when what the request says of it was tampered with
/// (RFC 8489 §9.2.4).
fn password_algorithm(message: &Message<'_>, nonce: &[u8]) -> Option<PasswordAlgorithm> {
    let offered = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
    let chosen = message.attribute(AttributeType::PASSWORD_ALGORITHM);
    if !nonce.starts_with(NONCE_PREFIX) || offered.is_none() && chosen.is_none() {
        return Some(PasswordAlgorithm::Md5);
    }
    if offered != Some(PASSWORD_ALGORITHMS.as_slice()) {
        return None;
    }
    message.password_algorithm()
}
