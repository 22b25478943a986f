use std::io;

use thiserror::Error;
use warren_proto::{ErrorCode, Problem};

use crate::url::BrokerUrlError;

/// The broker could not be asked, or said no.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The URL can't be used.
    #[error(transparent)]
    Url(#[from] BrokerUrlError),
    /// The broker's name doesn't resolve.
    #[error("the broker's name {host} doesn't resolve: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("can't connect to the broker at {authority}: {source}")]
    Connect {
        /// `HOST:PORT`.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another key than the pinned one.
    #[error(
        "the broker at {authority} shows another certificate than the join link promised: somebody may be in between, or the broker was set up anew; ask its operator for a new link"
    )]
    WrongPin {
        /// `HOST:PORT`.
        authority: String,
    },
    /// The TLS handshake failed.
    #[error("the TLS connection to {authority} failed: {reason}")]
    Tls {
        /// `HOST:PORT`.
        authority: String,
        /// Why.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection to the broker broke: {0}")]
    Http(#[from] hyper::Error),
    /// The broker said no.
    #[error("{}", .0.title)]
    Refused(Problem),
    /// The answer can't be understood.
    #[error("the broker's answer makes no sense: {0}")]
    Protocol(String),
    /// No answer in so many seconds.
    #[error("the broker did not answer in {0} s")]
    Timeout(u64),
    /// Nothing on the stream for so many seconds.
    #[error("the broker's stream has been silent for {0} s")]
    Silent(u64),
    /// The broker ended the stream.
    #[error("the broker ended the session")]
    Ended,
    /// The host's network changed under the connection.
    #[error("the network changed")]
    NetworkChanged,
}

impl ControlError {
    /// The broker's word that this membership is over.
    pub fn is_revoked(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.code == ErrorCode::Revoked)
    }

    /// Whether trying again can't help: the answer is about the request, not the moment.
    pub fn is_definitive(&self) -> bool {
        match self {
            Self::Url(_) | Self::WrongPin { .. } => true,
            Self::Refused(problem) => match problem.code {
                ErrorCode::JoinKeyUnknown
                | ErrorCode::JoinKeyUsed
                | ErrorCode::JoinKeyExpired
                | ErrorCode::Revoked
                | ErrorCode::UpgradeRequired
                | ErrorCode::AccountFull
                | ErrorCode::Invalid
                | ErrorCode::NotFound
                | ErrorCode::WrongScope
                | ErrorCode::SignInRequired
                | ErrorCode::SignInFailed
                | ErrorCode::Forbidden
                | ErrorCode::LinkInvalid
                | ErrorCode::Conflict => true,
                ErrorCode::ProofFailed
                | ErrorCode::RateLimited
                | ErrorCode::Suspended
                | ErrorCode::Unavailable
                | ErrorCode::Other => false,
            },
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Http(_)
            | Self::Protocol(_)
            | Self::Timeout(_)
            | Self::Silent(_)
            | Self::Ended
            | Self::NetworkChanged => false,
        }
    }
}
