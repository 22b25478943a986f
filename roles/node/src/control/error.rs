use std::io;

use thiserror::Error;
use warren_proto::{ErrorCode, Problem};

use super::url::BrokerUrlError;
use crate::local::{FailureCode, HealthCode};

/// The broker could not be asked, or said no.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    #[error(transparent)]
    Url(#[from] BrokerUrlError),
    #[error("the broker's name {host} doesn't resolve: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("can't connect to the broker at {authority}: {source}")]
    Connect { authority: String, source: io::Error },
    #[error(
        "the broker at {authority} shows another certificate than the join link promised: somebody may be in between, or the broker was set up anew; ask its operator for a new link"
    )]
    WrongPin { authority: String },
    #[error("the TLS connection to {authority} failed: {reason}")]
    Tls { authority: String, reason: String },
    #[error("the connection to the broker broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("{}", .0.title)]
    Refused(Problem),
    #[error("the broker's answer makes no sense: {0}")]
    Protocol(String),
    #[error("the broker did not answer in {0} s")]
    Timeout(u64),
    #[error("the broker's stream has been silent for {0} s")]
    Silent(u64),
    #[error("the broker ended the session")]
    Ended,
    #[error("the network changed")]
    NetworkChanged,
}

impl ControlError {
    /// The broker's word that this membership is over.
    pub(crate) fn is_revoked(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.code == ErrorCode::Revoked)
    }

    /// Whether trying again can't help: the answer is about the request, not the moment.
    pub(crate) fn is_definitive(&self) -> bool {
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
                | ErrorCode::Conflict => true,
                ErrorCode::ProofFailed
                | ErrorCode::RateLimited
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

    /// How the local socket names this failure.
    pub(crate) fn failure(&self) -> FailureCode {
        match self {
            Self::WrongPin { .. } => FailureCode::WrongPin,
            Self::Refused(_) | Self::Url(_) => FailureCode::JoinRefused,
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Http(_)
            | Self::Protocol(_)
            | Self::Timeout(_)
            | Self::Silent(_)
            | Self::Ended
            | Self::NetworkChanged => FailureCode::BrokerAway,
        }
    }

    /// How `health` names this failure of a session.
    pub(crate) fn health(&self) -> HealthCode {
        match self {
            Self::WrongPin { .. } => HealthCode::WrongPin,
            Self::Refused(problem) if problem.code == ErrorCode::UpgradeRequired => {
                HealthCode::UpgradeRequired
            }
            Self::Refused(_)
            | Self::Url(_)
            | Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Http(_)
            | Self::Protocol(_)
            | Self::Timeout(_)
            | Self::Silent(_)
            | Self::Ended
            | Self::NetworkChanged => HealthCode::BrokerAway,
        }
    }
}
