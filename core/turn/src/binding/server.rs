use std::net::SocketAddr;
use std::time::Instant;

use thiserror::Error;

use super::limit::{Admission, Limiter, Limits};
use crate::codec::{
    AttributeType, Builder, ChangeRequest, Class, Fingerprint, Message, Method, ParseError,
};

/// A reply is at most this many times as long as its request (bytes of UDP payload).
pub(crate) const MAX_FACTOR: usize = 4;

/// The most unknown attributes that a 420 names.
pub(crate) const MAX_UNKNOWN: usize = 8;

/// What a Binding request may carry without a 420: what is answered, and credentials, which a
/// server that asks for none ignores.
const KNOWN: &[AttributeType] = &[
    AttributeType::CHANGE_REQUEST,
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
];

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// `reply` goes back to where the datagram came from, and to nowhere else, from this socket:
    /// an index into the list given to [`BindingServer::new`].
    Reply {
        /// Which of our own sockets.
        socket: usize,
    },
    /// Nothing is sent.
    Refused(Refusal),
}

/// Why a datagram got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is no STUN message.
    #[error("malformed: {0}")]
    Malformed(#[from] ParseError),
    /// Its fingerprint is wrong.
    #[error("wrong fingerprint")]
    Fingerprint,
    /// It is STUN, but no Binding request; a TURN server may want it.
    #[error("no Binding request")]
    NotBinding,
    /// It came from an address that can't be answered (port 0, unspecified, multicast).
    #[error("impossible source")]
    Source,
    /// Its /24 or /56 has had its share.
    #[error("too many from this prefix")]
    PrefixLimit,
    /// Everybody together has had the share.
    #[error("too many")]
    TotalLimit,
}

/// Answers Binding requests: one small reply for each, nothing remembered but rates.
///
/// A reply goes only to the request's source, is at most four times as long, names no software, and
/// counts against its prefix and the total before it is written. With two addresses and two ports
/// (four sockets) it is what RFC 5780 calls a server with OTHER-ADDRESS; with fewer it serves what
/// CHANGE-REQUEST can ask of the sockets there are, and answers 420 to the rest.
#[derive(Debug)]
pub struct BindingServer {
    sockets: Vec<SocketAddr>,
    limiter: Limiter,
}

impl BindingServer {
    /// A server whose sockets are reached at these addresses from outside, in the shell's order.
    /// `seed` keys the rate limits' hash and must be random in production.
    pub fn new(sockets: Vec<SocketAddr>, limits: Limits, seed: [u8; 16], now: Instant) -> Self {
        Self { sockets, limiter: Limiter::new(limits, seed, now) }
    }

    /// Handles a datagram that `socket` (an index) received from `from`. `reply` is overwritten,
    /// and means something only with [`Answer::Reply`].
    pub fn handle_datagram(
        &mut self,
        socket: usize,
        from: SocketAddr,
        datagram: &[u8],
        reply: &mut Vec<u8>,
        now: Instant,
    ) -> Answer {
        reply.clear();
        match self.answer(socket, from, datagram, reply, now) {
            Ok(socket) => Answer::Reply { socket },
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    fn answer(
        &mut self,
        socket: usize,
        from: SocketAddr,
        datagram: &[u8],
        reply: &mut Vec<u8>,
        now: Instant,
    ) -> Result<usize, Refusal> {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if from.port() == 0 || from.ip().is_unspecified() || from.ip().is_multicast() {
            return Err(Refusal::Source);
        }
        let request = Message::parse(datagram)?;
        if (request.class(), request.method()) != (Class::Request, Method::BINDING) {
            return Err(Refusal::NotBinding);
        }
        if request.verify_fingerprint() == Fingerprint::Wrong {
            return Err(Refusal::Fingerprint);
        }
        self.admit(from, now)?;
        let mut unknown: Vec<AttributeType> =
            request.unknown_required(KNOWN).take(MAX_UNKNOWN).collect();
        let change = match request.attribute(AttributeType::CHANGE_REQUEST) {
            Some(_) => request.change_request(),
            None => Some(ChangeRequest::default()),
        };
        let origin = change.and_then(|change| self.socket_for(socket, change));
        if origin.is_none() && unknown.is_empty() {
            unknown.push(AttributeType::CHANGE_REQUEST);
        }
        match origin {
            Some(origin) if unknown.is_empty() => {
                self.success(&request, socket, origin, from, reply);
                Ok(origin)
            }
            Some(_) | None => {
                let id = request.transaction_id();
                Builder::new(reply, Class::Error, Method::BINDING, id)
                    .error_code(420)
                    .unknown_attributes(&unknown);
                Ok(socket)
            }
        }
    }

    /// Takes a token for one small reply to somebody unproven; the TURN server's count too.
    pub(crate) fn admit(&mut self, from: SocketAddr, now: Instant) -> Result<(), Refusal> {
        match self.limiter.admit(from.ip(), now) {
            Admission::Granted => Ok(()),
            Admission::PrefixExhausted => Err(Refusal::PrefixLimit),
            Admission::TotalExhausted => Err(Refusal::TotalLimit),
        }
    }

    /// Writes the reply; what is good to know but not asked for is left out where it would make
    /// the reply too long.
    fn success(
        &self,
        request: &Message<'_>,
        socket: usize,
        origin: usize,
        from: SocketAddr,
        reply: &mut Vec<u8>,
    ) {
        let fingerprint = request.verify_fingerprint() == Fingerprint::Valid;
        let mut room = MAX_FACTOR * request.as_bytes().len() - if fingerprint { 8 } else { 0 };
        let id = request.transaction_id();
        let mut builder = Builder::new(reply, Class::Success, Method::BINDING, id);
        builder.xor_mapped_address(from);
        room -= builder.len();
        let address_len = |addr: &SocketAddr| if addr.is_ipv4() { 12 } else { 24 };
        if let Some(other) = self.other_address(socket)
            && address_len(&other) <= room
        {
            builder.other_address(other);
            room -= address_len(&other);
        }
        if let Some(origin) = self.sockets.get(origin)
            && address_len(origin) <= room
        {
            builder.response_origin(*origin);
        }
        if fingerprint {
            builder.fingerprint();
        }
    }

    /// The socket that differs from `socket` in exactly what `change` asks for.
    fn socket_for(&self, socket: usize, change: ChangeRequest) -> Option<usize> {
        if !change.ip && !change.port {
            return Some(socket);
        }
        let asked = self.sockets.get(socket)?;
        self.sockets.iter().position(|other| {
            other.is_ipv4() == asked.is_ipv4()
                && (other.ip() != asked.ip()) == change.ip
                && (other.port() != asked.port()) == change.port
        })
    }

    /// The address with both another IP and another port, if all four combinations are ours
    /// (RFC 5780 §6).
    fn other_address(&self, socket: usize) -> Option<SocketAddr> {
        let both = self.socket_for(socket, ChangeRequest { ip: true, port: true })?;
        self.socket_for(socket, ChangeRequest { ip: true, port: false })?;
        self.socket_for(socket, ChangeRequest { ip: false, port: true })?;
        self.sockets.get(both).copied()
    }
}
