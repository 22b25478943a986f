//! What a request says, and how it is signed (RFC 8489 §9.2.3).

use super::transaction::Request;
use super::{Client, Config, Credential};
use crate::codec::{
    AttributeType, Builder, Class, Message, Method, PasswordAlgorithm, TransactionId, UDP_TRANSPORT,
};
use crate::credential::{
    IntegrityKind, LongTermKey, MessageKey, PASSWORD_ALGORITHMS, nonce_has_password_algorithms,
};

/// What the server has told, or what is known of it before, that a signed request needs.
#[derive(Debug, Clone)]
pub(super) struct Auth {
    pub(super) realm: Vec<u8>,
    pub(super) nonce: Vec<u8>,
    /// PASSWORD-ALGORITHMS as the server sent it.
    algorithms: Option<Vec<u8>>,
    algorithm: PasswordAlgorithm,
    key: MessageKey,
}

impl Auth {
    /// Where realm and nonce are known before anything was asked. A server with virtual addresses
    /// is one of ours, whose password algorithms are known too.
    pub(super) fn known(config: &Config) -> Option<Self> {
        let realm = config.credential.realm.as_ref()?.as_bytes();
        let nonce = config.credential.nonce.as_ref()?.as_bytes();
        let algorithms = config.virtual_address.then_some(PASSWORD_ALGORITHMS.as_slice());
        Some(Self::new(&config.credential, realm, nonce, algorithms))
    }

    /// What a 401 or 438 says; `None` when it lacks realm or nonce.
    pub(super) fn told(
        credential: &Credential,
        message: &Message<'_>,
        before: Option<&Self>,
    ) -> Option<Self> {
        let nonce = message.nonce()?;
        let realm = message.realm().or(before.map(|before| before.realm.as_slice()))?;
        let algorithms = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
        Some(Self::new(credential, realm, nonce, algorithms))
    }

    fn new(credential: &Credential, realm: &[u8], nonce: &[u8], algorithms: Option<&[u8]>) -> Self {
        // Without the mark in the nonce somebody on the way may have put the algorithms there.
        let algorithms = algorithms.filter(|_| nonce_has_password_algorithms(nonce));
        let offers = |algorithm: PasswordAlgorithm| {
            algorithms.is_some_and(|list| list.chunks(4).any(|one| one == algorithm.encode()))
        };
        let algorithm = if offers(PasswordAlgorithm::Sha256) {
            PasswordAlgorithm::Sha256
        } else {
            PasswordAlgorithm::Md5
        };
        // RFC 8489 §9.2.5: who sends PASSWORD-ALGORITHMS is answered with SHA-256 alone.
        let kind = if algorithms.is_some() { IntegrityKind::Sha256 } else { IntegrityKind::Sha1 };
        let (username, password) = (credential.username.as_bytes(), credential.password.as_bytes());
        let key = LongTermKey::new(algorithm, username, realm, password);
        Self {
            realm: realm.to_vec(),
            nonce: nonce.to_vec(),
            algorithms: algorithms.map(<[u8]>::to_vec),
            algorithm,
            key: MessageKey::new(&key, kind),
        }
    }

    fn sign(&self, username: &str, builder: &mut Builder<'_>) {
        builder.username(username.as_bytes()).realm(&self.realm).nonce(&self.nonce);
        if let Some(algorithms) = &self.algorithms {
            builder
                .attribute(AttributeType::PASSWORD_ALGORITHMS, algorithms)
                .password_algorithm(self.algorithm);
        }
        self.key.sign(builder);
    }
}

impl Client {
    /// Writes a request, and says what its answer is to be signed with.
    pub(super) fn compose(
        &self,
        request: Request,
        id: TransactionId,
    ) -> (Vec<u8>, Option<MessageKey>) {
        let method = match request {
            Request::Allocate => Method::ALLOCATE,
            Request::Clear | Request::Refresh | Request::Remove => Method::REFRESH,
            Request::ChannelBind(_) => Method::CHANNEL_BIND,
            Request::CreatePermission(_) => Method::CREATE_PERMISSION,
            Request::Binding => Method::BINDING,
        };
        let mut contents = Vec::with_capacity(256);
        let mut builder = Builder::new(&mut contents, Class::Request, method, id);
        self.describe(request, &mut builder);
        let auth = self.auth.as_ref().filter(|_| request != Request::Binding);
        if let Some(auth) = auth {
            auth.sign(&self.config.credential.username, &mut builder);
        }
        builder.fingerprint();
        (contents, auth.map(|auth| auth.key.clone()))
    }

    fn describe(&self, request: Request, builder: &mut Builder<'_>) {
        match request {
            Request::Allocate => {
                builder.requested_transport(UDP_TRANSPORT);
                builder.requested_address_family(self.config.family);
                if self.config.virtual_address {
                    builder.virtual_address();
                }
                self.describe_lifetime(builder);
            }
            Request::Refresh => self.describe_lifetime(builder),
            Request::Clear | Request::Remove => {
                builder.lifetime(0);
            }
            Request::ChannelBind(peer) => {
                if let Some(number) = self.channels.number(peer) {
                    builder.channel_number(number);
                }
                builder.xor_peer_address(peer);
            }
            Request::CreatePermission(ip) => {
                builder.xor_peer_address((ip, 0).into());
            }
            Request::Binding => {}
        }
    }

    fn describe_lifetime(&self, builder: &mut Builder<'_>) {
        if let Some(lifetime) = self.config.lifetime {
            builder.lifetime(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX));
        }
    }
}
