//! Requests: who sent them, what they are, how they are answered.

use std::net::SocketAddr;
use std::time::Instant;

use super::auth::{Proven, Rejection};
use super::nonces::Proof;
use super::{ClientAddr, Dropped, Handled, Server, Transmit};
use crate::binding::{Answer, MAX_FACTOR, MAX_UNKNOWN, Refusal};
use crate::codec::{AttributeType, Builder, Class, Fingerprint, Message, Method, TransactionId};
use crate::credential::{MessageKey, PASSWORD_ALGORITHMS};

/// The comprehension-required attributes that a request to a TURN server may carry; others are
/// answered with 420.
pub(super) const KNOWN_ATTRIBUTES: &[AttributeType] = &[
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::DONT_FRAGMENT,
    AttributeType::RESERVATION_TOKEN,
];

/// Why a proven request isn't granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// With an error code.
    Code(u16),
    /// It would move what is there, but its nonce doesn't prove its address: 438 with one that
    /// will.
    Unproven,
}

/// What an answer needs to know of its request.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    client: ClientAddr,
    method: Method,
    pub(super) id: TransactionId,
    key: Option<MessageKey>,
    fingerprint: bool,
    /// What the request adds to [`Allocation::credit`](super::allocation::Allocation::credit): its own
    /// length, or any number where it proves who hears the answer.
    pub(super) credit: Option<u32>,
}

impl Reply {
    pub(super) fn client(&self) -> ClientAddr {
        self.client
    }

    fn write(&self, class: Class, fill: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
        let mut contents = Vec::with_capacity(160);
        let mut builder = Builder::new(&mut contents, class, self.method, self.id);
        fill(&mut builder);
        if let Some(key) = &self.key {
            key.sign(&mut builder);
        }
        if self.fingerprint {
            builder.fingerprint();
        }
        contents
    }
}

impl Server {
    pub(super) fn handle_binding(
        &mut self,
        client: ClientAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Handled, Dropped> {
        let remote = self.remote(client).ok_or(Dropped::Source)?;
        let sockets = self.config.stun.len();
        let (socket, address) = match client {
            ClientAddr::Udp { listener, .. } if sockets > 0 => {
                let number = usize::from(listener.0);
                (number % sockets, number - number % sockets)
            }
            ClientAddr::Udp { listener, .. } => (usize::from(listener.0), 0),
            // A stream has no other socket to answer from: no index into the listeners.
            ClientAddr::Stream(_) => (usize::MAX, 0),
        };
        let mut contents = Vec::new();
        match self.binding.handle_datagram(socket, remote, datagram, &mut contents, now) {
            Answer::Reply { socket } => {
                let to = match client {
                    ClientAddr::Udp { addr, .. } => {
                        let number = u16::try_from(socket + address).unwrap_or(u16::MAX);
                        let listener = super::Listener(number);
                        ClientAddr::Udp { listener, addr }
                    }
                    ClientAddr::Stream(_) => client,
                };
                self.counters.bindings += 1;
                self.transmits.push_back(Transmit { to, contents });
                Ok(Handled::Consumed)
            }
            Answer::Refused(refusal) => Err(dropped(refusal)),
        }
    }

    pub(super) fn handle_request(
        &mut self,
        client: ClientAddr,
        method: Method,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Handled, Dropped> {
        let is_ours =
            [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND]
                .contains(&method);
        if !is_ours {
            return Err(Dropped::Unexpected);
        }
        if self.credentials.are_none() {
            return Err(Dropped::NoCredentials);
        }
        let remote = self.remote(client).ok_or(Dropped::Source)?;
        if remote.port() == 0 || remote.ip().is_unspecified() || remote.ip().is_multicast() {
            return Err(Dropped::Source);
        }
        if message.verify_fingerprint() == Fingerprint::Wrong {
            return Err(Dropped::Malformed);
        }
        let proven = match self.authenticate(client, message, now) {
            Ok(proven) => proven,
            Err(rejection) => return self.reject(client, remote, message, rejection, now),
        };
        let mut reply = reply_to(client, message);
        reply.key = Some(proven.key.clone());
        reply.credit = match (client, proven.proof) {
            (ClientAddr::Udp { .. }, Proof::Nothing) => {
                u32::try_from(message.as_bytes().len()).ok()
            }
            (ClientAddr::Stream(_), _) | (_, Proof::Address) => None,
        };
        self.add_credit(&reply, &proven);
        match self.grant(&reply, message, &proven, now) {
            Ok(()) => Ok(Handled::Consumed),
            Err(Refused::Code(code)) => {
                self.refuse(&reply, code);
                Ok(Handled::Consumed)
            }
            Err(Refused::Unproven) => {
                let rejection = Rejection::Stale { is_owner: false };
                self.reject(client, remote, message, rejection, now)
            }
        }
    }

    fn grant(
        &mut self,
        reply: &Reply,
        message: &Message<'_>,
        proven: &Proven,
        now: Instant,
    ) -> Result<(), Refused> {
        let unknown: Vec<_> =
            message.unknown_required(KNOWN_ATTRIBUTES).take(MAX_UNKNOWN).collect();
        if !unknown.is_empty() {
            self.counters.refuse(420);
            self.send(reply, Class::Error, |builder| {
                builder.error_code(420).unknown_attributes(&unknown);
            });
            return Ok(());
        }
        match message.method() {
            Method::ALLOCATE => self.allocate(reply, message, proven, now),
            Method::REFRESH => self.refresh(reply, message, proven, now),
            Method::CREATE_PERMISSION => self.create_permission(reply, message, proven, now),
            Method::CHANNEL_BIND => self.channel_bind(reply, message, proven, now),
            _ => Err(Refused::Code(400)),
        }
    }

    /// A request of the owner of an allocation has come from its client's address.
    fn add_credit(&mut self, reply: &Reply, proven: &Proven) {
        let Some(handle) = self.table.find(reply.client) else { return };
        let Some(allocation) = self.table.get_mut(handle) else { return };
        if self.owners.identity(allocation.owner) == Some(&proven.identity) {
            let sum = |credit: u32| reply.credit.map(|more| credit.saturating_add(more));
            allocation.credit = allocation.credit.and_then(sum);
        }
    }

    pub(super) fn succeed(&mut self, reply: &Reply, fill: impl FnOnce(&mut Builder<'_>)) {
        self.send(reply, Class::Success, fill);
    }

    pub(super) fn refuse(&mut self, reply: &Reply, code: u16) {
        self.counters.refuse(code);
        self.send(reply, Class::Error, |builder| {
            builder.error_code(code);
        });
    }

    fn send(&mut self, reply: &Reply, class: Class, fill: impl FnOnce(&mut Builder<'_>)) {
        let contents = reply.write(class, fill);
        self.transmits.push_back(Transmit { to: reply.client, contents });
    }

    /// Answers what nobody has proved to have sent: small, and not often.
    fn reject(
        &mut self,
        client: ClientAddr,
        remote: SocketAddr,
        message: &Message<'_>,
        rejection: Rejection,
        now: Instant,
    ) -> Result<Handled, Dropped> {
        let (code, is_told_nonce, is_stranger) = match rejection {
            Rejection::BadRequest => (400, false, true),
            Rejection::Unauthenticated { failed } => {
                self.counters.auth_failures += u64::from(failed);
                (401, true, true)
            }
            Rejection::Stale { is_owner } => (438, true, !is_owner),
        };
        if is_stranger {
            self.binding.admit(remote, now).map_err(dropped)?;
        }
        self.counters.refuse(code);
        let reply = reply_to(client, message);
        let bare = |builder: &mut Builder<'_>| {
            builder.error_code(code);
        };
        let room = MAX_FACTOR * message.as_bytes().len();
        let mut contents = reply.write(Class::Error, bare);
        if is_told_nonce {
            let nonce = self.nonces.issue(remote, self.unix(now));
            let realm = self.credentials.realm();
            let with_algorithms = reply.write(Class::Error, |builder| {
                bare(builder);
                builder
                    .realm(realm)
                    .nonce(nonce.as_bytes())
                    .attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
            });
            if with_algorithms.len() <= room {
                contents = with_algorithms;
            } else {
                let plain = reply.write(Class::Error, |builder| {
                    bare(builder);
                    builder.realm(realm).nonce(nonce.plain().as_bytes());
                });
                if plain.len() <= room {
                    contents = plain;
                }
            }
        }
        if contents.len() > room {
            return Err(Dropped::Factor);
        }
        self.transmits.push_back(Transmit { to: client, contents });
        Ok(Handled::Consumed)
    }

    /// Where a client's messages come from; `None` for a stream that isn't there.
    pub(super) fn remote(&self, client: ClientAddr) -> Option<SocketAddr> {
        match client {
            ClientAddr::Udp { addr, .. } => Some(addr),
            ClientAddr::Stream(stream) => self.streams.get(&stream).map(|stream| stream.remote),
        }
    }
}

fn reply_to(client: ClientAddr, message: &Message<'_>) -> Reply {
    Reply {
        client,
        method: message.method(),
        id: message.transaction_id(),
        key: None,
        fingerprint: message.verify_fingerprint() == Fingerprint::Valid,
        credit: Some(0),
    }
}

fn dropped(refusal: Refusal) -> Dropped {
    match refusal {
        Refusal::Malformed(_) | Refusal::Fingerprint => Dropped::Malformed,
        Refusal::NotBinding => Dropped::Unexpected,
        Refusal::Source => Dropped::Source,
        Refusal::PrefixLimit => Dropped::PrefixLimit,
        Refusal::TotalLimit => Dropped::TotalLimit,
    }
}
